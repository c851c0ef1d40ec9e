"""Many training runs: each is recorded at once and never repeated. For paper.py and small_nets.py.

A run is decided by its settings, a dict like TEACHER or STUDENT, and a seed. A distilled student's settings hold those of its
teacher, which has the student's seed. A record is what came of a run: settings, seed, the errors in all, per class and image by
image, seconds, versions.
"""

import functools
import json
import statistics
import time
from pathlib import Path

from support import files, metrics, models, pick, terminal, training

import numpy as np
import tensorflow as tf

import data
import distill
import student
import teacher
from studies import tables

FOLDER = Path(__file__).parent
TEACHER = {
    "net": "teacher",
    "kind": "translated",  # the name of the folder where it is saved
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
    "pool": 1,
    "crop": 0,
    "activation": "relu",
    "teacher": None,  # or its settings; then there are "temperature" and "alpha" too
    "translate": 0,
    "distort": 0,
    "epochs": 40,
    "batch_size": 250,
    "learning_rate": 2e-3,
    "held_out": 0,  # so many of the last training images are held out, and the errors counted on them, not on the test set
    "classes": None,  # those of the transfer set; None for all
    "labelled": 1.0,  # the share of the transfer set whose labels are known
    "keep_unlabelled": False,  # whether the other images stay in it, for their soft targets
}
LATER = pick(STUDENT, ["pool", "crop", "activation", "distort"])  # older records have these only where they differ


def distilled(taught_by, temperature, alpha=0.9, **changes):
    """The settings of a student distilled from a teacher with the settings `taught_by`."""
    return STUDENT | {"teacher": taught_by, "temperature": temperature, "alpha": alpha} | changes


# ---- records ---------------------------------------------------------------------------------------------------------


class RunStore:
    """The dataset, the records of finished runs in the file `results`, and the folder of trained teachers and their logits.

    seeds: how many make a row of a table complete. quick: whether every run is made with `quick_settings`.
    """

    def __init__(self, dataset, folder, results, seeds=5, quick=False):
        self.dataset, self.folder, self.results, self.seeds, self.quick = dataset, folder, results, seeds, quick
        self.dataset_sha256 = files.fingerprint(*dataset.train, *dataset.test)
        self.runs = []
        if results.exists():
            with files.reading(results, "", "move it away, or get it anew"):
                for run in json.loads(results.read_text())["runs"]:
                    added = LATER if run["settings"]["net"] == "student" else {}
                    self.runs.append(run | {"settings": added | run["settings"]})

    def find(self, settings, seed):
        """The record of a finished run; None if there is none."""
        wanted = {"settings": settings, "seed": seed, "dataset": self.dataset_sha256}
        return next((run for run in self.runs if not models.differing(run, wanted)), None)

    def rows(self, experiment):
        """{row: settings} of an experiment, a function, as they are run here."""
        return {row: quick_settings(its) if self.quick else its for row, its in experiment().items()}

    def records(self, settings):
        """The records of a row of a table: of all seeds (of one, where images are held out); [] if one is missing."""
        found = [self.find(settings, seed) for seed in range(1 if settings["held_out"] else self.seeds)]
        return found if all(found) else []

    def save(self, record):
        """Add a record to the file, which has a line for each."""
        self.runs.append(record)
        with files.atomic_write(self.results) as scratch:
            scratch.write_text('{"runs": [\n' + ",\n".join(map(json.dumps, self.runs)) + "\n]}\n")

    def splits(self, settings):
        """(the training split, the split on which errors are counted) of a run."""
        train, held_out = data.hold_out(self.dataset.train, settings["held_out"])
        return train, held_out if settings["held_out"] else self.dataset.test

    def teacher_path(self, settings, seed):
        """Where the teacher of these settings is saved, with its logits beside it."""
        held_out = "_held_out" if settings["held_out"] else ""
        return self.folder / f"{settings['kind']}_seed{seed}{held_out}" / "teacher.keras"


def score(logits, labels):
    """The errors of logits (n, C) in all, per class, and the indices of the images: a dict of plain values."""
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    per_class = np.bincount(labels[wrong], minlength=logits.shape[1])
    return {"errors": len(wrong), "errors_per_class": per_class.tolist(), "wrong": wrong.tolist()}


