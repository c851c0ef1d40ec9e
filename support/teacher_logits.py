"""A teacher is Keras models, a function of images, or stored logits: loaded and checked here, and asked for logits."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import UserError, classifier, files, model_files, terminal
from support.batches import LogitsOfViews, all_shifts, check_views, num_shifts
from support.classifier import EPSILON, FLOAT32_EPSILON, TINY

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:  # for the hints only
    from support.recipe import TrainingRecipe

    from data import Dataset

LOGITS_VERSION = 2  # of cached logits: raise it after a change to how a model's outputs become logits
IMAGES_AT_ONCE = 2000  # in one call of the teacher
TEACHER_CHECK_EXAMPLES = 2000  # training examples on which a teacher has to be better than chance


class Teacher:
    """A teacher that can be asked about any images: Keras models, whose probabilities are averaged, or a function.

    predict: images (n, ...) -> logits (n, C) float32. sha256: of its weights, which names it in the settings of its
    students; None of a function, whose logits are never kept in a file. details: what else decides its logits.
    """

    def __init__(
        self, predict: Callable[[np.ndarray], np.ndarray], sha256: str | None = None, details: str = ""
    ) -> None:
        self.predict, self.sha256, self.details = predict, sha256, details

    def on_views(
        self, images: np.ndarray, recipe: TrainingRecipe, augment: Any = None, cache: Path | None = None
    ) -> LogitsOfViews:
        """Its logits of the views that Batches makes of these images (n, ...) with this recipe.

        Shifts can be listed: then the logits are computed once for each shift of each image, and kept in the folder
        `cache`, if given. Distorted or augmented images are shown to the teacher in each epoch.
        """
        if recipe.distort or augment:
            _check_finite(self.predict(images[:IMAGES_AT_ONCE]))
            return lambda rows, shifts, views: self.predict(views)
        return looked_up(self.on_shifts(images, recipe.translate, cache))

    def on_split(self, dataset: Dataset, name: str) -> np.ndarray | None:
        """Its logits (n, C) of a split, "train", "validation" or "test"; None if it does not know them."""
        split = getattr(dataset, name)
        return self.predict(split.images) if len(split.labels) else None

    def on_shifts(self, images: np.ndarray, translate: int = 0, cache: Path | None = None) -> np.ndarray:
        """The logits of every shift of the images by up to `translate` pixels, (n, shifts, C), in all_shifts' order."""
        path = cache / f"teacher_logits_{translate}px.npz" if cache and self.sha256 else None
        key = f"{LOGITS_VERSION} {translate} {self.sha256} {files.sha256(images, np.array(self.details))}"
        with contextlib.suppress(UserError):  # the file is missing or damaged: the logits are computed again
            if path and (saved := files.load_arrays(path))["key"] == key:
                return saved["logits"]
        logits, count = None, num_shifts(translate)
        for number, shifted in enumerate(all_shifts(images, translate)):
            parts = []
            for start in range(0, len(images), IMAGES_AT_ONCE):
                parts.append(self.predict(shifted[start : start + IMAGES_AT_ONCE]))
                done = (number + min(1, (start + IMAGES_AT_ONCE) / len(images))) / count
                terminal.progress(f"the teacher's logits, {count} shifts of each image  {done:4.0%}")
            of_shift = np.concatenate(parts)
            if logits is None:  # a list of all shifts, and then a stack of them, would take twice the memory
                _check_finite(of_shift)
                logits = np.empty((len(images), count, of_shift.shape[1]), np.float32)
            logits[:, number] = of_shift
        terminal.clear_progress()
        terminal.say(f"computed the teacher's logits of {len(images) * count:,} images")
        if path:
            files.save_arrays(path, key=key, logits=logits)
        return logits


