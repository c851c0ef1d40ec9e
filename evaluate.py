"""Evaluate every model on the test set, and say what the student gained from its teacher.

    python evaluate.py                  every model in artifacts/   (after python teacher.py, python distill.py)
    python evaluate.py A.keras B.keras  the models named: any Keras classifier of images (batch, height, width) in [0, 1]

With the defaults: teacher 94 test errors in 10,000, student on labels alone 199, distilled 151 (means of seeds 0, 1, 2).
Takes about 15 seconds. Writes metrics.json, and figures to plots/, in artifacts/.
"""

import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import common  # before TensorFlow: it keeps the start-up quiet

import numpy as np
import tensorflow as tf

import data
import distill
import metrics
import plots
import training

ORDER = ["teacher", "student", "distilled"]  # in which models are listed; others follow
FIGURES = {
    "accuracy_against_parameters",
    "errors_per_class",
    "gallery",
    "learning_curves",
    "mistakes",
    "reliability",
    "what_the_teacher_knows",
}
UNITS = {
    "accuracy, accuracy_low, accuracy_high": "fraction of the test images; its Wilson 95 % interval",
    "agreement": "fraction of the test images put into the teacher's class",
    "ece, ece_at_best_temperature": f"fraction, over {metrics.ECE_BINS} equal-width bins of confidence",
    "nll, nll_at_best_temperature, kl_to_teacher": "nats per test image",
    "best_temperature": "the logits' divisor that gives the validation labels the least nll",
    "multiply_adds": "per image, in dense and convolutional layers",
    "images_per_second": "in batches of up to 1,000",
    "mcnemar_p": "two-sided, exact",
}


class Answers(NamedTuple):
    """A model's cost, a dict of plain values, its weights' fingerprint, and its logits (n, C) float32 of two splits."""

    cost: dict
    weights: str
    test: np.ndarray
    validation: np.ndarray


def find_models(named, out):
    """{name: path} of the models named, or of all in `out`. Raises UserError: there is none."""
    paths = named or sorted(path for path in out.glob("*.keras") if not path.name.startswith("."))
    if not paths:
        raise common.UserError(f"no models in {out}: run `python teacher.py` and `python distill.py` first")
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in paths]
    found = dict(zip(names, paths))
    return {name: found[name] for name in [*filter(found.get, ORDER), *(name for name in names if name not in ORDER)]}


def ask(path, digits):
    """The Answers of the model file at `path`.

    Raises UserError: as training.load does; the model's outputs are not finite.
    """
    model = training.load(path, digits.image_shape, digits.num_classes)
    predict = training.predictor(model)
    outputs = predict(np.concatenate([digits.test.images, digits.validation.images]))
    if not np.isfinite(outputs).all():
        raise common.UserError(
            f"{path}: the model's outputs are not finite: train it again with a lower --learning-rate"
        )
    if training.are_probabilities(outputs):
        common.clear_progress()
        print(f"{path} ends in a softmax: the logarithms of its outputs are taken for logits")
        outputs = np.log(np.maximum(outputs, np.finfo(np.float32).tiny))
    cost = {
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model),
        "bytes": path.stat().st_size,
        **time_of(predict, digits.test.images[:10_000]),
    }
    return Answers(cost, common.fingerprint(*model.get_weights()), *np.split(outputs, [len(digits.test.labels)]))


def multiply_adds(model):
    """How often an image's numbers are multiplied by a weight, for dense and convolutional layers; None for others."""
    call = tf.function(lambda image: model(image, training=False))
    graph = call.get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:]))).graph
    summed = {
        "MatMul": 1,
        "Conv2D": 3,
        "DepthwiseConv2dNative": 2,
    }  # the dimensions of the kernel that an output sums over
    total = 0
    for op in graph.get_operations():
        if op.type in summed:
            total += math.prod(op.outputs[0].shape) * math.prod(op.inputs[1].shape[: summed[op.type]])
        elif op.type.startswith(("Conv", "Einsum", "BatchMatMul", "While", "StatelessWhile", "CudnnRNN")):
            return None
    return total


