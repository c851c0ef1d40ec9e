"""The figures of the scripts: arrays in, a file out, whose suffix says its format: .png, .svg or .pdf."""

import warnings

from support import files

import numpy as np
from matplotlib import font_manager
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure  # not pyplot: no window, no global state, quicker to import

# Okabe and Ito's palette, which colour-blind readers can tell apart; a model has the same colour in every figure.
COLOURS = {"teacher": "#0072B2", "student": "#E69F00", "distilled": "#009E73"}
OTHERS = ["#CC79A7", "#56B4E9", "#D55E00", "#000000"]


def colour(name, names=()):
    """The colour of a model: its own for the three of COLOURS, and one of OTHERS by its place among the others in
    `names`.
    """
    others = [other for other in names if other not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHERS[others.index(name) % len(OTHERS)]


def label(name):
    """A name as matplotlib draws it letter by letter, without reading what stands between `$` as mathematics."""
    return name.replace("$", r"\$")


def drawable(name):
    """Whether the figures' font has all characters of a name."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return all(font.get_char_index(ord(character)) for character in name)


def _name_classes(axis, names):
    """Name the classes on an axis, matplotlib's, if there are few enough; long names stand slanted."""
    if len(names) <= 20:
        axis.set_ticks(range(len(names)), names)
        if max(map(len, names)) > 2 and axis.axis_name == "x":
            axis.set_tick_params(rotation=60)


def save(figure, path, *with_legend):
    """Save a matplotlib Figure; these of its axes get a grid and a legend."""
    for axes in with_legend:
        axes.grid(alpha=0.3, which="both")
        axes.set_axisbelow(True)
        axes.legend()
    with (
        files.atomic_write(path) as scratch,
        warnings.catch_warnings(action="ignore"),
    ):  # of a model's name in Chinese, say
        figure.savefig(scratch, dpi=120)


def learning_curves(histories, path):
    """Loss and error rates against epochs. histories: {model's name: list of model_files.Epoch}."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, history in histories.items():
        epochs, loss, training, validation, _ = np.array(history).T
        style = {"color": colour(name, histories), "marker": "." if len(history) < 3 else None}
        left.plot(epochs, loss, label=name, **style)
        right.plot(epochs, 100 * (1 - training), ":", label=f"{name}, training", **style)
        if not np.isnan(validation[-1]):
            right.plot(epochs, 100 * (1 - validation), label=f"{name}, validation", **style)
    left.set(xlabel="epoch", ylabel="nats per image", yscale="log", title="Training loss, each net's own")
    right.set(xlabel="epoch", ylabel="images wrong (%)", title="Errors")
    if any(np.max(line.get_ydata()) > 0 for line in right.lines):  # else there are no errors to be seen
        right.set_yscale("log")
    right.set_ylim(bottom=max(0.05, right.get_ylim()[0]))  # training errors near 0 would stretch the axis
    right.yaxis.set_major_formatter("{x:g}")
    save(figure, path, left, right)


def dark_knowledge(images, labels, probabilities, class_names, path):
    """Images, a row each, and beside them the probabilities that models give the classes.

    images (k, h, w[, c]), labels (k,), k >= 1; probabilities: {title: (model's name, (k, C))}.
    """
    names = [name for name, _ in probabilities.values()]
    figure = Figure(figsize=(2 + 2.2 * len(probabilities), 1.35 * len(images) + 0.6), layout="constrained")
    table = figure.subplots(len(images), 1 + len(probabilities), squeeze=False)
    for row, (image, label) in enumerate(zip(images, labels)):
        table[row, 0].imshow(image, cmap="gray_r")
        table[row, 0].set(xticks=[], yticks=[], ylabel=f"labelled {class_names[label]}")
        for axes, (title, (name, values)) in zip(table[row, 1:], probabilities.items()):
            classes = np.arange(values.shape[1])
            shades = [to_rgba(colour(name, names), 1.0 if own else 0.45) for own in classes == label]
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


def errors_per_class(errors, class_names, path):
    """Test errors of each class, a bar for each model. errors: {model's name: (C,) counts}."""
    num_classes = len(next(iter(errors.values())))
    figure = Figure(figsize=(min(max(8, 0.9 * num_classes), 20), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(errors)
    for place, (name, counts) in enumerate(errors.items()):
        places = np.arange(num_classes) + (place - (len(errors) - 1) / 2) * width
        style = {"color": colour(name, errors), "label": f"{name}, {counts.sum():,} in all"}
        bars = axes.bar(places, counts, width, **style)
        if num_classes * len(errors) <= 40:
            axes.bar_label(bars, fontsize=8)
    axes.set(xlabel="class (its label)", ylabel="test errors (images)", title="Test errors per class")
    _name_classes(axes.xaxis, class_names)
    save(figure, path, axes)


def accuracy_against_parameters(rows, path):
    """A point for each model, with its interval. rows: {model's name: its part of metrics.json}."""
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


def confusions(counts, class_names, path):
    """A confusion matrix for each model. counts: {model's name: (C, C), see metrics.confusion_counts}."""
    figure = Figure(figsize=(max(4.5 * len(counts), 5), 4.6), layout="constrained")
    most = max(1, *(matrix.max() for matrix in counts.values()))
    for axes, (name, matrix) in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts.items()):
        picture = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=most)
        axes.set(xlabel="predicted class", ylabel="label", title=f"{name}: {matrix.sum():,} errors")
        axes.title.set_color(colour(name, counts))
        if len(matrix) > 20:
            continue
        _name_classes(axes.xaxis, class_names)
        _name_classes(axes.yaxis, class_names)
        for label, answer in np.argwhere(matrix):
            number = matrix[label, answer]
            axes.text(answer, label, number, ha="center", va="center", color="white" if number > most / 2 else "black")
    figure.colorbar(picture, ax=figure.axes, label="test images", shrink=0.8)
    save(figure, path)


def reliability(bins, path):
    """Accuracy against confidence, a panel for each model; the larger a dot, the more images are in its bin.

    bins: {model's name: {label of a line: what metrics.reliability returns}}; a model's first line is dashed.
    """
    figure = Figure(figsize=(max(4 * len(bins), 5), 4.4), layout="constrained")
    for axes, (name, lines) in zip(figure.subplots(1, len(bins), squeeze=False, sharey=True)[0], bins.items()):
        axes.plot([0, 100], [0, 100], ":", color="grey", label="perfectly calibrated")
        for (label, (images, *means)), style, strength in zip(lines.items(), ("--", "-"), (0.45, 1.0)):
            held = images > 0
            accuracy, confidence = (100 * values[held] for values in means)
            shade = to_rgba(colour(name, bins), strength)
            axes.plot(confidence, accuracy, style, color=shade, label=label)
            axes.scatter(confidence, accuracy, 10 + 15 * np.log10(images[held]), color=shade)
        axes.set(xlabel="confidence (%)", title=name, xlim=(0, 102), ylim=(0, 102))
    figure.axes[0].set_ylabel("test images right (%)")
    save(figure, path, *figure.axes)


def gallery(groups, path):
    """The first images of each group. groups: {title: (images (k, h, w[, c]), k captions)}; k may be 0."""
    columns, lines = 12, 2
    figure = Figure(figsize=(columns, 1.45 * lines * len(groups) + 0.3), layout="constrained")
    for part, (title, (images, captions)) in zip(np.ravel(figure.subfigures(len(groups), 1)), groups.items()):
        shown = min(len(images), columns * lines)
        part.suptitle(f"{title}: {len(images):,} test images" + (f", the first {shown}" if shown < len(images) else ""))
        for place, axes in enumerate(np.ravel(part.subplots(lines, columns))):
            axes.set_axis_off()
            if place < shown:
                axes.imshow(images[place], cmap="gray_r")
                axes.set_title(captions[place], fontsize=9)
    save(figure, path)
