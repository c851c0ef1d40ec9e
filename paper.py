"""Repeat section 3 of Hinton, Vinyals & Dean (2015), arXiv 1503.02531, with seeds and spread.

    python paper.py                        every experiment, 5 seeds each: about 6 hours on two cores
    python paper.py temperatures           one of them; python paper.py --list names them all
    python paper.py --seeds 1 --quick      a small version of everything, in 3 minutes, into artifacts/paper/quick/

Trains on all 60,000 images, as the paper did, and counts test errors. A run that is finished goes into results/paper.json
at once and is never run again, so stop it whenever you like. Teachers, and their logits, are kept in artifacts/paper/.

What the paper does not state stands in TEACHER, STUDENT and WIDTHS below, beside Adam, warm-up and half a cosine. Dropout, weight
decay and 2x800's learning rate were chosen on the last 5,000 training images; alpha 0.9 and the rest are guesses, kept.
"""

import itertools
import json
import math
import time
from pathlib import Path

import common  # before TensorFlow: it keeps the start-up quiet

import keras
import numpy as np
import tensorflow as tf

import data
import distill
import metrics
import plots
import student
import teacher
import training

RESULTS = Path(__file__).with_name("results")
WIDTHS = {30: 5e-3, 100: 5e-3, 300: 2e-3, 800: 2e-3}  # units in each of a student's two hidden layers: learning rate
TEMPERATURES = (1, 2.5, 4, 8, 20, 40)
SHARES = (0.01, 0.03, 0.1, 0.3)  # of the training images that keep their label
HELD_OUT = 5000  # training images to choose a temperature on

TEACHER = {
    "net": "teacher",
    "kind": "translated",
    "hidden": [1200, 1200],
    "dropout": 0.3,
    "input_dropout": 0.05,
    "translate": 2,
    "distortion": None,
    "smoothing": 0.0,
    "epochs": 80,
    "batch_size": 500,
    "learning_rate": 2e-3,
    "weight_decay": 0.5,
    "held_out": 0,
}
DISTORTED = TEACHER | {
    "kind": "distorted",
    "dropout": 0.15,
    "input_dropout": 0.0,
    "translate": 0,
    "distortion": {"rotation": 10.0, "scaling": 0.1, "translation": 1.5, "elastic": 2.0},
}
STUDENT = {
    "net": "student",
    "hidden": [800, 800],
    "teacher": None,
    "translate": 0,
    "epochs": 40,
    "batch_size": 250,
    "learning_rate": 2e-3,
    "held_out": 0,  # the last so many training images are kept out, and errors are counted on them, not on the test set
    "classes": None,  # the transfer set has no others; None for all
    "labelled": 1.0,  # the share of the transfer set whose labels are known
    "keep_unlabelled": False,  # whether the rest stays in it, for its soft targets
}
CHOSEN_TEMPERATURE = 4  # for 2x800, by a trial with another teacher; `choices` has not been run yet


def distilled(kind, temperature, **changes):
    """A student's settings, taught by a teacher, at a temperature."""
    return STUDENT | {"teacher": kind, "temperature": temperature, "alpha": 0.9} | changes


# ---- the experiments: {row: (settings, the errors that the paper states)} ----------------------------------------------


def choices():
    """The temperature of 2x800, on images held out of training. One seed only. 20 minutes."""
    held_out = TEACHER | {"held_out": HELD_OUT}
    rows = {"teacher": (held_out, None)}
    for temperature in TEMPERATURES:
        rows[f"T {temperature:g}"] = distilled(held_out, temperature, held_out=HELD_OUT), None
    return rows


def teachers():
    """2x1200 on images translated by up to 2 pixels, and on images rotated, scaled, moved and bent. 15 minutes a seed."""
    return {"teacher 2x1200, translated images": (TEACHER, 67), "teacher 2x1200, distorted images": (DISTORTED, None)}


def students():
    """2x800 on labels, and distilled on the 60,000 images as they are; then on translated images. 14 minutes a seed."""
    rows = {"2x800, labels alone": (STUDENT, 146)}
    for temperature, published in ((20, 74), (CHOSEN_TEMPERATURE, None)):
        rows[f"2x800, T {temperature}, translated teacher"] = distilled(TEACHER, temperature), published
        rows[f"2x800, T {temperature}, distorted teacher"] = distilled(DISTORTED, temperature), None
    rows["2x800, labels alone, translated images"] = STUDENT | {"translate": 2}, None
    taught = distilled(DISTORTED, CHOSEN_TEMPERATURE, translate=2)
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


