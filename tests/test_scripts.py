"""The scripts as a user runs them: processes of their own, in the order of the README, on a tiny set."""

import builtins
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys

from support import classifier, model_files, terminal

import keras
import numpy as np
import pytest
from conftest import ROOT, python, same_weights

import distill
import evaluate
import student
import teacher

TRAINING = ["--epochs", "3", "--batch-size", "20"]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The files and the printed lines of teacher, distil, evaluate on 12x10 images of 3 classes.

    The environment is that of a notebook, whose plotting backend is not installed here.
    """
    out = tmp_path_factory.mktemp("run") / "artifacts"
    commands = {
        "teacher.py": [*TRAINING, "--hidden", "32", "16"],
        "distill.py": [*TRAINING, "--hidden", "8", "--translate", "1"],
        "evaluate.py": [],
    }
    environment, printed = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, {}
    for script, options in commands.items():
        process = python(script, "--data", tiny, "--out", out, *options, env=environment)
        assert process.returncode == 0, f"{script}: {process.stderr}"
        assert process.stderr == "", script  # TensorFlow's start-up noise included
        printed[script] = process.stdout.splitlines()
    return out, printed


@pytest.fixture
def copy(folder, tmp_path, monkeypatch, cheap):
    """A copy of these files, to be changed and evaluated without figures."""
    monkeypatch.setattr(evaluate, "draw", lambda *arguments: None)
    return shutil.copytree(folder[0], tmp_path / "artifacts")


def convolutional(image_shape, num_classes, recipe=None, seed=None):
    """What a newcomer makes of build_student: its layers draw their first weights without a seed."""
    maps = [keras.layers.Reshape((*image_shape, 1)), keras.layers.Conv2D(3, 5, strides=3, activation="relu")]
    end = [keras.layers.Flatten(), keras.layers.Dropout(0.2), keras.layers.Dense(num_classes)]
    return keras.Sequential([keras.Input(image_shape), *maps, *end])


def test_at_alpha_0_an_edited_student_equals_its_baseline_and_a_seed_repeats_it(copy, tiny, printed, monkeypatch):
    monkeypatch.setattr(student, "build_student", convolutional)
    nets, options = [], ["--data", tiny, "--out", copy, "--epochs", 1, "--batch-size", 110, "--alpha", 0]
    for _ in range(2):
        printed(distill.main, *options)
        nets += [model_files.load(copy / f"{name}.keras") for name in ("student", "distilled")]
    assert same_weights(nets[0], nets[2])
    for one, other in zip(nets[0].get_weights(), nets[1].get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def of_more_classes(image_shape, num_classes, recipe=None, seed=None):
    return convolutional(image_shape, num_classes + 1)


def with_a_lambda(image_shape, num_classes, recipe=None, seed=None):
    return keras.Sequential([convolutional(image_shape, num_classes), keras.layers.Lambda(lambda x: 2 * x)])


class Subclass(keras.Model):
    def __init__(self, *of_net):
        super().__init__()
        self.net = convolutional(*of_net[:2])

    def call(self, images):
        return self.net(images)


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (of_more_classes, "output_shape is (None, 4), but the data need (None, 3)"),
        (with_a_lambda, "a Lambda layer"),
        (Subclass, "cannot be read"),
    ],
)
def test_an_edited_net_that_cannot_be_used_is_refused_before_it_is_trained(
    copy, tiny, refusal, monkeypatch, build, problem
):
    monkeypatch.setattr(student, "build_student", build)
    monkeypatch.setattr(teacher, "build_teacher", build)
    before = {path: path.read_bytes() for path in copy.glob("*.keras")}
    for script in (student, distill, teacher):
        status, line = refusal(script.main, "--data", tiny, "--out", copy, *TRAINING)
        net = "build_teacher" if script is teacher else "build_student"
        assert (status, f"the net of {net}" in line, problem in line) == (1, True, True), line
    assert before == {path: path.read_bytes() for path in copy.glob("*.keras")}


@pytest.mark.quick
def test_each_script_leaves_its_files_and_no_others(folder):
    nets = ["teacher", "student", "distilled"]
    figures = ["accuracy_against_parameters", "confusions", "errors_per_class", "gallery", "learning_curves"]
    figures += ["reliability", "what_the_teacher_knows", "learning_curves_teacher", "learning_curves_distilled"]
    models = {f"{net}.{suffix}" for net in nets for suffix in ("keras", "csv")}
    expected = models | {f"plots/{name}.png" for name in figures}
    expected |= {"teacher_logits_1px.npz", ".lock", "metrics.json"}
    assert {str(path.relative_to(folder[0])) for path in folder[0].rglob("*") if path.is_file()} == expected


def test_each_script_prints_settings_first_a_line_an_epoch_and_its_result_last(folder):
    for script, lines in folder[1].items():
        assert lines[0] == "settings", script
        epochs = [line for line in lines if line.startswith("epoch")]
        assert len(epochs) == {"teacher.py": 3, "distill.py": 3, "evaluate.py": 0}[script]
        nets = ["baseline: loss ", "distilled: loss "] if script == "distill.py" else ["  loss "]
        assert all(net in line and " validation " in line for line in epochs for net in nets)
        assert all(line.endswith(" s") for line in epochs)
    assert " test errors in 60 images, accuracy " in folder[1]["teacher.py"][-1]
    assert folder[1]["distill.py"][-2].startswith("distillation ")
    assert folder[1]["distill.py"][-1].startswith("the baseline has ")


def test_what_is_printed_is_what_metrics_json_says(folder):
    out, printed = folder
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["models"]) == ["teacher", "student", "distilled"]
    lines = printed["evaluate.py"]
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("errors in 60 test images")) :]
    for name, row in metrics["models"].items():
        assert row.keys() >= {"parameters", "bytes", "nll", "ece", "agreement"}
        assert row["bytes"] == (out / f"{name}.keras").stat().st_size
        assert row["test_examples"] == 60
        shown = next(line for line in table if line.startswith(f"{name} "))
        assert f" {row['test_errors']} " in shown
        assert f" {row['accuracy']:.2%} " in shown
    assert metrics["models"]["teacher"]["agreement"] == 1.0
    assert metrics["models"]["student"]["parameters"] == 120 * 8 + 8 + 8 * 3 + 3
    baseline, distilled = (metrics["models"][name]["test_errors"] for name in ("student", "distilled"))
    assert metrics["comparisons"]["student -> distilled"]["errors_saved_by_second"] == baseline - distilled
    assert {"tensorflow", "keras", "numpy", "python", "commit", "code"} <= set(metrics["versions"])
    assert any(f"baseline:  {baseline} test errors" in line for line in printed["distill.py"])


def test_histories_are_csv_with_a_row_an_epoch(folder):
    with open(folder[0] / "distilled.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_baseline_and_distilled_student_are_of_one_run_whatever_was_edited(copy, tiny, printed, monkeypatch):
    options = ["--data", tiny, "--out", copy, *TRAINING, "--translate", "1"]
    before = (copy / "student.keras").read_bytes()

    monkeypatch.setattr(student, "build_student", convolutional)
    lines = printed(distill.main, *options)
    assert "computed the teacher's logits" not in lines  # those are kept
    nets = [model_files.load(copy / f"{name}.keras", (12, 10), 3) for name in ("student", "distilled")]
    assert all("Conv2D" in [type(layer).__name__ for layer in net.layers] for net in nets)
    assert model_files.load_training(copy / "distilled.keras")[0]["baseline"] == model_files.weights_sha256(nets[0])
    assert "no pair" not in printed(evaluate.main, "--data", tiny, "--out", copy)
    (copy / "student.keras").write_bytes(before)
    lines = printed(evaluate.main, "--data", tiny, "--out", copy)
    assert "student and distilled are no pair" in lines
    assert "distillation saves" not in lines and "distillation costs" not in lines
    printed(student.main, *options)  # the same net again: student.py trains the very baseline
    assert same_weights(model_files.load(copy / "student.keras"), nets[0])
    assert "no pair" not in printed(evaluate.main, "--data", tiny, "--out", copy)


def test_a_student_of_another_teacher_or_of_other_images_is_pointed_out(folder, copy, tiny, printed):
    assert not any("had another" in line for line in folder[1]["evaluate.py"])
    teacher = model_files.load(copy / "teacher.keras", (12, 10), 3)
    settings, _ = model_files.load_training(copy / "teacher.keras")
    teacher.layers[-1].bias.assign_add([0.1, 0.0, 0.0])
    model_files.save(teacher, copy / "teacher.keras", settings, [])
    lines = printed(evaluate.main, "--data", tiny, "--out", copy)
    assert f"{copy / 'distilled.keras'} had another teacher than the one it is compared with" in lines
    assert f"{copy / 'student.keras'} had" not in lines
    model_files.save(teacher, copy / "teacher.keras", settings | {"data": "others"}, [])
    lines = printed(evaluate.main, "--data", tiny, "--out", copy)
    assert f"{copy / 'teacher.keras'} was trained on other images than these" in lines
    assert f"no model is compared with {copy / 'teacher.keras'}, which was not trained on these" in lines
    assert json.loads((copy / "metrics.json").read_text())["models"]["student"]["agreement"] is None


def test_min_accuracy_is_a_lower_bound_and_nothing_else(copy, digits, tiny, tmp_path, ended, refusal):
    options = ["--out", copy, copy / "student.keras", "--min-accuracy"]
    assert ended(evaluate.main, "--data", tiny, *options, "0.2") == (0, "")
    status, line = refusal(evaluate.main, "--data", tiny, *options, "0.999")
    assert (status, "student: accuracy below --min-accuracy 0.999" in line) == (1, True)
    model = model_files.load(copy / "student.keras", (12, 10), 3)
    is_right = classifier.predictor(model)(digits.train.images).argmax(-1) == digits.train.labels
    images, labels = digits.train.take(is_right)
    with np.load(tiny) as file:
        np.savez(tmp_path / "easy.npz", **(dict(file) | {"x_test": images, "y_test": labels}))
    assert ended(evaluate.main, "--data", tmp_path / "easy.npz", *options, "1") == (0, "")


def test_importing_changes_nothing_in_the_process_that_imports():
    code = """
