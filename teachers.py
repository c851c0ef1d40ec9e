"""Teachers, of this project or of the user, or their stored logits: loaded, checked, and asked for their logits."""

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from support import UserError, files, inference, model_files, terminal
from support.recipe import Recipe, Training, setting

import keras
import numpy as np

import data

LOGITS_VERSION = 2  # of cached logits: raise it after a change to how a model's outputs become logits
IMAGES_AT_ONCE = 2000  # in one call of the teacher
TEACHER_CHECK_EXAMPLES = 2000  # training examples on which a teacher has to be better than chance


@dataclass(frozen=True)
class OwnTeacher(Recipe):
    """The option for the user's own teacher."""

    teacher: list[Path] | None = setting(
        None,
        Path,
        "the teacher: Keras models (several are averaged), or an .npz of logits (default: teacher.keras in --out)",
        nargs="+",
        action="extend",
        metavar="FILE",
    )


class StoredTeacher(NamedTuple):
    """A teacher of another framework, as its logits (n, C) float32 of the splits of a data.Dataset."""

    train: np.ndarray
    validation: np.ndarray | None  # None if the file does not have them
    test: np.ndarray | None


Teacher = list[keras.Model] | StoredTeacher


# ---- loading ---------------------------------------------------------------------------------------------------------


def load_teacher(arguments: argparse.Namespace, dataset: data.Dataset, out: Path) -> Teacher:
    """Load the models or the logits of --teacher, or else teacher.keras in the folder `out`; print their accuracy.

    That is the accuracy on the validation examples, or else on the training examples. Raises UserError: as
    model_files.load, `load_stored` and data.check_batches do; teacher.keras was not trained on these training examples;
    the teacher of --teacher is no better than chance.
    """
    views = Training.of(vars(arguments))
    data.check_batches(dataset.train.images, **views.only("batch_size", "translate", "distort"))  # before anyone waits
    paths = arguments.teacher or [out / "teacher.keras"]
    if not arguments.teacher and not paths[0].exists():
        raise UserError(f"there is no {paths[0]}: run `python teacher.py`, with the same --data and --out, first")
    if stored := load_stored(paths, dataset):
        accuracies = {}
        for name, logits in zip(stored._fields, stored):
            if logits is not None and len(logits):
                accuracies[name] = print_accuracy(logits.argmax(-1), getattr(dataset, name).labels, name)
        remedy = "are its rows in the order of x_train, and its columns in that of the classes?"
        if accuracies["train"] < accuracies.get("test", 0) - 0.05:
            print(f"warning: the teacher is better on the test examples: {remedy}")
        check_teacher(stored.train.argmax(-1), dataset.train.labels, remedy)
        return stored
    teacher = [model_files.load(path, dataset.image_shape, dataset.num_classes) for path in paths]
    data_sha256 = files.fingerprint(*dataset.train)
    for path in paths:
        trained_on = model_files.load_training(path)[0].get("data")
        if trained_on != data_sha256 and not arguments.teacher:
            problem = f"{path} was not trained on these training examples, but with other --data or --validation"
            remedy = "run `python teacher.py` with the options given here, or name it with --teacher"
            raise UserError(f"{problem}: {remedy}")
        if trained_on is None:
            problem = f"{path} does not say what it was trained on"
            print(f"note: {problem}: if that were validation or test examples, their errors would say little")
        elif trained_on != data_sha256:
            print(f"warning: {path} was trained on other examples than these, perhaps on validation or test examples")
    split = dataset.validation if len(dataset.validation.labels) else dataset.train
    predict = inference.predictor(teacher, pixels=arguments.teacher_pixels)
    name = "train" if split is dataset.train else "validation"
    print_accuracy(predict(split.images).argmax(-1), split.labels, name)
    if arguments.teacher:
        sample = data.sample(dataset.train)
        for path, model in zip(paths, teacher):
            inference.warn_of_pixels(path, model, sample, arguments.teacher_pixels, "--teacher-pixels")
        sample = data.sample(dataset.train, TEACHER_CHECK_EXAMPLES)
        remedy = "check the range of its pixels (--teacher-pixels 255) and the order of its classes"
        check_teacher(predict(sample.images).argmax(-1), sample.labels, remedy)
    return teacher


