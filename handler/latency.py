"""How long requests take, in buckets for Prometheus, and the p99 that the certificate promises.

Edges are at most 1.5 apart, so a percentile is known within a bucket; the promised limit is an edge, so
whether it is kept is known exactly.
"""

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NAME = "classifier_latency_seconds"  # by phase; the same where TorchServe and where the app serve
_STEPS = (1, 1.5, 2.2, 3.3, 4.7, 6.8)  # of each power of ten
EDGES = (*(float(f"{step}e{power}") for power in range(-4, 1) for step in _STEPS), 10.0)
"""Seconds, from 0.1 ms to 10 s."""


@dataclass(frozen=True)
class Promise:
    """99 of 100 requests are answered within `p99_s`, up to `rps` of them a second, if that is known."""

    p99_s: float
    rps: float | None = None


def promise_of(certificate: Mapping[str, Any] | None) -> Promise | None:
    """What the selection showed to hold; None where no p99 was asked for."""
    try:
        found = (certificate or {})["p99"]
        return Promise(found["limit_ms"] / 1000, float(max(load["rps"] for load in found["loads"])))
    except (LookupError, TypeError, ValueError):  # a certificate without one, or of another version
        return None


def edges_with(promises: Sequence[Promise | None]) -> tuple[float, ...]:
    """`EDGES`, and the limits that are promised."""
    return tuple(sorted({*EDGES, *(promise.p99_s for promise in promises if promise)}))


@dataclass(frozen=True)
class Example:
    """The latest request of a bucket that has a trace."""

    trace: str
    seconds: float
    at: float


class Histogram:
    """Seconds, counted up to each edge. Of one thread."""

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.sum = 0.0
        self.examples: dict[int, Example] = {}  # by the bucket's place
        self._counts = np.zeros(len(edges) + 1, np.int64)

    def add(self, seconds: float, times: int = 1) -> None:
        self._counts[bisect_left(self.edges, seconds)] += times
        self.sum += seconds * times

    def add_all(self, seconds: np.ndarray) -> None:
        """The same for each, float64 [n]."""
        self._counts += np.bincount(np.searchsorted(self.edges, seconds), minlength=len(self._counts))
        self.sum += float(seconds.sum())

    def show(self, trace: str, seconds: float) -> None:
        """Where there is a trace of what was added."""
        self.examples[bisect_left(self.edges, seconds)] = Example(trace, seconds, time.time())

    def cumulative(self) -> list[tuple[str, int]]:
        """For each edge how many took no longer; the last is infinite."""
        return list(zip([*map(repr, self.edges), "+Inf"], self._counts.cumsum().tolist(), strict=True))
