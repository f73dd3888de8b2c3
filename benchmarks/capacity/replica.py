"""A replica's queue, fitted to measurements: the time of a batch, and what the server adds.

The queue is fitted to batches in process and to closed loops as served, but to no open loop. Client and
server shared the cores, so the server's times include what the client took from the model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize, nnls

from benchmarks.capacity.queueing import Batching, Draws, Replica, closed_latencies, draw, open_latencies
from benchmarks.names import BATCH, BATCH_TEXTS, SINGLE
from benchmarks.records import Lengths, Level, OpenLevel, Variant
from common.programs import command
from common.records import Record
from handler.batching import CALL_TOKENS, fit_grid, plan
from handler.errors import UserError

SHORTEST_TOKENS = 3  # the two special tokens and one more
FIT_REQUESTS = 6000  # of 32 clients that is 375 batches: the mean of their times is within 2 %
WINDOWS = 40


class Tail(Record):
    """A load as seen, or as modelled."""

    rps: float
    p99_ms: float | None


class Fitted(Record):
    """Clients that wait, and the same in the model, which was fitted to them."""

    clients: int
    measured: Tail
    modelled: Tail


class Window(Record):
    """What so short a load would show: the median of the windows' p50 and p99, and where 90 % of p99 lie."""

    p50_ms: float
    p99_ms: float
    p99_low_ms: float
    p99_high_ms: float


class Seen(Record):
    p50_ms: float | None
    p99_ms: float


class Compared(Record):
    """Arrivals that do not wait, and the same in the model, which has not seen them."""

    rps: float
    measured: Seen
    modelled: Window


@dataclass(frozen=True)
class Timed:
    """A call in process on real texts: how many, their tokens together, milliseconds, and its weight."""

    texts: int
    tokens: float
    time_ms: float
    weight: float = 1.0


@dataclass(frozen=True)
class Measured:
    """What a plan is made of. `lengths` are quantiles of tokens, evenly spaced; `closed` and `open` levels as
    in a report; `outside_ms` is what a request takes outside of TorchServe's queue and worker under a light
    load."""

    timed: Sequence[Timed]
    closed: Sequence[Level]
    open: Sequence[OpenLevel]
    lengths: np.ndarray
    max_length: int
    outside_ms: float

    @property
    def mean_tokens(self) -> float:
        return float(np.mean(self.lengths))


def measured(variant: Variant, tokens: Lengths) -> Measured:
    """What the report knows of `variant`, whose timed texts have the lengths `tokens` (mean, p50, p90, p99).

    `UserError` if it was not measured as served, or by a version that did not split the time.
    """
    again = command(f"benchmarks run {variant.name}", f"benchmark VARIANTS={variant.name}")
    if variant.error or not variant.served:
        lost = variant.error.message if variant.error else variant.served_error or "in process only"
        raise UserError(
            f"{variant.name} was not measured as served, so nothing is known about its server",
            seen=lost,
            remedy=f"Package it, then measure it: {again}; or choose another: --variant",
        )
    answered = [level for level in variant.served if level.requests_per_second > 0]
    light = min(variant.open, key=lambda level: level.offered_rps, default=None)
    single, batch = variant.case(SINGLE), variant.case(BATCH)
    if not (light and light.split_ms and single and single.by_length and batch):
        raise UserError(
            f"the report does not say where a request to {variant.name} spends its time",
            seen="no open loop with TorchServe's counters, or no times by length",
            remedy=f"Measure again: {again}",
        )
    if len(answered) < 2:
        raise UserError(
            f"{variant.name} was served with one number of clients only",
            seen=f"{len(answered)} levels",
            remedy=f"Measure again: {again}",
        )
    max_length = variant.built.max_length
    lengths = quantiles(tokens, max_length)
    alone = sum(part.n for part in single.by_length)
    timed = [Timed(BATCH_TEXTS, BATCH_TEXTS * float(np.mean(lengths)), batch.p50_ms)]
    low = 0.0
    for part in single.by_length:
        timed.append(Timed(1, (low + part.up_to) / 2, part.p50_ms, part.n / alone))
        low = part.up_to
    return Measured(timed, answered, variant.open, lengths, max_length, light.split_ms.http)


def quantiles(tokens: Lengths, max_length: int) -> np.ndarray:
    """Lengths at 1,001 evenly spaced quantiles: straight lines between those known, scaled to the mean."""
    places = (0, 0.5, 0.9, 0.99, 1)
    known = [SHORTEST_TOKENS, tokens.p50, tokens.p90, tokens.p99, 1.1 * tokens.p99]
    lengths = np.interp(np.linspace(0, 1, 1001), places, np.maximum.accumulate(known))
    return np.asarray(np.clip(lengths * tokens.mean / lengths.mean(), 1, max_length))


