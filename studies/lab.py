"""Many training runs, side by side: each is recorded at once and never repeated. For paper.py and when_it_helps.py.

A run is decided by its settings, a dict like TEACHER or STUDENT, and a seed. A distilled student's settings hold
those of its teacher, which has the student's seed. A record is what came of a run: settings, seed, the errors in all,
per class and image by image, seconds, versions.
"""

import functools
import json
import shutil
import statistics
import time
from pathlib import Path

from support import UserError, files, inference, metrics, model_files, parallel, pick, terminal, training
from support.recipe import integer

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
    "held_out": 0,  # so many of the last training images, on which the errors are then counted
    "classes": None,  # those of the transfer set; None for all
    "labelled": 1.0,  # the share of the transfer set whose labels are known
    "keep_unlabelled": False,  # whether the other images stay in it, for their soft targets
}
SHARED = [
    "teacher",
    "translate",
    "distort",
    "epochs",
    "batch_size",
    "held_out",
    "classes",
    "labelled",
    "keep_unlabelled",
]
AT_ONCE = 16  # students at most that are trained together; they are all lost when one is stopped
LATER = pick(STUDENT, ["pool", "crop", "activation", "distort"])  # older records have these only where they differ


def distilled(taught_by, temperature, alpha=0.9, **changes):
    """The settings of a student distilled from a teacher with the settings `taught_by`."""
    return STUDENT | {"teacher": taught_by, "temperature": temperature, "alpha": alpha} | changes


# ---- records ---------------------------------------------------------------------------------------------------------


