"""studies/speed.py: its quick version, and what it computes from measured times. The contenders themselves are not
run.
"""

import subprocess
import sys

from support import UserError

import pytest

from studies import speed


def test_quick_shows_the_race_and_saves_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "teacher.keras").touch()
    race = lambda names, teacher, epochs, rounds: {
        name: {"seconds": [2.0 if name == "jax_scan" else 1.0]} for name in names
    }
    monkeypatch.setattr(speed, "race", race)
    monkeypatch.setattr("sys.argv", ["speed.py", "--quick", "--teacher", str(tmp_path / "teacher.keras")])
    before = [path.read_bytes() for path in speed.tables.DOCUMENTS + [speed.RESULTS]]
    speed.main()
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| JAX"))
    assert row.split("|")[2:4] == [" 2.00    ", " 2.0        "]
    assert before == [path.read_bytes() for path in speed.tables.DOCUMENTS + [speed.RESULTS]]


def test_many_cores_are_computed_from_measured_times():
    # a sweep that finds everything takes 10 s, of two students 7 s; two students with two workers 15 s
    seconds = {"one worker": [100.0, 118.0, 130.0], "two workers": [70.0, 75.0, 59.0]}
    seconds |= {"finished": 10.0, "one each": 15.0, "one each finished": 7.0}
    rows = [*speed.side_by_side_rows({"side_by_side": seconds})]
    assert rows[1] == ["two workers", "70, 75, 59", "1.69"]
    assert rows[-1] == ["64 cores, 54 of them used (computed)", "18", "6.56"]


def test_an_unknown_part_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["speed.py", "raec"])
    with pytest.raises(SystemExit) as stopped:
        speed.main()
    assert stopped.value.code == 2
    assert "there is no part 'raec': choose from distilling" in capsys.readouterr().err


def test_a_contender_that_crashes_is_named(tmp_path):
    (tmp_path / "crash.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    command = [sys.executable, tmp_path / "crash.py", "torch_memory"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with pytest.raises(UserError, match="torch_memory ended before it answered: signal 11; .*studies/requirements.txt"):
        speed.answer(process)
