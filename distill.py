"""Distil the teacher into the student: train the small net on the labels and on the teacher's soft targets.

    python distill.py        (after python teacher.py)

The student is that of student.py, the baseline, with the same initial weights, images and schedule; T = 2, and alpha,
the weight of the soft term of the loss, is 0.5. It makes 93 test errors in 10,000 (mean of 5 seeds; 85 to 98) where
the baseline makes 139, in about a minute on two cores, baseline included.

Writes distilled.keras, its history distilled.csv and plots/ to artifacts/; teacher_logits_*.npz there is a cache.
"""

import argparse
import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from support import UserError, files, inference, model_files, plots, terminal, training
from support.recipe import Recipe, any_temperature, fraction, setting

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

import data
import student


@dataclass(frozen=True)
class DistillRecipe(student.StudentRecipe):
    """All settings of a distilled student, apart from the data, --teacher and --student."""

    temperature: float = setting(2.0, any_temperature, "divides the logits of both nets", metavar="T")
    alpha: float = setting(0.5, fraction, "weight of the soft term (teacher); the hard term (labels) has 1 - ALPHA")


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


MNIST = DistillRecipe()
OWN_DATA = DistillRecipe(translate=student.OWN_DATA.translate)
REMEDIES = {  # what to try for a net that is no better than the baseline
    "teacher": "more --epochs for teacher.py, or less --dropout, --weight-decay and --distort",
    "distilled": "a lower --temperature or --alpha, or a larger student (--hidden)",
}
LOGITS_VERSION = 2  # of cached logits: raise it after a change to how a model's outputs become logits
IMAGES_AT_ONCE = 2000  # in one call of the teacher
TEACHER_CHECK_EXAMPLES = 2000  # training examples on which a teacher has to be better than chance


class StoredTeacher(NamedTuple):
    """A teacher of another framework, as its logits (n, C) float32 of the splits of a data.Dataset."""

    train: np.ndarray
    validation: np.ndarray | None  # None if the file does not have them
    test: np.ndarray | None


Teacher = list[keras.Model] | StoredTeacher


def soft_targets(logits: tf.Tensor | np.ndarray, temperature: float) -> tf.Tensor:
    """The class probabilities at a temperature: softmax(logits / temperature), (..., C) -> (..., C).

    Hinton, Vinyals & Dean (2015), equation 1.
    """
    return tf.nn.softmax(logits / temperature)


def distillation_loss(
    labels: tf.Tensor, teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float, alpha: float
) -> tf.Tensor:
    """alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross_entropy(labels, student), for each example.

    labels (batch,) integers, or -1 for an unlabelled example, whose second term is 0; teacher_logits, student_logits
    (batch, C) float32; temperature T > 0; alpha in [0, 1] is the weight of the first, soft term. Returns nats per
    example, (batch,) float32.

    Hinton, Vinyals & Dean (2015), section 2: the gradients of the soft term scale as 1 / T^2, so the factor T^2 keeps
    the balance of the two terms when T changes. The paper uses the cross-entropy with the soft targets. KL is that
    minus the entropy of the targets, which does not depend on the student, and is 0 where student and teacher agree.
    In float32 the soft term is exact to about 1e-7 * T^2.
    """
    targets = soft_targets(teacher_logits, temperature)
    teacher_log = tf.nn.log_softmax(teacher_logits / temperature)  # not log(targets): some targets are 0
    student_log = tf.nn.log_softmax(student_logits / temperature)
    kl = tf.reduce_sum(targets * (teacher_log - student_log), axis=-1)
    hard = tf.where(labels >= 0, training.cross_entropy(tf.maximum(labels, 0), student_logits), 0.0)
    return alpha * temperature**2 * kl + (1 - alpha) * hard


@keras.saving.register_keras_serializable("distillation")
class SoftTargetLoss(keras.distillation.DistillationLoss):
    """The soft term of `distillation_loss`, T^2 * KL, for keras.distillation.Distiller: the mean over the batch.

    Both models must return logits (batch, C), or log-probabilities, which are logits too; inference.adapters makes
    them of any classifier's outputs. The Distiller's student_loss_weight is 1 - alpha. Keras' own LogitsDistillation
    applies neither softmax nor T^2 as it comes, and clips probabilities at 1e-7 with loss=KLDivergence() (3.15.1).
    """

    def __init__(self, temperature: float = MNIST.temperature) -> None:
        self.temperature = float(temperature)

    def compute_loss(self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **_: Any) -> tf.Tensor:
        """The loss in nats, a float32 scalar."""
        teacher_logits, student_logits = (tf.cast(logits, tf.float32) for logits in (teacher_outputs, student_outputs))
        unlabelled = tf.fill(tf.shape(student_logits)[:1], -1)
        losses = distillation_loss(unlabelled, teacher_logits, student_logits, self.temperature, alpha=1)
        # Replicas' gradients are summed, so Keras divides its own losses by their number; its Distiller does not.
        return tf.reduce_mean(losses) / tf.distribute.get_strategy().num_replicas_in_sync

    def get_config(self) -> dict[str, float]:
        """What Keras saves of it."""
        return {"temperature": self.temperature}

    @classmethod
    def from_config(cls, config: dict[str, float]) -> "SoftTargetLoss":
        """The loss that Keras saved."""
        return cls(**config)


