"""Evaluate every model on the test set, and report what the student gained from its teacher.

    python evaluate.py                                  every model in artifacts/   (after teacher.py and distill.py)
    python evaluate.py A.keras B.keras                  these models: any Keras classifiers that take the examples
    python evaluate.py A.keras --teacher T.keras        this model, compared with this teacher

Takes about 15 seconds. Writes metrics.json, and figures to plots/, in artifacts/.
"""

import itertools
import statistics
import timeit
from pathlib import Path
from typing import NamedTuple

from support import UserError, files, inference, metrics, model_files, plots, terminal
from support.recipe import fraction

import numpy as np

import data
import distill

ORDER = ["teacher", "student", "distilled"]  # in which models are listed; others follow
FIGURES = ["accuracy_against_parameters", "confusions", "errors_per_class", "gallery", "learning_curves", "reliability"]
FIGURES += ["what_the_teacher_knows"]
METRICS = {  # of metrics.json: how each is printed, and its unit
    "parameters": (",", ""),
    "multiply_adds": (",", "per image, in dense and convolutional layers"),
    "bytes": (",", "of the file"),
    "images_per_second": (",", "in batches of up to 1,000, on this machine"),
    "microseconds_for_one_image": (",.0f", "alone, on this machine"),
    "nll": (".4f", "negative log-likelihood, nats per test image"),
    "ece": (".2%", f"expected calibration error, a fraction, over {metrics.ECE_BINS} equal-width bins of confidence"),
    "best_temperature": (".2f", "the divisor of the logits with the lowest nll on the validation images"),
    "nll_at_best": (".4f", "as nll, at the best temperature"),
    "ece_at_best": (".2%", "as ece, at the best temperature"),
    "kl_to_teacher": (".4f", "KL(teacher || model), nats per test image"),
    "agreement": (".2%", "fraction of the test images that model and teacher put into the same class"),
    "test_errors": (",", "test images put into a wrong class"),
    "accuracy": (".2%", "fraction of the test images"),
    "accuracy_low": (".2%", "lower end of the 95 % Wilson interval"),
    "accuracy_high": (".2%", "upper end of the 95 % Wilson interval"),
    "mcnemar_p": (".2g", "exact McNemar test, two-sided"),
}


class Evaluated(NamedTuple):
    """What one model file holds, and its logits (n, C) float32 of two splits."""

    cost: dict  # of plain values
    settings: dict  # see model_files.save
    history: list  # of model_files.Epoch
    weights: str  # their fingerprint
    test: np.ndarray
    validation: np.ndarray


def find_models(named, out):
    """{name: path} of the models named, or of all in the folder `out`. Raises UserError: there is none."""
    paths = named or sorted(path for path in out.glob("*.keras") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"no models in {out}: run `python teacher.py` and `python distill.py` first")
    found = name_models(paths)
    return {name: found[name] for name in [*filter(found.get, ORDER), *(name for name in found if name not in ORDER)]}


def name_models(paths):
    """{name: path} of model files, in their order. A name is the file's without its ending, or else the path."""
    first_spelling = {}
    for path in paths:
        first_spelling.setdefault(path.resolve(), path)
    paths = list(first_spelling.values())
    stems = [path.stem for path in paths]
    return {path.stem if stems.count(path.stem) == 1 else str(path): path for path in paths}


def run_model(path, dataset, pixels, option):
    """Load the model file at `path` and run it on the test and validation images; returns an Evaluated.

    pixels: see inference.feeder; None: as its file says, or 1. option: the one that sets them. Prints a warning where
    others are much better. Raises UserError: as model_files.load does; the model's outputs are not finite.
    """
    model = model_files.load(path, dataset.image_shape, dataset.num_classes)
    settings, history = model_files.load_training(path)
    pixels = model_files.pixels(settings, pixels)
    inference.warn_of_pixels(path, model, data.sample(dataset.train), pixels, option)
    predict = inference.predictor(model, pixels=pixels)
    outputs = predict(np.concatenate([dataset.test.images, dataset.validation.images]))
    if not np.isfinite(outputs).all():
        raise UserError(f"{path}: the model's outputs are not finite: train it again with a lower --learning-rate")
    cost = {
        "parameters": model.count_params(),
        "multiply_adds": inference.multiply_adds(model, dataset.image_shape),
        "bytes": path.stat().st_size,
        **measure_speed(predict, dataset.test.images[:10_000]),
    }
    logits = np.split(outputs, [len(dataset.test.labels)])
    return Evaluated(cost, settings, history, model_files.fingerprint(model), *logits)


