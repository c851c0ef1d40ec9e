"""Repeat section 3 of Hinton, Vinyals & Dean (2015), arXiv 1503.02531, with seeds and spread. The results: paper.md.

    python studies/paper.py                        every experiment, 5 seeds each: about 10 hours on two cores
    python studies/paper.py temperatures           one of them; --list names them all
    python studies/paper.py --seeds 1 --quick      a small version, in minutes, in artifacts/studies/quick/

Trains on all 60,000 images, as the paper did, and counts test errors. A finished run is saved to studies/paper.json
at once and never repeated, so stop it whenever you like. Teachers and their logits are kept in artifacts/studies/.

What the paper does not state is in TEACHER, STUDENT and WIDTHS below; besides, Adam, warm-up and half a cosine.
Dropout, weight decay and 2x800's learning rate were chosen on the last 5,000 training images; alpha 0.9 was not tuned.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import classifier, metrics, terminal

import numpy as np

import distill
from studies import figures, runs, study, tables
from studies.runs import Images, Run

VALIDATION = 0  # trained on all 60,000 images, as in the paper
TRANSLATED = replace(runs.EVERY_IMAGE, dropout=0.3, input_dropout=0.05, translate=2, distort=0.0, epochs=80)
TEACHER, LONGER = Run(TRANSLATED), Run(replace(TRANSLATED, epochs=240))
DISTORTED = Run(replace(runs.EVERY_IMAGE, dropout=0.05, distort=1.3, epochs=100))
STUDENT = distill.DistillRecipe(hidden=(800, 800), translate=0, epochs=40, learning_rate=2e-3)
WIDTHS = {30: 5e-3, 100: 5e-3, 300: 2e-3, 800: 2e-3}  # units in each of a student's two hidden layers: learning rate
TEMPERATURES = (1, 2.5, 4, 8, 20, 40)
SHARES = (0.01, 0.03, 0.1, 0.3)  # of the training images that keep their label
ALL = Images()
HELD_OUT = 5000  # training images to choose a temperature on
CHOSEN_TEMPERATURE = 8  # for 2x800, by `choices`
KINDS = ("labels alone", "soft targets on these", "soft targets on all")  # of students with few labels
WAYS = (
    "one number, from the test set",
    "one number, from how often classes occur",
    "a number for each class, from that",
)


# ---- the experiments: {row: run} -------------------------------------------------------------------------------------


def alone(images=ALL, **changes):
    """STUDENT on labels alone, with these changes of its recipe."""
    return Run(replace(STUDENT, loss="labels", **changes), None, images)


def distilled(taught_by, temperature, alpha=0.9, images=ALL, **changes):
    """STUDENT, distilled from the teacher of a Run, with these changes of its recipe."""
    return Run(replace(STUDENT, temperature=temperature, alpha=alpha, **changes), taught_by, images)


def choices():
    """The temperature of 2x800, on images held out of training. One seed only. 15 minutes."""
    images = Images(held_out=HELD_OUT)
    held_out = replace(TEACHER, images=images)
    return {"teacher": held_out} | {f"T {t:g}": distilled(held_out, t, images=images) for t in TEMPERATURES}


def teachers():
    """2x1200 on images translated by up to 2 pixels, for 80 epochs and for 240, or distorted. 36 minutes a seed."""
    return {
        "teacher 2x1200, translated images": TEACHER,
        "teacher 2x1200, translated images, 240 epochs": LONGER,
        "teacher 2x1200, distorted images": DISTORTED,
    }


def students():
    """2x800 on labels, and distilled on the 60,000 images as they are; then on translated images. 17 minutes a seed."""
    rows = {"2x800, labels alone": alone()}
    kinds = {"translated teacher": TEACHER, "translated teacher of 240 epochs": LONGER, "distorted teacher": DISTORTED}
    for name, taught_by in kinds.items():
        for temperature in (20, CHOSEN_TEMPERATURE):
            rows[f"2x800, T {temperature}, {name}"] = distilled(taught_by, temperature)
    translated = {"translate": 2, "epochs": TRANSLATED.epochs}
    rows["2x800, labels alone, translated images"] = alone(**translated)
    taught = distilled(DISTORTED, CHOSEN_TEMPERATURE, **translated)
    rows[f"2x800, T {CHOSEN_TEMPERATURE}, distorted teacher, translated images"] = taught
    return rows


def temperatures():
    """Errors against temperature for students of four widths. 17 minutes a seed."""
    return {
        f"2x{width}, T {t:g}": distilled(TEACHER, t, hidden=(width, width), learning_rate=rate)
        for width, rate in WIDTHS.items()
        for t in TEMPERATURES
    }


def omissions():
    """Transfer sets without 3s, and of 7s and 8s only; and what a bias, moved afterwards, repairs. 5 minutes a seed."""
    without_3 = tuple(label for label in range(10) if label != 3)
    rows = {}
    for alpha, how in ((0.9, "with labels"), (1.0, "soft targets alone")):
        rows[f"2x800, no 3s, {how}"] = distilled(TEACHER, 20, alpha, Images(classes=without_3))
        rows[f"2x800, 7s and 8s only, {how}"] = distilled(TEACHER, 20, alpha, Images(classes=(7, 8)))
    return rows


def smoothing():
    """Labels of the teacher smoothed by 0.1 (Mueller et al. 2019): the teacher and its student. 12 minutes a seed."""
    smoothed = Run(replace(TRANSLATED, label_smoothing=0.1))
    rows = {"teacher 2x1200, smoothed labels": smoothed}
    for temperature in (CHOSEN_TEMPERATURE, 20):
        rows[f"2x800, T {temperature}, teacher with smoothed labels"] = distilled(smoothed, temperature)
    return rows


def labels():
    """2x300 with 1 to 30 % of the labels, alone, or with soft targets on the same images, or on all. 7 minutes a
    seed.
    """
    rows = {}
    for share in SHARES:
        these, everything = Images(labelled=share), Images(labelled=share, keep_unlabelled=True)
        longer = {"hidden": (300, 300), "epochs": round(STUDENT.epochs / share)}  # as many steps as with all images
        taught = TEACHER, CHOSEN_TEMPERATURE, 0.9
        rows[f"2x300, {share:.0%}, labels alone"] = alone(these, **longer)
        rows[f"2x300, {share:.0%}, soft targets on these"] = distilled(*taught, these, **longer)
        rows[f"2x300, {share:.0%}, soft targets on all"] = distilled(*taught, everything, hidden=(300, 300))
    return rows


EXPERIMENTS = (choices, teachers, students, temperatures, omissions, smoothing, labels)
PUBLISHED = {  # the paper's test errors
    "teacher 2x1200, translated images": "67",
    "teacher 2x1200, translated images, 240 epochs": "67",
    "2x800, labels alone": "146",
    "2x800, T 20, translated teacher": "74",
    "2x800, T 20, translated teacher of 240 epochs": "74",
    "2x800, no 3s, with labels": "206",
    "2x800, no 3s, soft targets alone": "206",
    "2x800, 7s and 8s only, with labels": "4,730",
    "2x800, 7s and 8s only, soft targets alone": "4,730",
}


# ---- classes that a transfer set lacks -------------------------------------------------------------------------------


def corrected(run, model, train, logits, labels):
    """What the record of a student that saw some classes only has besides: its scores with each of the
    `corrections`.
    """
    if run.is_teacher or not run.images.classes:
        return {}
    ways = corrections(classifier.predictor(model)(train.images), train.labels, logits, labels, run.images.classes)
    scores = {way: runs.score(logits + biases, labels) | {"biases": biases.round(3).tolist()} for way, biases in ways}
    return {"corrected": scores}


def corrections(train_logits, train_labels, test_logits, test_labels, classes):
    """Biases to add to the logits of a student that saw only these classes: yields (way, (C,)).

    The paper moved the biases by one number, chosen on the test set. The other ways use no test image and no image's
    label, only how often each class occurs: that share of the (unlabelled) training images is to be put into it.
    """
    num_classes = train_logits.shape[1]
    unseen = ~np.isin(np.arange(num_classes), classes)

    def raised(number):
        return np.where(unseen, number, 0.0)

    steps = np.arange(0, 20, 0.1)
    errors = [np.sum((test_logits + raised(step)).argmax(-1) != test_labels) for step in steps]
    yield "one number, chosen on the test set", raised(steps[np.argmin(errors)])
    shares = np.bincount(train_labels, minlength=num_classes) / len(train_labels)
    lead = train_logits[:, ~unseen].max(-1) - train_logits[:, unseen].max(-1)  # raising by more moves the image over
    yield "one number, from the classes' shares", raised(np.quantile(lead, shares[unseen].sum()))
    yield "a number for each class, from the classes' shares", balancing_biases(train_logits, shares)


def balancing_biases(logits, shares):
    """Biases (C,) with which the mean probabilities of logits (n, C) are these shares (C,): Sinkhorn's iteration."""
    biases = np.zeros(len(shares))
    for _ in range(100):
        biases += np.log(shares) - np.log(np.exp(metrics.log_softmax(logits + biases)).mean(0))
    return biases


