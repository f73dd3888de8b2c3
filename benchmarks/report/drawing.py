"""Figures as SVG text that reads well on light and on dark paper, the same bytes every time.

Covers one frame for all pictures, colours that a page's style sheet may replace (each is drawn in a stand-in
and then named as a CSS variable), and labels that keep out of each other's way. Leaves out what is drawn
(`charts`). No state of `pyplot` is used and no user's configuration is read.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import product
from math import cos, hypot, pi, sin
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

RADII = (8.0, 13.0, 20.0, 29.0, 40.0, 53.0, 68.0, 85.0, 104.0, 125.0)  # of a label from its point
WIDTH = 7.0  # inches of 72 units: 504 units, so that letters of 11 units keep 11 px where a page scrolls
FONT = 11
FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


# Coordinates to a hundredth of a unit, and not what is written in the picture.
ATTRIBUTE = re.compile(r"\b(?:d|x|y|points|transform)=\"[^\"]*\"")
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


@dataclass(frozen=True)
class Colour:
    """Drawn as `stand_in`; shown as the CSS variable `--chart-NAME`, by default `light` or `dark`."""

    name: str
    stand_in: str
    light: str
    dark: str


# Of Okabe and Ito's palette, which the colour-blind tell apart; the light ones darker, to be read on white.
INK = Colour("ink", "#010a01", "#1b1f24", "#e9ecef")
MUTED = Colour("muted", "#010a02", "#5a636e", "#a0a9b4")
REST = Colour("rest", "#010a03", "#c3c9d0", "#4b545e")
GRID = Colour("grid", "#010a04", "#e6e9ed", "#2a3139")
PAPER = Colour("paper", "#010a05", "#ffffff", "#14181d")
BLUE = Colour("blue", "#010a06", "#0072b2", "#56b4e9")
AMBER = Colour("amber", "#010a07", "#a86f00", "#f0b429")
RED = Colour("red", "#010a08", "#c44900", "#ff8a4c")
GREEN = Colour("green", "#010a09", "#00795a", "#2fc49a")
PURPLE = Colour("purple", "#010a0a", "#a0447b", "#e39ac2")
COLOURS = (INK, MUTED, REST, GRID, PAPER, BLUE, AMBER, RED, GREEN, PURPLE)
LINES = (BLUE, RED, GREEN, PURPLE)  # after the reference, which is ink

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names and labels are a user's
    "svg.hashsalt": "benchmarks",
    "font.family": "DejaVu Sans",  # comes with matplotlib and is wider than what a page will use: room enough
    "font.size": FONT,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "text.color": INK.stand_in,
    "axes.labelcolor": MUTED.stand_in,
    "axes.edgecolor": MUTED.stand_in,
    "xtick.color": MUTED.stand_in,
    "ytick.color": MUTED.stand_in,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": GRID.stand_in,
    "grid.linewidth": 1,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": FONT,
    "axes.unicode_minus": True,
}


@contextmanager
def canvas(height: float, rows: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `WIDTH` x `height` inches with `rows` axes above each other, drawn and saved within."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, 1, sharex=rows > 1, squeeze=False)
        yield figure, list(axes[:, 0])


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as SVG text; `name` makes what is defined in it differ from other pictures' on one page."""
    matplotlib.rcParams["svg.hashsalt"] = name
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = re.sub(r"<g id=\"[^\"]*\">", "<g>", buffer.getvalue())
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = ATTRIBUTE.sub(lambda found: LONG_NUMBER.sub(_short, found[0]), text)
    for colour in COLOURS:
        text = text.replace(colour.stand_in, f"var(--chart-{colour.name}, {colour.light})")
    body = text[text.index("<defs>", text.index("<svg")) :]
    body = body[body.index("</defs>") + len("</defs>") :]
    width, height = (f"{inches * 72:g}" for inches in figure.get_size_inches())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'class="chart" role="img" aria-labelledby="{name}-title {name}-desc" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" font-family="{FAMILY}">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n'
        f'<desc id="{name}-desc">{escape(description)}</desc>\n'
        f"<style>{style_sheet()}</style>{body}"
    )


def _short(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}"


def style_sheet() -> str:
    """Light colours, and dark ones where the reader prefers them. A page that sets `--chart-…` on a closer
    element than the root has the last word."""
    light, dark = (
        "".join(f"--chart-{colour.name}:{getattr(colour, paper)};" for colour in COLOURS)
        for paper in ("light", "dark")
    )
    return (
        f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        ".chart *{stroke-linejoin:round;stroke-linecap:butt}"
        # A rim of paper around letters, so that lines behind them do not strike them through.
        f".chart text{{paint-order:stroke;stroke:var(--chart-paper,{PAPER.light});stroke-width:3px}}"
    )


@dataclass(frozen=True)
class Label:
    """A name for the point at (x, y) in data units; important ones choose their places first."""

    x: float
    y: float
    text: str
    colour: Colour
    is_important: bool = False


@dataclass(frozen=True)
class Box:
    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)


def text_size(text: str, weight: str = "normal", size: float = FONT) -> tuple[float, float]:
    """Width and height in units of the figure."""
    properties = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width, height, _ = TextToPath().get_text_width_height_descent(text, properties, False)
    return width, max(height, size)


