"""`python -m benchmarks overload`: what a server does under too much load, and when a worker dies.

Arrivals come at `--factor` times the rate that a closed loop reaches; then one of two workers is killed under
a quarter of that rate. Client and server share the cores.
"""

import argparse
import dataclasses
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from msgspec import field
from tabulate import tabulate

from benchmarks.served.open_loop import Arrivals, open_loop
from benchmarks.served.run import as_bodies
from common.commands import emit, say
from common.records import Record, plain
from common.torchserve import model_config, read_config
from deploy.torchserve.server import CONFIG, private_server
from deploy.tuning.load import closed_loop
from deploy.tuning.sample import sample
from deploy.tuning.tune import repacked, settings_of
from handler.machine import available_cpus

CLIENTS = 64  # more than two batches, so that the worker never waits
SATURATE_S = 5.0
SETTLE_S = 3.0  # of the load, before memory counts as that of a server at work
QUIET_S = 2.0
MEMORY_EVERY_S = 0.5
# Of saturation, while a worker is killed. The other has half of the threads, and shares these with the start
# of a new one for ten seconds: at half of saturation the queue filled up, and refusals hid what the kill
# had cost.
KILL_SHARE = 0.25


@dataclass
class Memory:
    """Resident MiB of a server's processes, sampled while something happens; `times_s` count from `begun_s`,
    a moment of `time.monotonic`."""

    times_s: list[float] = dataclasses.field(default_factory=list)
    mb: list[float] = dataclasses.field(default_factory=list)
    begun_s: float = dataclasses.field(default_factory=time.monotonic)

    def since(self, moment_s: float) -> list[float]:
        """What was sampled from a moment of `time.monotonic` on."""
        first_s = moment_s - self.begun_s
        return [mb for at_s, mb in zip(self.times_s, self.mb, strict=True) if at_s >= first_s]

    def growth_mb(self, settle_s: float = SETTLE_S) -> float:
        """From the first quarter of the time (once it has settled) to the last, medians of both."""
        kept = [mb for at, mb in zip(self.times_s, self.mb, strict=True) if at >= settle_s]
        quarter = max(1, len(kept) // 4)
        return float(np.median(kept[-quarter:]) - np.median(kept[:quarter])) if kept else 0.0


class Resident(Record):
    """MiB before a load, at most, and at its end."""

    start: float
    most: float
    end: float


class Flood(Record):
    """More load than a server can take: what was answered and refused, and the memory taken. A percentile is
    None where there is none; `ahead_bound` are the requests that may be ahead of an accepted one, `bound_ms`
    the time that they take at the mean rate."""

    saturation_rps: float
    offered_rps: float
    seconds: float
    queue: int
    answered_rps: float
    answered_p50_ms: float | None
    answered_p99_ms: float | None
    ahead_p99: float | None
    ahead_bound: int
    bound_ms: float | None
    refused: int
    refused_by: dict[str, int]
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    late_p99_ms: float | None
    memory_mb: Resident
    memory_growth_mb: float
    healthy_after: bool
    rps_after: float
    errors_after: dict[str, int]


class WorkerKilled(Record):
    """A worker of two that is killed under load; `failed_due_s` are when the failed requests were due."""

    offered_rps: float
    seconds: float
    killed_at_s: float
    batch_size: int
    failed: int
    failed_by: dict[str, int]
    failed_due_s: list[float]
    answered_p99_ms: float | None
    is_back: bool
    errors_after: dict[str, int]


class Overload(Record, omit_defaults=False):
    cpus: int
    flood: Flood
    worker_killed: WorkerKilled
    objections: list[str] = field(default_factory=list)


def main(arguments: argparse.Namespace) -> int:
    """Exit status 1 where the server did not do what it should."""
    bodies = as_bodies(sample(arguments.archive, arguments.texts))
    flood = measure_flood(arguments.archive, bodies, arguments.factor, arguments.seconds)
    killed = measure_kill(arguments.archive, bodies, flood.saturation_rps, arguments.seconds / 2)
    result = Overload(cpus=available_cpus(), flood=flood, worker_killed=killed)
    result.objections = judge(result)
    say(table(result))
    for objection in result.objections:
        say(f"PROBLEM: {objection}")
    emit(plain(result))
    return int(bool(result.objections))


def measure_flood(archive: Path, bodies: Sequence[bytes], factor: float, seconds: float) -> Flood:
    """Saturation, the flood, and the same clients as at first once more."""
    with private_server(archive) as server:
        before = closed_loop(server.predictions, bodies, CLIENTS, SATURATE_S, 1.0)
        rate = before.requests_per_second
        say(f"{rate:.0f} requests a second at {CLIENTS} clients; offering {factor:g} times that")
        with watched(server) as memory:
            load = open_loop(server.predictions, bodies, factor * rate, seconds, seed=0)
        time.sleep(QUIET_S)
        is_well = server.access.is_healthy()
        after = closed_loop(server.predictions, bodies, CLIENTS, SATURATE_S, 1.0)
    answered = [latency for latency in load.latencies_ms if latency is not None]
    reached = len(answered) / seconds
    queue, most_ahead = _queue(archive)
    return Flood(
        saturation_rps=rate,
        offered_rps=load.offered_rps,
        seconds=seconds,
        queue=queue,
        answered_rps=reached,
        answered_p50_ms=_percentile(answered, 50),
        answered_p99_ms=_percentile(answered, 99),
        ahead_p99=_percentile(ahead(load), 99),
        ahead_bound=most_ahead,
        bound_ms=1000 * most_ahead / reached if reached else None,
        refused=sum(load.errors.values()),
        refused_by=load.errors,
        refused_p50_ms=_percentile(load.failed_ms, 50),
        refused_p99_ms=_percentile(load.failed_ms, 99),
        late_p99_ms=_percentile(load.late_ms, 99),
        memory_mb=Resident(start=memory.mb[0], most=max(memory.mb), end=memory.mb[-1]),
        memory_growth_mb=memory.growth_mb(),
        healthy_after=is_well,
        rps_after=after.requests_per_second,
        errors_after=dict(after.errors),
    )


def _queue(archive: Path) -> tuple[int, int]:
    """How many requests the queue holds, and how many may be ahead of one that it accepts: all of these, a
    batch in the worker's hands, and one on its way out."""
    told = model_config(archive)
    queue = int(told.get("jobQueueSize") or read_config(CONFIG)["job_queue_size"])
    return queue, queue + 2 * told["batchSize"]


def measure_kill(
    archive: Path, bodies: Sequence[bytes], saturation_rps: float, seconds: float
) -> WorkerKilled:
    """One worker of two dies a third into the load."""
    settings = replace(settings_of(archive, read_config(CONFIG)), workers=2, threads=1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overload-")))
        server = stack.enter_context(private_server(repacked(archive, settings, folder)))
        workers = server.workers()
        killer = threading.Timer(seconds / 3, workers[0].send_signal, [signal.SIGKILL])
        killer.start()
        load = open_loop(server.predictions, bodies, KILL_SHARE * saturation_rps, seconds, seed=1)
        killer.join()
        deadline = time.monotonic() + 60
        while len(found := server.workers()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        after = closed_loop(server.predictions, bodies, CLIENTS, QUIET_S, 0.5)
    answered = [latency for latency in load.latencies_ms if latency is not None]
    return WorkerKilled(
        offered_rps=load.offered_rps,
        seconds=seconds,
        killed_at_s=seconds / 3,
        batch_size=settings.batch_size,
        failed=sum(load.errors.values()),
        failed_by=load.errors,
        failed_due_s=_failed_due(load),
        answered_p99_ms=_percentile(answered, 99),
        is_back=len(found) == 2 and workers[0].pid not in {worker.pid for worker in found},
        errors_after=dict(after.errors),
    )


def judge(result: Overload) -> list[str]:
    """What a server under too much load must do and did not; empty if it did everything."""
    return [*_judge_flood(result.flood), *_judge_kill(result.worker_killed)]


def _judge_flood(flood: Flood) -> Iterator[str]:
    if not flood.refused:
        yield "nothing was refused: the load was not too much for the server"
    elif set(flood.refused_by) != {"503"}:
        yield f"requests failed in other ways than a refusal: {flood.refused_by}"
    if flood.ahead_p99 is None or flood.ahead_p99 > flood.ahead_bound:
        yield "accepted requests waited for more requests than the queue and two batches hold"
    if flood.answered_p50_ms and flood.refused_p50_ms and flood.refused_p50_ms > flood.answered_p50_ms / 5:
        yield "refusals took too long"
    if flood.memory_growth_mb > 0.05 * flood.memory_mb.start:
        yield f"memory grew by {flood.memory_growth_mb:.0f} MB during the flood"
    if not flood.healthy_after or flood.errors_after:
        yield "the server was not healthy afterwards"


def _judge_kill(killed: WorkerKilled) -> Iterator[str]:
    if not killed.is_back:
        yield "the killed worker did not come back"
    if killed.failed > killed.batch_size:
        yield f"{killed.failed} requests failed with the worker, which held at most one batch"
    if killed.errors_after:
        yield "requests failed after the worker was back"


def table(result: Overload) -> str:
    """For people."""
    flood = result.flood
    killed = result.worker_killed
    memory = flood.memory_mb
    times = killed.failed_due_s
    due = f", due from {min(times):.2f} to {max(times):.2f} s" if times else ""
    rows = [
        ("offered", f"{flood.offered_rps:.0f} requests/s for {flood.seconds:.0f} s"),
        ("answered", f"{flood.answered_rps:.0f} requests/s"),
        (
            "p99 of answers",
            f"{_ms(flood.answered_p99_ms)}; {flood.ahead_bound} requests at that rate take "
            f"{_ms(flood.bound_ms)}",
        ),
        (
            "requests ahead",
            f"p99 {_count(flood.ahead_p99)}; the queue allows {flood.ahead_bound} at most",
        ),
        ("refused", f"{flood.refused:,}: {flood.refused_by}"),
        ("refused within", f"p50 {_ms(flood.refused_p50_ms)}, p99 {_ms(flood.refused_p99_ms)}"),
        ("memory", f"{memory.start:.0f} MB, at most {memory.most:.0f}, at the end {memory.end:.0f}"),
        ("afterwards", f"{flood.rps_after:.0f} requests/s, before {flood.saturation_rps:.0f}"),
        (
            "one of two workers killed",
            f"at {killed.killed_at_s:.0f} s of {killed.seconds:.0f} s, {killed.offered_rps:.0f} requests/s",
        ),
        ("failed with it", f"{killed.failed}{due}: {killed.failed_by}"),
        ("worker restarted", "yes" if killed.is_back else "NO"),
    ]
    return tabulate(rows, tablefmt="plain")


class HasMemory(Protocol):
    """A server, or several."""

    def resident_mb(self) -> float: ...


@contextmanager
def watched(server: HasMemory) -> Iterator[Memory]:
    """Its memory, every half second, while the block runs."""
    memory = Memory()
    is_over = threading.Event()

    def look() -> None:
        while True:
            memory.times_s.append(time.monotonic() - memory.begun_s)
            memory.mb.append(server.resident_mb())
            if is_over.wait(MEMORY_EVERY_S):
                return

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield memory
    finally:
        is_over.set()
        looking.join()


def ahead(load: Arrivals) -> np.ndarray:
    """For each answered request, how many answers came between its sending and its own answer. A bound on the
    queue limits this number, however fast the server is at that moment."""
    sent = np.array(load.due_s) + np.array(load.late_ms) / 1000
    took = np.array([np.nan if latency is None else latency for latency in load.latencies_ms], np.float64)
    done = np.array(load.due_s) + took / 1000
    kept = ~np.isnan(done)
    order = np.sort(done[kept])
    return np.searchsorted(order, done[kept]) - np.searchsorted(order, sent[kept])


def _failed_due(load: Arrivals) -> list[float]:
    """When those requests that failed were due, in seconds."""
    pairs = zip(load.due_s, load.latencies_ms, strict=True)
    return [round(due, 3) for due, took in pairs if took is None]


def _percentile(values: Sequence[float] | np.ndarray, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"
