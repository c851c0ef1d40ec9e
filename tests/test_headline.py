"""The default run with several seeds, and the ladder: what is run, and what its table says."""

import json
import subprocess
from dataclasses import replace

from support import UserError, files, model_files

import pytest
from conftest import ROOT

import distill
import student
import teacher
from studies import headline


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / "studies" / "headline.json").read_text())


def test_the_committed_runs_are_of_the_defaults(record):
    for run in record["runs"]:
        expected = {"teacher": teacher.DEFAULTS, "student": student.DEFAULTS, "distilled": distill.DEFAULTS}
        for name, recipe in expected.items():
            assert recipe.updated(run["settings"][name]) == replace(recipe, seed=run["seed"])


def test_the_default_is_within_a_standard_error_of_the_best_in_the_sweep(record):
    default = headline.default_in(record["sweep"])
    assert default["more"] <= default["standard_error"]


def test_a_command_runs_unless_its_file_is_there_and_its_failure_is_told(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 1 if "bad.py" in command else 0)

    files.write_json(tmp_path / "a.json", {})
    monkeypatch.setattr(subprocess, "run", run)
    headline.run_script(tmp_path / "a.keras", "a.py", "--seed", 3, quick=True)
    assert commands == [["a.py", "--out", str(tmp_path), "--seed", "3"]]
    model_files.save(student.build_student((12, 10), 3), tmp_path / "a.keras", {}, [])
    for name in ("a.keras", "a.json"):
        headline.run_script(tmp_path / name, "a.py", quick=False)
    assert len(commands) == 1
    with monkeypatch.context() as patch:
        patch.setattr(files, "code_sha256", lambda *scripts: "that of edited code")
        for name in ("a.keras", "a.json"):
            headline.run_script(tmp_path / name, "edited.py", quick=False)
    assert [command[0] for command in commands] == ["a.py", "edited.py", "edited.py"]
    del commands[1:]
    for quick in (False, True):
        headline.run_script(tmp_path / "teacher.keras", "teacher.py", quick=quick)
    assert [command[3:] for command in commands[1:]] == [[], ["--epochs", "4"]]
    with pytest.raises(UserError, match=r"bad\.py failed"):
        headline.run_script(tmp_path / "b.keras", "bad.py", quick=False)


@pytest.mark.parametrize("options", ["--seeds 1 --quick", "--seeds 2"])
def test_less_than_the_whole_study_leaves_the_documents_alone(record, options, tmp_path, monkeypatch, printed):
    monkeypatch.setattr(headline, "run_seed", lambda seed, out, quick: out.mkdir(parents=True) or record["runs"][seed])
    kept = {path: path.read_bytes() for path in [ROOT / "README.md", *(ROOT / "studies").glob("headline*")]}
    text = printed(headline.main, "--out", tmp_path, *options.split())
    assert "saves" in text
    assert "the sweep above is the committed one" in text
    assert kept == {path: path.read_bytes() for path in kept}
    folder = tmp_path / "headline" / ("quick" if "--quick" in options else "")
    assert len(json.loads((folder / "headline.json").read_text())["runs"]) == int(options[8])


def test_it_runs_from_any_folder(record, tmp_path, monkeypatch, printed):
    folders = []

    def run_seed(seed, out, quick):
        out.mkdir(parents=True)
        folders.append(out)
        return record["runs"][0]

    monkeypatch.setattr(headline, "run_seed", run_seed)
    monkeypatch.chdir(tmp_path)
    printed(headline.main, "--out", "here", "--seeds", "1", "--quick")
    assert folders == [tmp_path / "here" / "headline" / "quick" / "0"]
