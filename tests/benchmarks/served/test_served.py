"""One pass on the session's TorchServe: what its counters say, and an outcome that survives a resume log."""

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.profiles import MANY_TEXTS, PROFILES
from benchmarks.records import tidied
from benchmarks.served.open_loop import open_loop
from benchmarks.served.run import TURNS, Pass, Running, Served, as_bodies, as_lists, in_turns, one_pass
from benchmarks.served.torchserve_metrics import INFERENCE, QUEUE, REQUESTS, read_counters, spent, split
from common.records import plain, read
from deploy.tuning.load import closed_loop
from export.archives.package import package
from training.data.splits import Split

TEXTS = ["a text", "another text that is somewhat longer than the first"]
BRIEF = replace(
    PROFILES["demo"],
    concurrencies=(1, 4),
    served_s=0.2,
    open_shares=(0.3,),
    open_s=0.4,
    open_most_s=4.0,
    extra_rates=(40.0,),
    served_texts=None,
)


@pytest.fixture(scope="module")
def running(served) -> Running:
    server, _ = served
    return Running(server.predictions, 1.0, server.worker(), server.metrics)


@pytest.fixture(scope="module")
def outcome(running: Running, served) -> Pass:
    _, artifact = served
    split = Split([*TEXTS, ""], np.zeros(3, np.int64))
    bodies, many = as_bodies(TEXTS), as_lists(TEXTS)
    return one_pass(nullcontext(running), artifact.labels, bodies, {"gate": split}, BRIEF, many=many)


def test_the_mean_time_of_an_answer_is_split_by_the_servers_own_counters(running: Running) -> None:
    found = open_loop(running.predictions, as_bodies(TEXTS), 60, 1, seed=1, metrics=running.metrics)
    assert found.counted is not None
    assert found.counted[REQUESTS] == 60, "neither the lone request nor reading counters"
    mean_ms = float(np.mean([latency for latency in found.latencies_ms if latency is not None]))
    parts = split(found.counted, mean_ms)
    assert parts is not None
    assert all(part > 0 for part in parts.values())
    assert sum(parts.values()) == pytest.approx(mean_ms)


def test_torchserves_inference_latency_includes_its_queue(running: Running) -> None:
    """Of 96 clients 32 are in a batch and 64 wait: without the wait, inference would be the shorter."""
    before = read_counters(running.metrics or "")
    load = closed_loop(running.predictions, as_bodies(TEXTS), 96, 0.5, 0)
    counted = spent(before, read_counters(running.metrics or ""))
    queue_ms, inference_ms = (counted[name] / 1000 / counted[REQUESTS] for name in (QUEUE, INFERENCE))
    assert queue_ms < inference_ms < np.mean(load.latencies_ms)


def test_there_is_no_split_of_nothing() -> None:
    assert split(spent({}, {}), 5.0) is None


def test_an_outcome_is_plain_json_and_makes_the_same_report_when_read_back(outcome) -> None:
    assert outcome.error is None
    made, back = Served(), Served()
    made.add(outcome)
    back.add(read(json.loads(json.dumps(plain(outcome), allow_nan=False)), Pass))
    assert made.record() == back.record()
    assert made.open_record(50) == back.open_record(50)
    assert made.saturation() == back.saturation()
    assert made.rates == back.rates
    assert np.isnan(back.scores["gate"][2]).all(), "the empty text has no score"
    assert np.array_equal(made.scores["gate"], back.scores["gate"], equal_nan=True)


def test_levels_are_shares_of_the_closed_rate_and_what_the_user_asks_for(outcome) -> None:
    served = Served()
    served.add(outcome)
    busiest = next(load for load in outcome.loads if load.concurrency == 4)
    share = 0.3 * busiest.requests_per_second
    assert set(served.rates) == {float(f"{share:.3g}"), 40}
    entries = served.open_record(50)
    for entry in entries:
        assert tidied(entry)
        assert entry.split_ms.handler > 0
    assert tidied(served.saturation())
    capacity = served.saturation()
    assert capacity is not None
    assert capacity.capacity_rps >= max(level.requests_per_second for level in served.record())


def test_requests_of_many_texts_have_a_rate_of_texts(outcome) -> None:
    served = Served()
    served.add(outcome)
    answered = len(outcome.many[0].latencies_ms)
    found = served.many_record()
    assert found is not None
    assert tidied(found)
    assert found.requests == answered > 0
    assert found.texts_per_second == pytest.approx(MANY_TEXTS * answered / outcome.many[0].seconds)
    assert Served().many_record() is None


def test_every_request_of_many_texts_is_full() -> None:
    bodies = as_lists([str(number) for number in range(3 * MANY_TEXTS + 5)])
    texts = [text for body in bodies for text in json.loads(body)["texts"]]
    assert texts == [str(number) for number in range(3 * MANY_TEXTS)]
    assert [len(json.loads(body)["texts"]) for body in as_lists(["a", "b", "c"])] == [MANY_TEXTS]


def test_a_second_pass_repeats_the_rates_of_the_first(outcome) -> None:
    served = Served()
    for _ in range(2):
        served.add(outcome)
    assert [level.passes for level in served.record()] == [4, 4], "up and down in each"
    lowest = served.open_record(50)[0]
    visits = [load for load in outcome.opens if load.offered_rps == lowest.offered_rps]
    assert lowest.arrivals == 2 * sum(len(load.due_s) for load in visits)


def test_a_server_that_does_not_start_is_an_outcome_too() -> None:
    @contextmanager
    def broken():
        raise OSError("no port")
        yield

    outcome = one_pass(broken(), (), as_bodies(TEXTS), {}, BRIEF)
    assert outcome.error == "OSError: no port"
    served = Served()
    served.add(outcome)
    assert served.error
    assert served.record() == served.open_record(50) == served.ready_s == []
    assert served.saturation() is None


def test_servers_in_turns_have_a_rate_each_time(served, tmp_path) -> None:
    _, artifact = served
    archives = {name: package(artifact, tmp_path / name) for name in ("one", "other")}
    found = in_turns(archives, as_bodies(TEXTS), BRIEF)
    assert {name: len(rates) for name, rates in found.rps.items()} == {"one": TURNS, "other": TURNS}
    assert min(min(rates) for rates in found.rps.values()) > 0
    missing = in_turns({**archives, "none": tmp_path / "none.mar"}, as_bodies(TEXTS), BRIEF)
    assert missing.rps == {}, "what fails is left out, and nothing is made of the rest"
