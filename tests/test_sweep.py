"""A grid of students that is finished in the end, however often it is stopped."""

import contextlib
import functools
import io
import json
import shutil
import sys
from dataclasses import replace

from support import files, inference, model_files, terminal

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import same_weights

import distill
import student
import teacher
import teachers
from tools import sweep

GRID = ["--temperatures", "1", "4", "--alphas", "0.5", "1", "--seeds", "2"]
SMALL_STUDENT = ["--hidden", "8", "--epochs", "1", "--batch-size", "20"]


@pytest.fixture(scope="module", autouse=True)
def eager_module():
    """The fixture `eager` for all tests of this file, and for `whole`."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def run(data_file, out, *options):
    """What sweep.py prints."""
    command = ["sweep.py", "--data", data_file, "--out", out, "--workers", "1", *GRID, *SMALL_STUDENT, *options]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as stdout:
        patch.setattr(sys, "argv", [*map(str, command)])
        terminal.run(sweep.main)
    return stdout.getvalue()


@pytest.fixture(scope="module")
def whole(tiny, digits, tmp_path_factory):
    """A folder with a teacher and a sweep of 8 students that was not stopped; and what that printed."""
    out = tmp_path_factory.mktemp("whole")
    keras.utils.set_random_seed(3)
    net = teacher.build_teacher((12, 10), 3, teacher.TeacherRecipe(hidden=(16,)))
    model_files.save(net, out / "teacher.keras", {"data": files.fingerprint(*digits.train)}, [])
    return out, run(tiny, out)


def test_a_sweep_that_was_stopped_ends_like_one_that_was_not(whole, tiny, tmp_path, monkeypatch):
    shutil.copy(whole[0] / "teacher.keras", tmp_path)
    train, started = sweep.train, []

    def stop_after_three(*arguments):
        if len(started) == 3:
            raise KeyboardInterrupt
        started.append(arguments)
        return train(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep, "train", stop_after_three)
        run(tiny, tmp_path)
    saved = sorted((tmp_path / "sweep").glob("*.keras"))
    saved[1].write_bytes(saved[1].read_bytes()[:-900])  # and one is damaged
    assert "2 of 8 students are there already" in run(tiny, tmp_path)
    assert (tmp_path / "sweep.json").read_text() == (whole[0] / "sweep.json").read_text()
    assert "8 of 8 students are there already" in run(tiny, tmp_path)


def test_other_settings_or_validation_labels_are_another_sweep(whole, tiny, digits, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "out")
    one_of_each_seed = ["--temperatures", "4", "--alphas", "1"]
    assert "2 of 2 students are there already" in run(tiny, out, *one_of_each_seed)
    assert "there already" not in run(tiny, out, *one_of_each_seed, "--learning-rate", "0.02")
    parts = {"train": digits.train, "val": digits.validation, "test": digits.test}
    arrays = {f"{letter}_{part}": array for part, split in parts.items() for letter, array in zip("xy", split)}
    arrays["y_val"] = arrays["y_val"][::-1]  # the training images are the same
    np.savez(tmp_path / "other.npz", **arrays)
    assert "there already" not in run(tmp_path / "other.npz", out, *one_of_each_seed, "--learning-rate", "0.02")


def test_it_chooses_on_validation_images_and_opens_the_test_set_for_the_chosen(whole, digits):
    out, printed = whole
    report = json.loads((out / "sweep.json").read_text())
    chosen = report["chosen"]
    assert len(report["runs"]) == 8
    errors = {}
    for row in report["runs"]:
        temperature, alpha = row["temperature"], row["alpha"]
        errors.setdefault((temperature, alpha), []).append(row["validation_errors"])
        net = model_files.load(out / "sweep" / f"T{temperature}_alpha{alpha}_seed{row['seed']}.keras", (12, 10), 3)
        assert inference.count_errors(net, digits.validation) == row["validation_errors"]
    assert min(errors, key=lambda pair: np.mean(errors[pair])) == (chosen["temperature"], chosen["alpha"])
    assert len(chosen["test_errors"]) == 2
    assert printed.count("test errors") == 1
    assert (out / "plots" / "sweep.png").exists()


@pytest.mark.parametrize(("temperature", "alpha", "seed"), [(4.0, 0.5, 1), (1.0, 1.0, 0)])
def test_its_students_are_those_of_distill(whole, digits, temperature, alpha, seed):
    out, _ = whole
    path = out / "sweep" / f"T{temperature}_alpha{alpha}_seed{seed}.keras"
    logits = teachers.teacher_logits(model_files.load(out / "teacher.keras", (12, 10), 3), digits.train.images)
    loss = functools.partial(distill.distillation_loss, temperature=temperature, alpha=alpha)
    recipe = replace(student.StudentRecipe.of(model_files.load_training(path)[0]), seed=seed)
    alike, _ = student.train_student(digits, recipe, loss, logits)
    assert same_weights(model_files.load(path, (12, 10), 3), alike)


def test_without_validation_images_it_cannot_choose(refusal, tiny, tmp_path):
    status, line = refusal(sweep.main, "--data", tiny, "--out", tmp_path, "--validation", "0")
    assert (status, "no validation images to choose on" in line) == (1, True)
    status, line = refusal(sweep.main, "--seed", 2**32 - 1)
    assert (status, "leaves no 3 seeds" in line) == (2, True)