def mean_of(several):
    """The Evaluated of a teacher of one or more models: ensemble logits, the log of the mean probability."""
    if len(several) == 1:
        return several[0]
    logits = [inference.mean_logits([its[place] for its in several]).numpy() for place in (-2, -1)]
    return Evaluated({}, {}, [], "+".join(sorted(its.weights for its in several)), *logits)


def measure_speed(predict, images):
    """The speed of `predict` (see inference.predictor) on this machine, medians, as a dict of plain values."""

    def seconds(part, repeats):
        return statistics.median(timeit.repeat(lambda: predict(part), number=1, repeat=repeats))

    return {
        "images_per_second": round(len(images) / seconds(images, 5)),
        "microseconds_for_one_image": round(1e6 * seconds(images[:1], 200), 1),
    }


def measure(evaluated, dataset, teacher):
    """The METRICS of a model, a dict of plain values. evaluated, teacher: Evaluated; teacher may be None.

    A metric is None where it needs a teacher, or validation images, and there are none.
    """
    labels, logits = dataset.test.labels, evaluated.test
    per_class = metrics.confusion_counts(labels, logits.argmax(-1), dataset.num_classes).sum(-1)
    errors = int(per_class.sum())
    low, high = metrics.wilson_interval(len(labels) - errors, len(labels))
    has_validation = len(dataset.validation.labels) > 0
    best = metrics.best_temperature(dataset.validation.labels, evaluated.validation) if has_validation else None
    return evaluated.cost | {
        "test_errors": errors,
        "test_examples": len(labels),
        "accuracy": 1 - errors / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "nll": metrics.nll(labels, logits),
        "ece": metrics.ece(labels, logits),
        "best_temperature": best,
        "nll_at_best": metrics.nll(labels, logits / best) if best else None,
        "ece_at_best": metrics.ece(labels, logits / best) if best else None,
        "agreement": float(np.mean(logits.argmax(-1) == teacher.test.argmax(-1))) if teacher else None,
        "kl_to_teacher": metrics.kl(teacher.test, logits) if teacher else None,
        "errors_per_class": per_class.tolist(),
    }


def compare(labels, first, second):
    """On how many images which of two models is right, a dict of plain values. first, second: their classes (n,)."""
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


# ---- figures ---------------------------------------------------------------------------------------------------------


def most_ambiguous(logits, labels, count):
    """Indices of up to `count` images, of different classes, that logits (n, C) put into the right class by the least
    margin.

    The margin is that between the two highest probabilities. labels: (n,).
    """
    top_two = np.sort(distill.soft_targets(logits, 1.0), axis=-1)[:, -2:]
    margin = np.where(logits.argmax(-1) == labels, top_two[:, 1] - top_two[:, 0], np.inf)
    order = np.argsort(margin)[: np.isfinite(margin).sum()]
    first_of_class = np.sort(np.unique(labels[order], return_index=True)[1])
    return order[first_of_class[:count]]


def only_one_right(split, names, first, second):
    """{title: (images, captions)} for plots.gallery: the images on which only one of two models is right.

    names: of the classes; first, second: (model's name, its classes (n,)).
    """
    groups = {}
    for (wrong, its), (right, others) in ((first, second), (second, first)):
        only = np.flatnonzero((its != split.labels) & (others == split.labels))
        captions = [f"{names[label]}, not {names[guess]}" for label, guess in zip(split.labels[only], its[only])]
        groups[f"{wrong} wrong, {right} right"] = (split.images[only], captions)
    return groups


