"""Our archive and app beside the servers that others would pick, with the same model behind each.

For each model all servers that can have it are up at once and loaded in turns of a few seconds, so that what
drifts hits all alike. Clients and servers share the cores; the CPU time of each is counted apart.
"""

import http.client
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
from msgspec import Meta
from msgspec.structs import asdict

from benchmarks import environment
from benchmarks.baselines.handlers import served_model
from benchmarks.baselines.handlers.served_model import CONSTANT
from benchmarks.baselines.public_servers import ask, tree
from benchmarks.progress import Step, progress
from benchmarks.records import Level, Machine, OpenLevel
from benchmarks.served.entrants import Entry, entries
from benchmarks.served.head_to_head import Range, over_rounds
from benchmarks.served.open_loop import Arrivals, describe_open, open_loop
from benchmarks.served.run import Running, describe
from common.commands import say
from common.environment import commit
from common.records import Count, NotNegative, Positive, Record, Share, Some, Text
from deploy.tuning.load import Load, closed_loop
from handler.artifact import unpacked
from handler.errors import UserError

CHECKED = 64  # texts, asked by as many clients as fill a batch
CLIENTS = 32
LEAST_RIGHT = 0.98  # a batch may move a text at the threshold; an answer to another text would be worse
WARM_S = 0.5
OPEN_SHARE = 0.5  # of what the slowest does
GOOD_MS = 100.0
OPEN = 0  # the level of arrivals that wait for nothing


class Cpu(Record):
    """Milliseconds of CPU time for each answer: of all processes of the server, and of the clients."""

    server_ms: NotNegative
    client_ms: NotNegative


class ClosedLevel(Level, kw_only=True):
    """`by_ours` is its rate divided by that of our archive in the same round."""

    by_ours: Range | None
    cpu: Cpu


class OpenTurns(Record):
    """The same arrivals at every server."""

    level: OpenLevel
    cpu: Cpu


class ServerFound(Record):
    """One server with one model. `error` says why it is missing or what went wrong; `right` is the share of
    answers with the label that the model gives alone; `idle_cores` is what it takes while others are
    asked."""

    name: Text
    summary: str
    documentation: str
    versions: dict[str, str]
    closed: list[ClosedLevel]
    error: str | None = None
    ready_s: Positive | None = None
    right: Share | None = None
    idle_cores: NotNegative | None = None
    open: OpenTurns | None = None


class WithModel(Record):
    """All servers with one model: the pipeline, a variant by its name, or a constant."""

    model: Text
    archive: Text
    started_at: Text
    commit: str | None
    machine: Machine
    load_average_before: float | None
    rounds: Some
    seconds: Positive
    checked: Count
    servers: Annotated[list[ServerFound], Meta(min_length=1)]


class Servers(Record):
    schema: Literal[1]
    models: Annotated[list[WithModel], Meta(min_length=1)]


@dataclass(frozen=True)
class Plan:
    """How it is measured: `clients` of the closed loops, `rounds` of turns of `seconds`."""

    clients: tuple[int, ...]
    rounds: int
    seconds: float


@dataclass
class Measured:
    """What was found of one server so far: `loads` by clients, and `spent_s` of CPU by clients or `OPEN`."""

    entry: Entry
    error: str | None = None
    running: Running | None = None
    right: float | None = None
    loads: dict[int, list[Load]] = field(default_factory=dict)
    opens: list[Arrivals] = field(default_factory=list)
    spent_s: dict[int, float] = field(default_factory=dict)
    asked_s: float = 0.0
    asked_cpu_s: float = 0.0
    idle_cores: float | None = None

    @contextmanager
    def counted(self, level: int | None = None) -> Iterator[None]:
        """A turn, whose CPU time counts for `level`."""
        begun, before = time.perf_counter(), cpu_s(self.running)
        yield
        spent = cpu_s(self.running) - before
        self.asked_cpu_s += spent
        self.asked_s += time.perf_counter() - begun
        if level is not None:
            self.spent_s[level] = self.spent_s.get(level, 0.0) + spent

    def cpu(self, level: int, requests: int, clients_s: float) -> Cpu:
        each = 1000 / max(1, requests)
        return Cpu(server_ms=max(0.0, self.spent_s[level] * each), client_ms=clients_s * each)


