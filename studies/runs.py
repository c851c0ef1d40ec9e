"""Runs: nets that are trained once and recorded at once; for the sweep and for all studies.

A run is a recipe, the run of its teacher, and the images. Runs that are missing are trained in two rounds: first the
teachers, then the students. Students that see the same images are trained side by side. The record of a run is a dict
of plain values: its settings, the errors in all, per class and image by image, seconds, versions. In a study, records
outlive changes of the code, and their versions say which code made them; the sweep trains anew what older code made.
"""

import itertools
import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from support import classifier, files, metrics, model_files, pool, teacher_logits, terminal, training
from support.batches import Batches
from support.recipe import VIEWS, Recipe

import numpy as np

import data
import distill
import teacher

EVERY_IMAGE = replace(teacher.DEFAULTS, epochs=45, select=1.0)  # the default teacher before selective training
AT_ONCE = 8  # students that are trained side by side, for each core; they are lost when one is stopped
AT_ONCE_DISTORTED = 40  # if their images are distorted: the teacher is asked about all of them in each epoch


# ---- what a run is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images(Recipe):
    """The training images of a run, and the images on which its errors are counted: the test images, by default."""

    held_out: int = 0  # errors are counted on so many of the last training images, which are left out
    fold: tuple[int, int] | None = None  # (number, of how many): errors are counted on that part, see data.fold
    validation: bool = False  # errors are counted on the validation images
    classes: tuple[int, ...] = ()  # those that a student is shown; () for all
    labelled: float = 1.0  # the share of a student's images whose labels are known
    keep_unlabelled: bool = False  # whether the other images stay, for their soft targets
    mislabelled: float = 0.0  # the share of the training labels, its teacher's too, that were changed at random

    def parts(self, dataset):
        """(the Split that its teacher is trained on, the Split on which errors are counted)."""
        train, scored = self._whole_parts(dataset)
        if not self.mislabelled:
            return train, scored
        random, labels = np.random.default_rng(0), train.labels.copy()
        changed = random.permutation(len(labels))[: round(self.mislabelled * len(labels))]
        labels[changed] += random.integers(1, dataset.num_classes, len(changed)).astype(labels.dtype)
        return train._replace(labels=labels % dataset.num_classes), scored

    def _whole_parts(self, dataset):
        if self.fold:
            fold = data.fold(dataset, *self.fold)
            return fold.train, fold.validation
        if self.held_out:  # the last ones, not those of data.hold_out: so are the records
            cut = len(dataset.train.labels) - self.held_out
            return dataset.train.take(slice(cut)), dataset.train.take(slice(cut, None))
        return dataset.train, dataset.validation if self.validation else dataset.test

    def shown(self, labels, seed):
        """(the indices of a student's images among its teacher's, their labels, -1 where they are not to be known)."""
        chosen = np.flatnonzero(np.isin(labels, self.classes)) if self.classes else np.arange(len(labels))
        if self.labelled == 1:
            return chosen, labels[chosen]
        order = np.random.default_rng([seed, 1]).permutation(chosen)
        known, unknown = np.split(order, [max(1, round(self.labelled * len(chosen)))])
        if not self.keep_unlabelled:
            return known, labels[known]
        return chosen, np.where(np.isin(chosen, unknown), -1, labels[chosen])


@dataclass(frozen=True)
class Run:
    """All that decides a net, besides the data. teacher: its run; or the SHA-256 of a given one; or None."""

    recipe: teacher.TeacherRecipe | distill.DistillRecipe
    teacher: "Run | str | None" = None
    images: Images = Images()

    @property
    def is_teacher(self):
        """Whether it is a run of teacher.py's net."""
        return isinstance(self.recipe, teacher.TeacherRecipe)

    def with_seed(self, seed):
        """The run, and its teacher, with another seed."""
        taught_by = self.teacher.with_seed(seed) if isinstance(self.teacher, Run) else self.teacher
        return replace(self, recipe=replace(self.recipe, seed=seed), teacher=taught_by)

    def settings(self):
        """The run as plain values."""
        taught_by = self.teacher.settings() if isinstance(self.teacher, Run) else self.teacher
        return {"recipe": self.recipe.settings(), "teacher": taught_by, "images": self.images.settings()}

    @classmethod
    def of(cls, settings):
        """The run of these settings. What they lack, because they are older than a field, has the default.

        Those older than selective training were trained on every image.
        """
        recipe, taught_by = {"select": 1.0} | settings["recipe"], settings["teacher"]
        defaults = distill.DEFAULTS if "temperature" in recipe else teacher.DEFAULTS
        taught_by = cls.of(taught_by) if isinstance(taught_by, dict) else taught_by
        return cls(defaults.updated(recipe), taught_by, Images().updated(settings["images"]))


