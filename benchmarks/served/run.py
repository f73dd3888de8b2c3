"""The same variant as a client meets it: through TorchServe, from its archive, on this machine.

Labelled texts are sent in the very lists that were scored in process: their scores must be the same, or the
archive does not serve the artifact that was measured. Client and server share the
cores.
"""

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, cycle, islice
from math import ceil, isnan
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from msgspec import field

from benchmarks.in_process.ratios import student
from benchmarks.lateness import LEAST, is_worth_another
from benchmarks.names import REFERENCE
from benchmarks.profiles import MANY_CLIENTS, MANY_TEXTS, Profile
from benchmarks.progress import Step
from benchmarks.records import Level, Many, OpenLevel, Saturation, ServedParity
from benchmarks.resume_log import ResumeLog
from benchmarks.sameness.scores import Scores, in_lists, spread
from benchmarks.samples import LEAST_SAMPLES, percentile
from benchmarks.served.open_loop import Arrivals, describe_open, open_loop, saturation
from common.commands import say
from common.programs import command
from common.proxies import open_url
from common.records import Record
from deploy.torchserve.server import ROOT, free_ports, private_server
from deploy.tuning.load import Load, closed_loop
from handler.artifact import Artifact, archived_artifact
from handler.errors import UserError
from training.data.splits import Split

# Served scores have six decimals; two roundings of nearly the same number may be one unit apart.
ROUNDING = 1e-6 + 1e-9
READY_S = 300
WARM_S = 1.0  # at half of its capacity a queue has forgotten within a tenth of it that it was empty
TURNS = 6  # of each server
SEEDS = 1000  # of a pass: more than its visits take
# In the time in which a server at its limit would answer so many, at a sixth to a quarter of the rate, two
# visits show that few requests are late, if hardly one is (by the simulations of `late_power`).
REQUESTS_AT_MOST_RPS = 6000
MOST_STRETCH = 3


def check_archive(archive: Path, artifact: Artifact) -> None:
    """Raises `UserError` unless `archive` holds exactly `artifact`."""
    if archived_artifact(archive).sha256 != artifact.sha256:
        raise UserError(
            f"the archive is stale: its artifact differs from {artifact.folder}",
            seen=archive,
            remedy=f"Build it again: {command('export package', 'package')}; or measure in process only: "
            "--no-serve",
        )


@dataclass(frozen=True)
class Running:
    """A server that is up: where it is asked, how long it took to start, its worker process, and the address
    of its counters, if it has TorchServe's."""

    predictions: str
    ready_s: float
    worker: psutil.Process
    metrics: str | None = None

    def rss_mb(self) -> float:
        """What the worker holds in memory, and the Java process that started it where there is one."""
        processes = {self.worker, self.root()}
        return float(sum(process.memory_info().rss for process in processes) / 1e6)

    def root(self) -> psutil.Process:
        """The process that started all others of the server."""
        return (self.metrics and self.worker.parent()) or self.worker


@contextmanager
def serve(archive: Path) -> Iterator[Running]:
    """TorchServe on `archive`, ready to answer."""
    begun = time.perf_counter()
    with private_server(archive) as server:
        ready_s = time.perf_counter() - begun
        yield Running(server.predictions, ready_s, server.worker(), server.metrics)


@contextmanager
def serve_app(archive: Path, program: str = "deploy") -> Iterator[Running]:
    """The project's own app on `archive`, on a free port of loopback."""
    (port,) = free_ports(1)
    command = ["-m", program, "app", "--archive", str(archive.resolve()), "--port", str(port)]
    with launched(command, port, "/ready", "/predictions/hate", os.environ) as running:
        yield running


