"""Workers in their own processes: what they answer, and what happens when they cannot."""

import signal
import time

import pytest

from benchmarks.in_process.pool import open_pool
from benchmarks.in_process.worker import WorkerError, open_worker, peak_rss_bytes
from benchmarks.names import CONTROL, REFERENCE
from handler.artifact import Artifact
from handler.errors import UserError
from handler.predictor import Predictor

TEXTS = [
    f"this is text number {number}, and they grow longer" + " and longer" * number for number in range(6)
]


def test_a_worker_answers_as_the_predictor_does(build_once) -> None:
    artifact: Artifact = build_once("fp32")
    expected = [prediction.scores.tolist() for prediction in Predictor(artifact, 1).predict(TEXTS)]
    with open_worker("fp32") as worker:
        worker.ask("hold", texts=TEXTS)
        started = worker.ask("load", folder=str(artifact.folder), threads=1, first_text=TEXTS[0])
        assert started["threads"] == 1
        assert started["load_s"] > 0
        assert worker.ask("score", start=0, stop=6) == expected
        assert len(worker.ask("single", start=1, stop=4)) == 3
        assert min(worker.ask("together", start=0, stop=6)) > 0
        assert len(worker.ask("model", start=1, stop=4)) == 3
        samples = worker.ask("shape", batch=2, tokens=8, turn_ms=5)
        assert len(samples) >= 2
        assert sum(samples) >= 5
        assert worker.ask("lengths")[0] < worker.ask("lengths")[5]
        assert worker.ask("peak") > 50e6
    assert worker.process.poll() == 0, "it leaves when the pipe is closed"


def test_an_exception_is_an_answer_and_the_worker_goes_on(tmp_path) -> None:
    with open_worker("a") as worker:
        with pytest.raises(WorkerError, match="there is no artifact"):
            worker.ask("load", folder=str(tmp_path), threads=1, first_text="a")
        assert worker.ask("peak") > 0


def test_a_killed_worker_is_reported_with_its_signal() -> None:
    with open_worker("a") as worker:
        worker.process.send_signal(signal.SIGSEGV)
        with pytest.raises(WorkerError, match="SIGSEGV"):
            worker.ask("peak")


def test_a_worker_that_hangs_is_ended() -> None:
    with open_worker("a") as worker:
        worker.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(WorkerError, match="SIGKILL"):
            worker.ask("peak", patience_s=0.5)
        assert time.monotonic() - begun < 300, "of the 900 s that are usual"


def test_the_memory_of_a_worker_is_its_own_and_not_that_of_its_parent() -> None:
    ballast = bytearray(300_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert peak_rss_bytes() > 300e6
    with open_worker("a") as worker:
        assert worker.ask("peak") < 150e6
    del ballast


def test_a_crash_drops_its_variant_and_no_other() -> None:
    with open_pool([REFERENCE, "a"]) as pool:
        pool.stage = "latency"
        pool.workers["a"].process.kill()
        assert pool.ask("a", "peak") is None
        assert pool.names == [REFERENCE, CONTROL]
        assert pool.failures["a"].stage == "latency"
        assert "SIGKILL" in pool.failures["a"].message
        assert pool.ask(REFERENCE, "peak") > 0


def test_a_crash_of_the_reference_ends_the_run_with_a_sentence() -> None:
    with open_pool([REFERENCE]) as pool:
        pool.workers[REFERENCE].process.kill()
        with pytest.raises(UserError, match="the reference fp32 failed"):
            pool.ask(REFERENCE, "peak")


def test_turns_are_taken_in_changing_order() -> None:
    with open_pool([REFERENCE, "a", "b"]) as pool:
        orders = {tuple(pool.shuffled(turn)) for turn in range(20)}
        assert len(orders) > 5
        assert all(sorted(order) == sorted(pool.names) for order in orders)
