"""What a page's tables are made of: cells that know how to be sorted, coloured and annotated.

Covers the parts that `report.html.j2` lays out, and cells for figures that many tables show. Leaves out which
tables there are (`sections`, `html`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.names import REFERENCE
from benchmarks.records import (
    Functionality,
    Rate,
    TimeSplit,
)
from benchmarks.records import Row as Entry
from benchmarks.report.phrases import NONE, figure, span, three_digits
from benchmarks.report.verdicts import verdict

HEAT = 0.15  # a change of accuracy by this much has the full colour


@dataclass(frozen=True)
class Cell:
    """`sort` orders its column; `note` stands small below; `share` is how strong a heat colour is."""

    text: str
    kind: str = ""
    sort: float | None = None
    note: str = ""
    badge: str = ""
    share: float | None = None
    bars: Sequence[Mapping[str, Any]] = ()
    hidden: str = ""


@dataclass(frozen=True)
class Header:
    text: str
    kind: str = "num"


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    name: str = ""
    verdict: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """`label` is what a screen reader calls it. The first cell of each row is its heading."""

    label: str
    headers: Sequence[Header]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Part:
    table: Table
    title: str = ""
    summary: str = ""
    is_folded: bool = False


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    how: str
    parts: Sequence[Part]
    key: Sequence[str] = field(default_factory=tuple)


def badge(row: Entry, allowed: float) -> Cell:
    word = verdict(row, allowed)
    if row.status == "left out":
        return Cell("left out", "name", badge="out")
    return Cell(word, "name", badge=word)


def number(value: float | None, form: str, note: str = "") -> Cell:
    return Cell(_minus(figure(value, form)), "num", value, _minus(note))


def _minus(words: str) -> str:
    """With a minus as wide as a plus."""
    return re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", words)


def timed(row: Entry, name: str, key: str, ratio: str = "speedup") -> Cell:
    entry = row.case(name)
    value = getattr(entry, key, None)
    if value is None:
        return Cell(NONE, "num")
    found = getattr(entry, ratio)
    note = ""
    if found and found.is_decided:
        note = f"{found.ratio:.1f}x ({found.low:.1f}–{found.high:.1f})"
    elif found and found.verdict != "reference":
        note = found.verdict
    return Cell(three_digits(value), "num", value, note)


def served(row: Entry, key: str) -> Cell:
    value = getattr(row.busiest, key, None)
    return Cell(three_digits(value), "num", value)


def goodput(row: Entry) -> Cell:
    best = max((level.goodput_rps for level in row.open), default=None)
    return Cell(three_digits(best), "num", best)


def drop_of(row: Entry) -> Cell:
    drop = row.gate and row.gate.macro_f1_drop
    if drop is None or row.name == REFERENCE:
        return Cell(NONE, "num")
    return number(drop.drop, "+.4f", span(drop))


def rate(rate: Rate | None, count: int | None = None) -> Cell:
    if rate is None:
        return Cell(NONE, "num")
    counted = "" if count is None else f"{count}: "
    return Cell(f"{rate.rate:.2%}", "num", rate.rate, f"{counted}{rate.low:.2%}–{rate.high:.2%}")


def heat(kind: Functionality | None) -> Cell:
    if kind is None:
        return Cell(NONE, "num")
    change = kind.accuracy - kind.reference_accuracy
    words = f"{kind.accuracy:.0%}"
    if not change:
        return Cell(words, "num", note=f"{kind.flips} flips" if kind.flips else "")
    note = f"{change * 100:+.1f}".replace("-", "\N{MINUS SIGN}")
    return Cell(
        words, f"num {'gain' if change > 0 else 'loss'}", share=min(1.0, abs(change) / HEAT), note=note
    )


def bars(split: TimeSplit | None) -> Cell:
    """Queue, handler and HTTP as parts of a whole."""
    if split is None:
        return Cell(NONE, "name")
    whole = split.queue + split.handler + split.http or 1.0
    parts: list[dict[str, Any]] = [
        {"name": words, "share": max(0.0, ms) / whole, "words": f"{ms:.1f}"}
        for ms, words in ((split.queue, "Queue"), (split.handler, "Handler"), (split.http, "HTTP"))
    ]
    return Cell(" + ".join(part["words"] for part in parts), "name", bars=parts)


def quality(row: Entry, split: str, key: str) -> float | None:
    return getattr(row.quality.get(split), key, None)


def section(
    id: str, title: str, how: str, label: str, headers: Sequence[Header], rows: Sequence[Sequence[Cell]]
) -> Section | None:
    """A section of one table; None without rows."""
    return Section(id, title, how, [Part(table(label, headers, rows))]) if rows else None


def table(label: str, headers: Sequence[Header], rows: Sequence[Sequence[Cell]]) -> Table:
    """Without the columns in which nobody has a figure."""
    kept = [place for place in range(len(headers)) if any(row[place].text != NONE for row in rows)]
    return Table(
        label, [headers[place] for place in kept], [Row([row[place] for place in kept]) for row in rows]
    )
