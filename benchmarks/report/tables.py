"""The model of a report's tables: columns that define what they show of an item, and tables made of them.

A table is rendered as Markdown here and as HTML by `report.html.j2`; empty columns are left out. The columns
themselves are in `columns`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from benchmarks.records import Ratio
from benchmarks.report.phrases import NONE, github

T = TypeVar("T")
Form = str | Callable[[Any], str]
PAGE, SUMMARY, TERMINAL = range(3)  # how short a table a column still stands in


@dataclass(frozen=True)
class Cell:
    """`short` stands in brackets in Markdown and `note` small below in HTML; `sort` orders its column;
    `share` is how strong a heat colour is; `loud` is the text in Markdown where it is another."""

    text: str
    kind: str = ""
    sort: float | None = None
    short: str = ""
    note: str = ""
    badge: str = ""
    share: float | None = None
    bars: Sequence[Mapping[str, Any]] = ()
    hidden: str = ""
    loud: str = ""

    @property
    def markdown(self) -> str:
        return f"{self.loud or self.text} ({self.short})" if self.short else self.loud or self.text


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

    def __bool__(self) -> bool:
        return bool(self.rows)


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


@dataclass(frozen=True)
class Column(Generic[T]):
    """`value` is what is shown of an item (None: nothing), `form` its format or what makes words of it,
    `ratio` how it compares, `extra` more fields of the cell. `shown` is the shortest table that has the
    column, and `in_brief` says whether a front page has it."""

    title: str
    value: Callable[[T], Any]
    form: Form = ""
    ratio: Callable[[T], Ratio | None] | None = None
    kind: str = "num"
    extra: Callable[[T], Mapping[str, Any] | None] | None = None
    shown: int = PAGE
    in_brief: bool = False
    in_markdown: bool = True

    def cell(self, item: T) -> Cell:
        value = self.value(item)
        if value is None:
            return Cell(NONE, self.kind)
        fields: dict[str, Any] = {"text": _text(value, self.form), "kind": self.kind}
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            fields["sort"] = value
        if self.ratio and (ratio := self.ratio(item)):
            fields |= _compared(ratio)
        return Cell(**(fields | dict((self.extra and self.extra(item)) or {})))


def _text(value: Any, form: Form) -> str:
    return format(value, form) if isinstance(form, str) else form(value)


def _compared(ratio: Ratio) -> dict[str, str]:
    if ratio.is_decided:
        ends = f"{ratio.low:.1f}\N{EN DASH}{ratio.high:.1f}"
        return {"short": f"{ratio.ratio:.1f}x", "note": f"{ratio.ratio:.1f}x ({ends})"}
    return {} if ratio.verdict == "reference" else {"short": ratio.verdict, "note": ratio.verdict}


def table(label: str, columns: Sequence[Column[T]], items: Iterable[T]) -> Table:
    """A row for each item."""
    return of_cells(
        label,
        [Header(column.title, column.kind) for column in columns],
        [[column.cell(item) for column in columns] for item in items],
    )


def named(label: str, head: str, columns: Sequence[Column[T]], items: Iterable[tuple[str, T]]) -> Table:
    """A row for each item, which its name heads."""
    return of_cells(
        label,
        [Header(head, "name"), *(Header(column.title, column.kind) for column in columns)],
        [[Cell(name, "name"), *(column.cell(item) for column in columns)] for name, item in items],
    )


def of_cells(label: str, headers: Sequence[Header], rows: Sequence[Sequence[Cell]]) -> Table:
    """Without the columns in which nothing has a figure."""
    kept = [place for place in range(len(headers)) if any(row[place].text != NONE for row in rows)]
    return Table(
        label, [headers[place] for place in kept], [Row([row[place] for place in kept]) for row in rows]
    )


def markdown(found: Table) -> str:
    """As GitHub shows it; empty without rows."""
    headers = [header.text for header in found.headers]
    return github([[cell.markdown for cell in row.cells] for row in found.rows], headers) if found else ""


def transposed(found: Table) -> str:
    """The other way round: a row for each column; what has no figure in any item is left out."""
    if not found:
        return ""
    return github(turned(found), ["", *(row.cells[0].markdown for row in found.rows)])


def turned(found: Table) -> list[list[str]]:
    """A row for each column but the first, in Markdown."""
    return [
        [header.text, *(row.cells[place].markdown for row in found.rows)]
        for place, header in enumerate(found.headers)
        if place
    ]