def load_stored(paths: list[Path], dataset: data.Dataset) -> StoredTeacher | None:
    """The logits in the .npz file that --teacher names; None if it names Keras models.

    The file has `train`, (n, C) logits, probabilities or what else inference.stored_logits takes, a row for each row of
    x_train; and optionally `val`, of x_val if the data have that, and `test`, of x_test. Raises UserError: it is not of
    this form, or is named together with other files.
    """
    if not any(path.suffix == ".npz" for path in paths):
        return None
    path = paths[0]
    if len(paths) > 1:
        advice = "average their probabilities, and give one .npz file alone"
        raise UserError(f"--teacher names {len(paths)} files, one of them with logits: {advice}")
    with files.reading(path, "there is no such file", "save it again with numpy.savez"):
        names = ["train", "test"] if len(dataset.held_out) else ["train", "val", "test"]
        arrays = files.read_npz(path, names)
    if "train" not in arrays:
        advice = "save it with numpy.savez('logits.npz', train=train, test=test)"
        raise UserError(f"{path}: it has no array `train`, with a row for each row of x_train: {advice}")
    num_train = len(dataset.train.labels) + len(dataset.held_out)
    num_rows = {"train": num_train, "val": len(dataset.validation.labels), "test": len(dataset.test.labels)}
    logits = {}
    for name, array in arrays.items():
        shape = num_rows[name], dataset.num_classes
        of_class_1 = dataset.num_classes == 2 and array.shape in (shape[:1], (shape[0], 1))
        if array.shape != shape and not of_class_1:
            wanted = f"a row for each of x_{name} and a column for each class, {shape}"
            problem = f"{name} has the shape {array.shape}, but the data need {wanted}"
            raise UserError(f"{path}: {problem}{_shape_advice(array.shape, shape)}")
        logits[name] = inference.stored_logits(array, f"{path}: {name}")
        total = inference.row_sum(array) if array.shape == shape else None
        if total and round(total, 1) != 1:
            print(f"{path}: the rows of {name} sum to {total:.6g}: read as shares of that, not as logits", flush=True)
    held_out = np.asarray(dataset.held_out, int)
    validation = logits["train"][held_out] if len(held_out) else logits.get("val")
    return StoredTeacher(np.delete(logits["train"], held_out, 0), validation, logits.get("test"))


def _shape_advice(given: tuple[int, ...], wanted: tuple[int, int]) -> str:
    """What may be done about stored outputs of another shape than (n, C); "" if nothing is known."""
    if given == (wanted[0] * wanted[1],):
        return f": numpy.reshape(outputs, {wanted})"
    if given in (wanted[:1], (wanted[0], 1)):
        return ": save probabilities, such as predict_proba(x), or logits, and no classes"
    if given == wanted[::-1]:
        return ": transpose it"
    if given[:1] == wanted[:1] and len(given) == 2 and given[1] < wanted[1]:
        return ": for a class k that the teacher lacks, numpy.insert(probabilities, k, 0, axis=1)"
    return ""


def print_accuracy(classes: np.ndarray, labels: np.ndarray, name: str) -> float:
    """Print, and return, the share of labelled examples whose label (n,) a teacher predicts; name: of their split."""
    is_right = classes[labels >= 0] == labels[labels >= 0]
    part = "training" if name == "train" else name
    print(f"teacher: accuracy {np.mean(is_right):.2%} on {len(is_right):,} {part} examples", flush=True)
    return float(np.mean(is_right))


def check_teacher(classes: np.ndarray, labels: np.ndarray, remedy: str) -> None:
    """Warn if always naming the commonest class is right at least as often as a teacher's predicted classes (n,).

    Raises UserError: the teacher's classes are in another order; its balanced accuracy (its recall, averaged over the
    classes) is no better than chance. `remedy` says what to do then.
    """
    classes, labels = classes[labels >= 0], labels[labels >= 0]
    if problem := inference.order_warning(classes, labels):
        raise UserError(f"the teacher is {problem}")
    is_right = classes == labels
    right_of_class = [is_right[labels == label] for label in np.unique(labels)]
    recall, chance = np.mean([right.mean() for right in right_of_class]), 1 / len(right_of_class)
    if recall <= chance + 2 * np.sqrt(chance * (1 - chance) / len(is_right)):  # within two standard errors
        problem = f"the teacher is no better than chance: right on {recall:.1%} of a class, averaged over the classes"
        raise UserError(f"{problem}: {remedy}")
    commonest, accuracy = max(map(len, right_of_class)) / len(is_right), is_right.mean()
    if accuracy <= commonest:
        print(f"warning: always naming the commonest class is right on {commonest:.1%}, the teacher on {accuracy:.1%}")


