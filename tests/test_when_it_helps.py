"""When a teacher helps: sizes within their budgets, settings that the records chose, every experiment run and drawn."""

import json
import sys

from support import terminal

import pytest
from conftest import make_dataset

import data
from studies import lab, when_it_helps

SMALL = {"epochs": 2, "batch_size": 20}


@pytest.fixture
def digits():
    return make_dataset(200, 40, (28, 28), 10)


def test_sizes_keep_to_the_budgets_that_they_are_for():
    found = [when_it_helps.parameters(hidden) for hidden in when_it_helps.SIZES]
    for parameters, budget in zip(found, (2_000, 5_000, 10_000, 25_000)):
        assert 0.9 * budget < parameters <= budget
    assert found[4:] == [55_050, 1_276_810]


def test_both_of_a_pair_differ_in_the_teacher_only(monkeypatch):
    chosen = {"activation": "silu", "epochs": 7, "learning_rate": 0.1, "temperature": 2, "alpha": 0.5}
    monkeypatch.setattr(when_it_helps, "CHOSEN", {((24, 20), "shifted"): chosen})
    without, taught = when_it_helps.pair((24, 20), "shifted").values()
    different = {name for name in without.keys() | taught.keys() if without.get(name) != taught.get(name)}
    assert different == {"teacher", "temperature", "alpha"}
    assert (without["crop"], without["translate"], without["epochs"]) == (4, 1, 7)


def test_chosen_is_what_the_records_chose():
    store = lab.RunStore(data.load(validation=0), None, lab.FOLDER / "when_it_helps.json")
    for (hidden, views), chosen in when_it_helps.CHOSEN.items():
        best = when_it_helps.best(store, when_it_helps.alone, hidden, views)
        if "temperature" in chosen:
            best = best | when_it_helps.best(store, when_it_helps.taught, hidden, views)
        assert {name: best[name] for name in chosen} == chosen


def test_every_experiment_runs_and_is_drawn(digits, tmp_path, monkeypatch, capsys, eager):
    schedule = {"activation": "relu", "epochs": 2, "learning_rate": 0.01, "temperature": 2, "alpha": 0.5}
    sizes = {(4,): {"pool": 4}, (5,): {"pool": 7}}
    for name, value in {
        "SIZES": sizes,
        "ACTIVATIONS": ("relu",),
        "EPOCHS": (2,),
        "RATES": (0.01, 0.02),
        "TEMPERATURES": (2,),
        "HELD_OUT": 20,
        "TAUGHT_BY": when_it_helps.TAUGHT_BY | SMALL | {"hidden": [8]},
        "STUDENT": lab.STUDENT | SMALL,
        "CHOSEN": {(hidden, views): schedule for hidden in sizes for views in when_it_helps.VIEWS},
        "BEST_PUBLISHED": dict.fromkeys(sizes, "1"),
    }.items():
        monkeypatch.setattr(when_it_helps, name, value)
    monkeypatch.setattr(lab, "STUDENT", lab.STUDENT | SMALL)
    monkeypatch.setattr(data, "load", lambda validation: digits)
    results = tmp_path / "mine.json"
    options = ["--workers", "1", "--out", str(tmp_path / "out"), "--seeds", "2", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["when_it_helps.py", *options])
    terminal.run(when_it_helps.main)
    printed = capsys.readouterr().out
    records = json.loads(results.read_text())["runs"]
    assert len(records) == 12 + (1 + 12) + (2 + 24)  # alone; taught and its teacher; pairs and their teachers
    assert {record["images"] for record in records} == {20, 40}
    for figure in ("mine.png", "mine_saved.png"):
        assert (tmp_path / figure).stat().st_size > 10_000
    for table in ("pairs", "best", "chosen"):
        assert f"\nwhen_it_helps_{table}\n" in printed
    assert printed.count("| shifted ") == 4  # two sizes in two tables

    monkeypatch.setattr(sys, "argv", ["when_it_helps.py", *options, "--check", "2"])
    terminal.run(when_it_helps.main)
    checked = capsys.readouterr().out
    assert checked.count("the same") == 2
    assert json.loads(results.read_text())["runs"] == records
