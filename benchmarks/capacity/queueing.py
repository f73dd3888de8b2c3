"""One replica as a queue, simulated: how long a request takes when TorchServe batches what has queued.

A worker takes the oldest request, waits `delay_ms` for others unless the batch is full earlier, and computes
them together in a time that depends on their number and tokens. Lengths and disturbances of batches are drawn
beforehand, so that two rates or two replicas meet the same random draws.
"""

from bisect import bisect_right
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Batching:
    """TorchServe's batchSize and maxBatchDelay, of one worker; by default what our archives say."""

    size: int = 32
    delay_ms: float = 1.0


@dataclass(frozen=True)
class Replica:
    """What a request meets, in ms. In the worker a batch takes `batch_ms`, `text_ms` for each text and
    `token_ms` for each token, those of its texts and `padding[texts]` more, on average: what it takes is
    lognormal about that, `spread` being the deviation of the logarithm. Outside of the worker a request takes
    `outside_ms`, and `turn_ms` for each answer of the same batch that leaves before its own."""

    batch_ms: float
    text_ms: float
    token_ms: float
    padding: tuple[float, ...] | None = None
    outside_ms: float = 0.0
    turn_ms: float = 0.0
    spread: float = 0.0
    batching: Batching = Batching()

    def service_ms(self, texts: int, tokens: float) -> float:
        """The mean time in the worker of a batch of `texts` texts that have `tokens` tokens together."""
        computed = tokens + (self.padding[texts] if self.padding else 0.0)
        return self.batch_ms + self.text_ms * texts + self.token_ms * computed

    def saturation_rps(self, mean_tokens: float) -> float:
        """The rate at which every batch is full."""
        size = self.batching.size
        return 1000 * size / self.service_ms(size, size * mean_tokens)

    def record(self) -> dict[str, Any]:
        """The fields in plain JSON, without the table of padding."""
        return {key: value for key, value in asdict(self).items() if key != "padding"}


@dataclass(frozen=True)
class Draws:
    """The chance in a simulation, drawn once so that two replicas or rates meet the same: for each request
    the gap before it, its mean 1, its tokens, and how the time of a batch that it is the first of departs
    from the mean, as standard normal numbers (`deviations`)."""

    gaps: np.ndarray
    tokens: np.ndarray
    deviations: np.ndarray

    @cached_property
    def token_sums(self) -> list[float]:
        """Tokens of the first 0, 1, 2 … requests together."""
        return [0.0, *np.cumsum(self.tokens).tolist()]

    def factors(self, spread: float) -> list[float]:
        """What the time of a batch is multiplied by, by its first request: lognormal, its mean 1."""
        found: list[float] = np.exp(spread * self.deviations - spread**2 / 2).tolist()
        return found


def draw(quantiles: np.ndarray, requests: int, seed: int, burstiness: float = 1.0) -> Draws:
    """Draws for `requests` requests whose lengths are spread evenly over `quantiles` (tokens, ascending).

    Gaps are gamma distributed; their squared coefficient of variation is `burstiness`: 1 is Poisson.
    """
    random = np.random.default_rng(seed)
    gaps = random.gamma(1 / burstiness, burstiness, requests)
    places = np.linspace(0, 1, len(quantiles))
    tokens = np.interp(random.uniform(size=requests), places, quantiles)
    return Draws(gaps, tokens, random.standard_normal(requests))


def open_latencies(replica: Replica, rps: float, draws: Draws) -> np.ndarray:
    """Milliseconds from each arrival to its answer, `rps` arriving a second; shape [requests]."""
    size, delay_ms = replica.batching.size, replica.batching.delay_ms
    due = np.cumsum(draws.gaps) * 1000 / rps
    arrivals = due.tolist()
    sums = draws.token_sums
    factors = draws.factors(replica.spread)
    ends = [0]
    done = list[float]()
    free = 0.0
    while (first := ends[-1]) < len(arrivals):
        taken = max(free, arrivals[first])
        last = min(bisect_right(arrivals, taken + delay_ms, lo=first + 1), first + size)
        full = last - first == size
        begun = max(taken, arrivals[last - 1]) if full else taken + delay_ms
        free = begun + replica.service_ms(last - first, sums[last] - sums[first]) * factors[first]
        ends.append(last)
        done.append(free)
    sizes = np.diff(ends)
    place = np.arange(len(due)) - np.repeat(ends[:-1], sizes)
    return np.asarray(np.repeat(done, sizes) - due + replica.outside_ms + replica.turn_ms * place)


def closed_latencies(replica: Replica, clients: int, draws: Draws) -> np.ndarray:
    """Milliseconds to each answer of `clients` that ask again at once; shape [answers], as many as drawn.

    A client's latency is the time between two of its requests, so that `clients` over the mean is the rate.
    """
    size, delay_ms = replica.batching.size, replica.batching.delay_ms
    due = [0.0] * clients
    latencies = list[float]()
    sums = draws.token_sums
    factors = draws.factors(replica.spread)
    free = 0.0
    while (answered := len(latencies)) + size < len(sums):
        due.sort()
        taken = max(free, due[0])
        count = min(bisect_right(due, taken + delay_ms), size)
        full = count == size
        begun = max(taken, due[count - 1]) if full else taken + delay_ms
        free = begun + replica.service_ms(count, sums[answered + count] - sums[answered]) * factors[answered]
        back = [free + replica.outside_ms + replica.turn_ms * place for place in range(count)]
        latencies += [after - before for after, before in zip(back, due[:count], strict=True)]
        due = due[count:] + back
    return np.array(latencies)
