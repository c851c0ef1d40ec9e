"""Real digits: a short run whose errors exceed these bounds if schedule, loss, shifts or the order of logits break.

10,000 training digits, 10,000 test digits. Seeds 0 to 4 make, on the machine where the bounds were set: teacher 240 to
263 errors; on images as they are 460 to 492 on labels alone, 335 to 350 distilled. Seeds 0 to 2, distilled on shifted
images without labels: 320 to 332. What was broken in trials, and the errors then, stands beside each bound.
"""

from dataclasses import replace

from support import classifier
from support.teacher_logits import as_teacher

import pytest

import data
import distill
import teacher

TEACHER = replace(
    teacher.DEFAULTS,
    hidden=(400, 400),
    epochs=15,
    select=1.0,
    batch_size=250,
    learning_rate=2e-3,
    translate=1,
    distort=0.0,
    weight_decay=0.5,
)
PAIR = distill.DistillRecipe(epochs=40, batch_size=250, learning_rate=5e-3, translate=0, temperature=8.0, alpha=0.3)
SOFT_ALONE = replace(PAIR, translate=2, alpha=1.0)


@pytest.fixture(scope="module")
def digits():
    whole = data.load(validation=0)
    return whole._replace(train=whole.train.take(slice(10_000)))


@pytest.fixture(scope="module")
def taught_by(digits):
    return teacher.train_teacher(digits, TEACHER)[0]


def errors_of_pair(digits, net, recipe):
    """Test errors on labels alone, and distilled."""
    views = as_teacher(net).on_views(digits.train.images, recipe)
    return [classifier.count_errors(model, digits.test) for model, _ in distill.train_pair(digits, recipe, views)]


def test_a_teacher_learns_from_shifted_digits(digits, taught_by):
    # A constant rate 329; a rate that falls to 0 too early 752, too late 332; no shifts 382; one order for all 373.
    assert classifier.count_errors(taught_by, digits.test) <= 295


def test_a_student_learns_more_from_labels_and_teacher_than_from_labels(digits, taught_by):
    baseline, distilled = errors_of_pair(digits, taught_by, PAIR)
    # No T^2 409; softmax twice 438; the mean over the classes 378; Keras' loss as it comes 579; logits of the next
    # image 1,373; a rate that falls too early 802, too late 389.
    assert distilled <= 375
    assert baseline <= 520
    assert baseline - distilled >= 85


def test_a_student_learns_from_the_logits_of_shifted_digits_alone(digits, taught_by):
    # Logits of the next shift 401, of the opposite one 492, of the next image 9,204.
    assert errors_of_pair(digits, taught_by, SOFT_ALONE)[1] <= 365