# ---- records ---------------------------------------------------------------------------------------------------------


def recorded(path, key):
    """{run with seed 0: what is recorded under `key` of each of its seeds}, of the JSON file of a study."""
    values = {}
    for record in json.loads(path.read_text(encoding="utf-8"))["runs"]:
        values.setdefault(Run.of(record["run"]).with_seed(0), []).append(record[key])
    return values


def write(path, records):
    """Write the JSON file of a study, with a line for each of its records, dicts of plain values."""
    lines = ",\n".join(map(json.dumps, records))
    files.write_bytes(path, ('{"runs": [\n' + lines + "\n]}\n").encode())


class Records:
    """The records of finished runs on a data set, in a JSON file with a line for each; and their nets, in a folder.

    context: what decides a run besides its settings, such as the SHA-256 of the data; other records are left alone.
    keeps: whether the nets of students are kept too; then a record counts only with a sound net of today's code.
    """

    def __init__(self, path, nets, dataset, context, keeps=False):
        self.path, self.nets, self.dataset, self.context, self.keeps = path, nets, dataset, context, keeps
        self.records, self.finished = [], {}  # all of the file; {run: record} of those of this context
        if path.exists():
            with files.reading(path, "", "move it away, or get it anew"):
                for record in json.loads(path.read_text(encoding="utf-8"))["runs"]:
                    self._keep(Run.of(record["run"]), record)

    def _keep(self, run, record):
        self.records.append(record)
        is_there = not self.keeps or model_files.is_made_with(self.net(run), run.recipe.settings())
        if record["context"] == self.context and is_there:
            self.finished[run] = record

    def add(self, run, record, net):
        """Keep the record of a run, and its net as the bytes of a .keras file."""
        if run.is_teacher or self.keeps:
            files.write_bytes(self.net(run), net)
        if run not in self.finished:
            self._keep(run, {"run": run.settings(), "context": self.context} | record)
            write(self.path, self.records)

    def net(self, run):
        """The path of the net of a run."""
        fold, recipe = run.images.fold, run.recipe
        kind = "teacher" if run.is_teacher else f"T{recipe.temperature:g}_alpha{recipe.alpha:g}"
        kind = "labels_alone" if not run.is_teacher and recipe.loss == "labels" else kind
        of_fold = f"_fold{fold[0] + 1}of{fold[1]}" if fold else ""
        sha256 = files.sha256(np.array(json.dumps(run.settings())))
        return self.nets / f"{kind}{of_fold}_seed{recipe.seed}_{sha256[:8]}.keras"

    def has_net(self, run):
        """Whether today's code has trained the net of a run on these images."""
        train, _ = run.images.parts(self.dataset)
        return model_files.is_made_with(self.net(run), run.recipe.settings() | {"data": files.sha256(*train)})

    def of(self, run, seeds):
        """The records of a run with each of these seeds; [] if one is missing."""
        found = [self.finished.get(run.with_seed(seed)) for seed in seeds]
        return found if all(found) else []


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


# ---- training: functions of plain values and arrays, which any worker can call ---------------------------------------


