"""Every figure: arrays in, a PNG out."""

from common import replacing

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure  # not pyplot: no window, no global state, quicker to import

# Okabe and Ito's palette, told apart by colour-blind readers; the same model has the same colour everywhere.
COLOURS = {"teacher": "#0072B2", "student": "#E69F00", "distilled": "#009E73"}
OTHERS = ["#CC79A7", "#56B4E9", "#D55E00", "#000000"]


def colour(name, names=()):
    """The colour of a model; one that is not of the three takes the next of the others, by its place in `names`."""
    strangers = [other for other in names if other not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHERS[strangers.index(name) % len(OTHERS)]


def _save(figure, path):
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=120)


def learning_curves(histories, path):
    """Loss and error rates against epochs. histories: {model's name: list of training.Epoch}, the first in front."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, history in histories.items():
        if not history:
            continue
        epochs = [row.epoch for row in history]
        style = {"color": colour(name, histories), "marker": "." if len(history) < 3 else None}
        left.plot(epochs, [row.loss for row in history], label=name, **style)
        right.plot(
            epochs, [100 * (1 - row.training_accuracy) for row in history], ":", label=f"{name}, training", **style
        )
        if not np.isnan(history[-1].validation_accuracy):
            right.plot(
                epochs, [100 * (1 - row.validation_accuracy) for row in history], label=f"{name}, validation", **style
            )
    left.set(xlabel="epoch", ylabel="training loss (nats per image)", yscale="log", title="Loss, each net's own")
    right.set(xlabel="epoch", ylabel="images wrong (%)", yscale="log", title="Errors")
    right.set_ylim(bottom=max(0.05, right.get_ylim()[0]))  # a net that knows its training set by heart leaves the frame
    right.yaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def dark_knowledge(images, labels, probabilities, path):
    """Digits, a row each, and beside each what the teacher makes of it at several temperatures; no figure of no digits.

    images (k, h, w), labels (k,), probabilities: {title: (k, C)}.
    """
    if not len(images):
        return
    figure = Figure(figsize=(11, 1.35 * len(images) + 0.6), layout="constrained")
    table = figure.subplots(len(images), 1 + len(probabilities), squeeze=False)
    for row, (image, label) in enumerate(zip(images, labels)):
        table[row, 0].imshow(image, cmap="gray_r")
        table[row, 0].set(xticks=[], yticks=[], ylabel=f"labelled {label}")
        for axes, (title, values) in zip(table[row, 1:], probabilities.items()):
            classes = np.arange(values.shape[1])
            shades = [to_rgba(COLOURS["teacher"], 1.0 if own else 0.45) for own in classes == label]
            axes.bar(classes, 100 * values[row], color=shades)
            axes.set(ylim=(0, 100), yticks=(0, 50, 100))
            if len(classes) <= 20:
                axes.set_xticks(classes)
            if row == 0:
                axes.set_title(title)
            if row == len(images) - 1:
                axes.set_xlabel("class (its label in full colour)")
            if axes is table[row, 1]:
                axes.set_ylabel("probability (%)")
    figure.suptitle("What the teacher knows: its probabilities for digits that it finds ambiguous")
    _save(figure, path)


def errors_per_class(errors, path):
    """Test errors of each class, a bar for each model. errors: {model's name: (C,) counts}."""
    num_classes = len(next(iter(errors.values())))
    figure = Figure(figsize=(max(8, 0.9 * num_classes), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(errors)
    for place, (name, counts) in enumerate(errors.items()):
        bars = axes.bar(
            np.arange(num_classes) + (place - (len(errors) - 1) / 2) * width,
            counts,
            width,
            color=colour(name, errors),
            label=f"{name}, {counts.sum():,} in all",
        )
        if num_classes * len(errors) <= 40:
            axes.bar_label(bars, fontsize=8)
    axes.set(xlabel="class (its label)", ylabel="test errors (images)", title="Test errors per class")
    if num_classes <= 40:
        axes.set_xticks(np.arange(num_classes))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend()
    _save(figure, path)
