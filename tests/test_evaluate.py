"""The numbers that people will trust, against worked examples."""

import json
import math

import numpy as np
import pytest

import evaluate


def test_wilson_interval_is_that_of_the_literature():
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3: 81 of 263 and 15 of 148."""
    assert evaluate.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert evaluate.wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    low, high = evaluate.wilson_interval(20, 20)
    assert (low, high) == (pytest.approx(0.8389, abs=5e-5), 1.0)
    assert evaluate.wilson_interval(0, 60)[0] == 0.0


def test_mcnemar_is_exact():
    """The two-sided sign test: 2 * (C(10, 0) + C(10, 1) + C(10, 2)) / 2^10 for a split of 2 and 8."""
    assert evaluate.mcnemar_exact(2, 8) == evaluate.mcnemar_exact(8, 2) == pytest.approx(112 / 1024)
    assert evaluate.mcnemar_exact(0, 5) == pytest.approx(2 / 32)
    assert evaluate.mcnemar_exact(5, 5) == evaluate.mcnemar_exact(0, 0) == 1.0
    assert evaluate.mcnemar_exact(400, 600) == pytest.approx(2 * sum(math.comb(1000, k) for k in range(401)) / 2**1000)


def test_nll_is_the_mean_surprise():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32))
    assert evaluate.nll(np.array([0, 2]), logits) == pytest.approx((math.log(2) + math.log(10)) / 2, rel=1e-6)


def test_ece_weighs_the_gap_of_each_bin():
    """Four images at confidence 0.9, three of them right, and one at 0.6, wrong: (4 * 0.15 + 1 * 0.6) / 5."""
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.6])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=-1)).astype(np.float32)
    assert evaluate.ece(np.array([0, 0, 0, 1, 1]), logits) == pytest.approx(0.24, abs=1e-6)
    certain = np.array([[200.0, 0.0]] * 4, np.float32)
    assert evaluate.ece(np.array([0, 0, 0, 1]), certain) == pytest.approx(0.25)


def test_measure_counts_errors_per_class_and_agreement():
    labels = np.array([0, 0, 1, 2])
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 0]] * 5
    row = evaluate.measure(logits, labels, teacher_classes=np.array([0, 1, 2, 2]))
    assert row["test_errors"] == 2
    assert row["accuracy"] == 0.5
    assert row["agreement"] == 0.5
    assert row["errors_per_class"] == [1, 0, 1]
    assert evaluate.measure(logits, labels, None)["agreement"] is None
    assert json.loads(json.dumps(row)) == row


def test_compare_sorts_images_by_which_model_is_right():
    labels = np.zeros(10, int)
    first = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    second = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 1])
    assert evaluate.compare(labels, first, second) == {
        "both_right": 3,
        "only_first_right": 1,
        "only_second_right": 2,
        "both_wrong": 4,
        "errors_saved_by_second": 1,
        "mcnemar_p": 1.0,
    }


def test_models_are_found_in_the_order_of_the_story_without_scratch_files(tmp_path):
    for name in ("distilled", "another", "student", ".student.partial", "teacher"):
        (tmp_path / f"{name}.keras").touch()
    assert list(evaluate.find_models([], tmp_path)) == ["teacher", "student", "distilled", "another"]
    same_stem = [tmp_path / "a" / "net.keras", tmp_path / "b" / "net.keras"]
    assert list(evaluate.find_models(same_stem, tmp_path)) == list(map(str, same_stem))


def test_no_models_is_said_in_a_line(refusal, tmp_path, tiny):
    status, line = refusal(evaluate.main, "--data", tiny, "--out", tmp_path)
    assert (status, "run `python teacher.py` and `python distill.py` first" in line) == (1, True)
    status, line = refusal(evaluate.main, "--min-accuracy", "97")
    assert (status, "97 is not from 0 to 1" in line) == (2, True)