class TeacherFiles(NamedTuple):
    """The files of a teacher as bytes, their suffixes, and the factor for the inputs of its Keras models."""

    contents: tuple[bytes, ...]
    suffixes: tuple[str, ...] = (".keras",)
    pixels: float = 1.0

    def load(self, dataset):
        """The Teacher of these files. dataset: whose training images it is to be asked about."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{number}{suffix}" for number, suffix in enumerate(self.suffixes)]
            for path, content in zip(paths, self.contents, strict=True):
                path.write_bytes(content)
            stored = teacher_logits.load_stored(paths, dataset)
            return stored or teacher_logits.as_teacher(
                [model_files.load(path, *dataset.form) for path in paths], self.pixels
            )


class Group(NamedTuple):
    """Runs that are trained together, their teacher (or None), and the file of --student as bytes (or None)."""

    runs: list[Run]
    teacher_files: TeacherFiles | None = None
    student: bytes | None = None


def no_extra(run, model, train, logits, labels):
    """What most studies record of a run besides `score`."""
    return {}


def versions():
    """files.versions, with the code of this module too."""
    return files.versions() | {"code": files.code_sha256("studies/runs.py")}


def train_group(group, dataset, cores, cache, extra):
    """[(record, .keras file as bytes)] of the runs of a group: a teacher, or students that see the same images.

    A student comes out bit for bit as by distill.py, if it is shown all training images. cache: see Teacher.on_views.
    extra(run, model, train split, logits, labels): adds to the record.
    """
    start, first = time.perf_counter(), group.runs[0]
    train, scored = first.images.parts(dataset)
    data_sha256 = {"data": files.sha256(*train)}
    if first.is_teacher:
        on = dataset._replace(train=train, validation=None)
        trained = [teacher.train_teacher(on, first.recipe, report=training.show_epoch)]
    else:
        trained = train_students(group, dataset._replace(train=train), cores, cache)
    results = []
    for run, (model, history) in zip(group.runs, trained):
        pixels = getattr(run.recipe, "student_pixels", 1.0)
        logits = classifier.predictor(model, pixels=pixels)(scored.images)
        record = {"images": len(scored.labels)} | score(logits, scored.labels)
        record |= extra(run, model, train, logits, scored.labels)
        record["train_errors"] = classifier.count_errors(model, train.take(train.labels >= 0), pixels)
        diverged = [row.epoch for row in history if not math.isfinite(row.loss)]
        record |= {"diverged": diverged[0]} if diverged else {}
        record["seconds_an_epoch"] = round(statistics.median(row.seconds for row in history), 3)
        # Of students that were trained together: `seconds` of all; an epoch's seconds hold what they share.
        record |= {"seconds": round(time.perf_counter() - start, 1), "versions": versions()}
        results.append((record, model_files.to_bytes(model, run.recipe.settings() | data_sha256, history)))
    return results


def train_students(group, dataset, cores, cache):
    """[(model, history)] of the students of a group. dataset: with the Split that their teacher is trained on."""
    recipe = group.runs[0].recipe
    chosen, labels = group.runs[0].images.shown(dataset.train.labels, recipe.seed)
    split = data.Split(dataset.train.images[chosen], labels)
    recipe = replace(recipe, batch_size=min(recipe.batch_size, len(chosen)))
    if group.teacher_files:
        views = group.teacher_files.load(dataset).on_views(split.images, recipe, cache=cache)
        batches = Batches(split, recipe, views)
    else:
        batches = Batches(split.labelled(), recipe)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.keras" if group.student else None
        if path:
            path.write_bytes(group.student)
        recipes = [run.recipe for run in group.runs]
        return distill.train_students(dataset, recipes, batches, cores, training.show_epoch, path)


# ---- many runs -------------------------------------------------------------------------------------------------------


def run_all(records, names, cluster=None, teacher_files=None, student=None, cache=None, extra=no_extra):
    """Train those of {run: name} that have no record yet, and their teachers; prints each.

    teacher_files: {SHA-256: TeacherFiles} of teachers that are not trained here. student: the file of --student as
    bytes, or None. cache: the folder for teachers' logits (default: that of the nets). extra: see `train_group`.
    """
    missing = [run for run in names if run not in records.finished]
    print(f"{len(names)} runs, {len(names) - len(missing)} of them finished before")
    students = [run for run in missing if not run.is_teacher]
    of_students = dict.fromkeys(run.teacher for run in students if isinstance(run.teacher, Run))
    needed = [run for run in of_students if not records.has_net(run)]  # which reads a file, so once for each
    teachers = [*dict.fromkeys([*(run for run in missing if run.is_teacher), *needed])]
    titles = {run.teacher: f"the teacher of {names[run]}" for run in reversed(students)} | names
    if not missing:
        return
    costs = {run: cost(records.dataset, run) for run in [*teachers, *students]}
    start, spent, num_finished = time.perf_counter(), 0, 0
    cache = None if cluster else cache or records.nets
    has_unlabelled = (records.dataset.train.labels < 0).any()
    with pool.pool(cluster) as workers:
        for runs in (teachers, students):  # no task takes the result of another one of its round
            groups = (  # one by one: each holds the file of its teacher
                Group(group, files_for(records, group[0], teacher_files, has_unlabelled), student)
                for group in grouped(runs, workers.cores, has_unlabelled)
            )
            terminal.progress(f"training {len(runs)} nets")
            for group, results in workers.map(train_group, groups, records.dataset, workers.cores, cache, extra):
                terminal.clear_progress()
                for run, (record, net) in zip(group.runs, results):
                    records.add(run, record, net)
                    num_finished, spent = num_finished + 1, spent + costs[run]
                    left = pool.time_left(start, spent, sum(costs.values()))
                    done = f"{num_finished} of {len(costs)} runs done{left}"
                    wrong = f"{record['errors']:5,} wrong of {record['images']:,}  {record['seconds']:6.1f} s"
                    diverged = f"  diverged in epoch {record['diverged']}" if "diverged" in record else ""
                    print(f"{titles[run]:<60} {wrong}{diverged}  {done}", flush=True)
                pool.make_room()


def learns_alone(run, has_unlabelled):
    """Whether a student is trained on other examples than those of its teacher's other students: labelled ones."""
    return run.recipe.loss == "labels" and has_unlabelled


