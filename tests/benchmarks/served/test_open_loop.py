"""The open loop, against one worker that stalls, refuses and falls behind on purpose: over HTTP where
requests are counted, and on a given clock where they are timed."""

import asyncio
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from benchmarks.records import Saturation, tidied
from benchmarks.served.open_loop import (
    TOO_MANY,
    Arrivals,
    describe_open,
    open_loop,
    poisson_times,
    saturation,
)
from deploy.tuning.load import closed_loop

BODIES = [b'{"text": "a"}', b'{"text": "b"}']


class OneWorker:
    """Answers one after the other, each in `service_s`; more than `room` waiting are refused with 503. The
    request number `stall_at` takes `stall_s`."""

    def __init__(self) -> None:
        self.service_s = 0.002
        self.room = 10_000
        self.stall_at, self.stall_s = -1, 0.0
        self.requests = self.waiting = 0
        self.worker = asyncio.Lock()
        self.url = "http://127.0.0.1:9/"

    async def answer(self) -> int:
        if self.waiting >= self.room:
            return 503
        self.requests += 1
        takes_s = self.stall_s if self.requests == self.stall_at else self.service_s
        self.waiting += 1
        try:
            async with self.worker:
                await asyncio.sleep(takes_s)
        finally:
            self.waiting -= 1
        return 200

    async def predict(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({}, status=await self.answer())


@pytest.fixture
def server(loopback) -> OneWorker:
    """Over HTTP, in the machine's own time: for what is counted, whatever time it takes."""
    state = OneWorker()
    state.url = loopback(state.predict)
    return state


@pytest.fixture
def worker(given_time) -> OneWorker:
    """Without HTTP, on a clock that knows no neighbours: for what is timed."""
    state = OneWorker()
    given_time(state.answer)
    return state


def test_arrivals_are_a_poisson_process_that_offers_exactly_its_rate() -> None:
    due = poisson_times(200, 50, seed=1)
    assert len(due) == 10_000
    assert (np.diff(due) > 0).all()
    assert due[0] > 0
    assert due[-1] < 50
    gaps = np.diff(due)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.1)
    counts = np.histogram(due, bins=50, range=(0, 50))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.7), "a metronome's would be 0"
    assert (poisson_times(200, 50, seed=1) == due).all()
    assert not (poisson_times(200, 50, seed=2) == due).any()


def test_every_arrival_is_sent_once_over_http(server: OneWorker) -> None:
    found = open_loop(server.url, BODIES, rate=80, seconds=0.5, seed=1)
    assert server.requests == 40 + 1, "and the lone one that shows the server to be idle"
    assert len(found.due_s) == len(found.latencies_ms) == len(found.late_ms) == 40
    assert not found.errors
    assert min(latency for latency in found.latencies_ms if latency is not None) >= 2


def test_an_idle_server_keeps_up_and_nothing_is_late(worker: OneWorker) -> None:
    found = open_loop(worker.url, BODIES, rate=80, seconds=1.5, seed=1)
    assert not found.saturated
    assert found.within() == 120
    assert found.latencies_ms[0] == pytest.approx(2)
    assert max(found.late_ms) == pytest.approx(0, abs=1e-3)


def test_the_warm_up_is_not_counted(server: OneWorker) -> None:
    found = open_loop(server.url, BODIES, rate=100, seconds=0.3, seed=1, warm_s=0.2)
    assert len(found.due_s) == 30
    assert server.requests == 30 + 20 + 1


def test_a_stall_is_seen_by_all_that_arrive_meanwhile_and_by_one_patient_client(worker: OneWorker) -> None:
    worker.stall_at, worker.stall_s = 100, 0.3
    found = open_loop(worker.url, BODIES, rate=100, seconds=2, seed=1)
    latencies = [latency for latency in found.latencies_ms if latency is not None]
    assert len(latencies) == 200
    hit = sum(latency > 100 for latency in latencies)
    assert 10 <= hit <= 60, "about 20 arrive in the first 200 of the 300 ms"
    entry = describe_open([found], objective_p99_ms=100)
    assert entry.p99_ms > 100
    assert entry.goodput_rps == pytest.approx(100 - hit / 2)
    worker.stall_at = worker.requests + 100
    patient = closed_loop(worker.url, BODIES, concurrency=1, seconds=1.2, warm_s=0)
    assert sum(latency > 100 for latency in patient.latencies_ms) == 1


def test_a_server_that_falls_behind_is_saturated_before_it_refuses_anything(worker: OneWorker) -> None:
    worker.service_s = 0.01
    found = open_loop(worker.url, BODIES, rate=250, seconds=1, seed=1)
    assert not found.errors
    assert found.saturated
    entry = describe_open([found], objective_p99_ms=50)
    assert entry.answered_rps == pytest.approx(100, abs=2), "not what was worked off after the window"
    assert entry.goodput_rps < entry.answered_rps
    assert entry.p50_ms > 200


