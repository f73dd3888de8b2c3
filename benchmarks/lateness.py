"""How many requests of an open level are later than a limit, and how certain that is.

Requests that meet the same queue are late together, so a thousand of them are worth fewer than a thousand
independent ones. How many fewer is estimated from how unequal short windows of the load are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.records import Lateness, OpenLevel
from common.shares import P99_LATE, share_interval

LATE = P99_LATE
LEAST = 368  # independent requests, none of them late, show that at most `LATE` are: 1 - 0.025 ** (1 / 368)
ENOUGH = 2 * LEAST  # show it with two late ones among them
WINDOWS = 20  # of a visit
LEAST_IN_WINDOW = 5
# Of the latencies, where windows are compared. A share beyond a limit that is met is too small to tell how
# unequal windows are, and the slower the requests, the more of them come together: those of a queue that
# swings at the lower percentiles, those of a machine that stalls at the upper ones.
PERCENTILES = (50, 75, 90, 95, 98, 99)
KEPT = 95  # percentile from which latencies are kept in a report


@dataclass(frozen=True)
class Late:
    """The share of late requests, and where it lies at 95 %: either end is one-sided at 97.5 %. Of a share
    that a report does not know, `share` is the least that it may be and `high` 1. All of them tell as much as
    `worth` independent ones."""

    share: float
    low: float
    high: float
    worth: float

    @property
    def holds(self) -> bool:
        """Whether it is shown that at most one in a hundred is late."""
        return self.high <= LATE

    @property
    def fails(self) -> bool:
        """Whether it is shown that more are."""
        return self.low > LATE

    @property
    def words(self) -> str:
        """Such as `late 0.4 % (0.1 to 0.9)`."""
        if self.high == 1:
            return f"late at least {100 * self.share:.0f} %"
        return f"late {100 * self.share:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def lateness(visits: Sequence[Sequence[float | None]]) -> Lateness:
    """What a report keeps of a level's latencies, by visit and in the order of arrival (None: no answer)."""
    windows = [window for visit in visits for window in _windows(visit)]
    latencies = np.concatenate(windows)
    from_ms = float(np.percentile(latencies, KEPT, method="higher"))
    compared = np.percentile(latencies, PERCENTILES, method="lower")
    each = [_inflation([int((window > ms).sum()) for window in windows], len(latencies)) for ms in compared]
    slowest = [np.sort(window[window > from_ms]).tolist() for window in windows]
    return Lateness(
        from_ms=from_ms if np.isfinite(from_ms) else None,
        slowest_ms=[[ms if np.isfinite(ms) else None for ms in window] for window in slowest],
        worth=len(latencies) / max(each),
    )


def is_worth_another(visits: Sequence[Sequence[float | None]], most: int) -> bool:
    """Whether a level should be visited again: a second time at least, and up to `most` times until `ENOUGH`
    is known, if `most` visits like these could show that few requests are late. How many were late does not
    count, or a level would be visited until it looks good."""
    worth = lateness(visits).worth
    is_known = len(visits) > 1 and worth >= ENOUGH
    return len(visits) < most and not is_known and worth * most / len(visits) >= LEAST


def is_tested(level: OpenLevel) -> bool:
    """Whether there are requests enough to show anything of a level, or it is shown to be too much."""
    return level.arrivals >= LEAST or level.saturated


def share_late(level: OpenLevel, limit_ms: float | None) -> Late | None:
    """The share of the level's requests that had no answer within `limit_ms` (None: no answer at all); None
    if the report is of an earlier version that does not record it."""
    known = level.lateness
    if known is None:
        return None
    n = level.arrivals
    inflation = level.arrivals / known.worth
    if known.from_ms is None or (limit_ms is not None and limit_ms < known.from_ms):
        least = 1 - KEPT / 100
        return Late(least, share_interval(least * n / inflation, n / inflation)[0], 1.0, known.worth)
    at = np.inf if limit_ms is None else limit_ms
    counts = [sum(ms is None or ms > at for ms in window) for window in known.slowest_ms]
    own = _inflation(counts, n)  # of failures, how latencies vary says nothing
    inflation = own if limit_ms is None else max(own, inflation)
    low, high = share_interval(sum(counts) / inflation, n / inflation)
    return Late(sum(counts) / n, low, high, n / inflation)


def _windows(visit: Sequence[float | None]) -> list[np.ndarray]:
    """Latencies in ms of windows that follow each other, infinite where there was no answer."""
    latencies = np.array([np.inf if ms is None else ms for ms in visit], np.float64)
    return np.array_split(latencies, max(1, min(WINDOWS, len(latencies) // LEAST_IN_WINDOW)))


def _inflation(counts: Sequence[int], n: int) -> float:
    """By which factor the counts of windows, of `n` requests in total, vary more than those of independent
    requests: this many requests are worth one (the design effect). At least 1; with a single window it is
    unknown, and all of its requests count as one."""
    if len(counts) < 2:
        return float(n)
    share = sum(counts) / n
    size = n / len(counts)
    if share in (0, 1):
        return 1.0
    return max(1.0, float(np.var(counts, ddof=1)) / (size * share * (1 - share)))
