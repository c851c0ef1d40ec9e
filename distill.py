"""Distil the teacher into the student: train the small net on the labels and on the teacher's soft targets.

    python distill.py        (after python teacher.py)

Two students are trained side by side, from the same first weights and with the same settings: the baseline on the
labels alone, and the distilled student. T = 3, and alpha, the weight of the soft term of the loss, is 0.3. After three
epochs of the same images in the same order, each trains on the images that it finds hardest. The distilled student
makes 91 test errors in 10,000 (mean of 5 seeds; 85 to 96), the baseline 137. This takes a minute on two cores.

Writes student.keras (the baseline), distilled.keras, their histories (.csv) and plots/ to artifacts/;
teacher_logits_*.npz there is a cache.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import UserError, classifier, files, model_files, plots, selection, teacher_logits, terminal, training
from support.batches import Batches, LogitsOfViews
from support.recipe import any_temperature, fraction, setting

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

import data
import student

# ---- the loss --------------------------------------------------------------------------------------------------------


def soft_targets(logits: tf.Tensor | np.ndarray, temperature: float) -> tf.Tensor:
    """The class probabilities at a temperature: softmax(logits / temperature), (..., C) -> (..., C).

    Hinton, Vinyals & Dean (2015), equation 1.
    """
    return tf.nn.softmax(logits / temperature)


def distillation_loss(
    labels: tf.Tensor,
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    temperature: float,
    alpha: float,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross_entropy(labels, student), for each example.

    labels (batch,) integers, or -1 for an unlabelled example, whose second term is 0; teacher_logits, student_logits
    (batch, C) float32; temperature T > 0; alpha in [0, 1] is the weight of the first, soft term. Returns nats per
    example, (batch,) float32. label_smoothing: see training.cross_entropy.

    Hinton, Vinyals & Dean (2015), section 2: the gradients of the soft term scale as 1 / T^2, so the factor T^2 keeps
    the balance of the two terms when T changes. The paper uses the cross-entropy with the soft targets. KL is that
    minus the entropy of the targets, which does not depend on the student, and is 0 where student and teacher agree.
    In float32 the soft term is off by up to about 1e-7 * T^2 nats.
    """
    targets = soft_targets(teacher_logits, temperature)
    teacher_log = tf.nn.log_softmax(teacher_logits / temperature)  # not log(targets): some targets are 0
    student_log = tf.nn.log_softmax(student_logits / temperature)
    kl = tf.reduce_sum(targets * (teacher_log - student_log), axis=-1)
    hard = training.cross_entropy(labels, teacher_logits, student_logits, label_smoothing)
    return alpha * temperature**2 * kl + (1 - alpha) * hard


# What --loss chooses from: functions (labels, teacher_logits, student_logits) -> nats (batch,). Their other arguments
# are settings: each gets the value of the DistillRecipe's field of its name.
LOSSES = {"distillation": distillation_loss, "labels": training.cross_entropy}


@dataclass(frozen=True)
class DistillRecipe(student.StudentRecipe):
    """All settings of a distilled student, apart from the data, --teacher and --student."""

    loss: str = setting("distillation", [*LOSSES], "what the student minimises; labels: their cross-entropy alone")
    temperature: float = setting(3.0, any_temperature, "divides the logits of both nets", metavar="T")
    alpha: float = setting(0.3, fraction, "weight of the soft term (teacher); the hard term (labels) has 1 - ALPHA")


DEFAULTS = DistillRecipe().updated(student.DEFAULTS.settings())
OWN_DATA_DEFAULTS = DistillRecipe().updated(student.OWN_DATA_DEFAULTS.settings())


@keras.saving.register_keras_serializable("distillation")
class SoftTargetLoss(keras.distillation.DistillationLoss):
    """The soft term of `distillation_loss`, T^2 * KL, for keras.distillation.Distiller: the mean over the batch.

    Both models must return logits (batch, C), or log-probabilities, which are logits too; classifier.adapters makes
    them of any classifier's outputs. The Distiller's student_loss_weight is 1 - alpha. Keras' own LogitsDistillation
    applies neither softmax nor T^2 as it comes, and clips probabilities at 1e-7 with loss=KLDivergence() (3.15.1).
    """

    def __init__(self, temperature: float = DEFAULTS.temperature) -> None:
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


