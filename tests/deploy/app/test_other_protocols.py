"""What other servers' clients may send beyond what their libraries do, for models of every kind of label."""

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest

from deploy.app import openapi
from deploy.app.batcher import Batching
from deploy.app.counters import Counters
from deploy.app.model import Model
from deploy.app.protocols.kserve import HEADER, elements_of
from handler.predictor import Predictor
from handler.service import Service
from tests.asking import JSON, PREDICT, ask, ask_json, get, wait_until
from tests.deploy.app.test_application import App, Gate, running
from tests.descriptions import changed

INFER = "/v2/models/hate/infer"
MODERATIONS = "/v1/moderations"


@pytest.fixture
def gate(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate(service, monkeypatch)
    yield found
    found.opened.set()


@pytest.fixture(scope="module")
def app(model: Model, service: Service, counted: Counters) -> Iterator[App]:
    with running(model, lambda: service, counted) as found:
        wait_until(lambda: found.batcher.is_ready)
        yield found


@pytest.fixture(scope="module")
def predictor(model: Model) -> Predictor:
    return Predictor(model.artifact)


def ranked(predictor: Predictor, text: str, *, raw: bool = False) -> list[dict]:
    """As text-embeddings-inference would answer."""
    (prediction,) = predictor.predict([text])
    values = predictor.logits(predictor.encode([text], [False]))[0] if raw else prediction.scores
    found = zip(values.tolist(), predictor.artifact.labels, strict=True)
    return [{"score": score, "label": label} for score, label in sorted(found, reverse=True)]


def test_inference_answers_single_texts_and_batches(app: App, predictor: Predictor) -> None:
    day, vile = ranked(predictor, "good day"), ranked(predictor, "you are vile")
    for inputs, answer in (
        ("good day", day),
        (["good day"], day),
        ([["good day"], ["you are vile"]], [day, vile]),
        ([["good day"]], [day]),
    ):
        assert ask_json(app.port, "/predict", {"inputs": inputs}) == (200, answer)
        assert ask_json(app.port, "/", {"inputs": inputs}) == (200, answer)
    nested = {"inputs": "good day", "parameters": {}}
    assert ask_json(app.port, "/predict", nested) == (200, [day])


def test_inference_gives_raw_scores(app: App, predictor: Predictor) -> None:
    status, answer = ask_json(app.port, "/predict", {"inputs": "you are vile", "raw_scores": True})
    assert status == 200
    expected = ranked(predictor, "you are vile", raw=True)
    assert [each["label"] for each in answer] == [each["label"] for each in expected]
    assert [each["score"] for each in answer] == pytest.approx([each["score"] for each in expected], abs=1e-6)


def test_inference_truncates_unless_told_not_to(app: App, predictor: Predictor) -> None:
    long = "a kind word " * 300
    for truncate in ({}, {"truncate": True}, {"truncate": None}, {"truncation_direction": "Right"}):
        answered = ask_json(app.port, "/predict", {"inputs": long} | truncate)
        assert answered == (200, ranked(predictor, long))
    status, answer = ask_json(app.port, "/predict", {"inputs": [["a"], [long]], "truncate": False})
    most = predictor.artifact.max_length
    assert status == 422
    assert answer["error"].startswith(f"inputs must have at most {most} tokens")
    assert answer["error_type"] == "Validation"
    assert ask_json(app.port, "/predict", {"inputs": "a", "truncate": False})[0] == 200


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"inputs": ["a", "b"]}, "pairs of texts are not supported"),
        ({"inputs": [["a"], ["a", "b"]]}, "pairs of texts are not supported"),
        ({"inputs": ["a", "b", "c"]}, "inputs is neither"),
        ({"inputs": [["a"], "b"]}, "inputs is neither"),
        ({"inputs": [[]]}, "inputs is neither"),
        ({"inputs": []}, "inputs is neither"),
        ({"inputs": 3}, "inputs is neither"),
        ({"inputs": [3]}, "inputs is neither"),
        ({"inputs": [["a"], [""]]}, "text 2: the text is empty. Send a text"),
        ({"inputs": "a", "truncate": "yes"}, "truncate is neither"),
        ({"inputs": "a", "raw_scores": 1}, "raw_scores is neither"),
        ({"inputs": "a", "truncation_direction": "up"}, "unknown value of truncation_direction"),
        ({"inputs": "a", "truncation_direction": "Left"}, "this model's texts are cut on the right"),
        ({"inputs": "a", "parameters": {"top_k": "2"}}, "top_k is not a count"),
        ({"inputs": "a", "parameters": {"function_to_apply": "tanh"}}, "unknown function"),
    ],
)
def test_inference_refuses_in_its_own_form(app: App, sent: dict, words: str) -> None:
    for path in ("/predict", "/"):
        status, answer = ask_json(app.port, path, sent)
        assert (status, answer["error_type"]) == (422, "Validation")
        assert words in answer["error"]


