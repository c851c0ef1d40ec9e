"""Distil the teacher into the student: train the small net on the labels and on the teacher's soft targets.

    python distill.py        (after python teacher.py)

Two students are trained side by side, from the same first weights, on the same images in the same order: the baseline
on the labels alone, and the distilled student. T = 3, and alpha, the weight of the soft term of the loss, is 0.3. The
latter makes 89 test errors in 10,000 (mean of 5 seeds; 82 to 99), the baseline 134. This takes a minute on two cores.

Writes student.keras (the baseline), distilled.keras, their histories (.csv) and plots/ to artifacts/;
teacher_logits_*.npz there is a cache.
"""

import dataclasses
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import UserError, files, inference, model_files, plots, terminal, training
from support.recipe import VIEWS, any_temperature, changed, fraction, setting
from support.stack import Stack, can_be_stacked

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

import data
import student
import teachers


@dataclass(frozen=True)
class DistillRecipe(student.StudentRecipe):
    """All settings of a distilled student, apart from the data, --teacher and --student."""

    temperature: float = setting(3.0, any_temperature, "divides the logits of both nets", metavar="T")
    alpha: float = setting(0.3, fraction, "weight of the soft term (teacher); the hard term (labels) has 1 - ALPHA")
    teacher_pixels: float = changed(inference.TeacherPixels, "teacher_pixels", 1.0)


MNIST = DistillRecipe()
OWN_DATA = DistillRecipe(translate=student.OWN_DATA.translate)
REMEDIES = {  # what to try for a net that is no better than the baseline
    "teacher": "try more --epochs for teacher.py, or less --dropout, --weight-decay and --distort",
    "your teacher": "check that it gets what it was trained on: the range of its pixels (--teacher-pixels 255), their"
    " mean and deviation, and its classes in the order of the data's; else choose another one",
    "distilled": "try a lower --temperature or --alpha, or a larger student (--hidden)",
}


def soft_targets(logits: tf.Tensor | np.ndarray, temperature: float) -> tf.Tensor:
    """The class probabilities at a temperature: softmax(logits / temperature), (..., C) -> (..., C).

    Hinton, Vinyals & Dean (2015), equation 1.
    """
    return tf.nn.softmax(logits / temperature)


def distillation_loss(
    labels: tf.Tensor,
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    temperature: float | np.ndarray,
    alpha: float | np.ndarray,
) -> tf.Tensor:
    """alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross_entropy(labels, student), for each example.

    labels (batch,) integers, or -1 for an unlabelled example, whose second term is 0; teacher_logits, student_logits
    (batch, C) float32; temperature T > 0; alpha in [0, 1] is the weight of the first, soft term. Returns nats per
    example, (batch,) float32. For the K students of a Stack, temperature and alpha are arrays (K,), student_logits
    (batch, K, C); returns (batch, K).

    Hinton, Vinyals & Dean (2015), section 2: the gradients of the soft term scale as 1 / T^2, so the factor T^2 keeps
    the balance of the two terms when T changes. The paper uses the cross-entropy with the soft targets. KL is that
    minus the entropy of the targets, which does not depend on the student, and is 0 where student and teacher agree.
    In float32 the soft term is exact to about 1e-7 * T^2.
    """
    divisor = temperature
    if len(student_logits.shape) == 3:  # of a Stack
        divisor, teacher_logits = temperature[:, None], teacher_logits[:, None]
    targets = soft_targets(teacher_logits, divisor)
    teacher_log = tf.nn.log_softmax(teacher_logits / divisor)  # not log(targets): some targets are 0
    student_log = tf.nn.log_softmax(student_logits / divisor)
    kl = tf.reduce_sum(targets * (teacher_log - student_log), axis=-1)
    hard = training.cross_entropy(labels, teacher_logits, student_logits)
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
        sentence += f", {saved / gap:.0%} of the way from the baseline to the teacher"
    return sentence


