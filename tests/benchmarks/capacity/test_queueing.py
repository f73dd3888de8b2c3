"""The simulated queue, against what theory says where it has a closed form, and small cases by hand."""

import numpy as np
import pytest

from benchmarks.capacity.queueing import Batching, Draws, Replica, closed_latencies, draw, open_latencies
from export.archives.package import MODEL_CONFIG

ONE_BY_ONE = Batching(size=1, delay_ms=0)
ALIKE = np.ones(2)
# Quantiles of the exponential distribution, so that a request's length is its time in an M/M/1 queue.
EXPONENTIAL = -np.log1p(-np.linspace(0, 1 - 1e-5, 50_001))
MANY = 200_000


@pytest.mark.parametrize("load", [0.5, 0.7])
def test_constant_times_one_by_one_wait_as_in_m_d_1(load: float) -> None:
    replica = Replica(batch_ms=10, text_ms=0, token_ms=0, batching=ONE_BY_ONE)
    found = open_latencies(replica, 100 * load, draw(ALIKE, MANY, seed=0))
    assert found.mean() - 10 == pytest.approx(10 * load / (2 * (1 - load)), rel=0.03)


@pytest.mark.parametrize("load", [0.5, 0.7])
def test_exponential_times_one_by_one_answer_as_in_m_m_1(load: float) -> None:
    replica = Replica(batch_ms=0, text_ms=0, token_ms=10, batching=ONE_BY_ONE)
    found = open_latencies(replica, 100 * load, draw(EXPONENTIAL, MANY, seed=0))
    mean_ms = 10 / (1 - load)
    assert found.mean() == pytest.approx(mean_ms, rel=0.05)
    assert np.percentile(found, 99) == pytest.approx(mean_ms * np.log(100), rel=0.08)


def test_times_that_vary_wait_as_pollaczek_and_khinchine_say() -> None:
    replica = Replica(batch_ms=10, text_ms=0, token_ms=0, spread=0.6, batching=ONE_BY_ONE)
    found = open_latencies(replica, 70, draw(ALIKE, MANY, seed=0))
    second_moment = 10**2 * np.exp(0.6**2)
    assert found.mean() - 10 == pytest.approx(0.07 * second_moment / (2 * (1 - 0.7)), rel=0.05)


def test_a_batch_takes_what_has_queued_and_what_comes_within_the_delay() -> None:
    gaps = np.array([1.0, 0.5, 3.0, 1.0, 1.0, 20.0])  # due at 1, 1.5, 4.5, 5.5, 6.5 and 26.5 ms
    draws = Draws(gaps, np.ones(6), np.zeros(6))
    replica = Replica(10, 0, 0, outside_ms=2, turn_ms=0.25, batching=Batching(size=3, delay_ms=1))
    # 1 and 1.5 wait until 2 and end at 12; three are waiting then, which is a full batch, until 22; then one.
    expected = [13, 12.75, 19.5, 18.75, 18, 13]
    assert open_latencies(replica, 1000, draws) == pytest.approx(expected)


def test_a_batch_that_the_delay_fills_starts_at_once() -> None:
    draws = Draws(np.array([1.0, 0.25]), np.ones(2), np.zeros(2))
    replica = Replica(10, 0, 0, batching=Batching(size=2, delay_ms=5))
    assert open_latencies(replica, 1000, draws) == pytest.approx([10.25, 10])


def test_a_lone_client_waits_for_the_delay_its_own_batch_and_the_way() -> None:
    replica = Replica(2, 0.5, 0.1, padding=(0.0, 30.0), outside_ms=1.5, batching=Batching(1, 0))
    assert closed_latencies(replica, 1, draw(np.full(2, 20.0), 50, 0)) == pytest.approx(2 + 0.5 + 5 + 1.5)
    delayed = Replica(2, 0, 0, batching=Batching(32, 1))
    assert closed_latencies(delayed, 1, draw(ALIKE, 100, 0)) == pytest.approx(3)


def test_twice_as_many_clients_as_a_batch_holds_keep_every_batch_full() -> None:
    replica = Replica(5, 1, 0.05, outside_ms=2, turn_ms=0.1)
    found = closed_latencies(replica, 64, draw(np.full(2, 20.0), 6400, 0))
    assert 64_000 / found[640:].mean() == pytest.approx(replica.saturation_rps(20), rel=1e-3)


def test_bursts_lengthen_the_tail_and_leave_the_rate() -> None:
    replica = Replica(5, 1, 0.05)
    even, bursty = (draw(np.full(2, 20.0), 40_000, 0, burstiness) for burstiness in (1, 4))
    assert bursty.gaps.mean() == pytest.approx(1, rel=0.05)
    assert bursty.gaps.var() == pytest.approx(4, rel=0.1)
    assert np.percentile(open_latencies(replica, 150, bursty), 99) > 1.3 * np.percentile(
        open_latencies(replica, 150, even), 99
    )


def test_the_batching_of_a_plan_is_that_of_our_archives() -> None:
    assert MODEL_CONFIG["maxWorkers"] == 1
    assert Batching() == Batching(MODEL_CONFIG["batchSize"], MODEL_CONFIG["maxBatchDelay"])
