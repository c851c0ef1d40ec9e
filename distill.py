"""Distil the teacher into the student: train the small net on the labels and on the teacher's soft targets.

    python distill.py        (after python teacher.py)

The same student as the baseline of student.py, with the same first weights, batches and schedule, at T = 3 and
alpha = 0.5, the weight of the soft term. Makes 151 test errors in 10,000 (mean of seeds 0, 1, 2; 146 to 157)
where the baseline makes 199, in half a minute on two cores, baseline included.

Writes distilled.keras, its history distilled.csv and plots/ to artifacts/; teacher_logits_*.npz there is a cache.
"""

import time
from pathlib import Path

import common  # before TensorFlow: it keeps the start-up quiet

import numpy as np
import tensorflow as tf

import data
import plots
import student
import training

LOGITS_AT_ONCE = 2000  # images in one call of the teacher


def soft_targets(logits, temperature):
    """The classes' probabilities at a temperature: softmax(logits / temperature), (..., C) -> (..., C).

    Hinton, Vinyals & Dean (2015), equation 1.
    """
    return tf.nn.softmax(logits / temperature)


def distillation_loss(labels, teacher_logits, student_logits, temperature, alpha):
    """alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross_entropy(labels, student), for each example.

    labels (batch,) integers; teacher_logits, student_logits (batch, C) float32; temperature T > 0; alpha in [0, 1], the
    weight of the SOFT term. Returns nats per example, (batch,) float32.

    Hinton, Vinyals & Dean (2015), section 2: soft gradients scale as 1 / T^2, so T^2 keeps the balance of the two terms
    whatever the temperature. KL differs from their cross-entropy by the teacher's entropy, which no weight of the student
    moves, and is 0 where the student agrees. In float32 the soft term is good to about 1e-7 * T^2.
    """
    teacher_log = tf.nn.log_softmax(teacher_logits / temperature)  # never the log of a softmax, which underflows
    student_log = tf.nn.log_softmax(student_logits / temperature)
    kl = tf.reduce_sum(tf.exp(teacher_log) * (teacher_log - student_log), axis=-1)
    return alpha * temperature**2 * kl + (1 - alpha) * training.cross_entropy(labels, student_logits)


def loss_at(temperature, alpha):
    """The distillation_loss at these, as training.train calls it: loss(labels, teacher_logits, student_logits)."""

    def loss(labels, teacher_logits, student_logits):
        return distillation_loss(labels, teacher_logits, student_logits, temperature, alpha)

    return loss


def teacher_logits(teacher, images, translate=0, cache=None):
    """The teacher's logits of every view (see data.padded) of images (n, h, w) uint8: (n, views, C) float32.

    They are kept in the folder `cache`, if given, and taken from there as long as teacher, images and translate are the
    same. The teacher is only asked, in inference: neither its weights nor its state change.

    Raises UserError: the teacher ends in a softmax, or its outputs are not finite.
    """
    asked = np.frombuffer(f"{translate} {teacher.to_json()}".encode(), np.uint8)
    key = common.fingerprint(images, asked, *teacher.get_weights())
    path = cache and cache / f"teacher_logits_{translate}px.npz"
    logits = _cached(path, key)
    if logits is None:
        logits = _compute(teacher, images, translate)
        if path:
            common.save_arrays(path, key=key, logits=logits)
    return logits


def _cached(path, key):
    """The logits at `path` if they were computed under `key`; None if not, or if the file is missing or damaged."""
    try:
        kept = common.load_arrays(path)
    except common.UserError:  # what is lost can be computed again
        return None
    return kept["logits"] if kept["key"] == key else None


def _compute(teacher, images, translate):
    predict = training.predictor(teacher, LOGITS_AT_ONCE)
    padded, (height, width) = data.padded(images, translate), images.shape[1:]
    span = 2 * translate + 1
    logits = np.empty((len(images), span**2, teacher.output_shape[-1]), np.float32)
    clock = time.perf_counter()
    for view in range(span**2):
        top, left = divmod(view, span)
        for start in range(0, len(images), LOGITS_AT_ONCE):
            part = slice(start, start + LOGITS_AT_ONCE)
            logits[part, view] = predict(padded[part, top : top + height, left : left + width])
            done = (view + (start + LOGITS_AT_ONCE) / len(images)) / span**2
            common.progress(f"the teacher's logits of {span**2} views of each image  {min(done, 1):4.0%}")
        if view == 0:
            _refuse_unusable(logits[:, 0])
    common.clear_progress()
    print(
        f"computed the teacher's logits of {logits.size // logits.shape[-1]:,} views in {time.perf_counter() - clock:.1f} s"
    )
    return logits