def test_too_many_texts_are_a_413_in_every_form(app: App) -> None:
    status, answer = ask_json(app.port, "/predict", {"inputs": [["a"]] * 129})
    assert (status, answer["error_type"]) == (413, "Validation")
    assert "129 texts, but the limit is 128" in answer["error"]
    for path, body in ((MODERATIONS, {"input": ["a"] * 129}), (INFER, tensor(["a"] * 129))):
        assert ask_json(app.port, path, body)[0] == 413


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"text": "say \\"inputs\\""}', JSON),
        (b'{"text": "a", "other": {"inputs": "b"}}', JSON),
        (b'{"inputs": "a"}', "text/plain"),
        (b'say "inputs"', ""),
        (b'text=%22inputs%22&x="inputs"', "application/x-www-form-urlencoded"),
        (b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}', JSON),
        (b'["inputs"]', JSON),
        (b'{"inputs" "a"}', JSON),
    ],
)
def test_the_apps_own_requests_pass_as_before(app: App, body: bytes, content_type: str) -> None:
    assert ask(app.port, "/predict", body, content_type) == ask(app.port, PREDICT, body, content_type)


def tensor(texts: list[str], **more: object) -> dict:
    data = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return {"inputs": [data], **more}


def binary(rows: list[bytes], **more: object) -> tuple[bytes, bytes]:
    """JSON, and the tensor behind it."""
    data = b"".join(struct.pack("<I", len(row)) + row for row in rows)
    parameters = {"binary_data_size": len(data)}
    head = {
        "inputs": [{"name": "text", "shape": [len(rows)], "datatype": "BYTES", "parameters": parameters}],
        **more,
    }
    return json.dumps(head).encode(), data


def test_infer_without_binary_answers_as_the_archive_does(app: App) -> None:
    for sent in (tensor(["good day", ""]), tensor(["good day"], id="7")):
        assert ask_json(app.port, INFER, sent) == ask_json(app.port, PREDICT, sent)
    status, error = ask_json(app.port, INFER, {"inputs": 3})
    assert (status, error["error"][:37]) == (422, "inputs is not a list of tensors. Send")


def test_infer_takes_options_and_rows_that_are_no_utf_8(app: App) -> None:
    head, data = binary([b"good day", b"\xff", b""], parameters={"long": "chunks"}, id="7")
    status, body = ask(app.port, INFER, head + data, "", **{HEADER: str(len(head))})
    answer = json.loads(body)
    assert (status, answer["id"]) == (200, "7")
    by_name = {output["name"]: output["data"] for output in answer["outputs"]}
    assert by_name["label"][1:] == ["", ""]
    errors = [json.loads(row).get("error", {}).get("message") for row in by_name["answer"]]
    assert errors == [None, "the text is not valid UTF-8", "the text is empty"]