def draw(dataset, evaluated, rows, students, teacher, folder, suffix):
    """Draw those of FIGURES that these models allow; delete the others, which would be of an earlier evaluation.

    evaluated, rows: {model's name: Evaluated, metrics}. students: the names of all but the teacher. teacher:
    Evaluated or None.
    """
    for name, kind in itertools.product(FIGURES, terminal.FORMATS):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
    are_drawable = [*map(plots.drawable, dataset.names)]
    if not all(are_drawable):
        terminal.say(
            "the figures' font does not have all characters of the classes' names: there, these have their numbers"
        )
    names = [plots.label(name) if known else str(i) for i, (name, known) in enumerate(zip(dataset.names, are_drawable))]
    evaluated, rows = ({plots.label(name): its for name, its in of.items()} for of in (evaluated, rows))
    students = [*map(plots.label, students)]
    test, path = dataset.test, {name: folder / f"{name}.{suffix}" for name in FIGURES}
    classes = {name: its.test.argmax(-1) for name, its in evaluated.items()}
    counts = {name: metrics.confusion_counts(test.labels, its, dataset.num_classes) for name, its in classes.items()}
    per_class = {name: matrix.sum(-1) for name, matrix in counts.items()}
    plots.confusions(counts, names, path["confusions"])
    plots.errors_per_class(per_class, names, path["errors_per_class"])
    plots.accuracy_against_parameters(rows, path["accuracy_against_parameters"])
    histories = {name: its.history for name, its in evaluated.items() if its.history}
    if histories:
        plots.learning_curves(histories, path["learning_curves"])
    if len(dataset.validation.labels):
        bins = {}
        for name, row in rows.items():
            logits, best = evaluated[name].test, row["best_temperature"]
            bins[name] = {
                f"at T = 1, ECE {row['ece']:.2%}": metrics.reliability(test.labels, logits),
                f"at T = {best:.2f}, ECE {row['ece_at_best']:.2%}": metrics.reliability(test.labels, logits / best),
            }
        plots.reliability(bins, path["reliability"])
    if not dataset.has_images:
        return
    if len(students) >= 2:
        pair = ((name, classes[name]) for name in students[:2])
        plots.gallery(only_one_right(test, names, *pair), path["gallery"])
    ambiguous = most_ambiguous(teacher.test, test.labels, 6) if teacher else []
    if len(ambiguous):
        panels = [(f"teacher, T = {t}", "teacher", teacher.test, t) for t in (1, 4, 20)]
        panels += [(name, name, evaluated[name].test, 1) for name in students[:3]]
        shown = {title: (name, distill.soft_targets(of[ambiguous], t).numpy()) for title, name, of, t in panels}
        images, labels = test.images[ambiguous], test.labels[ambiguous]
        plots.dark_knowledge(images, labels, shown, names, path["what_the_teacher_knows"])


# ---- the printed report ----------------------------------------------------------------------------------------------


def print_rows(caption, rows, names):
    """Print a table with a row for each of `rows`, {name: metrics}. names: of metrics, in a string."""
    table = []
    for row_name, row in rows.items():
        values = [(row[name], METRICS.get(name, (",", ""))[0]) for name in names.split()]
        table.append([row_name, *("-" if value is None else format(value, form) for value, form in values)])
    terminal.print_table(caption, ["", *(name.replace("_", " ") for name in names.split())], table)


def print_report(rows, comparisons, class_names):
    """Print `metrics.json` as tables, the errors last."""
    cost = "parameters multiply_adds bytes images_per_second microseconds_for_one_image"
    print_rows("cost; speed on this machine, in batches of up to 1,000 images and for one image alone", rows, cost)
    caption = (
        "probabilities on the test images: negative log-likelihood (nll, nats) and expected calibration error (ece), at"
        " T = 1\nand at the best temperature, which has the lowest nll on the validation images; KL to the teacher"
        " (nats), agreement"
    )
    print_rows(caption, rows, "nll ece best_temperature nll_at_best ece_at_best kl_to_teacher agreement")
    if comparisons:
        caption = "pairs: on how many test images which of the two is right; p-value of the exact McNemar test"
        counts = "both_right only_first_right only_second_right both_wrong errors_saved_by_second mcnemar_p"
        print_rows(caption, comparisons, counts)
    per_class = {name: row["errors_per_class"] for name, row in rows.items()}
    if len(class_names) <= 20:
        cells = [[name, *map(str, errors)] for name, errors in per_class.items()]
        terminal.print_table("test errors of each class", ["", *class_names], cells)
    caption = f"errors in {next(iter(rows.values()))['test_examples']:,} test images, 95 % interval of the accuracy"
    print_rows(caption, rows, "test_errors accuracy accuracy_low accuracy_high")


