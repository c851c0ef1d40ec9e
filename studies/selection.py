"""Training on the images that are still hard: what it does for teachers and students. The results: selection.md.

    python studies/selection.py                     5 seeds, about three hours on two cores
    python studies/selection.py --quick --seeds 1   a small version, in minutes, kept apart

Errors are counted on the 5,000 validation images, on which the settings were chosen; those on the test images are
recorded beside them. "Work" is the number of images that a run trains on, in epochs of all images. Every run is saved
to studies/selection.json at once and never repeated.
"""

import itertools
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import classifier, metrics, selection, terminal

import data
import distill
from studies import runs, study, tables
from studies.runs import Images, Run

VALIDATION = 5000
digits = cache(partial(data.load, validation=VALIDATION))
HERE = Images(validation=True)
MISLABELLED = replace(HERE, mislabelled=0.05)
TEACHER = runs.EVERY_IMAGE
TEACHERS = {
    "every image, 45 epochs": TEACHER,
    "every image, 20 epochs": replace(TEACHER, epochs=20),
    "two fifths, 48 epochs": replace(TEACHER, epochs=48, select=0.4),
    "one fifth, 50 epochs": replace(TEACHER, epochs=50, select=0.2),
}
WHOLE, SELECTED = "every image, 45 epochs", "two fifths, 48 epochs"
STUDENT = distill.DistillRecipe()
STUDENTS = {
    "every image, 150 epochs": STUDENT,
    "every image, 64 epochs": replace(STUDENT, epochs=64),
    "two fifths, 155 epochs": replace(STUDENT, epochs=155, select=0.4),
    "two fifths, 370 epochs": replace(STUDENT, epochs=370, select=0.4),
}
LENGTHS = {  # the shares of the images of teacher and student: epochs of teachers, and of their students
    (1.0, 1.0): ((12, 20), (20, 40, 64, 100, 150)),
    (0.2, 0.4): ((25, 50), (40, 95, 155)),
}


def teachers():
    """Teachers on every image and on a share of them. About 8 minutes a seed."""
    return {name: Run(recipe, images=HERE) for name, recipe in TEACHERS.items()}


def taught():
    """A student of each teacher, on every image. A minute a seed, after the teachers."""
    return {f"{name}: its student": Run(STUDENT, run, HERE) for name, run in teachers().items()}


def students():
    """Students on every image and on a share of them, distilled and on labels alone. About 3 minutes a seed."""
    rows = {}
    for name, recipe in STUDENTS.items():
        rows[f"{name}: labels alone"] = Run(replace(recipe, loss="labels"), images=HERE)
        rows[f"{name}: distilled"] = Run(recipe, Run(TEACHERS[SELECTED], images=HERE), HERE)
    return rows


def mislabelled():
    """The same where 5 % of the training labels were changed. About 7 minutes a seed."""
    rows = {name: Run(TEACHERS[name], images=MISLABELLED) for name in (WHOLE, SELECTED)}
    for name in (WHOLE, SELECTED):
        rows[f"{name}: student"] = Run(STUDENT, rows[name], MISLABELLED)
    for name in ("every image, 150 epochs", "two fifths, 155 epochs"):
        rows[f"{name}: labels alone"] = Run(replace(STUDENTS[name], loss="labels"), images=MISLABELLED)
    return rows


def lengths():
    """Students after shorter trainings of teacher and student, for speed.md. About 6 minutes a seed."""
    rows = {}
    for shares, epochs in LENGTHS.items():
        for both in itertools.product(*epochs):
            taught_by = Run(replace(TEACHER, epochs=both[0], select=shares[0]), images=HERE)
            name = ", ".join(f"{share:.0%} for {number}" for share, number in zip(shares, both))
            rows[name] = Run(replace(STUDENT, epochs=both[1], select=shares[1]), taught_by, HERE)
    return rows


def whole_epochs(recipe):
    """How many of its epochs have all images."""
    return min(recipe.epochs, selection.WHOLE_EPOCHS) if recipe.select < 1 else recipe.epochs


def work(recipe):
    """How many epochs of all images a run's steps would be."""
    whole = whole_epochs(recipe)
    return whole + recipe.select * (recipe.epochs - whole)


def probabilities(run, model, train, logits, labels):
    """What is recorded beside the errors: how good the probabilities are, and the errors in the test images."""
    best = metrics.best_temperature(labels, logits)
    return {
        "nll": metrics.nll(labels, logits),
        "ece": metrics.ece(labels, logits),
        "best_temperature": best,
        "nll_at_best": metrics.nll(labels, logits / best),
        "test_errors": classifier.count_errors(model, digits().test),
    }


def table(here, experiment):
    """A row for each complete row of an experiment; differences are from the first row with the same last words.

    Those of `lengths` have none.
    """
    lines, first = [], {}
    for name, run in here.rows(experiment).items():
        if not (records := here.of(run)):
            continue
        kind = name.partition(": ")[2]
        less = runs.difference(records, first[kind]) if kind in first and experiment != lengths else ""
        first.setdefault(kind, records)
        row = [name, f"{work(run.recipe):.0f}", tables.spread_and_each(here.errors(run)), less]
        row += [format(mean(record[key] for record in records), ".4f") for key in ("nll", "ece")]
        row += [f"{mean(record['best_temperature'] for record in records):.2f}"]
        lines.append([*row, tables.spread_and_each([record["test_errors"] for record in records])])
    header = [
        "",
        "work",
        f"wrong of {VALIDATION:,}",
        "to every image",
        "nll",
        "ece",
        "best T",
        "wrong of 10,000 test images",
    ]
    return tables.markdown(header, lines)


EXPERIMENTS = [teachers, taught, students, mislabelled, lengths]


def texts(here):
    """{name: Markdown} of the tables for selection.md, of the experiments that have been run."""
    filled = {f"selection_{experiment.__name__}": table(here, experiment) for experiment in EXPERIMENTS}
    return {name: text for name, text in filled.items() if text.count("\n") > 1}


if __name__ == "__main__":
    options = {"extra": probabilities, "validation": VALIDATION}
    terminal.run(lambda: study.main(__doc__, "selection", EXPERIMENTS, texts, **options))