def fingerprint(teacher: Teacher) -> str:
    """What identifies a teacher in the settings of its students: the SHA-256 of its weights, or of its logits."""
    if isinstance(teacher, StoredTeacher):
        return files.fingerprint(*(logits for logits in teacher if logits is not None))
    return model_files.fingerprint(*teacher)


# ---- logits ----------------------------------------------------------------------------------------------------------


def teacher_logits(
    teacher: keras.Model | Teacher,
    images: np.ndarray,
    translate: int = 0,
    distort: float = 0.0,
    cache: Path | None = None,
    pixels: float = 1.0,
) -> data.TeacherLogits:
    """The teacher's logits of images (n, ...) under every shift by up to `translate` pixels: (n, shifts, C) float32.

    teacher: one model, or several, which are averaged; pixels: see inference.predictor. The logits are computed once
    and kept in the folder `cache`, if given, until one of these arguments changes. With distort, whose views cannot be
    listed, this returns a function instead, images (n, ...) -> logits (n, C). data.Batches takes both. The teacher
    runs in inference mode; neither its weights nor its state change.

    Raises UserError: the teacher's outputs are not finite; a StoredTeacher, whose logits are those of the images as
    they are, is asked for other views.
    """
    if isinstance(teacher, StoredTeacher):
        if translate or distort:
            problem = "stored logits are those of the images as they are"
            raise UserError(f"{problem}: give --translate 0 and no --distort, or a Keras model as the teacher")
        return teacher.train[:, None]
    predict = inference.predictor(teacher, IMAGES_AT_ONCE, pixels)
    if distort:
        _check_finite(predict(images[:IMAGES_AT_ONCE]))
        return predict
    models = teacher if isinstance(teacher, list) else [teacher]
    settings = f"{LOGITS_VERSION} {translate} {pixels} {[model.to_json() for model in models]}"
    key = files.fingerprint(images, np.frombuffer(settings.encode(), np.uint8)) + model_files.fingerprint(*models)
    path = cache / f"teacher_logits_{translate}px.npz" if cache else None
    with contextlib.suppress(UserError):  # the file is missing or damaged: the logits are computed again
        if path and (saved := files.load_arrays(path))["key"] == key:
            return saved["logits"]
    logits = _compute(predict, images, translate)
    if path:
        files.save_arrays(path, key=key, logits=logits)
    return logits


def _compute(predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray, translate: int) -> np.ndarray:
    """The logits of `teacher_logits`, (n, shifts, C), by inference.predictor's `predict`; shows progress."""
    num_shifts, span = data.num_shifts(translate), 2 * translate + 1
    padded = data.padded(images, translate)
    logits = None
    for shift in range(num_shifts):
        top, left = divmod(shift, span)
        for start in range(0, len(images), IMAGES_AT_ONCE):
            batch = slice(start, start + IMAGES_AT_ONCE)
            views = padded[batch]
            if translate:
                views = views[:, top : top + images.shape[1], left : left + images.shape[2]]
            batch_logits = predict(views)
            if logits is None:
                logits = np.empty((len(images), num_shifts, batch_logits.shape[-1]), np.float32)
            logits[batch, shift] = batch_logits
            done = (shift + (start + IMAGES_AT_ONCE) / len(images)) / num_shifts
            terminal.progress(f"the teacher's logits, {num_shifts} shifts of each image  {min(done, 1):4.0%}")
        if shift == 0:
            _check_finite(logits[:, 0])
    terminal.clear_progress()
    terminal.say(f"computed the teacher's logits of {len(images) * num_shifts:,} images")
    return logits


def _check_finite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise UserError("the teacher's outputs are not finite: train it again with a lower --learning-rate")
