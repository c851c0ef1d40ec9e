"""The studies: every experiment runs, the committed records are theirs; and the paper's biases know no test image."""

import json
from dataclasses import replace

from support import files, metrics

import numpy as np
import pytest
from conftest import make_dataset

import data
from studies import ladder, paper, runs, selection, study, tables, when_it_helps

SMALL = {"hidden": (16, 16), "epochs": 1, "batch_size": 200}
TENTH = np.full(10, 0.1)


@pytest.fixture
def small(monkeypatch, tmp_path, eager):
    """Small nets and data; results go to a folder."""
    digits = make_dataset(600, 100, (22, 10), 10)
    for name in ("TRANSLATED", "STUDENT"):
        monkeypatch.setattr(paper, name, replace(getattr(paper, name), **SMALL))
    for name in ("TEACHER", "LONGER", "DISTORTED"):
        run = getattr(paper, name)
        monkeypatch.setattr(paper, name, replace(run, recipe=replace(run.recipe, **SMALL)))
    for name, value in (("HELD_OUT", 60), ("TEMPERATURES", (20,)), ("WIDTHS", {8: 5e-3}), ("SHARES", (0.5,))):
        monkeypatch.setattr(paper, name, value)
    monkeypatch.setattr(data, "load", lambda validation: digits)
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    monkeypatch.setattr(tables, "fill", None)  # only five seeds are for the documents


def test_every_experiment_runs_and_two_are_drawn(small, tmp_path, printed):
    text = printed(paper.main, "--out", tmp_path / "out", "--seeds", "1")
    for table in ("choices", "nets", "temperatures", "best_temperatures", "omissions", "labels"):
        assert f"\npaper_{table}\n" in text
    assert "| 784-8-8-10 | 20     |" in text
    for figure in ("temperatures", "labels"):
        assert not (tmp_path / f"paper_{figure}.png").exists()  # the committed ones have five seeds
        assert len([*tmp_path.rglob(f"paper_{figure}.png")]) == 1
    records = json.loads((tmp_path / "paper.json").read_text())["runs"]
    assert all(record["images"] == (record["run"]["images"]["held_out"] or 100) for record in records)
    corrected = [record for record in records if "corrected" in record]
    classes = sorted(record["run"]["images"]["classes"] for record in corrected)
    assert classes == 2 * [[*range(3), *range(4, 10)]] + 2 * [[7, 8]]


def test_what_is_recorded_is_not_run_again_and_the_tables_come_from_the_file(small, tmp_path, printed, monkeypatch):
    options = "omissions", "--out", tmp_path / "out", "--seeds", "1"
    first = printed(paper.main, *options)
    monkeypatch.setattr(runs, "train_group", None)
    again = printed(paper.main, *options)
    assert "4 runs, 4 of them finished before" in again and "made by other code" not in again
    assert again[again.index("paper_omissions") :] == first[first.index("paper_omissions") :]
    monkeypatch.setattr(files, "code_sha256", lambda *scripts: "that of an edited build_student")
    assert "4 finished runs were made by other code than today's" in printed(paper.main, *options)


def committed(module):
    """The Study of the committed records of a module."""
    name = module.__name__.split(".")[-1]
    validation = getattr(module, "VALIDATION", study.VALIDATION)
    dataset, path = data.load(validation=validation), study.FOLDER / f"{name}.json"
    return study.Study(name, runs.Records(path, path, dataset, files.sha256(*dataset.train, *dataset.test)))


@pytest.mark.parametrize(
    ("module", "experiments", "missing"),
    [
        (paper, paper.EXPERIMENTS, 1),
        (when_it_helps, when_it_helps.EXPERIMENTS, 0),
        (ladder, [ladder.ladder], 0),
        (selection, selection.EXPERIMENTS, 0),
    ],
)
def test_every_committed_record_belongs_to_a_run_of_its_study(module, experiments, missing):
    here = committed(module)
    planned = study.plan(here, {experiment.__name__: experiment() for experiment in experiments})
    teachers = {run.teacher for run in planned if run.teacher}
    assert len(here.records.records) == len(here.records.finished)
    assert here.records.finished.keys() <= {*planned, *teachers}
    assert len([run for run in planned if run not in here.records.finished]) == missing


