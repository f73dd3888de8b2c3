"""Load generator and served scores, against a real local server that counts and fails on purpose."""

import asyncio
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from aiohttp import web

from benchmarks.sameness.scores import LIST_BYTES, LIST_TEXTS, in_lists, spread
from benchmarks.served.run import describe, score_served, served_parity
from deploy.tuning.load import Load, closed_loop

LABELS = ["not-hate", "hate"]


class Server:
    """Answers after `delay_s`, each `fail_every`-th time with 503; a text scores its length / 100. The first
    `wait_for` requests wait for each other."""

    def __init__(self) -> None:
        self.delay_s = 0.01
        self.fail_every = 0
        self.wait_for = 0
        self.all_are_here = asyncio.Event()
        self.requests = 0
        self.at_once = 0
        self.most_at_once = 0
        self.texts: Counter[str] = Counter()
        self.url = ""

    async def predict(self, request: web.Request) -> web.Response:
        self.requests += 1
        number = self.requests
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        if number == self.wait_for:
            self.all_are_here.set()
        elif number < self.wait_for:
            await self.all_are_here.wait()
        body = await request.json()
        await asyncio.sleep(self.delay_s)
        self.at_once -= 1
        if self.fail_every and number % self.fail_every == 0:
            return web.Response(status=503)
        texts = body["texts"] if "texts" in body else [body["text"]]
        self.texts.update(texts)
        answers = [self.answer(text) for text in texts]
        return web.json_response({"predictions": answers} if "texts" in body else answers[0])

    def answer(self, text: str) -> dict:
        if not text:
            return {"error": {"code": 422}}
        return {"scores": {"hate": len(text) / 100, "not-hate": 1 - len(text) / 100}}


@pytest.fixture
def server(loopback) -> Server:
    state = Server()
    state.url = loopback(state.predict)
    return state


def bodies(*texts: str) -> list[bytes]:
    return [json.dumps({"text": text}).encode() for text in texts]


def test_every_request_is_counted_once_and_the_warm_ones_not_at_all(server: Server) -> None:
    load = closed_loop(server.url, bodies("a", "bb"), concurrency=4, seconds=0.3, warm_s=0.2, least=2)
    assert not load.errors
    assert 2 <= len(load.latencies_ms) < server.requests
    assert server.texts.keys() == {"a", "bb"}
    cold = server.requests
    load = closed_loop(server.url, bodies("a"), concurrency=4, seconds=0.3, warm_s=0)
    assert len(load.latencies_ms) == server.requests - cold


def test_as_many_clients_as_asked_wait_at_once(server: Server) -> None:
    server.wait_for = 6
    closed_loop(server.url, bodies("a"), concurrency=6, seconds=0.3, warm_s=0)
    assert server.most_at_once == 6


def test_a_latency_is_never_shorter_than_the_server_took(server: Server) -> None:
    load = closed_loop(server.url, bodies("a"), concurrency=2, seconds=0.3, warm_s=0)
    assert min(load.latencies_ms) >= 10
    assert load.requests_per_second == pytest.approx(len(load.latencies_ms) / load.seconds)


def test_refusals_are_counted_by_status_and_not_as_latency(server: Server) -> None:
    server.fail_every = 3
    load = closed_loop(server.url, bodies("a"), concurrency=2, seconds=0.5, warm_s=0, least=3)
    assert set(load.errors) == {"503"}
    assert load.errors["503"] == server.requests // 3
    assert len(load.latencies_ms) == server.requests - load.errors["503"]


def test_a_server_that_is_gone_is_an_error_not_a_crash(server: Server) -> None:
    nowhere = "http://127.0.0.1:9/predictions/hate"
    load = closed_loop(nowhere, bodies("a"), concurrency=2, seconds=0.1, warm_s=0)
    assert not load.latencies_ms
    assert sum(load.errors.values()) > 0
    assert describe([load]).p50_ms is None


def test_passes_are_pooled() -> None:
    found = describe([Load(8, 2.0, [10.0] * 200), Load(8, 2.0, [30.0] * 100, Counter({"503": 4}))])
    assert found.requests_per_second == pytest.approx(75)
    assert found.requests_per_second_range == (50, 100)
    assert found.requests == 304
    assert found.errors == {"503": 4}
    assert found.p50_ms == 10


def test_served_scores_come_back_in_order_and_gaps_stay_gaps(server: Server) -> None:
    texts = ["x" * (1 + number % 50) for number in range(150)]
    texts[70] = ""
    scores = score_served(server.url, texts, in_lists(texts), LABELS)
    assert scores.shape == (150, 2)
    assert np.isnan(scores[70]).all()
    expected = np.array([len(text) / 100 for text in texts])
    assert np.allclose(np.delete(scores[:, 1], 70), np.delete(expected, 70))
    assert server.requests == 3


def test_lists_fit_into_a_request_and_leave_nothing_out() -> None:
    texts = ["é" * 30_000] * 10 + ["short"] * 200
    lists = in_lists(texts)
    assert [row for part in lists for row in part] == list(range(210))
    assert all(len(part) <= LIST_TEXTS for part in lists)
    assert all(len(json.dumps(texts[part.start : part.stop])) < 2 * LIST_BYTES for part in lists)
    assert in_lists([]) == []


def test_a_part_of_the_lists_is_evenly_spaced() -> None:
    lists = in_lists(["text"] * 640)
    assert [part.start for part in spread(lists, 300)] == [0, 128, 256, 384, 512]
    assert spread(lists, None) == lists
    assert spread(lists, 10_000) == lists


def test_a_slow_server_is_asked_until_there_are_enough_answers(given_time) -> None:
    async def answer() -> int:
        await asyncio.sleep(0.01)
        return 200

    given_time(answer)
    load = closed_loop("", bodies("a"), concurrency=2, seconds=0.1, warm_s=0, least=40)
    assert 40 <= len(load.latencies_ms) < 40 + 2
    assert load.seconds == pytest.approx(0.2, abs=0.011)
    load = closed_loop("", bodies("a"), concurrency=1, seconds=0.1, warm_s=0, least=1000)
    assert load.seconds == pytest.approx(0.4, abs=0.011), "but not for ever"


@pytest.mark.parametrize(
    ("strayed_by", "within"),
    [(0.0, True), (1e-6, True), (0.0009, True), (0.002, False), (float("nan"), False)],
)
def test_served_scores_must_be_those_in_process_within_what_batch_mates_change(
    strayed_by: float, within: bool
) -> None:
    artifact = SimpleNamespace(meta=SimpleNamespace(check=SimpleNamespace(batch_mate_diff=0.001)))
    in_process = np.array([[0.4, 0.6], [0.9, 0.1]])
    served = in_process + np.array([[0, 0], [strayed_by, 0]])
    found = served_parity(artifact, in_process, served)
    assert found.within_bound is within
    assert found.unanswered == int(np.isnan(strayed_by))