# ---- tables and figures ----------------------------------------------------------------------------------------------


def texts(here):
    """{name: Markdown} of the tables for paper.md: the rows whose runs are complete."""
    complete = {}  # {experiment: {row: records}}
    for experiment in EXPERIMENTS:
        recorded = {row: here.of(run) for row, run in here.rows(experiment).items()}
        complete[experiment.__name__] = {row: records for row, records in recorded.items() if records}
    by_temperature = {f"{t:g}": t for t in TEMPERATURES}
    by_width = {f"784-{width}-{width}-10": width for width in WIDTHS}
    by_share, by_kind = {f"{share:.0%}": share for share in SHARES}, {kind: kind for kind in KINDS}
    rows = {row: row for row in choices()}
    nets = []
    for row, records in (complete["teachers"] | complete["students"] | complete["smoothing"]).items():
        errors = [record["errors"] for record in records]
        nets.append([row, PUBLISHED.get(row, ""), tables.spread(errors), tables.each(errors)])
    best_header = ["net", "best T", "how many more errors the other temperatures make (p-value)"]
    omissions_header = ["transfer set", "the paper", "as trained", *WAYS]
    return {
        "paper_choices": pivot(complete["choices"], "", {"errors of 5,000": ""}, rows, "{1}"),
        "paper_temperatures": pivot(complete["temperatures"], "T", by_temperature, by_width, "2x{1}, T {0:g}"),
        "paper_labels": pivot(complete["labels"], "labels", by_share, by_kind, "2x300, {0:.0%}, {1}"),
        "paper_omissions": tables.markdown(omissions_header, omission_lines(complete["omissions"])),
        "paper_nets": tables.markdown(["net", "the paper", "here", "each seed"], nets),
        "paper_best_temperatures": tables.markdown(best_header, best_temperature_lines(here)),
    }


