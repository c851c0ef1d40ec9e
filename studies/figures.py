"""The figures of the studies and of the sweep: arrays in, a file out, as in support/plots.py."""

import itertools

from support import plots

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

_short = EngFormatter(places=1, sep="")  # of numbers from 1,000 on: 55.1k, 2.4M


def error_lines(places, lines, path, *, log=False, title="", **labels):
    """Mean and range over seeds of error counts, a line for each name, in one panel; see `error_panels`."""
    error_panels(places, {title: lines}, path, log=log, **labels)


def error_panels(places, panels, path, *, log=False, points=(), **labels):
    """Mean and range over seeds of error counts, a panel for each title.

    places: positions on the logarithmic x axis. panels: {title: {name: (len(places), seeds) errors, or a list of such
    counts}}; a name that begins with one of plots.COLOURS has that colour. log: whether the errors' axis is
    logarithmic too. points: (place, errors) of published results. labels: of matplotlib's Axes.set.
    """
    figure = Figure(figsize=(max(8, 4.6 * len(panels)), 4.6), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, lines) in zip(every, panels.items()):
        styles = zip(itertools.cycle(plots.OTHERS), itertools.cycle("os^Dv"))
        for (name, errors), (shade, marker) in zip(lines.items(), styles):
            shade = plots.COLOURS.get(name.split()[0], shade)
            axes.plot(places, [np.mean(counts) for counts in errors], marker=marker, color=shade, label=name)
            ends = [[end(counts) for counts in errors] for end in (np.min, np.max)]
            axes.fill_between(places, *ends, color=shade, alpha=0.15, linewidth=0)
        if points:
            axes.plot(*zip(*points), "k*", markersize=9, label="published by others")
        axes.set(xscale="log", yscale="log" if log else "linear", title=title, **labels)
        names = [f"{place:g}" if place < 1000 else _short(place) for place in places]
        axes.set_xticks(places, names, fontsize=8 if len(panels) > 1 else None)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.label_outer()
    plots.save(figure, path, *every)


def saved_errors(groups, limits, path, **labels):
    """A point for each pair of nets: errors saved by the teacher against the training error of the net on labels alone.

    groups: {kind of views: [(parameters, training errors, errors saved: mean, their standard error)]}, three at most,
    in per cent. limits: training errors to mark. labels: of matplotlib's Axes.set.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="grey", linewidth=1)
    for limit in limits:
        axes.axvline(limit, color="grey", linewidth=1, linestyle="--")
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    # Where the numbers stand: to the right of their points, to the left, and under their bars.
    beside = ({"xytext": (6, -3)}, {"xytext": (-5, 7), "ha": "right"}, {"xytext": (0, -11), "ha": "center"})
    for (kind, points), shade, marker, where in zip(groups.items(), plots.OTHERS, "os^", beside):
        sizes, training, saved, deviation = map(np.array, zip(*points))
        axes.errorbar(training, saved, deviation, fmt=marker, color=shade, capsize=3, label=kind)
        for size, *place in zip(sizes, training, saved - deviation if marker == "^" else saved):
            axes.annotate(_short(size), place, textcoords="offset points", fontsize=8, color=shade, bbox=box, **where)
    axes.set_xscale("symlog", linthresh=0.01)  # some nets have no training error at all
    most = max(training for points in groups.values() for _, training, *_ in points)
    axes.margins(y=0.1)
    axes.set(xlim=(-0.002, 2 * most + 0.01), **labels)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}%")
    plots.save(figure, path, axes)


def error_bars(groups, path, **labels):
    """Mean and range over seeds of error counts, a bar for each model in each group, from the top down.

    groups: {heading: {model's name: (seeds,) errors}}, the same models in each. labels: "title", and others of
    matplotlib's Axes.set.
    """
    figure = Figure(figsize=(9, 0.75 * len(groups) + 1.2), layout="constrained")
    axes, names = figure.subplots(), list(next(iter(groups.values())))
    for place, name in enumerate(names):
        errors = [np.array(group[name]) for group in groups.values()]
        means = np.array([counts.mean() for counts in errors])
        ranges = [means - [counts.min() for counts in errors], [counts.max() for counts in errors] - means]
        places, height = np.arange(len(groups)) + (place - (len(names) - 1) / 2) * 0.4, 0.38
        bars = axes.barh(places, means, height, xerr=ranges, color=plots.colour(name, names), ecolor="grey", label=name)
        axes.bar_label(bars, fmt="%.0f", padding=4)
    figure.suptitle(labels.pop("title"))  # over the headings too, which may be long
    axes.set(**labels)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.margins(x=0.1)
    axes.invert_yaxis()
    plots.save(figure, path, axes)


def errors_by_seconds(lines, path, *, level, **labels):
    """Error counts against seconds, on a logarithmic axis.

    lines: {name: [(seconds, errors)]}, five at most. level: errors to mark. labels: of matplotlib's Axes.set.
    """
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(level, color="grey", linewidth=1, linestyle="--")
    for (name, points), shade, marker in zip(lines.items(), (*plots.OTHERS, "grey"), "os^Dv", strict=False):
        axes.plot(*zip(*points), marker=marker, color=shade, label=name)
    axes.set(xscale="log", **labels)
    places = [seconds for seconds in (10, 20, 50, 100, 200, 500, 1000, 2000) if axes.get_xlim()[0] <= seconds]
    axes.set_xticks([seconds for seconds in places if seconds <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    plots.save(figure, path, axes)