def print_gain(rows, evaluated):
    """Print what distillation did for the student, if student and distilled are there and differ in nothing else."""
    if not {"student", "distilled"} <= rows.keys():
        return
    baseline, distilled = (evaluated[name].settings for name in ("student", "distilled"))
    different = model_files.differing(distilled, baseline)
    if not (baseline and {"temperature", "alpha", "teacher"} <= distilled.keys()):
        print("what distillation did is not known: the files do not say how student and distilled were trained")
    elif different:
        print(f"student and distilled also differ in {', '.join(different)}: python distill.py trains a fair pair")
    else:
        names = {"baseline": "student", "distilled": "distilled", "teacher": "teacher"}
        print(distill.describe_gain({key: rows[name]["test_errors"] for key, name in names.items() if name in rows}))


def print_warnings(evaluated, teacher, train):
    """Print which models were trained on other images than the split `train`, or taught by another teacher."""
    known = files.fingerprint(*train)
    for path, its in evaluated.items():
        if its.settings.get("data", known) != known:
            print(f"{path} was trained on other images than these, perhaps on some of the validation or test images")
        if teacher and its.settings.get("teacher", teacher.weights) != teacher.weights:
            print(f"{path} had another teacher than the one it is compared with: python distill.py trains it anew")


def find_teacher(named, out, train):
    """The paths of the teacher: those named; or else teacher.keras in the folder `out`, if it was trained on the
    split `train`.
    """
    path = out / "teacher.keras"
    if named or not path.exists():
        return named or []
    try:
        trained_on = model_files.load_training(path)[0].get("data")
    except UserError as error:
        trained_on = error
    if trained_on == files.fingerprint(*train):
        return [path]
    print(
        f"no model is compared with {path}, which was not trained on these training examples: --teacher would name one"
    )
    return []


def main():
    nets = distill.OwnTeacher(), inference.TeacherPixels(None), inference.StudentPixels()
    options = terminal.parser(__doc__, terminal.Files(), *nets, terminal.Figures())
    help_text = "models, named before --teacher (default: every .keras in --out)"
    options.add_argument("models", nargs="*", type=Path, metavar="PATH", help=help_text)
    options.add_argument("--min-accuracy", type=fraction, help="exit with status 1 if a model is below it")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    dataset = data.load(arguments.data, arguments.validation)
    print(f"data: {dataset}", flush=True)

    found = find_models(arguments.models, out)
    spelled = {path.resolve(): path for path in found.values()}
    of_teacher = find_teacher(arguments.teacher, out, dataset.train)
    of_teacher = [spelled.get(path.resolve(), path) for path in of_teacher]
    evaluated = {}
    for path in dict.fromkeys([*found.values(), *of_teacher]):
        terminal.progress(f"running {path}")
        of_students = arguments.student_pixels, "--student-pixels"
        named = (arguments.teacher_pixels, "--teacher-pixels") if path in of_teacher else of_students
        evaluated[path] = run_model(path, dataset, *named)
    terminal.clear_progress()
    teacher = mean_of([evaluated[path] for path in of_teacher]) if of_teacher else None
    print_warnings(evaluated, teacher, dataset.train)
    listed = {name: evaluated[path] for name, path in found.items()}
    rows = {name: measure(its, dataset, teacher) for name, its in listed.items()}
    comparisons = {
        f"{first} -> {second}": {"first": first, "second": second}
        | compare(dataset.test.labels, *(listed[name].test.argmax(-1) for name in (first, second)))
        for first, second in itertools.combinations(found, 2)
    }
    about = {"test_sha256": files.fingerprint(*dataset.test), "num_classes": dataset.num_classes}
    units = {name: unit for name, (_, unit) in METRICS.items()}
    files.write_json(out / "metrics.json", {"models": rows, "comparisons": comparisons, "units": units, "data": about})
    terminal.progress("drawing")
    students = [name for name, path in found.items() if path not in of_teacher]
    draw(dataset, listed, rows, students, teacher, out / "plots", arguments.format)
    terminal.clear_progress()
    print(f"saved {out / 'metrics.json'} and figures in {out / 'plots'}\n")

    print_report(rows, comparisons, dataset.names)
    print_gain(rows, listed)
    below = [name for name, row in rows.items() if row["accuracy"] < (arguments.min_accuracy or 0)]
    if below:
        raise UserError(f"{', '.join(below)}: accuracy below --min-accuracy {arguments.min_accuracy:g}")


if __name__ == "__main__":
    terminal.run(main)