class StoredTeacher(Teacher):
    """A teacher of any framework, as its logits: of the training images (n, C) or, of all shifts, (n, shifts, C).

    others: {"validation" or "test": logits (n, C) of that split}.
    """

    def __init__(self, train: np.ndarray, **others: np.ndarray) -> None:
        self.train, self.others = train if train.ndim == 3 else train[:, None], others
        self.sha256 = files.sha256(self.train, *others.values())

    def on_views(
        self, images: np.ndarray, recipe: TrainingRecipe, augment: Any = None, cache: Path | None = None
    ) -> LogitsOfViews:
        """As Teacher.on_views."""
        num_rows, num_stored, _ = self.train.shape
        if num_rows != len(images):
            raise UserError(f"teacher has logits of {num_rows} images: it must have a row for each of {len(images)}")
        if augment or recipe.distort or num_shifts(recipe.translate) != num_stored:
            known = (
                "those of the images as they are" if num_stored == 1 else f"those of {num_stored} shifts of each image"
            )
            fitting = f"--translate {(math.isqrt(num_stored) - 1) // 2} and no --distort (from Python, no augment)"
            raise UserError(f"stored logits are {known}: give {fitting}, or a Keras model as the teacher")
        return looked_up(self.train)

    def on_split(self, dataset: Dataset, name: str) -> np.ndarray | None:
        """As Teacher.on_split."""
        return self.train[:, self.train.shape[1] // 2] if name == "train" else self.others.get(name)


def looked_up(logits: np.ndarray) -> LogitsOfViews:
    """The logits of views, from those of all shifts (n, shifts, C)."""
    _, count, num_classes = logits.shape
    flat = tf.constant(logits.reshape(-1, num_classes))
    return lambda rows, shifts, views: tf.gather(flat, rows * count + shifts)


def as_teacher(teacher: Any, pixels: float = 1.0) -> Teacher:
    """The Teacher that a caller means.

    teacher: a Keras classifier; a list of them, whose probabilities are averaged; a function, see `of_function`; or
    outputs of any model as an array: (n, C), or (n, shifts, C) in the order of batches.all_shifts, see `stored_logits`.
    pixels: a factor for the inputs of Keras models, see classifier.pixels_for.
    """
    if isinstance(teacher, np.ndarray):
        if not 1 <= teacher.ndim <= 3:
            raise UserError(
                f"teacher has the shape {teacher.shape}: it must be (n, C), or (n, shifts, C) for all shifts"
            )
        return StoredTeacher(stored_logits(teacher, "teacher"))
    models = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    if models and all(isinstance(model, keras.Model) for model in models):
        details = f"{pixels} {[model.to_json() for model in models]}"
        predict = classifier.predictor(models, IMAGES_AT_ONCE, pixels)
        return Teacher(predict, model_files.weights_sha256(*models), details)
    if callable(teacher):
        return Teacher(of_function(teacher))
    kinds = "a Keras model, a list of them, a function of images, or an array of logits"
    raise UserError(f"teacher is a {type(teacher).__name__}: it must be {kinds}")


def of_function(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A user's function of images as Teacher.predict.

    The function gets up to IMAGES_AT_ONCE images (n, ...) as they are in the data, uint8 or float32, and returns
    logits (n, C), or log-probabilities, as anything that NumPy can make an array of.
    """

    def predict(images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            batch = images[start : start + IMAGES_AT_ONCE]
            outputs = np.asarray(function(batch), np.float32)
            if outputs.ndim != 2 or len(outputs) != len(batch):
                problem = f"the teacher returns an array {outputs.shape} for {len(batch)} images"
                raise UserError(f"{problem}: it must be (n, C), a row of logits for each image")
            if outputs.min() >= 0 and any(np.allclose(outputs.sum(-1), total, rtol=1e-3) for total in (1, 100)):
                raise UserError("the teacher returns probabilities: let it return logits, or their logarithms")
            parts.append(_floored(outputs))
        return np.concatenate(parts)

    return predict


# ---- stored outputs --------------------------------------------------------------------------------------------------


def stored_logits(outputs: np.ndarray, name: str) -> np.ndarray:
    """Logits (..., C) float32 of stored outputs: of logits, or of probabilities, per cent or votes, see `row_sum`.

    One column, (n,) or (n, 1), is about class 1 of two: its probability, or the difference x of the two logits, which
    become (0, x). name: what error messages call them.
    """
    if outputs.dtype.kind not in "fiu" or np.isnan(outputs).any() or np.isposinf(outputs).any():
        raise UserError(f"{name} has values that are no finite numbers: save them again")
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        outputs = _both_columns(outputs[..., None] if outputs.ndim == 1 else outputs, name)
    is_shares = row_sum(outputs) is not None
    outputs = outputs.astype(np.float32)
    if is_shares:  # that each row has its sum as a factor is nothing to the softmax
        return np.log(np.maximum(outputs, TINY))
    if 0 <= outputs.min() and outputs.max() <= 1:
        raise UserError(
            f"{name} is from 0 to 1, but its rows do not sum to 1: if that is by rounding or clipping, divide each row"
            " by its sum; else save logits (of sigmoids p, numpy.log(p / (1 - p)))"
        )
    return _floored(outputs)


def _floored(logits: np.ndarray) -> np.ndarray:
    """Logits with the logarithm of TINY for that of a probability of 0, which is -inf."""
    return np.where(np.isneginf(logits), np.float32(math.log(TINY)), logits)


def row_sum(outputs: np.ndarray) -> float | None:
    """What all rows of outputs (..., C) sum to: 1, 100 of per cent, or the number of votes; None of logits.

    Logits are below 0 somewhere, or do not have the same sum in every row. Rounded values may miss the sum by half a
    unit of the last decimal each, but by no more than a tenth of it.
    """
    if outputs.min() < -1e-6:  # some libraries' probabilities are just below 0
        return None
    sums = outputs.sum(-1, dtype=np.float64)
    total = float(np.median(sums))
    epsilon = EPSILON.get(str(outputs.dtype), FLOAT32_EPSILON)
    missed = np.abs(sums - total).max()
    if total > 0 and missed <= max(1e-3, 16 * epsilon) * total:
        return total
    for decimals in range(7):
        if missed <= min(total / 10, outputs.shape[-1] * 10**-decimals / 2) and np.allclose(
            np.round(outputs, decimals), outputs, rtol=epsilon, atol=0
        ):
            return total
    return None


def _both_columns(column: np.ndarray, name: str) -> np.ndarray:
    """The outputs (..., 2) that a column (..., 1) about class 1 stands for, see `stored_logits`."""
    lowest, highest = column.min(), column.max()
    if np.isin(column, (0, 1)).all():
        raise UserError(f"{name} holds classes, 0 or 1: save probabilities, such as predict_proba(x), or logits")
    if 0 <= lowest and highest <= 1:
        return np.concatenate([1 - column, column], -1)
    if lowest < 0 < highest:
        return np.pad(column, [(0, 0)] * (column.ndim - 1) + [(1, 0)])
    problem = f"{name} is one column from {lowest:.3g} to {highest:.3g}"
    advice = "save the probabilities p of class 1, from 0 to 1, or both columns, numpy.stack([1 - p, p], 1)"
    raise UserError(f"{problem}, which no probability and no logit of class 1 of two would be: {advice}")


# ---- the teacher of a script -----------------------------------------------------------------------------------------


def load(arguments: argparse.Namespace, recipe: TrainingRecipe, dataset: Dataset, out: Path) -> Teacher:
    """Load the models or the logits of --teacher, or else teacher.keras in the folder `out`; print their accuracy.

    That is the accuracy on the validation examples, or else on the training examples.
    """
    check_views(dataset.train.images, recipe)  # before anyone waits
    paths, pixels = arguments.teacher or [out / "teacher.keras"], arguments.teacher_pixels or 1.0
    if not arguments.teacher and not paths[0].exists():
        raise UserError(f"there is no {paths[0]}: run `python teacher.py`, with the same --data and --out, first")
    if stored := load_stored(paths, dataset):
        parts = [name for name in ("train", "validation", "test") if stored.on_split(dataset, name) is not None]
        accuracies = {name: print_accuracy(stored, dataset, name) for name in parts}
        remedy = "are its rows in the order of x_train, and its columns in that of the classes?"
        if accuracies["train"] < accuracies.get("test", 0) - 0.05:
            print(f"warning: the teacher is better on the test examples: {remedy}")
        check_teacher(stored.on_split(dataset, "train").argmax(-1), dataset.train.labels, remedy)
        return stored
    models = [model_files.load(path, *dataset.form) for path in paths]
    check_origin(paths, dataset, is_named=bool(arguments.teacher))
    teacher = as_teacher(models, pixels)
    print_accuracy(teacher, dataset, "validation" if len(dataset.validation.labels) else "train")
    if arguments.teacher:
        for path, model in zip(paths, models):
            classifier.warn_of_pixels(path, model, dataset.train.sample(), pixels, "--teacher-pixels")
        sample = dataset.train.sample(TEACHER_CHECK_EXAMPLES)
        remedy = "check the range of its pixels (--teacher-pixels 255) and the order of its classes"
        check_teacher(teacher.predict(sample.images).argmax(-1), sample.labels, remedy)
    return teacher


def check_origin(paths: Sequence[Path], dataset: Dataset, is_named: bool) -> None:
    """Say which of these models were not trained on these training examples, or do not say on which.

    is_named: whether --teacher names them. Raises UserError: it does not, and so they should be of teacher.py.
    """
    data_sha256 = files.sha256(*dataset.train)
    for path in paths:
        trained_on = model_files.load_training(path)[0].get("data")
        if trained_on != data_sha256 and not is_named:
            problem = f"{path} was not trained on these training examples, but with other --data or --validation"
            remedy = "run `python teacher.py` with the options given here, or name it with --teacher"
            raise UserError(f"{problem}: {remedy}")
        if trained_on is None:
            problem = f"{path} does not say what it was trained on"
            print(f"note: {problem}: if that were validation or test examples, their errors would say little")
        elif trained_on != data_sha256:
            print(f"warning: {path} was trained on other examples than these, perhaps on validation or test examples")


def load_stored(paths: Sequence[Path], dataset: Dataset) -> StoredTeacher | None:
    """The logits in the .npz file that --teacher names; None if it names Keras models.

    The file has `train`, logits, probabilities or what else `stored_logits` takes: (n, C), a row for each row of
    x_train, or (n, shifts, C) for all its shifts in the order of batches.all_shifts; and optionally `val`, (n, C) of
    x_val if the data have that, and `test`, of x_test.
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
        of_shifts = name == "train" and array.ndim == 3 and array[:, 0].shape == shape
        if of_shifts and array.shape[1] != num_shifts((math.isqrt(array.shape[1]) - 1) // 2):
            problem = (
                f"train has the shape {array.shape}, and shifts by up to k pixels are (2 k + 1) squared: 9, 25, 49"
            )
            raise UserError(f"{path}: {problem}: tools/README.md shows how all are made")
        if array.shape != shape and not of_class_1 and not of_shifts:
            wanted = f"a row for each of x_{name} and a column for each class, {shape}"
            problem = f"{name} has the shape {array.shape}, but the data need {wanted}"
            raise UserError(f"{path}: {problem}{_shape_advice(array.shape, shape)}")
        logits[name] = stored_logits(array, f"{path}: {name}")
        total = row_sum(array) if array.shape == shape or of_shifts else None
        if total and round(total, 1) != 1:
            print(f"{path}: the rows of {name} sum to {total:.6g}: read as shares of that, not as logits", flush=True)
    held_out, train = np.asarray(dataset.held_out, int), logits.pop("train")
    known = {"validation" if name == "val" else name: of_split for name, of_split in logits.items()}
    if len(held_out):
        known["validation"] = StoredTeacher(train[held_out]).on_split(dataset, "train")
    return StoredTeacher(np.delete(train, held_out, 0), **known)


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


def print_accuracy(teacher: Teacher, dataset: Dataset, name: str) -> float:
    """Print, and return, the share of a split's labelled examples that the teacher puts into their class."""
    labels, classes = getattr(dataset, name).labels, teacher.on_split(dataset, name).argmax(-1)
    is_right, part = (classes == labels)[labels >= 0], "training" if name == "train" else name
    print(f"teacher: accuracy {np.mean(is_right):.2%} on {len(is_right):,} {part} examples", flush=True)
    return float(np.mean(is_right))


def check_teacher(classes: np.ndarray, labels: np.ndarray, remedy: str) -> None:
    """Warn if always naming the commonest class is right at least as often as a teacher's predicted classes (n,).

    Raises UserError: the teacher's classes are in another order; its balanced accuracy (its recall, averaged over the
    classes) is no better than chance. `remedy` says what to do then.
    """
    classes, labels = classes[labels >= 0], labels[labels >= 0]
    if problem := classifier.order_warning(classes, labels):
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


def _check_finite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise UserError("the teacher's outputs are not finite: train it again with a lower --learning-rate")
