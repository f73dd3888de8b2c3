"""Requests in, answers out, on the real tiny model: windows, explanations, descriptions, what is counted."""

import json
import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from handler import metrics, service
from handler.artifact import Artifact
from handler.classifier_handler import ClassifierHandler, _show
from handler.errors import UnsupportedError
from handler.explanations import AT_ONCE
from handler.latency import EDGES, NAME, Promise
from handler.metrics import COUNTERS, LATENCY, PHASES, PROMISED, Tally, length_bin, score_bin
from handler.predictor import Encoding, Predictor
from handler.replies import Arrival, reply
from handler.requests import Limits, Request, read
from handler.service import Service
from tests.asking import JSON, held_to_schema
from tests.conftest import ROOT
from tests.descriptions import changed

MODEL = {"name": "hate", "version": "1.0", "variant": "fp32"}
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good day"]}
LONG = "a kind word and then another about the weather " * 60


class Counted:
    """Stands where TorchServe's metrics cache does, and keeps what it is given."""

    def __init__(self) -> None:
        self.values: dict[tuple, float] = {}

    def get_metric(self, name: str):
        cache = self

        class Metric:
            def add_or_update(self, value: float, dimensions: list[str]) -> None:
                assert len(dimensions) == 1 + len((COUNTERS | LATENCY)[name])
                key = (name, *dimensions[1:])
                cache.values[key] = cache.values.get(key, 0) + value

        return Metric()


@pytest.fixture(scope="module")
def predictor(build_once) -> Predictor:
    return Predictor(build_once("fp32"))


def serve(predictor: Predictor, metrics: Counted | None = None, **limits: int) -> Service:
    return Service(predictor, Limits(**limits), MODEL, Tally(metrics or Counted(), "hate"))


def ask(service: Service, *bodies: object, explain: bool = False) -> list[list[dict]]:
    requests = [read({"body": body}, JSON, service.limits, explain=explain) for body in bodies]
    answers = service.answer(requests)
    for answer in (answer for rows in answers for answer in rows):
        held_to_schema(answer)
    return answers


def test_requests_of_one_batch_get_their_own_answers(predictor: Predictor) -> None:
    texts = ["good day", "you are vile", LONG]
    expected = [prediction.scores[1] for prediction in predictor.predict(texts)]
    answers = ask(serve(predictor), {"text": texts[0]}, [texts[1], "", 3, texts[2]], {"txt": 1})
    assert [len(rows) for rows in answers] == [1, 4, 1]
    good = [answers[0][0], answers[1][0], answers[1][3]]
    np.testing.assert_allclose([answer["scores"]["hate"] for answer in good], expected, atol=2e-6)
    assert ["error" in answer for answer in answers[1]] == [False, True, True, False]


def test_a_long_text_is_cut_and_says_so_or_is_read_whole(predictor: Predictor) -> None:
    ((cut,), (whole,)) = ask(serve(predictor), {"text": LONG}, {"text": LONG, "long": "chunks"})
    assert (cut["truncated"], cut["tokens"]) == (True, predictor.artifact.max_length)
    predictor.tokenizer.no_truncation()
    try:
        tokens = len(predictor.tokenizer.encode(LONG).ids)
    finally:
        predictor.tokenizer.enable_truncation(predictor.artifact.max_length, stride=predictor.stride)
    assert (whole["truncated"], whole["tokens"]) == (False, tokens)
    assert whole["windows"] > tokens / predictor.artifact.max_length


def test_the_worst_window_decides_unless_the_mean_is_asked_for(predictor: Predictor) -> None:
    (encoding,) = predictor.encode([LONG + "you are vile " * 5], [True])
    windows = predictor.scores(predictor.logits([Encoding(ids) for ids in encoding.windows]))[:, 1]
    assert len(set(windows)) > 1, "the windows must differ for this to show anything"
    body = {"text": LONG + "you are vile " * 5, "long": "chunks"}
    ((worst,), (mean,)) = ask(serve(predictor), body, body | {"aggregate": "mean"})
    assert worst["scores"]["hate"] == pytest.approx(windows.max(), abs=2e-6)
    assert windows.min() < mean["scores"]["hate"] < windows.max()
    assert sum(mean["scores"].values()) == pytest.approx(1, abs=2e-6)


