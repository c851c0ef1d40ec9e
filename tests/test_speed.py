"""studies/speed.py: races of made-up contenders, and the tables of made-up numbers."""

import os
import signal
from dataclasses import replace

from support import UserError

import numpy as np
import pytest

import data
from studies import contenders, speed


def counting(path):
    """A contender that trains nothing."""
    return lambda: None, None


def crashing(path):
    """A contender that a signal ends."""
    os.kill(os.getpid(), signal.SIGSEGV)


def unlearning(path, recipe):
    """A contender that has one more image wrong after each epoch, and begins with as many as its seed says."""
    wrong = [None] * recipe.seed

    def predict(images):
        labels = contenders.digits().test.labels.copy()
        labels[: len(wrong)] -= 1
        return np.eye(10)[labels]

    return lambda: wrong.append(None), predict


def cells(table, first):
    """The cells of the row of a table that begins with `first`."""
    (row,) = (line for line in table.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in row.split("|")[2:-1]]


@pytest.fixture
def few(monkeypatch, eager):
    """500 images of noise in place of MNIST."""
    images = np.random.default_rng(0).integers(256, size=(500, 28, 28)).astype(np.uint8)
    split = data.Split(images, np.arange(500, dtype=np.int32) % 10)
    monkeypatch.setattr(contenders, "digits", lambda: data.Dataset(split, split, split, 10))


def test_contenders_train_in_processes_of_their_own_and_one_that_crashes_is_named(tmp_path):
    results = speed.race({"counting": counting, "two workers": counting}, tmp_path, epochs=2, rounds=3)
    assert {name: len(result["seconds"]) for name, result in results.items()} == {"counting": 6, "two workers": 12}
    with pytest.raises(UserError, match="crashing ended with status -11: see .*studies/requirements.txt"):
        speed.race({"crashing": crashing}, tmp_path, epochs=1, rounds=1)


def test_quick_shows_a_round_of_each_part_and_saves_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "teacher.keras").touch()
    race = lambda group, path, epochs, rounds: {
        name: {"seconds": [2.0 if name.startswith(("JAX", "8")) else 1.0] * epochs * rounds} for name in group
    }
    monkeypatch.setattr(speed, "race", race)
    monkeypatch.setattr(speed, "ERROR_CONTENDERS", {"unlearning": (unlearning, "none")})
    monkeypatch.setattr(speed, "PACKAGES", ())
    monkeypatch.setattr("sys.argv", ["speed.py", "--quick", "--teacher", str(tmp_path / "teacher.keras")])
    before = [path.read_bytes() for path in speed.tables.DOCUMENTS + [speed.RESULTS]]
    speed.main()
    printed = capsys.readouterr().out
    assert cells(printed, "an epoch of the student | JAX")[1:] == ["2.00", "2.00", "2.0"]
    assert cells(printed, "8 students") == ["8", "2.00", "2.00", "0.250", "0.25"]
    assert cells(printed, "unlearning") == ["none", "1"]
    assert before == [path.read_bytes() for path in speed.tables.DOCUMENTS + [speed.RESULTS]]


def test_errors_are_those_after_ten_epochs_with_each_of_three_seeds(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "ERROR_CONTENDERS", {"unlearning": (unlearning, "none")})
    errors = speed.measure_errors(tmp_path)
    assert errors == {"unlearning": [10, 11, 12]}
    assert cells(speed.errors_table(errors), "unlearning") == ["none", "11.0 ± 1.0 (10, 11, 12)"]


def test_contenders_of_the_errors_begin_with_the_same_weights(few, tmp_path):
    path, images = tmp_path / "teacher.keras", contenders.digits().train.images
    contenders.build_student().save(path)

    def first_logits(name, seed):
        contender, _ = speed.ERROR_CONTENDERS[name]
        return contender(path, replace(speed.ERRORS, seed=seed))[1](images)

    ours, *others = (name for name in speed.ERROR_CONTENDERS if "this project" in name or "Distiller" in name)
    for name in others:
        assert np.array_equal(first_logits(name, 1), first_logits(ours, 1))
    assert not np.allclose(first_logits(ours, 1), first_logits(ours, 2))