def time_of(predict, images):
    """How fast `predict` (see training.predictor) is on this machine, in medians: images per second, and seconds for one."""

    def seconds(part, repeats):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            predict(part)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return {
        "images_per_second": round(len(images) / seconds(images, 5)),  # in batches of up to 1,000
        "microseconds_for_one_image": round(1e6 * seconds(images[:1], 200), 1),
    }


def measure(answers, digits, teacher):
    """The metrics of one model from its Answers, a dict of plain values. teacher: its Answers, or None.

    UNITS has the units; None stands for what no teacher, or no validation images, are there to tell.
    """
    labels, logits = digits.test.labels, answers.test
    per_class = metrics.mistakes(labels, logits.argmax(-1), digits.num_classes).sum(-1)
    errors = int(per_class.sum())
    low, high = metrics.wilson_interval(len(labels) - errors, len(labels))
    has_validation = len(digits.validation.labels) > 0
    best = metrics.best_temperature(digits.validation.labels, answers.validation) if has_validation else None
    return answers.cost | {
        "test_errors": errors,
        "test_examples": len(labels),
        "accuracy": 1 - errors / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "nll": metrics.nll(labels, logits),
        "ece": metrics.ece(labels, logits),
        "best_temperature": best,
        "nll_at_best_temperature": metrics.nll(labels, logits / best) if best else None,
        "ece_at_best_temperature": metrics.ece(labels, logits / best) if best else None,
        "agreement": float(np.mean(logits.argmax(-1) == teacher.test.argmax(-1))) if teacher else None,
        "kl_to_teacher": metrics.kl(teacher.test, logits) if teacher else None,
        "errors_per_class": per_class.tolist(),
    }


def compare(labels, first, second):
    """What two models' classes (n,) have in common, a dict of plain values."""
    first_right, second_right = first == labels, second == labels
    only_first = int(np.sum(first_right & ~second_right))
    only_second = int(np.sum(second_right & ~first_right))
    return {
        "both_right": int(np.sum(first_right & second_right)),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "both_wrong": int(np.sum(~first_right & ~second_right)),
        "errors_saved_by_second": only_second - only_first,
        "mcnemar_p": metrics.mcnemar_exact(only_first, only_second),
    }


def most_ambiguous(logits, labels, count):
    """Indices of images that the teacher has right, by the least: at most one of each class and `count` in all.

    logits (n, C), labels (n,). The least is that of the gap between the two highest probabilities.
    """
    top_two = np.sort(distill.soft_targets(logits, 1.0), axis=-1)[:, -2:]
    gap = np.where(logits.argmax(-1) == labels, top_two[:, 1] - top_two[:, 0], np.inf)
    order = np.argsort(gap)[: np.isfinite(gap).sum()]
    first_of_class = np.sort(np.unique(labels[order], return_index=True)[1])
    return order[first_of_class[:count]]


def only_one_right(split, first, second):
    """{title: (images, captions)} for plots.gallery: what one of two models has right, and the other not.

    first, second: (name, its classes (n,)).
    """
    groups = {}
    for (wrong, its), (right, others) in ((first, second), (second, first)):
        only = np.flatnonzero((its != split.labels) & (others == split.labels))
        captions = [f"{label}, not {guess}" for label, guess in zip(split.labels[only], its[only])]
        groups[f"{wrong} wrong, {right} right"] = (split.images[only], captions)
    return groups