# ---- training --------------------------------------------------------------------------------------------------------


def train_pair(
    dataset: data.Dataset, recipe: DistillRecipe, teacher: LogitsOfViews, path: Path | None = None
) -> list[tuple[keras.Model, list[model_files.Epoch]]]:
    """Train the same student on labels alone and distilled; returns (model, history) of each, in this order.

    They are trained side by side on the same shifted or distorted images, and only the loss differs; with it, if
    recipe.select is below 1, the images that are hard. If some examples are unlabelled, the baseline gets the labelled
    ones only, repeated to the same number of steps. teacher: see Teacher.on_views. path: see student.new_student.
    """
    batches = Batches(dataset.train, recipe, teacher)
    has_unlabelled = (dataset.train.labels < 0).any()
    on_labels = Batches(dataset.train.labelled(), recipe) if has_unlabelled else batches
    trainers = [
        student.trainer_for(dataset, recipe, on_labels, LOSSES["labels"], path),
        student.trainer_for(dataset, recipe, batches, LOSSES[recipe.loss], path),
    ]
    for one, other in zip(*(trainer.model.variables for trainer in trainers), strict=True):
        other.assign(one)  # the same first weights, whatever an edited build_student draws them from
    histories = training.train(trainers, terminal.num_cores(), print_pair)
    return [(trainer.model, history) for trainer, history in zip(trainers, histories)]


def print_pair(rows: list[model_files.Epoch], epochs: int) -> None:
    """Print the Epochs of baseline and distilled student in a line. epochs: how many there will be."""
    texts = []
    for name, row in zip(("baseline", "distilled"), rows):
        accuracies = {"validation": row.validation_accuracy, "training": row.training_accuracy}
        known = [f"{part} {value:.2%}" for part, value in accuracies.items() if not math.isnan(value)]
        texts.append(f"  {name}: {', '.join([f'loss {row.loss:.4f}', *known[:1]])}")
    terminal.say(f"epoch {rows[0].epoch:3}/{epochs}{''.join(texts)}  {max(row.seconds for row in rows):.1f} s")


def train_students(
    dataset: data.Dataset,
    recipes: Sequence[DistillRecipe],
    batches: Batches,
    cores: int,
    report: training.Report = training.show_epoch,
    path: Path | None = None,
) -> list[tuple[keras.Model, list[model_files.Epoch]]]:
    """Build students and train them on the same batches, so many cores at a time; returns (model, history) of each.

    Each comes out bit for bit as by `train_pair`. One that diverges ends there: the last loss of its history is not
    finite. recipes: they agree in recipe.VIEWS. report: see training.train. path: see student.new_student.
    """
    options = {"validation": None, "may_diverge": True}
    trainers = [
        student.trainer_for(dataset, recipe, batches, LOSSES[recipe.loss], path, **options) for recipe in recipes
    ]
    histories = training.train(trainers, cores, report)
    return [(trainer.model, history) for trainer, history in zip(trainers, histories)]


# ---- from Python -----------------------------------------------------------------------------------------------------


