"""Repeat section 3 of Hinton, Vinyals & Dean (2015), arXiv 1503.02531, with seeds and spread.

    python paper.py                        every experiment, 5 seeds each: about 10 hours on two cores
    python paper.py temperatures           one of them; python paper.py --list names them all
    python paper.py --seeds 1 --quick      a small version of everything, in minutes, into artifacts/paper/quick/

Trains on all 60,000 images, as the paper did, and counts test errors. A run that is finished goes into results/paper.json
at once and is never run again, so stop it whenever you like. Teachers, and their logits, are kept in artifacts/paper/.

What the paper does not state stands in TEACHER and STUDENT of experiments.py, and in WIDTHS below, beside Adam, warm-up and half
a cosine. Dropout, weight decay and 2x800's learning rate were chosen on the last 5,000 training images; alpha 0.9 and the
rest are guesses, kept.
"""

from pathlib import Path

import common  # before TensorFlow: it keeps the start-up quiet

import numpy as np

import experiments
import metrics
import plots
import training
from experiments import DISTORTED, STUDENT, TEACHER, distilled

RESULTS = Path(__file__).with_name("results")
LONGER = TEACHER | {"kind": "translated_longer", "epochs": 240}
WIDTHS = {30: 5e-3, 100: 5e-3, 300: 2e-3, 800: 2e-3}  # units in each of a student's two hidden layers: learning rate
TEMPERATURES = (1, 2.5, 4, 8, 20, 40)
SHARES = (0.01, 0.03, 0.1, 0.3)  # of the training images that keep their label
HELD_OUT = 5000  # training images to choose a temperature on

CHOSEN_TEMPERATURE = 8  # for 2x800, by `choices`


# ---- the experiments: {row: (settings, the errors that the paper states)} ----------------------------------------------


def choices():
    """The temperature of 2x800, on images held out of training. One seed only. 15 minutes."""
    held_out = TEACHER | {"held_out": HELD_OUT}
    rows = {"teacher": (held_out, None)}
    for temperature in TEMPERATURES:
        rows[f"T {temperature:g}"] = distilled(held_out, temperature, held_out=HELD_OUT), None
    return rows


def teachers():
    """2x1200 on images translated by up to 2 pixels, for 80 epochs and for 240, or distorted. 36 minutes a seed."""
    return {
        "teacher 2x1200, translated images": (TEACHER, 67),
        "teacher 2x1200, translated images, 240 epochs": (LONGER, 67),
        "teacher 2x1200, distorted images": (DISTORTED, None),
    }


def students():
    """2x800 on labels, and distilled on the 60,000 images as they are; then on translated images. 17 minutes a seed."""
    rows = {"2x800, labels alone": (STUDENT, 146)}
    taught_by = {
        "translated teacher": (TEACHER, 74),
        "translated teacher of 240 epochs": (LONGER, 74),
        "distorted teacher": (DISTORTED, None),
    }
    for name, (settings, published) in taught_by.items():
        rows[f"2x800, T 20, {name}"] = distilled(settings, 20), published
        rows[f"2x800, T {CHOSEN_TEMPERATURE}, {name}"] = distilled(settings, CHOSEN_TEMPERATURE), None
    translated = {"translate": 2, "epochs": TEACHER["epochs"]}
    rows["2x800, labels alone, translated images"] = STUDENT | translated, None
    taught = distilled(DISTORTED, CHOSEN_TEMPERATURE, **translated)
    rows[f"2x800, T {CHOSEN_TEMPERATURE}, distorted teacher, translated images"] = taught, None
    return rows


def temperatures():
    """Errors against temperature for students of four widths. 17 minutes a seed."""
    rows = {}
    for width, rate in WIDTHS.items():
        for temperature in TEMPERATURES:
            settings = distilled(TEACHER, temperature, hidden=[width, width], learning_rate=rate)
            rows[f"2x{width}, T {temperature:g}"] = settings, None
    return rows


