"""What the app lost while everything happened to it at once, as a study found it: the record and its page."""

from typing import Any

from tabulate import tabulate

from common.records import Count, NotNegative, Positive, Record, Some

NAME = "app-soak"  # of the file


class Memory(Record):
    """In MB: of all processes together."""

    before: Positive
    after: Positive
    most: Positive


class AppSoak(Record):
    """`answers` by status and the key that was sent; requests `lost` that the killed worker held, and others;
    `faults` are what should not have been."""

    machine: dict[str, Any]
    variants: list[str]
    seconds: Positive
    clients: Some
    idle: Some
    answers: dict[str, Count]
    p50_ms: NotNegative | None
    p99_ms: NotNegative | None
    lost_with_the_worker: Count
    lost_otherwise: Count
    wrong: dict[str, Count]
    reloads: dict[str, NotNegative]
    restarts: Count
    cut_for_not_reading: Count
    idle_connections_closed: Count
    memory_mb: Memory
    faults: list[str]


def page(found: AppSoak) -> str:
    """All of it as Markdown."""
    return f"# The app while everything happens at once\n\n{excerpt(found)}\n"


def excerpt(found: AppSoak) -> str:
    memory = found.memory_mb
    latencies = [f"{each:.0f}" for each in (found.p50_ms, found.p99_ms) if each is not None]
    rows = [
        *((f"answers: {name}", f"{count:,}") for name, count in found.answers.items()),
        ("answered wrongly", sum(found.wrong.values())),
        ("lost with the killed worker", found.lost_with_the_worker),
        ("lost otherwise", found.lost_otherwise),
        ("p50 and p99 of 200s, ms", ", ".join(latencies)),
        ("models reloaded, in each worker", f"{sum(found.reloads.values()):g}"),
        ("workers started again", found.restarts),
        ("connections cut for not reading", found.cut_for_not_reading),
        ("idle connections closed, then reopened", f"{found.idle_connections_closed:,}"),
        ("memory, MB: before, after, most", f"{memory.before:.0f}, {memory.after:.0f}, {memory.most:.0f}"),
        ("faults", "; ".join(found.faults) or "none"),
    ]
    note = (
        f"{' and '.join(found.variants)} in two workers for {found.seconds:g} s: {found.clients} clients "
        f"that wait, half of whose requests have a wrong key; {found.idle:,} idle connections; a client that "
        "never reads; a reload of each model; a worker killed. "
        f"{found.machine['cpu']}, {found.machine['cores']} cores."
    )
    return f"{tabulate(rows, ('what', 'found'), 'github', disable_numparse=True)}\n\n{note}"
