"""Promises of bands against what other texts showed of them, as a study found it: records and tables."""

from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.records import Decided, Kept
from common.records import Count, Record, Share, Some, Text

NAME = "decisions"  # of the file


class Goal(Record):
    """What was asked of bands, and where they lie: None where it cannot be promised, and `refused` says so.
    Of `draws` fits to texts of a known population, `promised` were, and `broken` in that population."""

    goal: Text
    act: Share | None = None
    review: Share | None = None
    refused: str = ""
    draws: Count = 0
    promised: Count = 0
    broken: Count = 0


class Found(Record):
    """What a split shows of bands with a variant's scores."""

    goal: Text
    variant: Text
    split: Text
    n: Some
    decided: Decided


class Promised(Record):
    """A classifier of some data: bands were fitted to its `fitted` validation texts."""

    data: Text
    label: Text
    fitted: Some
    goals: list[Goal]
    found: list[Found]


class Promises(Record):
    """Of several classifiers."""

    classifiers: list[Promised]


def page(document: Promises) -> str:
    """All of it as Markdown."""
    return f"# What decisions promised, and what was found\n\n{excerpt(document)}\n\n{note(document)}\n"


def excerpt(document: Promises) -> str:
    """Both tables: promised and found; and how often promises are broken."""
    return f"{_found(document)}\n\n{_drawn(document)}"


def _found(document: Promises) -> str:
    rows = [
        [
            promised.data,
            found.goal,
            found.variant,
            found.split,
            *_words(found.decided.kept),
            f"{found.decided.shares['act']:.1%} / {found.decided.shares['review']:.1%}",
            _differ(found),
        ]
        for promised in document.classifiers
        for found in promised.found
    ]
    heads = ("data", "promised", "variant", "texts", "found, 95 %", "act / review", "unlike fp32, 95 %")
    return _github(rows, heads)


def _words(kept: Sequence[Kept]) -> list[str]:
    return ["; ".join(f"{promise.found:.1%} ({promise.low:.1%} to {promise.high:.1%})" for promise in kept)]


def _differ(found: Found) -> str:
    if found.variant == "fp32":
        return ""
    differ = found.decided.differ
    return f"{differ.rate:.2%} ({differ.low:.2%} to {differ.high:.2%})"


def _drawn(document: Promises) -> str:
    rows = [
        [
            promised.data,
            goal.goal,
            goal.refused or f"act {_score(goal.act)}, review {_score(goal.review)}",
            f"{goal.promised} of {goal.draws}",
            f"{goal.broken} of {goal.draws}",
        ]
        for promised in document.classifiers
        for goal in promised.goals
    ]
    return _github(rows, ("data", "asked for", "fitted to validation", "draws with a promise", "broken"))


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _github(rows: Sequence[Sequence[object]], heads: Sequence[str]) -> str:
    return tabulate(rows, heads, "github", disable_numparse=True)


def note(document: Promises) -> str:
    """How to read the tables."""
    fitted = " and ".join(f"{promised.fitted:,} ({promised.data})" for promised in document.classifiers)
    return (
        f"Bands are fitted to fp32's scores of {fitted} validation texts, with 95 % confidence. The first "
        "table is what other texts show of each promise, with its exact interval. Gate is carved from the "
        "data's own train; test is as its authors published it. For the second, validation and gate are "
        "taken as all texts there are, and bands are fitted to as many texts as validation has. Of "
        "100 draws, at most 5 should break their promise."
    )
