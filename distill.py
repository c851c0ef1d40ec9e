"""Distil the teacher into the student: train the small net on the labels and on the teacher's soft targets.

    python distill.py        (after python teacher.py)

The same student as the baseline of student.py, with the same first weights, images and schedule, at T = 2 and
alpha = 0.5, the weight of the teacher's part of the loss. It makes 93 test errors in 10,000 (mean of 5 seeds; 85 to 98)
where the baseline makes 139, in about a minute on two cores, baseline included.

Writes distilled.keras, its history distilled.csv and plots/ to artifacts/; teacher_logits_*.npz there is a cache.
"""

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path

from support import UserError, files, inference, model_files, plots, terminal, training
from support.recipe import Recipe, any_temperature, fraction, setting

import numpy as np
import tensorflow as tf

import data
import student


@dataclass(frozen=True)
class DistillRecipe(student.StudentRecipe):
    """All that decides a distilled student, besides the data and other nets."""

    temperature: float = setting(2.0, any_temperature, "divides the logits of both nets", metavar="T")
    alpha: float = setting(0.5, fraction, "weight of the teacher's part of the loss; the labels' part has 1 - ALPHA")


@dataclass(frozen=True)
class OwnTeacher(Recipe):
    """The option for a teacher of one's own."""

    teacher: Path | None = setting(
        None,
        Path,
        "the teacher: one or more Keras models; several are averaged (default: teacher.keras in --out)",
        nargs="+",
        action="extend",
        metavar="FILE",
    )


MNIST = DistillRecipe()
OWN_DATA = DistillRecipe(translate=student.OWN_DATA.translate)
REMEDIES = {  # for a net that is no better than the baseline
    "teacher": "more --epochs for teacher.py, or less --dropout, --weight-decay and --distort",
    "distilled": "a lower --temperature or --alpha, or a larger student (--hidden)",
}
LOGITS_VERSION = 2  # of cached logits: raised where a model's outputs come to be read in another way
IMAGES_AT_ONCE = 2000  # in one call of the teacher
TEACHER_CHECK_EXAMPLES = 2000  # training examples on which a teacher has to be better than chance


def soft_targets(logits, temperature):
    """The probabilities of the classes at a temperature: softmax(logits / temperature), (..., C) -> (..., C).

    Hinton, Vinyals & Dean (2015), equation 1.
    """
    return tf.nn.softmax(logits / temperature)


def distillation_loss(labels, teacher_logits, student_logits, temperature, alpha):
    """alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross_entropy(labels, student), for each example.

    labels (batch,) integers, or -1 for an example without a label, whose second term is 0; teacher_logits,
    student_logits (batch, C) float32; temperature T > 0; alpha in [0, 1] is the weight of the teacher's part. Returns
    nats per example, (batch,) float32.

    Hinton, Vinyals & Dean (2015), section 2: the gradients of the first term scale as 1 / T^2, so the factor T^2
    keeps the balance of the two terms when T changes. The paper has the cross-entropy with the soft targets; KL is
    that less their entropy, which does not depend on the student. KL is 0 where the student agrees with its teacher.
    In float32 the first term is exact to about 1e-7 * T^2.
    """
    targets = soft_targets(teacher_logits, temperature)
    teacher_log = tf.nn.log_softmax(teacher_logits / temperature)  # not log(targets), of which some are 0
    student_log = tf.nn.log_softmax(student_logits / temperature)
    kl = tf.reduce_sum(targets * (teacher_log - student_log), axis=-1)
    hard = tf.where(labels >= 0, training.cross_entropy(tf.maximum(labels, 0), student_logits), 0.0)
    return alpha * temperature**2 * kl + (1 - alpha) * hard


# ---- the teacher's logits --------------------------------------------------------------------------------------------


