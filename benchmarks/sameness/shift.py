"""How a cascade does on texts unlike those that its rule was fitted to: records and tables."""

from tabulate import tabulate

from common.records import Count, Record, Share, Some, Text
from common.shares import share_interval

NAME = "shift"  # of the file


class Asked(Record):
    """A later stage was asked `texts`; `drift` is what one look at that share says."""

    stage: Text
    texts: Count
    drift: Text


class Shifted(Record):
    """Of `n` texts, the cascade gives `turned` another label than fp32 does.

    Where the texts are rewritten ones, of the `found` that fp32 calls positive as they were, `lost_fp32` and
    `lost` are those that fp32 and the cascade no longer call so.
    """

    texts: Text
    n: Some
    asked: list[Asked]
    turned: Count
    found: Count | None = None
    lost_fp32: Count | None = None
    lost: Count | None = None


class Shift(Record):
    """On texts like validation, the first stage turns at most a share `promised` of labels, with 95 %
    confidence; None where there is no such stage."""

    variant: Text
    data: Text
    promised: Share | None
    rows: list[Shifted]


def table(document: Shift) -> str:
    """A row for each kind of text, as Markdown."""
    stages = [asked.stage for asked in document.rows[0].asked]
    heads = ["texts", "n", *(f"asked of {stage}" for stage in stages), "other label than fp32, 95 %"]
    heads.append("no longer found: fp32, cascade")
    return tabulate([_cells(row) for row in document.rows], heads, "github", disable_numparse=True)


def _cells(row: Shifted) -> list[str]:
    low, high = share_interval(row.turned, row.n)
    asked = [f"{each.texts / row.n:.0%}{', drift' if each.drift == 'drift' else ''}" for each in row.asked]
    turned = f"{row.turned / row.n:.2%} ({low:.2%} to {high:.2%})"
    lost = "" if row.found is None else f"{row.lost_fp32}, {row.lost} of {row.found}"
    return [row.texts, f"{row.n:,}", *asked, turned, lost]


def page(document: Shift) -> str:
    return f"# A cascade on other texts\n\n{excerpt(document)}\n"


def excerpt(document: Shift) -> str:
    """The table and what its cells are."""
    note = f"`{document.variant}` of {document.data}."
    if document.promised is not None:
        note += f" On texts like validation, its first stage turns at most {document.promised:.2%} of labels."
    note += ' "drift": one look at this share of the texts says that they are not like validation.'
    return f"{table(document)}\n\n{note}"