def test_the_plan_has_one_seed_of_what_is_held_out_and_quick_a_tenth_of_the_epochs():
    here = committed(paper)._replace(num_seeds=2)
    planned = study.plan(here, {experiment.__name__: experiment() for experiment in paper.EXPERIMENTS})
    assert not any(run.recipe.seed and run.images.held_out for run in planned)
    assert {run for experiment in paper.EXPERIMENTS for run in experiment().values()} <= set(planned)
    shorter = here.rows(paper.students), here._replace(is_quick=True).rows(paper.students)
    for long, short in zip(*(rows.values() for rows in shorter), strict=True):
        assert short.recipe.epochs == long.recipe.epochs // 10
        assert not long.teacher or short.teacher.recipe.epochs == long.teacher.recipe.epochs // 10


def test_a_run_in_a_fold_has_the_folds_number_as_its_only_seed():
    here = committed(ladder)
    run = ladder.pair(ladder.CHOSEN_STEP)[0]
    rows = {f"fold {number}": replace(run, images=runs.Images(fold=(number, 5))) for number in range(5)}
    planned = study.plan(here, {"folds": rows, "whole": {"whole": run}})
    assert [each.recipe.seed for each in planned if each.images.fold] == [*range(5)]
    assert [each.recipe.seed for each in planned if not each.images.fold] == [*range(5)]


def test_wrong_options_are_refused(refusal):
    status, line = refusal(paper.main, "temperature")
    names = ", ".join(function.__name__ for function in paper.EXPERIMENTS)
    assert (status, f"there is no experiment 'temperature': choose from {names}" in line) == (2, True)


def test_a_row_of_the_ladder_is_compared_with_the_row_above_and_with_labels_alone(tmp_path):
    here = committed(ladder)
    *_, distorted, silu = ladder.texts(here)["ladder"].splitlines()
    pairs = [[here.of(run) for run in ladder.pair(step)] for step in (ladder.DISTORTED_STEP, "+ SiLU")]
    for place in (0, 1):
        assert runs.difference(pairs[1][place], pairs[0][place]) in silu
    assert distorted.strip(" |").endswith(runs.difference(*reversed(pairs[0])))


# ---- biases ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unbalanced():
    """Logits (n, 10) of a net that knows its classes but thinks too little of class 3, and the labels."""
    random = np.random.default_rng(0)
    labels = np.arange(4000) % 10
    logits = random.normal(0, 1, (4000, 10)) + 6 * np.eye(10)[labels]
    logits[:, 3] -= 5
    return logits.astype(np.float32), labels


def test_biases_put_each_class_into_its_share(unbalanced):
    logits, _ = unbalanced
    biases = paper.balancing_biases(logits, TENTH)
    assert np.exp(metrics.log_softmax(logits + biases)).mean(0) == pytest.approx(TENTH, abs=1e-6)
    assert biases[3] - np.delete(biases, 3).mean() == pytest.approx(5, abs=0.3)


def test_biases_mend_what_was_left_out_and_know_no_test_label(unbalanced):
    logits, labels = unbalanced
    halves = logits[:2000], labels[:2000], logits[2000:]
    ways = dict(paper.corrections(*halves, labels[2000:], [0, 1, 2, 4, 5, 6, 7, 8, 9]))
    before = runs.score(logits[2000:], labels[2000:])["errors"]
    for biases in ways.values():
        assert runs.score(logits[2000:] + biases, labels[2000:])["errors"] < before / 10
    shuffled = dict(paper.corrections(*halves, np.roll(labels[2000:], 1), [0, 1, 2, 4, 5, 6, 7, 8, 9]))
    changed = [way for way in ways if not np.array_equal(ways[way], shuffled[way])]
    assert changed == ["one number, chosen on the test set"]
    # What is left: no label of an image is used either, only how many there are of each class.
    mixed = np.random.default_rng(1).permutation(labels[:2000])
    unlabelled = dict(paper.corrections(halves[0], mixed, halves[2], labels[2000:], [0, 1, 2, 4, 5, 6, 7, 8, 9]))
    assert all(np.array_equal(ways[way], unlabelled[way]) for way in ways)


def test_one_number_puts_the_known_share_into_the_classes_left_out(unbalanced):
    logits, labels = unbalanced
    ways = dict(paper.corrections(logits, labels, logits, labels, [7, 8]))
    answers = (logits + ways["one number, from the classes' shares"]).argmax(-1)
    assert np.mean(~np.isin(answers, [7, 8])) == pytest.approx(0.8, abs=1e-3)