def omissions():
    """Transfer sets without 3s, and of 7s and 8s only; and what a bias, moved afterwards, mends. 5 minutes a seed."""
    without_3 = [label for label in range(10) if label != 3]
    rows = {}
    for alpha, how in ((0.9, "with labels"), (1.0, "soft targets alone")):
        rows[f"2x800, no 3s, {how}"] = distilled(TEACHER, 20, classes=without_3, alpha=alpha), 206
        rows[f"2x800, 7s and 8s only, {how}"] = distilled(TEACHER, 20, classes=[7, 8], alpha=alpha), 4730
    return rows


def smoothing():
    """Labels of the teacher smoothed by 0.1 (Mueller et al. 2019): the teacher and its student. 12 minutes a seed."""
    smoothed = TEACHER | {"kind": "smoothed", "smoothing": 0.1}
    rows = {"teacher 2x1200, hard labels": (TEACHER, None), "teacher 2x1200, smoothed labels": (smoothed, None)}
    for kind, name in ((TEACHER, "hard"), (smoothed, "smoothed")):
        for temperature in (CHOSEN_TEMPERATURE, 20):
            rows[f"2x800, T {temperature}, taught by {name} labels' teacher"] = distilled(kind, temperature), None
    return rows


def labels():
    """2x300 with 1 to 30 % of the labels, alone, or with soft targets on the same images, or on all. 7 minutes a seed."""
    rows = {}
    for share in SHARES:
        few = {"hidden": [300, 300], "learning_rate": 2e-3, "labelled": share}
        longer = {"epochs": round(STUDENT["epochs"] / share)}  # as many steps as with all images
        rows[f"2x300, {share:.0%}, labels alone"] = STUDENT | few | longer, None
        rows[f"2x300, {share:.0%}, soft targets on these"] = (
            distilled(TEACHER, CHOSEN_TEMPERATURE, **few, **longer),
            None,
        )
        rows[f"2x300, {share:.0%}, soft targets on all"] = (
            distilled(TEACHER, CHOSEN_TEMPERATURE, **few, keep_unlabelled=True),
            None,
        )
    return rows


EXPERIMENTS = {run.__name__: run for run in (choices, teachers, students, temperatures, omissions, smoothing, labels)}


# ---- classes that a transfer set lacks -------------------------------------------------------------------------------


def corrected(settings, net, train, logits, labels):
    """What a record says more of a student that saw some classes only: its scores with each of the `corrections`."""
    if not settings.get("classes"):
        return {}
    ways = corrections(training.predictor(net)(train.images), train.labels, logits, labels, settings["classes"])
    return {
        "corrected": {
            way: experiments.score(logits + biases, labels) | {"biases": biases.round(3).tolist()}
            for way, biases in ways
        }
    }


def corrections(train_logits, train_labels, test_logits, test_labels, classes):
    """Biases to add to the logits of a student that saw some classes only: yields (way, (C,)).

    The paper moved the biases by one number, chosen on the test set. The others use no test image and no label of an image,
    only how often each class occurs: that share of the (unlabelled) training images is to be put into it.
    """
    num_classes = train_logits.shape[1]
    unseen = ~np.isin(np.arange(num_classes), classes)

    def raised(number):
        return np.where(unseen, number, 0.0)

    steps = np.arange(0, 20, 0.1)
    errors = [np.sum((test_logits + raised(step)).argmax(-1) != test_labels) for step in steps]
    yield "one number, chosen on the test set", raised(steps[np.argmin(errors)])
    shares = np.bincount(train_labels, minlength=num_classes) / len(train_labels)
    lead = train_logits[:, ~unseen].max(-1) - train_logits[:, unseen].max(-1)  # an image changes over at this number
    yield "one number, from the classes' shares", raised(np.quantile(lead, shares[unseen].sum()))
    yield "a number for each class, from the classes' shares", balancing_biases(train_logits, shares)


def balancing_biases(logits, shares):
    """Biases (C,) with which the mean probabilities of logits (n, C) are these shares (C,): Sinkhorn's iteration."""
    biases = np.zeros(len(shares))
    for _ in range(100):
        biases += np.log(shares) - np.log(np.exp(metrics.log_softmax(logits + biases)).mean(0))
    return biases


# ---- tables and figures ----------------------------------------------------------------------------------------------