# ---- the teacher's logits --------------------------------------------------------------------------------------------


def fingerprint(teacher: Teacher) -> str:
    """What identifies a teacher in the settings of its students: the SHA-256 of its weights, or of its logits."""
    if isinstance(teacher, StoredTeacher):
        return files.fingerprint(*(logits for logits in teacher if logits is not None))
    return model_files.fingerprint(*teacher)


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


def load_stored(paths: list[Path], dataset: data.Dataset) -> StoredTeacher | None:
    """The logits in the .npz file that --teacher names; None if it names Keras models.

    The file has `train`, (n, C) logits or probabilities, a row for each row of x_train; and optionally `val` for x_val,
    and `test` for x_test. Raises UserError: it is not of this form, or is named together with other files.
    """
    if not any(path.suffix == ".npz" for path in paths):
        return None
    path = paths[0]
    if len(paths) > 1:
        advice = "average their probabilities, and give one .npz file alone"
        raise UserError(f"--teacher names {len(paths)} files, one of them with logits: {advice}")
    with files.reading(path, "there is no such file", "save it again with numpy.savez"):
        arrays = files.read_npz(path, ["train", "val", "test"])
        if "train" not in arrays:
            raise ValueError("it has no array `train`, with a row for each row of x_train")
    num_train = len(dataset.train.labels) + len(dataset.held_out)
    num_rows = {"train": num_train, "val": len(dataset.validation.labels), "test": len(dataset.test.labels)}
    logits = {}
    for name, array in arrays.items():
        if array.shape != (num_rows[name], dataset.num_classes):
            wanted = f"one for each row of x_{name} and class, {(num_rows[name], dataset.num_classes)}"
            raise UserError(f"{path}: {name} has the shape {array.shape}, but the data need {wanted}")
        logits[name] = inference.stored_logits(array, f"{path}: {name}")
    held_out = np.asarray(dataset.held_out, int)
    validation = logits["train"][held_out] if len(held_out) else logits.get("val")
    return StoredTeacher(np.delete(logits["train"], held_out, 0), validation, logits.get("test"))


def load_teacher(arguments: argparse.Namespace, dataset: data.Dataset, out: Path) -> Teacher:
    """Load the models or the logits of --teacher, or else teacher.keras in the folder `out`; print their accuracy.

    That is the accuracy on the validation examples, or else on the training examples. Raises UserError: as
    model_files.load, `load_stored` and data.check_batches do; teacher.keras was not trained on these training examples;
    the teacher of --teacher is no better than chance.
    """
    recipe = student.StudentRecipe.of(vars(arguments))
    data.check_batches(dataset.train.images, **recipe.only("batch_size", "translate", "distort"))  # before anyone waits
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
        if trained_on not in (None, data_sha256):
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


def print_accuracy(classes: np.ndarray, labels: np.ndarray, name: str) -> float:
    """Print, and return, the share of labelled examples whose label (n,) a teacher predicts; name: of their split."""
    is_right = classes[labels >= 0] == labels[labels >= 0]
    part = "training" if name == "train" else name
    print(f"teacher: accuracy {np.mean(is_right):.2%} on {len(is_right):,} {part} examples", flush=True)
    return float(np.mean(is_right))


def check_teacher(classes: np.ndarray, labels: np.ndarray, remedy: str) -> None:
    """Warn if always naming the commonest class is right at least as often as a teacher's predicted classes (n,).

    Raises UserError: the teacher's balanced accuracy (its recall, averaged over the classes) is no better than chance;
    `remedy` says what to do.
    """
    classes, labels = classes[labels >= 0], labels[labels >= 0]
    is_right = classes == labels
    right_of_class = [is_right[labels == label] for label in np.unique(labels)]
    recall, chance = np.mean([right.mean() for right in right_of_class]), 1 / len(right_of_class)
    if recall <= chance + 2 * np.sqrt(chance * (1 - chance) / len(is_right)):  # within two standard errors
        problem = f"the teacher is no better than chance: right on {recall:.1%} of a class, averaged over the classes"
        raise UserError(f"{problem}: {remedy}")
    commonest, accuracy = max(map(len, right_of_class)) / len(is_right), is_right.mean()
    if accuracy <= commonest:
        print(f"warning: always naming the commonest class is right on {commonest:.1%}, the teacher on {accuracy:.1%}")


