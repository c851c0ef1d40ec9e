"""The README's tables say what `results/` says."""

import json
from statistics import mean

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
RUNS = [json.loads((ROOT / "results" / f"main_seed_{seed}.json").read_text()) for seed in (0, 1, 2)]
NETS = {
    "teacher": "teacher, 784-1200-1200-10",
    "student": "student, 784-64-64-10, labels alone",
    "distilled": "the same student, distilled",
}


def row(name):
    """The README's row on a model, from the three runs."""
    runs = [run["models"][name] for run in RUNS]
    errors = [run["test_errors"] for run in runs]
    return (
        f"| {NETS[name]} | {runs[0]['parameters']:,} | **{mean(errors):.1f}** ({', '.join(map(str, errors))})"
        f" | {mean(run['accuracy'] for run in runs):.2%} | {mean(run['nll'] for run in runs):.4f}"
        f" | {mean(run['agreement'] for run in runs):.2%} |"
    )


@pytest.mark.parametrize("name", NETS)
def test_readme_shows_the_runs(name):
    assert row(name) in README


def test_readme_says_what_the_teacher_saved():
    baseline, distilled = (
        mean(run["models"][name]["test_errors"] for run in RUNS) for name in ("student", "distilled")
    )
    assert f"**{1 - distilled / baseline:.1%} fewer errors**" in README


def test_the_results_are_what_the_docstrings_claim():
    for script, name in [("teacher.py", "teacher"), ("student.py", "student"), ("distill.py", "distilled")]:
        errors = [run["models"][name]["test_errors"] for run in RUNS]
        claim = f"{mean(errors):.0f} test errors in 10,000 (mean of seeds 0, 1, 2; {min(errors)} to {max(errors)})"
        assert claim in (ROOT / script).read_text(), f"{script}: {claim}"
