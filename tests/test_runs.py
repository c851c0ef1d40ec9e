"""Runs: recorded at once, never repeated, in two rounds; and each student of a study is the one of distill.py."""

import json
from dataclasses import replace

from support import UserError, classifier, files, model_files

import numpy as np
import pytest
from conftest import make_dataset

import data
import distill
import teacher
from studies import runs
from studies.runs import Images, Run

SMALL = {"epochs": 2, "batch_size": 20, "learning_rate": 0.01}
TEACHER = Run(replace(teacher.DEFAULTS, hidden=(16,), translate=1, distort=0.0, **SMALL))
STUDENT = replace(distill.DEFAULTS, hidden=(8,), translate=0, **SMALL)


@pytest.fixture
def digits():
    return make_dataset()


@pytest.fixture
def records(digits, tmp_path):
    return runs.Records(tmp_path / "runs.json", tmp_path, digits, "these")


def test_a_run_is_its_settings():
    run = Run(replace(STUDENT, temperature=2.5), TEACHER, Images(classes=(7, 8), labelled=0.5, fold=(1, 5)))
    assert Run.of(json.loads(json.dumps(run.settings()))) == run
    assert run.with_seed(3).teacher.recipe.seed == run.with_seed(3).recipe.seed == 3
    assert Run.of(Run(STUDENT, "the SHA-256 of a teacher").settings()).teacher == "the SHA-256 of a teacher"


def test_records_are_of_their_run_and_their_data_alone(records, digits, tmp_path):
    run = Run(STUDENT, TEACHER)
    records.add(run, {"errors": 1}, b"")
    again = runs.Records(tmp_path / "runs.json", tmp_path, digits, "these")
    assert again.finished[run]["errors"] == 1
    others = [run.with_seed(1), replace(run, recipe=replace(STUDENT, epochs=1)), replace(run, images=Images(20))]
    others += [replace(run, teacher=None), replace(run, teacher=replace(TEACHER, images=Images(20)))]
    assert not any(other in again.finished for other in others)
    assert not runs.Records(tmp_path / "runs.json", tmp_path, digits, "other data").finished


def test_records_from_before_a_setting_are_those_of_its_default(records, digits, tmp_path):
    run = Run(STUDENT, TEACHER)
    records.add(run, {"errors": 1}, b"")
    saved = json.loads((tmp_path / "runs.json").read_text())
    for name in ("crop", "loss", "label_smoothing"):
        del saved["runs"][0]["run"]["recipe"][name]
    del saved["runs"][0]["run"]["teacher"]["recipe"]["dropout"], saved["runs"][0]["run"]["images"]["fold"]
    (tmp_path / "runs.json").write_text(json.dumps(saved))
    assert list(runs.Records(tmp_path / "runs.json", tmp_path, digits, "these").finished) == [run]


@pytest.mark.parametrize("content", ['{"runs": [', "[]", '{"runs": [1]}', '{"runs": ["one"]}'])
def test_a_damaged_file_of_records_is_refused(digits, tmp_path, content):
    (tmp_path / "runs.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read"):
        runs.Records(tmp_path / "runs.json", tmp_path, digits, "these")


def test_so_many_labels_are_changed_for_teacher_and_students_and_none_on_which_errors_are_counted(digits):
    (plain, scored), (changed, scored_too) = (
        runs.Images(validation=True, mislabelled=share).parts(digits) for share in (0.0, 0.1)
    )
    is_changed = plain.labels != changed.labels
    assert is_changed.sum() == 24 and {*changed.labels} == {0, 1, 2} and changed.labels.dtype == plain.labels.dtype
    assert changed.images is plain.images and scored_too is scored
    again, _ = runs.Images(validation=True, mislabelled=0.1).parts(digits)
    np.testing.assert_array_equal(again.labels, changed.labels)