def distill(
    student: keras.Model,
    teacher: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    loss: training.Loss | str = distillation_loss,
    augment: Callable[[tf.Tensor], tf.Tensor] | None = None,
    pixels: float = 1.0,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback = (),
    optimizer: keras.optimizers.Optimizer | str | None = None,
    **settings: Any,
) -> list[model_files.Epoch]:
    """Train `student`, a Keras classifier, on labels and on what `teacher` says of the images; returns the history.

    For use from Python; the script trains in the same way. The student is changed, the teacher is not; nothing is
    printed. teacher: a Keras classifier, several, a function of images, or an array of logits, see
    teacher_logits.as_teacher. images, labels: see data.checked_split.

    settings: fields of DistillRecipe, such as temperature=3.0, alpha=0.3, epochs=150, batch_size=250,
    learning_rate=5e-3, seed=0, translate=0, distort=0.0, select=1.0, label_smoothing=0.0 and student_pixels=1.0, which
    are the defaults. seed decides the order of the images, the shifts and the distortions, but not the first weights,
    which are the student's own. translate, distort, augment: see Batches; all are off by default, while the script
    shifts MNIST's images by up to a pixel.

    loss: a name of LOSSES, or your own function(labels, teacher_logits, student_logits) -> (batch,). Further arguments
    of it that are named like settings, such as temperature, get their values; functools.partial binds others. pixels:
    a factor for the teacher's inputs, see classifier.pixels_for. validation: (images, labels). callbacks: one or
    several, see callbacks.Listeners. optimizer: used as it is, or a name as for Keras' `compile`; learning_rate is then
    ignored; None is Adam with learning_rate, see training.adam.
    """
    recipe = OWN_DATA_DEFAULTS.checked(**settings, **({"loss": loss} if isinstance(loss, str) else {}))
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
    asked = teacher_logits.as_teacher(teacher, pixels)
    check_classes(student, asked, split, validation)
    options = {"validation": validation, "callbacks": callbacks, "optimizer": optimizer}
    loss = LOSSES[loss] if isinstance(loss, str) else loss
    is_taught = loss is not training.cross_entropy  # else the teacher need not be asked about all images
    batches = Batches(split, recipe, asked.on_views(split.images, recipe, augment) if is_taught else None, augment)
    trainer = training.Trainer(student, batches, loss, recipe, pixels=recipe.student_pixels, **options)
    return training.train([trainer])[0]


def check_classes(
    student: keras.Model, teacher: teacher_logits.Teacher, split: data.Split, validation: data.Split | None
) -> None:
    """Raises UserError: student and teacher differ in their numbers of classes, or a label is not of one of them."""
    few = split.take(slice(classifier.PROBED))
    examples = classifier.to_unit(few.images)
    num_classes = classifier.as_function(student, examples)(examples).shape[1]
    num_taught = teacher.on_split(data.Dataset(few, few, few, num_classes), "train").shape[1]
    if num_taught != num_classes:
        raise UserError(f"student and teacher have different numbers of classes: {num_classes}, {num_taught}")
    for name, checked in (("labels", split), ("validation[1]", validation)):
        if checked and checked.labels.max() >= num_classes:
            problem = f"{name} has a label {checked.labels.max()}"
            raise UserError(f"{problem}, but the nets have classes 0...{num_classes - 1} only")
    if validation and validation.labels.min() < 0:
        raise UserError("validation[1] has labels below 0: every validation example needs its label")


# ---- the result in words ---------------------------------------------------------------------------------------------

# What a teacher saved nets with up to so many per cent of their training images wrong: studies/when_it_helps.md.
SAVED = ((0.02, "a third to a half"), (1.0, "none to a third"), (100.0, "a fifth at most, or none"))
FEW_ERRORS = 50  # of fewer, chance hides what a teacher saves
REMEDIES = {  # what to do about a teacher that is hardly better than the baseline
    False: "try more --epochs for teacher.py, or less --dropout, --weight-decay and --distort",
    True: "check that it gets what it was trained on: the range of its pixels (--teacher-pixels 255), their mean and"
    " deviation, and its classes in the order of the data's; else choose another one",
}


def describe_loss(recipe: DistillRecipe) -> str:
    """The loss of the distilled student, and its settings."""
    if recipe.loss == "distillation":
        return f"T = {recipe.temperature:g} and alpha = {recipe.alpha:g} (the weight of the soft term)"
    settings = training.with_settings(LOSSES[recipe.loss], recipe).keywords
    return ", ".join([f"the loss {recipe.loss}", *(f"{name} = {value}" for name, value in settings.items())])


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
        lines.append(f"{name + ':':<10} {classifier.describe_errors(num_errors, num_images)}")
    return "\n".join([*lines, describe_gain(errors)])


def describe_expected(train_errors: int, num_images: int) -> str:
    """What a teacher saved nets like the baseline, which has so many of its training images wrong, in our study."""
    share = 100 * train_errors / num_images
    saved = next(saved for most, saved in SAVED if share <= most)
    found = f"a teacher saved such nets {saved} of their test errors in our study (studies/when_it_helps.md)"
    return f"the baseline has {share:.2f}% of its {num_images:,} labelled training images wrong: {found}"


