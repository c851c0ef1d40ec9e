"""minimal.py is the same method: its loss is distillation_loss, and its nets are as good as distill.distill's."""

import ast

from support import classifier

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

import data
import distill
import minimal
import student


@pytest.mark.quick
def test_it_uses_keras_numpy_and_tensorflow_alone():
    tree = ast.parse((ROOT / "minimal.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"keras", "numpy", "tensorflow"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


@pytest.mark.quick
def test_its_loss_and_gradient_are_those_of_distillation_loss():
    random = np.random.default_rng(0)
    labels, values, gradients = random.integers(10, size=50), [], []
    teacher_logits, logits = random.normal(0, 4, (2, 50, 10)).astype(np.float32)
    settings = {"temperature": minimal.TEMPERATURE, "alpha": minimal.ALPHA}
    for loss, options in ((minimal.distillation_loss, {}), (distill.distillation_loss, settings)):
        with tf.GradientTape() as tape:
            variable = tf.Variable(logits)
            values.append(loss(labels, teacher_logits, variable, **options))
        gradients.append(tape.gradient(values[-1], variable))
    np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_its_student_is_that_of_the_project_and_learns_as_much(capsys):
    """From 2,000 digits, three tenths of their labels wrong, and logits that know better."""
    digits = data.load()
    (images, labels), test = digits.train.take(slice(2000)), digits.test.take(slice(2000))
    random = np.random.default_rng(0)
    taught = (5 * np.eye(10)[labels] + random.normal(0, 1, (2000, 10))).astype(np.float32)
    noisy = np.where(random.random(2000) < 0.3, random.integers(10, size=2000), labels).astype(np.int32)
    ours = student.build_student((28, 28), 10)
    settings = {"temperature": minimal.TEMPERATURE, "alpha": minimal.ALPHA, "epochs": 30}
    distill.distill(ours, taught, images, noisy, **settings, batch_size=minimal.BATCH_SIZE, learning_rate=5e-3)
    theirs, alone = minimal.dense_net(64, 64), minimal.dense_net(64, 64)
    assert [weight.shape for weight in theirs.weights] == [weight.shape for weight in ours.weights]
    unit, test_unit = (part / np.float32(255) for part in (images, test.images))
    minimal.train(theirs, minimal.distillation_loss, unit, noisy, taught)
    minimal.train(alone, minimal.cross_entropy, unit, noisy)
    expected = classifier.count_errors(ours, test)
    # Three seeds: 237, 214, 236 by distill.distill; 236, 213, 221 by minimal.py; 485, 494, 486 on labels alone.
    assert minimal.count_errors(theirs, test_unit, test.labels) == pytest.approx(expected, abs=30)
    assert minimal.count_errors(alone, test_unit, test.labels) > expected + 150
    assert "epoch 30/30" in capsys.readouterr().out
