"""The numbers that people will trust, against worked examples."""

import math

from support import metrics

import numpy as np
import pytest


def test_wilson_interval_is_that_of_the_literature():
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81 of 263 and 15 of 148."""
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    low, high = metrics.wilson_interval(20, 20)
    assert (low, high) == (pytest.approx(0.8389, abs=5e-5), 1.0)
    assert metrics.wilson_interval(0, 60)[0] == 0.0


@pytest.mark.parametrize("number", [1, 7, 194, 10_000])
def test_the_interval_holds_its_share_at_the_ends_too(number):
    for hits in (0, 1, number - 1, number):
        low, high = metrics.wilson_interval(hits, number)
        assert 0 <= low <= hits / number <= high <= 1


def test_mcnemar_is_exact():
    """The two-sided sign test: 2 * (C(10, 0) + C(10, 1) + C(10, 2)) / 2^10 for a split of 2 and 8."""
    assert metrics.mcnemar_exact(2, 8) == metrics.mcnemar_exact(8, 2) == pytest.approx(112 / 1024)
    assert metrics.mcnemar_exact(0, 5) == pytest.approx(2 / 32)
    assert metrics.mcnemar_exact(5, 5) == metrics.mcnemar_exact(0, 0) == 1.0
    assert metrics.mcnemar_exact(400, 600) == pytest.approx(2 * sum(math.comb(1000, k) for k in range(401)) / 2**1000)


def test_pairs_are_images_and_not_seeds():
    first, second = np.zeros(1000, int), np.zeros(1000, int)
    first[:60], second[40:80] = 1, 1  # 40 images for which only the first is wrong, 20 for the second, 20 for both
    assert metrics.paired_p(first, second) == pytest.approx(0.00982, abs=1e-5)  # z = 20 / sqrt(60) = 2.582
    assert metrics.paired_p(second, first) == metrics.paired_p(first, second)
    five_alike = metrics.paired_p(5 * first, 5 * second)  # five seeds alike are no five draws
    assert five_alike == pytest.approx(metrics.paired_p(first, second))
    assert metrics.paired_p(first, first) == 1


def test_confusions_are_counted_by_label_and_answer():
    counts = metrics.confusion_counts(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 0, 2]), 4)
    assert counts.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]


def test_nll_is_the_mean_surprise():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32))
    assert metrics.nll(np.array([0, 2]), logits) == pytest.approx((math.log(2) + math.log(10)) / 2, rel=1e-6)


def test_ece_weighs_the_gap_of_each_bin():
    """Four images at confidence 0.9, three of them right, and one at 0.6, wrong: (4 * 0.15 + 1 * 0.6) / 5."""
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.6])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=-1)).astype(np.float32)
    assert metrics.ece(np.array([0, 0, 0, 1, 1]), logits) == pytest.approx(0.24, abs=1e-6)
    certain = np.array([[200.0, 0.0]] * 4, np.float32)
    assert metrics.ece(np.array([0, 0, 0, 1]), certain) == pytest.approx(0.25)


def test_empty_bins_do_not_count_and_full_ones_say_what_they_hold():
    """Confidences 0.9 and 0.6 fall into the 14th and the 9th of 15 bins."""
    confidence = np.array([0.9, 0.9, 0.6])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=-1))
    images, accuracy, mean_confidence = metrics.reliability(np.array([0, 1, 0]), logits)
    assert images.tolist() == [0] * 8 + [1] + [0] * 4 + [2, 0]
    assert (accuracy[8], accuracy[13]) == (1.0, 0.5)
    assert (mean_confidence[8], mean_confidence[13]) == (pytest.approx(0.6), pytest.approx(0.9))
    assert np.isnan(accuracy[images == 0]).all()
    too_sure_and_too_shy = 2 * 0.4 + 0.4
    assert metrics.ece(np.array([0, 1, 0]), logits) == pytest.approx(too_sure_and_too_shy / 3)


def test_kl_is_that_of_two_coins():
    """KL of a fair coin from one of 1 in 4: 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75)."""
    fair, biased = np.log(np.array([[0.5, 0.5]])), np.log(np.array([[0.25, 0.75]]))
    assert metrics.kl(fair, biased) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert metrics.kl(biased, biased + 7) == pytest.approx(0, abs=1e-12)
    huge = np.array([[1e6, 0.0, -1e6]], np.float32)
    assert math.isfinite(metrics.kl(huge, -huge))


def test_the_best_temperature_makes_confidence_the_accuracy():
    """Three of four right, all at a gap of 4: their probability is 3/4 at T = 4 / ln 3."""
    labels, logits = np.array([0, 0, 0, 1]), np.array([[4.0, 0.0]] * 4, np.float32)
    best = metrics.best_temperature(labels, logits)
    assert best == pytest.approx(4 / math.log(3), rel=1e-3)
    assert metrics.ece(labels, logits / best) == pytest.approx(0, abs=1e-3)
    all_right = np.zeros(4, int)
    assert metrics.nll(all_right, logits / metrics.best_temperature(all_right, logits)) < 1e-12
    assert metrics.best_temperature(np.ones(4, int), logits) == pytest.approx(20, rel=1e-3)