def _refuse_unusable(logits):
    if not np.isfinite(logits).all():
        raise common.UserError("the teacher's outputs are not finite: train it again with a lower --learning-rate")
    if training.are_probabilities(logits):
        raise common.UserError(
            "the teacher ends in a softmax: a temperature softens logits, not probabilities; save it without that softmax"
        )


def ask(teacher, images, translate, distort, cache):
    """The teacher's logits of images (n, h, w) uint8, for data.Batches with these views.

    Views that can be listed are asked for once, see `teacher_logits`; for others, this returns a function that asks.

    Raises UserError: as teacher_logits does.
    """
    if not distort:
        return teacher_logits(teacher, images, translate, cache)
    predict = training.predictor(teacher, LOGITS_AT_ONCE)
    _refuse_unusable(predict(images[:LOGITS_AT_ONCE]))
    return predict


def add_teacher_option(options):
    """Add --teacher, whose file `ask_teacher` loads."""
    options.add_argument(
        "--teacher", type=Path, metavar="PATH", help="its .keras file (default: teacher.keras in --out)"
    )


def ask_teacher(arguments, digits, out):
    """(the teacher, its logits of the training images as the student will see them: see `ask`).

    Raises UserError: the options cannot be met by these images, or as training.load and teacher_logits do.
    """
    data.check_batches(digits.train.images, arguments.batch_size, arguments.translate)
    teacher = training.load(arguments.teacher or out / "teacher.keras", digits.image_shape, digits.num_classes)
    return teacher, ask(teacher, digits.train.images, arguments.translate, arguments.distort, cache=out)


def parse_arguments():
    options = common.parser(__doc__)
    add_teacher_option(options)
    options.add_argument("--temperature", type=common.number(1e-3, 1e6), default=3.0, help="T (default: %(default)s)")
    options.add_argument(
        "--alpha",
        type=common.fraction,
        default=0.5,
        help="weight of the soft term; the labels' is 1 - alpha (default: %(default)s)",
    )
    student.add_student_options(options)
    return options.parse_args()


def main():
    arguments = parse_arguments()
    common.print_settings(arguments)
    out = common.make_folder(arguments.out)
    digits = data.load(arguments.data, arguments.validation)
    print(f"data: {digits}")
    recipe = student.recipe(arguments, digits)
    teacher, logits = ask_teacher(arguments, digits, out)

    baseline_path = out / "student.keras"
    if training.settings_of(baseline_path) == recipe:
        baseline = training.load(baseline_path, digits.image_shape, digits.num_classes)
        print(f"baseline: {baseline_path} was trained with these settings")
    else:
        print("baseline: the student on the labels alone")
        baseline = student.train_baseline(digits, recipe, out)

    print(
        f"distilled: the same student with the teacher, T {arguments.temperature:g}, soft term's weight {arguments.alpha:g}"
    )
    loss = loss_at(arguments.temperature, arguments.alpha)
    distilled, history = student.train_student(digits, recipe, loss, logits)
    settings = recipe | {
        "temperature": arguments.temperature,
        "alpha": arguments.alpha,
        "teacher": common.fingerprint(*teacher.get_weights()),
    }
    training.save(distilled, out / "distilled.keras", settings, history)
    plots.learning_curves(
        {"student": training.load_history(baseline_path), "distilled": history},
        out / "plots" / "learning_curves_distilled.png",
    )

    print(f"saved {out / 'distilled.keras'}")
    before, after = (training.count_errors(model, digits.test) for model in (baseline, distilled))
    print(f"teacher:   {training.report(training.count_errors(teacher, digits.test), digits.test)}")
    print(f"baseline:  {training.report(before, digits.test)}")
    print(f"distilled: {training.report(after, digits.test)}")
    share = f" ({abs(before - after) / before:.1%})" if before else ""
    print(
        f"its teacher {'saved' if after <= before else 'cost'} the student {abs(before - after):,} of {before:,} errors{share}"
    )


if __name__ == "__main__":
    common.run(main)
