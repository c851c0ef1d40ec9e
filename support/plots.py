"""The figures of the scripts: arrays in, a file out, whose suffix says its format: .png, .svg or .pdf."""

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from support import files
from support.model_files import Epoch

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure  # not pyplot: no window, no global state, quicker to import

# Okabe and Ito's palette, which colour-blind readers can tell apart; a model has the same colour in every figure.
COLOURS = {"teacher": "#0072B2", "student": "#E69F00", "distilled": "#009E73"}
OTHERS = ["#CC79A7", "#56B4E9", "#D55E00", "#000000"]


def colour(name: str, names: Collection[str] = ()) -> str:
    """The colour of a model: from COLOURS, or from OTHERS by its place among those of `names` not in COLOURS."""
    if name in COLOURS:
        return COLOURS[name]
    other_models = [model for model in names if model not in COLOURS]
    return OTHERS[other_models.index(name) % len(OTHERS)]


def label(name: str) -> str:
    """A name as matplotlib draws it letter by letter, without taking what stands between `$` for mathematics."""
    return name.replace("$", r"\$")


def drawable(name: str) -> bool:
    """Whether the figures' font has all characters of a name."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return all(font.get_char_index(ord(character)) for character in name)


def _name_classes(axis: Axis, names: list[str]) -> None:
    """Name up to 20 classes on an axis, slanted if the names are long; more classes keep their numbers."""
    if len(names) <= 20:
        axis.set_ticks(range(len(names)), names)
        if max(map(len, names)) > 2 and axis.axis_name == "x":
            axis.set_tick_params(rotation=60)


def save(figure: Figure, path: Path, *with_legend: Axes) -> None:
    """Save a figure; the axes in `with_legend` get a grid and a legend."""
    for axes in with_legend:
        axes.grid(alpha=0.3, which="both")
        axes.set_axisbelow(True)
        axes.legend()
    # The font may lack characters of a model's name, of which matplotlib warns.
    with files.atomic_write(path) as scratch, warnings.catch_warnings(action="ignore"):
        figure.savefig(scratch, dpi=120)


def learning_curves(histories: dict[str, list[Epoch]], path: Path) -> None:
    """Loss and error rates against epochs. histories: by the model's name."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, history in histories.items():
        epochs, loss, training, validation, _ = np.array(history).T
        style = {"color": colour(name, histories), "marker": "." if len(history) < 3 else None}
        left.plot(epochs, loss, label=name, **style)
        right.plot(epochs, 100 * (1 - training), ":", label=f"{name}, training", **style)
        if not np.isnan(validation[-1]):
            right.plot(epochs, 100 * (1 - validation), label=f"{name}, validation", **style)
    left.set(
        xlabel="epoch",
        ylabel="nats per image",
        yscale="log",
        title="Each net's own loss, on the images that it trained on",
    )
    right.set(xlabel="epoch", ylabel="images wrong (%)", title="Errors")
    if any(np.max(line.get_ydata()) > 0 for line in right.lines):  # a logarithmic axis shows no zeros
        right.set_yscale("log")
    right.set_ylim(bottom=max(0.05, right.get_ylim()[0]))  # training errors near 0 would stretch the axis
    right.yaxis.set_major_formatter("{x:g}")
    save(figure, path, left, right)


def dark_knowledge(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: dict[str, tuple[str, np.ndarray]],
    class_names: list[str],
    path: Path,
) -> None:
    """Images, one in each row, and beside each the probabilities that models give its classes.

    images (k, h, w[, c]), labels (k,), k >= 1; probabilities: {title of a column: (model's name, (k, C))}.
    """
    names = [name for name, _ in probabilities.values()]
    figure = Figure(figsize=(2 + 2.2 * len(probabilities), 1.35 * len(images) + 0.6), layout="constrained")
    table = figure.subplots(len(images), 1 + len(probabilities), squeeze=False)
    for row, (image, true_class) in enumerate(zip(images, labels)):
        table[row, 0].imshow(image, cmap="gray_r")
        table[row, 0].set(xticks=[], yticks=[], ylabel=f"labelled {class_names[true_class]}")
        for axes, (title, (name, values)) in zip(table[row, 1:], probabilities.items()):
            classes = np.arange(values.shape[1])
            shades = [to_rgba(colour(name, names), 1.0 if is_true else 0.45) for is_true in classes == true_class]
            axes.bar(classes, 100 * values[row], color=shades)
            axes.set(ylim=(0, 100), yticks=(0, 50, 100))
            _name_classes(axes.xaxis, class_names)
            axes.tick_params(axis="x", labelsize=8)
            if row == 0:
                axes.set_title(title)
            if row == len(images) - 1:
                axes.set_xlabel("class (label: full colour)")
            if axes is table[row, 1]:
                axes.set_ylabel("probability (%)")
    figure.suptitle("Test images that the teacher finds ambiguous: its soft targets, and its students' probabilities")
    save(figure, path)


