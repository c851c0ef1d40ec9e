"""The README's tables say what `results/` says."""

import json
from statistics import mean, median

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


SPEED = json.loads((ROOT / "results" / "speed.json").read_text())
TIMED = SPEED["distilling"] | SPEED["teaching"]
RACES = {  # what the README calls a contender of benchmarks/contenders.py, and what it is compared with
    "ours": ("distilling: **this project**", "ours"),
    "torch_memory": ("PyTorch at its best: tensors in memory, cached logits, fused Adam", "ours"),
    "torch_loader": ("PyTorch, `DataLoader`, teacher asked on each batch", "ours"),
    "keras_distiller": ("`keras.distillation.Distiller`", "ours"),
    "keras_example": ("keras.io's example", "ours"),
    "ours_teacher": ("the teacher: **this project**", "ours_teacher"),
    "keras_teacher": ("Keras' `fit`, tf.data, `RandomTranslation`", "ours_teacher"),
    "torch_teacher": ("PyTorch in memory, fused Adam", "ours_teacher"),
}
CHANGES = {  # the project without one of its tricks
    "logits_1_view": "the teacher's logits computed once, not in every epoch (student)",
    "teacher_under_xla": "no XLA where there is dropout (teacher)",
    "best_fit": "a loop in the graph instead of the best `fit` (student)",
    "without_xla": "XLA for the whole epoch (student)",
}


def seconds(name):
    return median(TIMED[name]["seconds"])


@pytest.mark.parametrize("name", RACES)
def test_readme_shows_the_race(name):
    called, ours = RACES[name]
    row = f"| {called} | {seconds(name):.2f} | {seconds(name) / seconds(ours):.1f} |"
    assert row in README


@pytest.mark.parametrize("name", CHANGES)
def test_readme_shows_what_each_change_bought(name):
    ours = "ours_teacher" if name.startswith("teacher") else "ours"
    without = seconds(name) + (seconds(ours) if name == "logits_1_view" else 0)
    assert f"| {CHANGES[name]} | {without:.2f} | {seconds(ours):.2f} | {without / seconds(ours):.2f} |" in README


@pytest.mark.parametrize("goal", SPEED["goals"], ids=lambda goal: goal["goal"])
def test_readme_shows_the_goals_met_and_missed(goal):
    sign = "at least" if goal["higher_is_better"] else "at most"
    row = f"| {goal['goal']} | {sign} {goal['bound']:g} | {goal['measured']:.2f} | {'met' if goal['met'] else '**missed**'} |"
    assert row in README
