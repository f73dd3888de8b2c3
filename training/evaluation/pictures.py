"""The results as pictures: SVG for pages, PNG where SVG is not shown, with the same bytes every time."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.drawing import (
    AMBER,
    BLUE,
    DASHED,
    GREEN,
    INK,
    MUTED,
    PAPER,
    PURPLE,
    RED,
    canvas,
    diagonal,
    in_percent,
    interval,
    name_rows,
    write_picture,
)
from handler.description import Bands

LINES = (BLUE, RED, GREEN, PURPLE, AMBER, INK, MUTED, "#56b4e9")
SHADES = LinearSegmentedColormap.from_list("share", [PAPER, "#7fb8d8", BLUE])
MOST_IN_A_ROW = 4
FEWEST_TEXTS = 20  # of a bar: the interval of fewer would stretch the axis for all
LONG_WORDS = 24  # characters of which three no longer stand side by side
MANY_LABELS = 12  # beyond, counts no longer fit into the cells of a confusion matrix


def confusion(folder: Path, name: str, labels: Sequence[str], counts: Sequence[Any]) -> None:
    """Confusion matrix: counts [true][given], coloured by their share of the true label; for independent
    labels, one small matrix each."""
    table = np.array(counts)
    if table.ndim == 2:
        size = min(6.4, 2.6 + 0.55 * len(labels))
        with canvas(size) as (figure, (axes,)):
            _matrix(axes, table, labels, "predicted label", "true label")
            write_picture(folder, name, figure)
        return
    columns = min(MOST_IN_A_ROW, len(labels))
    rows = ceil(len(labels) / columns)
    with canvas(2.1 * rows, rows, columns) as (figure, all_axes):
        for place, axes in enumerate(all_axes):
            if place >= len(labels):
                axes.set_visible(False)
                continue
            _matrix(axes, table[place], ("no", "yes"), "predicted", "true" if place % columns == 0 else "")
            axes.set_title(labels[place], color=INK)
        write_picture(folder, name, figure)


def _matrix(axes: Axes, table: np.ndarray, names: Sequence[str], across: str, down: str) -> None:
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    axes.grid(visible=False)
    places = range(len(names))
    if len(names) <= 4:
        axes.set_xticks(places, names)
    else:
        axes.set_xticks(places, names, rotation=45, ha="right")
    axes.set_yticks(places, names)
    axes.tick_params(labelcolor=INK)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.spines[:].set_visible(False)
    if len(names) > MANY_LABELS:
        return
    for row, column in np.ndindex(table.shape):
        words = f"{table[row, column]:,}"
        if len(names) <= 6:
            words += f"\n{shares[row, column]:.0%}"
        colour = PAPER if shares[row, column] > 0.6 else INK
        axes.text(column, row, words, ha="center", va="center", color=colour)


def precision_recall(folder: Path, name: str, curves: Sequence[Mapping[str, Any]]) -> None:
    """Precision against recall over all thresholds; the dot marks the threshold in use, the dashed line the
    precision of guessing."""
    with canvas(4.2) as (figure, (axes,)):
        for place, curve in enumerate(curves):
            colour = LINES[place % len(LINES)]
            words = f"{curve['label']}, AP {curve['average_precision']:.3f}"
            axes.plot(
                curve["recall"],
                curve["precision"],
                color=colour,
                linewidth=1.6,
                label=words,
                drawstyle="steps-post",
            )
            if curve["at_precision"] is not None:
                axes.plot(
                    curve["at_recall"],
                    curve["at_precision"],
                    "o",
                    color=colour,
                    markeredgecolor=PAPER,
                    markersize=9,
                )
            if len(curves) == 1:
                axes.axhline(curve["rate"], color=MUTED, linewidth=1, linestyle=DASHED)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        _legend(figure, axes)
        write_picture(folder, name, figure)


def reliability(folder: Path, name: str, points: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Top: how often each score was right; bottom: how many texts have it. On the diagonal, seven in ten of
    the texts scored 0.7 have the label."""
    with canvas(4.8, 2, 1, sharex=True, height_ratios=(3, 1)) as (figure, (above, below)):
        diagonal(above)
        for place, (label, parts) in enumerate(points.items()):
            colour = LINES[place % len(LINES)]
            scores = [part["score"] for part in parts]
            above.plot(
                scores,
                [part["rate"] for part in parts],
                "o-",
                color=colour,
                linewidth=1.6,
                markersize=6,
                markeredgecolor=PAPER,
                label=label,
            )
            many = len(points) > 1
            texts = [part["n"] for part in parts]
            if many:
                below.plot(scores, texts, ".-", color=colour, linewidth=1.2)
            else:
                below.bar(scores, texts, width=0.05, color=colour)
        what = next(iter(points)) if len(points) == 1 else "the label"
        # A mark at 0 or 1 stands whole in the picture, and so does a bar below it.
        above.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), ylabel=f"share that is {what}")
        below.set(xlabel=f"mean score of {what}", ylabel="texts", ylim=(0, None))
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        if len(points) > 1:
            _legend(figure, above)
        write_picture(folder, name, figure)


