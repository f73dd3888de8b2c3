"""The drawing kit of training's and benchmarks' pictures: frame, colours, labels that keep apart, files.

It uses no `pyplot` state and reads no user configuration, so the same figures give the same bytes. Needs
matplotlib, and adjustText to place labels.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox, offset_copy

# Of Okabe and Ito's palette, which the colour-blind tell apart; darker here, to be read on white.
INK, MUTED, REST, GRID, PAPER = "#1b1f24", "#5a636e", "#c3c9d0", "#e6e9ed", "#ffffff"
BLUE, AMBER, RED, GREEN, PURPLE = "#0072b2", "#a86f00", "#c44900", "#00795a", "#a0447b"
LINES = (BLUE, RED, GREEN, PURPLE)  # after the reference, which is ink


class Colour(NamedTuple):
    """What `svg` names as the CSS variable `--chart-NAME`: as drawn, and on dark paper."""

    name: str
    light: str
    dark: str


COLOURS = (
    Colour("ink", INK, "#e9ecef"),
    Colour("muted", MUTED, "#a0a9b4"),
    Colour("rest", REST, "#4b545e"),
    Colour("grid", GRID, "#2a3139"),
    Colour("paper", PAPER, "#14181d"),
    Colour("blue", BLUE, "#56b4e9"),
    Colour("amber", AMBER, "#f0b429"),
    Colour("red", RED, "#ff8a4c"),
    Colour("green", GREEN, "#2fc49a"),
    Colour("purple", PURPLE, "#e39ac2"),
)

WIDTH = 7.0  # inches of 72 units: 504 units, so that letters of 11 units keep 11 px where a page scrolls
FONT = 11
DASHED, DOTTED = (0, (4, 3)), (0, (1, 2))
FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PNG_DPI = 144
LEVELS = (14, -14, 32, -32)  # units above its point at which a label starts, from the left to the right
MARK = 7.0  # units from the middle of a point that labels keep away
ITERATIONS = 500  # of labels that push each other away; a limit in seconds would not draw the same twice
# Coordinates to a hundredth of a unit, and not what is written in the picture.
ATTRIBUTE = re.compile(r"\b(?:d|x|y|points|transform)=\"[^\"]*\"")
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names and labels are a user's
    "font.family": "DejaVu Sans",  # comes with matplotlib and is wider than what a page will use: room enough
    "font.size": FONT,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": GRID,
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
def canvas(
    height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `WIDTH` x `height` inches with its axes row by row, drawn and saved within."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, list(figure.subplots(rows, columns, squeeze=False, **grid).flat)


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as SVG text for light and dark paper; `name` keeps its definitions apart from those of other
    pictures on the page."""
    text = re.sub(r"<g id=\"[^\"]*\">", "<g>", _svg(figure, name).decode())
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = ATTRIBUTE.sub(lambda found: LONG_NUMBER.sub(_short, found[0]), text)
    for colour in COLOURS:
        text = text.replace(colour.light, f"var(--chart-{colour.name}, {colour.light})")
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


def write_picture(folder: Path, name: str, figure: Figure) -> None:
    """`name.svg`, and `name.png` for where SVG is not shown, on white paper."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.set_facecolor(PAPER)
    (folder / f"{name}.svg").write_bytes(_svg(figure, name))
    figure.savefig(folder / f"{name}.png", dpi=PNG_DPI, metadata={"Software": None})


def _svg(figure: Figure, name: str) -> bytes:
    """Without the date and versions that would make each run's bytes differ."""
    matplotlib.rcParams["svg.hashsalt"] = name
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()


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
        f".chart text{{paint-order:stroke;stroke:var(--chart-paper,{PAPER});stroke-width:3px}}"
    )


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """A row for each name, from below, without lines between them."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)


def in_percent(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))


def diagonal(axes: Axes) -> None:
    """Where two shares are the same."""
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DASHED)


def interval(axes: Axes, low: float, high: float, row: float, alpha: float = 0.8) -> None:
    """A thin line from `low` to `high`, over the bar of a row."""
    axes.plot([low, high], [row, row], color=INK, linewidth=1, alpha=alpha)


class Label(NamedTuple):
    """A name for the point at (x, y) in data units."""

    x: float
    y: float
    text: str
    colour: str
    is_important: bool = False


def label_points(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label near its point, away from other points and labels; a label further away gets a thin
    line to its point. Freezes the figure's layout: call it last."""
    _freeze(axes)
    places = axes.transData.transform([(label.x, label.y) for label in labels])
    levels = np.empty(len(labels))
    levels[np.argsort(places[:, 0], kind="stable")] = np.resize(LEVELS, len(labels))
    starts = axes.transData.inverted().transform(places + np.outer(levels, (0, 1)))
    texts = [
        axes.text(
            x,
            y,
            label.text,
            color=label.colour,
            weight="bold" if label.is_important else "normal",
            ha="center",
            va="center",
        )
        for label, (x, y) in zip(labels, starts, strict=True)
    ]
    _keep_apart(
        axes,
        texts,
        labels,
        expand=(1.1, 1.2),
        # Down or up rather than aside: names are wide.
        force_text=(0.2, 0.4),
        force_static=(0.05, 0.3),
        force_pull=(0.02, 0.02),
        pull_threshold=5,
        min_arrow_len=MARK + 5,
    )


def label_ends(axes: Axes, ends: Sequence[Label]) -> None:
    """Write each name to the right of the end of its line, pushed up or down until none covers another.
    Freezes the figure's layout, which keeps room for names beyond the frame: call it last."""
    behind = offset_copy(axes.transData, _figure(axes), x=MARK + 3, units="points")
    texts = [
        axes.text(end.x, end.y, end.text, color=end.colour, va="center", transform=behind) for end in ends
    ]
    _freeze(axes)
    _keep_apart(
        axes,
        texts,
        ends,
        only_move="y",
        ensure_inside_axes=False,
        min_arrow_len=MARK + FONT,
    )


def _figure(axes: Axes) -> Figure:
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    return figure


def _freeze(axes: Axes) -> None:
    """Lay the figure out for good."""
    _figure(axes).draw_without_rendering()
    _figure(axes).set_layout_engine("none")


def _keep_apart(axes: Axes, texts: Sequence[Text], labels: Sequence[Label], **how: Any) -> None:
    """Move texts until none covers another or a labelled point."""
    from adjustText import adjust_text  # it imports pyplot, which pictures without labels need not wait for

    points = axes.transData.transform([(label.x, label.y) for label in labels])
    to_coordinates = texts[0].get_transform().inverted()
    target_x, target_y = to_coordinates.transform(points).T
    adjust_text(
        texts,
        ax=axes,
        iter_lim=ITERATIONS,
        objects=[Bbox(to_coordinates.transform((point - MARK, point + MARK))) for point in points],
        target_x=target_x,
        target_y=target_y,
        avoid_self=False,
        prevent_crossings=False,  # names of other widths would change places
        force_explode=0.0,
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "alpha": 0.6, "shrinkB": MARK},
        **how,
    )
