"""What the self-check said of changes, and how many labels each truly changed, as a study found it: records
and tables."""

from collections.abc import Mapping

from tabulate import tabulate

from common.records import Count, NotNegative, Record, Share, Some, Text
from common.shares import share_interval

NAME = "self-check"  # of the file


class Tried(Record):
    """A change, and what the self-check said of it. `move` is in logits, None where one is not a number.
    `changed` counts texts whose label is another than without the change, `unlike_fp32` those whose label is
    not fp32's; None where the variant did not load at all, and `refused` says why. `only` so many texts were
    asked where all would take too long; 0: all."""

    variant: Text
    change: Text
    status: Text = "does not load"
    move: NotNegative | None = None
    at_most: Share = 0.0
    tokens_differ: Count = 0
    changed: Count | None = None
    unlike_fp32: Count | None = None
    refused: str = ""
    only: Count = 0


class Loads(Record):
    """A variant that nothing was done to, loaded again and again in fresh processes with so many `threads`.
    `alarms` counts loads that did not give the scores of the export to rounding. Times are those of the
    check, and of one of many texts that are given at once."""

    variant: Text
    threads: Some
    loads: Some
    alarms: Count
    move: NotNegative
    median_ms: NotNegative
    most_ms: NotNegative
    text_ms: NotNegative


class SelfChecks(Record):
    """All of it, on one machine: labels are those of `texts` validation texts."""

    data: Text
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]
    texts: Some
    allowed: Share
    tried: list[Tried]
    loads: list[Loads]


def page(document: SelfChecks) -> str:
    """All of it as Markdown."""
    tables = f"{table(document)}\n\n{loads_table(document)}"
    return f"# What the self-check sees\n\n{tables}\n\n{note(document)}\n"


def excerpt(document: SelfChecks) -> str:
    """Changes by variant, the loads, and how to read them."""
    return f"{by_variant(document)}\n\n{loads_table(document)}\n\n{note(document)}"


def by_variant(document: SelfChecks) -> str:
    """For each change and variant the outcome, how many labels changed, and in brackets how many at most."""
    variants = list(dict.fromkeys(tried.variant for tried in document.tried))
    rows: dict[str, dict[str, str]] = {}
    for tried in document.tried:
        cell = tried.status
        if tried.changed is not None:
            cell += f": {tried.changed} ({tried.at_most * _texts(tried, document):.1f})"
            cell += f" of {tried.only}" if tried.only else ""
        rows.setdefault(tried.change, {})[tried.variant] = cell
    cells = [[change, *(found.get(variant, "") for variant in variants)] for change, found in rows.items()]
    return tabulate(cells, ("changed", *variants), "github", disable_numparse=True)


def table(document: SelfChecks) -> str:
    """A row for each change."""
    rows = [
        [
            tried.variant,
            tried.change,
            tried.status,
            "" if tried.move is None else f"{tried.move:.2g}",
            "" if tried.changed is None else f"{tried.at_most:.2%}",
            *(_share(count, _texts(tried, document)) for count in (tried.changed, tried.unlike_fp32)),
        ]
        for tried in document.tried
    ]
    heads = (
        "variant",
        "changed",
        "self-check",
        "largest move",
        "labels, at most",
        "labels that changed",
        "labels unlike fp32's",
    )
    return tabulate(rows, heads, "github", disable_numparse=True)


def loads_table(document: SelfChecks) -> str:
    """False alarms, and what a check costs."""
    rows = [
        [
            loads.variant,
            loads.threads,
            loads.loads,
            loads.alarms,
            f"{loads.move:.2g}",
            f"{loads.median_ms:.0f}",
            f"{loads.most_ms:.0f}",
            f"{loads.text_ms:.2f}",
        ]
        for loads in document.loads
    ]
    heads = (
        "variant",
        "threads",
        "loads",
        "alarms",
        "largest move",
        "check, median ms",
        "most ms",
        "a text, median ms",
    )
    return tabulate(rows, heads, "github", disable_numparse=True)


def note(document: SelfChecks) -> str:
    """How to read the tables, and in how many cases the bound held."""
    loaded = [tried for tried in document.tried if not tried.refused]
    turned = [tried for tried in loaded if tried.changed]
    shares = [(tried.changed or 0, _texts(tried, document), tried.at_most) for tried in turned]
    beyond = [(count, texts, at_most) for count, texts, at_most in shares if count > at_most * texts]
    above = sum(share_interval(count, texts)[0] > at_most for count, texts, at_most in beyond)
    seen = sum(tried.status != "same" for tried in turned)
    loads = sum(variant.loads for variant in document.loads)
    alarms = sum(variant.alarms for variant in document.loads)
    versions = ", ".join(f"{package} {version}" for package, version in document.versions.items())
    sentences = [
        f"Labels are those of {document.texts} validation texts ({document.data})",
        "Moves are in logits of made sequences",
        f"`mismatch`: more than {document.allowed:.1%} of labels may change, or the tokenizer cuts texts "
        "differently",
        "In brackets: how many labels change at most",
        f"In {len(loaded)} cases the variant loads",
        f"Labels changed in {len(turned)} of them, and the self-check saw {seen} of these",
        f"In {len(beyond)} more changed than the bound says, in {above} beyond chance (95 %)",
        f"Of {loads} loads of variants that nothing was done to, {alarms} raised an alarm",
        f"{document.machine['cpu']}; {versions}",
    ]
    return ". ".join(sentences) + "."


def _texts(tried: Tried, document: SelfChecks) -> int:
    return tried.only or document.texts


def _share(count: int | None, texts: int) -> str:
    return "" if count is None else f"{count} ({count / texts:.2%})"