def test_infer_with_what_does_not_fit_is_refused(app: App) -> None:
    head, data = binary([b"good day"])
    bad_parameters = head.replace(b'"binary_data_size": 12', b'"binary_data_size": -1')
    for sent, length, words in (
        (head + data, "0", "length of the JSON"),
        (head + data, "-5", "length of the JSON"),
        (head + data, "9" * 30, "length of the JSON"),
        (head + data, str(len(head + data) + 1), "length of the JSON"),
        (head + data, "x", "length of the JSON"),
        (head + data, str(len(head) - 1), "not a JSON object"),
        (head + data + b"!", str(len(head)), "binary_data_size"),
        (head + data[:-1], str(len(head)), "binary_data_size"),
        (head + b"\xff" * 12, str(len(head)), "binary_data_size"),
        (bad_parameters + data, str(len(bad_parameters)), "binary_data_size"),
    ):
        status, body = ask(app.port, INFER, sent, "", **{HEADER: length})
        assert status in (400, 422), sent
        assert words in json.loads(body)["error"]
    assert ask(app.port, INFER, head + data, "", **{HEADER: str(len(head))})[0] == 200
    assert ask_json(app.port, INFER, tensor(["a"], outputs=3))[0] == 422
    assert ask_json(app.port, INFER, tensor(["a"], outputs=[{"name": ["x"]}]))[0] == 422


def test_elements_are_parted_by_their_lengths() -> None:
    assert elements_of(b"") == []
    assert elements_of(b"\x01\x00\x00\x00a\x00\x00\x00\x00") == [b"a", b""]
    assert elements_of(b"\x02\x00\x00\x00a") is None
    assert elements_of(b"\x00\x00\x00") is None


def test_health_is_told_by_the_state_of_the_model(model: Model, service: Service, app: App) -> None:
    assert get(app.port, "/v2/health/ready") == (200, b'{"ready":true}')
    assert get(app.port, "/v2/models/hate/ready") == (200, b'{"name":"hate","ready":true}')
    for path in ("/v2/models/nope", "/v2/models/hate/versions/9", "/v2/models/nope/ready", "/v2/nowhere"):
        status, body = get(app.port, path)
        assert (status, json.loads(body)) == (404, {"error": "no such model or path. See /docs"})
    with running(model, lambda: wait_until(lambda: False, patience_s=1) or service) as loading:
        assert get(loading.port, "/v2/health/live") == (200, b'{"live":true}')
        assert get(loading.port, "/v2/health/ready") == (503, b'{"ready":false}')
        assert get(loading.port, "/v2/models/hate/ready")[0] == 503
        assert json.loads(get(loading.port, "/v2/models/hate")[1])["error"].startswith("the model is loading")
        status, answer = ask_json(loading.port, MODERATIONS, {"input": "a"})
        assert (status, answer["error"]["type"]) == (503, "server_error")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({}, "input is neither"),
        ({"input": 3}, "input is neither"),
        ({"input": ["a", 3]}, "input is neither"),
        ({"input": [[1, 2]]}, "input is neither"),
        ({"input": "a", "model": 3}, "model is not a string"),
        ({"input": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "one text in one part"),
        ({"input": [{"type": "text", "text": 3}]}, "one text in one part"),
        ({"input": [{"type": "text", "text": "a"}, {"type": "image_url"}]}, "images are not supported"),
        ([], "not a JSON object"),
    ],
)
def test_moderations_refuse_in_openais_form(app: App, sent: object, words: str) -> None:
    before = app.counted("classifier_rejected")
    status, answer = ask_json(app.port, MODERATIONS, sent)
    assert status in (400, 422)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert words in answer["error"]["message"]
    assert app.counted("classifier_rejected") == before + 1
    assert ask(app.port, MODERATIONS, b'{"input": "a"', JSON)[0] == 400
    assert ask(app.port, MODERATIONS, b"[" * 100_000, JSON)[0] == 400
    assert ask(app.port, MODERATIONS, b"", JSON, "GET")[0] == 405