def files_for(records, run, teacher_files, has_unlabelled):
    """The TeacherFiles of a run and of its group, or None."""
    if not run.teacher or learns_alone(run, has_unlabelled):
        return None
    if isinstance(run.teacher, Run):
        return TeacherFiles((records.net(run.teacher).read_bytes(),))
    return teacher_files[run.teacher]


def grouped(runs, cores, has_unlabelled=False):
    """The runs in groups: a teacher alone; students that see the same images, so many for each core: see AT_ONCE."""
    groups = {}
    for run in runs:
        views = tuple(run.recipe.only(*VIEWS).values())
        seen = run if run.is_teacher else (views, run.images, run.teacher, learns_alone(run, has_unlabelled))
        groups.setdefault(seen, []).append(run)
    parts = []
    for group in groups.values():
        most = cores * (AT_ONCE_DISTORTED if group[0].recipe.distort else AT_ONCE)
        number = math.ceil(len(group) / most)  # of parts of nearly the same length
        parts += [[group[place] for place in part] for part in np.array_split(range(len(group)), number)]
    return parts


def cost(dataset, run):
    """About the multiply-adds of a run, for the time that is left."""
    recipe, labels = run.recipe, dataset.train.labels[: len(dataset.train.labels) - run.images.held_out]
    num_images = len(labels) if run.is_teacher else len(run.images.shown(labels, recipe.seed)[0])
    total = 3 * (multiply_adds(dataset.image_shape, recipe) + 15_000)  # 15,000: what steps cost
    if recipe.distort:  # 200,000: the distortion of an image, roughly; the teacher then runs on each view
        total += 200_000 + (
            multiply_adds(dataset.image_shape, run.teacher.recipe) if isinstance(run.teacher, Run) else 0
        )
    return recipe.epochs * num_images * total


def multiply_adds(image_shape, recipe):
    """Multiply-adds of one image in the net of a recipe."""
    crop, pool_size = getattr(recipe, "crop", 0), getattr(recipe, "pool", 1)
    num_pixels = math.prod(math.ceil((size - 2 * crop) / pool_size) for size in image_shape)
    return sum(math.prod(pair) for pair in itertools.pairwise((num_pixels, *recipe.hidden, 10)))