def bands(folder: Path, name: str, label: str, scores: np.ndarray, truth: np.ndarray, found: Bands) -> None:
    """Top: how many texts with and without the label have each score, [texts], over the bands. Bottom: the
    precision and recall of acting from a score on."""
    edges = np.linspace(0, 1, 41)
    with canvas(4.8, 2, 1, sharex=True, height_ratios=(3, 2)) as (figure, (above, below)):
        parts = (scores[~truth], scores[truth])
        names = (f"not {label}", label)
        above.hist(parts, edges.tolist(), stacked=True, color=(MUTED, RED), label=names, alpha=0.85)
        order = np.sort(scores)
        acted = truth[np.argsort(scores, kind="stable")][::-1].cumsum()[::-1]
        below.plot(order, acted / np.arange(len(order), 0, -1), color=BLUE, label="precision", linewidth=1.6)
        below.plot(order, acted / max(1, truth.sum()), color=PURPLE, label="recall", linewidth=1.6)
        for axes in (above, below):
            axes.axvspan(found.review, found.act, color=AMBER, alpha=0.15, linewidth=0, label="review")
            axes.axvspan(found.act, 1, color=RED, alpha=0.12, linewidth=0, label="act")
            axes.set_xlim(0, 1)
        above.set(ylabel="texts")
        above.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        below.set(xlabel=f"score of {label}", ylim=(0, 1.02), ylabel="acting from here on")
        handles, words = above.get_legend_handles_labels()
        lines, more = below.get_legend_handles_labels()
        figure.legend(
            handles + lines[:2], words + more[:2], loc="outside upper left", ncols=3, borderaxespad=0.2
        )
        write_picture(folder, name, figure)


def robustness(folder: Path, name: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Left, the share of labels that each perturbation flips; right, its drop in macro-F1; lines are 95 %
    intervals. Perturbations that changed hardly any text are left out."""
    rows = sorted(
        (way for way in found if way["changed"] >= FEWEST_TEXTS),
        key=lambda way: (way["flip_rate"], way["name"]),
    )
    with canvas(1.1 + 0.27 * len(rows), 1, 2, sharey=True) as (figure, (left, right)):
        _bars(left, rows, "flip_rate", BLUE)
        _bars(right, rows, "macro_f1_drop", RED)
        names = [way["name"] for way in rows]
        for axes in (left, right):
            name_rows(axes, names)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        left.set_xlim(0, None)
        in_percent(left.xaxis)
        left.set_xlabel("labels flipped, changed texts only")
        right.axvline(0, color=INK, linewidth=0.8)
        right.set_xlabel("drop in macro-F1, all texts")
        write_picture(folder, name, figure)


def functional(folder: Path, name: str, parts: Sequence[Mapping[str, Any]]) -> None:
    """The pass rate of each kind of case, the worst of each label at the bottom; lines are 95 % intervals."""
    rows = sorted(parts, key=lambda kind: (kind["label"], kind["pass_rate"]))
    colours = {
        label: LINES[place]
        for place, label in enumerate(sorted({kind["label"] for kind in rows}, reverse=True))
    }
    with canvas(1.1 + 0.25 * len(rows)) as (figure, (axes,)):
        for label, colour in colours.items():
            mine = [(place, kind) for place, kind in enumerate(rows) if kind["label"] == label]
            axes.barh(
                [place for place, _ in mine],
                [kind["pass_rate"] for _, kind in mine],
                height=0.62,
                color=colour,
                alpha=0.85,
                label=f"cases that are {label}",
            )
        for place, kind in enumerate(rows):
            interval(axes, kind["low"], kind["high"], place)
        name_rows(axes, [f"{kind['functionality']}, {kind['n']}" for kind in rows])
        axes.set(xlim=(0, 1), xlabel="share of cases answered correctly")
        in_percent(axes.xaxis)
        _legend(figure, axes)
        write_picture(folder, name, figure)


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]], figure: str, colour: str) -> None:
    axes.barh(range(len(rows)), [row[figure] for row in rows], height=0.62, color=colour, alpha=0.85)
    for place, row in enumerate(rows):
        interval(axes, row[f"{figure}_low"], row[f"{figure}_high"], place)


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the frame, where it covers nothing."""
    handles, words = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, words), default=0) < LONG_WORDS else 2
    figure.legend(handles, words, loc="outside upper left", ncols=min(columns, len(words)), borderaxespad=0.2)
