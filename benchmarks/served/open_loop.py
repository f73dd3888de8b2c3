"""The open loop: requests arrive when they are due, whatever happened to earlier ones, as with real users.

Latency counts from the *intended* arrival. A closed loop, and any generator that counts from the time of
sending, sends less while the server stalls, and so leaves out exactly the requests that would have waited:
coordinated omission (Gil Tene, "How NOT to Measure Latency"; his wrk2 counts in the same way).
"""

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from benchmarks.lateness import lateness
from benchmarks.records import OpenLevel, Saturation, TimeSplit
from benchmarks.samples import percentile
from benchmarks.served.torchserve_metrics import read_counters, spent, split
from deploy.tuning.load import GIVE_UP_S, JSON, ask

IN_FLIGHT = 2000  # far more than any queue here holds: it must not throttle, only end
OTHER_FILES = 100  # of the process, besides its connections
TOO_MANY = "too many in flight"
KEEP_ALIVE_S = 2  # below uvicorn's 5 s: a connection must not be closed in the moment of its next use
PATIENCE_S = 2 * GIVE_UP_S
MOST_FAILED = 0.001
MOST_GROWTH = 0.05
LEAST_RISE = 2
LEAST_QUARTER = 5


@dataclass(frozen=True)
class Arrivals:
    """One level of open load, in plain numbers. `due_s`, `latencies_ms` and `late_ms` have one entry per
    arrival: when it was due, the time from then to its answer (None unless that had status 200), and how late
    it was sent. `errors` are as in `Load`, and `failed_ms` how long after their due time they came; `warm_ms`
    are latencies of the warm-up arrivals, which do not count; `counted` is the increase of the server's
    counters, `cpu_s` the CPU time of the generator, both including the warm-up."""

    offered_rps: float
    seconds: float
    due_s: list[float]
    latencies_ms: list[float | None]
    late_ms: list[float]
    errors: dict[str, int]
    counted: dict[str, float] | None = None
    failed_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    warm_ms: list[float | None] = field(default_factory=list)

    @property
    def saturated(self) -> bool:
        """Whether the server could not keep up. It could not if either

        - more than one arrival and more than 0.1 % of them were turned away, timed out or broke; or
        - latency grew as that of an overloaded queue: from the first quarter of the arrivals to the last,
          its median at least doubled, and rose by over 5 % of the time between them.

        The delay in a queue that is offered `r` times what it can do grows by `r - 1` seconds a second, so
        the second rule means "less than 1 / 1.05 of the arrivals were absorbed" whatever the latency is,
        and it sees the backlog long before a bounded queue overflows. A ratio of medians alone would not
        do: near its capacity a stable queue doubles its latency by chance. In simulated queues (constant,
        random and batched service) of 100 requests a second and windows of 4 s, the rule called at most 3 %
        of levels at 0.85 of capacity saturated, and over 99 % of those at 1.2; with only a
        hundred arrivals up to 20 % and at least 80 %. At capacity itself the answer is a coin's.
        """
        failures = sum(count for outcome, count in self.errors.items() if is_failure(outcome))
        if failures > max(1, MOST_FAILED * len(self.due_s)):
            return True
        answered = self._answered()
        quarter = len(answered) // 4
        if quarter < LEAST_QUARTER:
            return False
        first, last = np.median(answered[:quarter], axis=0), np.median(answered[-quarter:], axis=0)
        passed_ms, rise_ms = 1000 * (last[0] - first[0]), last[1] - first[1]
        return bool(rise_ms > MOST_GROWTH * passed_ms and last[1] > LEAST_RISE * first[1])

    def within(self, limit_ms: float = np.inf) -> int:
        """Answers no later than `limit_ms` after the intended arrival. On a saturated level only answers that
        came while requests arrived count: working off the backlog afterwards is not part of this load."""
        answered = self._answered()
        good = answered[:, 1] <= limit_ms
        if self.saturated:
            good &= answered[:, 0] + answered[:, 1] / 1000 <= self.seconds
        return int(good.sum())

    def _answered(self) -> np.ndarray:
        """Seconds of the intended arrival and milliseconds to the answer, [answers, 2]."""
        pairs = zip(self.due_s, self.latencies_ms, strict=True)
        return np.array([pair for pair in pairs if pair[1] is not None], np.float64).reshape(-1, 2)


