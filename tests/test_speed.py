"""studies/speed.py: the race with two contenders, and what it computes from measured times."""

import os
import signal

from support import UserError

import pytest

from studies import speed


def counting(path):
    """A contender that trains nothing."""
    return lambda: None, None


def crashing(path):
    """A contender that a signal ends."""
    os.kill(os.getpid(), signal.SIGSEGV)


def test_contenders_train_in_processes_of_their_own_and_one_that_crashes_is_named(tmp_path):
    results = speed.race({"counting": counting}, tmp_path, epochs=2, rounds=3)
    assert len(results["counting"]["seconds"]) == 6 and results["counting"]["test_errors"] == [None] * 3
    with pytest.raises(UserError, match="crashing ended with status -11: see .*studies/requirements.txt"):
        speed.race({"crashing": crashing}, tmp_path, epochs=1, rounds=1)


def test_quick_shows_the_race_and_saves_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "teacher.keras").touch()
    race = lambda contenders, path, epochs, rounds: {
        name: {"seconds": [2.0 if name.startswith("JAX") else 1.0] * epochs, "test_errors": [9] * rounds}
        for name in contenders
    }
    monkeypatch.setattr(speed, "race", race)
    monkeypatch.setattr(speed, "PACKAGES", ())
    monkeypatch.setattr("sys.argv", ["speed.py", "--quick", "--teacher", str(tmp_path / "teacher.keras")])
    before = [path.read_bytes() for path in speed.tables.DOCUMENTS + [speed.RESULTS]]
    speed.main()
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| JAX"))
    assert [cell.strip() for cell in row.split("|")[2:6]] == ["2.00", "2.00", "2.0", "9"]
    assert before == [path.read_bytes() for path in speed.tables.DOCUMENTS + [speed.RESULTS]]


def test_sweeps_are_compared_by_their_medians():
    table = speed.sweeps_table({"one worker": [100.0, 118.0, 130.0], "two workers": [70.0, 75.0, 59.0]})
    assert [cell.strip() for cell in table.splitlines()[-1].split("|")[1:4]] == ["two workers", "70, 75, 59", "1.69"]


def test_an_unknown_part_and_a_missing_package_are_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["speed.py", "raec"])
    with pytest.raises(SystemExit) as stopped:
        speed.main()
    assert stopped.value.code == 2
    assert "there is no part 'raec': choose from race, sweeps" in capsys.readouterr().err
    (tmp_path / "teacher.keras").touch()
    monkeypatch.setattr(speed, "PACKAGES", ("nowhere",))
    monkeypatch.setattr("sys.argv", ["speed.py", "--teacher", str(tmp_path / "teacher.keras")])
    with pytest.raises(UserError, match="this needs nowhere: pip install -r studies/requirements.txt"):
        speed.main()