# ---- one run ---------------------------------------------------------------------------------------------------------


class Lab:
    """The digits, the folder of the teachers, and the finished runs, each kept at once."""

    def __init__(self, digits, folder, results):
        self.digits, self.folder, self.results = digits, folder, results
        self.data = data.fingerprint(*digits.train, *digits.test)
        try:
            self.runs = json.loads(results.read_text())["runs"]
        except FileNotFoundError:
            self.runs = []
        except (ValueError, KeyError, TypeError) as error:
            raise common.UserError(f"{results} cannot be read ({error}): move it away, or get it anew") from error

    def find(self, settings, seed):
        """The record of a finished run, or None."""
        key = {"settings": settings, "seed": seed, "data": self.data}
        return next((run for run in self.runs if run | key == run), None)

    def keep(self, record):
        """Add a record to the file, a line each."""
        self.runs.append(record)
        with common.replacing(self.results) as scratch:
            scratch.write_text('{"runs": [\n' + ",\n".join(map(json.dumps, self.runs)) + "\n]}\n")

    def images(self, settings):
        """(training split, the split on which errors are counted) of a run."""
        train, held_out = data.hold_out(self.digits.train, settings["held_out"])
        return train, held_out if settings["held_out"] else self.digits.test


def run(lab, settings, seed, name):
    """Train a net and count its errors: its record, a dict of plain values, which is kept."""
    start = time.perf_counter()
    train, scored = lab.images(settings)
    net = (get_teacher if settings["net"] == "teacher" else train_student)(lab, settings, seed, name)
    predict = training.predictor(net)
    logits = predict(scored.images)
    record = {"settings": settings, "seed": seed, "data": lab.data, "images": len(scored.labels)}
    record |= score(logits, scored.labels)
    if settings.get("classes"):
        record["corrected"] = {
            way: score(logits + biases, scored.labels) | {"biases": biases.round(3).tolist()}
            for way, biases in corrections(
                predict(train.images), train.labels, logits, scored.labels, settings["classes"]
            )
        }
    lab.keep(record | {"seconds": round(time.perf_counter() - start, 1), "versions": common.versions()})


def score(logits, labels):
    """The errors of logits (n, C): how many, of each class, and which of the images."""
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    per_class = np.bincount(labels[wrong], minlength=logits.shape[1])
    return {"errors": len(wrong), "errors_per_class": per_class.tolist(), "wrong": wrong.tolist()}


def get_teacher(lab, settings, seed, name):
    """The teacher of these settings: from its file where it was trained before."""
    folder = teacher_folder(lab, settings, seed)
    path = folder / "teacher.keras"
    if path.exists() and training.load_settings(path) == settings | {"seed": seed, "data": lab.data}:
        return training.load(path, lab.digits.image_shape, lab.digits.num_classes)
    keras.utils.set_random_seed(seed)
    net = teacher.build_teacher(
        lab.digits.image_shape,
        lab.digits.num_classes,
        settings["hidden"],
        settings["dropout"],
        settings["input_dropout"],
    )
    batches = data.Batches(
        lab.images(settings)[0],
        settings["batch_size"],
        seed=seed,
        translate=settings["translate"],
        distortion=settings["distortion"] and data.Distortion(**settings["distortion"]),
    )
    history = fit(net, batches, smoothed_cross_entropy(settings["smoothing"]), settings, name)
    folder.mkdir(parents=True, exist_ok=True)
    training.save(net, path, settings | {"seed": seed, "data": lab.data}, history)
    return net


def smoothed_cross_entropy(share):
    """The loss on labels of whose weight this share is spread evenly over the classes (Szegedy et al. 2016)."""

    def loss(labels, logits):
        mean_over_classes = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
        return (1 - share) * training.cross_entropy(labels, logits) + share * mean_over_classes

    return loss


def teacher_folder(lab, settings, seed):
    """Where a teacher is kept, and its logits."""
    return lab.folder / f"{settings['kind']}_seed{seed}{'_held_out' if settings['held_out'] else ''}"


def train_student(lab, settings, seed, name):
    """A student, trained on its transfer set."""
    train = lab.images(settings)[0]
    chosen, labels = transfer_set(train.labels, settings, seed)
    logits, loss = None, training.cross_entropy
    if settings["teacher"]:
        net = get_teacher(lab, settings["teacher"], seed, name)
        folder = teacher_folder(lab, settings["teacher"], seed)
        logits = distill.teacher_logits(net, train.images, settings["translate"], cache=folder)[chosen]
        loss = masked_loss(settings["temperature"], settings["alpha"])
    recipe = settings | {"seed": seed, "batch_size": min(settings["batch_size"], len(chosen))}
    split = data.Split(train.images[chosen], labels)
    net, batches = student.prepare(lab.digits._replace(train=split), recipe, logits)
    fit(net, batches, loss, settings, name)
    return net


