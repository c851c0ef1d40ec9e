"""The frontier: sizes within their budgets, every size run and drawn, and students that are distill.py's own."""

import json
import sys

import common

import numpy as np
import pytest
from conftest import make_arrays

import data
import distill
import experiments
import frontier
import training

QUICK_TEACHER = {"hidden": [16], "epochs": 2, "batch_size": 20}


@pytest.fixture
def digits():
    arrays = make_arrays(600, 100, (28, 28), 10)
    train, test = (data.Split(arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int32)) for part in ("train", "test"))
    return data.Dataset(train, data.Split(train.images[:0], train.labels[:0]), test, 10)


def test_sizes_keep_to_the_budgets_that_they_are_for():
    found = sorted(frontier.parameters(hidden) for hidden in frontier.SIZES)
    assert found[0] < 2000
    for budget in (5_000, 10_000, 25_000):
        assert any(0.9 * budget < parameters <= budget for parameters in found)
    assert {55_050, 1_276_810, 2_395_210} < {*found}


def test_every_size_is_run_and_drawn(digits, tmp_path, monkeypatch, capsys, eager):
    monkeypatch.setattr(frontier, "SIZES", {(4,): {"pool": 4}, (200, 200): {"pool": 1, "epochs": 1}})
    monkeypatch.setattr(frontier, "CHOSEN", (4,))
    monkeypatch.setattr(frontier, "UNPOOLED", (3,))
    monkeypatch.setattr(frontier, "UNCROPPED", (5,))
    monkeypatch.setattr(frontier, "RECIPE", {"translate": 1, "epochs": 5, "batch_size": 50, "learning_rate": 0.01})
    for name in ("DISTORTED", "DEFAULTS"):
        monkeypatch.setattr(frontier, name, getattr(frontier, name) | QUICK_TEACHER)
    monkeypatch.setattr(frontier, "RESULTS", tmp_path)
    monkeypatch.setattr(data, "load", lambda validation: digits)
    monkeypatch.setattr(sys, "argv", ["frontier.py", "--out", str(tmp_path / "out"), "--seeds", "1"])
    common.run(frontier.main)
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    records = json.loads((tmp_path / "frontier.json").read_text())["runs"]
    assert len(records) == 2 + 4 + 14 + 4  # two teachers, two sizes, and what is changed of one, and tried on it
    assert all(record["errors"] == len(record["wrong"]) and record["seconds_an_epoch"] >= 0 for record in records)
    printed = capsys.readouterr().out
    assert all(f"\n{name}: " in printed for name in frontier.EXPERIMENTS)
    assert f"{frontier.parameters((4,)):,} parameters, distilled" in printed


@pytest.mark.parametrize("changes", [{"translate": 1}, {"distort": 0.5, "pool": 2, "crop": 1, "activation": "silu"}])
def test_its_students_are_those_of_distill_py_bit_for_bit(tiny, tmp_path, monkeypatch, changes):
    lab = experiments.Lab(data.load(tiny, validation=0), tmp_path, tmp_path / "runs.json")
    settings = experiments.distilled(experiments.DISTORTED | QUICK_TEACHER, 6, 0.9, hidden=[8], epochs=3, batch_size=20)
    settings |= changes
    net, _ = experiments.train_student(lab, settings, 1, "")
    options = (
        f"--data {tiny} --validation 0 --out {tmp_path} --teacher {tmp_path / 'distorted_seed1' / 'teacher.keras'}"
    )
    options += " --hidden 8 --epochs 3 --batch-size 20 --learning-rate 0.002 --seed 1 --temperature 6 --alpha 0.9"
    for name, value in changes.items():
        options += f" --{name} {value}"
    monkeypatch.setattr("sys.argv", ["distill.py", *options.split()])
    common.run(distill.main)
    script = training.load(tmp_path / "distilled.keras", (12, 10), 3)
    for one, other in zip(net.get_weights(), script.get_weights(), strict=True):
        assert np.array_equal(one, other)