def draw(digits, logits, histories, rows, students, teacher_logits, save_as):
    """Draw every figure that the models give: logits, histories and rows of `metrics.json` by name. save_as(name) -> path.

    students: the names of all but the teacher. teacher_logits: (n, C) of the test images, or None.
    """
    test = digits.test
    classes = {name: values.argmax(-1) for name, values in logits.items()}
    mistakes = {name: metrics.mistakes(test.labels, its, digits.num_classes) for name, its in classes.items()}
    plots.mistakes(mistakes, save_as("mistakes"))
    plots.errors_per_class({name: matrix.sum(-1) for name, matrix in mistakes.items()}, save_as("errors_per_class"))
    plots.accuracy_against_parameters(rows, save_as("accuracy_against_parameters"))
    if any(histories.values()):
        plots.learning_curves(histories, save_as("learning_curves"))
    if len(digits.validation.labels):
        bins = {}
        for name, row in rows.items():
            best = row["best_temperature"]
            bins[name] = {
                f"as it is, ECE {row['ece']:.2%}": metrics.reliability(test.labels, logits[name]),
                f"at T = {best:.2f}, ECE {row['ece_at_best_temperature']:.2%}": metrics.reliability(
                    test.labels, logits[name] / best
                ),
            }
        plots.reliability(bins, save_as("reliability"))
    if len(students) >= 2:
        plots.gallery(only_one_right(test, *((name, classes[name]) for name in students[:2])), save_as("gallery"))
    if teacher_logits is not None:
        chosen = most_ambiguous(teacher_logits, test.labels, 6)
        said = [(f"teacher, T = {t}", "teacher", teacher_logits, t) for t in (1, 4, 20)]
        said += [(name, name, logits[name], 1) for name in students[:3]]
        probabilities = {title: (name, distill.soft_targets(of[chosen], t).numpy()) for title, name, of, t in said}
        plots.dark_knowledge(test.images[chosen], test.labels[chosen], probabilities, save_as("what_the_teacher_knows"))


