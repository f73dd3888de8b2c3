"""A comparison of servers for people: for each model a table, and who was left out and why."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.served.entrants import TORCHSERVE
from benchmarks.served.head_to_head import Range
from benchmarks.served.servers import ServerFound, Servers, WithModel

MODELS = {
    "pipeline": "transformers' pipeline, fp32 (ours: the archive)",
    "constant": "a model that costs nothing: each server's own limit",
}
HEADS = (
    "clients",
    "server",
    "requests/s",
    "by ours (range)",
    "p50 ms",
    "p99 ms",
    "failed",
    "CPU ms, server",
    "CPU ms, clients",
)


def page(document: Servers) -> str:
    """The document as Markdown."""
    return "# Servers that others would pick\n\n" + excerpt(document) + "\n"


def excerpt(document: Servers) -> str:
    return "\n\n".join(section(found) for found in document.models)


def section(found: WithModel) -> str:
    """One model: its table, then what was not measured, then under which conditions."""
    what = MODELS.get(found.model, f"the artifact {found.model} behind every server")
    return "\n\n".join(part for part in (f"**{what}**", table(found), left_out(found), note(found)) if part)


def table(found: WithModel) -> str:
    """Closed loops by clients, then the same arrivals at all servers."""
    rows: list[Sequence[Any]] = []
    levels = dict.fromkeys(level.concurrency for server in found.servers for level in server.closed)
    for clients in levels:
        for server in found.servers:
            rows += [
                (
                    clients,
                    server.name,
                    f"{level.requests_per_second:.0f}",
                    "" if server.name == TORCHSERVE else _times(level.by_ours),
                    _number(level.p50_ms),
                    _number(level.p99_ms),
                    sum(level.errors.values()),
                    f"{level.cpu.server_ms:.2f}",
                    f"{level.cpu.client_ms:.2f}",
                )
                for level in server.closed
                if level.concurrency == clients
            ]
    rows += [_open_row(server) for server in found.servers if server.open]
    return tabulate(rows, HEADS, tablefmt="github", disable_numparse=True) if rows else ""


def _open_row(server: ServerFound) -> Sequence[Any]:
    assert server.open
    level = server.open.level
    return (
        f"{level.offered_rps:.0f}/s",
        server.name,
        f"{level.answered_rps:.0f}",
        "",
        _number(level.p50_ms),
        _number(level.p99_ms),
        sum(level.errors.values()),
        f"{server.open.cpu.server_ms:.2f}",
        f"{server.open.cpu.client_ms:.2f}",
    )


def left_out(found: WithModel) -> str:
    return "\n".join(
        f"- {server.name}: {server.error.rstrip('.')}." for server in found.servers if server.error
    )


def note(found: WithModel) -> str:
    """What the servers are, and what they ran on."""
    machine = found.machine
    measured = [server for server in found.servers if server.closed]
    parts = [
        "; ".join(_described(server) for server in measured) + "." if measured else "",
        f"All ran at once and were loaded in turns of {found.seconds:g} s, {found.rounds} rounds; ranges are "
        f"over rounds. Before that, {found.checked} texts got their right labels from each, asked at once.",
        f"{machine.cpu}, {machine.cores} cores, shared by clients and servers; load average before "
        f"{found.load_average_before}; {found.started_at}, commit {found.commit}.",
    ]
    if idle := [
        f"{server.name} {server.idle_cores:.2f}" for server in measured if (server.idle_cores or 0) > 0.01
    ]:
        parts.append(f"Cores taken while others were asked: {', '.join(idle)}.")
    return "\n".join(f"- {part}" for part in parts if part)


def _described(server: ServerFound) -> str:
    version = next(iter(server.versions.values()), "")
    return f"{server.name}{f' {version}' if version else ''}: {server.summary}"


def _number(value: float | None) -> str:
    return "too few" if value is None else f"{value:.1f}"


def _times(found: Range | None) -> str:
    return "" if found is None else f"{found.median:.2f}x ({found.least:.2f} to {found.most:.2f})"
