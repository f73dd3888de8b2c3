"""What our servers cost on top of the model, as a study found it: records and tables."""

from typing import Any

from tabulate import tabulate

from benchmarks.served.head_to_head import Range
from common.records import NotNegative, Positive, Record, Some, Text

NAME = "overhead"  # of the file


class Batched(Record):
    """One server with so many clients that wait: it formed batches of `batch` requests on average, in each of
    `rounds` rounds. `share` is its rate divided by that of the Predictor with batches of that size, the CPU
    time of the clients set apart. CPU times are of an answer: the worker's, and Java's where there is one."""

    server: Text
    clients: Some
    batch: Positive
    requests_per_second: Range
    predictor_per_second: Range
    share: Range
    worker_ms: NotNegative
    java_ms: NotNegative | None
    client_ms: NotNegative


class Difference(Record):
    """The app's latency less the Predictor's, in ms: a 95 % interval from the turns, drawn again."""

    app_ms: Positive
    predictor_ms: Positive
    difference_ms: float
    low_ms: float
    high_ms: float


class Lone(Record):
    """One client that waits for each answer, in turns with the Predictor on the same texts."""

    turns: Some
    texts: Some
    p50: Difference
    p99: Difference


class OfArchive(Record):
    variant: Text
    batched: list[Batched]
    lone: Lone


class Overhead(Record):
    """All of it: each closed loop lasts `seconds`."""

    machine: dict[str, Any]
    rounds: Some
    seconds: Positive
    archives: list[OfArchive]


def page(found: Overhead) -> str:
    """All of it as Markdown."""
    return f"# What our servers cost on top of the model\n\n{excerpt(found)}\n"


def excerpt(found: Overhead) -> str:
    """Both tables, and how to read them."""
    return f"{batched_table(found)}\n\n{lone_table(found)}\n\n{note(found)}"


def batched_table(found: Overhead) -> str:
    rows = [
        (
            archive.variant,
            each.server,
            each.clients,
            f"{each.batch:.1f}",
            f"{each.requests_per_second.median:.0f}",
            f"{each.predictor_per_second.median:.0f}",
            f"{each.share.median:.0%} ({each.share.least:.0%} to {each.share.most:.0%})",
            f"{each.worker_ms:.2f}",
            "" if each.java_ms is None else f"{each.java_ms:.2f}",
            f"{each.client_ms:.2f}",
        )
        for archive in found.archives
        for each in archive.batched
    ]
    heads = (
        "variant",
        "server",
        "clients",
        "batch",
        "requests/s",
        "Predictor, texts/s",
        "share (rounds)",
        "worker, ms CPU",
        "Java",
        "client",
    )
    return tabulate(rows, heads, "github", disable_numparse=True)


def lone_table(found: Overhead) -> str:
    rows = [
        (
            archive.variant,
            name,
            f"{each.app_ms:.2f}",
            f"{each.predictor_ms:.2f}",
            f"{each.difference_ms:+.2f} ({each.low_ms:+.2f} to {each.high_ms:+.2f})",
        )
        for archive in found.archives
        for name, each in (("p50", archive.lone.p50), ("p99", archive.lone.p99))
    ]
    heads = ("variant", "a lone client", "app, ms", "Predictor, ms", "difference (95 %)")
    return tabulate(rows, heads, "github", disable_numparse=True)


def note(found: Overhead) -> str:
    """How to read the tables."""
    lone = found.archives[0].lone
    sentences = [
        f"Closed loops of {found.seconds:g} s in {found.rounds} rounds, servers and Predictor in turns on "
        "the clients' cores",
        "The share counts per second of the cores that the clients left, against the Predictor with all "
        "cores and batches as large as those that the server formed",
        f"A lone client asks {lone.texts} texts in each of {lone.turns} turns; intervals are over turns",
        f"{found.machine['cpu']}, {found.machine['cores']} cores",
    ]
    return ". ".join(sentences) + "."
