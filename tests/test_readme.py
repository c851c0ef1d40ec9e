"""The README's tables say what `results/` says."""

import json
from statistics import mean, median, stdev

import pytest
from conftest import ROOT

import data
import experiments
import frontier
import paper

README = (ROOT / "README.md").read_text()
RUNS = [json.loads((ROOT / "results" / f"main_seed_{seed}.json").read_text()) for seed in (0, 1, 2)]
PAPER = json.loads((ROOT / "results" / "paper.json").read_text())["runs"]
SWEEP = json.loads((ROOT / "results" / "sweep.json").read_text())
EXPORTS = [json.loads((ROOT / "results" / f"export_seed_{seed}.json").read_text()) for seed in (0, 1, 2)]
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


def trust_row(name):
    """The README's row on how far a model's probabilities can be trusted."""
    rows = [run["models"][name] for run in RUNS]
    keys = ["nll", "ece", "best_temperature", "nll_at_best_temperature", "ece_at_best_temperature", "kl_to_teacher"]
    cells = (
        format(mean(row[key] for row in rows), form)
        for key, form in zip(keys, [".4f", ".2%", ".2f", ".4f", ".2%", ".4f"])
    )
    return f"| {name} | {' | '.join(cells)} |"


@pytest.mark.parametrize("name", NETS)
def test_readme_shows_how_far_probabilities_can_be_trusted(name):
    assert trust_row(name) in README


def sweep_row(temperature):
    """The README's row of the sweep: errors on the validation images at a temperature, for each alpha."""
    cells = []
    for alpha in sorted({run["alpha"] for run in SWEEP["runs"]}):
        wrong = [
            run["validation_errors"]
            for run in SWEEP["runs"]
            if (run["temperature"], run["alpha"]) == (temperature, alpha)
        ]
        cells.append(f"{mean(wrong):.1f} ({min(wrong)}-{max(wrong)})")
    return f"| {temperature:g} | {' | '.join(cells)} |"


@pytest.mark.parametrize("temperature", sorted({run["temperature"] for run in SWEEP["runs"]}))
def test_readme_shows_the_sweep_and_its_choice(temperature):
    assert sweep_row(temperature) in README
    chosen = SWEEP["chosen"]
    assert f"`--temperature {chosen['temperature']:g} --alpha {chosen['alpha']:g}`" in README
    assert f"{mean(chosen['test_errors']):.1f} test errors ({', '.join(map(str, chosen['test_errors']))})" in README


def export_row(place):
    """The README's row on a file of an export: its bytes, and what each seed's does."""
    name = list(EXPORTS[0])[place]
    rows = [run[name] for run in EXPORTS]
    cells = [f"{rows[0]['bytes']:,}", ", ".join(str(row["test_errors"]) for row in rows)]
    for key in ("answers_unlike_keras", "microseconds_for_one_image"):
        cells.append(", ".join(str(row[key]) for row in rows if key in row))
    return f"| {name} | {' | '.join(cells)} |"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_readme_shows_the_exports(place):
    assert export_row(place) in README


def test_exports_keep_the_classes_and_int8_is_a_third_at_most():
    for run in EXPORTS:
        plain, small = run["distilled.tflite"], run["distilled_int8.tflite"]
        assert plain["answers_unlike_keras"] == 0
        assert small["bytes"] <= plain["bytes"] / 3
    losses = [run["distilled_int8.tflite"]["test_errors"] - run["distilled.keras"]["test_errors"] for run in EXPORTS]
    assert mean(losses) <= 5


def test_readme_says_what_the_teacher_saved():
    baseline, distilled = (
        mean(run["models"][name]["test_errors"] for run in RUNS) for name in ("student", "distilled")
    )
    assert f"**{1 - distilled / baseline:.1%} fewer errors**" in README
    chances = [f"{run['comparisons']['student -> distilled']['mcnemar_p']:.2g}" for run in RUNS]
    assert f"p = {chances[0]}, {chances[1]} and {chances[2]})" in README


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
    "teacher_with_keras_dropout": "dropout from 16 random bits a unit, not from a float (teacher)",
    "teacher_with_keras_adam": "Adam in one pass over memory (teacher)",
    "teacher_with_plain_crop": "XLA for the translation (teacher)",
    "gathered_in_the_graph": "an epoch's rows copied at once, before the graph (student)",
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


def test_readme_says_what_stands_in_the_way():
    floor, ours, torch = (seconds(name) for name in ("floor_student", "ours", "torch_memory"))
    assert (
        f"take {floor:.3f} s; our whole epoch takes {ours:.3f} s, and a quarter of PyTorch's would be {torch / 4:.3f} s"
        in README
    )


def test_readme_compares_the_fastest_epochs_too():
    ours, distiller, torch = (min(TIMED[name]["seconds"]) for name in ("ours", "keras_distiller", "torch_memory"))
    assert f"the Distiller takes {distiller / ours:.1f} and PyTorch {torch / ours:.1f} times as long as we do" in README


@pytest.mark.parametrize("goal", SPEED["goals"], ids=lambda goal: goal["goal"])
def test_readme_shows_the_goals_met_and_missed(goal):
    sign = "at least" if goal["higher_is_better"] else "at most"
    row = f"| {goal['goal']} | {sign} {goal['bound']:g} | {goal['measured']:.2f} | {'met' if goal['met'] else '**missed**'} |"
    assert row in README


# ---- the paper -------------------------------------------------------------------------------------------------------


def paper_runs(settings):
    return sorted((run for run in PAPER if run["settings"] == settings), key=lambda run: run["seed"])


