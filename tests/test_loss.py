"""The mathematics of distillation, against NumPy in float64."""

import functools

from support import UserError, training

import keras
import numpy as np
import pytest
import tensorflow as tf

import distill

pytestmark = pytest.mark.quick

LABELS = np.array([0, 3, 9, 4, 4, 1], np.int32)


def logits(seed, scale=4.0):
    return np.random.default_rng(seed).normal(scale=scale, size=(len(LABELS), 10)).astype(np.float32)


def log_softmax(values):
    values = values - values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def reference(labels, teacher, student, temperature, alpha):
    """The formula in README and in the docstring, term by term, in float64."""
    teacher, student = teacher.astype(np.float64), student.astype(np.float64)
    teacher_log, student_log = log_softmax(teacher / temperature), log_softmax(student / temperature)
    kl = (np.exp(teacher_log) * (teacher_log - student_log)).sum(-1)
    cross_entropy = -log_softmax(student)[np.arange(len(labels)), labels]
    return alpha * temperature**2 * kl + (1 - alpha) * cross_entropy


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_loss_is_the_formula(temperature, alpha):
    loss = distill.distillation_loss(LABELS, logits(1), logits(2), temperature, alpha)
    assert loss.shape == LABELS.shape
    np.testing.assert_allclose(loss, reference(LABELS, logits(1), logits(2), temperature, alpha), rtol=1e-4, atol=1e-4)


def test_soft_targets_are_probabilities_softened_by_the_temperature():
    targets = distill.soft_targets(logits(1), 4.0).numpy()
    np.testing.assert_allclose(targets, np.exp(log_softmax(logits(1).astype(np.float64) / 4)), rtol=1e-5)


def test_equal_logits_cost_nothing_at_alpha_1():
    loss = distill.distillation_loss(LABELS, logits(1), logits(1), 4.0, 1.0)
    np.testing.assert_array_equal(loss, 0)


def test_alpha_0_is_keras_cross_entropy_exactly():
    expected = keras.losses.sparse_categorical_crossentropy(LABELS, logits(2), from_logits=True)
    np.testing.assert_array_equal(distill.distillation_loss(LABELS, logits(1), logits(2), 4.0, 0.0), expected)


def test_a_constant_added_to_logits_changes_nothing():
    teacher, student = logits(1), logits(2)
    plain = distill.distillation_loss(LABELS, teacher, student, 4.0, 0.9)
    np.testing.assert_allclose(distill.distillation_loss(LABELS, teacher + 8, student, 4.0, 0.9), plain, rtol=1e-4)
    np.testing.assert_allclose(distill.distillation_loss(LABELS, teacher, student - 8, 4.0, 0.9), plain, rtol=1e-4)


def test_high_temperature_limit_is_half_the_mean_squared_difference_of_centred_logits():
    """Section 2.1 of the paper. At T = 100, what the limit leaves out is of order 1 / T, and rounding of 1e-7 * T^2."""
    teacher, student = logits(1, scale=1.0), logits(2, scale=1.0)
    difference = teacher - student
    limit = 0.5 * np.mean((difference - difference.mean(-1, keepdims=True)) ** 2, axis=-1)
    loss = distill.distillation_loss(LABELS, teacher, student, 100.0, 1.0)
    np.testing.assert_allclose(loss, limit, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
def test_gradient_is_that_of_finite_differences(alpha):
    student, step = logits(2), 1e-5
    with tf.GradientTape() as tape:
        variable = tf.Variable(student)
        loss = tf.reduce_sum(distill.distillation_loss(LABELS, logits(1), variable, 4.0, alpha))
    gradient = tape.gradient(loss, variable).numpy()
    for example, unit in [(0, 0), (1, 3), (3, 9), (5, 2)]:
        moved = np.zeros(student.shape)
        moved[example, unit] = step
        up, down = (reference(LABELS, logits(1), student.astype(float) + d, 4.0, alpha).sum() for d in (moved, -moved))
        assert gradient[example, unit] == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-5)


def test_soft_gradient_vanishes_where_the_student_agrees():
    """The gradient of the soft term is T * (student_T - teacher_T): zero where they agree, whatever the labels."""
    variable = tf.Variable(logits(1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(distill.distillation_loss(LABELS, logits(1), variable, 4.0, 1.0))
    np.testing.assert_allclose(tape.gradient(loss, variable), 0, atol=1e-5)


def test_smoothed_labels_are_spread_over_the_classes_in_every_loss():
    targets = 0.9 * np.eye(10)[LABELS] + 0.1 / 10
    expected = -(targets * log_softmax(logits(2).astype(np.float64))).sum(-1)
    np.testing.assert_allclose(training.cross_entropy(LABELS, None, logits(2), 0.1), expected, rtol=1e-5)
    np.testing.assert_allclose(
        distill.distillation_loss(LABELS, logits(1), logits(2), 4.0, 0.0, 0.1), expected, rtol=1e-5
    )


def test_an_unlabelled_example_has_the_teachers_part_only():
    unlabelled = np.full_like(LABELS, -1)
    both, soft = (distill.distillation_loss(unlabelled, logits(1), logits(2), 4.0, alpha) for alpha in (0.3, 1.0))
    np.testing.assert_allclose(both, 0.3 * soft, rtol=1e-6)
    np.testing.assert_array_equal(training.cross_entropy(unlabelled, None, logits(2), 0.1), 0)


def test_a_loss_gets_its_settings_from_the_recipe_by_name():
    def loss(labels, teacher_logits, logits, alpha, not_a_setting=2.0, temperature=1.0):
        return alpha, not_a_setting, temperature

    recipe = distill.DistillRecipe(alpha=0.7, temperature=5.0)
    assert training.with_settings(loss, recipe)(0, 0, 0) == (0.7, 2.0, 5.0)
    bound = functools.partial(loss, temperature=9.0)
    assert training.with_settings(bound, recipe)(0, 0, 0) == (0.7, 2.0, 9.0)
    with pytest.raises(UserError, match="the loss has no argument label_smoothing"):  # but the baseline's has
        training.with_settings(loss, distill.DistillRecipe(label_smoothing=0.1))
