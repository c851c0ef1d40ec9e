"""Each figure opens, has the size it is meant to have, and shows something."""

import matplotlib.image
import numpy as np
import pytest

import plots
from training import Epoch

HISTORY = [Epoch(n, 1.0 / n, 1 - 0.5 / n, 1 - 0.6 / n, 0.1) for n in range(1, 9)]


def drawn(path, height, width):
    picture = matplotlib.image.imread(path)[:, :, :3]
    assert picture.shape == (height, width, 3)
    assert 0.01 < np.mean(picture < 0.9) < 0.6  # neither blank nor blotted
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


@pytest.mark.parametrize("history", [[], HISTORY[:1], [row._replace(validation_accuracy=np.nan) for row in HISTORY]])
def test_learning_curves_of_what_is_not_there(tmp_path, history):
    plots.learning_curves({"teacher": HISTORY, "student": history}, tmp_path / "curves.png")
    assert has_colour(drawn(tmp_path / "curves.png", 504, 1200), "teacher")


@pytest.mark.parametrize(("number", "num_classes"), [(6, 10), (1, 3), (2, 60)])
def test_dark_knowledge(tmp_path, number, num_classes):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, 12, 10)).astype(np.uint8)
    probabilities = {f"T = {t}": random.dirichlet(np.ones(num_classes), number) for t in (1, 4, 20)}
    plots.dark_knowledge(images, np.arange(number), probabilities, tmp_path / "dark.png")
    assert has_colour(drawn(tmp_path / "dark.png", round(120 * (1.35 * number + 0.6)), 1320), "teacher")


@pytest.mark.parametrize("num_classes", [3, 10])
def test_errors_per_class(tmp_path, num_classes):
    errors = {name: np.arange(num_classes) + 1 for name in ("teacher", "student", "distilled", "another")}
    plots.errors_per_class(errors, tmp_path / "errors.png")
    picture = drawn(tmp_path / "errors.png", 504, round(120 * max(8, 0.9 * num_classes)))
    assert all(has_colour(picture, name) for name in plots.COLOURS)


def test_a_model_has_one_colour_and_strangers_have_others():
    assert len({*plots.COLOURS.values(), *plots.OTHERS}) == len(plots.COLOURS) + len(plots.OTHERS)
    names = ["another", "distilled", "more"]
    assert plots.colour("distilled", names) == plots.colour("distilled")
    assert len({plots.colour(name, names) for name in names}) == 3