def wrong_counts(records):
    """How many of these records, all on the same images, are wrong on each image: (images,)."""
    wrong = np.concatenate([record["wrong"] for record in records]).astype(int)
    return np.bincount(wrong, minlength=records[0]["images"])


def against(records, others):
    """'+1.0 (p 0.4)': how many errors the others make more than these records, of the same seeds, paired image by image."""
    few, many = wrong_counts(records), wrong_counts(others)
    return f"{(many.sum() - few.sum()) / len(records):+.1f} (p {metrics.paired_p(few, many):.2g})"


# ---- one run ---------------------------------------------------------------------------------------------------------


def run(store, settings, seed, name, more):
    """Train a net, count its errors and save the record; more(settings, model, train split, logits, labels) adds to it."""
    start = time.perf_counter()
    train, scored = store.splits(settings)
    model, history = (get_teacher if settings["net"] == "teacher" else train_student)(store, settings, seed, name)
    logits = models.predictor(model)(scored.images)
    record = {"settings": settings, "seed": seed, "dataset": store.dataset_sha256, "images": len(scored.labels)}
    record |= score(logits, scored.labels) | more(settings, model, train, logits, scored.labels)
    record["seconds_an_epoch"] = round(statistics.median(row.seconds for row in history), 3)
    store.save(record | {"seconds": round(time.perf_counter() - start, 1), "versions": files.versions()})


def _show_epoch(name):
    return lambda row, epochs: terminal.progress(f"{name}  epoch {row.epoch}/{epochs}")


