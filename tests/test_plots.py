"""Each figure opens, has the size it is meant to have, and shows something."""

from support import plots
from support.model_files import Epoch

import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest

from studies import figures

HISTORY = [Epoch(n, 1.0 / n, 1 - 0.5 / n, 1 - 0.6 / n, 0.1) for n in range(1, 9)]


def drawn(path, height, width, least=0.01):
    picture = matplotlib.image.imread(path)[:, :, :3]
    assert picture.shape == (height, width, 3)
    assert least < np.mean(picture < 0.9) < 0.6  # neither blank nor blotted
    return picture


def has_colour(picture, name):
    wanted = np.array([int(plots.COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return (np.abs(picture - wanted) < 0.02).all(-1).any()


def test_learning_curves(tmp_path):
    plots.learning_curves({"student": HISTORY, "distilled": HISTORY[:4]}, tmp_path / "curves.png")
    picture = drawn(tmp_path / "curves.png", 504, 1200)
    assert has_colour(picture, "student")
    assert has_colour(picture, "distilled")
    assert not has_colour(picture, "teacher")


@pytest.mark.parametrize("history", [HISTORY[:1], [row._replace(validation_accuracy=np.nan) for row in HISTORY]])
def test_learning_curves_of_one_epoch_or_no_validation(tmp_path, history):
    plots.learning_curves({"teacher": HISTORY, "student": history}, tmp_path / "curves.png")
    assert has_colour(drawn(tmp_path / "curves.png", 504, 1200), "teacher")


@pytest.mark.parametrize(("number", "num_classes"), [(6, 10), (1, 3), (2, 60)])
def test_dark_knowledge(tmp_path, number, num_classes):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, 12, 10)).astype(np.uint8)
    says = [("T = 1", "teacher"), ("T = 4", "teacher"), ("student", "student")]
    probabilities = {title: (name, random.dirichlet(np.ones(num_classes), number)) for title, name in says}
    names = [str(label) for label in range(num_classes)]
    plots.dark_knowledge(images, np.arange(number), probabilities, names, tmp_path / "dark.png")
    picture = drawn(tmp_path / "dark.png", round(120 * (1.35 * number + 0.6)), round(120 * 8.6))
    assert has_colour(picture, "teacher")
    assert has_colour(picture, "student")


@pytest.mark.parametrize("num_classes", [3, 10])
def test_errors_per_class(tmp_path, num_classes):
    errors = {name: np.arange(num_classes) + 1 for name in ("teacher", "student", "distilled", "another")}
    plots.errors_per_class(errors, [f"class {label}" for label in range(num_classes)], tmp_path / "errors.png")
    picture = drawn(tmp_path / "errors.png", 504, round(120 * max(8, 0.9 * num_classes)))
    assert all(has_colour(picture, name) for name in plots.COLOURS)


def test_a_model_has_one_colour_and_others_have_others():
    assert len({*plots.COLOURS.values(), *plots.OTHERS}) == len(plots.COLOURS) + len(plots.OTHERS)
    names = ["another", "distilled", "more"]
    assert plots.colour("distilled", names) == plots.colour("distilled")
    assert len({plots.colour(name, names) for name in names}) == 3


ROWS = {
    name: {"parameters": parameters, "accuracy": 0.98, "accuracy_low": 0.97, "accuracy_high": 0.985}
    for name, parameters in [("teacher", 2_000_000), ("student", 50_000), ("another", 1_000)]
}
MATRIX = np.array([[0, 3, 1], [2, 0, 0], [0, 5, 0]])


def test_accuracy_against_parameters(tmp_path):
    plots.accuracy_against_parameters(ROWS, tmp_path / "size.png")
    picture = drawn(tmp_path / "size.png", 504, 960)
    assert has_colour(picture, "teacher")
    assert has_colour(picture, "student")


@pytest.mark.parametrize("matrix", [MATRIX, 0 * MATRIX, np.ones((30, 30), int) - np.eye(30, dtype=int)])
def test_confusions(tmp_path, matrix):
    names = [f"class {label}" for label in range(len(matrix))]
    plots.confusions({"teacher": matrix, "student": matrix // 2}, names, tmp_path / "confusions.png")
    drawn(tmp_path / "confusions.png", 552, 1080)


def test_reliability(tmp_path):
    images = np.array([0, 2, 98])
    bins = (images, np.array([np.nan, 0.5, 0.99]), np.array([np.nan, 0.6, 0.98]))
    lines = {"before": bins, "after": bins}
    plots.reliability({"student": lines, "distilled": lines}, tmp_path / "reliability.png")
    picture = drawn(tmp_path / "reliability.png", 528, 960)
    assert has_colour(picture, "student")
    assert has_colour(picture, "distilled")


@pytest.mark.parametrize("number", [0, 1, 30])
def test_gallery(tmp_path, number):
    images = np.random.default_rng(0).integers(0, 256, (number, 12, 10)).astype(np.uint8)
    groups = {"one": (images, ["7, not 1"] * number), "other": (images[:3], ["1, not 7"] * 3)}
    plots.gallery(groups, tmp_path / "gallery.png")
    drawn(tmp_path / "gallery.png", round(120 * 6.1), 1440, least=0.001 * (1 + number))


@pytest.mark.parametrize("log", [False, True])
def test_error_lines(tmp_path, log):
    errors = {alpha: np.random.default_rng(0).integers(60, 900, (4, 3)) for alpha in ("one", "other")}
    figures.error_lines([1, 2, 4, 8], errors, tmp_path / "lines.png", log=log, xlabel="temperature", ylabel="errors")
    drawn(tmp_path / "lines.png", 552, 960)


def test_errors_by_seconds_are_on_an_axis_that_has_them_all(tmp_path):
    lines = {"ours": [(12.0, 110.0), (70.0, 95.0)], "others'": [(300.0, 110.0), (900.0, 99.0)]}
    figures.errors_by_seconds(lines, tmp_path / "seconds.png", level=100, xlabel="seconds", ylabel="errors")
    picture = drawn(tmp_path / "seconds.png", 552, 960, least=0.001)
    assert not np.array_equal(picture[:, 480:], picture[:, :480])


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_tells_the_kind(tmp_path, suffix, start):
    plots.accuracy_against_parameters(ROWS, tmp_path / f"size.{suffix}")
    assert (tmp_path / f"size.{suffix}").read_bytes().startswith(start)


def test_a_name_with_dollars_is_drawn_letter_by_letter():
    text = matplotlib.figure.Figure().text(0, 0, plots.label("US$ or A$"))
    assert text._preprocess_math(text.get_text()) == ("US$ or A$", False)
    assert plots.drawable("Straße") and not plots.drawable("\u4e2d")


def test_many_classes_do_not_make_a_figure_that_nobody_can_open(tmp_path):
    plots.errors_per_class({"net": np.ones(650, int)}, [*map(str, range(650))], tmp_path / "many.png")
    assert matplotlib.image.imread(tmp_path / "many.png").shape[1] <= 2400
