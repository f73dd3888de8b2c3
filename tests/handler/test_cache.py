"""Texts that came before are answered from memory: the same answers, all counted, and no text is kept."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest

from handler.cache import Cache
from handler.predictor import Encoding, Prediction, Predictor
from handler.replies import Arrival, reply
from handler.stages import Model, Stage, margins
from tests.asking import JSON
from tests.handler.test_service import LONG, Counted, ask, serve

ONE = Prediction(np.array([0.25, 0.75]), 5, False, 1, np.array([-1.0, 1.0], np.float32))


class Watched(Predictor):
    """Counts the texts that the model is asked of."""

    asked = 0

    def classify(self, encodings: Sequence[Encoding], aggregates: Sequence[str | None]) -> list[Prediction]:
        self.asked += len(encodings)
        return super().classify(encodings, aggregates)


@pytest.fixture
def predictor(build_once) -> Watched:
    return Watched(build_once("fp32"))


def bodies(service, *rows: object) -> list[bytes]:
    return [each.body for each in reply(service, [Arrival({"body": row}, JSON) for row in rows])]


def test_a_second_answer_is_the_first_byte_for_byte_and_the_model_is_not_asked(predictor: Watched) -> None:
    service = serve(predictor, max_cached=100)
    rows = [b'"good day"', b'["you are vile", 3, "a"]', json.dumps({"text": LONG, "long": "chunks"}).encode()]
    first = bodies(service, *rows)
    assert predictor.asked == 4
    assert bodies(service, *rows) == first
    assert bodies(service, b'"a"') != bodies(service, b'"good day"')
    assert predictor.asked == 4
    predictor.asked = 0
    plain = serve(predictor)
    assert bodies(plain, *rows) == first == bodies(plain, *rows)
    assert predictor.asked == 8, "without max_cached nothing is remembered"


def test_equal_texts_of_one_batch_are_computed_once(predictor: Watched) -> None:
    metrics = Counted()
    service = serve(predictor, metrics, max_cached=1)  # fewer than the batch has
    answers = ask(service, ["a", "b", "a"], "b", "a")
    assert predictor.asked == 2
    assert answers[0][0] == answers[0][2] == answers[2][0] != answers[1][0] == answers[0][1]
    service.tally.emit()
    assert metrics.values["classifier_texts",] == 5
    assert metrics.values["classifier_cached",] == 3


def test_options_that_change_the_score_part_equal_texts(predictor: Watched) -> None:
    service = serve(predictor, max_cached=100)
    text = LONG + "you are vile " * 5
    asked = [{"text": text}, {"text": text, "long": "chunks"}]
    asked.append({"text": text, "long": "chunks", "aggregate": "mean"})
    answers = [ask(service, row) for row in (*asked, *asked)]
    assert answers[:3] == answers[3:]
    assert len({json.dumps(answer) for answer in answers}) == 3
    assert predictor.asked == 3
    ask(service, {"text": text, "long": "chunks", "aggregate": "max"})
    assert predictor.asked == 3, "which is the default"


def test_limits_hold_for_texts_that_are_known(predictor: Watched) -> None:
    whole = {"text": LONG, "long": "chunks"}
    service = serve(predictor, max_cached=100, max_texts=40)
    ((known,),) = ask(service, whole)
    service.limits = type(service.limits)(max_texts=known["windows"], max_cached=100)
    (answers,) = ask(service, ["short", whole])
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, 413]
    ((refused,),) = ask(service, {"text": "short", "aggregate": "max"})
    assert refused["error"]["field"] == "aggregate"


def test_every_text_is_counted_and_observed_whoever_answers(predictor: Watched) -> None:
    kinds = ("texts", "labels", "scores", "lengths", "truncated", "windows", "rejected")
    counted, seen = [], []
    for most in (0, 100):
        metrics, observed = Counted(), []
        service = serve(predictor, metrics, max_cached=most)
        service.observe = lambda *given, observed=observed: observed.append((*given[:2], given[2]["label"]))
        for _ in range(3):
            ask(service, ["good day", LONG, "", "good day"], {"text": LONG, "long": "chunks"})
        service.tally.emit()
        of_texts = {key: value for key, value in metrics.values.items() if key[0].split("_")[1] in kinds}
        counted.append(of_texts)
        seen.append(observed)
        cached = metrics.values.get(("classifier_cached",), 0)
    assert counted[0] == counted[1]
    assert counted[0]["classifier_texts",] == 12
    assert cached == 9
    assert seen[0] == seen[1]
    assert len(seen[0]) == 12
    assert metrics.values["classifier_padded_tokens",] >= metrics.values["classifier_tokens",] > 0


def test_later_stages_are_counted_for_known_texts_too(build_once) -> None:
    """Drift compares their share with that of the validation texts."""
    predictor = Predictor(build_once("fp32"))
    (only,) = predictor.models
    texts = [f"you are number {number}" for number in range(60)]
    first = margins(predictor.artifact.meta, predictor.logits(predictor.encode(texts)))
    widths = {"first": float(np.quantile(first, 0.8)), "second": float(np.quantile(first, 0.4)), "last": 0.0}
    predictor.models = [
        Model(predictor.artifact.meta, only.forward, Stage(name, [0.0, 0.0], width))
        for name, width in widths.items()
    ]
    predictor.asked_again = {"second": 0, "last": 0}
    counted = []
    for most in (0, 1000):
        metrics = Counted()
        service = serve(predictor, metrics, max_cached=most)
        for _ in range(2):
            ask(service, texts, {"text": LONG, "long": "chunks"})
        service.tally.emit()
        counted.append({key: n for key, n in metrics.values.items() if key[0] == "classifier_asked_again"})
    assert metrics.values["classifier_cached",] == 61
    second, last = (("classifier_asked_again", stage) for stage in ("second", "last"))
    assert counted[0] == counted[1]
    assert counted[0].keys() == {second, last}
    assert 80 <= counted[0][second] <= 104
    assert 32 <= counted[0][last] < counted[0][second]
    assert counted[0] == {
        ("classifier_asked_again", stage): count * 2 // 3 for stage, count in predictor.asked_again.items()
    }, "the model was asked twice without the cache, and once with it"


def test_an_explanation_is_made_anew(predictor: Watched) -> None:
    metrics = Counted()
    service = serve(predictor, metrics, max_cached=100)
    first, second = (ask(service, {"text": "you are vile"}, explain=True) for _ in range(2))
    assert first == second
    service.tally.emit()
    assert metrics.values["classifier_explained", "occlusion"] == 2
    assert metrics.values["classifier_cached",] == 1


def test_the_longest_unasked_makes_room() -> None:
    cache = Cache(2, "digest")
    one, two, three = (cache.key(text, None) for text in ("one", "two", "three"))
    cache.put(one, ONE)
    cache.put(two, ONE)
    assert cache.get(one)
    cache.put(three, ONE)
    assert len(cache) == 2
    assert cache.get(two) is None
    assert cache.get(one)
    assert cache.get(three)


def test_a_key_is_of_text_options_artifact_and_process() -> None:
    cache = Cache(2, "digest")
    assert cache.key("a", None) == cache.key("a", None)
    keys = {cache.key("a", None), cache.key("A", None), cache.key("a", "max"), cache.key("a", "mean")}
    assert len(keys | {Cache(2, "digest").key("a", None)}) == 5
    assert cache.key("\ud800", None) == cache.key("\ufffd", None), "one to the tokenizer"


def test_neither_texts_nor_arrays_of_their_batch_are_kept(predictor: Watched) -> None:
    service = serve(predictor, max_cached=100)
    ask(service, ["zebra crossing", "b"])
    assert len(service.cached) == 2
    kept = service.cached.cache._kept
    assert "zebra" not in str([(key, asdict(prediction)) for key, prediction in kept.items()])
    assert all(each.scores.base is None and each.logits.base is None for each in kept.values())
