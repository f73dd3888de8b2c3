import os
import subprocess
import sys
from typing import get_type_hints

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from export.source import Source
from handler.answers import COLUMNS, EXAMPLE, Single
from handler.artifact import Artifact
from handler.predictor import Prediction, Predictor, decide
from tests.asking import held_to_schema
from tests.conftest import ROOT
from tests.descriptions import changed
from tests.house import schemas


@pytest.fixture(scope="module")
def fp32(build_once) -> Predictor:
    return Predictor(build_once("fp32"))


def test_scores_are_those_of_transformers_on_the_same_checkpoint(fp32: Predictor, source: Source) -> None:
    texts = source.dataset.splits["test"].texts[:50]
    tokenizer = AutoTokenizer.from_pretrained(source.checkpoint.folder)
    model = AutoModelForSequenceClassification.from_pretrained(source.checkpoint.folder).eval()
    for text, prediction in zip(texts, fp32.predict(texts), strict=True):
        inputs = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0].double() / source.checkpoint.meta.temperature
        np.testing.assert_allclose(prediction.scores, torch.softmax(logits, 0), atol=2e-6)
        assert prediction.tokens == inputs["input_ids"].shape[1]


def test_answers_come_in_the_order_of_the_texts_whatever_their_lengths(fp32: Predictor) -> None:
    texts = ["long " * 60, "short", "middle " * 20, "short", "é", "long " * 60]
    together = [prediction.scores for prediction in fp32.predict(texts)]
    alone = [fp32.predict([text])[0].scores for text in texts]
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_where_inputs_are_prepared_during_calls_the_answers_are_the_same(
    fp32: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings = fp32.encode(["word " * (number % 40) for number in range(100)])
    expected = fp32.logits(encodings)
    monkeypatch.setattr(fp32, "device", "cuda:0")
    np.testing.assert_array_equal(fp32.logits(encodings), expected)


def test_no_texts_give_no_predictions(fp32: Predictor) -> None:
    assert fp32.predict([]) == []


@pytest.mark.parametrize(
    "text", ["\ud800", "a\x00b", "\u200b", "👩‍👩‍👧", "e\u0301" * 50, "مرحبا", "\u202eabc", "\ufffe"]
)
def test_any_unicode_gets_an_answer(fp32: Predictor, text: str) -> None:
    (prediction,) = fp32.predict([text])
    assert np.isfinite(prediction.scores).all()


def test_the_label_is_hate_exactly_when_the_shown_score_reaches_the_threshold(fp32: Predictor) -> None:
    threshold = fp32.artifact.meta.thresholds["hate"]
    for score in (threshold - 1e-6, threshold, threshold + 1e-6):
        answer = fp32.answer(Prediction(np.array([1 - score, score]), 3, False))
        assert (answer["label"] == "hate") == (answer["scores"]["hate"] >= answer["threshold"])


def test_three_labels_are_decided_by_the_largest_score_and_have_no_threshold(build_once) -> None:
    predictor = Predictor(build_once("fp32"))
    predictor.artifact = changed(predictor.artifact, labels=["a", "b", "c"], thresholds={})
    answer = predictor.answer(Prediction(np.array([0.2, 0.5, 0.3]), 3, False))
    assert (answer["label"], answer["threshold"]) == ("b", None)
    held_to_schema(answer)
    assert decide(np.array([[0.2, 0.5, 0.3]]), ["a", "b", "c"], {}).tolist() == [1]


def test_multi_label_answers_hold_every_label_over_its_threshold(build_once) -> None:
    predictor = Predictor(build_once("fp32"))
    predictor.artifact = changed(
        predictor.artifact,
        task="multi-label",
        labels=["insult", "threat"],
        thresholds={"insult": 0.5, "threat": 0.9999},
    )
    scores = predictor.scores(np.array([[2.0, 2.0]], np.float32))[0]
    answer = predictor.answer(Prediction(scores, 3, False))
    assert answer["labels"] == ["insult"]
    held_to_schema(answer)


def test_warming_runs_every_shape_where_the_runtime_compiles_per_shape(build_once) -> None:
    openvino: Artifact = build_once("openvino-int8")
    assert Predictor(openvino).warm() == len(openvino.grid.shapes()) > 10
    assert Predictor(build_once("fp32")).warm() == 2


def test_two_labels_are_parted_by_the_threshold_alone() -> None:
    scores = np.array([[1 - score, score] for score in (0.29, 0.3, 0.31)])
    assert decide(scores, ["not-hate", "hate"], {"hate": 0.3}).tolist() == [0, 1, 1]


def test_the_public_schemas_are_those_of_the_types() -> None:
    """Made by `python -m tests.house.schemas`."""
    assert schemas.text(schemas.answer_schema()) == schemas.ANSWER.read_text()
    assert schemas.text(schemas.artifact_schema()) == schemas.ARTIFACT.read_text()
    assert schemas.text(schemas.self_check_schema()) == schemas.SELF_CHECK.read_text()
    held_to_schema(EXAMPLE)
    assert COLUMNS.keys() <= get_type_hints(Single).keys()


TWO = """
import gc, os, signal, sys
from handler.predictor import Predictor
first, second = (Predictor.load(sys.argv[1], 1) for _ in range(2))
second.predict(["a text"])
first.predict(["a text"])
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_finds_its_handler_after_two_openvino_models_have_come_and_gone(build_once) -> None:
    """On AMX it was a segmentation fault where the older of the two went first."""
    folder = build_once("openvino-int8").folder
    done = subprocess.run([sys.executable, "-c", TWO, folder], cwd=ROOT, timeout=120, capture_output=True)
    assert done.returncode == 7, done.stderr.decode()


BOUND = """
import os, sys, threading
from contextlib import suppress
from pathlib import Path
from handler.predictor import Predictor
predictor = Predictor.load(Path(sys.argv[1]), threads=1)
work = threading.Thread(target=predictor.predict, args=(["a text of some words " * 8] * 512,))
work.start()
while work.is_alive():
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just ended
            assert os.sched_getaffinity(int(thread.name)) == os.sched_getaffinity(os.getppid()), thread.name
"""


@pytest.mark.skipif(sys.platform != "linux" or os.cpu_count() == 1, reason="one CPU, or unknown ones")
@pytest.mark.parametrize("name", ["openvino-int8", "onnx-int8", "fp32"])
def test_no_thread_is_bound_to_a_cpu(build_once, name: str) -> None:
    """Two workers of one thread each would compute on the same one."""
    command = [sys.executable, "-c", BOUND, build_once(name).folder]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
