"""Training runs for a study: each is recorded at once and never repeated. For paper.py and when_it_helps.py.

A run is a recipe, a TeacherRun or a StudentRun; a student's holds that of its teacher, which has the same seed. The
record of a run is a dict of plain values: settings, the errors in all, per class and image by image, seconds, versions.
Records outlive changes of the code; their versions say which code made them.
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from support import classifier, files, metrics, model_files, teacher_logits, training
from support.batches import Batches

import numpy as np

import data
import distill
import teacher

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class TeacherRun(teacher.TeacherRecipe):
    """All that decides a teacher of a study, besides the data."""

    net: str = "teacher"
    kind: str = "default"  # the name of the folder where it is saved
    held_out: int = 0  # so many of the last training images, on which the errors are then counted
    teacher = None  # no field: so that every run has this name


@dataclass(frozen=True)
class StudentRun(distill.DistillRecipe):
    """All that decides a student of a study, besides the data. Temperature and alpha are used if it has a teacher."""

    net: str = "student"
    teacher: TeacherRun | None = None
    held_out: int = 0  # as in TeacherRun
    classes: tuple[int, ...] | None = None  # those of the transfer set; None for all
    labelled: float = 1.0  # the share of the transfer set whose labels are known
    keep_unlabelled: bool = False  # whether the other images stay in it, for their soft targets


DEFAULT_TEACHER = TeacherRun(**asdict(teacher.DEFAULTS))


def recorded_run(settings, seed):
    """The run of recorded settings, a dict. What it lacks, because it is older than a field, has the default."""
    if settings["net"] == "teacher":
        return DEFAULT_TEACHER.updated(settings | {"seed": seed})
    taught_by = settings["teacher"] and recorded_run(settings["teacher"], seed)
    return StudentRun().updated(settings | {"seed": seed, "teacher": taught_by})


def with_seed(run, seed):
    """The run, and its teacher, with another seed."""
    run = replace(run, seed=seed)
    return replace(run, teacher=with_seed(run.teacher, seed)) if run.teacher else run


def shortened(run):
    """The run, and its teacher, with a tenth of the epochs and of the images held out: for --quick."""
    run = replace(run, epochs=max(1, run.epochs // 10), held_out=run.held_out // 10)
    return replace(run, teacher=shortened(run.teacher)) if run.teacher else run


# ---- records ---------------------------------------------------------------------------------------------------------


class RunStore:
    """The dataset, the records of finished runs in the file `results`, and the folder of trained teachers.

    num_seeds: how many a row of a table needs. quick: whether every run is `shortened`.
    """

    def __init__(self, dataset, folder, results, num_seeds=5, quick=False):
        self.dataset, self.folder, self.results, self.num_seeds, self.quick = dataset, folder, results, num_seeds, quick
        self.dataset_sha256 = files.sha256(*dataset.train, *dataset.test)
        self.records, self.finished = [], {}  # all of the file; {run: record} of those on this dataset
        if results.exists():
            with files.reading(results, "", "move it away, or get it anew"):
                for record in json.loads(results.read_text(encoding="utf-8"))["runs"]:
                    self._add(recorded_run(record["settings"], record["seed"]), record)

    def _add(self, run, record):
        self.records.append(record)
        if record["dataset"] == self.dataset_sha256:
            self.finished.setdefault(run, record)

    def save(self, run, record):
        """Add the record of a run to the file, which has a line for each."""
        about = {"settings": run.settings(), "seed": run.seed, "dataset": self.dataset_sha256}
        self._add(run, about | record)
        with files.atomic_write(self.results) as scratch:
            lines = ",\n".join(map(json.dumps, self.records))
            scratch.write_text('{"runs": [\n' + lines + "\n]}\n", encoding="utf-8")

    def rows(self, experiment):
        """{row: run} of an experiment, a function, as they are run here."""
        return {row: shortened(run) if self.quick else run for row, run in experiment().items()}

    def of_row(self, run):
        """The records of a row of a table: of all seeds (of one, where images are held out); [] if one is missing."""
        seeds = range(1 if run.held_out else self.num_seeds)
        records = [self.finished.get(with_seed(run, seed)) for seed in seeds]
        return records if all(records) else []

    def teacher_path(self, run):
        """Where the teacher of a TeacherRun is saved."""
        held_out = "_held_out" if run.held_out else ""
        return self.folder / f"{run.kind}_seed{run.seed}{held_out}" / "teacher.keras"

    def saved_teacher(self, run):
        """The file, as bytes, of the teacher of a TeacherRun on these data; None if it was not trained."""
        path, wanted = self.teacher_path(run), settings_of_teacher(self.dataset, run)
        return path.read_bytes() if model_files.is_made_with(path, wanted) else None

    def save_teacher(self, run, saved):
        """Keep the file of a teacher, bytes."""
        path = self.teacher_path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as scratch:
            scratch.write_bytes(saved)

    def fills_documents(self):
        """Whether the documents' tables and figures come from here: from the committed records, with all five seeds."""
        return self.results.parent == FOLDER and self.num_seeds == 5

    def figure(self, end=""):
        """Where a figure goes: beside the records; but never over a committed one that has other seeds."""
        beside = self.results.parent != FOLDER or self.fills_documents()
        return (self.results.parent if beside else self.folder) / f"{self.results.stem}{end}.png"


