"""Runs that take long, each kept at once and never run again: what paper.py and frontier.py have in common.

A run is its settings, a dict such as TEACHER or STUDENT, and a seed. A student names its teacher's settings, and has the
teacher of its own seed. A record is what came of a run: settings, seed, errors in all and of each class, which images they
are, seconds, versions.
"""

import itertools
import json
import math
import statistics
import time
from pathlib import Path

import common  # before TensorFlow: it keeps the start-up quiet

import keras
import numpy as np
import tensorflow as tf

import data
import distill
import student
import teacher
import training
import variants

TEACHER = {
    "net": "teacher",
    "kind": "translated",  # its name: of the folder where it is kept
    "hidden": [1200, 1200],
    "dropout": 0.3,
    "input_dropout": 0.05,
    "translate": 2,
    "distort": 0,
    "smoothing": 0.0,  # the share of a label's weight that is spread over the classes
    "epochs": 80,
    "batch_size": 500,
    "learning_rate": 2e-3,
    "weight_decay": 0.5,
    "held_out": 0,
}
DISTORTED = TEACHER | {
    "kind": "distorted",
    "dropout": 0.05,
    "input_dropout": 0.0,
    "translate": 0,
    "distort": 1.3,
    "epochs": 100,
}
STUDENT = {
    "net": "student",
    "hidden": [800, 800],
    "teacher": None,  # or its settings; then "temperature" and "alpha" are there too
    "translate": 0,
    "epochs": 40,
    "batch_size": 250,
    "learning_rate": 2e-3,
    "held_out": 0,  # the last so many training images are kept out, and errors are counted on them, not on the test set
    "classes": None,  # the transfer set has no others; None for all
    "labelled": 1.0,  # the share of the transfer set whose labels are known
    "keep_unlabelled": False,  # whether the rest stays in it, for its soft targets
}  # and "distort", "pool", "crop" and "activation", if not 0, 1, 0 and ReLU


def distilled(taught_by, temperature, alpha=0.9, **changes):
    """A student's settings, taught by a teacher of these settings, at a temperature."""
    return STUDENT | {"teacher": taught_by, "temperature": temperature, "alpha": alpha} | changes


class Lab:
    """The digits, the folder of the teachers, and the finished runs, each kept at once."""

    def __init__(self, digits, folder, results):
        self.digits, self.folder, self.results = digits, folder, results
        self.data = common.fingerprint(*digits.train, *digits.test)
        try:
            self.runs = [dict(run) for run in json.loads(results.read_text())["runs"]]
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

    def teacher_folder(self, settings, seed):
        """Where a teacher is kept, and its logits."""
        return self.folder / f"{settings['kind']}_seed{seed}{'_held_out' if settings['held_out'] else ''}"


# ---- the scripts -----------------------------------------------------------------------------------------------------


def parse_arguments(description, functions):
    """The options of a script of {experiment: function}: which of them, how many seeds, in full or quickly."""
    options = common.plain_parser(description)
    options.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="some of those of --list (default: all)")
    options.add_argument("--list", action="store_true", help="say what there is, and stop")
    options.add_argument("--seeds", type=common.whole(1), default=5, help="so many, from 0 on (default: %(default)s)")
    options.add_argument("--quick", action="store_true", help="10,000 images and a tenth of the epochs, kept apart")
    arguments = options.parse_args()
    for name in arguments.experiments:
        if name not in functions:
            options.error(f"there is no experiment {name!r}: choose from {', '.join(functions)}")
    if arguments.list:
        for name, function in functions.items():
            print(f"{name:<14}{function.__doc__}")
        options.exit()
    arguments.experiments = [name for name in functions if name in arguments.experiments or not arguments.experiments]
    common.print_settings(arguments)
    return arguments


def open_lab(arguments, results):
    """The Lab on MNIST for these arguments; with --quick its results are not the file `results` but in the folder --out."""
    folder = common.make_folder(Path(arguments.out) / "paper")
    digits = data.load(validation=0)
    if arguments.quick:
        digits = digits._replace(train=data.Split(*(array[:10_000] for array in digits.train)))
        folder = folder / "quick"
        results = folder / results.name
    folder.mkdir(parents=True, exist_ok=True)
    results.parent.mkdir(exist_ok=True)
    common.claim(results)
    for leftover in folder.glob("*_seed*/.*.partial-*"):  # of a run that was killed
        leftover.unlink()
    return Lab(digits, folder, results)