def compare(
    before: Servers | None,
    model: str,
    archives: Mapping[str, Path],
    checkpoint: Path,
    names: Sequence[str],
    baselines: Path,
    texts: Sequence[str],
    plan: Plan,
) -> Servers:
    """The document with one model measured anew; what it has of others stays. Pipelines and constants stand
    beside the first of `archives`."""
    archive = archives.get(model) or next(iter(archives.values()))
    with tempfile.TemporaryDirectory(prefix="servers-") as scratch:
        artifact = unpacked(archive, Path(scratch)).folder
        taking_part = entries(model, archive, artifact, checkpoint, baselines, names)
        with progress(steps(len(taking_part), plan)) as step:
            found = measure(model, archive, taking_part, texts, plan, step)
    others = [kept for kept in (before.models if before else []) if kept.model != model]
    return Servers(schema=1, models=[*others, found])


def steps(servers: int, plan: Plan) -> dict[str, tuple[int, float]]:
    """The steps of one model for the progress bar: how many of each kind, and the seconds of one."""
    turn_s = plan.seconds + WARM_S
    return {
        "start": (servers, 8),
        "closed": (servers * plan.rounds * len(plan.clients), turn_s),
        "open": (servers * plan.rounds, turn_s),
    }


def measure(
    model: str,
    archive: Path,
    entries: Sequence[Entry],
    texts: Sequence[str],
    plan: Plan,
    step: Step,
) -> WithModel:
    """One model behind all servers: started, checked, and asked in turns."""
    load = environment.load_average()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    checked = texts[:CHECKED]
    labels = {made: expected(*made, checked) for made in dict.fromkeys(entry.made_of for entry in entries)}
    measured = [Measured(entry, error=entry.lacks) for entry in entries]
    with ExitStack() as stack:
        for each in measured:
            with step(f"start {each.entry.name}"):
                _start(each, stack, checked, labels[each.entry.made_of])
        asked = [each for each in measured if each.error is None]
        if asked:
            _ask_in_turns(asked, texts, plan, step)
    return WithModel(
        model=model,
        archive=archive.stem,
        started_at=started,
        commit=commit(),
        machine=environment.fingerprint(),
        load_average_before=load,
        rounds=plan.rounds,
        seconds=plan.seconds,
        checked=len(checked),
        servers=[_found(each, measured[0]) for each in measured],
    )


def expected(model: str, folder: Path, texts: Sequence[str]) -> list[str] | None:
    """The label that the model gives each text alone; None of a constant."""
    if model == CONSTANT:
        return None
    classify = served_model.model_of(model, folder)
    return [label_of(classify([text])[0]) for text in texts]


def label_of(answer: Any) -> str:
    """What was decided, of one label or several."""
    return str(answer["label"] if "label" in answer else answer["labels"])