def padding(lengths: np.ndarray, max_length: int, most: int = BATCH_TEXTS) -> tuple[float, ...]:
    """Tokens that a batch of 0, 1, 2 … `most` texts costs beyond their own, on average: what pads them to the
    shapes of the grid, and `CALL_TOKENS` for each call. The grid is what export fits to such lengths."""
    random = np.random.default_rng(0)
    whole = np.ceil(lengths).astype(int)
    grid = fit_grid(whole.tolist(), max_length)
    extra = [0.0]
    for texts in range(1, most + 1):
        drawn = random.choice(whole, (200, texts))
        calls = [part for row in drawn for part in plan(row.tolist(), grid)]
        cost = sum(part.batch * part.length + CALL_TOKENS for part in calls)
        extra.append((cost - drawn.sum()) / len(drawn))
    return tuple(extra)


def fit(known: Measured, batching: Batching) -> Replica:
    """The queue that explains `known`. In process, by least squares of relative errors, what a batch and a
    computed token take; as served, what TorchServe, the handler and two processes on the same cores add to
    each batch and each text, and how much times vary, so that simulated closed loops have the measured rates
    (weight 1 for each level) and tails (p90 and p99, a tenth each). Open loops are not looked at."""
    extra = padding(known.lengths, known.max_length, max(batching.size, BATCH_TEXTS))
    rows = np.array([(1, batch.tokens + extra[batch.texts]) for batch in known.timed])
    weights = np.array([math.sqrt(batch.weight) for batch in known.timed])
    times = np.array([batch.time_ms for batch in known.timed])
    (batch_ms, token_ms), _ = nnls(rows * (weights / times)[:, None], weights)
    busiest = max(known.closed, key=lambda level: level.concurrency)
    turn_ms = 1000 * busiest.load_generator_cores / busiest.requests_per_second
    draws = draw(known.lengths, FIT_REQUESTS, seed=0)
    alone = Replica(batch_ms, 0, token_ms, extra, known.outside_ms, turn_ms, 0, batching)

    def with_server(added: Sequence[float]) -> Replica:
        server_batch_ms, text_ms, spread = map(abs, added)
        return replace(alone, batch_ms=batch_ms + server_batch_ms, text_ms=text_ms, spread=spread)

    found = minimize(
        lambda added: _misfit(with_server(added), known.closed, draws),
        (1.0, 0.3, 0.2),
        method="Nelder-Mead",  # the simulated means have small jumps
        options={"xatol": 0.005, "fatol": 1e-5, "maxfev": 300},
    )
    return with_server(found.x)


def _misfit(replica: Replica, levels: Sequence[Level], draws: Draws) -> float:
    total = 0.0
    for level in levels:
        latencies = closed_latencies(replica, level.concurrency, draws)
        mean_ms = 1000 * level.concurrency / level.requests_per_second
        total += math.log(latencies.mean() / mean_ms) ** 2
        for percent, seen in ((90, level.p90_ms), (99, level.p99_ms)):
            if seen:
                total += 0.1 * math.log(np.percentile(latencies, percent) / seen) ** 2
    return total


def against_closed(replica: Replica, known: Measured) -> list[Fitted]:
    """Every level of waiting clients, measured and in the model, which was fitted to them."""
    draws = draw(known.lengths, FIT_REQUESTS, seed=0)
    found = []
    for level in known.closed:
        latencies = closed_latencies(replica, level.concurrency, draws)
        rps = 1000 * level.concurrency / latencies.mean()
        p99_ms = float(np.percentile(latencies, 99))
        found.append(
            Fitted(
                clients=level.concurrency,
                measured=Tail(rps=level.requests_per_second, p99_ms=level.p99_ms),
                modelled=Tail(rps=float(rps), p99_ms=p99_ms),
            )
        )
    return found


def windows(replica: Replica, rps: float, seconds: float, lengths: np.ndarray) -> Window:
    """Of `WINDOWS` loads of that rate and length."""
    arrivals = max(1, round(rps * seconds))
    seen = [
        np.percentile(open_latencies(replica, rps, draw(lengths, arrivals, seed)), (50, 99))
        for seed in range(WINDOWS)
    ]
    middle, tail = np.array(seen).T
    low, high = np.percentile(tail, (5, 95))
    return Window(
        p50_ms=float(np.median(middle)),
        p99_ms=float(np.median(tail)),
        p99_low_ms=float(low),
        p99_high_ms=float(high),
    )


def against_open(replica: Replica, known: Measured) -> list[Compared]:
    """Every measured open level that its server kept up with, measured and in the model."""
    found = []
    for level in known.open:
        if level.saturated or not level.p99_ms:
            continue
        modelled = windows(replica, level.offered_rps, level.seconds, known.lengths)
        seen = Seen(p50_ms=level.p50_ms, p99_ms=level.p99_ms)
        found.append(Compared(rps=level.offered_rps, measured=seen, modelled=modelled))
    return found