def errors_per_class(errors: dict[str, np.ndarray], class_names: list[str], path: Path) -> None:
    """Test errors of each class, a bar for each model. errors: {model's name: (C,) counts}."""
    num_classes = len(next(iter(errors.values())))
    figure = Figure(figsize=(min(max(8, 0.9 * num_classes), 20), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(errors)
    for place, (name, counts) in enumerate(errors.items()):
        positions = np.arange(num_classes) + (place - (len(errors) - 1) / 2) * width
        style = {"color": colour(name, errors), "label": f"{name}, {counts.sum():,} in all"}
        bars = axes.bar(positions, counts, width, **style)
        if num_classes * len(errors) <= 40:
            axes.bar_label(bars, fontsize=8)
    axes.set(xlabel="class (its label)", ylabel="test errors (images)", title="Test errors per class")
    _name_classes(axes.xaxis, class_names)
    save(figure, path, axes)


def accuracy_against_parameters(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """A point for each model, with its confidence interval. rows: {model's name: its metrics, as in metrics.json}."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, row in rows.items():
        accuracy, low, high = (100 * row[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
        style = {"color": colour(name, rows), "label": f"{name}, {row['parameters']:,}: {accuracy:.2f} %"}
        interval = [[accuracy - low], [high - accuracy]]
        axes.errorbar(row["parameters"], accuracy, interval, fmt="o", capsize=4, **style)
    title = "Accuracy, its 95 % interval, and size"
    axes.set(xscale="log", xlabel="parameters", ylabel="test accuracy (%)", title=title)
    sizes = [row["parameters"] for row in rows.values()]
    axes.set_xlim(min(sizes) / 3, max(sizes) * 3)
    save(figure, path, axes)


def confusions(counts: dict[str, np.ndarray], class_names: list[str], path: Path) -> None:
    """A confusion matrix for each model. counts: {model's name: (C, C), see metrics.confusion_counts}."""
    figure = Figure(figsize=(max(4.5 * len(counts), 5), 4.6), layout="constrained")
    largest = max(1, *(matrix.max() for matrix in counts.values()))
    for axes, (name, matrix) in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts.items()):
        picture = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=largest)
        axes.set(xlabel="predicted class", ylabel="label", title=f"{name}: {matrix.sum():,} errors")
        axes.title.set_color(colour(name, counts))
        if len(matrix) > 20:
            continue
        _name_classes(axes.xaxis, class_names)
        _name_classes(axes.yaxis, class_names)
        for row, column in np.argwhere(matrix):
            count = matrix[row, column]
            axes.text(column, row, count, ha="center", va="center", color="white" if count > largest / 2 else "black")
    figure.colorbar(picture, ax=figure.axes, label="test images", shrink=0.8)
    save(figure, path)


def reliability(bins: dict[str, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]], path: Path) -> None:
    """Accuracy against confidence, a panel for each model; the larger a dot, the more images are in its bin.

    bins: {model's name: {label of a line: what metrics.reliability returns}}, two lines for each model; the first is
    dashed.
    """
    figure = Figure(figsize=(max(4 * len(bins), 5), 4.4), layout="constrained")
    for axes, (name, lines) in zip(figure.subplots(1, len(bins), squeeze=False, sharey=True)[0], bins.items()):
        axes.plot([0, 100], [0, 100], ":", color="grey", label="perfectly calibrated")
        for (line_label, line), style, opacity in zip(lines.items(), ("--", "-"), (0.45, 1.0)):
            num_images, accuracy, confidence = line
            filled = num_images > 0
            x, y = 100 * confidence[filled], 100 * accuracy[filled]
            shade = to_rgba(colour(name, bins), opacity)
            axes.plot(x, y, style, color=shade, label=line_label)
            axes.scatter(x, y, 10 + 15 * np.log10(num_images[filled]), color=shade)
        axes.set(xlabel="confidence (%)", title=name, xlim=(0, 102), ylim=(0, 102))
    figure.axes[0].set_ylabel("test images right (%)")
    save(figure, path, *figure.axes)


def gallery(groups: dict[str, tuple[np.ndarray, list[str]]], path: Path) -> None:
    """The first images of each group. groups: {title: (images (k, h, w[, c]), k captions)}; k may be 0."""
    columns, rows = 12, 2
    figure = Figure(figsize=(columns, 1.45 * rows * len(groups) + 0.3), layout="constrained")
    for panel, (title, (images, captions)) in zip(np.ravel(figure.subfigures(len(groups), 1)), groups.items()):
        num_shown = min(len(images), columns * rows)
        selection = f", the first {num_shown}" if num_shown < len(images) else ""
        panel.suptitle(f"{title}: {len(images):,} test images{selection}")
        for index, axes in enumerate(np.ravel(panel.subplots(rows, columns))):
            axes.set_axis_off()
            if index < num_shown:
                axes.imshow(images[index], cmap="gray_r")
                axes.set_title(captions[index], fontsize=9)
    save(figure, path)
