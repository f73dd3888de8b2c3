"""How often a level that holds keeps its p99, counted over simulated servers whose true share is known.

A server with one late request in a hundred may hold in 2.5 % of runs, however close to its capacity it runs.
The queue is that of `benchmarks.capacity.queueing`, the load that of a run of the suite.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
from tabulate import tabulate

from benchmarks.capacity.queueing import Draws, Replica, draw, open_latencies
from benchmarks.lateness import Late, is_worth_another, lateness, share_late
from benchmarks.profiles import PROFILES
from benchmarks.records import OpenLevel
from benchmarks.served.open_loop import poisson_times
from benchmarks.served.run import WARM_S
from common.records import NotNegative, Positive, Share, Some

FAST = Replica(batch_ms=4, text_ms=0.3, token_ms=0.06, outside_ms=2, turn_ms=0.2, spread=0.3)
LENGTHS = np.linspace(5, 55, 101)  # tokens
LOADS = (0.15, 0.25, 0.4, 0.55, 0.8, 0.95)  # of what the server can do
TRUE = (0.02, 0.01, 0.004, 0.002, 0.0005)  # share of late requests
VISIT_S = PROFILES["quick"].open_s
MOST_VISITS = int(PROFILES["quick"].open_most_s // VISIT_S)  # to the lowest level; others have two at most
STALL_MS = (50, 250)  # the shortest and the longest time for which another program has the cores
BEFORE_S = 4.0  # of the one window that was measured before, on a server that was idle
LONG = 400_000  # requests that tell the true shares
SETTLED = 20_000  # of them


class Held(msgspec.Struct, forbid_unknown_fields=True):
    """Of `seeds` runs at `load` (a share of what the server can do, `rps` a second), on a machine that stalls
    `stalls_per_s` times a second, of which `late` of the requests are truly late: the share in which the
    level held, and in which the p99 of a single window was within the limit."""

    load: Share
    stalls_per_s: NotNegative
    rps: Positive
    late: Share
    seeds: Some
    held: Share
    p99_within: Share


@dataclass(frozen=True)
class Server:
    """A replica under a load, visited at most so many times, on a machine that stalls now and then."""

    load: float
    most_visits: int = 2
    stalls_per_s: float = 0.0
    replica: Replica = FAST

    @cached_property
    def rps(self) -> float:
        return self.load * self.replica.saturation_rps(float(LENGTHS.mean()))

    def limits_ms(self) -> list[float]:
        """Which the shares `TRUE` are later than, in the long run."""
        long = self._latencies(draw(LENGTHS, LONG, seed=0), seed=0)[SETTLED:]
        return [float(limit) for limit in np.quantile(long, 1 - np.array(TRUE))]

    def visit(self, seed: int, seconds: float, warm_s: float) -> list[float]:
        """Latencies of a load of the generator, those of its beginning left out."""
        warm = poisson_times(self.rps, warm_s, 2 * seed + 1) if warm_s else np.empty(0)
        due = np.concatenate((warm, warm_s + poisson_times(self.rps, seconds, 2 * seed)))
        drawn = draw(LENGTHS, len(due), seed + LONG)
        gaps = np.diff(due, prepend=0) * self.rps
        latencies = self._latencies(Draws(gaps, drawn.tokens, drawn.deviations), seed)
        return [float(ms) for ms in latencies[len(warm) :]]

    def level(self, seed: int) -> OpenLevel:
        """What a report would have of it."""
        visits: list[list[float]] = []
        while not visits or is_worth_another(visits, self.most_visits):
            visits.append(self.visit(MOST_VISITS * seed + len(visits), VISIT_S, WARM_S))
        return level(visits, self.rps)

    def _latencies(self, draws: Draws, seed: int) -> np.ndarray:
        """Those of the queue in ms, longer where a stall lies between a request and its answer."""
        latencies = open_latencies(self.replica, self.rps, draws)
        due_ms = 1000 * np.cumsum(draws.gaps) / self.rps
        random = np.random.default_rng((seed, 1))
        stalls = random.poisson(self.stalls_per_s * due_ms[-1] / 1000)
        for begin, lasts in zip(
            random.uniform(0, due_ms[-1], stalls), random.uniform(*STALL_MS, stalls), strict=True
        ):
            meets = (due_ms < begin + lasts) & (due_ms + latencies > begin)
            latencies = np.where(meets, latencies + begin + lasts - np.maximum(due_ms, begin), latencies)
        return latencies


SERVERS = (
    Server(LOADS[0], MOST_VISITS, stalls_per_s=0.05),
    Server(LOADS[0], MOST_VISITS, stalls_per_s=0.2),
    Server(LOADS[0], MOST_VISITS),
    *map(Server, LOADS[1:]),
)


def level(visits: Sequence[Sequence[float]], rps: float) -> OpenLevel:
    """A level that was kept up with and answered."""
    arrivals = sum(map(len, visits))
    known = lateness(visits)
    return OpenLevel(
        offered_rps=rps,
        seconds=arrivals / rps,
        arrivals=arrivals,
        answered_rps=rps,
        goodput_rps=rps,
        p50_ms=None,
        p90_ms=None,
        p99_ms=None,
        errors={},
        saturated=False,
        late_p99_ms=0,
        split_ms=None,
        lateness=known,
    )


def simulate_late(seeds: int, tick: Callable[[], object], servers: Sequence[Server] = SERVERS) -> list[Held]:
    """Every server, with `seeds` runs each, at every true share; `tick` is called after each run."""
    found = []
    for server in servers:
        limits_ms = server.limits_ms()
        held = np.zeros(len(TRUE))
        within = np.zeros(len(TRUE))
        for seed in range(seeds):
            measured = server.level(seed)
            held += [_late(measured, limit_ms).holds for limit_ms in limits_ms]
            p99_ms = np.percentile(server.visit(MOST_VISITS * seeds + seed, BEFORE_S, 0), 99)
            within += [p99_ms <= limit_ms for limit_ms in limits_ms]
            tick()
        for late, share, p99_within in zip(TRUE, held / seeds, within / seeds, strict=True):
            case = Held(
                server.load, server.stalls_per_s, server.rps, late, seeds, float(share), float(p99_within)
            )
            found.append(case)
    return found


def late_steps(seeds: int) -> int:
    return seeds * len(SERVERS)


def _late(measured: OpenLevel, limit_ms: float) -> Late:
    late = share_late(measured, limit_ms)
    assert late is not None
    return late


def late_table(held: Sequence[Held]) -> str:
    """By load and true share: how often the level held, and how often a single p99 was within the limit."""
    cases: dict[str, list[str]] = {}
    for case in held:
        stalls = f", a stall every {1 / case.stalls_per_s:g} s" if case.stalls_per_s else ""
        load = f"{case.load:.0%}{stalls}"
        cases.setdefault(load, []).append(f"{case.held:.1%} / {case.p99_within:.0%}")
    rows = [[load, *shares] for load, shares in cases.items()]
    heads = ["load", *(f"truly {100 * late:g} % late" for late in TRUE)]
    return tabulate(rows, heads, "github", disable_numparse=True)


def late_note(held: Sequence[Held]) -> str:
    return (
        f"Last table, of {held[0].seeds:,} simulated runs each: the share of runs in which a level held, in "
        f"two visits of {VISIT_S:g} s; after the slash, the share in which the p99 of one window of "
        f"{BEFORE_S:g} s from an idle server was within the limit, which was the rule of earlier versions. "
        "If 1 % or more are late, holding is an error, promised at 2.5 %. The load is a share of what the "
        f"server can do. In a stall, another program takes the cores for {STALL_MS[0]} to {STALL_MS[1]} ms; "
        "if rare stalls are what makes requests late, a run may meet too few of them to show it."
    )