def cell(errors):
    return f"{mean(errors):,.1f} ± {stdev(errors):.1f}" if len(errors) > 1 else f"{errors[0]:,}"


def paper_row(name, published, errors):
    """The README's row: errors the paper states, mean and standard deviation of ours, and each seed's."""
    return f"| {name} | {published or ''} | {cell(errors)} | {', '.join(f'{error:,}' for error in errors)} |"


def paper_rows():
    """The README's rows on every experiment but `temperatures`: once each, where there are runs."""
    seen = []
    for name, experiment in paper.EXPERIMENTS.items():
        for row, (settings, published) in experiment().items():
            runs = paper_runs(settings)
            if name == "temperatures" or not runs or settings in seen:
                continue
            seen.append(settings)
            if settings["held_out"]:
                row += f", wrong of {settings['held_out']:,} held out"
            if name == "omissions":
                yield omission_row(row, published, runs, settings["classes"])
            else:
                yield paper_row(row, published, [run["errors"] for run in runs])


def omission_row(name, published, runs, classes):
    """The README's row on a transfer set that lacks classes: errors, and of them those on these classes, for each way."""
    cells = []
    for way in (None, *runs[0]["corrected"]):
        scores = [run["corrected"][way] if way else run for run in runs]
        left_out = [
            sum(number for label, number in enumerate(score["errors_per_class"]) if label not in classes)
            for score in scores
        ]
        cells.append(f"{cell([score['errors'] for score in scores])} ({mean(left_out):,.0f})")
    return f"| {name} | {published:,} | {' | '.join(cells)} |"


def test_readme_says_what_300_epochs_gave_the_distorted_teacher():
    (run,) = [run for run in PAPER if run["settings"].get("kind") == "distorted_longer"]
    assert f"300 epochs instead of 100 left the distorted teacher of seed {run['seed']} at {run['errors']}." in README


@pytest.mark.parametrize("row", list(paper_rows()))
def test_readme_shows_the_paper_s_experiments(row):
    assert row in README


def finished_widths():
    """Those of the students in `temperatures` that were run at each temperature, and with how many seeds."""
    rows = paper.temperatures()
    for width in paper.WIDTHS:
        seeds = min(len(paper_runs(rows[f"2x{width}, T {temperature:g}"][0])) for temperature in paper.TEMPERATURES)
        if seeds:
            yield width, seeds


@pytest.mark.parametrize("temperature", paper.TEMPERATURES)
def test_readme_shows_the_paper_s_temperatures(temperature):
    assert temperature_row(temperature) in README


def temperature_row(temperature):
    """The README's row on a temperature: mean and standard deviation of the errors, for each width."""
    rows = paper.temperatures()
    runs = [paper_runs(rows[f"2x{width}, T {temperature:g}"][0]) for width, _ in finished_widths()]
    return f"| {temperature:g} | {' | '.join(cell([run['errors'] for run in some]) for some in runs)} |"


@pytest.mark.parametrize(("width", "seeds"), list(finished_widths()))
def test_readme_shows_how_sure_the_best_temperature_is(width, seeds):
    lab = experiments.Lab(data.load(validation=0), None, ROOT / "results" / "paper.json")
    assert paper.compare_temperatures(lab, width, seeds, quick=False) in README


# ---- the frontier ----------------------------------------------------------------------------------------------------

FRONTIER = json.loads((ROOT / "results" / "frontier.json").read_text())["runs"]


TRIED = {  # changes of the recipe that no part of it stands for: what their records' settings have beside the recipe's
    "five teachers, their probabilities averaged": {"averaged": 5},
    "moving average of the weights, over 2,000 steps": {"ema": 0.9995},
    "logit standardisation (Sun et al. 2024)": {"loss": "standardised"},
    "weighted transformed teacher (Zheng & Yang 2024)": {"loss": "transformed"},
    "decoupled distillation (Zhao et al. 2022)": {"loss": "decoupled"},
}


def frontier_runs(settings):
    return sorted((run for run in FRONTIER if run["settings"] == settings), key=lambda run: run["seed"])


def each(runs):
    """'mean ± standard deviation (each)' of these runs' errors; '' if there are none."""
    errors = [run["errors"] for run in runs]
    return f"{cell(errors)} ({', '.join(f'{error:,}' for error in errors)})" if errors else ""


def frontier_row(hidden):
    """The README's row on a net of these hidden units: the errors of each kind that was run; None where none was."""
    cells = [each(frontier_runs(settings)) for settings in frontier.rows_of([hidden]).values()]
    how = {"crop": 0} | frontier.SIZES[hidden]
    side = -(-(28 - 2 * how["crop"]) // how["pool"])
    net = "-".join(map(str, [784 if side == 28 else f"{side}x{side}", *hidden, 10]))
    return f"| {net} | {frontier.parameters(hidden):,} | {' | '.join(cells)} |" if any(cells) else None


@pytest.mark.parametrize("line", list(filter(None, map(frontier_row, frontier.SIZES))))
def test_readme_shows_the_frontier(line):
    assert line in README


def part_rows():
    """The README's rows on what each part of the recipe does."""
    recipe = frontier.parts()["the recipe"]
    reference = frontier_runs(recipe)
    for name, settings in (frontier.parts() | {name: recipe | change for name, change in TRIED.items()}).items():
        runs = frontier_runs(settings)
        same_seeds = [run for run in reference if run["seed"] in [one["seed"] for one in runs]]
        if runs:
            more = "" if settings == recipe else frontier.against(runs, same_seeds)
            yield f"| {name} | {each(runs)} | {more} |"


@pytest.mark.parametrize("line", list(part_rows()))
def test_readme_shows_what_each_part_does(line):
    assert line in README
