"""A grid of students that is finished in the end, however often it is stopped."""

import functools
import json
import sys

from support import files, inference, model_files, terminal

import keras
import numpy as np
import pytest

import data
import distill
import student
import teacher
from tools import sweep

GRID = ["--temperatures", "1", "4", "--alphas", "0.5", "1", "--seeds", "2"]
QUICK = ["--hidden", "8", "--epochs", "3", "--batch-size", "20"]


@pytest.fixture
def folder(tiny, tmp_path):
    """Makes folders that hold the same teacher."""
    keras.utils.set_random_seed(3)
    net = teacher.build_teacher((12, 10), 3, teacher.TeacherRecipe(hidden=(16,)))

    settings = {"data": files.fingerprint(*data.load(tiny).train)}

    def make(name):
        (tmp_path / name).mkdir()
        model_files.save(net, tmp_path / name / "teacher.keras", settings, [])
        return tmp_path / name

    return make


@pytest.fixture
def run(tiny, monkeypatch, capsys, eager):
    """run(out, *options) -> what sweep.py printed."""

    def run(out, *options):
        command = ["sweep.py", "--data", str(tiny), "--out", str(out), *GRID, *QUICK]
        monkeypatch.setattr(sys, "argv", [*command, "--workers", "1", *options])
        terminal.run(sweep.main)
        return capsys.readouterr().out

    return run


def test_a_sweep_that_was_stopped_ends_like_one_that_was_not(run, folder, tiny, tmp_path, monkeypatch):
    whole, stopped = folder("whole"), folder("stopped")
    printed = run(whole)
    train, started = sweep.train, []

    def stop_after_three(*arguments):
        if len(started) == 3:
            raise KeyboardInterrupt
        started.append(arguments)
        return train(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep, "train", stop_after_three)
        run(stopped)
    saved = sorted((stopped / "sweep").glob("*.keras"))
    saved[1].write_bytes(saved[1].read_bytes()[:-900])  # and one is damaged
    resumed = run(stopped)
    assert "2 of 8 students are there already" in resumed
    assert (stopped / "sweep.json").read_text() == (whole / "sweep.json").read_text()
    start = printed.index("errors in 20 validation images: mean")
    assert resumed[resumed.index("errors in 20 validation images: mean") :] == printed[start:].replace(
        "whole", "stopped"
    )
    assert "8 of 8 students are there already" in run(stopped)
    assert "there already" not in run(stopped, "--learning-rate", "0.02")  # other settings, other students
    dataset = data.load(tiny)
    parts = {"train": dataset.train, "val": dataset.validation, "test": dataset.test}
    arrays = {f"{letter}_{part}": array for part, split in parts.items() for letter, array in zip("xy", split)}
    arrays["y_val"] = arrays["y_val"][::-1]  # other validation labels, the same training images
    np.savez(tmp_path / "other.npz", **arrays)
    assert "there already" not in run(whole, "--data", str(tmp_path / "other.npz"))


def test_it_chooses_on_validation_images_and_opens_the_test_set_for_the_chosen(run, folder, tiny):
    out = folder("out")
    printed = run(out)
    found = json.loads((out / "sweep.json").read_text())
    runs, chosen = found["runs"], found["chosen"]
    assert len(runs) == 8
    means = {}
    for settings in runs:
        key = settings["temperature"], settings["alpha"]
        means.setdefault(key, []).append(settings["validation_errors"])
        name = f"T{key[0]}_alpha{key[1]}_seed{settings['seed']}.keras"
        net = model_files.load(out / "sweep" / name, (12, 10), 3)
        assert inference.count_errors(net, data.load(tiny).validation) == settings["validation_errors"]
    assert min(means, key=lambda key: np.mean(means[key])) == (chosen["temperature"], chosen["alpha"])
    assert len(chosen["test_errors"]) == 2
    assert printed.count("test errors") == 1
    assert (out / "plots" / "sweep.png").exists()


@pytest.mark.parametrize(("temperature", "alpha", "seed"), [(4.0, 0.5, 1), (1.0, 1.0, 0)])
def test_its_students_are_those_of_distill(run, folder, tiny, temperature, alpha, seed):
    out, digits = folder("out"), data.load(tiny)
    run(out)
    path = out / "sweep" / f"T{temperature}_alpha{alpha}_seed{seed}.keras"
    logits = distill.teacher_logits(model_files.load(out / "teacher.keras", (12, 10), 3), digits.train.images)
    loss = functools.partial(distill.distillation_loss, temperature=temperature, alpha=alpha)
    alike, _ = student.train_student(digits, student.StudentRecipe.of(model_files.load_training(path)[0]), loss, logits)
    for one, other in zip(model_files.load(path, (12, 10), 3).get_weights(), alike.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_without_validation_images_it_cannot_choose(refusal, tiny, tmp_path):
    status, line = refusal(sweep.main, "--data", tiny, "--out", tmp_path, "--validation", "0")
    assert (status, "no validation images to choose on" in line) == (1, True)
    status, line = refusal(sweep.main, "--seed", 2**32 - 1)
    assert (status, "leaves no 3 seeds" in line) == (2, True)
