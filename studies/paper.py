"""Repeat section 3 of Hinton, Vinyals & Dean (2015), arXiv 1503.02531, with seeds and spread. The results: paper.md.

    python studies/paper.py                        every experiment, 5 seeds each: about 10 hours on two cores
    python studies/paper.py temperatures           one of them; --list names them all
    python studies/paper.py --seeds 1 --quick      a small version, in minutes, in artifacts/studies/quick/

Trains on all 60,000 images, as the paper did, and counts test errors. A finished run is saved to studies/paper.json
at once and never repeated, so stop it whenever you like. Teachers and their logits are kept in artifacts/studies/.

What the paper does not state is in TEACHER and STUDENT of lab.py, and in WIDTHS below; besides, Adam, warm-up and
half a cosine. Dropout, weight decay and 2x800's learning rate were chosen on the last 5,000 training images; alpha
0.9 was not tuned.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import inference, metrics, terminal

import numpy as np

from studies import figures, lab, tables
from studies.lab import DISTORTED, STUDENT, TEACHER, distilled

LONGER = TEACHER | {"kind": "translated_longer", "epochs": 240}
WIDTHS = {30: 5e-3, 100: 5e-3, 300: 2e-3, 800: 2e-3}  # units in each of a student's two hidden layers: learning rate
TEMPERATURES = (1, 2.5, 4, 8, 20, 40)
SHARES = (0.01, 0.03, 0.1, 0.3)  # of the training images that keep their label
HELD_OUT = 5000  # training images to choose a temperature on
CHOSEN_TEMPERATURE = 8  # for 2x800, by `choices`
KINDS = ("labels alone", "soft targets on these", "soft targets on all")  # of students with few labels
WAYS = (
    "one number, from the test set",
    "one number, from how often classes occur",
    "a number for each class, from that",
)


# ---- the experiments: {row: settings} --------------------------------------------------------------------------------


def choices():
    """The temperature of 2x800, on images held out of training. One seed only. 15 minutes."""
    held_out = TEACHER | {"held_out": HELD_OUT}
    rows = {f"T {t:g}": distilled(held_out, t, held_out=HELD_OUT) for t in TEMPERATURES}
    return {"teacher": held_out} | rows


def teachers():
    """2x1200 on images translated by up to 2 pixels, for 80 epochs and for 240, or distorted. 36 minutes a seed."""
    return {
        "teacher 2x1200, translated images": TEACHER,
        "teacher 2x1200, translated images, 240 epochs": LONGER,
        "teacher 2x1200, distorted images": DISTORTED,
    }


def students():
    """2x800 on labels, and distilled on the 60,000 images as they are; then on translated images. 17 minutes a seed."""
    rows = {"2x800, labels alone": STUDENT}
    kinds = {"translated teacher": TEACHER, "translated teacher of 240 epochs": LONGER, "distorted teacher": DISTORTED}
    for name, settings in kinds.items():
        for temperature in (20, CHOSEN_TEMPERATURE):
            rows[f"2x800, T {temperature}, {name}"] = distilled(settings, temperature)
    translated = {"translate": 2, "epochs": TEACHER["epochs"]}
    rows["2x800, labels alone, translated images"] = STUDENT | translated
    taught = distilled(DISTORTED, CHOSEN_TEMPERATURE, **translated)
    rows[f"2x800, T {CHOSEN_TEMPERATURE}, distorted teacher, translated images"] = taught
    return rows


def temperatures():
    """Errors against temperature for students of four widths. 17 minutes a seed."""
    return {
        f"2x{width}, T {t:g}": distilled(TEACHER, t, hidden=[width, width], learning_rate=rate)
        for width, rate in WIDTHS.items()
        for t in TEMPERATURES
    }


def omissions():
    """Transfer sets without 3s, and of 7s and 8s only; and what a bias, moved afterwards, repairs. 5 minutes a seed."""
    without_3 = [label for label in range(10) if label != 3]
    rows = {}
    for alpha, how in ((0.9, "with labels"), (1.0, "soft targets alone")):
        rows[f"2x800, no 3s, {how}"] = distilled(TEACHER, 20, classes=without_3, alpha=alpha)
        rows[f"2x800, 7s and 8s only, {how}"] = distilled(TEACHER, 20, classes=[7, 8], alpha=alpha)
    return rows


def smoothing():
    """Labels of the teacher smoothed by 0.1 (Mueller et al. 2019): the teacher and its student. 12 minutes a seed."""
    smoothed = TEACHER | {"kind": "smoothed", "smoothing": 0.1}
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
        few = {"hidden": [300, 300], "labelled": share}
        longer = few | {"epochs": round(STUDENT["epochs"] / share)}  # as many steps as with all images
        taught = distilled(TEACHER, CHOSEN_TEMPERATURE)
        rows[f"2x300, {share:.0%}, labels alone"] = STUDENT | longer
        rows[f"2x300, {share:.0%}, soft targets on these"] = taught | longer
        rows[f"2x300, {share:.0%}, soft targets on all"] = taught | few | {"keep_unlabelled": True}
    return rows


# To add an experiment, write a function like these, which returns {row: settings}, and list it here.
EXPERIMENTS = {run.__name__: run for run in (choices, teachers, students, temperatures, omissions, smoothing, labels)}
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


def corrected(settings, model, train, logits, labels):
    """What the record of a student that saw some classes only has besides: its scores with each of the
    `corrections`.
    """
    if not settings.get("classes"):
        return {}
    ways = corrections(inference.predictor(model)(train.images), train.labels, logits, labels, settings["classes"])
    scores = {way: lab.score(logits + biases, labels) | {"biases": biases.round(3).tolist()} for way, biases in ways}
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


def texts(store):
    """{name: Markdown} of the tables for paper.md: the rows whose runs are complete."""
    runs = {}
    for name, experiment in EXPERIMENTS.items():
        runs[name] = {row: its for row, settings in store.rows(experiment).items() if (its := store.records(settings))}
    widths = {f"784-{width}-{width}-10": width for width in WIDTHS}
    shares = {f"{share:.0%}": share for share in SHARES}
    found = {
        "choices": pivot(runs["choices"], "", {"errors of 5,000": ""}, {row: row for row in choices()}, "{1}"),
        "temperatures": pivot(runs["temperatures"], "T", {f"{t:g}": t for t in TEMPERATURES}, widths, "2x{1}, T {0:g}"),
        "labels": pivot(runs["labels"], "labels", shares, {kind: kind for kind in KINDS}, "2x300, {0:.0%}, {1}"),
        "omissions": tables.markdown(
            ["transfer set", "the paper", "as trained", *WAYS], omission_lines(runs["omissions"])
        ),
    }
    lines = []
    for row, records in (runs["teachers"] | runs["students"] | runs["smoothing"]).items():
        errors = [record["errors"] for record in records]
        lines.append([row, PUBLISHED.get(row, ""), tables.spread(errors), tables.each(errors)])
    found["nets"] = tables.markdown(["net", "the paper", "here", "each seed"], lines)
    header = ["net", "best T", "how many more errors the other temperatures make (p-value)"]
    found["best_temperatures"] = tables.markdown(header, best_temperature_lines(store))
    return {f"paper_{name}": text for name, text in found.items()}


def pivot(runs, corner, lines, columns, row):
    """A table of errors. lines, columns: {heading: value}; `row` formats the two values into the name of a row in
    `runs`.
    """
    table = []
    for heading, line in lines.items():
        cells = [runs.get(row.format(line, column)) for column in columns.values()]
        table.append([heading, *(tables.spread([run["errors"] for run in its]) if its else "" for its in cells)])
    return tables.markdown([corner, *columns], table)


def omission_lines(complete):
    """The lines on transfer sets that lack classes: the errors, and in brackets those on these classes, for each
    way.
    """
    for row, records in complete.items():
        cells, seen = [], records[0]["settings"]["classes"]
        for scores in (records, *zip(*(record["corrected"].values() for record in records))):
            on_unseen = [sum(n for label, n in enumerate(s["errors_per_class"]) if label not in seen) for s in scores]
            cells.append(f"{tables.spread([score['errors'] for score in scores])} ({np.mean(on_unseen):,.0f})")
        yield [row, PUBLISHED.get(row, ""), *cells]


def best_temperature_lines(store):
    """A line for each width whose runs are complete: each temperature against the best, paired image by image."""
    table = store.rows(temperatures)
    for width in WIDTHS:
        records = {t: store.records(table[f"2x{width}, T {t:g}"]) for t in TEMPERATURES}
        if not all(records.values()):
            continue
        wrong = {t: lab.wrong_counts(runs) for t, runs in records.items()}
        best = min(wrong, key=lambda t: wrong[t].sum())
        more = {t: (counts.sum() - wrong[best].sum()) / store.seeds for t, counts in wrong.items() if t != best}
        cells = [
            f"T {t:g} +{number:.1f} (p {metrics.paired_p(wrong[t], wrong[best]):.2g})" for t, number in more.items()
        ]
        yield [f"784-{width}-{width}-10", f"{best:g}", ", ".join(cells)]


def draw(store):
    """Draw the figures of `temperatures` and `labels`, if their runs are complete."""
    few = {kind: [f"2x300, {share:.0%}, {kind}" for share in SHARES] for kind in KINDS}
    many = {f"784-{width}-{width}-10": [f"2x{width}, T {t:g}" for t in TEMPERATURES] for width in WIDTHS}
    wanted = (
        (temperatures, TEMPERATURES, many, "temperature", "Distilled students of four widths"),
        (labels, SHARES, few, "share of the training images that have a label", "784-300-300-10 with few labels"),
    )
    for experiment, places, lines, xlabel, title in wanted:
        table = store.rows(experiment)
        records = {name: [store.records(table[row]) for row in line] for name, line in lines.items()}
        if all(all(line) for line in records.values()):
            figures.error_lines(
                places,
                {name: np.array([[run["errors"] for run in runs] for runs in line]) for name, line in records.items()},
                store.figure(f"_{experiment.__name__}"),
                log=True,
                xlabel=xlabel,
                ylabel=f"errors in {len(store.dataset.test.labels):,} test images",
                title=f"{title}: mean and range of {store.seeds} seeds",
            )


def main():
    arguments = lab.parse_arguments(__doc__, EXPERIMENTS)
    store = lab.open_store(arguments, "paper")
    if arguments.check:
        return lab.check(store, arguments, corrected)
    runs = lab.plan(store, {name: store.rows(EXPERIMENTS[name]) for name in arguments.experiments})
    lab.run_all(store, runs, arguments, corrected)
    draw(store)
    lab.report(store, texts(store))


if __name__ == "__main__":
    terminal.run(main)
