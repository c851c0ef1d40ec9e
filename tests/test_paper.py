"""The paper's experiments: what each trains on, what is kept of it, and biases that are chosen without test images."""

import json
import sys
from dataclasses import replace

from support import UserError, classifier, files, metrics, model_files, terminal

import numpy as np
import pytest
from conftest import make_dataset

import data
import distill
from studies import paper, runs, study, tables, when_it_helps

SMALL = {"hidden": (16, 16), "epochs": 2, "batch_size": 50}
TENTH = np.full(10, 0.1)


@pytest.fixture
def digits():
    return make_dataset(600, 100, (22, 10), 10)


@pytest.fixture
def run(digits, tmp_path, monkeypatch, capsys, eager):
    """run(folder, *options) -> what paper.py printed; nets and data are small, results go to the folder."""
    for name in ("TEACHER", "LONGER", "DISTORTED", "STUDENT"):
        monkeypatch.setattr(paper, name, replace(getattr(paper, name), **SMALL))
    for name, value in (("HELD_OUT", 60), ("TEMPERATURES", (20,)), ("WIDTHS", {8: 5e-3}), ("SHARES", (0.5,))):
        monkeypatch.setattr(paper, name, value)
    monkeypatch.setattr(data, "load", lambda validation: digits)
    monkeypatch.setattr(tables, "fill", None)  # only five seeds are for the documents

    def run(name, *options):
        for module in (runs, study):
            monkeypatch.setattr(module, "FOLDER", tmp_path / name)
        monkeypatch.setattr(
            sys, "argv", ["paper.py", "--workers", "1", "--out", str(tmp_path / name / "out"), *options]
        )
        (tmp_path / name).mkdir(exist_ok=True)
        terminal.run(paper.main)
        return capsys.readouterr().out

    return run


def records_in(folder):
    """What a results file holds, without what time and place decide."""
    records = json.loads((folder / "paper.json").read_text())["runs"]
    return [{key: value for key, value in record.items() if not key.startswith("seconds")} for record in records]


def test_runs_that_were_stopped_end_like_those_that_were_not(run, tmp_path, monkeypatch):
    options = ("omissions", "--seeds", "1")
    printed = run("whole", *options)
    save = runs.RunStore.save

    def stop_after_the_teacher(store, run, record):
        if run.net == "student":
            raise KeyboardInterrupt
        save(store, run, record)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs.RunStore, "save", stop_after_the_teacher)
        run("stopped", *options)
    assert len(records_in(tmp_path / "stopped")) == 1
    assert "5 runs, 1 of them finished before" in run("stopped", *options)
    assert records_in(tmp_path / "stopped") == records_in(tmp_path / "whole")

    monkeypatch.setattr(study, "submit", None)  # nothing is left to be run: the tables come from the file
    again = run("whole", *options)
    assert "made by other code" not in again
    assert again[again.index("paper_omissions") :] == printed[printed.index("paper_omissions") :]
    monkeypatch.setattr(files, "code_sha256", lambda *scripts: "that of an edited build_student")
    assert "5 of these were made by other code than today's" in run("whole", *options)


def test_every_experiment_runs_and_two_are_drawn(run, tmp_path):
    printed = run("every", "--seeds", "1")
    for table in ("choices", "nets", "temperatures", "best_temperatures", "omissions", "labels"):
        assert f"\npaper_{table}\n" in printed
    assert "| 784-8-8-10 | 20     |" in printed
    for figure in ("temperatures", "labels"):
        assert not (tmp_path / "every" / f"paper_{figure}.png").exists()  # the committed ones have five seeds
        assert len([*tmp_path.rglob(f"paper_{figure}.png")]) == 1
    for record in records_in(tmp_path / "every"):
        assert record["images"] == (record["settings"]["held_out"] or 100)


def test_a_run_keeps_what_it_is_and_which_images_it_has_wrong(run, digits, tmp_path):
    run("kept", "omissions", "--seeds", "1")
    teacher, *students = records_in(tmp_path / "kept")
    assert teacher["settings"]["net"] == "teacher" and all(
        s["settings"]["teacher"] == teacher["settings"] for s in students
    )
    for record in (teacher, *students):
        assert record["images"] == 100 and record["errors"] == len(record["wrong"]) == sum(record["errors_per_class"])
        assert np.array_equal(
            np.bincount(digits.test.labels[record["wrong"]], minlength=10), record["errors_per_class"]
        )
    path = tmp_path / "kept" / "out" / "studies" / "translated_seed0" / "teacher.keras"
    assert classifier.count_errors(model_files.load(path, (22, 10), 10), digits.test) == teacher["errors"]
    assert model_files.load_training(path)[0]["data"] == files.sha256(*digits.train)  # as teacher.py has it


def test_other_data_are_another_run(digits, tmp_path):
    runs.RunStore(digits, tmp_path, tmp_path / "paper.json").save(paper.STUDENT, {"errors": 1})
    store = runs.RunStore(digits, tmp_path, tmp_path / "paper.json")
    assert store.finished[paper.STUDENT]["errors"] == 1
    assert runs.with_seed(paper.STUDENT, 1) not in store.finished
    assert replace(paper.STUDENT, epochs=1) not in store.finished
    inverted = digits._replace(test=data.Split(255 - digits.test.images, digits.test.labels))
    assert not runs.RunStore(inverted, tmp_path, tmp_path / "paper.json").finished


