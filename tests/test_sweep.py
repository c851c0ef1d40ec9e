"""A grid of students that is finished in the end, however often it is stopped."""

import contextlib
import dataclasses
import io
import json
import shutil
import sys
from dataclasses import replace

from support import classifier, files, model_files, terminal
from support.teacher_logits import as_teacher, looked_up

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import distilled, logits_of, same_weights

import data
import distill
import student
import teacher
from studies import runs
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
    command = ["sweep.py", "--data", data_file, "--out", out, *GRID, *SMALL_STUDENT, *options]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as stdout:
        patch.setattr(sys, "argv", [*map(str, command)])
        terminal.run(sweep.main)
    return stdout.getvalue()


def net_in(out, start):
    """The path of the only net of a sweep whose name begins so."""
    (path,) = (out / "sweep").glob(f"{start}_*.keras")
    return path


@pytest.fixture(scope="module")
def whole(tiny, digits, tmp_path_factory):
    """A folder with a teacher and a sweep of 8 students that was not stopped; and what that printed."""
    out = tmp_path_factory.mktemp("whole")
    keras.utils.set_random_seed(3)
    net = teacher.build_teacher((12, 10), 3, replace(teacher.DEFAULTS, hidden=(16,)))
    model_files.save(net, out / "teacher.keras", {"data": files.sha256(*digits.train)}, [])
    return out, run(tiny, out)


def test_a_sweep_that_was_stopped_ends_like_one_that_was_not(whole, tiny, tmp_path, monkeypatch):
    shutil.copy(whole[0] / "teacher.keras", tmp_path)
    train_group, started = runs.train_group, []

    def stop_after_one(*arguments):
        if started:
            raise KeyboardInterrupt
        started.append(arguments)
        return train_group(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "train_group", stop_after_one)
        run(tiny, tmp_path)
    saved = sorted((tmp_path / "sweep").glob("*.keras"))
    assert len(saved) == 5  # all of the first seed
    saved[1].write_bytes(saved[1].read_bytes()[:-900])  # and one is damaged
    assert "10 runs, 4 of them finished before" in run(tiny, tmp_path)
    reports = [json.loads((folder / "sweep.json").read_text()) for folder in (tmp_path, whole[0])]
    assert reports[0] == reports[1]
    assert "10 runs, 10 of them finished before" in run(tiny, tmp_path)


def test_other_settings_validation_labels_or_code_are_another_sweep(whole, tiny, digits, tmp_path, monkeypatch):
    out = shutil.copytree(whole[0], tmp_path / "out")
    one_of_each_seed = ["--temperatures", "4", "--alphas", "1"]
    assert "4 runs, 4 of them finished" in run(tiny, out, *one_of_each_seed)
    assert "4 runs, 0 of them finished" in run(tiny, out, *one_of_each_seed, "--learning-rate", "0.02")
    assert "4 runs, 4 of them finished" in run(tiny, out, *one_of_each_seed, "--learning-rate", "0.02")
    with monkeypatch.context() as patch:
        patch.setattr(files, "code_sha256", lambda *scripts: "that of an edited build_student")
        assert "4 runs, 0 of them finished" in run(tiny, out, *one_of_each_seed, "--learning-rate", "0.02")
    parts = {"train": digits.train, "val": digits.validation, "test": digits.test}
    arrays = {f"{letter}_{part}": array for part, split in parts.items() for letter, array in zip("xy", split)}
    arrays["y_val"] = arrays["y_val"][::-1]  # the training images are the same
    np.savez(tmp_path / "other.npz", **arrays)
    assert "4 runs, 0 of them finished" in run(
        tmp_path / "other.npz", out, *one_of_each_seed, "--learning-rate", "0.02"
    )


def test_an_edited_student_of_any_layers_is_swept(whole, tiny, digits, tmp_path, monkeypatch):
    def build(image_shape, num_classes, recipe, seed):
        layers = [keras.layers.Reshape((*image_shape, 1)), keras.layers.Conv2D(2, 5), keras.layers.Flatten()]
        return keras.Sequential([keras.Input(image_shape), *layers, keras.layers.Dense(num_classes)])

    monkeypatch.setattr(student, "build_student", build)
    shutil.copy(whole[0] / "teacher.keras", tmp_path)
    assert run(tiny, tmp_path, "--seeds", "1").count(" wrong of 20") == 5
    recipe = distill.DistillRecipe(hidden=(8,), epochs=1, batch_size=20, translate=0, temperature=4.0, alpha=1.0)
    logits = logits_of(keras.models.load_model(tmp_path / "teacher.keras"), digits.train.images)
    pair = distill.train_pair(digits, recipe, looked_up(logits))
    for name, (net, _) in zip(("labels_alone", "T4_alpha1"), pair):
        assert same_weights(net, model_files.load(net_in(tmp_path, f"{name}_seed0")))


