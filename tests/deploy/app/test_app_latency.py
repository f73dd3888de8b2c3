"""Latencies at /metrics: by phase and whole, exact within a bucket, with traces, against what is promised."""

import asyncio
import json
import re
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Sample
from starlette.types import Receive, Scope, Send

from deploy.app.counters import Counters
from deploy.app.latency import OPEN_METRICS, WHOLE
from deploy.app.model import Model
from deploy.app.timing import PHASES, Batch, Timing, Watched
from handler.latency import EDGES, NAME, Histogram, Promise, edges_with, promise_of
from handler.service import Service
from tests.asking import PREDICT, ask, get, wait_until
from tests.deploy.app.test_application import App, Gate, running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
CERTIFICATE = {"p99": {"limit_ms": 42.5, "loads": [{"rps": 100.0}, {"rps": 170.5}]}}


@pytest.fixture(scope="module")
def app(model: Model, service: Service, counted: Counters) -> Iterator[App]:
    promising = replace(model, certificate=CERTIFICATE)
    with running(promising, lambda: service, counted) as found:
        wait_until(lambda: found.batcher.is_ready)
        yield found


def samples(app: App) -> dict[tuple[str, str], Sample]:
    """Of the OpenMetrics page, read as strictly as its authors do, by name and labels."""
    status, page = ask(app.port, "/metrics", None, "", "GET", Accept=f"{OPEN_METRICS}; version=1.0.0")
    assert status == 200
    found = [each for family in read_open(page.decode()) for each in family.samples]
    return {
        (each.name, ",".join(f"{k}={v}" for k, v in sorted(each.labels.items()) if k != "ModelName")): each
        for each in found
    }


def counts(app: App) -> dict[str, float]:
    return {
        label.partition("=")[2]: each.value
        for (name, label), each in samples(app).items()
        if name in (f"{NAME}_count", f"{WHOLE}_count")
    }


def more(app: App, before: dict[str, float]) -> dict[str, float]:
    return {label: value - before[label] for label, value in counts(app).items() if value != before[label]}


def test_edges_are_at_most_a_half_apart_from_a_tenth_of_a_millisecond_to_ten_seconds() -> None:
    assert (EDGES[0], EDGES[-1]) == (1e-4, 10)
    assert max(after / edge for edge, after in pairwise(EDGES)) <= 1.5 + 1e-9


def test_a_value_at_an_edge_took_no_longer_than_it() -> None:
    histogram = Histogram((0.001, 0.002))
    for seconds in (0.001, 0.0011, 0.002, 0.0021):
        histogram.add(seconds)
    histogram.add(0.5, times=3)
    histogram.show(TRACE, 0.5)
    assert histogram.cumulative() == [("0.001", 1), ("0.002", 3), ("+Inf", 7)]
    assert histogram.sum == pytest.approx(1.5062)
    assert histogram.examples.keys() == {2}
    histogram.add_all(np.array([0.001, 0.0011, 0.002, 0.0021]))
    assert histogram.cumulative() == [("0.001", 2), ("0.002", 6), ("+Inf", 11)]
    assert histogram.sum == pytest.approx(1.5124)


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        {},
        {"fault": "it is of another artifact"},
        {"p99": None},
        {"p99": {"limit_ms": None, "loads": []}},
        {"p99": {"limit_ms": 5, "loads": []}},
    ],
)
def test_a_certificate_without_a_p99_promises_none(certificate: dict | None) -> None:
    assert promise_of(certificate) is None


def test_what_is_promised_is_the_limit_up_to_the_highest_rate_and_an_edge() -> None:
    promise = promise_of(CERTIFICATE)
    assert promise == Promise(0.0425, 170.5)
    assert set(edges_with([promise, None])) - set(EDGES) == {0.0425}


def test_phases_add_up_to_the_whole() -> None:
    timing = Timing(1.0, queued=1.5, batch=Batch(3.5, 3.6, 4.0, 1, []), ended=4.25)
    assert [phase for phase, _ in timing.phases()] == list(PHASES)
    assert [seconds for _, seconds in timing.phases()] == pytest.approx([0.5, 2, 0.1, 0.4, 0.25])
    assert sum(seconds for _, seconds in timing.phases()) == pytest.approx(timing.seconds)
    timing.explain = True
    assert timing.phases() == []


def test_each_answered_request_is_counted_once_in_each_phase(app: App) -> None:
    before = counts(app)
    for _ in range(3):
        assert ask(app.port, PREDICT, json.dumps({"texts": ["good day", "a"]}))[0] == 200
    assert ask(app.port, "/explanations/hate")[0] == 200
    assert more(app, before) == {"classify": 3, "explain": 1} | dict.fromkeys(PHASES, 3)


