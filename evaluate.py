"""Evaluate every model on the test set, and say what the student gained from its teacher.

    python evaluate.py                  every model in artifacts/   (after python teacher.py, python distill.py)
    python evaluate.py A.keras B.keras  the models named

With the defaults: teacher 90 test errors in 10,000, student on labels alone 199, distilled 156 (means of seeds 0, 1, 2).
Takes some seconds. Writes metrics.json and plots/errors_per_class.png to artifacts/.
"""

import itertools
import json
import math
import platform
from pathlib import Path

import common  # before TensorFlow: it keeps the start-up quiet

import keras
import numpy as np
import tensorflow as tf

import data
import plots
import training

ORDER = ["teacher", "student", "distilled"]  # in which models are listed; others follow
ECE_BINS = 15


def wilson_interval(hits, number, z=1.959964):
    """The Wilson score interval of a share of `hits` in `number`: (low, high). Its z is that of 95 %."""
    share, spread = hits / number, z * z / number
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / number + spread / (4 * number))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar_exact(only_first, only_second):
    """The two-sided exact McNemar p-value: of a split at least as uneven, were either model as likely to be the only right one.

    only_first, only_second: on how many images just this one of the two models is right.
    """
    number = only_first + only_second
    ways = tail = 1  # in which to choose k of `number` images, exact; and their sum
    for k in range(min(only_first, only_second)):
        ways = ways * (number - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**number)


def nll(labels, logits):
    """The mean negative log-likelihood of labels (n,) under logits (n, C), in nats."""
    return float(np.mean(training.cross_entropy(labels, logits)))


def ece(labels, logits):
    """The expected calibration error of logits (n, C): a fraction (Guo et al. 2017).

    Confidence is the highest probability. Over 15 equal-width bins of it: the mean of |accuracy - mean confidence|,
    weighted by how many images a bin holds.
    """
    probabilities = tf.nn.softmax(logits).numpy().astype(np.float64)
    confidence, hits = probabilities.max(-1), probabilities.argmax(-1) == labels
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    return float(np.abs(np.bincount(bins, hits - confidence, ECE_BINS)).sum() / len(labels))


def measure(logits, labels, teacher_classes):
    """The metrics of one model, a dict of plain values. teacher_classes (n,), or None where there is no teacher."""
    classes = logits.argmax(-1)
    wrong = classes != labels
    errors = int(wrong.sum())
    low, high = wilson_interval(len(labels) - errors, len(labels))
    return {
        "test_errors": errors,
        "test_examples": len(labels),
        "accuracy": 1 - errors / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "nll": nll(labels, logits),
        "ece": ece(labels, logits),
        "agreement": None if teacher_classes is None else float(np.mean(classes == teacher_classes)),
        "errors_per_class": np.bincount(labels[wrong], minlength=logits.shape[1]).tolist(),
    }


def compare(labels, first, second):
    """What two models' classes (n,) have in common, a dict of plain values; `saved` is the first's errors less the second's."""
    first_right, second_right = first == labels, second == labels
    only_first = int(np.sum(first_right & ~second_right))
    only_second = int(np.sum(second_right & ~first_right))
    return {
        "both_right": int(np.sum(first_right & second_right)),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "both_wrong": int(np.sum(~first_right & ~second_right)),
        "errors_saved_by_second": only_second - only_first,
        "mcnemar_p": mcnemar_exact(only_first, only_second),
    }


def find_models(named, out):
    """{name: path} of the models named, or of all in `out`. Raises UserError: there is none."""
    paths = named or sorted(path for path in out.glob("*.keras") if not path.name.startswith("."))
    if not paths:
        raise common.UserError(f"no models in {out}: run `python teacher.py` and `python distill.py` first")
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in paths]
    found = dict(zip(names, paths))
    return {name: found[name] for name in [*filter(found.get, ORDER), *(name for name in names if name not in ORDER)]}


def parse_arguments():
    options = common.parser(__doc__)
    options.add_argument("models", nargs="*", type=Path, metavar="PATH", help="models (default: every .keras in --out)")
    options.add_argument("--teacher", type=Path, metavar="PATH", help="for agreement (default: teacher.keras in --out)")
    options.add_argument(
        "--min-accuracy", type=common.fraction, help="exit 1 if a model is below it, or at exactly 100 %%"
    )
    return options.parse_args()