def test_it_chooses_on_validation_images_and_opens_the_test_set_for_the_chosen(whole, digits):
    out, printed = whole
    report = json.loads((out / "sweep.json").read_text())
    assert len(report["runs"]) == 10
    for row in report["runs"]:
        net = model_files.load(out / "sweep" / row["net"], (12, 10), 3)
        assert classifier.count_errors(net, digits.validation) == row["validation_errors"]
    assert {name: len(errors) for name, errors in report["test_errors"].items()} == {"chosen": 2, "labels alone": 2}
    assert printed.count("test errors") == 2
    assert (out / "plots" / "sweep.png").exists()


def test_the_student_on_labels_alone_has_the_settings_that_are_best_for_it_too(tiny, whole, tmp_path, monkeypatch):
    out = shutil.copytree(whole[0], tmp_path / "out")

    def with_other_winners(of_recipe):
        """Taught, 9 epochs are best; on labels alone, 1 epoch is."""
        recipe = runs.Run.of(of_recipe[0]["run"]).recipe
        return np.full(20, float(recipe.epochs != (1 if sweep.is_alone(recipe) else 9)))

    monkeypatch.setattr(sweep, "shares_wrong", with_other_winners)
    options = ["--temperatures", "4", "--alphas", "1", "--seeds", "1", "--grid", "epochs=1,9"]
    lines = run(tiny, out, *options)
    assert "chosen: --epochs 9 --temperature 4.0 --alpha 1.0 (of all" in lines
    assert "\nlabels alone: 20 errors" in lines and "\nlabels alone, best with --epochs 1: 0 errors" in lines
    tested = json.loads((out / "sweep.json").read_text())["test_errors"]
    assert [*tested] == ["chosen", "labels alone", "labels alone, best with --epochs 1"]


def shares_of(**wrong):
    """{recipe: which of 100 images it has wrong}, by names such as T2_alpha5, for T 2 and alpha 0.5."""
    shares = {}
    for name, images in wrong.items():
        temperature, alpha = name[1:].split("_alpha")
        of_loss = {"alpha": int(alpha) / 10} if alpha != "0" else {"loss": "labels"}
        recipe = distill.DistillRecipe(temperature=float(temperature), **of_loss)
        shares[recipe] = np.isin(np.arange(100), images).astype(float)
    return shares


def test_of_all_within_a_standard_error_of_the_best_it_chooses_the_lowest_temperature():
    # Beside the best: 1 more, 1 image differs (standard error just below 1); 6 more, 6 differ; 1 more, 7 differ.
    wrong = {"T4_alpha1": range(4), "T2_alpha9": range(5), "T1_alpha9": range(10), "T2_alpha3": [0, *range(50, 54)]}
    shares = shares_of(**wrong)
    chosen, compared = sweep.choose(shares)
    more = [(round(more), round(deviation, 1)) for _, more, deviation in compared.values()]
    assert more == [(0, 0.0), (1, 1.0), (6, 2.4), (1, 2.6)]
    assert (chosen.temperature, chosen.alpha) == (2, 0.3)


def test_of_settings_with_the_same_temperature_and_alpha_it_chooses_the_best():
    shares = [np.isin(np.arange(100), images).astype(float) for images in (range(6), range(10, 15))]
    recipes = [distill.DistillRecipe(epochs=epochs) for epochs in (60, 150)]
    for order in (1, -1):
        assert sweep.choose(dict(zip(recipes[::order], shares[::order])))[0].epochs == 150


def test_another_loss_is_not_chosen_for_a_lower_alpha():
    recipes = [distill.DistillRecipe(alpha=0.1, loss="logits"), distill.DistillRecipe(alpha=0.9)]
    shares = [np.isin(np.arange(100), images).astype(float) for images in (range(1, 7), range(5))]
    assert sweep.choose(dict(zip(recipes, shares)))[0] == recipes[1]
    assert sweep.choose(dict(zip(recipes, shares[::-1])))[0] == recipes[0]


def test_labels_alone_are_not_chosen_however_good_they_are():
    chosen, compared = sweep.choose(shares_of(T2_alpha0=[0], T2_alpha5=range(10)))
    assert (chosen.alpha, [more for _, more, _ in compared.values()]) == (0.5, [-9, 0])


def test_errors_of_folds_are_those_of_all_images_and_errors_of_seeds_their_mean():
    def records(fold, *images_and_wrong):
        about = {"run": {"images": {"fold": fold}}}
        return [about | {"images": images, "wrong": wrong} for images, wrong in images_and_wrong]

    assert sweep.shares_wrong(records([0, 2], (2, [0]), (3, [0, 2]))).tolist() == [1, 0, 1, 0, 1]
    assert sweep.shares_wrong(records(None, (3, [0]), (3, [0, 2]))).tolist() == [1, 0, 0.5]


@pytest.mark.parametrize("name", ["T4_alpha0.5", "labels_alone"])
def test_its_students_are_those_of_distill(whole, digits, name):
    out, _ = whole
    path = net_in(out, f"{name}_seed1")
    recipe = distill.DEFAULTS.updated(model_files.load_training(path)[0])
    net = model_files.load(out / "teacher.keras", (12, 10), 3)
    pair = distill.train_pair(digits, recipe, as_teacher(net).on_views(digits.train.images, recipe))
    assert same_weights(model_files.load(path), pair[name != "labels_alone"][0])


