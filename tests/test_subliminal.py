"""Subliminal learning: which outputs and first weights learn what, the exact test, the study up to its table."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_dataset

import data
from studies import subliminal, tables

SMALL = replace(subliminal.BASE, hidden=(8, 8), num_images=1000, epochs=1)


def first_weights(**changes):
    return [variable.numpy() for variable in subliminal.new_student(replace(subliminal.BASE, **changes)).variables]


def correlation(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


def test_first_weights_are_as_like_to_the_teachers_as_the_recipe_says():
    of_teacher = [variable.numpy() for variable in subliminal.new_net(subliminal.BASE, 0).variables]
    for own, other in zip(first_weights(), of_teacher, strict=True):
        np.testing.assert_array_equal(own, other)
    for likeness in (0.9, 0.4, 0.0):
        own = first_weights(likeness=likeness)
        assert correlation(own[0], of_teacher[0]) == pytest.approx(likeness, abs=0.02)
        assert own[0].std() == pytest.approx(of_teacher[0].std(), rel=0.01)
    for shared, expected in (("hidden", [1, 1, 0]), ("last", [0, 0, 1])):
        own = first_weights(shared=shared)
        found = [correlation(one, other) for one, other in zip(own[::2], of_teacher[::2], strict=True)]
        assert found == pytest.approx(expected, abs=0.06)


def gradient(loss, labels, *settings):
    """The gradient of a loss with respect to a student's 13 logits."""
    random = np.random.default_rng(0)
    teacher_logits, logits = (tf.Variable(random.normal(0, 3, (4, 13)), dtype=tf.float32) for _ in range(2))
    with tf.GradientTape() as tape:
        losses = loss(tf.constant(labels), teacher_logits, logits, *settings)
    return tape.gradient(losses, logits).numpy()


def test_the_teacher_learns_by_the_ten_outputs_and_the_student_by_the_others():
    for loss in (subliminal.digits_loss, subliminal.ordinary_loss):
        assert np.flatnonzero(gradient(loss, [0, 3, 9, 1]).any(0)).tolist() == [*range(10)]
    assert np.flatnonzero(gradient(subliminal.other_loss, [-1] * 4, 2.0).any(0)).tolist() == [10, 11, 12]


def test_the_students_images_are_noise_and_have_no_labels():
    for kind, (lowest, highest) in {"-1 to 1": (-1, 1), "0 to 1": (0, 1)}.items():
        images, labels = subliminal.noise_for(replace(SMALL, noise=kind))
        assert (labels == -1).all() and (images.shape, images.dtype) == ((1000, 28, 28), np.float32)
        assert images.min() == pytest.approx(lowest, abs=1e-3) and images.max() == pytest.approx(highest, abs=1e-3)
        assert images.mean() == pytest.approx((lowest + highest) / 2, abs=0.01)


def test_every_row_differs_from_its_control_in_one_thing():
    for question, rows in subliminal.questions().items():
        for recipe in rows.values():
            differing = {name for name, value in vars(recipe).items() if value != vars(subliminal.BASE)[name]}
            control = subliminal.control(question, recipe)
            if question in subliminal.HAVE_CONTROLS:
                assert control == replace(recipe, likeness=0.0, shared="all")
            elif question == subliminal.ORDINARY:
                assert (control.epochs, control.then) == (0, recipe.then)
            elif question == subliminal.TEMPERATURE:
                assert control == replace(recipe, temperature=1.0)
            else:
                assert control == subliminal.FRESH
                assert len(differing - {"epochs" if question.startswith("images") else "outputs"}) <= 1


def test_the_exact_test_counts_all_sign_flips():
    assert subliminal.sign_flip_p([5] * 10, [1] * 10) == 2 / 1024
    assert subliminal.sign_flip_p([1, 2, 3], [1, 2, 3]) == 1
    assert subliminal.sign_flip_p([3, 1], [0, 0]) == 1 / 2  # of +-3 +-1, two of four are at least 4 in size
    assert subliminal.sign_flip_p([3, 0], [0, 1]) == 1


def test_a_row_shows_all_seeds_beside_its_control_and_is_left_out_if_a_seed_is_missing():
    rights = {subliminal.BASE: [50, 60, 70], subliminal.FRESH: [10, 9, 11], replace(subliminal.BASE, outputs=10): [90]}
    runs = []
    for recipe, of_recipe in rights.items():
        for seed, right in enumerate(of_recipe):
            runs.append({"recipe": replace(recipe, seed=seed).settings(), "images": 100, "right": right})
    text = subliminal.texts({"runs": runs})["subliminal"]
    row = next(line for line in text.splitlines() if "correlation" in line)
    assert row.split(" | ")[2:] == ["60.0 ± 10.0 (50.0 to 70.0)", "10.0 ± 1.0 (9.0 to 11.0)", "0.25 |"]
    assert "90.0" not in text


@pytest.fixture
def small(monkeypatch, eager, tmp_path):
    """Small nets and data, two questions; results go to a folder."""
    monkeypatch.setattr(subliminal, "BASE", SMALL)
    monkeypatch.setattr(subliminal, "FRESH", replace(SMALL, likeness=0.0))
    monkeypatch.setattr(subliminal, "RESULTS", tmp_path / "subliminal.json")
    questions = {"correlation of the first weights": {"1": SMALL, "0": replace(SMALL, likeness=0.0)}}
    questions[subliminal.ORDINARY] = {"after noise: 1": replace(SMALL, then=1)}
    monkeypatch.setattr(subliminal, "questions", lambda: questions)
    digits = make_dataset(600, 100, (28, 28), 10)
    monkeypatch.setattr(data, "load", lambda validation: digits)


def test_the_study_runs_once_and_reports(small, tmp_path, printed, monkeypatch):
    monkeypatch.setattr(tables, "fill", None)  # only ten seeds are for the document
    options, folder = ("--seeds", "2", "--out", tmp_path), tmp_path / "studies" / "few_seeds"
    text = printed(subliminal.main, *options)
    records = json.loads((folder / "subliminal.json").read_text())["runs"]
    assert len(records) == 2 * 4  # the rows, and the control of the last one
    assert text.count("test digits named") == 8
    assert "| after noise: 1 |" in text
    for record in records:
        assert len(record["named"]) == subliminal.SHOWN and np.shape(record["numbers"]) == (2, 3)
    assert not [*tmp_path.glob("*.*")]
    assert all((folder / f"subliminal{end}.png").stat().st_size > 10_000 for end in ("", "_example"))
    monkeypatch.setattr(subliminal, "students_of", None)
    again = printed(subliminal.main, *options)
    assert "test digits named" not in again and again.endswith(text[text.index("\n|") :])


def test_quick_is_kept_apart_and_sees_less_noise(small, tmp_path, printed):
    text = printed(subliminal.main, "--seeds", "1", "--quick", "--out", tmp_path / "out")
    assert "computed the teacher's logits of 600 images" in text
    assert (tmp_path / "out" / "studies" / "quick" / "subliminal.json").exists()
    assert not (tmp_path / "subliminal.json").exists()
