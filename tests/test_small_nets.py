"""The small nets: sizes within their budgets, every size run and drawn, and students that are distill.py's own."""

import json
import sys

from support import models, terminal

import numpy as np
import pytest
from conftest import make_dataset

import data
import distill
from studies import lab, small_nets

QUICK_TEACHER = {"hidden": [16], "epochs": 2, "batch_size": 20}


@pytest.fixture
def digits():
    return make_dataset(200, 40, (28, 28), 10)


def test_sizes_keep_to_the_budgets_that_they_are_for():
    found = sorted(small_nets.parameters(hidden) for hidden in small_nets.SIZES)
    assert found[0] < 2000
    for budget in (5_000, 10_000, 25_000):
        assert any(0.9 * budget < parameters <= budget for parameters in found)
    assert {55_050, 1_276_810, 2_395_210} < {*found}


def test_every_size_is_run_and_drawn(digits, tmp_path, monkeypatch, capsys, eager):
    monkeypatch.setattr(small_nets, "SIZES", {(4,): {"pool": 4, "activation": "silu"}, (200, 200): {"epochs": 1}})
    monkeypatch.setattr(small_nets, "CHOSEN", (4,))
    monkeypatch.setattr(small_nets, "UNPOOLED", (3,))
    monkeypatch.setattr(small_nets, "UNCROPPED", (5,))
    monkeypatch.setattr(small_nets, "RECIPE", small_nets.RECIPE | {"epochs": 5, "batch_size": 50})
    for name in ("DISTORTED", "WORSE_TEACHER"):
        monkeypatch.setattr(small_nets, name, getattr(small_nets, name) | QUICK_TEACHER)
    monkeypatch.setattr(lab, "FOLDER", tmp_path)
    monkeypatch.setattr(data, "load", lambda validation: digits)
    monkeypatch.setattr(
        sys, "argv", ["small_nets.py", "--workers", "1", "--out", str(tmp_path / "out"), "--seeds", "1"]
    )
    terminal.run(small_nets.main)
    assert (tmp_path / "small_nets.png").stat().st_size > 10_000
    records = json.loads((tmp_path / "small_nets.json").read_text())["runs"]
    assert len(records) == 2 + 4 + 13  # two teachers, two sizes, and the changes of one
    assert all(record["errors"] == len(record["wrong"]) and record["seconds_an_epoch"] >= 0 for record in records)
    printed = capsys.readouterr().out
    assert all(f"| {small_nets.parameters(hidden):,} " in printed for hidden in small_nets.SIZES)
    assert "ReLU instead of SiLU" in printed


@pytest.mark.parametrize("changes", [{"translate": 1}, {"distort": 0.5, "pool": 2, "crop": 1, "activation": "silu"}])
def test_its_students_are_those_of_distill_py_also_when_trained_together(tiny, tmp_path, monkeypatch, changes):
    dataset = data.load(tiny, validation=0)
    taught_by = lab.DISTORTED | QUICK_TEACHER | {"epochs": 30, "distort": 0, "learning_rate": 0.01}
    settings = lab.distilled(taught_by, 6, 0.9, hidden=[8], epochs=3, batch_size=20) | changes
    taught = lab.train_teacher(dataset, taught_by, 1, None, lab.nothing_more)
    (tmp_path / "teacher.keras").write_bytes(taught[1])
    logits = None if "distort" in changes else lab.teacher_logits(dataset, settings, taught)
    others = [settings | {"temperature": 1}, settings, settings | {"hidden": [5], "learning_rate": 0.1}]
    runs = [(its, 1) for its in (others if "distort" in changes else [settings])]
    records, _ = lab.train_students(dataset, runs, taught, logits, weights_too)
    options = f"--data {tiny} --validation 0 --out {tmp_path} --teacher {tmp_path / 'teacher.keras'}"
    options += " --hidden 8 --epochs 3 --batch-size 20 --learning-rate 0.002 --seed 1 --temperature 6 --alpha 0.9"
    for name, value in changes.items():
        options += f" --{name} {value}"
    monkeypatch.setattr("sys.argv", ["distill.py", *options.split()])
    terminal.run(distill.main)
    script = models.load(tmp_path / "distilled.keras", (12, 10), 3)
    np.testing.assert_array_equal(records[len(records) // 2]["logits"], models.predictor(script)(dataset.test.images))


def weights_too(settings, model, train, logits, labels):
    return {"logits": logits}