def test_refusals_of_a_full_queue_are_counted_and_saturate(worker: OneWorker) -> None:
    worker.service_s, worker.room = 0.02, 5
    found = open_loop(worker.url, BODIES, rate=150, seconds=0.8, seed=1)
    assert found.errors["503"] > 20
    assert found.saturated
    answered = [latency for latency in found.latencies_ms if latency is not None]
    assert len(answered) + found.errors["503"] == 120


def test_what_exceeds_the_bound_in_flight_is_an_error_and_not_a_wait(worker: OneWorker) -> None:
    worker.service_s = 0.1
    found = open_loop(worker.url, BODIES, rate=100, seconds=0.4, seed=1, in_flight=3)
    assert found.errors[TOO_MANY] > 20
    assert sum(latency is not None for latency in found.latencies_ms) + found.errors[TOO_MANY] == 40


def test_a_server_that_does_not_answer_is_given_up(server: OneWorker) -> None:
    server.stall_at, server.stall_s = 2, 3600
    found = open_loop(server.url, BODIES, rate=40, seconds=0.4, seed=1, give_up_s=1)
    assert sum(found.errors.values()) == 16
    assert found.saturated
    assert describe_open([found], 50).p50_ms is None


def test_the_next_level_begins_when_the_backlog_of_the_last_is_gone(worker: OneWorker) -> None:
    worker.stall_at, worker.stall_s = 1, 0.5
    found = open_loop(worker.url, BODIES, rate=50, seconds=0.3, seed=1)
    assert max(latency or 0 for latency in found.latencies_ms) < 100


def test_a_server_that_answers_no_lone_request_ends_the_load() -> None:
    with pytest.raises(TimeoutError, match="lone request"):
        open_loop("http://127.0.0.1:9/", BODIES, 10, 0.1, 1, patience_s=0.2)


def level(latencies_ms: list[float | None], rate: float = 100, errors: dict[str, int] | None = None) -> Any:
    due = [number / rate for number in range(len(latencies_ms))]
    return Arrivals(rate, len(due) / rate, due, latencies_ms, [0.1] * len(due), errors or {})


@pytest.mark.parametrize(
    ("arrivals", "saturated"),
    [
        pytest.param(level([5.0] * 400), False, id="steady"),
        pytest.param(level([5.0 + number / 50 for number in range(400)]), False, id="doubled, of little"),
        pytest.param(level([5.0 + number for number in range(400)]), True, id="backlog grows by a tenth"),
        pytest.param(level([900.0 + number for number in range(400)]), False, id="slow, and not much slower"),
        pytest.param(level([None, *[5.0] * 399], errors={"503": 1}), False, id="one failure"),
        pytest.param(level([None, None, *[5.0] * 398], errors={"503": 2}), True, id="two in 400"),
        pytest.param(level([None, None, *[5.0] * 3998], errors={"503": 2}), False, id="two in 4000"),
        pytest.param(level([None] * 40 + [5.0] * 360, errors={"422": 40}), False, id="bad texts"),
        pytest.param(level([None] * 40 + [5.0] * 360, errors={"429": 40}), True, id="too many requests"),
        pytest.param(level([None] * 8, errors={"TimeoutError": 8}), True, id="no answer at all"),
    ],
)
def test_saturated_means_failures_or_a_backlog_that_grows(arrivals: Arrivals, saturated: bool) -> None:
    assert arrivals.saturated is saturated


def test_passes_are_pooled_and_judged_by_half_of_them() -> None:
    steady, refusing = level([5.0] * 400), level([None] * 200 + [9.0] * 200, errors={"503": 200})
    found = describe_open([steady, refusing], 6)
    assert tidied(found)
    assert found.arrivals == 800
    assert found.seconds == 8
    assert found.saturated is True
    assert found.goodput_rps == 50
    assert found.errors == {"503": 200}
    assert found.split_ms is None
    assert describe_open([steady, steady, refusing], 6).saturated is False


def test_the_knee_is_the_last_rate_below_the_first_saturated_one() -> None:
    steady, full = level([5.0] * 400, rate=100), level([5.0 + 9 * number for number in range(400)], rate=100)
    assert saturation([80.0, 120.0], {100: [steady]}) == Saturation(120.0, 100)
    assert saturation([80.0], {50: [steady], 60: [full], 70: [steady]}) == Saturation(100.0, 50)
    assert saturation([80.0], {50: [full]}).knee_rps is None
    assert saturation([0.0], {}) is None