def test_windows_count_as_texts_do(predictor: Predictor) -> None:
    rows = ["short", {"text": LONG, "long": "chunks"}, "short"]
    (answers,) = ask(serve(predictor, max_texts=4), rows)
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert answers[1]["error"]["code"] == 413
    (answers,) = ask(serve(predictor, max_texts=40), rows)
    assert not any("error" in answer for answer in answers)


@pytest.mark.parametrize(
    ("asked", "method"),
    [({}, "occlusion"), ({"method": "integrated-gradients"}, "integrated-gradients")],
    ids=["default", "gradients"],
)
def test_an_explanation_names_each_token_where_it_stands(
    predictor: Predictor, asked: dict, method: str
) -> None:
    text = "You are \ud800 vile, 👩‍👩‍👧 e\u0301 friend"
    ((answer,),) = ask(serve(predictor), {"text": text} | asked, explain=True)
    explanation = answer["explanation"]
    assert (explanation["method"], explanation["target"]) == (method, "hate")
    assert explanation["tokens"]
    for token in explanation["tokens"]:
        assert token["token"] == text[token["start"] : token["end"]]
    assert [token["start"] for token in explanation["tokens"]] == sorted(
        token["start"] for token in explanation["tokens"]
    )


def test_a_worker_computes_on_the_gpu_that_torchserve_gives_it(
    artifact_copy: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    """An artifact for CPUs says which GPU it was given, and refuses it."""
    artifact_copy.folder.rename(artifact_copy.folder.with_name("artifact"))
    properties = {"model_dir": str(artifact_copy.folder.parent), "gpu_id": 1}
    with pytest.raises(UnsupportedError, match="does not run on this device: cuda:1"):
        ClassifierHandler().initialize(SimpleNamespace(system_properties=properties, model_yaml_config=None))
    assert "cuda:1" in capfd.readouterr().err


def test_a_request_that_breaks_the_handler_harms_no_other(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Context:
        def __init__(self, count: int) -> None:
            self.statuses = [0] * count

        def get_all_request_header(self, index: int) -> dict:
            return {"body": {"content-type": JSON}, "Host": "localhost"}

        def set_response_status(self, status: int, phrase: str, index: int) -> None:
            self.statuses[index] = status

        def set_response_content_type(self, index: int, value: str) -> None:
            pass

    served = ClassifierHandler()
    metrics = Counted()
    served.service = serve(predictor, metrics)
    encode = predictor.encode

    def breaks(texts: list[str], whole: list[bool]):
        if "zebra" in texts:
            raise RuntimeError("zebra")
        return encode(texts, whole)

    monkeypatch.setattr(predictor, "encode", breaks)
    context = Context(3)
    bodies = served.handle([{"body": b'"good day"'}, {"body": b'"zebra"'}, {"body": b'""'}], context)
    assert context.statuses == [200, 500, 422]
    for body in bodies:
        held_to_schema(body)
    served.service.tally.emit()
    assert metrics.values["classifier_texts",] == 1, "what was answered twice is counted once"
    assert metrics.values["classifier_requests",] == 3
    said = capfd.readouterr().err
    assert "RuntimeError" in said
    assert "test_service.py" in said
    assert "zebra" not in said.replace('raise RuntimeError("zebra")', "").replace('if "zebra" in texts', "")


def test_an_explanation_may_be_asked_for_another_label_and_by_another_method(predictor: Predictor) -> None:
    service = serve(predictor)
    body = {"text": "you are vile and I like soup", "method": "occlusion"}
    ((hate,), (other,)) = ask(service, body, body | {"target": "not-hate"}, explain=True)
    for one, opposite in zip(hate["explanation"]["tokens"], other["explanation"]["tokens"], strict=True):
        assert one["attribution"] == pytest.approx(-opposite["attribution"], abs=2e-4)
    assert any(token["attribution"] for token in hate["explanation"]["tokens"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target": "love"}, "target"),
        ({"target": 1}, "target"),
        ({"long": "chunks"}, "long"),
        ({"method": "magic"}, "method"),
        ({"aggregate": "max"}, "aggregate"),
    ],
)
def test_what_cannot_be_explained_is_a_422(predictor: Predictor, changes: dict, field: str) -> None:
    ((answer,),) = ask(serve(predictor), {"text": "good day"} | changes, explain=True)
    assert (answer["error"]["code"], answer["error"]["field"]) == (422, field)


def test_an_explanation_is_given_up_where_others_wait(predictor: Predictor) -> None:
    metrics = Counted()
    served = serve(predictor, metrics, max_explained_ms=0)
    classified = read({"body": "good day"}, "", served.limits)
    explained = read({"body": [LONG, ""]}, JSON, served.limits, explain=True)
    (answered,), (late, empty) = served.answer([classified, explained])
    assert answered["label"]
    assert (late["error"]["code"], late["error"]["field"]) == (429, "text")
    assert empty["error"]["code"] == 422
    ((still,),) = ask(served, LONG, explain=True)
    assert still["error"]["code"] == 429, "others asked a moment ago, and will again"
    served.tally.emit()
    assert metrics.values["classifier_texts",] == 1, "what is refused is not counted as answered"
    assert metrics.values["classifier_rejected", "429", "text"] == 2
    assert "classifier_explained" not in {name for name, *_ in metrics.values}


def test_an_explanation_that_is_quick_enough_is_made_where_others_wait(predictor: Predictor) -> None:
    served = serve(predictor, max_explained_ms=3_600_000)
    alone = ask(serve(predictor), [LONG, "good day"], explain=True)
    ask(served, "good day")
    assert ask(served, [LONG, "good day"], explain=True) == alone


def test_who_is_alone_has_all_the_time_that_an_explanation_takes(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(predictor, max_explained_ms=0)
    first, second = ask(served, [LONG, "good day"], ["good day"], explain=True)
    assert all("explanation" in answer for answer in first)
    assert [answer["error"]["code"] for answer in second] == [429], "it shares the batch of the first"
    ask(served, "good day")
    monkeypatch.setattr(service, "SHARED_S", -1.0)  # as if that were long ago
    ((again,),) = ask(served, LONG, explain=True)
    assert "explanation" in again
    assert served.answer([]) == []


def test_what_stands_back_for_others_is_not_given_up(predictor: Predictor) -> None:
    """The app's explanations, between whose passes others are answered."""
    served = serve(predictor, max_explained_ms=0)
    served.stand_back = lambda: None
    ask(served, "good day")
    ((answer,),) = ask(served, LONG, explain=True)
    assert "explanation" in answer


def test_integrated_gradients_are_given_up_as_well(predictor: Predictor) -> None:
    served = serve(predictor, max_explained_ms=0)
    if "integrated-gradients" not in served.methods:
        pytest.skip("captum is not installed")
    ask(served, "good day")
    ((late,),) = ask(served, {"text": LONG, "method": "integrated-gradients"}, explain=True)
    assert late["error"]["code"] == 429
    ((classified,),) = ask(served, "good day")
    assert classified["label"], "nothing of it is left behind"


def test_explanations_can_be_switched_off(predictor: Predictor) -> None:
    silent = serve(predictor, max_explained=0)
    ((refused,),) = ask(silent, "good day", explain=True)
    assert refused["error"]["code"] == 403
    ((answered,),) = ask(silent, "good day")
    assert answered["label"]
    assert silent.describe()["explanations"] == []
    assert Limits.of({"maxExplained": 0}).max_explained == 0


def test_others_are_answered_between_two_passes_of_an_explanation(predictor: Predictor) -> None:
    metrics = Counted()
    served, others = serve(predictor, metrics), []
    expected = ask(serve(predictor), LONG, explain=True)
    served.stand_back = lambda: others.extend(ask(served, "good day"))
    assert ask(served, LONG, explain=True) == expected
    assert len(others) >= predictor.artifact.max_length / AT_ONCE
    served.tally.emit()
    assert metrics.values["classifier_texts",] == len(others) + 1
    assert metrics.values["classifier_explained", "occlusion"] == 1


def test_predictions_and_explanations_share_a_batch(predictor: Predictor) -> None:
    service = serve(predictor)
    requests = [
        read({"body": "good day"}, "", service.limits),
        read({"body": ["", "you are vile"]}, JSON, service.limits, explain=True),
        Request([], "list"),
        read({"body": ""}, "", service.limits, explain=True),
    ]
    one, (bad, why), nothing, (empty,) = service.answer(requests)
    assert "explanation" not in one[0]
    assert why["explanation"]["tokens"]
    assert nothing == []
    assert bad["error"]["code"] == empty["error"]["code"] == 422


def test_three_labels_that_exclude_each_other_are_averaged_over_windows(predictor: Predictor) -> None:
    three = Predictor(changed(predictor.artifact, labels=["a", "b", "c"], thresholds={}, positive_label=None))
    three.models[0].forward = lambda ids, mask: (
        np.stack([ids.sum(1) % 7, ids.sum(1) % 5, mask.sum(1) % 3], 1) / 2.0
    )
    refused, answered = ask(
        serve(three),
        {"text": LONG, "long": "chunks", "aggregate": "max"},
        {"text": LONG, "long": "chunks"},
    )
    assert refused[0]["error"]["field"] == "aggregate"
    (encoding,) = three.encode([LONG], [True])
    lengths = np.array([len(ids) for ids in encoding.windows])
    windows = three.scores(three.logits([Encoding(ids) for ids in encoding.windows]))
    np.testing.assert_allclose(
        list(answered[0]["scores"].values()), lengths @ windows / lengths.sum(), atol=2e-6
    )


def test_the_declared_counters_are_those_that_are_counted() -> None:
    declared = yaml.safe_load((ROOT / "deploy" / "metrics.yaml").read_text())["model_metrics"]["counter"]
    gauges = yaml.safe_load((ROOT / "deploy" / "metrics.yaml").read_text())["model_metrics"]["gauge"]
    assert {gauge["name"] for gauge in gauges} >= set(PROMISED)
    dimensions = {counter["name"]: tuple(counter["dimensions"][1:]) for counter in declared}
    assert dimensions == COUNTERS | LATENCY


def test_a_runtime_without_gradients_says_so_and_explains_by_occlusion(build_once) -> None:
    service = serve(Predictor(build_once("onnx-fp32")))
    refused, answered = ask(
        service, {"text": "a", "method": "integrated-gradients"}, {"text": "you are vile"}, explain=True
    )
    assert refused[0]["error"]["field"] == "method"
    assert answered[0]["explanation"]["method"] == "occlusion"


@pytest.fixture(scope="module")
def several(build_once) -> Predictor:
    """The same model, read as two independent labels."""
    fp32 = build_once("fp32")
    return Predictor(changed(fp32, task="multi-label", thresholds={"not-hate": 0.5, "hate": 0.5}))


def test_several_labels_are_each_answered_windowed_and_explained(several: Predictor) -> None:
    (encoding,) = several.encode([LONG + "you are vile " * 5], [True])
    windows = several.scores(several.logits([Encoding(ids) for ids in encoding.windows]))
    service = serve(several)
    ((whole,),) = ask(service, {"text": LONG + "you are vile " * 5, "long": "chunks"})
    np.testing.assert_allclose(list(whole["scores"].values()), windows.max(axis=0), atol=2e-6)
    assert whole["labels"] == [label for label in several.artifact.labels if whole["scores"][label] >= 0.5]
    ((explained,),) = ask(service, {"text": "you are vile", "target": "hate"}, explain=True)
    assert explained["explanation"]["target"] == "hate"
    tensors = read({"body": {"inputs": [TENSOR]}}, JSON, service.limits)
    outputs = service.wrap(tensors, service.answer([tensors])[0])["outputs"]
    assert json.loads(outputs[0]["data"][0]) == json.loads(outputs[2]["data"][0])["labels"]


def test_a_description_tells_what_is_served(predictor: Predictor) -> None:
    description = serve(predictor).describe()
    for key in ("proof", "check", "labels", "thresholds", "training", "limits", "threads", "explanations"):
        assert description[key], key
    assert description["model"] == MODEL
    json.dumps(description)


def test_what_happened_is_counted_without_a_word_of_any_text(predictor: Predictor) -> None:
    metrics = Counted()
    service = serve(predictor, metrics)
    ask(service, ["good day", "", LONG], {"text": "zebra", "long": "chunks"})
    service.tally.emit()
    values = metrics.values
    assert values["classifier_texts",] == 3
    assert values["classifier_rejected", "422", "text"] == 1
    assert values["classifier_truncated",] == 1
    assert values["classifier_padded_tokens",] >= values["classifier_tokens",] > 128
    assert values["classifier_model_seconds",] > 0
    assert sum(value for key, value in values.items() if key[0] == "classifier_scores") == 3
    assert sum(value for key, value in values.items() if key[0] == "classifier_lengths") == 3
    assert sum(value for key, value in values.items() if key[0] == "classifier_labels") == 3
    assert "zebra" not in str(values)
    metrics.values.clear()
    service.tally.emit()
    assert not metrics.values, "sums are handed over once"


def test_decisions_are_answered_and_counted_where_the_artifact_has_bands(predictor: Predictor) -> None:
    metrics, before = Counted(), predictor.artifact
    bands = {
        "act": 1.0,
        "review": 0.0,
        "confidence": 0.95,
        "fitted_on": "validation",
        "texts": 9,
        "promises": [],
    }
    predictor.artifact = changed(before, bands=bands)
    try:
        service = serve(predictor, metrics)
        (answers,) = ask(service, ["good day", "zebra"])
        assert [answer["decision"] for answer in answers] == ["review", "review"]
        assert service.describe()["bands"]["review"] == 0
    finally:
        predictor.artifact = before
    service.tally.emit()
    assert metrics.values["classifier_decisions", "review"] == 2


def test_a_server_that_declares_none_of_our_metrics_is_served_all_the_same(predictor: Predictor) -> None:
    class Nothing:
        def get_metric(self, name: str):
            raise KeyError(name)

    service = Service(predictor, Limits(), MODEL, Tally(Nothing(), "hate"))
    ((answer,),) = ask(service, "good day")
    assert answer["label"]
    service.tally.emit()


def test_a_label_of_any_characters_is_counted_in_a_line_that_can_be_read(predictor: Predictor) -> None:
    metrics = Counted()
    tally = Tally(metrics, "hate")
    tally.add({("classifier_labels", "so, so|#x:1 ünd"): 2})
    tally.emit()
    assert {key: value for key, value in metrics.values.items() if value} == {
        ("classifier_labels", "so__so__x_1_ünd"): 2
    }


def test_a_tally_emits_latencies_as_cumulative_buckets_that_begin_at_zero() -> None:
    metrics = Counted()
    tally = Tally(metrics, "hate", Promise(0.0425, 170))
    tally.emit()
    buckets = {key: value for key, value in metrics.values.items() if key[0] == f"{NAME}_bucket"}
    assert len(buckets) == len(PHASES) * (len(EDGES) + 2), "the promised limit and infinity"
    assert not any(buckets.values())
    tally.took(3, model=0.04, reply=0.0001)
    tally.took(0, model=9)
    tally.took(1, model=0.5)
    tally.emit()
    tally.emit()
    counts = [
        metrics.values[f"{NAME}_bucket", "model", edge]
        for edge in ("0.033", "0.0425", "0.47", "0.68", "+Inf")
    ]
    assert counts == [0, 3, 3, 4, 4]
    assert metrics.values[f"{NAME}_sum", "model"] == pytest.approx(0.62)
    assert metrics.values[f"{NAME}_count", "model"] == 4
    assert metrics.values[f"{NAME}_bucket", "reply", "0.0001"] == 3


def test_torchserves_own_cache_takes_latencies_and_promises(caplog: pytest.LogCaptureFixture) -> None:
    cache = MetricsCacheYamlImpl(str(ROOT / "deploy" / "metrics.yaml"))
    cache.initialize_cache()
    with caplog.at_level("INFO"):
        _show(Promise(0.0425, 170), cache, "hate")
        tally = Tally(cache, "hate", Promise(0.0425))
        tally.took(3, handler=0.04)
        tally.emit()
    lines = [line for line in caplog.messages if line.startswith("[METRICS]")]
    values = {tuple(re.split(r"[:|]", line, maxsplit=2)[:2]) for line in lines if "#ModelName:hate" in line}
    assert {
        ("[METRICS]classifier_promised_p99_seconds.Seconds", "0.0425"),
        ("[METRICS]classifier_promised_rps.Count", "170"),
    } <= values
    of_handler = [line for line in lines if "phase:handler,le:0.0425|" in line]
    assert "classifier_latency_seconds_bucket.Count:3|" in of_handler[-1]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_phases_of_a_batch_are_those_of_each_of_its_requests(predictor: Predictor) -> None:
    metrics = Counted()
    service = serve(predictor, metrics)
    body = Arrival({"body": b'{"text": "good day"}'}, JSON)
    reply(service, [body, body, replace(body, explain=True)])
    service.tally.emit()
    assert {phase: metrics.values[f"{NAME}_count", phase] for phase in PHASES} == dict.fromkeys(PHASES, 2)
    took = {phase: metrics.values[f"{NAME}_sum", phase] for phase in PHASES}
    assert took.pop("handler") == pytest.approx(sum(took.values()))
    assert min(took.values()) > 0


def test_a_defect_before_the_model_is_in_no_phase(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Counted()
    service = serve(predictor, metrics)
    monkeypatch.setattr(service.predictor, "encode", lambda *_: 1 / 0)
    (failed,) = reply(service, [Arrival({"body": b'{"text": "good day"}'}, JSON)])
    service.tally.emit()
    assert failed.status == 500
    assert not any(value for key, value in metrics.values.items() if key[0] in LATENCY)


def test_the_thread_of_a_tally_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if each.name == "metrics"}

    monkeypatch.setattr(metrics, "INTERVAL_S", 0.01)
    before = threads()  # those of other tests, which may end meanwhile
    tally = Tally(Counted(), "hate")
    (own,) = threads() - before
    del tally
    own.join(100)
    assert not own.is_alive()


def test_bins_are_those_of_the_reference(predictor: Predictor, source) -> None:
    reference = predictor.artifact.meta.reference
    predictions = predictor.predict(source.dataset.splits["validation"].texts)
    edges, up_to = reference.scores.edges, reference.lengths.up_to
    scores = [score_bin(prediction.scores[1], edges) for prediction in predictions]
    lengths = [length_bin(prediction.tokens, up_to) for prediction in predictions]
    assert [scores.count(f"{edge:g}") for edge in edges[1:]] == reference.scores.counts
    assert [lengths.count(str(size)) for size in up_to] == reference.lengths.counts
    assert (score_bin(0.0, edges), score_bin(1.0, edges), length_bin(10**6, up_to)) == ("0.1", "1", "inf")