def print_table(models):
    """Print a row for each model of `metrics.json`."""
    widest = max(len("model"), *map(len, models))
    print("\non the test images; agreement is the share of them that a model puts into the teacher's class")
    print(f"{'model':<{widest}}  parameters       bytes  errors  accuracy    95 % interval    agreement")
    for name, row in models.items():
        agreement = "-" if row["agreement"] is None else f"{row['agreement']:.2%}"
        print(
            f"{name:<{widest}}  {row['parameters']:>10,}  {row['bytes']:>10,}  {row['test_errors']:>6,}  {row['accuracy']:>8.2%}"
            f"  {row['accuracy_low']:.2%} - {row['accuracy_high']:.2%}  {agreement:>9}"
        )


def print_comparisons(comparisons):
    """Print a line for each pair of models of `metrics.json`."""
    for pair in comparisons.values():
        saved = pair["errors_saved_by_second"]
        print(
            f"{pair['second']} makes {abs(saved):,} {'fewer' if saved >= 0 else 'more'} errors than {pair['first']}: it alone is"
            f" right on {pair['only_second_right']:,} images, and wrong on {pair['only_first_right']:,}"
            f" (exact McNemar p = {pair['mcnemar_p']:.2g})"
        )


def logits_of(path, digits):
    """(model, its logits of the test images (n, C) float32) for a model file. Raises UserError as training.load does."""
    model = training.load(path, digits.image_shape, digits.num_classes)
    outputs = training.predictor(model)(digits.test.images)
    if not np.isfinite(outputs).all():
        raise common.UserError(
            f"{path}: the model's outputs are not finite: train it again with a lower --learning-rate"
        )
    if training.are_probabilities(outputs):
        print(f"{path} ends in a softmax: the logarithms of its outputs are taken for logits")
        outputs = np.log(np.maximum(outputs, np.finfo(np.float32).tiny))
    return model, outputs


def circumstances(digits):
    """What a number in `metrics.json` depends on beside the models: the data and the versions."""
    return {
        "data": {
            "test_sha256": data.fingerprint(*digits.test),
            "image_shape": list(digits.image_shape),
            "num_classes": digits.num_classes,
        },
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }


def main():
    arguments = parse_arguments()
    common.print_settings(arguments)
    out = common.make_folder(arguments.out)
    digits = data.load(arguments.data)
    print(f"data: {digits}", flush=True)

    found = find_models(arguments.models, out)
    teacher_path = arguments.teacher or out / "teacher.keras"
    has_teacher = arguments.teacher is not None or teacher_path.exists()
    paths = {*found.values(), teacher_path} if has_teacher else {*found.values()}
    asked = {path: logits_of(path, digits) for path in sorted(paths)}  # the teacher, listed or not, once
    teacher_classes = asked[teacher_path][1].argmax(-1) if has_teacher else None
    models, classes = {}, {}
    for name, path in found.items():
        model, logits = asked[path]
        size = {"parameters": model.count_params(), "bytes": path.stat().st_size}
        models[name] = size | measure(logits, digits.test.labels, teacher_classes)
        classes[name] = logits.argmax(-1)
    comparisons = {
        f"{first} -> {second}": {"first": first, "second": second}
        | compare(digits.test.labels, classes[first], classes[second])
        for first, second in itertools.combinations(models, 2)
    }

    with common.replacing(out / "metrics.json") as scratch:
        metrics = {"models": models, "comparisons": comparisons} | circumstances(digits)
        scratch.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    per_class = {name: np.array(row["errors_per_class"]) for name, row in models.items()}
    plots.errors_per_class(per_class, out / "plots" / "errors_per_class.png")
    print(f"saved {out / 'metrics.json'} and {out / 'plots' / 'errors_per_class.png'}\n")

    print_comparisons(comparisons)
    print_table(models)
    if arguments.min_accuracy is not None:
        refused = [name for name, row in models.items() if not arguments.min_accuracy <= row["accuracy"] < 1]
        if refused:
            raise common.UserError(
                f"{', '.join(refused)}: accuracy below --min-accuracy {arguments.min_accuracy:g},"
                " or exactly 100 %, which no honest test gives"
            )


if __name__ == "__main__":
    common.run(main)
