"""How sure a share of late requests is: independent ones, bursts, and what a report does not know."""

import numpy as np
import pytest

from benchmarks.lateness import ENOUGH, KEPT, LATE, LEAST, WINDOWS, is_worth_another, lateness, share_late
from benchmarks.records import OpenLevel, tidied
from common.shares import share_interval


def level(*visits: list[float | None]) -> OpenLevel:
    n = sum(map(len, visits))
    return OpenLevel(100, n / 100, n, 100, 100, 1, 2, 3, {}, False, 0.1, None, lateness(visits))


def spread(n: int, late: int) -> list[float | None]:
    """`late` requests of 80 ms, as evenly among others of 10 to 20 ms as can be."""
    latencies = [10 + place % 10 for place in range(n)]
    for place in range(late):
        latencies[place * n // late] = 80
    return latencies


def test_the_least_that_shows_anything_is_368_requests_with_none_late() -> None:
    assert share_interval(0, LEAST)[1] <= LATE < share_interval(0, LEAST - 1)[1]
    assert share_late(level(spread(LEAST, 0)), 50).holds
    assert not share_late(level(spread(LEAST - 1, 0)), 50).holds
    assert is_worth_another([spread(LEAST // 2, 0)], most=2)
    assert not is_worth_another([spread(LEAST // 2 - 1, 0)], most=2)


def test_a_level_is_visited_until_it_is_known_whatever_was_late() -> None:
    for late in (0, 100):
        visits = [spread(250, late)]
        while is_worth_another(visits, most=6):
            visits.append(spread(250, late))
        assert len(visits) == 3, "736 are enough"
    assert is_worth_another([spread(ENOUGH, 0)], most=2), "a second time even so"
    assert not is_worth_another([spread(100, 0)] * 6, most=6)
    assert not is_worth_another([spread(60, 0)], most=6), "six of them would show nothing"


def test_independent_requests_have_the_exact_interval() -> None:
    found = share_late(level(spread(750, 3), spread(750, 3)), 50)
    assert (found.low, found.high) == pytest.approx(share_interval(6, 1500))
    assert found.words == "late 0.4 % (0.1 to 0.9)"
    assert found.holds
    assert not found.fails


def test_requests_that_are_late_together_tell_less() -> None:
    bursts = spread(1500, 0)
    bursts[700:706] = [80] * 6
    found, even = (share_late(level(latencies), 50) for latencies in (bursts, spread(1500, 6)))
    assert found.share == even.share
    assert found.worth < even.worth / 4
    assert not found.holds


def test_a_queue_that_swings_tells_less_even_if_none_is_late() -> None:
    swinging = [10 + 5 * np.sin(place / 100) for place in range(2000)]
    found = share_late(level(swinging), 50)
    assert found.share == 0
    assert found.worth < 100
    assert not found.holds


def test_whoever_was_not_answered_is_late_at_any_limit() -> None:
    latencies = spread(2000, 0)
    latencies[::40] = [None] * 50
    found = level(latencies)
    assert share_late(found, 1e9).share == share_late(found, None).share == 0.025
    assert share_late(found, None).fails


@pytest.mark.parametrize("limit_ms", [50, None])
def test_a_server_that_does_not_answer_fails(limit_ms: float | None) -> None:
    found = level([None] * 400)
    assert found.lateness.from_ms is None
    assert share_late(found, limit_ms).words == "late at least 5 %"


def test_below_what_a_report_keeps_the_share_is_a_bound() -> None:
    random = np.random.default_rng(0)
    found = level(random.exponential(10, 4000).tolist(), random.exponential(10, 4000).tolist())
    kept = sum(map(len, found.lateness.slowest_ms))
    assert len(found.lateness.slowest_ms) == 2 * WINDOWS
    assert kept == pytest.approx((1 - KEPT / 100) * 8000, abs=2)
    assert share_late(found, 5).words == "late at least 5 %"
    assert share_late(found, 5).fails
    exact = share_late(found, 46)
    assert exact.share == pytest.approx(0.01, abs=0.003)
    assert exact.low < 0.01 < exact.high


def test_it_survives_a_report() -> None:
    found = level(spread(1500, 6))
    assert share_late(tidied(found), 50) == share_late(found, 50)
    found.lateness = None
    assert share_late(found, 50) is None