class RunStore:
    """The dataset, the records of finished runs in the file `results`, and the folder of trained teachers and their
    logits.

    seeds: how many a row of a table needs. quick: whether every run is made with `quick_settings`.
    """

    def __init__(self, dataset, folder, results, seeds=5, quick=False):
        self.dataset, self.folder, self.results, self.seeds, self.quick = dataset, folder, results, seeds, quick
        self.dataset_sha256 = files.fingerprint(*dataset.train, *dataset.test)
        self.runs = []
        if results.exists():
            with files.reading(results, "", "move it away, or get it anew"):
                for run in json.loads(results.read_text(encoding="utf-8"))["runs"]:
                    added = LATER if run["settings"]["net"] == "student" else {}
                    self.runs.append(run | {"settings": added | run["settings"]})

    def find(self, settings, seed):
        """The record of a finished run; None if there is none."""
        wanted = {"settings": settings, "seed": seed, "dataset": self.dataset_sha256}
        return next((run for run in self.runs if not model_files.differing(run, wanted)), None)

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
            scratch.write_text('{"runs": [\n' + ",\n".join(map(json.dumps, self.runs)) + "\n]}\n", encoding="utf-8")

    def saved_teacher(self, settings, seed):
        """The file, as bytes, of a teacher that was trained with these settings on these data; None if there is
        none.
        """
        path = self.teacher_path(settings, seed)
        wanted = settings | {"seed": seed, "data": files.fingerprint(*split_for(self.dataset, settings)[0])}
        return path.read_bytes() if model_files.is_made_with(path, wanted, {}) else None

    def fills_documents(self):
        """Whether the documents' tables and figures come from here: from the committed records, with all five seeds."""
        return self.results.parent == FOLDER and self.seeds == 5

    def figure(self, end=""):
        """Where to draw a figure: beside the records, unless those are the committed ones and it is not for the
        documents.
        """
        beside = self.results.parent != FOLDER or self.fills_documents()
        return (self.results.parent if beside else self.folder) / f"{self.results.stem}{end}.png"

    def save_teacher(self, settings, seed, saved):
        """Keep the file of a teacher, bytes."""
        path = self.teacher_path(settings, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as scratch:
            scratch.write_bytes(saved)

    def teacher_path(self, settings, seed):
        """Where the teacher of these settings is saved."""
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
    """'+1.0 (p 0.4)': how many errors the others make more than these records, of the same seeds, paired image by
    image.
    """
    few, many = wrong_counts(records), wrong_counts(others)
    return f"{(many.sum() - few.sum()) / len(records):+.1f} (p {metrics.paired_p(few, many):.2g})"


# ---- one run: functions of plain values and arrays, which any worker can call ----------------------------------------


def split_for(dataset, settings):
    """(the training split, the split on which errors are counted) of a run."""
    if not settings["held_out"]:
        return dataset.train, dataset.test
    # The last ones, not those of data.hold_out: so are the records.
    cut = len(dataset.train.labels) - settings["held_out"]
    return dataset.train.take(slice(cut)), dataset.train.take(slice(cut, None))


def record_of(dataset, settings, seed, model, history, start, more):
    """What is recorded of a run. more(settings, model, train split, logits, labels) adds to it."""
    train, scored = split_for(dataset, settings)
    logits = inference.predictor(model)(scored.images)
    record = {"settings": settings, "seed": seed, "images": len(scored.labels)} | score(logits, scored.labels)
    record |= more(settings, model, train, logits, scored.labels)
    record["train_errors"] = inference.count_errors(model, train)
    record["seconds_an_epoch"] = round(statistics.median(row.seconds for row in history), 3)
    # Of students that were trained together, `seconds` are those of all, and the first one's epochs hold what they
    # share.
    return record | {"seconds": round(time.perf_counter() - start, 1), "versions": files.versions()}


def train_teacher(dataset, settings, seed, saved, more):
    """([the record of a teacher], its .keras file as bytes). saved: those bytes, if it was trained before."""
    start = time.perf_counter()
    train = split_for(dataset, settings)[0]
    if saved:
        model, history = model_files.from_bytes(saved, dataset.image_shape, dataset.num_classes)
    else:
        wanted = settings | {"seed": seed, "data": files.fingerprint(*train)}
        loss = functools.partial(smoothed_cross_entropy, share=settings["smoothing"])
        recipe, options = teacher.TeacherRecipe.of(wanted), {"report": training.show_epoch}
        model, history = teacher.train_teacher(dataset._replace(train=train), recipe, loss, **options)
        saved = model_files.to_bytes(model, wanted, history)
    return [record_of(dataset, settings, seed, model, history, start, more)], saved


def teacher_logits(dataset, settings, taught):
    """distill.teacher_logits of a student's images. taught: what train_teacher returns."""
    model, _ = model_files.from_bytes(taught[1], dataset.image_shape, dataset.num_classes)
    images = split_for(dataset, settings)[0].images
    return distill.teacher_logits(model, images, settings["translate"], settings["distort"])


def train_students(dataset, runs, taught, logits, more):
    """(the records of students that see the same images, None). runs: [(settings, seed)], alike in SHARED and the seed.

    They are trained as by training.train_together; bit for bit as by distill.py, if the transfer set is all training
    images. taught, logits: what train_teacher and teacher_logits return; both None without a teacher, logits also for
    distorted images.
    """
    start = time.perf_counter()
    settings, seed = runs[0]
    train = split_for(dataset, settings)[0]
    chosen, labels = transfer_set(train.labels, settings, seed)
    if taught:
        logits = logits[chosen] if logits is not None else teacher_logits(dataset, settings, taught)
    order = {"seed": seed, **pick(settings, ["translate", "distort"]), "teacher_logits": logits}
    split, batch_size = data.Split(train.images[chosen], labels), min(settings["batch_size"], len(chosen))
    batches = data.Batches(split, batch_size, **order)
    nets = []
    for its, _ in runs:
        loss = training.cross_entropy
        if taught:
            loss = functools.partial(distill.distillation_loss, **pick(its, ["temperature", "alpha"]))
        options = pick(its, ["epochs", "learning_rate"]) | {"report": training.show_epoch}
        recipe = student.StudentRecipe.of(its | {"seed": seed})
        nets.append((student.first_student(dataset, recipe), loss, options))
    histories = training.train_together(nets, batches)
    records = []
    for run, (net, _, _), history in zip(runs, nets, histories):
        records.append(record_of(dataset, *run, net, history, start, more))
    return records, None


def smoothed_cross_entropy(labels, logits, share):
    """The loss on labels of whose weight this share is spread evenly over the classes (Szegedy et al. 2016):
    (batch,).
    """
    mean_over_classes = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
    return (1 - share) * training.cross_entropy(labels, logits) + share * mean_over_classes


def transfer_set(labels, settings, seed):
    """(indices of the transfer set into the training images, its labels): labels are -1 where they are not to be
    known.
    """
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
    """The options of a study with these experiments, {name: function}: which of them, how many seeds, in full or
    quick.
    """
    options = terminal.parser(description, terminal.Output())
    options.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="some of those of --list (default: all)")
    options.add_argument("--list", action="store_true", help="list the experiments, and stop")
    options.add_argument("--seeds", type=integer(1), default=5, help="so many, from 0 on (default: 5)")
    options.add_argument("--quick", action="store_true", help="10,000 images and a tenth of the epochs, kept apart")
    help_text = "keep the records of runs there, apart from the committed ones, and the figures beside it"
    options.add_argument("--results", type=Path, metavar="FILE", help=help_text)
    help_text = "repeat N recorded runs, chosen at random, and say which come out the same"
    options.add_argument("--check", type=integer(1), metavar="N", help=help_text)
    parallel.add_options(options)
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
    """The RunStore of a study on MNIST, whose records are in studies/NAME.json, unless --results or --quick say
    otherwise.
    """
    parallel.use_one_core()  # before anything is computed
    folder = files.output_folder(Path(arguments.out) / "studies")
    dataset, results = data.load(validation=0), arguments.results or FOLDER / f"{name}.json"
    if arguments.quick:
        dataset = dataset._replace(train=dataset.train.take(slice(10_000)))
        folder = folder / "quick"
        folder.mkdir(exist_ok=True)
        results = arguments.results or folder / results.name
    if not results.parent.is_dir():
        raise UserError(f"{results}: there is no such folder: create it, or choose another --results")
    files.lock(results)
    for leftover in folder.glob("*_seed*/.*.partial-*"):  # of a run that was killed
        leftover.unlink()
    return RunStore(dataset, folder, results, arguments.seeds, arguments.quick)


