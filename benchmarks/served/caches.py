"""What a cache of answers was forecast to save, and what it saved, as a study found it."""

from typing import Any

from tabulate import tabulate

from common.records import Count, NotNegative, Positive, Record, Share, Some, Text

NAME = "cache"  # of the file


class CacheRound(Record):
    """One new server with a cache of so many `entries`, which got all texts in their order. Milliseconds are
    those of the model's thread for a text."""

    entries: Count
    forecast_share: Share
    share: Share
    forecast_ms: Positive
    ms: Positive
    requests_per_second: Positive
    p50_ms: NotNegative
    p99_ms: NotNegative


class CacheFound(Record):
    machine: dict[str, Any]
    variant: Text
    texts: Some
    distinct: Some
    clients: Some
    rounds: list[CacheRound]


def page(found: CacheFound) -> str:
    """All of it as Markdown."""
    return f"# What a cache of answers saves\n\n{excerpt(found)}\n"


def excerpt(found: CacheFound) -> str:
    rows = [
        (
            f"{each.entries:,}" if each.entries else "none",
            f"{each.forecast_share:.1%}",
            f"{each.share:.1%}",
            f"{each.forecast_ms:.2f}",
            f"{each.ms:.2f}",
            f"{each.requests_per_second:.0f}",
            f"{each.p50_ms:.0f}",
            f"{each.p99_ms:.0f}",
        )
        for each in found.rounds
    ]
    heads = (
        "cache, texts",
        "answered: forecast",
        "seen",
        "ms a text: forecast",
        "seen",
        "requests/s",
        "p50, ms",
        "p99, ms",
    )
    note = (
        f"{found.variant}; {found.texts:,} requests of {found.distinct:,} texts, {found.clients} clients on "
        "the server's cores, a new server for each row. Milliseconds are those of the model's thread. "
        f"{found.machine['cpu']}, {found.machine['cores']} cores."
    )
    return f"{tabulate(rows, heads, 'github', disable_numparse=True)}\n\n{note}"