def _start(each: Measured, stack: ExitStack, texts: Sequence[str], labels: Sequence[str] | None) -> None:
    if each.error is not None:
        say(f"{each.entry.name} is left out: {each.error}")
        return
    try:
        each.running = stack.enter_context(each.entry.serve())
        each.right = right(each.entry, each.running.predictions, texts, labels)
        if each.right < LEAST_RIGHT:
            each.error = f"only {each.right:.0%} of its answers were right"
    except (UserError, OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        each.error = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if each.error:
        say(f"{each.entry.name}: {each.error}")


def right(entry: Entry, url: str, texts: Sequence[str], labels: Sequence[str] | None) -> float:
    """The share of `texts` that get their label while so many are asked at once that batches form. Without
    labels, all are to get the same."""
    with ThreadPoolExecutor(CLIENTS) as threads:
        found = [
            label_of(entry.answer(answer)) for answer in threads.map(partial(ask, url), entry.bodies(texts))
        ]
    wanted = labels or [found[0]] * len(found)
    return float(np.mean([one == other for one, other in zip(found, wanted, strict=True)]))


def _ask_in_turns(asked: Sequence[Measured], texts: Sequence[str], plan: Plan, step: Step) -> None:
    """All rounds of closed loops, then of the same arrivals at all, which leave the slowest some time."""
    begun, before = time.perf_counter(), [cpu_s(each.running) for each in asked]
    for turn in range(plan.rounds):
        for level in plan.clients:
            for each in _shuffled(asked, turn):
                with step(f"closed {level}: {each.entry.name}"):
                    _closed(each, texts, level, plan.seconds)
    answering = [each for each in asked if _rate(each) > 0]
    rate = OPEN_SHARE * min(map(_rate, answering), default=0.0)
    for turn in range(plan.rounds):
        for each in _shuffled(answering, turn):
            with step(f"open {each.entry.name}"):
                _open(each, texts, rate, plan.seconds, 2 * turn)
    wall_s = time.perf_counter() - begun
    for each, spent_s in zip(asked, before, strict=True):
        others_s = max(wall_s - each.asked_s, 1e-9)
        each.idle_cores = max(0.0, cpu_s(each.running) - spent_s - each.asked_cpu_s) / others_s


def _shuffled(asked: Sequence[Measured], turn: int) -> list[Measured]:
    return [asked[place] for place in np.random.default_rng(turn).permutation(len(asked))]


def _closed(each: Measured, texts: Sequence[str], level: int, seconds: float) -> None:
    assert each.running is not None
    bodies = each.entry.bodies(texts)
    url = each.running.predictions
    with each.counted():
        closed_loop(url, bodies, level, WARM_S, 0)
    with each.counted(level):
        load = closed_loop(url, bodies, level, seconds, 0)
    each.loads.setdefault(level, []).append(load)


def _open(each: Measured, texts: Sequence[str], rate: float, seconds: float, seed: int) -> None:
    assert each.running is not None
    bodies = each.entry.bodies(texts)
    try:
        with each.counted(OPEN):
            each.opens.append(open_loop(each.running.predictions, bodies, rate, seconds, seed, warm_s=WARM_S))
    except OSError as error:  # it does not come to rest
        each.error = f"{type(error).__name__}: {error}"


def cpu_s(running: Running | None) -> float:
    """Seconds of CPU of all processes of a server that are alive, and of those that they waited for."""
    total = 0.0
    if running is not None:
        for process in tree(running.root()):
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
    return total


def _rate(each: Measured) -> float:
    """At the most clients."""
    loads = each.loads[max(each.loads)]
    return float(np.median([load.requests_per_second for load in loads]))


def _found(each: Measured, ours: Measured) -> ServerFound:
    running = each.running
    entry = each.entry
    return ServerFound(
        name=entry.name,
        summary=entry.summary,
        documentation=entry.documentation,
        versions=dict(entry.versions),
        error=each.error,
        ready_s=running.ready_s if running else None,
        right=each.right,
        idle_cores=each.idle_cores,
        closed=[_closed_level(each, level, ours) for level in each.loads],
        open=_open_turns(each) if each.opens else None,
    )


def _closed_level(each: Measured, level: int, ours: Measured) -> ClosedLevel:
    loads = each.loads[level]
    pairs = zip(loads, ours.loads.get(level, []), strict=False)
    ratios = [a.requests_per_second / b.requests_per_second for a, b in pairs if b.requests_per_second]
    found = describe(loads)
    return ClosedLevel(
        **asdict(found),
        by_ours=over_rounds(ratios) if ratios else None,
        cpu=each.cpu(level, found.requests, sum(load.cpu_s for load in loads)),
    )


def _open_turns(each: Measured) -> OpenTurns:
    sent = sum(len(load.due_s) + len(load.warm_ms) for load in each.opens)
    cpu = each.cpu(OPEN, sent, sum(load.cpu_s for load in each.opens))
    return OpenTurns(level=describe_open(each.opens, GOOD_MS), cpu=cpu)