def place_labels(
    axes: Axes, labels: Sequence[Label], lines: Sequence[tuple[float, float, float, float]] = ()
) -> None:
    """Write each label beside its point where it covers the least of points, labels and `lines` (x, y to x, y
    in data units); one that stands away from its point gets a thin line to it. The figure's layout is frozen
    here: call it last."""
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    frame = axes.get_window_extent()
    to_pixels = axes.transData.transform
    marks = []
    for label in labels:
        x, y = map(float, to_pixels((label.x, label.y)))
        marks.append(Box(x - 5, y - 5, x + 5, y + 5))
    crossed = [box for line in lines for box in _along(*to_pixels(line[:2]), *to_pixels(line[2:]))]
    placed: list[Box] = []

    def cost(box: Box) -> float:
        covered = 20 * sum(box.overlap(other) for other in placed)
        covered += 4 * sum(box.overlap(mark) for mark in marks)
        return covered + 1.2 * sum(box.overlap(part) for part in crossed)

    for label in sorted(labels, key=lambda label: not label.is_important):
        x, y = map(float, to_pixels((label.x, label.y)))
        size = text_size(label.text, "bold" if label.is_important else "normal")
        box = _best_place((x, y), size, frame, cost)
        if box is None:
            continue
        placed.append(box)
        _write(axes, label, box, (x, y))


def _best_place(
    point: tuple[float, float], size: tuple[float, float], frame: Any, cost: Callable[[Box], float]
) -> Box | None:
    """Of the places around `point` within the frame that of the least `cost`; near ones are cheaper."""
    x, y = point
    width, height = size
    best: tuple[float, Box] | None = None
    for radius, step in product(RADII, range(16)):
        angle = step * pi / 8
        # The nearest point of the label's box lies at the radius; straight right and left come first.
        middle_x = x + cos(angle) * (radius + width / 2)
        middle_y = y + sin(angle) * (radius + height / 2)
        box = Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)
        if box.left < frame.x0 or box.right > frame.x1 + 2 or box.bottom < frame.y0 + 2 or box.top > frame.y1:
            continue
        wide = Box(box.left - 3, box.bottom - 1, box.right + 3, box.top + 1)
        price = radius + (0 if step in (0, 8) else 2) + cost(wide)
        if best is None or price < best[0]:
            best = price, box
    return best[1] if best else None


def _write(axes: Axes, label: Label, box: Box, point: tuple[float, float]) -> None:
    """The label in its box, with a line to its point where that is away."""
    x, y = point
    near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)
    from_pixels = axes.transData.inverted().transform
    if (away := hypot(near_x - x, near_y - y)) > 15:
        start = from_pixels((x + (near_x - x) * 6 / away, y + (near_y - y) * 6 / away))
        end = from_pixels((x + (near_x - x) * (1 - 2 / away), y + (near_y - y) * (1 - 2 / away)))
        axes.plot(
            *zip(start, end, strict=True),
            color=MUTED.stand_in,
            linewidth=0.7,
            alpha=0.6,
            scalex=False,
            scaley=False,
            zorder=1.5,
        )
    middle = from_pixels(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
    axes.text(
        middle[0],
        middle[1],
        label.text,
        ha="center",
        va="center_baseline",
        color=label.colour.stand_in,
        weight="bold" if label.is_important else "normal",
    )


def _along(x: float, y: float, to_x: float, to_y: float) -> Iterator[Box]:
    """Small boxes on a line, a few units apart."""
    count = max(1, int(hypot(to_x - x, to_y - y) / 4))
    for place in range(count + 1):
        across, up = x + (to_x - x) * place / count, y + (to_y - y) * place / count
        yield Box(across - 1.5, up - 2, across + 1.5, up + 2)


def label_ends(axes: Axes, ends: Sequence[Label], gap: float = 7) -> None:
    """Write each name to the right of the end of its line, pushed up or down until none covers another. The
    axes must have room there. Freezes the layout: call it last."""
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    frame = axes.get_window_extent()
    wanted = sorted(
        ((axes.transData.transform((label.x, label.y)), label) for label in ends), key=lambda pair: pair[0][1]
    )
    line = FONT * 1.25
    heights = spread([float(point[1]) for point, _ in wanted], line, frame.y0 + line / 2, frame.y1 - line / 2)
    for ((x, y), label), height in zip(wanted, heights, strict=True):
        from_pixels = axes.transData.inverted().transform
        if abs(height - y) > 2:
            axes.plot(
                *zip(from_pixels((x + 4, y)), from_pixels((x + gap + 1, height)), strict=True),
                color=label.colour.stand_in,
                linewidth=0.7,
                scalex=False,
                scaley=False,
            )
        left, middle = from_pixels((x + gap + 3, height))
        axes.text(left, middle, label.text, va="center", color=label.colour.stand_in)


def spread(wanted: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Ascending places near the wanted ones, at least `least` apart, within `low` and `high` if they fit."""
    places = list(wanted)
    for _ in range(200):
        moved = False
        for first in range(len(places) - 1):
            lacking = least - (places[first + 1] - places[first])
            if lacking > 1e-6:
                places[first] -= lacking / 2
                places[first + 1] += lacking / 2
                moved = True
        if places and places[0] < low:
            places[0], moved = low, True
        if places and places[-1] > high:
            places[-1], moved = high, True
        if not moved:
            break
    return places
