"""Calls side by side give the answers of one call after the other, and each thread has work."""

import threading

import numpy as np
import pytest

from handler import runtimes
from handler.artifact import Artifact
from handler.batching import Grid
from handler.predictor import Predictor
from handler.runtimes import Runtime

TEXTS = ["word " * (number * 7 % 60) for number in range(50)]
PATIENCE_S = 30


@pytest.mark.parametrize("name", ["openvino-int8", "onnx-int8"])
def test_streams_change_no_score(build_once, name: str) -> None:
    alone, shared = (Predictor(build_once(name), threads) for threads in (1, 2))
    assert [len(each.models[0].streams) for each in (alone, shared)] == [0, 2]
    for texts in (TEXTS, TEXTS[:2], TEXTS[:1]):
        expected, found = ([each.scores for each in own.predict(texts)] for own in (alone, shared))
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_single_text_has_all_threads(build_once, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(build_once("onnx-int8"), 2)
    (model,) = predictor.models
    monkeypatch.setattr(model, "streams", (_never, _never))
    assert len(predictor.predict(["a text"])) == 1


def _never(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    raise AssertionError("a stream was asked")


def test_streams_compute_at_once(build_once, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(build_once("onnx-int8"), 2)
    (model,) = predictor.models
    both = threading.Barrier(2)

    def meets_the_other(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        both.wait(PATIENCE_S)
        return model.forward(ids, mask)

    monkeypatch.setattr(model, "streams", (meets_the_other, meets_the_other))
    assert len(predictor.predict(["one text", "another text"])) == 2


@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_in_a_stream_is_raised(build_once, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    predictor = Predictor(build_once("onnx-int8"), 2)
    (model,) = predictor.models
    failed = threading.Event()

    def fails(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        failed.set()
        raise ZeroDivisionError

    def waits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        assert failed.wait(PATIENCE_S)
        return model.forward(ids, mask)

    streams = [waits, waits]
    streams[failing] = fails
    monkeypatch.setattr(model, "streams", tuple(streams))
    with pytest.raises(ZeroDivisionError):
        predictor.predict(["one text", "another text"])


def test_openvinos_first_call_is_made_before_streams_make_theirs(
    build_once, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that make a process's first call at once sometimes wait for each other for ever."""
    artifact: Artifact = build_once("openvino-int8")
    compile_openvino = runtimes.compile_openvino
    calls: list[tuple[int, ...]] = []

    class Counted:
        def __init__(self, *given: object) -> None:
            self._request = compile_openvino(*given).create_infer_request()

        def create_infer_request(self) -> "Counted":
            return self

        def infer(self, inputs: dict[str, np.ndarray], **options: object) -> object:
            calls.append(inputs["input_ids"].shape)
            return self._request.infer(inputs, **options)

    monkeypatch.setattr(runtimes, "compile_openvino", Counted)
    runtimes.RUNTIMES["openvino"].load(artifact, 1, "cpu")
    assert calls == [(1, artifact.grid.lengths[0])]


def test_streams_share_the_threads(build_once) -> None:
    artifact: Artifact = build_once("onnx-int8")
    given: list[int] = []

    def load(_: Artifact, threads: int, device: str) -> object:
        given.append(threads)
        return None

    runtime = Runtime(load, {}, "", has_streams=True)  # type: ignore[arg-type]
    for threads, device, expected in (
        (1, "cpu", [1]),
        (2, "cpu", [2, 1, 1]),
        (9, "cpu", [9, 3, 2, 2, 2]),
        (2, "cuda:0", [2]),
    ):
        given.clear()
        runtime.model(artifact, threads, device)
        assert given == expected


def test_a_grid_of_at_most_so_many_texts_keeps_a_batch() -> None:
    grid = Grid((16, 32), (2, 4, 8), 256)
    assert grid.at_most(5).batches == (2, 4)
    assert grid.at_most(1).batches == (2,)
    assert grid.at_most(100).batches == grid.batches