# ---- one run ---------------------------------------------------------------------------------------------------------


def run(lab, settings, seed, name, more):
    """Train a net and count its errors; keep the record. more(settings, net, train split, logits, labels) adds to it."""
    start = time.perf_counter()
    train, scored = lab.images(settings)
    net, history = (get_teacher if settings["net"] == "teacher" else train_student)(lab, settings, seed, name)
    logits = training.predictor(net)(scored.images)
    record = {"settings": settings, "seed": seed, "data": lab.data, "images": len(scored.labels)}
    record |= score(logits, scored.labels) | more(settings, net, train, logits, scored.labels)
    if history:
        record["seconds_an_epoch"] = round(statistics.median(row.seconds for row in history), 3)
    lab.keep(record | {"seconds": round(time.perf_counter() - start, 1), "versions": common.versions()})


def score(logits, labels):
    """The errors of logits (n, C): how many, of each class, and which of the images."""
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    per_class = np.bincount(labels[wrong], minlength=logits.shape[1])
    return {"errors": len(wrong), "errors_per_class": per_class.tolist(), "wrong": wrong.tolist()}


def get_teacher(lab, settings, seed, name):
    """(the teacher of these settings, its history): from their files where it was trained before."""
    path = lab.teacher_folder(settings, seed) / "teacher.keras"
    if training.settings_of(path) == settings | {"seed": seed, "data": lab.data}:
        return training.load(path, lab.digits.image_shape, lab.digits.num_classes), training.load_history(path)
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
        distortion=data.distortion(settings["distort"]),
    )
    history = fit(net, batches, smoothed_cross_entropy(settings["smoothing"]), settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    training.save(net, path, settings | {"seed": seed, "data": lab.data}, history)
    return net, history


def smoothed_cross_entropy(share):
    """The loss on labels of whose weight this share is spread evenly over the classes (Szegedy et al. 2016)."""

    def loss(labels, logits):
        mean_over_classes = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
        return (1 - share) * training.cross_entropy(labels, logits) + share * mean_over_classes

    return loss


def train_student(lab, settings, seed, name):
    """(a student, its history), trained on its transfer set: as by distill.py, where that is all images and labels."""
    recipe = {"distort": 0, "pool": 1, "crop": 0, "activation": "relu"} | settings | {"seed": seed}
    train = lab.images(settings)[0]
    chosen, labels = transfer_set(train.labels, settings, seed)
    recipe["batch_size"] = min(settings["batch_size"], len(chosen))
    logits, loss = None, training.cross_entropy
    if settings["teacher"]:
        net, _ = get_teacher(lab, settings["teacher"], seed, name)
        folder = lab.teacher_folder(settings["teacher"], seed)
        logits = distill.ask(net, train.images, recipe["translate"], recipe["distort"], cache=folder)
        if not callable(logits):
            logits = logits[chosen]
        loss = combined_loss(settings["temperature"], settings["alpha"], settings["keep_unlabelled"])
        if "loss" in settings:
            loss = variants.LOSSES[settings["loss"]](settings["temperature"], settings["alpha"])
    split = data.Split(train.images[chosen], labels)
    net, batches = student.prepare(lab.digits._replace(train=split), recipe, logits)
    return net, fit(net, batches, loss, settings, name)


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


def combined_loss(temperature, alpha, some_unlabelled=False):
    """The loss of distill.py, of whose two terms an image labelled -1, if there are some, has the soft one only."""
    loss = distill.loss_at(temperature, alpha)

    def masked_loss(labels, teacher_logits, student_logits):
        soft = distill.distillation_loss(tf.zeros_like(labels), teacher_logits, student_logits, temperature, 1.0)
        return tf.where(labels >= 0, loss(tf.maximum(labels, 0), teacher_logits, student_logits), alpha * soft)

    return masked_loss if some_unlabelled else loss


def fit(net, batches, loss, settings, name):
    """Train a net as training.train does, but quietly; returns its history."""
    num_steps = settings["epochs"] * batches.num_steps
    optimizer = training.adam(settings["learning_rate"], num_steps, settings.get("weight_decay"))
    if "ema" in settings:
        optimizer.use_ema, optimizer.ema_momentum = True, settings["ema"]  # before it is built
    history = training.run_epochs(training.compile_epoch(net, optimizer, batches, loss), settings["epochs"], name)
    if "ema" in settings:
        optimizer.finalize_variable_values(net.trainable_variables)
    return history


# ---- many runs -------------------------------------------------------------------------------------------------------


def plan(experiments, seeds):
    """The runs of {experiment: {row: settings}}, [(settings, seed, name)], each once: seed by seed, teachers first.

    Rows on images held out are run with one seed only.
    """
    runs = {}
    for seed in range(seeds):
        for experiment, rows in experiments.items():
            for row, settings in rows.items():
                if seed and settings["held_out"]:
                    continue
                if settings.get("teacher"):
                    runs.setdefault(_key(settings["teacher"], seed), (settings["teacher"], seed, "its teacher"))
                runs.setdefault(_key(settings, seed), (settings, seed, f"{experiment}, {row}, seed {seed}"))
    return list(runs.values())


def _key(settings, seed):
    return json.dumps([settings, seed], sort_keys=True)


def quickly(settings):
    """The same with a tenth of the epochs."""
    shorter = {"epochs": max(1, settings["epochs"] // 10), "held_out": settings["held_out"] // 10}
    return settings | shorter | ({"teacher": quickly(settings["teacher"])} if settings.get("teacher") else {})


def run_all(lab, runs, more=lambda *run: {}):
    """Run those of [(settings, seed, name)] that are not finished yet. more: see `run`."""
    missing = [run for run in runs if not lab.find(*run[:2])]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before")
    left, start = sum(work(lab, settings) for settings, *_ in missing), time.perf_counter()
    done = 0.0
    for number, (settings, seed, name) in enumerate(missing, 1):
        run(lab, settings, seed, f"{number}/{len(missing)} {name}", more)
        record = lab.runs[-1]
        done += work(lab, settings)
        minutes = (time.perf_counter() - start) / 60 * (left / done - 1)
        common.clear_progress()
        print(
            f"{number:3}/{len(missing)}  {name:<60} {record['errors']:5,} wrong of {record['images']:,}"
            f"  {record['seconds']:6.1f} s  {minutes:.0f} min left",
            flush=True,
        )


def print_row(name, published, errors):
    """Print a table's row: the errors that were published, mean and standard deviation of ours, and each seed's."""
    spread = f"{np.std(errors, ddof=1):8.1f}" if len(errors) > 1 else f"{'':>8}"
    print(
        f"{name:<64}{published or '':>8}{np.mean(errors):>10,.1f}{spread}  {' '.join(f'{error:,}' for error in errors)}"
    )


def wrong_counts(records):
    """How many of these records, all on the same images, are wrong on each: (images,)."""
    wrong = np.concatenate([record["wrong"] for record in records]).astype(int)
    return np.bincount(wrong, minlength=records[0]["images"])


def work(lab, settings):
    """What a run costs, in multiply-adds and, roughly, what passes beside them."""
    share = len(settings.get("classes") or range(lab.digits.num_classes)) / lab.digits.num_classes
    if not settings.get("keep_unlabelled"):
        share *= settings.get("labelled", 1.0)
    images = settings["epochs"] * len(lab.digits.train.labels) * share
    cost = multiply_adds(lab, settings) + 50_000
    if settings.get("teacher") and settings.get("distort"):
        cost += multiply_adds(lab, settings["teacher"]) / 3  # forward only
    return images * cost


def multiply_adds(lab, settings):
    """Of an image's way through a net."""
    sizes = [math.prod(lab.digits.image_shape), *settings["hidden"], lab.digits.num_classes]
    return sum(a * b for a, b in itertools.pairwise(sizes))
