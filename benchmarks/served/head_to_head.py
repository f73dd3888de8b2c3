"""Servers compared: the archive behind TorchServe and the app, and what others would serve.

All are up at once and loaded in turns of a few seconds, so that what drifts hits all alike. Client and
servers share the cores.
"""

import json
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from msgspec.structs import asdict

from benchmarks import environment
from benchmarks.baselines.servers import BASELINE_SERVERS, baseline_archive
from benchmarks.names import APP, BARE
from benchmarks.profiles import MANY_TEXTS
from benchmarks.progress import Step
from benchmarks.records import Level, Machine
from benchmarks.served.run import Running, as_bodies, as_lists, describe, serve, serve_app
from benchmarks.served.torchserve_metrics import read_counters
from common.environment import commit
from common.proxies import open_url
from common.records import Positive, Record, Some
from deploy.tuning.load import Load, closed_loop
from handler.artifact import unpacked
from handler.predictor import Predictor

CONCURRENCIES = (1, 8, 32)
FIRST_ANSWERS = 20
WARM_S = 0.5


class Range(Record):
    """Over the rounds."""

    median: float
    least: float
    most: float


class ServerLevel(Level, kw_only=True):
    """`ours_by_theirs` is of the rates in the same round."""

    name: str
    ours_by_theirs: Range


class LoadLevel(Record):
    concurrency: Some
    servers: list[ServerLevel]


class FirstAnswers(Record):
    """Milliseconds of the first answer, of later ones, and of the worst text of a new and of a known
    length."""

    first_ms: float
    later_p50_ms: float
    new_length_worst_ms: float
    known_length_worst_ms: float
    new_by_known_p50: float


class ManyTexts(Record):
    """In process and by HTTP; shares are of the rate in process."""

    texts_per_second: dict[str, float]
    share: dict[str, Range]


class Costs(Record):
    """Milliseconds of a lone request: by HTTP, of a handler that does nothing, in ours, and in process."""

    http: Range
    handler: Range
    predictor: Range
    bare: Range


class Start(Record):
    ready_s: float
    archive_mb: float
    worker_rss_mb: float
    worker_uss_mb: float | None = None  # an older document has it


class HeadToHead(Record):
    """Our archive behind HTTP, and what others would serve."""

    schema: Literal[1]
    ours: str
    machine: Machine
    commit: str | None
    load_average_before: float | None
    rounds: Some
    seconds: Positive
    loads: Annotated[list[LoadLevel], Meta(min_length=1)]
    first: dict[str, FirstAnswers]
    many: ManyTexts
    cost: Costs
    starts: dict[str, Start]


def measure(
    archives: Mapping[str, Path],
    checkpoint: Path,
    texts: Sequence[str],
    rounds: int,
    seconds: float,
    step: Step,
) -> HeadToHead:
    """The document: the first of `archives` against the baselines, and start-up and memory of all of them."""
    ours = next(iter(archives))
    load = environment.load_average()
    turns = Turns(rounds, seconds, step)
    with tempfile.TemporaryDirectory(prefix="head-to-head-") as scratch:
        folder = Path(scratch)
        bare = baseline_archive(BARE, "bare_handler.py", None, folder)
        starts = _starts({BARE: bare, **archives}, texts[0], step)
        predictor = Predictor(unpacked(archives[ours], folder))
        predictor.warm()
        with ExitStack() as stack:
            nothing = stack.enter_context(serve(bare))
            servers = {
                name: stack.enter_context(server)
                for name, server in _servers(ours, archives[ours], checkpoint).items()
            }
            with step("first answers"):
                first = {name: first_answers(server.predictions, texts) for name, server in servers.items()}
            loads = turns.closed_loops(servers, texts)
            many = turns.many(servers[ours], predictor, texts)
            cost = turns.cost(servers[ours], nothing, predictor, texts[0])
    return HeadToHead(
        schema=1,
        ours=ours,
        machine=environment.fingerprint(),
        commit=commit(),
        load_average_before=load,
        rounds=rounds,
        seconds=seconds,
        loads=loads,
        first=first,
        many=many,
        cost=cost,
        starts=starts,
    )


def _servers(ours: str, archive: Path, checkpoint: Path) -> dict[str, AbstractContextManager[Running]]:
    """What takes turns: the archive behind TorchServe and the app, and every baseline of the suite."""
    others = {name: baseline.serve(checkpoint) for name, baseline in BASELINE_SERVERS.items()}
    return {ours: serve(archive), APP: serve_app(archive), **others}


def _starts(archives: Mapping[str, Path], text: str, step: Step) -> dict[str, Start]:
    found = {}
    for name, archive in archives.items():
        with step(f"start of {name}"), serve(archive) as running:
            _ask(running.predictions, text)
            found[name] = Start(
                ready_s=running.ready_s,
                archive_mb=archive.stat().st_size / 1e6,
                worker_rss_mb=running.worker.memory_info().rss / 1e6,
            )
    return found


def steps(archives: int, rounds: int, seconds: float) -> dict[str, tuple[int, float]]:
    """The steps of `measure` for the progress bar: how many of each kind, and the seconds of one."""
    return {
        "start": (archives + 1, 8),
        "first": (1, 60),
        "concurrency": (rounds * len(CONCURRENCIES) * (2 + len(BASELINE_SERVERS)), seconds + WARM_S),
        "many": (rounds, 3 * seconds),
        "cost": (rounds, 3 * seconds),
    }