# ---- the result in words ---------------------------------------------------------------------------------------------


def describe_gain(errors: dict[str, int]) -> str:
    """A sentence on what distillation did. errors: test errors of "baseline", "distilled" and, if known, "teacher"."""
    baseline, distilled = errors["baseline"], errors["distilled"]
    saved = baseline - distilled
    if saved == 0:
        return f"distillation changes nothing: the student makes {baseline:,} test errors with it and without it"
    if saved < 0:
        return f"distillation costs the student {-saved:,} test errors: {distilled:,} in place of {baseline:,}"
    share = f"{saved / baseline:.1%}"
    sentence = f"distillation saves {saved:,} of the student's {baseline:,} test errors ({share})"
    gap = baseline - errors.get("teacher", baseline)
    if gap > 0:
        sentence += f", {saved / gap:.0%} of the way from the baseline to its teacher"
    return sentence


def describe_result(errors: dict[str, int], num_images: int) -> str:
    """The last lines of the script. errors: test errors of "teacher" (if known), "baseline" and "distilled"."""
    lines = []
    for name, num_errors in errors.items():
        lines.append(f"{name + ':':<10} {inference.describe_errors(num_errors, num_images)}")
    return "\n".join([*lines, describe_gain(errors)])


def advice(wrong: dict[str, int]) -> list[str]:
    """What to try if distilling did not help. wrong: validation errors, as in `describe_result`."""
    return [
        f"the {name} net makes no fewer errors on the validation images than the baseline ({wrong[name]:,} and"
        f" {wrong['baseline']:,}): try {remedy}"
        for name, remedy in REMEDIES.items()
        if wrong.get(name, -1) >= wrong["baseline"] > 0
    ]


# ---- distilling ------------------------------------------------------------------------------------------------------


def distill(
    student: keras.Model,
    teacher: keras.Model | list[keras.Model] | np.ndarray,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: float = MNIST.temperature,
    alpha: float = MNIST.alpha,
    epochs: int = MNIST.epochs,
    batch_size: int = MNIST.batch_size,
    learning_rate: float = MNIST.learning_rate,
    seed: int = 0,
    translate: int = 0,
    distort: float = 0.0,
    augment: Callable[[tf.Tensor], tf.Tensor] | None = None,
    pixels: float = 1.0,
    student_pixels: float = 1.0,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    optimizer: keras.optimizers.Optimizer | None = None,
) -> list[model_files.Epoch]:
    """Train `student`, a Keras classifier, on labels and on the soft targets of `teacher`; returns the history.

    For use from Python; the script trains by student.train_student, with the same loss. The student is changed, the
    teacher is not; nothing is printed. teacher: one Keras classifier, or several, whose probabilities are averaged; or
    any model's logits or probabilities (n, C) of these images. images, labels: see data.checked_split. temperature,
    alpha: see `distillation_loss`. translate, distort, augment: see data.Batches; all are off by default, while the
    script shifts MNIST's images by up to a pixel. pixels, student_pixels: factors for the inputs of teacher and
    student, see inference.pixels_for. validation: (images, labels). callbacks: see training.Run. optimizer: used as it
    is; None is Adam with learning_rate, see training.adam. seed: decides the order of the images, the shifts and the
    distortions.

    Raises UserError: an argument cannot be used; or as teacher_logits, data.Batches and training.Run do.
    """
    for name, value, is_valid, requirement in (
        ("temperature", temperature, temperature > 0, "above 0"),
        ("alpha", alpha, 0 <= alpha <= 1, "from 0 to 1"),
        ("epochs", epochs, epochs >= 1, "1 or more"),
        ("batch_size", batch_size, batch_size >= 1, "1 or more"),
        ("learning_rate", learning_rate, learning_rate > 0, "above 0"),
    ):
        if not is_valid:
            raise UserError(f"{name} is {value}: it must be {requirement}")
    split = data.checked_split(images, labels)
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise UserError("validation must be a pair, (images, labels)")
        validation = data.checked_split(*validation, "validation[0]", "validation[1]")
    if isinstance(teacher, tuple):
        teacher = list(teacher)
    if isinstance(teacher, np.ndarray):
        if augment:
            raise UserError("stored logits are those of the images as they are: leave augment out")
        if teacher.ndim != 2 or len(teacher) != len(split.labels):
            raise UserError(f"teacher has the shape {teacher.shape}: it must have a row for each image, and C columns")
        teacher = StoredTeacher(inference.stored_logits(teacher, "teacher"), None, None)
    elif not all(isinstance(model, keras.Model) for model in (teacher if isinstance(teacher, list) else [teacher])):
        raise UserError(f"teacher is a {type(teacher).__name__}: it must be a Keras model, a list of them, or an array")
    check_classes(student, teacher, split, validation)
    # What `augment` draws cannot be listed either.
    logits = teacher_logits(teacher, split.images, translate, distort or float(augment is not None), pixels=pixels)
    views = {"seed": seed, "translate": translate, "distort": distort, "augment": augment, "teacher_logits": logits}
    return training.train(
        student,
        data.Batches(split, batch_size, **views),
        loss_of(DistillRecipe(temperature=temperature, alpha=alpha)),
        epochs=epochs,
        learning_rate=learning_rate,
        pixels=student_pixels,
        validation=validation,
        callbacks=callbacks,
        optimizer=optimizer,
    )