def is_failure(outcome: str) -> bool:
    """Whether the server failed: a 4xx other than 429 (too many requests) is the answer to a bad text."""
    return outcome != "200" and (outcome == "429" or not outcome.startswith("4"))


def poisson_times(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Seconds at which requests are due: exponential gaps, scaled so that `rate * seconds` fill the window.

    This is a Poisson process conditioned on the number of arrivals, so it offers exactly `rate`: only their
    times are random, not their number.
    """
    arrivals = max(1, round(rate * seconds))
    due = np.cumsum(np.random.default_rng(seed).exponential(size=arrivals + 1))
    return np.asarray(seconds * due[:-1] / due[-1])


def open_loop(
    url: str,
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    seed: int,
    *,
    warm_s: float = 0.0,
    metrics: str | None = None,
    in_flight: int = IN_FLIGHT,
    give_up_s: float = GIVE_UP_S,
    patience_s: float = PATIENCE_S,
) -> Arrivals:
    """Offer `rate` requests a second to `url` for `seconds`, one JSON body each, `bodies` over and over.

    First a lone request must be answered, so that the backlog of whatever came before is gone
    (`TimeoutError` after `patience_s`). Then `warm_s` of the same load come uncounted, and what counts
    follows without a pause: it meets a server at work. A request beyond
    `in_flight` that wait for an answer is not sent and is an error; one without an answer after `give_up_s`
    is another. What is in flight at the end is waited for and counted. `metrics` is where the server's
    counters are read, before and after.
    """
    warm = poisson_times(rate, warm_s, seed + 1) if rate * warm_s >= 1 else np.empty(0)
    due = poisson_times(rate, seconds, seed)
    limit = min(in_flight, _connections())

    async def run() -> Arrivals:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
        timeout = aiohttp.ClientTimeout(total=give_up_s)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=JSON) as session:
            await _until_idle(session, url, bodies[0], patience_s)
            before = read_counters(metrics) if metrics else None
            cpu = time.process_time()
            sent = await _send(session, url, bodies, np.concatenate((warm, warm_s + due)), limit)
            cpu_s = time.process_time() - cpu
        counted = spent(before, read_counters(metrics)) if metrics and before is not None else None
        first = len(warm)
        failed = {number: outcome for number, outcome in sent.failed.items() if number >= first}
        return Arrivals(
            rate,
            seconds,
            due.round(6).tolist(),
            sent.latencies_ms[first:],
            sent.late_ms[first:],
            dict(Counter(outcome for outcome, _ in failed.values())),
            counted,
            [failed_ms for outcome, failed_ms in failed.values() if outcome != TOO_MANY],
            cpu_s,
            sent.latencies_ms[:first],
        )

    return asyncio.run(run())


@dataclass
class Sent:
    """What became of requests, in ms from their times: by number, latencies (None: not status 200) and how
    late each was sent; and of those that failed, in their order, how and after which time."""

    latencies_ms: list[float | None]
    late_ms: list[float]
    failed: dict[int, tuple[str, float]]


async def _send(
    session: aiohttp.ClientSession, url: str, bodies: Sequence[bytes], due: np.ndarray, limit: int
) -> Sent:
    """Requests at their times; over when every answer is in."""
    sent = Sent([None] * len(due), [0.0] * len(due), {})
    waiting: set[asyncio.Task[None]] = set()
    begin = time.perf_counter()

    def since_ms(moment_s: float) -> float:
        return round(1000 * (time.perf_counter() - begin - moment_s), 4)

    async def request(number: int, moment_s: float) -> None:
        sent.late_ms[number] = since_ms(moment_s)
        outcome = await ask(session, url, bodies[number % len(bodies)])
        if outcome == "200":
            sent.latencies_ms[number] = since_ms(moment_s)
        else:
            sent.failed[number] = outcome, since_ms(moment_s)

    for number, moment_s in enumerate(due.tolist()):
        # Even when it is late: without a pause no answer would be read.
        await asyncio.sleep(max(0.0, begin + moment_s - time.perf_counter()))
        if len(waiting) >= limit:
            sent.late_ms[number] = since_ms(moment_s)
            sent.failed[number] = TOO_MANY, sent.late_ms[number]
            continue
        task = asyncio.create_task(request(number, moment_s))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return sent


async def _until_idle(session: aiohttp.ClientSession, url: str, body: bytes, patience_s: float) -> None:
    deadline = time.perf_counter() + patience_s
    while is_failure(outcome := await ask(session, url, body)):
        if time.perf_counter() > deadline:
            raise TimeoutError(f"no answer to a lone request within {patience_s:g} s: {outcome}")
        await asyncio.sleep(0.1)


def _connections() -> int:
    """How many this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return IN_FLIGHT if files == resource.RLIM_INFINITY else max(1, files - OTHER_FILES)


def describe_open(passes: Sequence[Arrivals], objective_p99_ms: float) -> OpenLevel:
    """The report's entry of one level, its passes pooled; saturated where half of them were. Percentiles
    are of answers, `errors` are apart; goodput counts answers within the objective."""
    latencies = [latency for load in passes for latency in load.latencies_ms if latency is not None]
    errors: Counter[str] = Counter()
    for load in passes:
        errors.update(load.errors)
    seconds = sum(load.seconds for load in passes)
    late_ms = [late for load in passes for late in load.late_ms]
    return OpenLevel(
        offered_rps=passes[0].offered_rps,
        seconds=seconds,
        arrivals=sum(len(load.due_s) for load in passes),
        answered_rps=answered_rps(passes),
        goodput_rps=sum(load.within(objective_p99_ms) for load in passes) / seconds,
        p50_ms=percentile(latencies, 50),
        p90_ms=percentile(latencies, 90),
        p99_ms=percentile(latencies, 99),
        errors=dict(sorted(errors.items())),
        saturated=is_saturated(passes),
        late_p99_ms=max(0.0, float(np.percentile(late_ms, 99))),
        split_ms=_split(passes),
        lateness=lateness([load.latencies_ms for load in passes]),
    )


def is_saturated(passes: Sequence[Arrivals]) -> bool:
    return 2 * sum(load.saturated for load in passes) >= len(passes)


def answered_rps(passes: Sequence[Arrivals]) -> float:
    return sum(load.within() for load in passes) / sum(load.seconds for load in passes)


def _split(passes: Sequence[Arrivals]) -> TimeSplit | None:
    """With the arrivals that count for nothing else: the server counts them."""
    counted: Counter[str] = Counter()
    for load in passes:
        if load.counted is None:
            return None
        counted.update(load.counted)
    latencies = [ms for load in passes for ms in (*load.warm_ms, *load.latencies_ms) if ms is not None]
    found = split(counted, float(np.mean(latencies))) if latencies else None
    return TimeSplit(**found) if found else None


def saturation(closed_rps: Sequence[float], levels: Mapping[float, Sequence[Arrivals]]) -> Saturation | None:
    """The most answers a second at any level, closed or open, and the highest offered rate below the first
    saturated one. None where nothing was answered."""
    capacity = max([*closed_rps, *(answered_rps(passes) for passes in levels.values())], default=0.0)
    knee = None
    for rate, passes in sorted(levels.items()):
        if is_saturated(passes):
            break
        knee = rate
    return Saturation(capacity_rps=capacity, knee_rps=knee) if capacity > 0 else None