def test_independent_labels_flag_what_reaches_any_threshold(model: Model) -> None:
    several = {"task": "multi-label", "positive_label": None}
    for thresholds, given in (((0, 0), [True, True]), ((1, 1), [False, False]), ((1, 0), [False, True])):
        limits = dict(zip(("not-hate", "hate"), thresholds, strict=True))
        independent = Model(changed(model.artifact, **several, thresholds=limits))
        with running(independent) as app:
            wait_until(lambda app=app: app.batcher.is_ready)
            (result,) = ask_json(app.port, MODERATIONS, {"input": "good day"})[1]["results"]
            assert list(result["categories"].values()) == given
            assert result["flagged"] == any(given)
            status, answer = ask_json(
                app.port, "/", {"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}}
            )
            assert (status, len(answer[0])) == (200, 2)


def test_a_model_that_nothing_is_looked_for_with_flags_nothing_and_says_so(model: Model) -> None:
    unnamed = Model(changed(model.artifact, positive_label=None))
    with running(unnamed) as app:
        wait_until(lambda: app.batcher.is_ready)
        status, answer = ask_json(app.port, MODERATIONS, {"input": "good day"})
    assert status == 400
    assert "no positive label" in answer["error"]["message"]


def test_all_protocols_share_the_queue_and_its_limits(
    model: Model,
    service: Service,
    counted: Counters,
    gate: Gate,
) -> None:
    few = Batching(size=1, delay_s=0, queue_size=2)
    asked = {
        "/predict": {"inputs": "good day"},
        "/": {"inputs": "good day"},
        MODERATIONS: {"input": "good day"},
        INFER: tensor(["good day"], outputs=[{"name": "label"}]),
    }
    with running(model, lambda: service, counted, few) as app, ThreadPoolExecutor(4) as clients:
        wait_until(lambda: app.batcher.is_ready)
        before = app.counted("classifier_texts")
        accepted = [clients.submit(ask_json, app.port, *each) for each in list(asked.items())[:1]]
        assert gate.reached.wait(60)
        accepted += [clients.submit(ask_json, app.port, *each) for each in list(asked.items())[2:]]
        wait_until(lambda: app.batcher.waiting == 2)
        refused = {path: ask_json(app.port, path, body) for path, body in asked.items()}
        assert {path: status for path, (status, _) in refused.items()} == {
            "/predict": 503,
            "/": 429,
            MODERATIONS: 503,
            INFER: 503,
        }
        assert refused["/"][1]["error_type"] == "Overloaded"
        gate.opened.set()
        assert [request.result()[0] for request in accepted] == [200] * 3
        assert app.counted("classifier_texts") - before == 3


def test_a_large_body_is_one_of_the_large_ones(app: App) -> None:
    """A binary tensor, too, though the app reads it before it joins the queue."""
    texts = ["a kind word " * 30] * 100
    assert len(json.dumps(texts)) > 32 * 1024
    status, answer = ask_json(app.port, MODERATIONS, {"input": texts})
    assert (status, len(answer["results"])) == (200, 100)
    head, data = binary([text.encode() for text in texts])
    assert ask(app.port, INFER, head + data, "", **{HEADER: str(len(head))})[0] == 200


def test_the_openapi_page_shows_shapes_that_hold(app: App) -> None:
    document = json.loads(get(app.port, "/openapi.json")[1])
    for path in ("/predict", "/", MODERATIONS, "/v2/models/hate/infer"):
        shown = document["paths"][path]["post"]
        asked = shown["requestBody"]["content"]["application/json"]
        answered = shown["responses"]["200"]["content"]["application/json"]
        examples = asked.get("examples", {"": {"value": asked.get("example")}})
        for example in examples.values():
            status, answer = ask_json(app.port, path, example["value"])
            assert status == 200
            for instance, schema in ((example["value"], asked["schema"]), (answer, answered["schema"])):
                jsonschema.validate(instance, schema | {"components": document["components"]})
        assert set(shown["responses"]) >= {"200", "401", "404", "413", "422", "503"}
    assert "get" in document["paths"]["/v2/models/hate/versions/1.0"]
    assert document["security"] == openapi.SECURITY