def pivot(records, corner, lines, columns, row):
    """A table of errors of {row: records}. lines, columns: {heading: value}; `row` formats two values into a row's
    name.
    """
    table = []
    for heading, line in lines.items():
        cells = []
        for column in columns.values():
            errors = [record["errors"] for record in records.get(row.format(line, column), ())]
            cells.append(tables.spread(errors) if errors else "")
        table.append([heading, *cells])
    return tables.markdown([corner, *columns], table)


def omission_lines(complete):
    """The lines of {row: records} on transfer sets that lack classes: the errors, and in brackets those on these
    classes, for each way.
    """
    for row, records in complete.items():
        cells, seen = [], records[0]["run"]["images"]["classes"]
        for scores in (records, *zip(*(record["corrected"].values() for record in records))):
            on_unseen = [sum(n for label, n in enumerate(s["errors_per_class"]) if label not in seen) for s in scores]
            cells.append(f"{tables.spread([score['errors'] for score in scores])} ({np.mean(on_unseen):,.0f})")
        yield [row, PUBLISHED.get(row, ""), *cells]


def best_temperature_lines(here):
    """A line for each width whose runs are complete: each temperature against the best, paired image by image."""
    rows = here.rows(temperatures)
    for width in WIDTHS:
        records = {t: here.of(rows[f"2x{width}, T {t:g}"]) for t in TEMPERATURES}
        if not all(records.values()):
            continue
        wrong = {t: runs.wrong_counts(records[t]) for t in TEMPERATURES}
        best = min(wrong, key=lambda t: wrong[t].sum())
        cells = []
        for t, counts in wrong.items():
            if t != best:
                more = (counts.sum() - wrong[best].sum()) / here.num_seeds
                cells.append(f"T {t:g} +{more:.1f} (p {metrics.paired_p(counts, wrong[best]):.2g})")
        yield [f"784-{width}-{width}-10", f"{best:g}", ", ".join(cells)]


def draw(here):
    """Draw the figures of `temperatures` and `labels`, if their runs are complete."""
    lines = {f"784-{width}-{width}-10": [f"2x{width}, T {t:g}" for t in TEMPERATURES] for width in WIDTHS}
    draw_lines(here, temperatures, TEMPERATURES, lines, "temperature", "Distilled students of four widths")
    lines = {kind: [f"2x300, {share:.0%}, {kind}" for share in SHARES] for kind in KINDS}
    xlabel = "share of the training images that have a label"
    draw_lines(here, labels, SHARES, lines, xlabel, "784-300-300-10 with few labels")


def draw_lines(here, experiment, places, lines, xlabel, title):
    """Draw the errors of {line: rows of an experiment, one for each place on the x-axis}, if all runs are complete."""
    rows, errors = here.rows(experiment), {}
    for name, line in lines.items():
        records = [here.of(rows[row]) for row in line]
        if not all(records):
            return
        errors[name] = np.array([[record["errors"] for record in of_row] for of_row in records])
    figures.error_lines(
        places,
        errors,
        here.figure(f"_{experiment.__name__}"),
        log=True,
        xlabel=xlabel,
        ylabel=f"errors in {len(here.records.dataset.test.labels):,} test images",
        title=f"{title}: mean and range of {here.num_seeds} seeds",
    )


def main():
    study.main(__doc__, "paper", EXPERIMENTS, texts, draw, corrected, validation=VALIDATION)


if __name__ == "__main__":
    terminal.run(main)