@contextmanager
def launched(
    command: Sequence[str], port: int, ready: str, predictions: str, environment: Mapping[str, str]
) -> Iterator[Running]:
    """A server that `python …` starts, from when its path `ready` answers 200 until it has ended."""
    begun = time.perf_counter()
    root = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment)
    try:
        while not _answers(root + ready):
            if process.poll() is not None or time.perf_counter() - begun > READY_S:
                raise UserError("uvicorn did not start", remedy="pip install '.[app]'")
            time.sleep(0.05)
        yield Running(root + predictions, time.perf_counter() - begun, psutil.Process(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:  # it works off what it was asked before it goes
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with open_url(url, 5):
            return True
    except (OSError, http.client.HTTPException):
        return False


class Pass(Record):
    """One server from start to stop: `ready_s` None where it did not start, `rss_mb` after the loads,
    `scores` by split (rows of labels; None: no answer), and the `error` after which nothing more was
    measured."""

    ready_s: float | None = None
    rss_mb: float | None = None
    error: str | None = None
    loads: list[Load] = field(default_factory=list)
    opens: list[Arrivals] = field(default_factory=list)
    many: list[Load] = field(default_factory=list)
    scores: dict[str, list[list[float | None]]] = field(default_factory=dict)


class Turns(Record):
    """Requests per second at the highest concurrency, by variant and turn; none where a server failed."""

    rps: dict[str, list[float]] = field(default_factory=dict)


class Served:
    """What was measured of one variant behind the server. Passes add up, whether just made or read back;
    with the first that went wrong it is over."""

    def __init__(self) -> None:
        self.loads: dict[int, list[Load]] = {}
        self.many: list[Load] = []
        self.opens: dict[float, list[Arrivals]] = {}
        self.scores: Scores = {}
        self.ready_s: list[float] = []
        self.rss_mb: list[float] = []
        self.turns: list[float] = []
        self.error: str | None = None

    def add(self, outcome: Pass) -> None:
        for load in outcome.loads:
            self.loads.setdefault(load.concurrency, []).append(load)
        self.many += outcome.many
        for level in outcome.opens:
            self.opens.setdefault(level.offered_rps, []).append(level)
        for split, scores in outcome.scores.items():
            self.scores[split] = np.array(scores, np.float64)
        if outcome.ready_s is not None:
            self.ready_s.append(outcome.ready_s)
        if outcome.rss_mb is not None:
            self.rss_mb.append(outcome.rss_mb)
        self.error = self.error or outcome.error

    @property
    def rates(self) -> list[float]:
        """The rates of open load so far: later passes repeat them, so that passes can be pooled."""
        return sorted(self.opens)

    def record(self) -> list[Level]:
        """The report's `served` list: one entry per concurrency, all passes together."""
        return [describe(loads) for _, loads in sorted(self.loads.items())]

    def many_record(self) -> Many | None:
        """The report's `many`: texts per second of requests of `MANY_TEXTS`; None where there were none."""
        if not self.many:
            return None
        found = describe(self.many)
        return Many(
            texts=MANY_TEXTS,
            concurrency=found.concurrency,
            passes=found.passes,
            requests=found.requests,
            p50_ms=found.p50_ms,
            errors=found.errors,
            texts_per_second=MANY_TEXTS * found.requests_per_second,
        )

    def open_record(self, objective_p99_ms: float) -> list[OpenLevel]:
        """The report's `open` list: one entry per offered rate, all passes together."""
        return [describe_open(passes, objective_p99_ms) for _, passes in sorted(self.opens.items())]

    def saturation(self) -> Saturation | None:
        """The report's `saturation`."""
        return saturation([level.requests_per_second for level in self.record()], self.opens)


def measure_served(
    archives: Mapping[str, Path],
    artifacts: Mapping[str, Artifact],
    texts: Sequence[str],
    splits: Mapping[str, Split],
    profile: Profile,
    step: Step,
    resume_log: ResumeLog,
) -> dict[str, Served]:
    """Every archive in turn, `profile.passes` times round robin; then all but the reference together. What
    fails is recorded, others go on."""
    bodies = as_bodies(texts)
    many = as_lists(texts)
    measured = {name: Served() for name in archives}
    for turn in range(profile.passes):
        scored = splits if turn == 0 else {}
        for name, archive in archives.items():
            served = measured[name]
            with step(f"serving {name}"):
                if not served.error:
                    server = serve(archive)
                    labels = artifacts[name].labels
                    asked = partial(
                        one_pass, server, labels, bodies, scored, profile, served.rates, many, turn
                    )
                    served.add(resume_log.once(f"pass {turn} of {name}", asked, Pass))
    compared = {name: archives[name] for name in measured if name != REFERENCE and not measured[name].error}
    with step("serving in turns"):
        if len(compared) > 1:
            found = resume_log.once("served in turns", partial(in_turns, compared, bodies, profile), Turns)
            for name, rps in found.rps.items():
                measured[name].turns = rps
    return measured


def in_turns(archives: Mapping[str, Path], bodies: Sequence[bytes], profile: Profile) -> Turns:
    """All servers run at once, and one at a time is loaded, there and back: what slows the machine for a
    while slows them alike, so that their rates can be compared."""
    clients = max(profile.concurrencies)
    seconds = profile.served_s / 2
    rps: dict[str, list[float]] = {name: [] for name in archives}
    try:
        with ExitStack() as stack:
            running = {name: stack.enter_context(serve(archive)) for name, archive in archives.items()}
            for turn in range(TURNS):
                for name in list(archives)[:: 1 if turn % 2 == 0 else -1]:
                    load = closed_loop(running[name].predictions, bodies, clients, seconds, seconds / 5)
                    rps[name].append(load.requests_per_second)
    except (UserError, OSError, psutil.Error, http.client.HTTPException) as error:
        say(f"not served in turns: {error}")
        return Turns()
    answered = all(rate > 0 for rates in rps.values() for rate in rates)
    return Turns(rps=rps) if answered else Turns()


def as_bodies(texts: Sequence[str]) -> list[bytes]:
    """A request for each text."""
    return [json.dumps({"text": text}).encode() for text in texts]


def as_lists(texts: Sequence[str]) -> list[bytes]:
    """Requests of `MANY_TEXTS` texts each, the texts over and over where they are fewer; what fills none is
    left out."""
    held = list(islice(cycle(texts), max(len(texts), MANY_TEXTS)))
    starts = range(0, len(held) - MANY_TEXTS + 1, MANY_TEXTS)
    return [json.dumps({"texts": held[start : start + MANY_TEXTS]}).encode() for start in starts]


def one_pass(
    server: AbstractContextManager[Running],
    labels: Sequence[str],
    bodies: Sequence[bytes],
    splits: Mapping[str, Split],
    profile: Profile,
    rates: Sequence[float] = (),
    many: Sequence[bytes] = (),
    turn: int = 0,
) -> Pass:
    """One server from start to stop: closed loops, open ones, the same closed loops again, requests of `many`
    texts (none: that is left out), scores of `splits`. `rates` are those of an earlier pass; without them
    they follow from this one's closed loops. Requests arrive otherwise in each `turn`."""
    outcome = Pass()
    try:
        with server as running:
            outcome.ready_s = running.ready_s
            outcome.loads += _closed_levels(running, bodies, profile, profile.concurrencies)
            stretch = _stretch(outcome.loads, profile)
            rates = rates or _rates(outcome.loads, profile, stretch)
            outcome.opens += _open_levels(running, bodies, profile, stretch, rates, turn)
            outcome.loads += _closed_levels(running, bodies, profile, profile.concurrencies[::-1])
            outcome.rss_mb = running.rss_mb()
            if many:
                seconds = profile.served_s
                warm_s = profile.served_s / 5
                outcome.many.append(closed_loop(running.predictions, many, MANY_CLIENTS, seconds, warm_s))
            for name, split in splits.items():
                lists = spread(in_lists(split.texts), profile.served_texts)
                rows = score_served(running.predictions, split.texts, lists, labels).tolist()
                outcome.scores[name] = [[None if isnan(score) else score for score in row] for row in rows]
    except (UserError, OSError, ValueError, KeyError, psutil.Error, http.client.HTTPException) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


def _closed_levels(
    server: Running, bodies: Sequence[bytes], profile: Profile, concurrencies: Sequence[int]
) -> Iterator[Load]:
    """One of two visits to each level."""
    seconds = profile.served_s / 2
    least = LEAST_SAMPLES[99] // 2
    for concurrency in concurrencies:
        yield closed_loop(server.predictions, bodies, concurrency, seconds, seconds / 5, least)


def _open_levels(
    server: Running,
    bodies: Sequence[bytes],
    profile: Profile,
    stretch: int,
    rates: Sequence[float],
    turn: int,
) -> list[Arrivals]:
    """Visits to each level, `stretch` times as long as the profile's: upward to the first that the server
    does not keep up with, and then down again, so that what disturbs the machine for a while does not hit a
    level alone. The lowest and those that the user asks for are visited until it is known how many requests
    are late, others twice at most."""
    seeds = count(SEEDS * turn, 2)  # the next one is for the arrivals that count for nothing
    seconds = stretch * profile.open_s
    most = dict.fromkeys((*rates[:1], *profile.extra_rates), max(2, int(profile.open_most_s // seconds)))

    def visit(rate: float) -> Arrivals:
        warm_s = min(WARM_S, seconds / 5)
        url = server.predictions
        metrics = server.metrics
        return open_loop(url, bodies, rate, seconds, next(seeds), warm_s=warm_s, metrics=metrics)

    def is_due(rate: float) -> bool:
        return is_worth_another([load.latencies_ms for load in levels[rate]], most.get(rate, 2))

    levels: dict[float, list[Arrivals]] = {}
    for rate in rates:
        levels[rate] = [visit(rate)]
        if levels[rate][0].saturated:
            break
    while due := [rate for rate in reversed(levels) if is_due(rate)]:
        for rate in due:
            levels[rate].append(visit(rate))
    return list(chain.from_iterable(levels.values()))


def _most_rps(loads: Sequence[Load]) -> float:
    """The rate at the highest concurrency."""
    return max(loads, key=lambda load: load.concurrency).requests_per_second


def _stretch(loads: Sequence[Load], profile: Profile) -> int:
    """How many times as long, and to how many times fewer levels, the visits to a slow server are."""
    needed_s = REQUESTS_AT_MOST_RPS / max(_most_rps(loads), 1e-3)
    return min(MOST_STRETCH, max(1, ceil(needed_s / (2 * profile.open_s))))


def _rates(loads: Sequence[Load], profile: Profile, stretch: int) -> list[float]:
    """Shares of the rate at the highest concurrency, in three digits, and what the user asks for. Of the
    shares at which two visits bring fewer requests than show anything, the lowest alone."""
    most_rps = _most_rps(loads)
    chosen = sorted(profile.open_shares)[::stretch]
    shares = [float(f"{share * most_rps:.3g}") for share in chosen]
    enough = {rate for rate in shares if 2 * stretch * profile.open_s * rate >= LEAST}
    return sorted(rate for rate in {*shares[:1], *enough, *profile.extra_rates} if rate > 0)


def describe(loads: Sequence[Load]) -> Level:
    """One level of load, its passes pooled, and the rates of the slowest and the fastest."""
    latencies = [latency for load in loads for latency in load.latencies_ms]
    errors: Counter[str] = Counter()
    for load in loads:
        errors.update(load.errors)
    seconds = sum(load.seconds for load in loads)
    rates = [load.requests_per_second for load in loads]
    return Level(
        concurrency=loads[0].concurrency,
        passes=len(loads),
        seconds=seconds,
        requests=len(latencies) + sum(errors.values()),
        requests_per_second=len(latencies) / seconds,
        requests_per_second_range=(min(rates), max(rates)),
        p50_ms=percentile(latencies, 50),
        p90_ms=percentile(latencies, 90),
        p99_ms=percentile(latencies, 99),
        errors=dict(sorted(errors.items())),
        load_generator_cores=sum(load.cpu_s for load in loads) / seconds,
        requests_per_second_95=_rate_interval(loads),
    )


def _rate_interval(loads: Sequence[Load]) -> tuple[float, float] | None:
    """Where the rate lies at 95 %, by how much its visits differ: Student's t of the logarithms of their
    rates. Windows within a visit would tell less: what slows a machine lasts longer than a visit."""
    rates = [load.requests_per_second for load in loads if load.requests_per_second > 0]
    return student(np.log(rates)) if len(rates) > 1 else None


def score_served(url: str, texts: Sequence[str], lists: Sequence[range], labels: Sequence[str]) -> np.ndarray:
    """Scores float64 [texts in lists, labels] as `/predictions` answers them, NaN where it did not."""
    rows: list[list[float]] = []
    for part in lists:
        for answer in _predictions(url, texts[part.start : part.stop]):
            scores = answer.get("scores")
            rows.append([scores[label] for label in labels] if scores else [np.nan] * len(labels))
    return np.array(rows, dtype=np.float64).reshape(-1, len(labels))


def _predictions(url: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """One answer per text; empty ones where the request as a whole was refused."""
    body = json.dumps({"texts": list(texts)}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with open_url(request, 300) as response:
            answers: list[dict[str, Any]] = json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        error.close()
        return [{} for _ in texts]
    if len(answers) != len(texts):
        raise ValueError(f"{len(answers)} answers to {len(texts)} texts")
    return answers


def served_parity(artifact: Artifact, in_process: np.ndarray, served: np.ndarray) -> ServedParity:
    """How far the served scores are from those in process, and whether batch mates explain it."""
    answered = ~np.isnan(served).any(axis=1)
    difference = np.abs(in_process[answered] - served[answered])
    largest = float(difference.max()) if difference.size else 0.0
    bound = artifact.meta.check.batch_mate_diff + ROUNDING
    return ServedParity(
        n=len(served),
        unanswered=int((~answered).sum()),
        max_prob_diff=largest,
        bound=bound,
        within_bound=bool(answered.all() and largest <= bound),
    )
