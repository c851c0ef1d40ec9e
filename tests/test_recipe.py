"""What tells one training run from another: its settings, each declared once, and the code."""

import re
import shutil

from support import files

from conftest import ROOT, python

NEW_FIELDS = {  # file: its recipe, and the field that this test adds to it
    "support/recipe.py": ("TrainingRecipe", "of_all"),
    "teacher.py": ("TeacherRecipe", "of_teacher"),
    "student.py": ("StudentRecipe", "of_student"),
    "distill.py": ("DistillRecipe", "of_distilled"),
}
TRIED = """
import contextlib, io, sys
from dataclasses import replace
from pathlib import Path
from support import model_files, terminal
import tensorflow as tf
import distill, student, teacher
from studies import runs
from tools import sweep

tf.config.run_functions_eagerly(True)
DATA, OUT = sys.argv[1:]

def printed(main, options):
    sys.argv = [f"{main.__module__.split('.')[-1]}.py", *options.split()]
    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.suppress(SystemExit):
        terminal.run(main)
    return stdout.getvalue()

def saved(name):
    return model_files.load_training(f"{OUT}/{name}.keras")[0]

short = f"--data {DATA} --out {OUT} --epochs 1 --batch-size 20 --hidden 8"
taught = "--of-all 2 --of-student 4 --of-distilled 5"
printed(teacher.main, f"{short} --of-all 2 --of-teacher 3")
assert (saved("teacher")["of_all"], saved("teacher")["of_teacher"]) == (2, 3)
printed(distill.main, f"{short} {taught}")
assert (saved("student")["of_all"], saved("student")["of_student"]) == (2, 4)
assert [saved("distilled")[name] for name in ("of_all", "of_student", "of_distilled")] == [2, 4, 5]
for main, names in ((teacher.main, ["all", "teacher"]), (student.main, ["all", "student"]),
                    (distill.main, ["all", "student", "distilled"]), (sweep.main, ["all", "student", "distilled"])):
    text = printed(main, "--help")
    for name in names:
        assert f"--of-{name}" in text, (main, name)
choice = f"{short} --temperatures 2 --alphas 0.5 --seeds 1"
for more in ("", "--of-all 2", "--of-student 2", "--of-distilled 2"):
    assert "2 runs, 0 of them finished" in printed(sweep.main, f"{choice} {more}"), more
    assert "2 runs, 2 of them finished" in printed(sweep.main, f"{choice} {more}"), more
printed(sweep.main, f"{choice} --grid of_distilled=2,3")
paths = Path(OUT, "sweep").glob("T2_alpha0.5_seed0_*.keras")
assert sorted(model_files.load_training(path)[0]["of_distilled"] for path in paths) == [1, 1, 1, 2, 3]
for recipe, names in ((teacher.DEFAULTS, ["all", "teacher"]), (distill.DEFAULTS, ["all", "student", "distilled"])):
    for name in names:
        run, other = runs.Run(recipe), runs.Run(replace(recipe, **{f"of_{name}": 2}))
        assert other != run and other.settings()["recipe"][f"of_{name}"] == 2 and runs.Run.of(other.settings()) == other
"""


def test_a_new_field_is_an_option_is_saved_and_tells_two_runs_apart(tmp_path, tiny):
    """In a copy of the project, whose recipes have a field more."""
    for folder in ("support", "tools", "studies"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.json", "*.png", "__pycache__")
        )
    for path in [*ROOT.glob("*.py"), ROOT / "mnist.npz"]:
        (tmp_path / path.name).symlink_to(path)
    for name, (recipe, field) in NEW_FIELDS.items():
        new = f'\n    {field}: int = setting(1, int, "a new field")'
        text, count = re.subn(rf'(class {recipe}\(.*\n    """.*""")\n', rf"\1\n{new}\n", (ROOT / name).read_text())
        assert count == 1
        (tmp_path / name).unlink()
        (tmp_path / name).write_text(text)
    done = python("-c", TRIED, tiny, tmp_path / "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_edited_code_has_another_sha256_and_edited_comments_have_not(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    texts = {
        "teacher.py": "import data\n",
        "distill.py": '"""Distil."""\n\nfrom support import training\nimport data, numpy\n',
        "data.py": 'def load(path):\n    """Load."""\n    return path, 1\n',
        "support/__init__.py": "",
        "support/training.py": "class Run:\n    rate = 1  # the rate\n",
        "support/unused.py": "",
        "evaluate.py": "import distill\n",
    }

    def sha256(*scripts, **edited):
        for name, text in (texts | {f"{name}.py": text for name, text in edited.items()}).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        return files.code_sha256.__wrapped__(*scripts)

    before = sha256()
    same = {
        "data": '# data\ndef load(path):\n    """Load it.\n\n    Now."""\n    return (path,  1)\n',
        "evaluate": "1\n",
    }
    assert sha256(**same | {"support/training": "class Run:\n    rate = 1\n", "support/unused": "1\n"}) == before
    for name, text in (
        ("data", texts["data.py"].replace("1", "2")),
        ("support/training", "class Run:\n    rate = 2\n"),
        ("teacher", "import data\nprint(data)\n"),
    ):
        assert sha256(**{name: text}) != before, name
    assert len({before, sha256("evaluate.py"), sha256("evaluate.py", evaluate="import distill\n1\n")}) == 3
