"""What several workers of the app are worth, as a study found it: records and a table."""

from typing import Any

from tabulate import tabulate

from benchmarks.served.head_to_head import Range
from common.records import Count, NotNegative, Positive, Record, Some, Text

NAME = "workers"  # of the file


class WorkersLevel(Record):
    """So many workers, asked by so many clients that wait; rates are over the rounds."""

    workers: Some
    clients: Some
    requests_per_second: Range
    p50_ms: NotNegative | None
    p99_ms: NotNegative | None
    errors: Count
    memory_mb: Positive


class WorkersFound(Record):
    """All of it: all have the same CPUs, which a worker's threads are divided by; a turn lasts `seconds`."""

    machine: dict[str, Any]
    variant: Text
    rounds: Some
    seconds: Positive
    levels: list[WorkersLevel]


def page(found: WorkersFound) -> str:
    """All of it as Markdown."""
    return f"# What several workers are worth\n\n{excerpt(found)}\n"


def excerpt(found: WorkersFound) -> str:
    rows = [
        (
            each.workers,
            each.clients,
            f"{each.requests_per_second.median:.0f}",
            f"{each.requests_per_second.least:.0f} to {each.requests_per_second.most:.0f}",
            "" if each.p50_ms is None else f"{each.p50_ms:.1f}",
            "" if each.p99_ms is None else f"{each.p99_ms:.1f}",
            each.errors,
            f"{each.memory_mb:.0f}",
        )
        for each in found.levels
    ]
    heads = ("workers", "clients", "requests/s", "rounds", "p50, ms", "p99, ms", "errors", "memory, MB")
    note = (
        f"{found.variant}; {found.rounds} rounds of {found.seconds:g} s there and back, clients on the "
        f"servers' cores; {found.machine['cpu']}, {found.machine['cores']} cores."
    )
    return f"{tabulate(rows, heads, 'github', disable_numparse=True)}\n\n{note}"
