"""What a search for the fastest variant tried: its table and its picture."""

from tabulate import tabulate

from benchmarks.compression.records import Compression, Tried
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


def front(found: Compression) -> list[Tried]:
    """Measured candidates that no other beats both in speed and in the margin that a gate would show."""
    measured = [each for each in found.tried if each.faster is not None]
    best: list[Tried] = []
    for each in sorted(measured, key=lambda tried: -(tried.faster or 0)):
        if not best or (each.margin or 1) < (best[-1].margin or 1):
            best.append(each)
    return best


def table(found: Compression) -> str:
    """A row for each candidate, the fastest first, as Markdown."""
    rows = [
        [
            f"{each.candidate}",
            "–" if each.faster is None else f"{each.faster:.2f} ({each.low:.2f} to {each.high:.2f})",
            "–" if each.agreement is None else f"{each.agreement:.2%}",
            "–" if each.margin is None else f"{each.margin:.4f}",
            _said(each, found),
        ]
        for each in sorted(found.tried, key=lambda tried: -(tried.faster or 0))
    ]
    heads = ["candidate", "times int8, 95 %", "labels that agree", "margin that a gate would show", ""]
    return tabulate(rows, heads, "github", disable_numparse=True)


def _said(tried: Tried, found: Compression) -> str:
    if tried.refused:
        return f"refused: {tried.refused}"
    if tried == found.best:
        return "chosen"
    return "likely to pass" if tried.may_pass(found.margin) else "not likely to pass"


def picture(found: Compression) -> str:
    """Speed against the margin that a gate would show, as SVG; empty where nothing was measured."""
    measured = [each for each in found.tried if each.faster is not None and each.margin is not None]
    if not measured:
        return ""
    best = front(found)
    with canvas(4.0) as (figure, (axes,)):
        axes.axhline(found.margin, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
        axes.plot(
            [each.faster for each in best],
            [each.margin for each in best],
            color=BLUE,
            linewidth=1.4,
            zorder=2,
        )
        for each in measured:
            colour = GREEN if each.may_pass(found.margin) else REST
            axes.plot([each.low, each.high], [each.margin] * 2, color=colour, linewidth=1, zorder=2)
            axes.plot(each.faster, each.margin, "o", color=colour, markeredgecolor=PAPER, zorder=3)
        axes.set_xlabel("texts/s as a multiple of int8's  (faster →)")
        axes.set_ylabel("margin that a gate would show  (closer ↓)")
        axes.set_ylim(bottom=0)
        axes.annotate(
            f"margin {found.margin:g}",
            (0, found.margin),
            (2, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=MUTED,
            size=FONT,
        )
        labels = [Label(each.faster, each.margin, _short(each), INK, each in best) for each in best]
        label_points(axes, labels)
        sentence = "; ".join(f"{each.candidate} {each.faster:.2f} at {each.margin:.4f}" for each in measured)
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