def describe_result(errors: dict[str, int], num_images: int) -> str:
    """The last lines of the script. errors: test errors of "teacher" (if known), "baseline" and "distilled"."""
    lines = []
    for name, num_errors in errors.items():
        lines.append(f"{name + ':':<10} {inference.describe_errors(num_errors, num_images)}")
    return "\n".join([*lines, describe_gain(errors)])


def advice(wrong: dict[str, int], is_own_teacher: bool = False) -> list[str]:
    """What to try if distilling did not help. wrong: validation errors, as in `describe_result`."""
    lines = []
    for name, remedy in (("teacher", "your teacher" if is_own_teacher else "teacher"), ("distilled", "distilled")):
        if wrong.get(name, -1) >= wrong["baseline"] > 0:
            counts = f"({wrong[name]:,} and {wrong['baseline']:,})"
            problem = f"the {name} net makes no fewer errors on the validation images than the baseline {counts}"
            lines.append(f"{problem}: {REMEDIES[remedy]}")
    return lines


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
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback = (),
    optimizer: keras.optimizers.Optimizer | str | None = None,
) -> list[model_files.Epoch]:
    """Train `student`, a Keras classifier, on labels and on the soft targets of `teacher`; returns the history.

    For use from Python; the script trains by `train_pair`, with the same loss. The student is changed, the
    teacher is not; nothing is printed. teacher: one Keras classifier, or several, whose probabilities are averaged; or
    any model's logits or probabilities (n, C) of these images, see inference.stored_logits. images, labels: see
    data.checked_split. temperature, alpha: see `distillation_loss`. translate, distort, augment: see data.Batches; all
    are off by default, while the script shifts MNIST's images by up to a pixel. pixels, student_pixels: factors for the
    inputs of teacher and student, see inference.pixels_for. validation: (images, labels). callbacks: one or several,
    see training.Run. optimizer: used as it is, or a name as for Keras' `compile`; learning_rate is then ignored; None
    is Adam with learning_rate, see training.adam. seed: decides the order of the images, the shifts and the
    distortions, but not the first weights, which are the student's own.

    Raises UserError: an argument cannot be used; or as teacher_logits, data.Batches and training.Run do.
    """
    for name, value, is_valid, requirement in (
        ("temperature", temperature, lambda value: value > 0, "above 0"),
        ("alpha", alpha, lambda value: 0 <= value <= 1, "from 0 to 1"),
        ("epochs", epochs, lambda value: value >= 1, "1 or more"),
        ("batch_size", batch_size, lambda value: value >= 1, "1 or more"),
        ("learning_rate", learning_rate, lambda value: value > 0, "above 0"),
    ):
        if not (isinstance(value, numbers.Real) and is_valid(value)):
            raise UserError(f"{name} is {value!r}: it must be {requirement}")
    if not isinstance(student, keras.Model):
        raise UserError(f"student is a {type(student).__name__}: it must be a Keras model")
    try:
        optimizer = optimizer and keras.optimizers.get(optimizer)
    except ValueError as error:
        raise UserError("optimizer must be a Keras optimizer, or the name of one, such as 'adam'") from error
    callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    if not all(isinstance(callback, keras.callbacks.Callback) for callback in callbacks):
        raise UserError("callbacks must be Keras callbacks, such as keras.callbacks.CSVLogger('log.csv')")
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
        if teacher.ndim not in (1, 2) or len(teacher) != len(split.labels):
            raise UserError(f"teacher has the shape {teacher.shape}: it must have a row for each image, and C columns")
        teacher = teachers.StoredTeacher(inference.stored_logits(teacher, "teacher"), None, None)
    elif not all(isinstance(model, keras.Model) for model in (teacher if isinstance(teacher, list) else [teacher])):
        raise UserError(f"teacher is a {type(teacher).__name__}: it must be a Keras model, a list of them, or an array")
    check_classes(student, teacher, split, validation)
    is_random = distort or float(augment is not None)  # what `augment` draws cannot be listed either
    logits = teachers.teacher_logits(teacher, split.images, translate, is_random, pixels=pixels)
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
    student: keras.Model, teacher: keras.Model | teachers.Teacher, split: data.Split, validation: data.Split | None
) -> None:
    """Raises UserError: the models differ in their numbers of classes, or a label is not of one of the classes."""
    examples = inference.to_unit(split.images[: inference.PROBED])
    num_outputs = []
    for model in [student, *(teacher if isinstance(teacher, list) else [teacher])]:
        is_stored = isinstance(model, teachers.StoredTeacher)
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


