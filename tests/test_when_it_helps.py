"""When a teacher helps: sizes within their budgets, settings that the records chose, every experiment run and drawn."""

import json
import sys
from dataclasses import replace

from support import terminal

import pytest
from conftest import make_dataset
from test_studies import committed

import data
import distill
import teacher
from studies import runs, study, when_it_helps

SMALL = {"epochs": 1, "batch_size": 100}


def test_sizes_keep_to_the_budgets_that_they_are_for():
    found = [when_it_helps.parameters(hidden) for hidden in when_it_helps.SIZES]
    for parameters, budget in zip(found, (2_000, 5_000, 10_000, 25_000)):
        assert 0.9 * budget < parameters <= budget
    assert found[4:] == [55_050, 1_276_810]


def test_both_of_a_pair_differ_in_the_teacher_only(monkeypatch):
    monkeypatch.setattr(when_it_helps, "CHOSEN", {((26, 18), "shifted"): ("silu", 7, 0.1, 3, 0.7)})
    alone, distilled = when_it_helps.pair((26, 18), "shifted").values()
    assert replace(distilled.recipe, **distill.DEFAULTS.only("temperature", "alpha"), loss="labels") == alone.recipe
    assert (distilled.recipe.temperature, distilled.recipe.alpha, distilled.teacher) == (3, 0.7, when_it_helps.TEACHER)
    assert (alone.recipe.crop, alone.recipe.translate, alone.recipe.epochs, alone.teacher) == (4, 1, 7, None)


def best(records, experiment, hidden, views):
    """The recipe of `alone` or `taught` with the fewest errors on held-out images."""
    start = f"{when_it_helps.parameters(hidden):,} {views}: "
    candidates = [run for row, run in experiment().items() if row.startswith(start)]
    return min(candidates, key=lambda run: records.finished[run]["errors"]).recipe


def test_chosen_is_what_the_records_chose():
    records = committed(when_it_helps).records
    for (hidden, views), chosen in when_it_helps.CHOSEN.items():
        alone, taught = (best(records, e, hidden, views) for e in (when_it_helps.alone, when_it_helps.taught))
        assert (alone.activation, alone.epochs, alone.learning_rate) == chosen[:3]
        assert (taught.temperature, taught.alpha) == chosen[3:]


@pytest.fixture
def small_study(monkeypatch, eager):
    """Two small sizes and short runs in place of the study's."""
    chosen = ("relu", 2, 0.01, 2, 0.5)
    sizes = {(4,): {"pool": 4}, (5,): {"pool": 7}}
    for name, value in {
        "SIZES": sizes,
        "QUICK_SIZES": [(5,)],
        "ACTIVATIONS": ("relu",),
        "EPOCHS": (2,),
        "RATES": (0.01, 0.02),
        "TEMPERATURES": (2,),
        "HELD_OUT": runs.Images(held_out=20),
        "TEACHER": runs.Run(replace(teacher.DEFAULTS, hidden=(8,), **SMALL)),
        "CHOSEN": {(hidden, views): chosen for hidden in sizes for views in when_it_helps.VIEWS},
        "BEST_PUBLISHED": dict.fromkeys(sizes, "1"),
    }.items():
        monkeypatch.setattr(when_it_helps, name, value)
    digits = make_dataset(200, 40, (28, 28), 10)
    monkeypatch.setattr(data, "load", lambda validation: digits)


def test_every_experiment_runs_and_is_drawn(small_study, tmp_path, monkeypatch, capsys):
    results = tmp_path / "mine.json"
    options = ["--out", str(tmp_path / "out"), "--seeds", "2", "--results", str(results)]
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


def test_quick_runs_a_part_of_everything_apart(small_study, tmp_path, monkeypatch, capsys):
    committed = (study.FOLDER / "when_it_helps.json").read_bytes()
    options = ["--out", str(tmp_path), "--seeds", "1", "--quick"]
    monkeypatch.setattr(sys, "argv", ["when_it_helps.py", *options])
    terminal.run(when_it_helps.main)
    records = json.loads((tmp_path / "studies" / "quick" / "when_it_helps.json").read_text())["runs"]
    assert len(records) == 6 + (1 + 6) + (1 + 6)  # of one size
    assert {record["run"]["recipe"]["epochs"] for record in records} == {1}
    assert (tmp_path / "studies" / "quick" / "when_it_helps.png").stat().st_size > 10_000
    assert "when_it_helps_pairs" in capsys.readouterr().out
    assert (study.FOLDER / "when_it_helps.json").read_bytes() == committed