def rows(experiment, quick):
    """{row: settings} of an experiment."""
    table = {row: settings for row, (settings, _) in EXPERIMENTS[experiment]().items()}
    return {row: experiments.quickly(settings) for row, settings in table.items()} if quick else table


def report(lab, experiment, seeds, quick):
    """Print an experiment's table: errors beside the paper's."""
    published = {row: number for row, (_, number) in EXPERIMENTS[experiment]().items()}
    print(f"\n{experiment}: {EXPERIMENTS[experiment].__doc__}")
    where = "held out of training" if experiment == "choices" else "test images"
    print(f"{f'errors, {where}':<64}{'paper':>8}{'mean':>10}{'sd':>8}  each seed")
    for row, settings in rows(experiment, quick).items():
        records = [record for seed in range(seeds) if (record := lab.find(settings, seed))]
        experiments.print_row(row, published[row], [record["errors"] for record in records])
        if settings.get("classes"):
            unseen = [label for label in range(lab.digits.num_classes) if label not in settings["classes"]]
            _report_corrections(records, unseen)


def _report_corrections(records, unseen):
    def on_unseen(scores):
        return [sum(score["errors_per_class"][label] for label in unseen) for score in scores]

    experiments.print_row("    on the classes left out", None, on_unseen(records))
    for way in records[0]["corrected"]:
        scores = [record["corrected"][way] for record in records]
        experiments.print_row(f"  biases: {way}", None, [score["errors"] for score in scores])
        experiments.print_row("    on the classes left out", None, on_unseen(scores))


def compare_temperatures(lab, width, seeds, quick):
    """A line: each temperature against the best for students of this width, image by image."""
    table = rows("temperatures", quick)
    wrong = {}
    for temperature in TEMPERATURES:
        settings = table[f"2x{width}, T {temperature:g}"]
        wrong[temperature] = experiments.wrong_counts([lab.find(settings, seed) for seed in range(seeds)])
    best = min(wrong, key=lambda temperature: wrong[temperature].sum())
    cells = [
        f"T {temperature:g} {(counts.sum() - wrong[best].sum()) / seeds:+.1f} (p {metrics.paired(counts, wrong[best]):.2g})"
        for temperature, counts in wrong.items()
        if temperature != best
    ]
    return f"2x{width}: T {best:g} is best; {', '.join(cells)}"


def draw(lab, seeds, quick, path, experiment):
    """The figure of `temperatures` or `labels`."""
    table = rows(experiment, quick)
    if experiment == "temperatures":
        places, title = TEMPERATURES, "Distilled students of four widths"
        lines = {f"784-{width}-{width}-10": [f"2x{width}, T {place:g}" for place in places] for width in WIDTHS}
    else:
        places, title = SHARES, "784-300-300-10 with few labels"
        kinds = ("labels alone", "soft targets on these", "soft targets on all")
        lines = {kind: [f"2x300, {place:.0%}, {kind}" for place in places] for kind in kinds}
    plots.spread(
        places,
        {
            name: np.array([[lab.find(table[row], seed)["errors"] for seed in range(seeds)] for row in line])
            for name, line in lines.items()
        },
        path,
        log=True,
        xlabel="temperature" if experiment == "temperatures" else "share of the training images that have a label",
        ylabel=f"errors in {len(lab.digits.test.labels):,} test images",
        title=f"{title}: mean and range over seeds ({seeds})",
    )


def main():
    arguments = experiments.parse_arguments(__doc__, EXPERIMENTS)
    lab, seeds, quick = experiments.open_lab(arguments, RESULTS / "paper.json"), arguments.seeds, arguments.quick
    names = arguments.experiments
    experiments.run_all(lab, experiments.plan({name: rows(name, quick) for name in names}, seeds), corrected)
    for name in names:
        report(lab, name, seeds, quick)
        if name == "temperatures":
            print("\nerrors more than the best temperature's, mean of the seeds, and the paired test's p-value")
            for width in WIDTHS:
                print(compare_temperatures(lab, width, seeds, quick))
        if name in ("temperatures", "labels"):
            draw(lab, seeds, quick, lab.results.with_name(f"paper_{name}.png"), name)
    print(f"\nevery run is in {lab.results}")


if __name__ == "__main__":
    common.run(main)