def possible_cause(
    errors: dict[str, int], train_errors: int, num_images: int, recipe: DistillRecipe, is_own_teacher: bool = False
) -> str:
    """Why distilling did not help, and what to try. errors: see `describe_result`; train_errors: of the baseline."""
    baseline, sweep = errors["baseline"], "tools/sweep.py" + ("" if is_own_teacher else " --folds 5")
    if baseline < FEW_ERRORS:
        return f"{baseline:,} test errors are too few to tell: compare over seeds or on more images, by {sweep}"
    if errors.get("teacher", 0) > 0.9 * baseline:
        return f"the teacher is hardly better than the baseline: {REMEDIES[is_own_teacher]}"
    if train_errors > num_images / 100:
        return "the student cannot fit its training images: give it more units (--hidden) or --epochs"
    if recipe.distort:
        return "distorted images may have taught the student what the teacher knows"
    return f"chance (try another --seed), or a T or alpha that does not suit these data ({sweep} tries others)"


# ---- the script ------------------------------------------------------------------------------------------------------


def main() -> None:
    shared = "data validation out teacher teacher_pixels student"
    arguments = terminal.parser(__doc__, shared, DEFAULTS, OWN_DATA_DEFAULTS).parse_args()
    terminal.print_settings(arguments)
    out, dataset = files.output_folder(arguments.out), data.load_for(arguments)
    recipe = DEFAULTS.updated(vars(arguments))
    loss = describe_loss(recipe)  # first, as it refuses a loss that does not fit the settings
    own = student.check_student(dataset, recipe, arguments.student)
    teacher = teacher_logits.load(arguments, recipe, dataset, out)
    views = teacher.on_views(dataset.train.images, recipe, cache=out)

    print("baseline: the student on labels alone; distilled: the same student, from the same first weights, with")
    print(loss, flush=True)
    selection.announce(recipe.select)
    (baseline, baseline_history), (distilled, history) = train_pair(dataset, recipe, views, arguments.student)
    about = {"data": files.sha256(*dataset.train), "student": own}
    alone = student.DEFAULTS.updated(recipe.settings())
    model_files.save(baseline, out / "student.keras", alone.settings() | about, baseline_history)
    about |= {"teacher": teacher.sha256, "teacher_pixels": arguments.teacher_pixels}
    about |= {"baseline": model_files.weights_sha256(baseline)}
    model_files.save(distilled, out / "distilled.keras", recipe.settings() | about, history)
    histories = {"student": baseline_history, "distilled": history}
    plots.learning_curves(histories, out / "plots" / "learning_curves_distilled.png")
    print(f"saved {out / 'student.keras'} and {out / 'distilled.keras'}, {baseline.count_params():,} parameters each\n")

    def count_errors(name: str) -> dict[str, int]:
        split, logits = getattr(dataset, name), teacher.on_split(dataset, name)
        errors = {} if logits is None else {"teacher": int(np.sum(logits.argmax(-1) != split.labels))}
        for model_name, model in (("baseline", baseline), ("distilled", distilled)):
            errors[model_name] = classifier.count_errors(model, split, recipe.student_pixels)
        return errors

    if num_validation := len(dataset.validation.labels):
        errors = count_errors("validation")
        counts = ", ".join(f"{name} {number:,}" for name, number in errors.items())
        print(f"errors in {num_validation:,} validation images, to choose settings by: {counts}\n")
    errors, labelled = count_errors("test"), dataset.train.take(dataset.train.labels >= 0)
    print(describe_result(errors, len(dataset.test.labels)))
    fit = classifier.count_errors(baseline, labelled, recipe.student_pixels), len(labelled.labels)
    last_line = describe_expected(*fit)
    if errors["distilled"] >= errors["baseline"] > 0 and recipe.loss != "labels":
        cause = possible_cause(errors, *fit, recipe, bool(arguments.teacher))
        last_line += f"; a possible cause of no gain here: {cause}"
    print(last_line)


if __name__ == "__main__":
    terminal.run(main)