import os, signal, sys
before = signal.getsignal(signal.SIGINT), sys.excepthook, os.fstat(2).st_ino
import evaluate
assert before == (signal.getsignal(signal.SIGINT), sys.excepthook, os.fstat(2).st_ino)
"""
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_package_is_said_in_a_line():
    done = python("-c", "import sys; sys.argv = ['teacher.py']; sys.modules['keras'] = None; import teacher")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "teacher.py: error: " in done.stderr and "pip install -r requirements.txt" in done.stderr


def test_the_folder_of_the_files_may_be_the_one_where_one_is(tiny, tmp_path, monkeypatch, printed, cheap):
    monkeypatch.chdir(tmp_path)
    for out in (".", "./"):
        printed(student.main, "--data", tiny, "--out", out, *TRAINING, "--epochs", "1")
    assert (tmp_path / "student.keras").exists()


class NotebookStream(io.TextIOBase):
    """What a notebook has for stdout: it cannot be reconfigured."""

    def write(self, text):
        return len(text)


def test_a_script_runs_in_a_notebook_and_leaves_it_as_it_was(tiny, tmp_path, monkeypatch, printed, cheap):
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    monkeypatch.setattr(sys, "stdout", NotebookStream())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    printed(student.main, "--data", tiny, "--out", tmp_path, *TRAINING, "--epochs", "1")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # Ctrl-C there must not end the kernel
    assert not terminal._in_script


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_closed_stream_stops_nothing(tiny, tmp_path, closed):
    command = f"{sys.executable} student.py --data {tiny} --out {tmp_path} --batch-size 20 --epochs 1 {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "student.keras").exists()