def check_classes(
    student: keras.Model, teacher: keras.Model | Teacher, split: data.Split, validation: data.Split | None
) -> None:
    """Raises UserError: the models differ in their numbers of classes, or a label is not of one of the classes."""
    examples = inference.to_unit(split.images[: inference.PROBED])
    num_outputs = []
    for model in [student, *(teacher if isinstance(teacher, list) else [teacher])]:
        is_stored = isinstance(model, StoredTeacher)
        num_outputs.append(model.train.shape[1] if is_stored else inference.caller(model, examples)(examples).shape[1])
    num_classes = num_outputs[0]
    if len(set(num_outputs)) > 1:
        listed = ", ".join(map(str, num_outputs))
        raise UserError(f"student and teacher have different numbers of classes: {listed}")
    for name, checked in (("labels", split), ("validation[1]", validation)):
        if checked and checked.labels.max() >= num_classes:
            problem = f"{name} has a label {checked.labels.max()}"
            raise UserError(f"{problem}, but the nets have classes 0...{num_classes - 1} only")
    if validation and validation.labels.min() < 0:
        raise UserError("validation[1] has labels below 0: every validation example needs its label")


def loss_of(settings: DistillRecipe) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """The loss of a DistillRecipe, as training.Run takes it: (labels, teacher_logits, student_logits) -> (batch,)."""
    return functools.partial(distillation_loss, temperature=settings.temperature, alpha=settings.alpha)


def main() -> None:
    of_models = OwnTeacher(), inference.TeacherPixels(), student.OwnStudent()
    options = terminal.parser(__doc__, terminal.Files(), *of_models, MNIST, own_data=OWN_DATA)
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out, dataset = files.output_folder(arguments.out), data.load_for(arguments)
    recipe = DistillRecipe.of(vars(arguments))
    settings = student.settings_from(recipe, arguments.student, dataset)
    teacher = load_teacher(arguments, dataset, out)
    views = recipe.only("translate", "distort")
    logits = teacher_logits(teacher, dataset.train.images, **views, cache=out, pixels=arguments.teacher_pixels)

    baseline_path = out / "student.keras"
    if model_files.is_made_with(baseline_path, settings, student.MNIST.settings()):
        print(f"baseline: {baseline_path} was trained with these settings")
        baseline = model_files.load(baseline_path, dataset.image_shape, dataset.num_classes)
        _, baseline_history = model_files.load_training(baseline_path)
    else:
        print("baseline: the student on the labels alone", flush=True)
        baseline, baseline_history = student.train_baseline(dataset, recipe, settings, out, arguments.student)

    temperature, alpha = recipe.temperature, recipe.alpha
    print(f"distilled: the same student, T = {temperature:g}, alpha = {alpha:g} (the weight of the soft term)")
    distilled, history = student.train_student(dataset, recipe, loss_of(recipe), logits, arguments.student)
    settings |= {"temperature": temperature, "alpha": alpha, "teacher": fingerprint(teacher)}
    model_files.save(distilled, out / "distilled.keras", settings, history)
    histories = {"student": baseline_history, "distilled": history}
    plots.learning_curves(histories, out / "plots" / "learning_curves_distilled.png")
    print(f"saved {out / 'distilled.keras'}\n")

    def count_errors(name: str) -> dict[str, int]:
        split, errors = getattr(dataset, name), {}
        if not isinstance(teacher, StoredTeacher):
            errors["teacher"] = inference.count_errors(teacher, split, arguments.teacher_pixels)
        elif (stored := getattr(teacher, name)) is not None:
            errors["teacher"] = int(np.sum(stored.argmax(-1) != split.labels))
        for model_name, model in (("baseline", baseline), ("distilled", distilled)):
            errors[model_name] = inference.count_errors(model, split, recipe.student_pixels)
        return errors

    if len(dataset.validation.labels):
        print("\n".join([*advice(count_errors("validation")), ""]), end="")
    print(describe_result(count_errors("test"), len(dataset.test.labels)))


if __name__ == "__main__":
    terminal.run(main)