def test_students_are_all_trained_in_an_epoch(few, monkeypatch):
    monkeypatch.setattr(contenders, "NUM_IMAGES_TOGETHER", 500)
    trained = []
    train_epoch = contenders.training.Trainer.train_epoch

    def recording(run, **options):
        train_epoch(run, **options)
        trained.append(options["number"])

    monkeypatch.setattr(contenders.training.Trainer, "train_epoch", recording)
    epoch, _ = contenders.students_at_once(None, 3, cores=2)
    epoch()
    epoch()
    assert trained == [1, 1, 1, 2, 2, 2]


def test_the_race_is_compared_with_this_project_by_medians():
    results = {"seconds": [0.3, 0.1, 0.2]}, {"seconds": [0.5, 0.3, 0.9]}
    table = speed.race_table({"student": dict(zip((speed.OURS, "JAX"), results))})
    assert cells(table, "an epoch of the student | JAX")[1:] == ["0.30", "0.50", "2.5"]
    assert cells(table, "an epoch of the student | **this")[1:] == ["0.10", "0.20", "1.0"]


def test_the_time_to_a_result_is_that_of_all_epochs_and_of_the_logits(monkeypatch):
    race = {net: {name: {"seconds": [1.0]} for name in group} for net, group in speed.CONTENDERS.items()}
    race["teacher"][speed.A_FIFTH]["seconds"] = [0.25, 0.5, 9.0]
    short, long = (replace(contenders.TEACHER, epochs=epochs) for epochs in (5, 9))
    few, many = (replace(speed.RACE, epochs=epochs) for epochs in (10, 20))
    hard = replace(contenders.TEACHER, epochs=13, select=0.2), replace(speed.RACE, epochs=10, select=0.4)
    lengths = {(short, few): [130, 110], (short, many): [101, 99], (long, few): [100, 120], hard: [90, 92]}
    fronts = speed.fronts(race, lengths)
    (of_hard,) = fronts["**this project**, on the hard images"]
    assert of_hard[0] == (3 + 10 * 0.5, 1, 10)  # three epochs of all images, ten at the median of 0.5 seconds
    assert [errors for *_, errors in fronts["this project, on every image"]] == [[130, 110], [100, 120], [101, 99]]
    times = [[sum(parts) for parts, *_ in front] for row, front in fronts.items() if "hard" not in row]
    assert times == [[16, 20, 26], [16, 20, 26], [16, 20, 26], [15, 19, 25]]  # the Distiller needs no logits before
    monkeypatch.setattr(speed, "measured_lengths", lambda: lengths)
    table = speed.result_table(race)
    assert cells(table, "**this") == ["13", "10", "8.0", "1.0", "10.0", "19.0", "1.0", "91.0 ± 1.4 (90, 92)"]
    assert cells(table, "PyTorch") == ["5", "20", "5.0", "1.0", "20.0", "26.0", "1.4", "100.0 ± 1.4 (101, 99)"]


def test_students_together_are_compared_with_one_student_alone():
    seconds = dict(zip(speed.TOGETHER, ([0.2, 0.1, 0.3], [0.8, 0.9, 0.7], [2.4], [1.6, 1.6], [3.0])))
    table = speed.together_table({"student": {name: {"seconds": times} for name, times in seconds.items()}})
    assert cells(table, "8 students") == ["8", "0.70", "0.80", "0.100", "0.50"]
    assert cells(table, "two workers") == ["16", "1.60", "1.60", "0.100", "0.50"]
    assert cells(table, "`Distiller`") == ["1", "3.00", "3.00", "3.000", "15.00"]


def test_a_part_that_was_not_measured_has_no_table():
    assert list(speed.texts({"errors": {"JAX": [1]}, "machines": {}})) == ["speed_errors"]


def test_an_unknown_part_and_a_missing_package_are_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["speed.py", "raec"])
    with pytest.raises(SystemExit) as stopped:
        speed.main()
    assert stopped.value.code == 2
    assert "there is no part 'raec': choose from race, errors, together" in capsys.readouterr().err
    (tmp_path / "teacher.keras").touch()
    monkeypatch.setattr(speed, "PACKAGES", ("nowhere",))
    monkeypatch.setattr("sys.argv", ["speed.py", "--teacher", str(tmp_path / "teacher.keras")])
    with pytest.raises(UserError, match="this needs nowhere: pip install -r studies/requirements.txt"):
        speed.main()