def teacher_logits(teacher, images, translate=0, distort=0.0, cache=None, pixels=1.0):
    """The teacher's logits of images (n, ...) under every shift by up to `translate` pixels: (n, shifts, C) float32.

    teacher: a Keras model, or a list of models; pixels: see inference.predictor. The logits are computed once and
    kept in the folder `cache`, if given, as long as all of these stay the same. With distort, whose views cannot be
    listed, this returns a function instead, images (n, ...) -> logits (n, C). Both are what data.Batches takes. The
    teacher is run at inference; neither its weights nor its state change.

    Raises UserError: the teacher's outputs are not finite.
    """
    predict = inference.predictor(teacher, IMAGES_AT_ONCE, pixels)
    if distort:
        _check_finite(predict(images[:IMAGES_AT_ONCE]))
        return predict
    nets = teacher if isinstance(teacher, list) else [teacher]
    about = np.frombuffer(f"{LOGITS_VERSION} {translate} {pixels} {[net.to_json() for net in nets]}".encode(), np.uint8)
    key = files.fingerprint(images, about) + model_files.fingerprint(*nets)
    path = cache and cache / f"teacher_logits_{translate}px.npz"
    with contextlib.suppress(UserError):  # the file is missing or damaged: the logits are computed again
        if path and (saved := files.load_arrays(path))["key"] == key:
            return saved["logits"]
    logits = _compute(predict, images, translate)
    if path:
        files.save_arrays(path, key=key, logits=logits)
    return logits


def _compute(predict, images, translate):
    num_shifts, span = data.num_shifts(translate), 2 * translate + 1
    padded = data.padded(images, translate)
    logits = None
    for shift in range(num_shifts):
        top, left = divmod(shift, span)
        for start in range(0, len(images), IMAGES_AT_ONCE):
            part = slice(start, start + IMAGES_AT_ONCE)
            view = padded[part]
            if translate:
                view = view[:, top : top + images.shape[1], left : left + images.shape[2]]
            found = predict(view)
            if logits is None:
                logits = np.empty((len(images), num_shifts, found.shape[-1]), np.float32)
            logits[part, shift] = found
            done = (shift + (start + IMAGES_AT_ONCE) / len(images)) / num_shifts
            terminal.progress(f"the teacher's logits, {num_shifts} shifts of each image  {min(done, 1):4.0%}")
        if shift == 0:
            _check_finite(logits[:, 0])
    terminal.clear_progress()
    terminal.say(f"computed the teacher's logits of {len(images) * num_shifts:,} images")
    return logits


def _check_finite(logits):
    if not np.isfinite(logits).all():
        raise UserError("the teacher's outputs are not finite: train it again with a lower --learning-rate")


def load_teacher(arguments, dataset, out):
    """The models of --teacher, or teacher.keras in the folder `out`: a list. Prints their accuracy on the validation
    examples.

    Raises UserError: as model_files.load and data.check_batches do; teacher.keras was not trained on these training
    examples; the models of --teacher together are no better than chance.
    """
    settings = student.StudentRecipe.of(vars(arguments))
    views = settings.only("batch_size", "translate", "distort")
    data.check_batches(dataset.train.images, **views)  # before anyone waits
    paths = arguments.teacher or [out / "teacher.keras"]
    teacher = [model_files.load(path, dataset.image_shape, dataset.num_classes) for path in paths]
    fingerprint = files.fingerprint(*dataset.train)
    for path in paths:
        trained_on = model_files.load_training(path)[0].get("data")
        if trained_on != fingerprint and not arguments.teacher:
            problem = f"{path} was not trained on these training examples, but with other --data or --validation"
            raise UserError(
                f"{problem}: run `python teacher.py` with the options given here, or name it with --teacher"
            )
        if trained_on not in (None, fingerprint):
            print(f"warning: {path} was trained on other examples than these, perhaps on validation or test examples")
    split = dataset.validation if len(dataset.validation.labels) else dataset.train.labelled()
    predict = inference.predictor(teacher, pixels=arguments.teacher_pixels)
    accuracy = np.mean(predict(split.images).argmax(-1) == split.labels)
    print(f"teacher: accuracy {accuracy:.2%} on {len(split.labels):,} examples", flush=True)
    if arguments.teacher:
        sample = data.sample(dataset.train)
        for path, net in zip(paths, teacher):
            inference.warn_of_pixels(path, net, sample, arguments.teacher_pixels, "--teacher-pixels")
        check_teacher(predict, dataset)
    return teacher


