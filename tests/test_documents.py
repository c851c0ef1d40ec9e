"""The documents: their tables are what the records say, their links lead somewhere, the code keeps to its arrows."""

import ast
import functools
import importlib
import json
import re

import pytest
from conftest import ROOT
from test_studies import committed

from studies import study, tables

OTHERS = [ROOT / "tests" / "faults.md", ROOT / "CONTRIBUTING.md", ROOT / "tools" / "README.md"]
DOCUMENTS = [*tables.DOCUMENTS, *OTHERS]


@functools.cache
def texts():
    """{name: Markdown} of every table that a document can have."""
    filled_in = {}
    for path in study.FOLDER.glob("*.json"):  # each study has one
        module, saved = importlib.import_module(f"studies.{path.stem}"), json.loads(path.read_text())
        has_runs = "run" in saved.get("runs", [{}])[0]
        filled_in |= module.texts(committed(module) if has_runs else saved)
    return filled_in


@pytest.mark.parametrize("path", tables.DOCUMENTS, ids=lambda path: path.name)
def test_filling_the_tables_in_changes_nothing(path):
    text = path.read_text()
    assert {name for _, name, _ in tables.BLOCK.findall(text)} <= texts().keys()
    assert tables.filled(text, texts()) == text


def test_every_table_has_a_place():
    placed = {name for path in tables.DOCUMENTS for _, name, _ in tables.BLOCK.findall(path.read_text())}
    assert placed == texts().keys()


def test_a_table_is_filled_in_between_its_marks():
    old = "a\n<!-- table: one -->\nold\n<!-- end -->\n<!-- table: other -->\nkept\n<!-- end -->\n"
    new = tables.filled(old, {"one": tables.markdown(["net", "errors"], [["a", tables.spread([70, 72])]])})
    assert new == old.replace("old", "| net | errors     |\n| --- | ---------- |\n| a   | 71.0 ± 1.4 |")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_lines_of_the_readme_are_short_but_for_tables_and_what_is_pasted():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if not line.startswith(("|", "!", "    "))]
    assert max(map(len, lines)) <= 100


@pytest.mark.quick
def test_each_command_of_the_readme_sets_up_what_it_needs():
    """Each is one line, to be pasted in any order into a fresh machine."""
    lines = [line.strip() for line in (ROOT / "README.md").read_text().splitlines() if "pip install" in line]
    assert len(lines) == 2
    assert all(line.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install -r ") for line in lines)
    assert lines[1].split("activate && ")[1] in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("script", ["teacher", "student", "distill"])
def test_docstrings_claim_what_was_measured(script):
    by_seed = json.loads((study.FOLDER / "headline.json").read_text())["runs"]
    name = {"distill": "distilled"}.get(script, script)
    errors = [run["metrics"]["models"][name]["test_errors"] for run in by_seed]
    spread = f"mean of {len(errors)} seeds; {min(errors)} to {max(errors)}"
    claim = f"{sum(errors) / len(errors):.0f} test errors in 10,000 ({spread})"
    assert claim in " ".join((ROOT / f"{script}.py").read_text().split())


ALLOWED = {  # who may import whom, of this project
    "support": {"support"},
    "minimal.py": set(),
    "data.py": {"support"},
    "teacher.py": {"support", "data"},
    "student.py": {"support", "data"},
    "distill.py": {"support", "data", "student"},
    "evaluate.py": {"support", "data", "distill"},
}


def test_imports_go_one_way():
    own = {"support", "tools", "studies", "minimal", "data", "teacher", "student", "distill", "evaluate"}
    for path in [*ROOT.glob("*.py"), *(ROOT / "support").glob("*.py")]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []  # imports for the hints only
        names = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        names |= {name.name.split(".")[0] for node in imports for name in node.names}
        assert names & own <= ALLOWED[path.name if path.parent == ROOT else "support"], path