def get_teacher(store, settings, seed, name):
    """(the teacher of these settings, its history), loaded if it is saved, else trained and saved."""
    path, train = store.teacher_path(settings, seed), store.splits(settings)[0]
    wanted = settings | {"seed": seed, "data": files.fingerprint(*train)}
    if models.is_made_with(path, wanted):
        return models.load(path, store.dataset.image_shape, store.dataset.num_classes), models.load_training(path)[1]
    loss = functools.partial(smoothed_cross_entropy, share=settings["smoothing"])
    dataset = store.dataset._replace(train=train)
    model, history = teacher.train_teacher(dataset, wanted, loss, report=_show_epoch(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    models.save(model, path, wanted, history)
    return model, history


def smoothed_cross_entropy(labels, logits, share):
    """The loss on labels of whose weight this share is spread evenly over the classes (Szegedy et al. 2016): (batch,)."""
    mean_over_classes = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
    return (1 - share) * training.cross_entropy(labels, logits) + share * mean_over_classes


def train_student(store, settings, seed, name):
    """(a student, its history), trained on its transfer set; bit for bit as by distill.py, if that is all training images."""
    train = store.splits(settings)[0]
    chosen, labels = transfer_set(train.labels, settings, seed)
    logits, loss = None, training.cross_entropy
    if settings["teacher"]:
        model, _ = get_teacher(store, settings["teacher"], seed, f"{name}, its teacher")
        cache = store.teacher_path(settings["teacher"], seed).parent
        logits = distill.teacher_logits(model, train.images, settings["translate"], settings["distort"], cache)
        logits = logits if callable(logits) else logits[chosen]
        loss = functools.partial(distill.distillation_loss, **pick(settings, ["temperature", "alpha"]))
    dataset = store.dataset._replace(train=data.Split(train.images[chosen], labels))
    recipe = settings | {"seed": seed, "batch_size": min(settings["batch_size"], len(chosen))}
    return student.train_student(dataset, recipe, loss, logits, report=_show_epoch(name))


def transfer_set(labels, settings, seed):
    """(indices of the transfer set into the training images, its labels): labels are -1 where they are not to be known."""
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


# ---- many runs -------------------------------------------------------------------------------------------------------


def parse_arguments(description, experiments):
    """The options of a study with these experiments, {name: function}: which of them, how many seeds, in full or quick."""
    options = terminal.parser(description, {"out": "artifacts"})
    options.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="some of those of --list (default: all)")
    options.add_argument("--list", action="store_true", help="list the experiments, and stop")
    options.add_argument("--seeds", type=terminal.integer(1), default=5, help="so many, from 0 on (default: 5)")
    options.add_argument("--quick", action="store_true", help="10,000 images and a tenth of the epochs, kept apart")
    arguments = options.parse_args()
    for name in arguments.experiments:
        if name not in experiments:
            options.error(f"there is no experiment {name!r}: choose from {', '.join(experiments)}")
    if arguments.list:
        for name, function in experiments.items():
            print(f"{name:<14}{function.__doc__}")
        options.exit()
    arguments.experiments = [name for name in experiments if name in arguments.experiments or not arguments.experiments]
    terminal.print_settings(arguments)
    return arguments


def open_store(arguments, name):
    """The RunStore of a study on MNIST, whose records are in studies/NAME.json; with --quick, in the folder --out."""
    folder = files.output_folder(Path(arguments.out) / "studies")
    dataset, results = data.load(validation=0), FOLDER / f"{name}.json"
    if arguments.quick:
        dataset = dataset._replace(train=data.Split(*(array[:10_000] for array in dataset.train)))
        folder = folder / "quick"
        folder.mkdir(exist_ok=True)
        results = folder / results.name
    files.lock(results)
    for leftover in folder.glob("*_seed*/.*.partial-*"):  # of a run that was killed
        leftover.unlink()
    return RunStore(dataset, folder, results, arguments.seeds, arguments.quick)


def quick_settings(settings):
    """These settings with a tenth of the epochs and of the images held out."""
    shorter = {"epochs": max(1, settings["epochs"] // 10), "held_out": settings["held_out"] // 10}
    return settings | shorter | ({"teacher": quick_settings(settings["teacher"])} if settings.get("teacher") else {})


def plan(store, experiments):
    """The runs of {experiment: {row: settings}}, each once: [(settings, seed, name)], seed by seed, teachers first.

    Rows with images held out are run with one seed only.
    """
    runs = {}
    for seed in range(store.seeds):
        for experiment, rows in experiments.items():
            for row, settings in rows.items():
                if seed and settings["held_out"]:
                    continue
                for one, name in ((settings.get("teacher"), "its teacher"), (settings, f"{experiment}, {row}")):
                    if one:
                        runs.setdefault(json.dumps([one, seed]), (one, seed, f"{name}, seed {seed}"))
    return list(runs.values())


def run_all(store, experiments, more=lambda *run: {}):
    """Run those of {experiment: {row: settings}} that have no record yet. more: see `run`."""
    runs = plan(store, experiments)
    missing = [run for run in runs if not store.find(*run[:2])]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before")
    costs, start = [cost(store, *run[:2]) for run in missing], time.perf_counter()
    for number, (settings, seed, name) in enumerate(missing, 1):
        run(store, settings, seed, f"{number}/{len(missing)} {name}", more)
        record = store.runs[-1]
        minutes = (time.perf_counter() - start) / 60 * sum(costs[number:]) / sum(costs[:number])
        terminal.clear_progress()
        print(
            f"{number:3}/{len(missing)}  {name:<60} {record['errors']:5,} wrong of {record['images']:,}"
            f"  {record['seconds']:6.1f} s  {minutes:.0f} min left",
            flush=True,
        )


def report(store, texts):
    """Print the tables {name: Markdown} that have rows; with the five seeds of the documents, fill them in there too."""
    for name, text in texts.items():
        if text.count("\n") > 1:
            print(f"\n{name}\n\n{text}")
    if store.seeds == 5 and not store.quick:
        tables.fill(texts)
    print(f"\nevery run is in {store.results}")


def cost(store, settings, seed):
    """The multiply-adds of a run's training steps, and of those of its teacher if that has to be trained again."""
    images = settings["epochs"] * len(transfer_set(store.splits(settings)[0].labels, STUDENT | settings, seed)[0])
    total = 3 * images * (_multiply_adds(store, settings) + 15_000)  # and what a step costs besides: roughly
    if settings.get("teacher"):
        if settings["distort"]:  # it is run on each view
            total += images * _multiply_adds(store, settings["teacher"])
        if store.find(settings["teacher"], seed) and not store.teacher_path(settings["teacher"], seed).exists():
            total += cost(store, settings["teacher"], seed)
    return total


def _multiply_adds(store, settings):
    build = student.build_student if settings["net"] == "student" else teacher.build_teacher
    sizes = {name: settings[name] for name in ("hidden", "pool", "crop") if name in settings}
    return models.multiply_adds(build(store.dataset.image_shape, store.dataset.num_classes, **sizes))