def check_teacher(predict, dataset):
    """Warn where naming the commonest class is right more often than a teacher. predict: see inference.predictor.

    Raises UserError: the share of each class that the teacher gets right is, in the mean, no better than chance.
    """
    split = data.sample(dataset.train, TEACHER_CHECK_EXAMPLES)
    hits = predict(split.images).argmax(-1) == split.labels
    of_class = [hits[split.labels == label] for label in np.unique(split.labels)]
    recall, chance = np.mean([part.mean() for part in of_class]), 1 / len(of_class)
    if recall <= chance + 2 * np.sqrt(chance * (1 - chance) / len(hits)):  # within two standard errors
        problem = f"the teacher is no better than chance: right on {recall:.1%} of a class, in the mean of all"
        raise UserError(f"{problem}: check the range of its pixels (--teacher-pixels 255) and the order of its classes")
    commonest = max(map(len, of_class)) / len(hits)
    if hits.mean() <= commonest:
        print(
            f"warning: always naming the commonest class is right on {commonest:.1%}, the teacher on {hits.mean():.1%}"
        )


def describe_gain(errors):
    """A sentence: what distillation did. errors: {"baseline", "distilled" and, if it is known, "teacher": test
    errors}.
    """
    before, after = errors["baseline"], errors["distilled"]
    if after > before:
        return f"distillation costs the student {after - before:,} test errors: {after:,} in place of {before:,}"
    share = f" ({(before - after) / before:.1%})" if before else ""
    sentence = f"distillation saves {before - after:,} of the student's {before:,} test errors{share}"
    to_teacher = before - errors.get("teacher", before)
    if to_teacher > 0:
        sentence += f", {(before - after) / to_teacher:.0%} of the way from the baseline to its teacher"
    return sentence


def describe_result(errors, num_images):
    """The last lines that the script prints. errors: {"teacher", "baseline", "distilled": test errors}."""
    lines = [f"{name + ':':<10} {inference.describe_errors(number, num_images)}" for name, number in errors.items()]
    return "\n".join([*lines, describe_gain(errors)])


def advice(wrong):
    """What to try where distilling did not help: a list of lines. wrong: as in describe_result, on the validation
    images.
    """
    return [
        f"the {name} net makes no fewer errors on the validation images than the baseline ({wrong[name]:,} and"
        f" {wrong['baseline']:,}): try {remedy}"
        for name, remedy in REMEDIES.items()
        if wrong[name] >= wrong["baseline"]
    ]


def distill(
    student,
    teacher,
    images,
    labels,
    *,
    temperature=MNIST.temperature,
    alpha=MNIST.alpha,
    epochs=MNIST.epochs,
    batch_size=MNIST.batch_size,
    learning_rate=MNIST.learning_rate,
    seed=0,
    translate=0,
    distort=0.0,
    pixels=1.0,
    student_pixels=1.0,
    validation=None,
    callbacks=(),
    optimizer=None,
):
    """Train `student`, a Keras classifier, on labels and on the soft targets of `teacher`; returns the history, a
    list of Epoch.

    The student is changed, the teacher is not; nothing is printed. teacher: another Keras classifier, or a list of
    them, of whose probabilities the mean is taken. pixels, student_pixels: factors by which the inputs of teacher and
    student are multiplied, see inference.pixels_for. temperature, alpha: see `distillation_loss`. translate, distort:
    see data.Batches; both are off by default, while the script shifts MNIST's images by up to a pixel. images,
    labels: see data.checked_split. validation: (images, labels), or None. optimizer: a Keras optimizer, used as it
    is; None: Adam with learning_rate, see training.adam. callbacks: Keras callbacks, see training.Run; seed: of the
    order of the images, shifts and distortions.

    Raises UserError: an argument cannot be used; or as teacher_logits, data.Batches and training.Run do.
    """
    for name, value, fits, wanted in (
        ("temperature", temperature, temperature > 0, "above 0"),
        ("alpha", alpha, 0 <= alpha <= 1, "from 0 to 1"),
        ("epochs", epochs, epochs >= 1, "1 or more"),
        ("batch_size", batch_size, batch_size >= 1, "1 or more"),
        ("learning_rate", learning_rate, learning_rate > 0, "above 0"),
    ):
        if not fits:
            raise UserError(f"{name} is {value}: it must be {wanted}")
    split = data.checked_split(images, labels)
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise UserError("validation must be a pair, (images, labels)")
        validation = data.checked_split(*validation, "validation[0]", "validation[1]")
    check_classes(student, teacher, split, validation)
    logits = teacher_logits(teacher, split.images, translate, distort, pixels=pixels)
    views = {"seed": seed, "translate": translate, "distort": distort, "teacher_logits": logits}
    return training.train(
        student,
        data.Batches(split, batch_size, **views),
        functools.partial(distillation_loss, temperature=temperature, alpha=alpha),
        epochs=epochs,
        learning_rate=learning_rate,
        pixels=student_pixels,
        validation=validation,
        callbacks=callbacks,
        optimizer=optimizer,
    )


