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

from support import inference, model_files, terminal

import numpy as np
import pytest
from conftest import ROOT, run_script

import data
import evaluate
import student

QUICK = ["--epochs", "30", "--batch-size", "20"]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The files and the printed lines of teacher, distil, evaluate on 12x10 images of 3 classes."""
    out = tmp_path_factory.mktemp("run") / "artifacts"
    shared = ["--data", tiny, "--out", out]
    printed = {
        "teacher.py": run_script("teacher.py", *shared, *QUICK, "--hidden", "32", "16"),
        "distill.py": run_script("distill.py", *shared, *QUICK, "--hidden", "8", "--translate", "1"),
        "evaluate.py": run_script("evaluate.py", *shared),
    }
    for script, process in printed.items():
        assert process.returncode == 0, f"{script}: {process.stderr}"
        assert process.stderr == "", script  # TensorFlow's start-up noise included
    return out, {script: process.stdout.splitlines() for script, process in printed.items()}


@pytest.mark.quick
def test_each_script_leaves_its_files_and_no_others(folder):
    found = {str(path.relative_to(folder[0])) for path in folder[0].rglob("*") if path.is_file()}
    assert found == {
        *(f"{name}{suffix}" for name in ("teacher", "student", "distilled") for suffix in (".keras", ".csv")),
        "teacher_logits_1px.npz",
        ".lock",
        "metrics.json",
        *(f"plots/learning_curves_{name}.png" for name in ("teacher", "student", "distilled")),
        *(
            f"plots/{name}.png"
            for name in (
                "accuracy_against_parameters",
                "confusions",
                "errors_per_class",
                "gallery",
                "learning_curves",
                "reliability",
                "what_the_teacher_knows",
            )
        ),
    }


def test_each_script_prints_settings_first_a_line_an_epoch_and_its_result_last(folder):
    for script, lines in folder[1].items():
        assert lines[0] == "settings", script
        epochs = [line for line in lines if line.startswith("epoch")]
        assert len(epochs) == {"teacher.py": 30, "distill.py": 60, "evaluate.py": 0}[script]
        assert all(" loss " in line and " training " in line and " validation " in line for line in epochs)
        assert all(line.endswith(" s") for line in epochs)
    assert " test errors in 60 images, accuracy " in folder[1]["teacher.py"][-1]
    assert folder[1]["distill.py"][-1].startswith("distillation ")


def test_what_is_printed_is_what_metrics_json_says(folder):
    out, printed = folder
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["models"]) == ["teacher", "student", "distilled"]
    lines = printed["evaluate.py"]
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("errors in 60 test images")) :]
    for name, row in metrics["models"].items():
        assert {"parameters", "bytes", "test_errors", "test_examples", "accuracy", "nll", "ece", "agreement"} <= set(
            row
        )
        assert row["bytes"] == (out / f"{name}.keras").stat().st_size
        assert row["test_examples"] == 60
        shown = next(line for line in table if line.startswith(f"{name} "))
        assert f" {row['test_errors']} " in shown
        assert f" {row['accuracy']:.2%} " in shown
    assert metrics["models"]["teacher"]["agreement"] == 1.0
    assert metrics["models"]["student"]["parameters"] == 120 * 8 + 8 + 8 * 3 + 3
    baseline, distilled = (metrics["models"][name]["test_errors"] for name in ("student", "distilled"))
    assert metrics["comparisons"]["student -> distilled"]["errors_saved_by_second"] == baseline - distilled
    assert {"tensorflow", "keras", "numpy", "python", "commit"} <= set(metrics["versions"])
    assert any(f"baseline:  {baseline} test errors" in line for line in printed["distill.py"])


def test_histories_are_csv_with_a_row_an_epoch(folder):
    with open(folder[0] / "distilled.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 31))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_distilling_again_reuses_logits_and_baseline_but_not_another_baseline(folder, tiny):
    out, _ = folder
    again = ["--data", tiny, "--out", out, *QUICK, "--translate", "1", "--temperature", "2"]
    lines = run_script("distill.py", *again, "--hidden", "8").stdout
    assert "was trained with these settings" in lines
    assert "computed the teacher's logits" not in lines
    lines = run_script("distill.py", *again, "--hidden", "9").stdout
    assert "baseline: the student on the labels alone" in lines
    assert "computed the teacher's logits" not in lines


def test_a_student_of_another_teacher_or_of_other_images_is_pointed_out(folder, tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "artifacts"
    shutil.copytree(folder[0], out)
    taught = model_files.load(out / "teacher.keras", (12, 10), 3)
    made, _ = model_files.load_training(out / "teacher.keras")
    taught.layers[-1].bias.assign_add([0.1, 0.0, 0.0])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data", str(tiny), "--out", str(out)])
    model_files.save(taught, out / "teacher.keras", made, [])
    terminal.run(evaluate.main)
    printed = capsys.readouterr().out
    assert f"{out / 'distilled.keras'} had another teacher than the one it is compared with" in printed
    assert f"{out / 'student.keras'} had" not in printed
    model_files.save(taught, out / "teacher.keras", made | {"data": "others"}, [])
    terminal.run(evaluate.main)
    printed = capsys.readouterr().out
    assert f"{out / 'teacher.keras'} was trained on other images than these" in printed
    assert f"no model is compared with {out / 'teacher.keras'}, which was not trained on these" in printed
    assert json.loads((out / "metrics.json").read_text())["models"]["student"]["agreement"] is None
    assert not any("had another" in line for line in folder[1]["evaluate.py"])


def test_a_pair_that_differs_in_more_than_a_teacher_is_not_said_to_have_gained(
    folder, tiny, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "artifacts"
    shutil.copytree(folder[0], out)
    made = model_files.load_training(out / "student.keras")[0] | {"seed": 5}
    model_files.save(model_files.load(out / "student.keras", (12, 10), 3), out / "student.keras", made, [])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data", str(tiny), "--out", str(out)])
    terminal.run(evaluate.main)
    printed = capsys.readouterr().out
    assert "student and distilled also differ in seed" in printed
    assert "distillation" not in printed


def test_min_accuracy_is_a_lower_bound_and_nothing_else(folder, tiny, tmp_path, ended, refusal):
    out, _ = folder
    shared = ["--data", tiny, "--out", out, out / "student.keras"]
    assert ended(evaluate.main, *shared, "--min-accuracy", "0.2") == (0, "")
    status, line = refusal(evaluate.main, *shared, "--min-accuracy", "0.999")
    assert (status, "student: accuracy below --min-accuracy 0.999" in line) == (1, True)
    digits = data.load(tiny)
    model = model_files.load(out / "student.keras", digits.image_shape, digits.num_classes)
    right = inference.predictor(model)(digits.train.images).argmax(-1) == digits.train.labels
    with np.load(tiny) as file:
        arrays = dict(file) | {"x_test": digits.train.images[right], "y_test": digits.train.labels[right]}
    np.savez(tmp_path / "easy.npz", **arrays)
    assert ended(evaluate.main, "--data", tmp_path / "easy.npz", *shared[2:], "--min-accuracy", "1") == (0, "")


def python(code):
    """Run Python code in a process of its own, in the project's folder."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_importing_changes_nothing_in_the_process_that_imports():
    code = """
import os, signal, sys
before = signal.getsignal(signal.SIGINT), sys.excepthook, os.fstat(2).st_ino
import evaluate
assert before == (signal.getsignal(signal.SIGINT), sys.excepthook, os.fstat(2).st_ino)
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_package_is_said_in_a_line():
    done = python("import sys; sys.argv = ['teacher.py']; sys.modules['keras'] = None; import teacher")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "teacher.py: error: " in done.stderr and "pip install -r requirements.txt" in done.stderr


def test_ctrl_c_in_the_middle_ends_in_a_line_and_130(tiny, tmp_path):
    command = [
        sys.executable,
        "-u",
        ROOT / "student.py",
        "--data",
        tiny,
        "--out",
        tmp_path,
        *QUICK,
        "--epochs",
        "100000",
    ]
    # A shell's background job, and its children, ignore it.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, ours)
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "student.py: stopped; every file is complete, either the old one or the new one\n"
    assert {path.name for path in tmp_path.rglob("*")} == {"plots", ".lock"}


def test_the_folder_of_the_files_may_be_the_one_where_one_is(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (".", "./"):
        monkeypatch.setattr(
            sys, "argv", ["student.py", "--data", str(tiny), "--out", out, "--batch-size", "20", "--epochs", "1"]
        )
        terminal.run(student.main)
    assert (tmp_path / "student.keras").exists()


class NotebookStream(io.TextIOBase):
    """What a notebook has for stdout: it cannot be reconfigured."""

    def write(self, text):
        return len(text)


def test_a_script_runs_in_a_notebook_and_leaves_it_as_it_was(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    monkeypatch.setattr(sys, "stdout", NotebookStream())
    monkeypatch.setattr(
        sys, "argv", ["student.py", "--data", str(tiny), "--out", str(tmp_path), "--batch-size", "20", "--epochs", "1"]
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminal.run(student.main)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # Ctrl-C there must not end the kernel
    assert not terminal._in_script


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_stops_nothing(tiny, tmp_path, closed):
    command = (
        f"{sys.executable} {ROOT / 'student.py'} --data {tiny} --out {tmp_path} --batch-size 20 --epochs 1 {closed}"
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "student.keras").exists()


def test_a_plotting_backend_that_is_not_there_stops_nothing():
    environment = os.environ | {"MPLBACKEND": "module://not_installed_here.backend"}
    command = [sys.executable, str(ROOT / "student.py"), "--help"]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