def test_teachers_come_first_and_each_is_trained_once(records, digits, eager, capsys, monkeypatch):
    names = {
        Run(replace(STUDENT, alpha=alpha), TEACHER).with_seed(seed): f"{alpha} {seed}"
        for seed in (0, 1)
        for alpha in (0.3, 0.9)
    }
    runs.run_all(records, names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "4 runs, 0 of them finished before"
    assert [line.split("  ")[0] for line in printed[1:]] == [
        "the teacher of 0.3 0", "the teacher of 0.3 1", "0.3 0", "0.9 0", "0.3 1", "0.9 1"
    ]  # fmt: skip
    for run, record in records.finished.items():
        assert record["images"] == 60 and record["errors"] == len(record["wrong"]) == sum(record["errors_per_class"])
        labels = digits.test.labels[record["wrong"]]
        assert np.bincount(labels, minlength=3).tolist() == record["errors_per_class"]
        if run.is_teacher:
            net = model_files.load(records.net(run), *digits.form)
            assert classifier.count_errors(net, digits.test) == record["errors"]
            assert model_files.load_training(records.net(run))[0]["data"] == files.sha256(*digits.train)
    lost = TEACHER.with_seed(1)
    records.net(lost).unlink()
    another = Run(replace(STUDENT, temperature=1.0), TEACHER).with_seed(1)
    runs.run_all(records, {another: "another"})
    assert records.net(lost).exists() and "another" in capsys.readouterr().out
    monkeypatch.setattr(runs, "train_group", None)
    runs.run_all(records, names | {another: "another"})
    assert capsys.readouterr().out == "5 runs, 5 of them finished before\n"


def test_what_was_stopped_ends_like_what_was_not(digits, tmp_path, eager, monkeypatch):
    names = {
        Run(replace(STUDENT, loss=loss), TEACHER).with_seed(seed): "" for seed in (0, 1) for loss in distill.LOSSES
    }

    def finished(folder):
        records = runs.Records(folder / "runs.json", folder, digits, "these")
        return {run: record["wrong"] for run, record in records.finished.items()}

    folders = [tmp_path / name for name in ("whole", "stopped")]
    whole, stopped = (runs.Records(path.mkdir() or path / "runs.json", path, digits, "these") for path in folders)
    runs.run_all(whole, names)
    train_group = runs.train_group

    def stop_in_the_third_group(*arguments):
        if len(stopped.finished) == 2:
            raise KeyboardInterrupt
        return train_group(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "train_group", stop_in_the_third_group)
        runs.run_all(stopped, names)
    assert len(finished(folders[1])) == 2
    runs.run_all(runs.Records(folders[1] / "runs.json", folders[1], digits, "these"), names)
    assert finished(folders[1]) == finished(folders[0]) and len(finished(folders[0])) == 6


def logits_too(run, model, train, logits, labels):
    return {"logits": logits}


@pytest.mark.parametrize("changes", [{"translate": 1}, {"distort": 0.5, "pool": 2, "crop": 1, "activation": "silu"}])
def test_each_student_of_a_study_is_the_one_of_distill_py(tiny, tmp_path, printed, changes):
    dataset = data.load(tiny, validation=0)
    taught_by = replace(TEACHER, recipe=replace(TEACHER.recipe, epochs=30)).with_seed(1)
    recipe = replace(STUDENT, temperature=6.0, alpha=0.9, seed=1, **changes)
    recipes = [replace(recipe, hidden=(6,)), recipe, replace(recipe, hidden=(5,), learning_rate=0.1)]
    ((_, saved),) = runs.train_group(runs.Group([taught_by]), dataset, 2, None, runs.no_extra)
    (tmp_path / "teacher.keras").write_bytes(saved)
    group = runs.Group([Run(each, taught_by) for each in recipes], runs.TeacherFiles((saved,)))
    results = runs.train_group(group, dataset, 2, None, logits_too)
    options = f"--data {tiny} --validation 0 --out {tmp_path} --teacher {tmp_path / 'teacher.keras'} --hidden 8"
    options += " --epochs 2 --batch-size 20 --learning-rate 0.01 --seed 1 --temperature 6 --alpha 0.9"
    printed(distill.main, *options.split(), *(f"--{name}={value}" for name, value in changes.items()))
    net = model_files.load(tmp_path / "distilled.keras", *dataset.form)
    np.testing.assert_array_equal(results[1][0]["logits"], classifier.predictor(net)(dataset.test.images))


def test_students_are_trained_together_only_where_they_see_the_same_images(monkeypatch):
    run = Run(replace(STUDENT, translate=0, distort=1.0), TEACHER)
    of = lambda **changes: replace(run, recipe=replace(run.recipe, **changes))
    same = [run, of(hidden=(3,), temperature=1.0, alpha=0.1, crop=1, epochs=2), of(loss="labels")]
    other = [of(seed=1), of(distort=0.5), of(batch_size=9), replace(run, images=Images(labelled=0.5))]
    other += [replace(run, images=Images(classes=(1, 2))), replace(run, teacher=None)]
    assert runs.grouped([*same, *other, TEACHER], 1) == [same, *([each] for each in [*other, TEACHER])]
    monkeypatch.setattr(runs, "AT_ONCE", 20)
    monkeypatch.setattr(runs, "AT_ONCE_DISTORTED", 40)
    for distort, sizes in ((0.0, [34, 33, 33]), (1.0, [50, 50])):  # distorted: the teacher is asked in each epoch
        many = [of(alpha=n / 100, distort=distort) for n in range(100)]
        assert [len(group) for group in runs.grouped(many, 2)] == sizes
    # On labels alone there are only the labelled images.
    assert runs.grouped(same, 1, has_unlabelled=True) == [same[:2], same[2:]]


def test_the_time_left_counts_cropping_pooling_and_a_teacher_that_runs_on_every_view(digits):
    cost = lambda **changes: runs.cost(digits, Run(replace(STUDENT, **changes), TEACHER))
    assert cost(crop=2, pool=2) < cost() < cost(distort=1.0)


# ---- images ----------------------------------------------------------------------------------------------------------

LABELS = np.arange(1000) % 10


def test_errors_are_counted_on_images_that_were_not_trained_on(digits):
    assert [len(split.labels) for split in Images().parts(digits)] == [240, 60]
    train, scored = Images(held_out=40).parts(digits)
    assert (
        np.array_equal(np.concatenate([train.labels, scored.labels]), digits.train.labels) and len(scored.labels) == 40
    )
    train, scored = Images(fold=(1, 4)).parts(digits)
    assert {len(train.labels) + len(scored.labels), len(scored.labels)} == {240, 60}


def test_a_student_is_shown_the_classes_asked_for():
    chosen, kept = Images(classes=(7, 8)).shown(LABELS, 0)
    assert len(chosen) == 200 and set(kept) == {7, 8} and np.array_equal(LABELS[chosen], kept)


def test_labels_are_hidden_or_their_images_left_out():
    chosen, kept = Images(labelled=0.03).shown(LABELS, 0)
    assert len(set(chosen)) == 30 and np.array_equal(LABELS[chosen], kept)
    everything, hidden = Images(labelled=0.03, keep_unlabelled=True).shown(LABELS, 0)
    assert np.array_equal(everything, np.arange(1000))
    known = np.flatnonzero(hidden >= 0)
    assert set(known) == set(chosen) and np.array_equal(hidden[known], LABELS[known])
    assert set(Images(labelled=0.03).shown(LABELS, 1)[0]) != set(chosen)
