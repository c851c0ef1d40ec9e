"""When a teacher helps: sizes within their budgets, settings that the records chose, every experiment run and drawn.

And that a study's students are distill.py's own, also when several are trained together.
"""

import json
import sys
from dataclasses import replace

from support import classifier, model_files, terminal

import numpy as np
import pytest
from conftest import make_dataset

import data
import distill
from studies import runs, when_it_helps

SMALL = {"epochs": 2, "batch_size": 20}


def test_sizes_keep_to_the_budgets_that_they_are_for():
    found = [when_it_helps.parameters(hidden) for hidden in when_it_helps.SIZES]
    for parameters, budget in zip(found, (2_000, 5_000, 10_000, 25_000)):
        assert 0.9 * budget < parameters <= budget
    assert found[4:] == [55_050, 1_276_810]


def test_both_of_a_pair_differ_in_the_teacher_only(monkeypatch):
    monkeypatch.setattr(when_it_helps, "CHOSEN", {((26, 18), "shifted"): ("silu", 7, 0.1, 3, 0.7)})
    alone, distilled = when_it_helps.pair((26, 18), "shifted").values()
    assert replace(alone, teacher=when_it_helps.TEACHER, temperature=3, alpha=0.7) == distilled
    assert (alone.crop, alone.translate, alone.epochs) == (4, 1, 7)


def best(store, experiment, hidden, views):
    """The run of `alone` or `taught` with the fewest errors on held-out images."""
    start = f"{when_it_helps.parameters(hidden):,} {views}: "
    candidates = [run for row, run in store.rows(experiment).items() if row.startswith(start)]
    return min(candidates, key=lambda run: store.finished[run]["errors"])


def test_chosen_is_what_the_records_chose():
    store = runs.RunStore(data.load(validation=0), None, runs.FOLDER / "when_it_helps.json")
    for (hidden, views), chosen in when_it_helps.CHOSEN.items():
        alone, taught = (best(store, e, hidden, views) for e in (when_it_helps.alone, when_it_helps.taught))
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
        "HELD_OUT": 20,
        "TEACHER": runs.TeacherRun(hidden=(8,), **SMALL),
        "CHOSEN": {(hidden, views): chosen for hidden in sizes for views in when_it_helps.VIEWS},
        "BEST_PUBLISHED": dict.fromkeys(sizes, "1"),
    }.items():
        monkeypatch.setattr(when_it_helps, name, value)
    digits = make_dataset(200, 40, (28, 28), 10)
    monkeypatch.setattr(data, "load", lambda validation: digits)


def test_every_experiment_runs_and_is_drawn(small_study, tmp_path, monkeypatch, capsys):
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


def test_quick_runs_a_part_of_everything_apart(small_study, tmp_path, monkeypatch, capsys):
    committed = (runs.FOLDER / "when_it_helps.json").read_bytes()
    options = ["--workers", "1", "--out", str(tmp_path), "--seeds", "1", "--quick"]
    monkeypatch.setattr(sys, "argv", ["when_it_helps.py", *options])
    terminal.run(when_it_helps.main)
    records = json.loads((tmp_path / "studies" / "quick" / "when_it_helps.json").read_text())["runs"]
    assert len(records) == 6 + (1 + 6) + (1 + 6)  # of one size
    assert {record["settings"]["epochs"] for record in records} == {1}
    assert (tmp_path / "studies" / "quick" / "when_it_helps.png").stat().st_size > 10_000
    assert "when_it_helps_pairs" in capsys.readouterr().out
    assert (runs.FOLDER / "when_it_helps.json").read_bytes() == committed


@pytest.mark.parametrize("changes", [{"translate": 1}, {"distort": 0.5, "pool": 2, "crop": 1, "activation": "silu"}])
def test_its_students_are_those_of_distill_py_also_when_trained_together(tiny, tmp_path, monkeypatch, changes):
    dataset = data.load(tiny, validation=0)
    taught_by = runs.TeacherRun(hidden=(16,), epochs=30, batch_size=20, learning_rate=0.01, distort=0, seed=1)
    common = {"temperature": 6, "alpha": 0.9, "epochs": 3, "batch_size": 20, "learning_rate": 0.002, "seed": 1}
    run = runs.StudentRun((8,), teacher=taught_by, **common, **{"translate": 0} | changes)
    taught = runs.train_teacher(dataset, taught_by, None, runs.no_extra)
    (tmp_path / "teacher.keras").write_bytes(taught[1])
    group = [replace(run, hidden=(6,)), run, replace(run, hidden=(5,), learning_rate=0.1)]
    records, _ = runs.train_students(dataset, group, taught, logits_too, cores=1)
    options = f"--data {tiny} --validation 0 --out {tmp_path} --teacher {tmp_path / 'teacher.keras'}"
    options += " --hidden 8 --epochs 3 --batch-size 20 --learning-rate 0.002 --seed 1 --temperature 6 --alpha 0.9"
    for name, value in changes.items():
        options += f" --{name} {value}"
    monkeypatch.setattr("sys.argv", ["distill.py", *options.split()])
    terminal.run(distill.main)
    script = model_files.load(tmp_path / "distilled.keras", (12, 10), 3)
    np.testing.assert_array_equal(
        records[len(records) // 2]["logits"], classifier.predictor(script)(dataset.test.images)
    )


def logits_too(run, model, train, logits, labels):
    return {"logits": logits}