def test_records_from_before_a_setting_are_those_of_its_default(digits, tmp_path):
    store, run = runs.RunStore(digits, tmp_path, tmp_path / "paper.json"), paper.distilled(paper.TEACHER, 4)
    store.save(run, {"errors": 1})
    saved = json.loads((tmp_path / "paper.json").read_text())
    (record,) = saved["runs"]
    for name in ("seed", "crop", "distort", "activation", "student_pixels"):
        del record["settings"][name]
    del record["settings"]["teacher"]["seed"]
    (tmp_path / "paper.json").write_text(json.dumps(saved))
    again = runs.RunStore(digits, tmp_path, tmp_path / "paper.json")
    assert list(again.finished) == [run]
    assert replace(run, crop=1) not in again.finished


def test_every_committed_record_belongs_to_a_run_of_its_study():
    dataset = data.load(validation=0)
    for name, module in (("paper", paper), ("when_it_helps", when_it_helps)):
        store = runs.RunStore(dataset, None, runs.FOLDER / f"{name}.json")
        planned = study.plan(store, {key: store.rows(function) for key, function in module.EXPERIMENTS.items()})
        assert len(store.records) == len(store.finished) and store.finished.keys() <= planned.keys()


@pytest.mark.parametrize("content", ['{"runs": [', "[]", '{"runs": [1]}', '{"runs": ["one"]}'])
def test_a_damaged_results_file_is_refused(digits, tmp_path, content):
    (tmp_path / "paper.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read"):
        runs.RunStore(digits, tmp_path, tmp_path / "paper.json")


def test_wrong_options_are_refused(refusal):
    status, line = refusal(paper.main, "temperature")
    assert status == 2
    assert f"there is no experiment 'temperature': choose from {', '.join(paper.EXPERIMENTS)}" in line


def plan(names, seeds, quick=False):
    store = runs.RunStore(data.load(validation=0), None, runs.FOLDER / "none.json", seeds, quick)
    return study.plan(store, {name: store.rows(paper.EXPERIMENTS[name]) for name in names})


def test_the_time_left_counts_cropping_pooling_and_a_teacher_that_runs_on_every_view(digits, tmp_path):
    store = runs.RunStore(digits, tmp_path, tmp_path / "paper.json")
    plain, taught = paper.STUDENT, paper.distilled(paper.TEACHER, 4)
    on_distorted = replace(taught, distort=1.0)
    cost, alone = study.cost(store, [plain]), study.cost(store, [on_distorted])
    assert study.cost(store, [replace(plain, crop=2, pool=2)]) < cost == study.cost(store, [taught]) < alone
    assert alone < study.cost(store, [on_distorted] * 2) < 2 * alone  # the teacher runs once for both


def test_the_plan_has_a_teacher_before_its_students_and_one_seed_of_what_is_held_out():
    planned = list(plan(paper.EXPERIMENTS, 2))
    for place, run in enumerate(planned):
        assert not run.teacher or run.teacher in planned[:place]
        assert not (run.seed and run.held_out)
    for experiment in paper.EXPERIMENTS.values():
        assert set(experiment().values()) <= set(planned)


def test_quick_is_a_tenth_of_it():
    for long, short in zip(plan(["students"], 1), plan(["students"], 1, quick=True)):
        assert short.epochs == long.epochs // 10
        assert not short.teacher or short.teacher.epochs == long.teacher.epochs // 10


def test_students_are_trained_together_only_where_they_see_the_same_images():
    run = paper.distilled(paper.TEACHER, 4, distort=1.0)
    same = [run, replace(run, hidden=(3,), temperature=1.0, alpha=0.1, crop=1, epochs=2)]
    changes = {"seed": 1, "distort": 0.5, "batch_size": 9, "labelled": 0.5, "classes": (1, 2), "teacher": paper.LONGER}
    other = [replace(run, **{name: value}) for name, value in changes.items()]
    assert study.grouped([*same, *other, paper.TEACHER], 1) == [same, *([each] for each in [*other, paper.TEACHER])]
    assert [len(group) for group in study.grouped([replace(run, alpha=n / 20) for n in range(20)], 2)] == [10, 10]


# ---- transfer sets ---------------------------------------------------------------------------------------------------


def test_a_transfer_set_has_the_classes_asked_for():
    labels = np.arange(1000) % 10
    chosen, kept = runs.transfer_set(labels, replace(paper.STUDENT, classes=(7, 8)))
    assert len(chosen) == 200 and set(kept) == {7, 8} and np.array_equal(labels[chosen], kept)


def test_labels_are_hidden_or_their_images_left_out():
    labels = np.arange(1000) % 10
    run = replace(paper.STUDENT, labelled=0.03)
    chosen, kept = runs.transfer_set(labels, run)
    assert len(set(chosen)) == 30 and np.array_equal(labels[chosen], kept)
    everything, hidden = runs.transfer_set(labels, replace(run, keep_unlabelled=True))
    assert np.array_equal(everything, np.arange(1000))
    known = np.flatnonzero(hidden >= 0)
    assert set(known) == set(chosen) and np.array_equal(hidden[known], labels[known])
    assert set(runs.transfer_set(labels, replace(run, seed=1))[0]) != set(chosen)


def test_an_image_without_a_label_has_the_teachers_part_only():
    random = np.random.default_rng(0)
    teacher, student = random.normal(0, 3, (2, 2, 5)).astype(np.float32)
    losses = distill.distillation_loss(np.array([2, -1]), teacher, student, 4.0, 0.9).numpy()
    both = distill.distillation_loss(np.array([2, 2]), teacher, student, 4.0, 0.9).numpy()
    soft = distill.distillation_loss(np.array([2, 2]), teacher, student, 4.0, 1.0).numpy()
    assert losses[0] == both[0]
    assert losses[1] == pytest.approx(0.9 * soft[1], rel=1e-6)


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