def loss_of(*recipes: DistillRecipe) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """The loss of a DistillRecipe, or of those of a Stack's students, as training.Run takes it.

    That is (labels, teacher_logits, student_logits) -> (batch,), or (batch, K) for the Stack. Further arguments of
    `distillation_loss` are the recipes' settings of these names; for the Stack, arrays (K,).
    """
    names = [*inspect.signature(distillation_loss).parameters][3:]
    settings = {name: np.array([getattr(recipe, name) for recipe in recipes]) for name in names}
    return functools.partial(distillation_loss, **settings if len(recipes) > 1 else recipes[0].only(*names))


def train_pair(
    dataset: data.Dataset, recipe: DistillRecipe, teacher_logits: data.TeacherLogits, path: Path | None = None
) -> list[tuple[keras.Model, list[model_files.Epoch]]]:
    """Train the same student on labels alone and distilled; returns (model, history) of each, in this order.

    They are trained side by side on the same shifted or distorted images, and only the loss differs. If some examples
    are unlabelled, the baseline gets the labelled ones only, repeated to the same number of steps. teacher_logits,
    path: see student.train_student, whose errors this raises.
    """
    batches = student.batches_for(dataset, recipe, teacher_logits)
    has_unlabelled = (dataset.train.labels < 0).any()
    on_labels = student.batches_for(dataset, recipe) if has_unlabelled else batches
    runs = [
        student.run_for(dataset, recipe, on_labels, path=path),
        student.run_for(dataset, recipe, batches, loss_of(recipe), path),
    ]
    for one, other in zip(*(run.model.variables for run in runs), strict=True):
        other.assign(one)  # the same first weights, even if a layer of build_student draws its own without a seed
    histories = training.train_together(runs, terminal.num_cores(), print_pair)
    return [(run.model, history) for run, history in zip(runs, histories)]


def print_pair(rows: list[model_files.Epoch], epochs: int) -> None:
    """Print the Epochs of baseline and distilled student in a line. epochs: how many there will be."""
    texts = []
    for name, row in zip(("baseline", "distilled"), rows):
        accuracies = {"validation": row.validation_accuracy, "training": row.training_accuracy}
        known = [f"{part} {value:.2%}" for part, value in accuracies.items() if not math.isnan(value)]
        texts.append(f"  {name}: {', '.join([f'loss {row.loss:.4f}', *known[:1]])}")
    terminal.say(f"epoch {rows[0].epoch:3}/{epochs}{''.join(texts)}  {max(row.seconds for row in rows):.1f} s")


# ---- many students at once -------------------------------------------------------------------------------------------


def views_of(recipe: DistillRecipe) -> DistillRecipe:
    """The recipe with the default for all that is one student's alone; those that agree in it see the same images."""
    of_one_student = {field.name for field in dataclasses.fields(DistillRecipe)}.difference(VIEWS)
    return dataclasses.replace(recipe, **MNIST.only(*of_one_student))