@dataclass(frozen=True)
class Turns:
    """Measurements that take turns: `rounds` of them, each of `seconds`."""

    rounds: int
    seconds: float
    step: Step

    def closed_loops(self, servers: Mapping[str, Running], texts: Sequence[str]) -> list[LoadLevel]:
        """By concurrency: each server's latencies and rate, and ours (the first) over theirs in the same
        rounds."""
        bodies = as_bodies(texts)
        names = list(servers)
        loads: dict[int, dict[str, list[Load]]] = {level: {} for level in CONCURRENCIES}
        for turn in range(self.rounds):
            order = np.random.default_rng(turn).permutation(len(names))
            for level, by_name in loads.items():
                for name in (names[place] for place in order):
                    with self.step(f"concurrency {level}: {name}"):
                        load = closed_loop(servers[name].predictions, bodies, level, self.seconds, WARM_S)
                    by_name.setdefault(name, []).append(load)
        return [
            LoadLevel(concurrency=level, servers=_levels(names[0], by_name))
            for level, by_name in loads.items()
        ]

    def many(self, us: Running, predictor: Predictor, texts: Sequence[str]) -> ManyTexts:
        """Requests of `MANY_TEXTS`, one at a time and four at a time, and the Predictor in process."""
        lists = [list(texts[start : start + MANY_TEXTS]) for start in range(0, len(texts), MANY_TEXTS)]
        lists = [part for part in lists if len(part) == MANY_TEXTS]
        bodies = as_lists(texts)
        rates: dict[str, list[float]] = {"in process": [], "http, 1 client": [], "http, 4 clients": []}
        for _ in range(self.rounds):
            with self.step("many texts in one request"):
                rates["in process"].append(MANY_TEXTS * _in_process(predictor, lists, self.seconds))
                for clients, key in ((1, "http, 1 client"), (4, "http, 4 clients")):
                    load = closed_loop(us.predictions, bodies, clients, self.seconds, WARM_S)
                    rates[key].append(MANY_TEXTS * load.requests_per_second)
        inside = rates["in process"]
        return ManyTexts(
            texts_per_second={key: float(np.median(values)) for key, values in rates.items()},
            share={key: over_rounds(np.divide(values, inside)) for key, values in rates.items()},
        )

    def cost(self, us: Running, nothing: Running, predictor: Predictor, text: str) -> Costs:
        """Where the time of one lone request goes, in milliseconds: the same text again and again."""
        found: dict[str, list[float]] = {"http": [], "handler": [], "predictor": [], "bare": []}
        for _ in range(self.rounds):
            with self.step("cost of a request"):
                found["predictor"].append(1000 / _in_process(predictor, [[text]], self.seconds))
                before = counters(us)
                load = closed_loop(us.predictions, as_bodies([text]), 1, self.seconds, 0)
                spent = [after - start for start, after in zip(before, counters(us), strict=True)]
                found["http"].append(float(np.median(load.latencies_ms)))
                found["handler"].append(1000 * spent[0] / spent[1])
                load = closed_loop(nothing.predictions, as_bodies([text]), 1, self.seconds, WARM_S)
                found["bare"].append(float(np.median(load.latencies_ms)))
        return Costs(**{key: over_rounds(values) for key, values in found.items()})


def first_answers(url: str, texts: Sequence[str]) -> FirstAnswers:
    """Milliseconds of the first answer and of later ones to the same text, then of each new length.

    Lengths rise by words of the real texts; `later` is the median of three more of the same.
    """
    first, *later = (_ask(url, texts[0]) for _ in range(FIRST_ANSWERS))
    words = " ".join(texts).split()
    lengths = []
    for count in range(1, 100, 3):
        text = " ".join(words[count : 2 * count])
        new, *again = (_ask(url, text) for _ in range(4))
        lengths.append((new, float(np.median(again))))
    return FirstAnswers(
        first_ms=first,
        later_p50_ms=float(np.median(later)),
        new_length_worst_ms=max(new for new, _ in lengths),
        known_length_worst_ms=max(again for _, again in lengths),
        new_by_known_p50=float(np.median([new / again for new, again in lengths])),
    )


def counters(running: Running) -> tuple[float, float]:
    """Seconds in the handler and requests so far, as Prometheus would read them."""
    assert running.metrics is not None
    time.sleep(2.5)  # the worker hands its sums over once a second
    found = read_counters(running.metrics)
    return found.get("classifier_handler_seconds", 0.0), found.get("classifier_requests", 0.0)


def _levels(ours: str, by_name: Mapping[str, list[Load]]) -> list[ServerLevel]:
    found = []
    for name, loads in by_name.items():
        pairs = zip(by_name[ours], loads, strict=True)
        # A server that answered nothing in a turn is given one answer, so that the run is not lost.
        ratios = [a.requests_per_second / max(b.requests_per_second, 1 / b.seconds) for a, b in pairs]
        level = asdict(describe(loads))
        found.append(ServerLevel(**level, name=name, ours_by_theirs=over_rounds(ratios)))
    return found


def over_rounds(values: Sequence[float] | np.ndarray) -> Range:
    """Median, least and most: of so few rounds an interval would pretend."""
    median, least, most = float(np.median(values)), float(np.min(values)), float(np.max(values))
    return Range(median=median, least=least, most=most)


def _in_process(predictor: Predictor, lists: Sequence[Sequence[str]], seconds: float) -> float:
    """Lists a second, from strings to answers as JSON."""
    calls = 0
    begun = time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        part = lists[calls % len(lists)]
        json.dumps([predictor.answer(prediction) for prediction in predictor.predict(part)])
        calls += 1
    return calls / taken


def _ask(url: str, text: str) -> float:
    """Milliseconds of one request on a connection of its own."""
    request = urllib.request.Request(url, as_bodies([text])[0], {"Content-Type": "application/json"})
    begun = time.perf_counter()
    with open_url(request, 60) as response:
        response.read()
    return 1000 * (time.perf_counter() - begun)