def transfer_set(labels, settings, seed):
    """The transfer set's indices into the training images, and its labels, -1 where they are not to be known."""
    chosen = np.arange(len(labels))
    if settings["classes"]:
        chosen = chosen[np.isin(labels, settings["classes"])]
    if settings["labelled"] < 1:
        order = np.random.default_rng([seed, 1]).permutation(chosen)
        cut = max(1, round(settings["labelled"] * len(chosen)))
        if not settings["keep_unlabelled"]:
            return order[:cut], labels[order[:cut]]
        labels = labels.copy()
        labels[order[cut:]] = -1
    return chosen, labels[chosen]


def masked_loss(temperature, alpha):
    """The loss of distill.py, of whose two terms an image labelled -1 has the soft one only."""

    def loss(labels, teacher_logits, student_logits):
        logits, known = (teacher_logits, student_logits, temperature), tf.maximum(labels, 0)
        both = distill.distillation_loss(known, *logits, alpha)
        return tf.where(labels >= 0, both, alpha * distill.distillation_loss(known, *logits, 1.0))

    return loss


def fit(net, batches, loss, settings, name):
    """Train a net as training.train does, but quietly; returns its history."""
    num_steps = settings["epochs"] * batches.num_steps
    optimizer = training.adam(settings["learning_rate"], num_steps, settings.get("weight_decay"))
    return training.run_epochs(training.compile_epoch(net, optimizer, batches, loss), settings["epochs"], name)


# ---- classes that a transfer set lacks -------------------------------------------------------------------------------


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


# ---- all of them -----------------------------------------------------------------------------------------------------


def plan(names, seeds, quick):
    """The runs of these experiments, [(settings, seed, name)], each once: seed by seed, a teacher before its students."""
    runs = {}
    for seed in range(seeds):
        for experiment in names:
            for row, settings in rows(experiment, quick).items():
                if seed and settings["held_out"]:  # choices: one seed only
                    continue
                if settings.get("teacher"):
                    runs.setdefault(_key(settings["teacher"], seed), (settings["teacher"], seed, "its teacher"))
                runs.setdefault(_key(settings, seed), (settings, seed, f"{experiment}, {row}, seed {seed}"))
    return list(runs.values())


def _key(settings, seed):
    return json.dumps([settings, seed], sort_keys=True)


def rows(experiment, quick):
    """{row: settings} of an experiment; quick: a tenth of the epochs."""
    return {row: _quick(settings) if quick else settings for row, (settings, _) in EXPERIMENTS[experiment]().items()}