def train_students(
    dataset: data.Dataset,
    recipes: Sequence[DistillRecipe],
    batches: data.Batches,
    cores: int,
    is_taught: bool = True,
    report: training.Report = training.print_epoch,
) -> list[tuple[keras.Model, list[model_files.Epoch]]]:
    """Build students and train them on the same batches; returns (model, history) of each.

    Those that differ only in temperature and alpha are trained in Stacks, one for each of so many cores, if their net
    can be stacked. The weights of a student come out as those that it gets alone, apart from rounding. One whose loss
    in the history is not finite has diverged. recipes: they agree in `views_of`; alpha 0: on labels alone. is_taught:
    whether the batches have a teacher's logits; if not, all students are trained on labels alone. report: see
    training.train_together. Raises UserError as training.Run does.
    """
    students = [student.first_student(dataset, recipe) for recipe in recipes]
    alike = {}  # {what they have in common: places in `recipes`}
    for place, recipe in enumerate(recipes):
        in_common = dataclasses.replace(recipe, **MNIST.only("temperature", "alpha")), bool(recipe.alpha)
        alike.setdefault(in_common, []).append(place)
    parts, runs = [], []
    for places in alike.values():
        num_parts = min(cores, len(places)) if can_be_stacked(students[places[0]]) else len(places)
        parts += np.array_split(places, num_parts)
    for part in parts:
        in_part = [recipes[place] for place in part]
        model = Stack([students[place] for place in part]) if len(part) > 1 else students[part[0]]
        loss = loss_of(*in_part) if is_taught and in_part[0].alpha else training.cross_entropy
        of_part = in_part[0].only("epochs", "learning_rate") | {"pixels": in_part[0].student_pixels}
        runs.append(training.Run(model, batches, loss, **of_part))
    histories = [[]] * len(recipes)
    for part, run, history in zip(parts, runs, training.train_together(runs, cores, report)):
        if len(part) > 1:
            run.model.unstack([students[place] for place in part])
        for number, place in enumerate(part):
            histories[place] = [row.of_student(number) for row in history]
    return list(zip(students, histories))


def main() -> None:
    options = terminal.parser(
        __doc__, terminal.Files(), teachers.OwnTeacher(), student.OwnStudent(), MNIST, own_data=OWN_DATA
    )
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out, dataset = files.output_folder(arguments.out), data.load_for(arguments)
    recipe = DistillRecipe.of(vars(arguments))
    own = student.check_student(dataset, recipe, arguments.student)
    teacher = teachers.load_teacher(arguments, dataset, out)
    views = recipe.only("translate", "distort")
    logits = teachers.teacher_logits(teacher, dataset.train.images, **views, cache=out, pixels=recipe.teacher_pixels)

    print("baseline: the student on labels alone; distilled: the same student, from the same first weights, with")
    print(f"T = {recipe.temperature:g} and alpha = {recipe.alpha:g} (the weight of the soft term)", flush=True)
    (baseline, baseline_history), (distilled, history) = train_pair(dataset, recipe, logits, arguments.student)
    about = {"data": files.fingerprint(*dataset.train), "student": own}
    alone = student.StudentRecipe.of(recipe.settings())
    model_files.save(baseline, out / "student.keras", alone.settings() | about, baseline_history)
    about |= {"teacher": teachers.fingerprint(teacher), "baseline": model_files.fingerprint(baseline)}
    model_files.save(distilled, out / "distilled.keras", recipe.settings() | about, history)
    histories = {"student": baseline_history, "distilled": history}
    plots.learning_curves(histories, out / "plots" / "learning_curves_distilled.png")
    print(f"saved {out / 'student.keras'} and {out / 'distilled.keras'}, {baseline.count_params():,} parameters each\n")

    def count_errors(name: str) -> dict[str, int]:
        split, errors = getattr(dataset, name), {}
        if not isinstance(teacher, teachers.StoredTeacher):
            errors["teacher"] = inference.count_errors(teacher, split, recipe.teacher_pixels)
        elif (stored := getattr(teacher, name)) is not None:
            errors["teacher"] = int(np.sum(stored.argmax(-1) != split.labels))
        for model_name, model in (("baseline", baseline), ("distilled", distilled)):
            errors[model_name] = inference.count_errors(model, split, recipe.student_pixels)
        return errors

    if num_validation := len(dataset.validation.labels):
        errors = count_errors("validation")
        counts = ", ".join(f"{name} {number:,}" for name, number in errors.items())
        print(f"errors in {num_validation:,} validation images, to choose settings by: {counts}")
        print("".join(f"{line}\n" for line in advice(errors, bool(arguments.teacher))))
    print(describe_result(count_errors("test"), len(dataset.test.labels)))


if __name__ == "__main__":
    terminal.run(main)