def score(logits, labels):
    """The errors of logits (n, C) in all, per class, and the indices of the images: a dict of plain values."""
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    per_class = np.bincount(labels[wrong], minlength=logits.shape[1])
    return {"errors": len(wrong), "errors_per_class": per_class.tolist(), "wrong": wrong.tolist()}


def wrong_counts(records):
    """How many of these records, all on the same images, are wrong on each image: (images,)."""
    wrong = np.concatenate([record["wrong"] for record in records]).astype(int)
    return np.bincount(wrong, minlength=records[0]["images"])


def difference(first, second):
    """'+1.0 (p 0.4)': errors of the first records less those of the second, of the same seeds, in the mean.

    p is that of a test paired image by image, see metrics.paired_p.
    """
    first_wrong, second_wrong = wrong_counts(first), wrong_counts(second)
    mean_difference = (first_wrong.sum() - second_wrong.sum()) / len(first)
    return f"{mean_difference:+.1f} (p {metrics.paired_p(first_wrong, second_wrong):.2g})"


# ---- one run: functions of plain values and arrays, which any worker can call ----------------------------------------


def split_for(dataset, held_out):
    """(the training split, the split on which errors are counted) of a run that holds out so many images."""
    if not held_out:
        return dataset.train, dataset.test
    # The last ones, not those of data.hold_out: so are the records.
    cut = len(dataset.train.labels) - held_out
    return dataset.train.take(slice(cut)), dataset.train.take(slice(cut, None))


def settings_of_teacher(dataset, run):
    """What the file of a TeacherRun's teacher says about its training."""
    return run.settings() | {"data": files.sha256(*split_for(dataset, run.held_out)[0])}


def record_of(dataset, run, model, history, start, extra):
    """What is recorded of a run that began at `start`. extra(run, model, train split, logits, labels) adds to it."""
    train, scored = split_for(dataset, run.held_out)
    logits = classifier.predictor(model)(scored.images)
    record = {"images": len(scored.labels)} | score(logits, scored.labels)
    record |= extra(run, model, train, logits, scored.labels)
    record["train_errors"] = classifier.count_errors(model, train)
    record["seconds_an_epoch"] = round(statistics.median(row.seconds for row in history), 3)
    # Of students that were trained together: `seconds` of all; the first one's epochs hold what they share.
    return record | {"seconds": round(time.perf_counter() - start, 1), "versions": versions()}


def versions():
    """files.versions, with the code of this module too."""
    return files.versions() | {"code": files.code_sha256("studies/runs.py")}


def no_extra(run, model, train, logits, labels):
    """What most studies record of a run besides `score`."""
    return {}


def train_teacher(dataset, run, saved, extra):
    """([the record of a TeacherRun], its .keras file as bytes). saved: those bytes, if it was trained before."""
    start = time.perf_counter()
    if saved:
        model, history = model_files.from_bytes(saved, *dataset.form)
    else:
        on = dataset._replace(train=split_for(dataset, run.held_out)[0])
        model, history = teacher.train_teacher(on, run, report=training.show_epoch)
        saved = model_files.to_bytes(model, settings_of_teacher(dataset, run), history)
    return [record_of(dataset, run, model, history, start, extra)], saved


def train_students(dataset, runs, taught, extra, cores):
    """(the records of StudentRuns that see the same images, see recipe.VIEWS; None).

    Each comes out bit for bit as by distill.py, if the transfer set is all training images. taught: what train_teacher
    returns, or None.
    """
    start, run, views = time.perf_counter(), runs[0], None
    train, _ = split_for(dataset, run.held_out)
    chosen, labels = transfer_set(train.labels, run)
    split = data.Split(train.images[chosen], labels)
    if taught:
        model, _ = model_files.from_bytes(taught[1], *dataset.form)
        views = teacher_logits.as_teacher(model).on_views(split.images, run)
    else:
        runs = [replace(each, loss="labels") for each in runs]
    batches = Batches(split, replace(run, batch_size=min(run.batch_size, len(chosen))), views)
    trained = distill.train_students(dataset, runs, batches, cores, training.show_epoch)
    return [record_of(dataset, each, *of_run, start, extra) for each, of_run in zip(runs, trained)], None


def transfer_set(labels, run):
    """(indices of the transfer set into the training images, its labels, -1 where they are not to be known)."""
    chosen = np.arange(len(labels))
    if run.classes:
        chosen = chosen[np.isin(labels, run.classes)]
    if run.labelled < 1:
        order = np.random.default_rng([run.seed, 1]).permutation(chosen)
        cut = max(1, round(run.labelled * len(chosen)))
        if not run.keep_unlabelled:
            return order[:cut], labels[order[:cut]]
        labels = labels.copy()
        labels[order[cut:]] = -1
    return chosen, labels[chosen]