def test_what_is_refused_is_not_taken_for_fast(app: App) -> None:
    before = counts(app)
    malformed = app.counted("classifier_responses")
    assert ask(app.port, PREDICT, "{")[0] == 400
    assert samples(app)["classifier_responses", "code=400"].value == 1
    assert app.counted("classifier_responses") == malformed + 1
    assert ask(app.port, "/predictions/other")[0] == 404
    assert get(app.port, "/ready")[0] == 200
    assert more(app, before) == {}


def test_a_request_that_waits_is_counted_where_it_waited(
    app: App, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is in the model for 0.3 s, another waits for it in the queue."""
    before = {key: each.value for key, each in samples(app).items()}
    gate = Gate(service, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, app.port, PREDICT)
        assert gate.reached.wait(30)
        second = pool.submit(ask, app.port, PREDICT)
        wait_until(lambda: app.batcher.waiting == 1)
        time.sleep(0.3)
        gate.opened.set()
        assert (first.result()[0], second.result()[0]) == (200, 200)
    took = {
        label.removeprefix("phase="): each.value - before[name, label]
        for (name, label), each in samples(app).items()
        if name in (f"{NAME}_sum", f"{WHOLE}_sum")
    }
    assert took["tokenise"] > 0.3, "the gate is before the tokenizer"
    assert took["queue"] > 0.3
    assert took["kind=classify"] == pytest.approx(sum(took[phase] for phase in PHASES))


def test_the_p99_of_the_histogram_is_the_clients_own_within_a_bucket(app: App) -> None:
    before = buckets(app)
    own = []
    for _ in range(300):
        begun = time.perf_counter()
        assert ask(app.port, PREDICT)[0] == 200
        own.append(time.perf_counter() - begun)
    found = {edge: count - before[edge] for edge, count in buckets(app).items()}
    assert found[float("inf")] == 300
    edge = min(edge for edge, count in found.items() if count >= 0.5 * 300)
    # The client's time has a connection of its own in it, and Python's.
    assert edge / 1.5**4 <= statistics.median(own)
    assert sum(each <= edge for each in own) <= found[edge], "no request was faster for its client"


def buckets(app: App) -> dict[float, float]:
    return {
        float(each.labels["le"]): each.value
        for (name, label), each in samples(app).items()
        if name == f"{WHOLE}_bucket" and "kind=classify" in label
    }


def test_a_trace_is_the_example_of_its_bucket_in_open_metrics_alone(app: App) -> None:
    assert ask(app.port, PREDICT, traceparent=TRACEPARENT)[0] == 200
    examples = {
        each.exemplar.labels["trace_id"]
        for (name, _), each in samples(app).items()
        if name in (f"{NAME}_bucket", f"{WHOLE}_bucket") and each.exemplar
    }
    assert examples == {TRACE}
    page = get(app.port, "/metrics")[1].decode()
    assert TRACE not in page
    assert {family.type for family in read_text(page) if family.name in (NAME, WHOLE)} == {"histogram"}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "zebra",
        TRACEPARENT[:-1],
        f"ff{TRACEPARENT[2:]}",
        TRACEPARENT.replace(TRACE, "0" * 32),
        TRACEPARENT.upper(),
        f'{TRACEPARENT}" zebra',
    ],
)
def test_a_header_that_is_no_trace_is_kept_nowhere(app: App, header: str) -> None:
    before = {key: each.exemplar for key, each in samples(app).items()}
    assert ask(app.port, PREDICT, traceparent=header)[0] == 200
    assert {key: each.exemplar for key, each in samples(app).items()} == before


def test_an_exception_that_is_answered_further_out_is_a_500() -> None:
    class Kept:
        statuses: ClassVar[list[int]] = []

        def begin(self, timing: Timing, headers: object) -> None:
            pass

        def end(self, timing: Timing, method: str, path: str | None) -> None:
            self.statuses.append(timing.status)

    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    watched = Watched(breaks, [Kept()])
    scope = {"type": "http", "method": "GET", "headers": []}
    with pytest.raises(ZeroDivisionError):
        asyncio.run(watched(scope, None, None))  # type: ignore[arg-type]
    assert Kept.statuses == [500]


def test_the_promise_is_shown_and_its_limit_an_edge(app: App) -> None:
    found = samples(app)
    assert found["classifier_promised_p99_seconds", ""].value == 0.0425
    assert found["classifier_promised_rps", ""].value == 170.5
    assert 0.0425 in buckets(app)
    assert re.search(
        r'^classifier_request_seconds_bucket{ModelName="hate",kind="classify",le="0\.0425"} \d+$',
        get(app.port, "/metrics")[1].decode(),
        re.MULTILINE,
    )