def print_table(caption, rows, columns):
    """Print a line for each of `rows`, {name: metrics}. columns: {heading: (a metric's name, its format)}."""
    table = [["", *columns]]
    for name, row in rows.items():
        values = [(row[key], form) for key, form in columns.values()]
        table.append([name, *("-" if value is None else format(value, form) for value, form in values)])
    widths = [max(map(len, column)) for column in zip(*table)]
    print(caption)
    for first, *others in table:
        print(f"{first:<{widths[0]}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(others, widths[1:])))
    print()


def print_report(rows, comparisons):
    """Print what `metrics.json` says of the models and their pairs, the errors last."""
    print_table(
        "cost; speed is this machine's, in batches of up to 1,000 images and for one alone",
        rows,
        {
            "parameters": ("parameters", ","),
            "multiply-adds": ("multiply_adds", ","),
            "bytes": ("bytes", ","),
            "images/s": ("images_per_second", ","),
            "us for one": ("microseconds_for_one_image", ",.0f"),
        },
    )
    print_table(
        "probabilities on the test images: negative log-likelihood (nats) and expected calibration error, as they are and\n"
        "at the one temperature that fits the validation images best; KL (nats) to the teacher, same class as the teacher",
        rows,
        {
            "NLL": ("nll", ".4f"),
            "ECE": ("ece", ".2%"),
            "best T": ("best_temperature", ".2f"),
            "NLL at it": ("nll_at_best_temperature", ".4f"),
            "ECE at it": ("ece_at_best_temperature", ".2%"),
            "KL": ("kl_to_teacher", ".4f"),
            "agreement": ("agreement", ".2%"),
        },
    )
    if comparisons:
        print_table(
            "pairs: on how many test images which of the two is right; p of the exact McNemar test",
            comparisons,
            {
                "both right": ("both_right", ","),
                "only first": ("only_first_right", ","),
                "only second": ("only_second_right", ","),
                "both wrong": ("both_wrong", ","),
                "second saves": ("errors_saved_by_second", ","),
                "p": ("mcnemar_p", ".2g"),
            },
        )
    per_class = {name: dict(enumerate(row["errors_per_class"])) for name, row in rows.items()}
    num_classes = len(next(iter(per_class.values())))
    if num_classes <= 20:
        print_table("test errors of each class", per_class, {str(label): (label, ",") for label in range(num_classes)})
    number = next(iter(rows.values()))["test_examples"]
    print_table(
        f"errors in {number:,} test images, and the accuracy's 95 % interval",
        rows,
        {
            "test errors": ("test_errors", ","),
            "accuracy": ("accuracy", ".2%"),
            "from": ("accuracy_low", ".2%"),
            "to": ("accuracy_high", ".2%"),
        },
    )


def print_gain(rows, settings):
    """Print what distilling saved. rows, settings: {name: metrics} and {name: settings} of student and distilled, at least."""
    student, distilled = settings["student"], settings["distilled"]
    unlike = [name for name in student if distilled.get(name, student[name]) != student[name]]
    if unlike:
        print(
            f"student and distilled differ in more than a teacher ({', '.join(unlike)}): python distill.py trains both"
        )
        return
    before, after = (rows[name]["test_errors"] for name in ("student", "distilled"))
    change = f"{abs(before - after):,} {'fewer' if after <= before else 'more'}"
    share = f" ({abs(before - after) / before:.1%})" if before else ""
    print(f"distilled, the student makes {change} errors{share} than on labels alone")


def parse_arguments():
    options = common.parser(__doc__)
    options.add_argument("models", nargs="*", type=Path, metavar="PATH", help="models (default: every .keras in --out)")
    options.add_argument(
        "--teacher", type=Path, metavar="PATH", help="to compare with (default: teacher.keras in --out)"
    )
    options.add_argument(
        "--min-accuracy", type=common.fraction, help="exit 1 if a model is below it, or at exactly 100 %%"
    )
    common.add_format_option(options)
    return options.parse_args()


def main():
    arguments = parse_arguments()
    common.print_settings(arguments)
    out = common.make_folder(arguments.out)
    digits = data.load(arguments.data, arguments.validation)
    print(f"data: {digits}", flush=True)

    found = find_models(arguments.models, out)
    teacher_path = arguments.teacher or out / "teacher.keras"
    has_teacher = arguments.teacher is not None or teacher_path.exists()
    paths = {*found.values(), teacher_path} if has_teacher else {*found.values()}
    asked, known = {}, common.fingerprint(*digits.train)
    for path in sorted(paths):  # the teacher, listed or not, once
        common.progress(f"asking {path}")
        asked[path] = ask(path, digits)
    common.clear_progress()
    teacher = asked[teacher_path] if has_teacher else None
    made = {path: training.load_settings(path) for path in sorted(paths)}
    for path, settings in made.items():
        if settings.get("data", known) != known:
            print(
                f"{path} was trained on other images than these: maybe on those that its best temperature is fitted on"
            )
        if teacher and settings.get("teacher", teacher.weights) != teacher.weights:
            print(f"{path} had another teacher than {teacher_path}: python distill.py teaches it anew")
    rows = {name: measure(asked[path], digits, teacher) for name, path in found.items()}
    comparisons = {
        f"{first} -> {second}": {"first": first, "second": second}
        | compare(digits.test.labels, *(asked[found[name]].test.argmax(-1) for name in (first, second)))
        for first, second in itertools.combinations(found, 2)
    }

    with common.replacing(out / "metrics.json") as scratch:
        about = {"test_sha256": common.fingerprint(*digits.test), "image_shape": list(digits.image_shape)}
        report = {
            "models": rows,
            "comparisons": comparisons,
            "units": UNITS,
            "data": about | {"num_classes": digits.num_classes},
            "versions": common.versions(),
        }
        scratch.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    common.progress("drawing")
    drawn = set()
    draw(
        digits,
        {name: asked[path].test for name, path in found.items()},
        {name: training.load_history(path) for name, path in found.items()},
        rows,
        [name for name, path in found.items() if path != teacher_path],
        teacher.test if teacher else None,
        lambda name: drawn.add(name) or out / "plots" / f"{name}.{arguments.format}",
    )
    for name in FIGURES - drawn:  # one of an earlier evaluation would be taken for this one's
        (out / "plots" / f"{name}.{arguments.format}").unlink(missing_ok=True)
    common.clear_progress()
    print(f"saved {out / 'metrics.json'} and figures in {out / 'plots'}\n")

    print_report(rows, comparisons)
    if {"student", "distilled"} <= rows.keys():
        print_gain(rows, {name: made[path] for name, path in found.items()})
    if arguments.min_accuracy is not None:
        refused = [name for name, row in rows.items() if not arguments.min_accuracy <= row["accuracy"] < 1]
        if refused:
            raise common.UserError(
                f"{', '.join(refused)}: accuracy below --min-accuracy {arguments.min_accuracy:g},"
                " or exactly 100 %, which no honest test gives"
            )


if __name__ == "__main__":
    common.run(main)
