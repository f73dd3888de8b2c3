"""Workers in their own processes: what they answer, and what happens when they cannot."""

import signal
import time

import pytest

from benchmarks.in_process.pool import open_pool
from benchmarks.in_process.worker import KEPT, WorkerError, open_worker, peak_rss_bytes
from benchmarks.names import REFERENCE
from handler.artifact import Artifact
from handler.errors import UserError
from handler.predictor import Predictor

TEXTS = [
    f"this is text number {number}, and they grow longer" + " and longer" * number for number in range(6)
]


@pytest.mark.parametrize("name", ["fp32", "openvino-int8-rechecked-cascade"])
def test_a_worker_answers_as_the_predictor_does(build_once, name: str) -> None:
    artifact: Artifact = build_once(name)
    ours = Predictor(artifact, 1)
    expected = [prediction.scores.tolist() for prediction in ours.predict(TEXTS)]
    with open_worker(name) as worker:
        worker.ask("hold", texts=TEXTS)
        started = worker.ask("load", folder=str(artifact.folder), threads=1, first_text=TEXTS[0])
        assert started["threads"] == 1
        assert started["load_s"] > 0
        worker.ask("hold", texts=TEXTS)
        assert worker.ask("score", start=0, stop=6) == expected
        assert worker.ask("asked") == ours.asked_again, "of these texts, not of those before"
        assert len(worker.ask("single", start=1, stop=4)["times_ms"]) == 3
        assert len(worker.ask("together", start=0, stop=6)["times_ms"]) == KEPT
        assert len(worker.ask("model", start=1, stop=4)["times_ms"]) == 3
        turn = worker.ask("shape", batch=2, tokens=8)
        assert len(turn["times_ms"]) == KEPT
        assert min(turn["times_ms"]) > 0
        assert turn["cpu_ms"] > 0
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
        assert pool.names == [REFERENCE]
        assert pool.failures["a"].stage == "latency"
        assert "SIGKILL" in pool.failures["a"].message
        assert pool.ask(REFERENCE, "peak") > 0


def test_a_crash_of_the_reference_ends_the_run_with_a_sentence() -> None:
    with open_pool([REFERENCE]) as pool:
        pool.workers[REFERENCE].process.kill()
        with pytest.raises(UserError, match="the reference fp32 failed"):
            pool.ask(REFERENCE, "peak")


def test_a_process_is_started_again_for_another_block_and_answers_as_before(build_once) -> None:
    folder = str(build_once("onnx-fp32").folder)
    with open_pool([REFERENCE, "a"]) as pool:
        for name in pool.names:
            pool.load(name, "load", folder=folder, threads=1, first_text=TEXTS[0])
            pool.ask(name, "hold", texts=TEXTS)
        scores = pool.ask("a", "score", start=0, stop=6)
        pool.renew(0, pool.names, TEXTS)
        first = pool.processes
        pool.renew(0, pool.names, TEXTS)
        assert pool.processes == first
        pool.renew(1, ["a"], TEXTS)
        assert pool.processes[0] == first[0]
        assert pool.processes[1] != first[1]
        assert pool.ask("a", "score", start=0, stop=6) == scores


def test_a_variant_that_does_not_start_again_is_dropped(build_once) -> None:
    folder = str(build_once("onnx-fp32").folder)
    with open_pool([REFERENCE, "a"]) as pool:
        for name in pool.names:
            pool.load(name, "load", folder=folder, threads=1, first_text=TEXTS[0])
        pool.renew(0, pool.names, TEXTS)
        pool._loads["a"] = "load", {"folder": "nowhere", "threads": 1, "first_text": TEXTS[0]}
        pool.renew(1, pool.names, TEXTS)
        assert pool.names == [REFERENCE]
        assert "there is no artifact" in pool.failures["a"].message
