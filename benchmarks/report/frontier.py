"""What a search for the fastest variant tried: its table and its picture."""

from tabulate import tabulate

from benchmarks.compression.records import Compression, Measured, Tried
from common.drawing import (
    BLUE,
    DASHED,
    FONT,
    GREEN,
    INK,
    MUTED,
    PAPER,
    REST,
    Label,
    canvas,
    label_points,
    svg,
)

Point = tuple[Tried, Measured]
NEAR = 2  # margins: what is farther away has no name in the picture


def front(found: Compression) -> list[Point]:
    """Measured candidates that no other beats both in speed and in the margin that a gate would show, the
    fastest first."""
    best: list[Point] = []
    for tried, measured in sorted(_points(found), key=lambda point: -point[1].faster):
        if not best or measured.margin < best[-1][1].margin:
            best.append((tried, measured))
    return best


def _points(found: Compression) -> list[Point]:
    return [(tried, tried.measured) for tried in found.tried if tried.measured is not None]


def table(found: Compression) -> str:
    """A row for each candidate, the fastest first, as Markdown."""
    rows = [
        [f"{tried.candidate}", *_cells(tried.measured), _said(tried, found)]
        for tried in sorted(found.tried, key=lambda tried: -tried.faster)
    ]
    heads = ["candidate", "times int8, 95 %", "labels that agree", "margin that a gate would show", ""]
    return tabulate(rows, heads, "github", disable_numparse=True)


def _cells(measured: Measured | None) -> list[str]:
    if measured is None:
        return ["–"] * 3
    faster = f"{measured.faster:.2f} ({measured.low:.2f} to {measured.high:.2f})"
    return [faster, f"{measured.agreement:.2%}", f"{measured.margin:.4f}"]


def _said(tried: Tried, found: Compression) -> str:
    if tried.refused:
        return f"refused: {tried.refused}"
    if tried == found.best:
        return "chosen"
    return "likely to pass" if tried.may_pass(found.margin) else "not likely to pass"


def picture(found: Compression) -> str:
    """Speed against the margin that a gate would show, as SVG; empty where nothing was measured."""
    points, best = _points(found), front(found)
    if not points:
        return ""
    with canvas(4.0) as (figure, (axes,)):
        axes.axhline(found.margin, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
        ends = [(measured.faster, measured.margin) for _, measured in best]
        axes.plot(*zip(*ends, strict=True), color=BLUE, linewidth=1.4, zorder=2)
        for tried, measured in points:
            colour = GREEN if tried.may_pass(found.margin) else REST
            reach = [measured.low, measured.high]
            axes.plot(reach, [measured.margin] * 2, color=colour, linewidth=1, zorder=2)
            axes.plot(measured.faster, measured.margin, "o", color=colour, markeredgecolor=PAPER, zorder=3)
        axes.set_xlabel("texts/s as a multiple of int8's  (faster →)")
        axes.set_ylabel("margin that a gate would show  (closer ↓)")
        axes.set_ylim(bottom=0)
        axes.annotate(
            f"margin {found.margin:g}",
            (1, found.margin),
            (-2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            size=FONT,
        )
        near = [(tried, measured) for tried, measured in best if measured.margin <= NEAR * found.margin]
        label_points(
            axes,
            [Label(measured.faster, measured.margin, _short(tried), INK, False) for tried, measured in near],
        )
        sentence = "; ".join(
            f"{tried.candidate} {measured.faster:.2f} at {measured.margin:.4f}" for tried, measured in points
        )
        return svg(figure, "frontier", "Speed against closeness to fp32", sentence)


def _short(tried: Tried) -> str:
    parts = [f"{tried.keep:.0%}"] if tried.keep < 1 else []
    parts += ["re-check"] if tried.recheck else []
    parts += [f"first stage {tried.may_turn:.1%}"] if tried.may_turn else []
    return ", ".join(parts) or "int8"


def page(found: Compression) -> str:
    return f"# The search for the fastest variant\n\n{excerpt(found)}\n"


def excerpt(found: Compression) -> str:
    """The table and what its cells are."""
    note = (
        f"{found.data}, validation texts in batches of 32; {found.left} combinations were not tried. "
        f"The margin is what a gate of {found.gate:,} texts would rule out in four of five cases, if nothing "
        f"were lost. The fastest that shows {found.margin:g} is chosen."
    )
    return f"{table(found)}\n\n{note}"
