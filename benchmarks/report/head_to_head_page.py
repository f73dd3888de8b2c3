"""A head-to-head document for people: Markdown, and the one table that the README shows."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.names import BARE, SUMMARIES
from benchmarks.profiles import MANY_TEXTS
from benchmarks.served.head_to_head import HeadToHead, Range


def page(document: HeadToHead) -> str:
    """The document as Markdown."""
    ours = document.ours
    parts = [f"# {ours} and what others would serve\n"]
    parts.append("## One text per request, closed loop\n\n" + loads_table(document) + "\n")
    parts.append(note(document))
    rows = [
        [name, *(f"{getattr(found, key):.1f}" for key in _FIRST), f"{found.new_by_known_p50:.2f}x"]
        for name, found in document.first.items()
    ]
    heads = ["server", "first", "later, p50", "worst new length", "worst known length", "new / known, p50"]
    parts.append("\n## First answers, in milliseconds\n\n" + _table(rows, heads))
    many = document.many
    rows = [[key, f"{rate:.0f}", _percent(many.share[key])] for key, rate in many.texts_per_second.items()]
    heads = ["", "texts/s", "share of in process"]
    parts.append(f"\n## Requests of {MANY_TEXTS} texts\n\n" + _table(rows, heads))
    rows = [[what, _milliseconds(getattr(document.cost, key))] for key, what in _COSTS.items()]
    parts.append("\n## Cost of a single request\n\n" + _table(rows, ["", "ms (min to max)"]))
    bare = document.starts[BARE]
    rows = [
        [
            name,
            f"{found.ready_s:.1f}",
            f"{found.worker_rss_mb:.0f}",
            f"{found.worker_rss_mb - bare.worker_rss_mb:+.0f}",
            f"{found.archive_mb:.0f}",
        ]
        for name, found in document.starts.items()
    ]
    heads = ["archive", "start to ready, s", "worker, MB resident", "above bare", "archive, MB"]
    parts.append("\n## Start-up and memory\n\n" + _table(rows, heads))
    return "\n".join(parts) + "\n"


_FIRST = ("first_ms", "later_p50_ms", "new_length_worst_ms", "known_length_worst_ms")
_COSTS = {
    "http": "as the client sees it",
    "bare": "of that, TorchServe with a handler that does nothing",
    "handler": "in our handler, from request bodies to response bodies",
    "predictor": "in process, from a string to the answer as JSON",
}


def note(document: HeadToHead) -> str:
    """What the servers are, and what they ran on."""
    machine = document.machine
    names = [server.name for server in document.loads[0].servers]
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return "\n".join(
        (
            f"- {document.ours}: this project's archive. "
            + " ".join(f"{name}: {SUMMARIES[name]}." for name in SUMMARIES if name in names),
            f"- All servers ran at once and were loaded in turns of {document.seconds:g} s; ranges are over "
            f"{document.rounds} rounds. {machine.cpu}, {machine.cores} cores, shared by clients and servers; "
            f"load average before the run {document.load_average_before}.",
            f"- Software: {versions}; commit {document.commit}.",
        )
    )


def loads_table(document: HeadToHead) -> str:
    """Requests a second, p50 and p99 of each server at each concurrency, and our rate divided by theirs."""
    rows = []
    for level in document.loads:
        for server in sorted(level.servers, key=lambda server: server.name != document.ours):
            ratio = server.ours_by_theirs
            rows.append(
                [
                    level.concurrency,
                    server.name,
                    f"{server.requests_per_second:.1f}",
                    _number(server.p50_ms),
                    _number(server.p99_ms),
                    sum(server.errors.values()),
                    "" if server.name == document.ours else _times(ratio),
                ]
            )
    heads = ["clients", "server", "requests/s", "p50 ms", "p99 ms", "errors", "ours / theirs (range)"]
    return _table(rows, heads)


def _table(rows: Sequence[Sequence[Any]], heads: Sequence[str]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _number(value: float | None) -> str:
    return "too few" if value is None else f"{value:.1f}"


def _times(found: Range) -> str:
    return f"{found.median:.1f}x ({found.least:.1f} to {found.most:.1f})"


def _percent(found: Range) -> str:
    return f"{found.median:.0%} ({found.least:.0%} to {found.most:.0%})"


def _milliseconds(found: Range) -> str:
    return f"{found.median:.2f} ({found.least:.2f} to {found.most:.2f})"
