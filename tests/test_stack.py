"""Students that are trained in one graph come out as alone."""

from dataclasses import replace

from support.stack import Stack

import keras
import numpy as np
import pytest
import tensorflow as tf

import data
import distill
import student

RECIPE = distill.DistillRecipe(hidden=(8, 6), epochs=2, batch_size=20, translate=1)
MIXED = [replace(RECIPE, temperature=t, alpha=a) for t, a in ((2.0, 0.5), (1.0, 0.0), (4.0, 0.9), (0.5, 1.0))]


@pytest.fixture
def batches(digits):
    """Shifted images with a teacher's logits."""
    labels = digits.train.labels
    logits = np.random.default_rng(0).normal(0, 3, (len(labels), 9, 3)).astype(np.float32)
    return data.Batches(digits.train, 20, seed=0, translate=1, teacher_logits=logits)


def train(digits, batches, recipes, cores=1, **options):
    return distill.train_students(digits, recipes, batches, cores, report=lambda *_: None, **options)


def test_a_stack_gives_its_students_logits_and_their_weights_back(digits):
    recipe = replace(RECIPE, crop=1, pool=2, activation="silu")
    students = [student.build_student((12, 10), 3, recipe, seed) for seed in range(3)]
    before = [net.get_weights() for net in students]
    stack, images = Stack(students), digits.train.images[:7] / np.float32(255)
    together = stack(images).numpy()
    assert together.shape == (7, 3, 3)
    np.testing.assert_allclose(together, np.stack([net(images) for net in students], 1), atol=1e-5)
    for net in students:
        net.set_weights([0 * weight for weight in net.get_weights()])
    stack.unstack(students)
    for net, weights in zip(students, before):
        for one, other in zip(net.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(one, other)


def test_students_with_activations_of_tf_nn_are_stacked(digits):
    layers = keras.layers

    def build():
        hidden = [layers.Flatten(), layers.Dense(4, tf.nn.silu), layers.Activation(tf.nn.silu)]
        return keras.Sequential([keras.Input((12, 10)), *hidden, layers.Dense(3, tf.nn.softmax)])

    students, images = [build(), build()], digits.train.images[:7] / np.float32(255)
    np.testing.assert_allclose(Stack(students)(images), np.stack([net(images) for net in students], 1), atol=1e-6)


@pytest.mark.parametrize("cores", [1, 2])
def test_each_student_of_a_stack_comes_out_as_alone(digits, batches, cores):
    recipes = [*MIXED, replace(RECIPE, hidden=(5,)), replace(RECIPE, epochs=1), replace(RECIPE, learning_rate=1e-3)]
    together = train(digits, batches, recipes, cores)
    for recipe, (net, history) in zip(recipes, together):
        ((alone, history_alone),) = train(digits, batches, [recipe])
        for one, other in zip(net.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4)
        np.testing.assert_allclose([row[:3] for row in history], [row[:3] for row in history_alone], rtol=1e-3)


def test_without_a_teacher_they_learn_the_labels(digits):
    untaught = data.Batches(digits.train, 20, seed=0)
    recipe = replace(RECIPE, translate=0)
    for net, _ in train(digits, untaught, [recipe, recipe], is_taught=False):
        alone, _ = student.train_student(digits, recipe, report=lambda *_: None)
        for one, other in zip(net.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4)


def test_a_student_that_diverges_leaves_the_others_alone(digits, batches):
    recipes = [RECIPE, replace(RECIPE, temperature=1e30), replace(RECIPE, temperature=3.0)]
    (one, _), (_, diverged), (other, history) = train(digits, batches, recipes)
    assert not np.isfinite(diverged[-1].loss)
    for recipe, net in ((recipes[0], one), (recipes[2], other)):
        ((alone, _),) = train(digits, batches, [recipe])
        for weight, weight_alone in zip(net.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(weight, weight_alone, atol=2e-4)
    assert np.isfinite(history[-1].loss)


def test_students_that_see_the_same_images_have_the_same_views():
    assert len({distill.views_of(recipe) for recipe in (*MIXED, replace(RECIPE, hidden=(5,), epochs=7))}) == 1
    assert len({distill.views_of(replace(RECIPE, **one)) for one in ({}, {"seed": 1}, {"translate": 0})}) == 3