def check_classes(student, teacher, split, validation):
    """Raises UserError: the nets are not of the same number of classes, or labels are of others."""
    known = inference.to_unit(split.images[: inference.PROBED])
    nets = {"the student": student}
    nets |= {"the teacher": teacher} if not isinstance(teacher, list) else dict(enumerate(teacher))
    widths = {name: int(inference.caller(net, known)(known[:1]).shape[-1]) for name, net in nets.items()}
    num_classes = widths["the student"]
    if len({*widths.values()}) > 1:
        raise UserError(
            f"student and teacher have different numbers of classes: {', '.join(map(str, widths.values()))}"
        )
    for name, part in {"labels": split, "validation[1]": validation}.items():
        if part and part.labels.max() >= num_classes:
            problem = f"{name} has a label {part.labels.max()}"
            raise UserError(f"{problem}, but the nets have classes 0...{num_classes - 1} only")
    if validation and validation.labels.min() < 0:
        raise UserError("validation[1] has labels below 0: every validation example needs its label")


def loss_of(settings):
    """The loss of a DistillRecipe, as training.Run takes it: (labels, teacher_logits, student_logits) -> (batch,)."""
    return functools.partial(distillation_loss, temperature=settings.temperature, alpha=settings.alpha)


def main():
    nets = OwnTeacher(), inference.TeacherPixels(), student.OwnStudent()
    options = terminal.parser(__doc__, terminal.Files(), *nets, MNIST, own_data=OWN_DATA)
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    settings, out = DistillRecipe.of(vars(arguments)), files.output_folder(arguments.out)
    dataset = data.load(arguments.data, arguments.validation)
    print(f"data: {dataset}", flush=True)
    about = student.settings_from(settings, arguments.student, dataset)
    teacher = load_teacher(arguments, dataset, out)
    views = settings.only("translate", "distort")
    logits = teacher_logits(teacher, dataset.train.images, **views, cache=out, pixels=arguments.teacher_pixels)

    baseline_path = out / "student.keras"
    if model_files.is_made_with(baseline_path, about, student.MNIST.settings()):
        print(f"baseline: {baseline_path} was trained with these settings")
        baseline = model_files.load(baseline_path, dataset.image_shape, dataset.num_classes)
        _, baseline_history = model_files.load_training(baseline_path)
    else:
        print("baseline: the student on the labels alone", flush=True)
        baseline, baseline_history = student.train_baseline(dataset, settings, about, out, arguments.student)

    temperature, alpha = settings.temperature, settings.alpha
    print(f"distilled: the same student, T = {temperature:g}, alpha = {alpha:g} (the weight of the teacher's part)")
    distilled, history = student.train_student(dataset, settings, loss_of(settings), logits, arguments.student)
    about |= {"temperature": temperature, "alpha": alpha, "teacher": model_files.fingerprint(*teacher)}
    model_files.save(distilled, out / "distilled.keras", about, history)
    histories = {"student": baseline_history, "distilled": history}
    plots.learning_curves(histories, out / "plots" / "learning_curves_distilled.png")
    print(f"saved {out / 'distilled.keras'}\n")

    nets = {"teacher": (teacher, arguments.teacher_pixels)}
    nets |= {"baseline": (baseline, settings.student_pixels), "distilled": (distilled, settings.student_pixels)}

    def errors(split):
        return {name: inference.count_errors(net, split, pixels) for name, (net, pixels) in nets.items()}

    if len(dataset.validation.labels):
        print("\n".join([*advice(errors(dataset.validation)), ""]), end="")
    print(describe_result(errors(dataset.test), len(dataset.test.labels)))


if __name__ == "__main__":
    terminal.run(main)