def quick_settings(settings):
    """These settings with a tenth of the epochs and of the images held out."""
    shorter = {"epochs": max(1, settings["epochs"] // 10), "held_out": settings["held_out"] // 10}
    return settings | shorter | ({"teacher": quick_settings(settings["teacher"])} if settings.get("teacher") else {})


def plan(store, experiments):
    """The runs of {experiment: {row: settings}}, each once: [(settings, seed, name)], seed by seed, each teacher
    before its students.

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


def nothing_more(*run):
    """What most studies record of a run besides `score`."""
    return {}


def submit(pool, store, runs, more):
    """Hand runs, as of `plan`, to the pool: {task: its runs}. A teacher that is neither among them nor saved is
    trained too.
    """
    dataset, tasks, teachers, logits = pool.share(store.dataset), {}, {}, {}

    def teacher_task(settings, seed, name):
        key = json.dumps([settings, seed])
        if key not in teachers:
            saved = store.saved_teacher(settings, seed)
            shared = saved and pool.share(saved)
            teachers[key] = pool.submit(train_teacher, dataset, settings, seed, shared, more, name=name)
            tasks[teachers[key]] = [(settings, seed, name)]
        return teachers[key]

    for group in grouped(runs):
        settings, seed, name = group[0]
        if settings["net"] == "teacher":
            teacher_task(settings, seed, name)
            continue
        taught = targets = None
        if settings["teacher"]:
            taught = teacher_task(settings["teacher"], seed, f"{name}: its teacher")
            key = json.dumps([settings["teacher"], seed, settings["translate"], settings["held_out"]])
            if not settings["distort"]:
                if key not in logits:
                    logits[key] = pool.submit(teacher_logits, dataset, settings, taught, name=f"{name}: soft targets")
                targets = logits[key]
        plain = [run[:2] for run in group]
        tasks[pool.submit(train_students, dataset, plain, taught, targets, more, name=name)] = group
    return tasks


def grouped(runs):
    """The runs in lists, one alone or several students that see the same distorted images."""
    groups, found = {}, []
    for run in runs:
        settings, seed, _ = run
        key = (
            json.dumps([pick(settings, SHARED), seed]) if settings["net"] == "student" and settings["distort"] else None
        )
        if key is None or len(groups.get(key, [0] * AT_ONCE)) == AT_ONCE:
            found.append([])
            groups[key] = found[-1]
        groups[key].append(run)
    return found


def run_all(store, runs, arguments, more=nothing_more):
    """Run those of `runs`, as of `plan`, that have no record yet. arguments: as of `parse_arguments`. more: see
    `record_of`.
    """
    missing = [run for run in runs if not store.find(*run[:2])]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before")
    if not missing:
        return
    with parallel.pool(arguments.workers, arguments.cluster) as pool:
        tasks, start = submit(pool, store, missing, more), time.perf_counter()
        costs = {task: cost(store, group) for task, group in tasks.items()}
        finished, spent = 0, 0

        def describe():
            left = parallel.time_left(start, spent, sum(costs.values()))
            return f"{finished} of {sum(map(len, tasks.values()))} runs done{left}"

        for task, (records, saved) in pool.finished(list(tasks), describe):
            spent += costs[task]
            for record, (settings, seed, name) in zip(records, tasks[task]):
                if saved:
                    store.save_teacher(settings, seed, saved)
                if not store.find(settings, seed):
                    store.save(record | {"dataset": store.dataset_sha256})
                finished += 1
                wrong = f"{record['errors']:5,} wrong of {record['images']:,}  {record['seconds']:6.1f} s"
                terminal.clear_progress()
                print(f"{name:<60} {wrong}  {describe()}", flush=True)


def check(store, arguments, more=nothing_more):
    """Repeat --check recorded runs, chosen at random, and print which come out the same: right and wrong on the same
    images.
    """
    places = sorted(np.random.default_rng().permutation(len(store.runs))[: arguments.check])
    recorded = [store.runs[place] for place in places]
    folder = store.folder / "check"  # a saved teacher would only be read
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    again = RunStore(store.dataset, folder, folder / "runs.json", store.seeds)
    wanted = [(run["settings"], run["seed"], f"record {place}") for place, run in zip(places, recorded)]
    run_all(again, wanted, arguments, more)
    rows = []
    for place, run in zip(places, recorded):
        repeated = again.find(run["settings"], run["seed"])
        same = "the same" if repeated["wrong"] == run["wrong"] else "other images"
        commit = str(run["versions"].get("commit"))
        rows.append([f"record {place}", f"{run['errors']:,}", f"{repeated['errors']:,}", same, commit])
    header = ["", "recorded", "repeated", "wrong on", "recorded at commit"]
    terminal.print_table("records and repeated runs", header, rows)


def report(store, texts):
    """Print the tables {name: Markdown} that have rows; with the five seeds of the documents, fill them in there
    too.
    """
    texts = {name: text for name, text in texts.items() if text.count("\n") > 1}
    for name, text in texts.items():
        print(f"\n{name}\n\n{text}")
    if store.fills_documents():
        tables.fill(texts)
    print(f"\nevery run is in {store.results}")


def cost(store, group):
    """About the multiply-adds of runs that are trained together, [(settings, seed, ...)]; 0 for a teacher that is
    trained already.
    """
    settings, seed = group[0][:2]
    if settings["net"] == "teacher" and store.saved_teacher(settings, seed):
        return 0
    labels = split_for(store.dataset, settings)[0].labels
    images = settings["epochs"] * len(transfer_set(labels, STUDENT | settings, seed)[0])
    each = sum(3 * (_multiply_adds(store, its) + 15_000) for its, *_ in group)  # and what a step costs besides: roughly
    if settings["distort"]:
        each += 200_000  # what distorting an image costs: roughly
        each += _multiply_adds(store, settings["teacher"]) if settings.get("teacher") else 0  # it runs on each
    return images * each


def _multiply_adds(store, settings):
    of = student.StudentRecipe.of if settings["net"] == "student" else teacher.TeacherRecipe.of
    return _of_net(store.dataset.image_shape, store.dataset.num_classes, of(settings))


@functools.cache  # a study has many runs of few nets
def _of_net(image_shape, num_classes, recipe):
    build = student.build_student if isinstance(recipe, student.StudentRecipe) else teacher.build_teacher
    return inference.multiply_adds(build(image_shape, num_classes, recipe), image_shape)
