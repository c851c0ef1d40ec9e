"""Evaluate every model on the test set, and report what the student gained from its teacher.

    python evaluate.py                                  every model in artifacts/   (after teacher.py and distill.py)
    python evaluate.py A.keras B.keras                  these models: any Keras classifiers that take the examples
    python evaluate.py A.keras --teacher T.keras        this model, compared with this teacher

Takes about 15 seconds. Writes metrics.json, and figures to plots/, in artifacts/.
"""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from support import UserError, classifier, files, metrics, model_files, plots, teacher_logits, terminal
from support.recipe import fraction

import numpy as np

import data
import distill

ORDER = ["teacher", "student", "distilled"]  # listing order; other names come last
FIGURES = ["accuracy_against_parameters", "confusions", "errors_per_class", "gallery", "learning_curves", "reliability"]
FIGURES += ["what_the_teacher_knows"]
METRICS = {  # of metrics.json: the format in which each is printed, and its unit
    "parameters": (",", ""),
    "multiply_adds": (",", "per image, in dense and convolutional layers"),
    "bytes": (",", "of the file"),
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


Row = dict[str, Any]  # the numbers of one model, or of one comparison, in metrics.json


class Evaluated(NamedTuple):
    """The contents of one model file, and the model's logits (n, C) float32 of two splits."""

    cost: dict[str, Any]  # plain values
    settings: dict[str, Any]  # see model_files.save
    history: list[model_files.Epoch]
    weights: str  # their fingerprint
    test: np.ndarray
    validation: np.ndarray


def find_models(named: list[Path], out: Path) -> dict[str, Path]:
    """{name: path} of the models named, or of all in the folder `out`."""
    paths = named or sorted(path for path in out.glob("*.keras") if not path.name.startswith("."))
    if not paths:
        first = "run `python teacher.py` and `python distill.py`, with the same --data and --out, first"
        raise UserError(f"no models in {out}: {first}")
    models = name_models(paths)
    known_names = [name for name in ORDER if name in models]
    other_names = [name for name in models if name not in ORDER]
    return {name: models[name] for name in known_names + other_names}


def name_models(paths: list[Path]) -> dict[str, Path]:
    """{name: path} of model files, each once, in order. A name is the file's stem, or its path where stems repeat."""
    first_spelling = {}
    for path in paths:
        first_spelling.setdefault(path.resolve(), path)
    paths = list(first_spelling.values())
    stems = [path.stem for path in paths]
    return {path.stem if stems.count(path.stem) == 1 else str(path): path for path in paths}


def run_model(path: Path, dataset: data.Dataset, pixels: float | None, option: str) -> Evaluated:
    """Load the model file at `path` and run it on the test and validation images.

    pixels: see classifier.feeder; None: as the file says, or else 1. Prints a warning that names `option`, which sets
    pixels, if another value is much better; and one if the classes are in another order.
    """
    model = model_files.load(path, *dataset.form)
    settings, history = model_files.load_training(path)
    pixels = model_files.pixels(settings, pixels)
    sample = dataset.train.sample()
    classifier.warn_of_pixels(path, model, sample, pixels, option)
    predict = classifier.predictor(model, pixels=pixels)
    if problem := classifier.order_warning(predict(sample.images).argmax(-1), sample.labels):
        print(f"warning: {path}: {problem}", flush=True)
    logits = predict(np.concatenate([dataset.test.images, dataset.validation.images]))
    if not np.isfinite(logits).all():
        raise UserError(f"{path}: the model's outputs are not finite: train it again with a lower --learning-rate")
    cost = {
        "parameters": model.count_params(),
        "multiply_adds": classifier.multiply_adds(model, dataset.image_shape),
        "bytes": path.stat().st_size,
    }
    test, validation = np.split(logits, [len(dataset.test.labels)])
    return Evaluated(cost, settings, history, model_files.weights_sha256(model), test, validation)


def mean_of(several: list[Evaluated]) -> Evaluated:
    """The Evaluated of a teacher of one or more models: ensemble logits, the log of the mean probability."""
    if len(several) == 1:
        return several[0]
    test = classifier.mean_logits([model.test for model in several]).numpy()
    validation = classifier.mean_logits([model.validation for model in several]).numpy()
    return Evaluated({}, {}, [], "+".join(sorted(model.weights for model in several)), test, validation)


def of_stored(stored: teacher_logits.StoredTeacher | None, dataset: data.Dataset) -> Evaluated | None:
    """The Evaluated of stored logits; None if there are none of the test images, which is printed."""
    if not stored:
        return None
    test = stored.on_split(dataset, "test")
    if test is None:
        print("no model is compared with the teacher: its file has no logits of the test images, `test`")
        return None
    return Evaluated({}, {}, [], stored.sha256, test, stored.on_split(dataset, "validation"))


def measure(evaluated: Evaluated, dataset: data.Dataset, teacher: Evaluated | None) -> Row:
    """The METRICS of a model, and its test errors of each class, as plain values.

    A metric that needs a teacher or validation images is None if there are none.
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


def compare(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Row:
    """On how many images which of two models is right, as plain values. first, second: predicted classes (n,)."""
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


def most_ambiguous(logits: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of up to `count` images, each of another class, that a model classifies correctly by the smallest margin.

    The margin is that between the two highest probabilities. logits: (n, C); labels: (n,).
    """
    top_two = np.sort(distill.soft_targets(logits, 1.0), axis=-1)[:, -2:]
    margin = np.where(logits.argmax(-1) == labels, top_two[:, 1] - top_two[:, 0], np.inf)
    order = np.argsort(margin)[: np.isfinite(margin).sum()]
    _, first_of_class = np.unique(labels[order], return_index=True)
    return order[np.sort(first_of_class)[:count]]


def only_one_right(
    split: data.Split, names: list[str], first: tuple[str, np.ndarray], second: tuple[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """{title: (images, captions)} for plots.gallery: the images on which only one of two models is right.

    names: of the classes; first, second: (model's name, predicted classes (n,)).
    """
    groups = {}
    for (wrong_name, wrong_classes), (right_name, right_classes) in ((first, second), (second, first)):
        chosen = np.flatnonzero((wrong_classes != split.labels) & (right_classes == split.labels))
        images, labels = split.take(chosen)
        captions = [f"{names[label]}, not {names[guess]}" for label, guess in zip(labels, wrong_classes[chosen])]
        groups[f"{wrong_name} wrong, {right_name} right"] = (images, captions)
    return groups


def draw(
    dataset: data.Dataset,
    evaluated: dict[str, Evaluated],
    rows: dict[str, Row],
    students: list[str],
    teacher: Evaluated | None,
    folder: Path,
    suffix: str,
) -> None:
    """Draw those of FIGURES that these models allow; delete the others, which would be of an earlier evaluation.

    evaluated, rows: {model's name: Evaluated, metrics}. students: the names of all models but the teacher.
    """
    for name, file_format in itertools.product(FIGURES, terminal.FORMATS):
        (folder / f"{name}.{file_format}").unlink(missing_ok=True)
    class_names = [plots.label(name) if plots.drawable(name) else str(i) for i, name in enumerate(dataset.names)]
    if not all(map(plots.drawable, dataset.names)):
        terminal.say("the figures' font lacks characters of some class names: there, these have their numbers")
    evaluated = {plots.label(name): model for name, model in evaluated.items()}
    rows = {plots.label(name): row for name, row in rows.items()}
    students = [plots.label(name) for name in students]
    test, paths = dataset.test, {name: folder / f"{name}.{suffix}" for name in FIGURES}
    predicted = {name: model.test.argmax(-1) for name, model in evaluated.items()}
    counts = {
        name: metrics.confusion_counts(test.labels, classes, dataset.num_classes) for name, classes in predicted.items()
    }
    per_class = {name: matrix.sum(-1) for name, matrix in counts.items()}
    plots.confusions(counts, class_names, paths["confusions"])
    plots.errors_per_class(per_class, class_names, paths["errors_per_class"])
    plots.accuracy_against_parameters(rows, paths["accuracy_against_parameters"])
    histories = {name: model.history for name, model in evaluated.items() if model.history}
    if histories:
        plots.learning_curves(histories, paths["learning_curves"])
    if len(dataset.validation.labels):
        bins = {}
        for name, row in rows.items():
            logits, best = evaluated[name].test, row["best_temperature"]
            bins[name] = {
                f"at T = 1, ECE {row['ece']:.2%}": metrics.reliability(test.labels, logits),
                f"at T = {best:.2f}, ECE {row['ece_at_best']:.2%}": metrics.reliability(test.labels, logits / best),
            }
        plots.reliability(bins, paths["reliability"])
    if not dataset.has_images:
        return
    if len(students) >= 2:
        first, second = students[:2]
        groups = only_one_right(test, class_names, (first, predicted[first]), (second, predicted[second]))
        plots.gallery(groups, paths["gallery"])
    ambiguous = most_ambiguous(teacher.test, test.labels, 6) if teacher else []
    if len(ambiguous):
        panels = [(f"teacher, T = {t}", "teacher", teacher.test, t) for t in (1, 4, 20)]
        panels += [(name, name, evaluated[name].test, 1) for name in students[:3]]
        probabilities = {}
        for title, name, logits, temperature in panels:
            probabilities[title] = (name, distill.soft_targets(logits[ambiguous], temperature).numpy())
        images, labels = test.take(ambiguous)
        plots.dark_knowledge(images, labels, probabilities, class_names, paths["what_the_teacher_knows"])


# ---- the printed report ----------------------------------------------------------------------------------------------


def print_rows(caption: str, rows: dict[str, Row], names: str) -> None:
    """Print a table with a line for each of `rows`, {name: metrics}. names: of metrics, separated by spaces."""
    table = []
    for row_name, row in rows.items():
        cells = [row_name]
        for name in names.split():
            number_format = METRICS.get(name, (",", ""))[0]
            cells.append("-" if row[name] is None else format(row[name], number_format))
        table.append(cells)
    terminal.print_table(caption, ["", *(name.replace("_", " ") for name in names.split())], table)


def print_report(rows: dict[str, Row], comparisons: dict[str, Row], class_names: list[str]) -> None:
    """Print `metrics.json` as tables, the errors last."""
    print_rows("cost", rows, "parameters multiply_adds bytes")
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
    if len(class_names) <= 20:
        table = [[name, *map(str, row["errors_per_class"])] for name, row in rows.items()]
        terminal.print_table("test errors of each class", ["", *class_names], table)
    num_images = next(iter(rows.values()))["test_examples"]
    caption = f"errors in {num_images:,} test images, 95 % interval of the accuracy"
    print_rows(caption, rows, "test_errors accuracy accuracy_low accuracy_high")


def is_pair(evaluated: dict[str, Evaluated]) -> bool | None:
    """Whether student and distilled are the two nets of one run of distill.py; None if one of them is not there."""
    if not {"student", "distilled"} <= evaluated.keys():
        return None
    return evaluated["distilled"].settings.get("baseline") == evaluated["student"].weights


def print_gain(rows: dict[str, Row], evaluated: dict[str, Evaluated]) -> None:
    """Print what distillation did, if student and distilled are a pair; else that they are none."""
    pair = is_pair(evaluated)
    if pair is None:
        return
    if not pair:
        problem = "student and distilled are no pair: distilled was not trained beside this student"
        print(f"{problem}, so their difference is not the teacher's doing alone. python distill.py trains a fair pair")
        return
    names = {"baseline": "student", "distilled": "distilled"}
    if "teacher" in rows and evaluated["teacher"].weights == evaluated["distilled"].settings["teacher"]:
        names |= {"teacher": "teacher"}
    print(distill.describe_gain({key: rows[name]["test_errors"] for key, name in names.items()}))


def print_warnings(evaluated: dict[Path, Evaluated], teacher: Evaluated | None, train: data.Split) -> None:
    """Print which models were trained on other images than the split `train`, or taught by another teacher."""
    fingerprint = files.sha256(*train)
    for path, model in evaluated.items():
        if model.settings.get("data", fingerprint) != fingerprint:
            print(f"{path} was trained on other images than these, perhaps on some of the validation or test images")
        if teacher and model.settings.get("teacher", teacher.weights) != teacher.weights:
            print(f"{path} had another teacher than the one it is compared with: python distill.py trains it again")


def find_teacher(named: list[Path] | None, out: Path, train: data.Split) -> list[Path]:
    """The paths of the teacher's models: those named, or else teacher.keras in `out` if it was trained on `train`."""
    path = out / "teacher.keras"
    if named or not path.exists():
        return named or []
    try:
        trained_on = model_files.load_training(path)[0].get("data")
    except UserError:  # a damaged file
        trained_on = None
    if trained_on == files.sha256(*train):
        return [path]
    problem = f"no model is compared with {path}, which was not trained on these training examples"
    print(f"{problem}: name a teacher with --teacher")
    return []


def main() -> None:
    options = terminal.parser(__doc__, "data validation out teacher teacher_pixels student_pixels format")
    help_text = "the models; name them before --teacher (default: every .keras in --out)"
    options.add_argument("models", nargs="*", type=Path, metavar="PATH", help=help_text)
    options.add_argument("--min-accuracy", type=fraction, help="exit with status 1 if a model's accuracy is below this")
    arguments = options.parse_args()
    terminal.print_settings(arguments)
    out = files.output_folder(arguments.out)
    dataset = data.load_for(arguments)

    models = find_models(arguments.models, out)
    spelling = {path.resolve(): path for path in models.values()}  # --teacher may spell one of them in another way
    stored = teacher_logits.load_stored(arguments.teacher or [], dataset)
    teacher_paths = [] if stored else find_teacher(arguments.teacher, out, dataset.train)
    teacher_paths = [spelling.get(path.resolve(), path) for path in teacher_paths]
    by_path = {}
    for path in dict.fromkeys([*models.values(), *teacher_paths]):
        terminal.progress(f"running {path}")
        if path in teacher_paths:
            by_path[path] = run_model(path, dataset, arguments.teacher_pixels, "--teacher-pixels")
        else:
            by_path[path] = run_model(path, dataset, arguments.student_pixels, "--student-pixels")
    terminal.clear_progress()
    teacher = mean_of([by_path[path] for path in teacher_paths]) if teacher_paths else of_stored(stored, dataset)
    evaluated = {name: by_path[path] for name, path in models.items()}
    rows = {name: measure(model, dataset, teacher) for name, model in evaluated.items()}
    comparisons = {}
    for first, second in itertools.combinations(models, 2):
        classes = evaluated[first].test.argmax(-1), evaluated[second].test.argmax(-1)
        counts = compare(dataset.test.labels, *classes)
        comparisons[f"{first} -> {second}"] = {"first": first, "second": second} | counts
    test_set = {"test_sha256": files.sha256(*dataset.test), "num_classes": dataset.num_classes}
    units = {name: unit for name, (_, unit) in METRICS.items()}
    report = {"models": rows, "comparisons": comparisons, "units": units, "data": test_set}
    report["student_and_distilled_are_a_pair"] = is_pair(evaluated)  # if not, their difference is not the teacher's
    files.write_json(out / "metrics.json", report)
    terminal.progress("drawing")
    students = [name for name, path in models.items() if path not in teacher_paths]
    draw(dataset, evaluated, rows, students, teacher, out / "plots", arguments.format)
    terminal.clear_progress()
    print(f"saved {out / 'metrics.json'} and figures in {out / 'plots'}\n")

    print_report(rows, comparisons, dataset.names)
    print_warnings(by_path, teacher, dataset.train)
    print_gain(rows, evaluated)
    below = [name for name, row in rows.items() if row["accuracy"] < (arguments.min_accuracy or 0)]
    if below:
        raise UserError(f"{', '.join(below)}: accuracy below --min-accuracy {arguments.min_accuracy:g}")


if __name__ == "__main__":
    terminal.run(main)