def _quick(settings):
    shorter = {"epochs": max(1, settings["epochs"] // 10), "held_out": settings["held_out"] // 10}
    return settings | shorter | ({"teacher": _quick(settings["teacher"])} if settings.get("teacher") else {})


def run_all(lab, runs):
    """Run those of [(settings, seed, name)] that are not finished yet."""
    missing = [run for run in runs if not lab.find(*run[:2])]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before")
    left, start = sum(work(lab, settings) for settings, *_ in missing), time.perf_counter()
    done = 0.0
    for number, (settings, seed, name) in enumerate(missing, 1):
        run(lab, settings, seed, f"{number}/{len(missing)} {name}")
        record = lab.runs[-1]
        done += work(lab, settings)
        minutes = (time.perf_counter() - start) / 60 * (left / done - 1)
        common.clear_progress()
        print(
            f"{number:3}/{len(missing)}  {name:<60} {record['errors']:5,} wrong of {record['images']:,}"
            f"  {record['seconds']:6.1f} s  {minutes:.0f} min left",
            flush=True,
        )


def work(lab, settings):
    """What a run costs, in multiply-adds and, roughly, what passes beside them."""
    share = len(settings.get("classes") or range(lab.digits.num_classes)) / lab.digits.num_classes
    if not settings.get("keep_unlabelled"):
        share *= settings.get("labelled", 1.0)
    images = settings["epochs"] * len(lab.digits.train.labels) * share
    sizes = [math.prod(lab.digits.image_shape), *settings["hidden"], lab.digits.num_classes]
    return images * (sum(a * b for a, b in itertools.pairwise(sizes)) + 50_000)


def report(lab, experiment, seeds, quick):
    """Print an experiment's table: errors beside the paper's."""
    published = {row: number for row, (_, number) in EXPERIMENTS[experiment]().items()}
    print(f"\n{experiment}: {EXPERIMENTS[experiment].__doc__}")
    where = "held out of training" if experiment == "choices" else "test images"
    print(f"{f'errors, {where}':<64}{'paper':>8}{'mean':>10}{'sd':>8}  each seed")
    for row, settings in rows(experiment, quick).items():
        records = [record for seed in range(seeds) if (record := lab.find(settings, seed))]
        _line(row, published[row], [record["errors"] for record in records])
        if settings.get("classes"):
            unseen = [label for label in range(lab.digits.num_classes) if label not in settings["classes"]]
            _report_corrections(records, unseen)


def _line(row, published, errors):
    spread = f"{np.std(errors, ddof=1):8.1f}" if len(errors) > 1 else f"{'':>8}"
    print(
        f"{row:<64}{published or '':>8}{np.mean(errors):>10,.1f}{spread}  {' '.join(f'{error:,}' for error in errors)}"
    )


def _report_corrections(records, unseen):
    def on_unseen(scores):
        return [sum(score["errors_per_class"][label] for label in unseen) for score in scores]

    _line("    on the classes left out", None, on_unseen(records))
    for way in records[0]["corrected"]:
        scores = [record["corrected"][way] for record in records]
        _line(f"  biases: {way}", None, [score["errors"] for score in scores])
        _line("    on the classes left out", None, on_unseen(scores))


def compare_temperatures(lab, width, seeds, quick):
    """A line: each temperature against the best for students of this width, image by image."""
    wrong = {temperature: wrong_counts(lab, width, temperature, seeds, quick) for temperature in TEMPERATURES}
    best = min(wrong, key=lambda temperature: wrong[temperature].sum())
    cells = [
        f"T {temperature:g} {(counts.sum() - wrong[best].sum()) / seeds:+.1f} (p {metrics.paired(counts, wrong[best]):.2g})"
        for temperature, counts in wrong.items()
        if temperature != best
    ]
    return f"2x{width}: T {best:g} is best; {', '.join(cells)}"


def wrong_counts(lab, width, temperature, seeds, quick):
    """How many of the seeds are wrong on each test image, (n,), in `temperatures`."""
    settings = rows("temperatures", quick)[f"2x{width}, T {temperature:g}"]
    wrong = [lab.find(settings, seed)["wrong"] for seed in range(seeds)]
    return np.bincount(np.concatenate(wrong).astype(int), minlength=len(lab.digits.test.labels))


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


def parse_arguments():
    options = common.plain_parser(__doc__)
    options.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="some of those of --list (default: all)")
    options.add_argument("--list", action="store_true", help="say what there is, and stop")
    options.add_argument("--seeds", type=common.whole(1), default=5, help="so many, from 0 on (default: %(default)s)")
    options.add_argument("--quick", action="store_true", help="10,000 images and a tenth of the epochs, kept apart")
    arguments = options.parse_args()
    for name in arguments.experiments:
        if name not in EXPERIMENTS:
            options.error(f"there is no experiment {name!r}: choose from {', '.join(EXPERIMENTS)}")
    return arguments


def main():
    arguments = parse_arguments()
    if arguments.list:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:<14}{experiment.__doc__}")
        return
    common.print_settings(arguments)
    digits, seeds, quick = data.load(validation=0), arguments.seeds, arguments.quick
    folder = common.make_folder(arguments.out) / "paper"
    results = RESULTS
    if quick:
        digits = digits._replace(train=data.Split(*(array[:10_000] for array in digits.train)))
        results = folder = folder / "quick"
    folder.mkdir(parents=True, exist_ok=True)
    results.mkdir(exist_ok=True)
    lab = Lab(digits, folder, results / "paper.json")
    names = [name for name in EXPERIMENTS if name in arguments.experiments or not arguments.experiments]
    run_all(lab, plan(names, seeds, quick))
    for name in names:
        report(lab, name, seeds, quick)
        if name == "temperatures":
            print("\nerrors more than the best temperature's, mean of the seeds, and the paired test's p-value")
            for width in WIDTHS:
                print(compare_temperatures(lab, width, seeds, quick))
        if name in ("temperatures", "labels"):
            draw(lab, seeds, quick, results / f"paper_{name}.png", name)
    print(f"\nevery run is in {lab.results}")


if __name__ == "__main__":
    common.run(main)