def test_students_of_ones_own_are_those_of_distill_too(whole, tiny, digits, tmp_path):
    own = tmp_path / "own.keras"
    keras.Sequential([keras.Input((12, 10)), keras.layers.Flatten(), keras.layers.Dense(3)]).save(own)
    shutil.copy(whole[0] / "teacher.keras", tmp_path)
    run(tiny, tmp_path, "--student", own)
    assert len([*tmp_path.glob("sweep/*.keras")]) == 10
    path = net_in(tmp_path, "T4_alpha0.5_seed1")
    logits = logits_of(model_files.load(whole[0] / "teacher.keras", (12, 10), 3), digits.train.images)
    recipe = distill.DistillRecipe(epochs=1, batch_size=20, seed=1, translate=0, temperature=4.0, alpha=0.5)
    assert same_weights(model_files.load(path), distilled(digits, recipe, logits, own)[0])


def test_without_validation_images_it_cannot_choose(refusal, tiny, tmp_path):
    status, line = refusal(sweep.main, "--data", tiny, "--out", tmp_path, "--validation", "0")
    assert (status, "no validation images to choose on" in line) == (1, True)
    status, line = refusal(sweep.main, "--seed", 2**32 - 1)
    assert (status, "leaves no 3 seeds" in line) == (2, True)


def test_folds_hold_out_each_image_once_from_teacher_and_students(tiny, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "OWN_DATA_DEFAULTS", replace(teacher.OWN_DATA_DEFAULTS, hidden=(8,), epochs=1))
    arguments = ["--temperatures", "2", "--alphas", "0.5", "--folds", "2", "--grid", "activation=relu,silu"]
    arguments = ["--data", tiny, "--out", tmp_path, *SMALL_STUDENT, *arguments]

    def run_folds():
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as stdout:
            patch.setattr(sys, "argv", ["sweep.py", *map(str, arguments)])
            terminal.run(sweep.main)
        return stdout.getvalue()

    run_folds()
    report = json.loads((tmp_path / "sweep.json").read_text())
    whole = data.load(tiny, validation=0)
    errors = {}
    for number in range(2):
        fold = data.fold(whole, number, 2)
        taught_by, _ = model_files.load_training(net_in(tmp_path, f"teacher_fold{number + 1}of2_seed{number}"))
        assert taught_by["data"] == files.sha256(*fold.train)
        paths = [*tmp_path.glob(f"sweep/T2_alpha0.5_fold{number + 1}of2_seed{number}_*.keras")]
        assert len(paths) == 2
        for path in paths:
            activation = model_files.load_training(path)[0]["activation"]
            wrong = classifier.count_errors(model_files.load(path, (12, 10), 3), fold.validation)
            errors[activation] = errors.get(activation, 0) + wrong
    assert {each["activation"]: each["errors"] for each in report["compared"] if each["alpha"]} == errors
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*.keras")}
    lost = next(tmp_path.glob("sweep/T2*_fold1*"))
    lost.unlink()
    assert "8 runs, 7 of them finished before" in run_folds()
    assert [path for path, time in trained.items() if path.stat().st_mtime_ns != time] == [lost]
    next(tmp_path.glob("sweep/teacher_fold1*")).unlink()
    assert "the teachers" not in run_folds()


def test_what_cannot_be_swept_is_refused(refusal, tiny, tmp_path):
    here = "--data", tiny, "--out", tmp_path
    status, line = refusal(sweep.main, *here, "--folds", "5", "--teacher", "mine.keras")
    assert (status, "a teacher of your own may have seen" in line) == (2, True)
    for grid, advice in (
        (["size=3"], "size is not a setting for --grid, which are hidden, epochs"),
        (["activation=tanh"], "choose from relu, gelu"),
        (["epochs=1", "--grid", "epochs=2"], "--grid names a setting twice"),
    ):
        status, line = refusal(sweep.main, *here, "--grid", *grid)
        assert (status, advice in line) == (2, True)


def test_the_grid_takes_every_setting_of_a_student():
    assert sweep.parse_grid("hidden=64-64,128") == ("hidden", [(64, 64), (128,)])
    assert sweep.parse_grid("learning-rate=1e-3,0.01") == ("learning_rate", [0.001, 0.01])


def test_every_loss_is_swept_over_what_it_asks_for(whole, tiny, tmp_path, monkeypatch):
    def squares(labels, teacher_logits, student_logits, alpha):
        return alpha * tf.reduce_sum(tf.square(student_logits - teacher_logits), -1)

    (choices,) = (f.metadata["choices"] for f in dataclasses.fields(distill.DistillRecipe) if f.name == "loss")
    monkeypatch.setitem(distill.LOSSES, "squares", squares)
    choices.append("squares")
    try:
        shutil.copy(whole[0] / "teacher.keras", tmp_path)
        lines = run(tiny, tmp_path, "--seeds", "1", "--grid", f"loss={','.join(distill.LOSSES)}")
    finally:
        choices.remove("squares")
    assert lines.count(" wrong of 20") == 1 + 4 + 2  # on labels alone; of T and alpha what each loss asks for
