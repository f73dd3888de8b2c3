"""gRPC of the Open Inference Protocol: the Predictor's answers, and a proper status for all that is none."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.app.batcher import Batching
from deploy.app.counters import Counters
from deploy.app.keys import Keys
from deploy.app.model import Model
from deploy.app.protocols import rpc
from deploy.app.protocols.rpc import DESCRIPTION, METHODS, SERVICE, message
from deploy.app.request_bodies import MOST_BYTES
from deploy.app.timing import PHASES
from deploy.app.tls import Pair
from handler.predictor import Predictor
from handler.service import Service
from tests.asking import ask, wait_until
from tests.conftest import ROOT
from tests.deploy.app.test_application import App, Gate, running
from tests.deploy.app.test_tls import made
from tests.house.protobuf import compiled

KEY = "correct-horse-battery"
HEADERS = (("authorization", f"Bearer {KEY}"),)
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def app(model: Model, service: Service, counted: Counters) -> Iterator[App]:
    keys = Keys.of([KEY], "here")
    with running(model, lambda: service, counted, keys=keys, grpc_port=0) as found:
        wait_until(lambda: found.batcher.is_ready and found.server.rpc.port)
        yield found


def calling(port: int, credentials: grpc.ChannelCredentials | None = None) -> Call:
    """`call(method, **fields)` gives the answer."""
    place = f"127.0.0.1:{port}"
    channel = grpc.secure_channel(place, credentials) if credentials else grpc.insecure_channel(place)

    def call(method: str, metadata: Any = HEADERS, **fields: Any) -> Any:
        request, response = message(f"{method}Request"), message(f"{method}Response")
        ask = channel.unary_unary(f"/{SERVICE}/{method}", request.SerializeToString, response.FromString)
        return ask(request(**fields), metadata=metadata, timeout=60)

    return call


@pytest.fixture
def call(app: App) -> Call:
    return calling(app.server.rpc.port)


def tensor(texts: list[str], **fields: Any) -> dict[str, Any]:
    contents = {"bytes_contents": [text.encode() for text in texts]}
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "contents": contents} | fields


def status(call: Call, *given: Any, **fields: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(*given, **fields)
    return error.value.code().name, error.value.details()


def test_the_description_is_that_of_the_source() -> None:
    assert DESCRIPTION.read_bytes() == compiled(), "python -m tests.house.protobuf"


def test_health_and_metadata(call: Call) -> None:
    assert call("ServerLive", metadata=()).live
    assert call("ServerReady", metadata=()).ready
    assert call("ModelReady", name="hate").ready
    assert call("ModelReady", name="hate", version="1.0").ready
    assert call("ServerMetadata").name == "hate-speech-archive"
    described = call("ModelMetadata", name="hate")
    assert (described.versions, described.platform) == (["1.0"], "openvino")
    assert [(each.name, each.datatype, each.shape) for each in described.outputs] == [
        ("label", "BYTES", [-1]),
        ("scores", "FP64", [-1, 2]),
        ("answer", "BYTES", [-1]),
    ]


def test_answers_are_the_predictors(call: Call, model: Model, source) -> None:
    texts = source.dataset.splits["test"].texts[:20]
    predictor = Predictor(model.artifact)
    expected = [predictor.answer(prediction) for prediction in predictor.predict(texts)]
    answered = call("ModelInfer", model_name="hate", id="7", inputs=[tensor(texts)])
    label, scores, answer = answered.outputs
    assert (answered.id, answered.model_name, answered.model_version) == ("7", "hate", "1.0")
    assert [each.decode() for each in label.contents.bytes_contents] == [each["label"] for each in expected]
    assert list(scores.contents.fp64_contents) == [
        score for each in expected for score in each["scores"].values()
    ]
    assert json.loads(scores.parameters["labels"].string_param) == ["not-hate", "hate"]
    assert json.loads(answer.contents.bytes_contents[0])["tokens"] == expected[0]["tokens"]
    (alone,) = call(
        "ModelInfer", model_name="hate", inputs=[tensor(texts)], outputs=[{"name": "scores"}]
    ).outputs
    assert alone == scores


def test_a_bad_text_has_its_error_in_its_place_and_options_apply(call: Call) -> None:
    long = {"long": {"string_param": "chunks"}}
    texts = ["a kind word " * 100, ""]
    answered = call("ModelInfer", model_name="hate", inputs=[tensor(texts)], parameters=long)
    rows = [json.loads(row) for row in answered.outputs[2].contents.bytes_contents]
    assert rows[0]["windows"] > 1
    assert rows[1]["error"]["message"] == "the text is empty"


def test_what_cannot_be_answered_has_a_status(call: Call, app: App) -> None:
    good = [tensor(["good day"])]
    unknown = {"model_name": "nope", "inputs": good}
    assert status(call, "ModelInfer", **unknown) == ("NOT_FOUND", "no such model or path. See /docs")
    assert status(call, "ModelReady", name="hate", version="9")[0] == "NOT_FOUND"
    assert status(call, "ModelMetadata", name="nope")[0] == "NOT_FOUND"
    for inputs, fields, words in (
        ([tensor([""])], {}, "the text is empty. Send a text"),
        ([tensor(["a"], datatype="FP32")], {}, "the tensor's datatype is not BYTES"),
        ([tensor(["a"], shape=[2])], {}, "data does not match its shape"),
        ([], {}, "inputs is not a list of tensors"),
        (good, {"outputs": [{"name": "x"}]}, "outputs is not a list of this model's"),
        (good, {"raw_input_contents": [b"", b""]}, "raw_input_contents do not match"),
        (good, {"raw_input_contents": [b"\x09\x00\x00\x00a"]}, "raw_input_contents do not match"),
    ):
        code, said = status(call, "ModelInfer", model_name="hate", inputs=inputs, **fields)
        assert code == "INVALID_ARGUMENT"
        assert words in said
    assert (
        status(call, "ModelInfer", model_name="hate", inputs=[tensor(["a"] * 129)])[0] == "RESOURCE_EXHAUSTED"
    )
    too_large = [tensor(["a" * MOST_BYTES])]
    assert status(call, "ModelInfer", model_name="hate", inputs=too_large)[0] == "RESOURCE_EXHAUSTED"
    with grpc.insecure_channel(f"127.0.0.1:{app.server.rpc.port}") as channel:
        for method, code in (("ModelInfer", "INVALID_ARGUMENT"), ("Nothing", "UNIMPLEMENTED")):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(f"/{SERVICE}/{method}")(b"\xff\xff", metadata=HEADERS, timeout=60)
            assert error.value.code().name == code


def test_a_call_is_in_the_histograms_of_http(call: Call, app: App) -> None:
    def page() -> dict[str, str]:
        bearer = {"Authorization": f"Bearer {KEY}"}
        lines = ask(app.port, "/metrics", None, "", "GET", **bearer)[1].decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if "_count{" in line)

    before = page()
    call("ModelInfer", model_name="hate", inputs=[tensor(["good day"])])
    call("ServerLive")
    more = {name for name, count in page().items() if float(count) == float(before[name]) + 1}
    assert {re.search(r'(?:phase|kind)="(\w+)"', name)[1] for name in more} == {"classify", *PHASES}


def test_without_a_key_nothing_is_answered_and_it_is_counted(call: Call, counted: Counters) -> None:
    def denied() -> float:
        lines = [line for line in counted.text().splitlines() if 'code="401",field="Authorization"' in line]
        return float(lines[0].split()[-1]) if lines else 0

    before = denied()
    for method in METHODS[2:]:
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            code, said = status(call, method, metadata=metadata)
            assert code == "UNAUTHENTICATED"
            assert said.startswith("the request has no valid key")
    assert denied() - before == 2 * len(METHODS[2:])
    assert call("ModelReady", metadata=(("x-api-key", KEY),), name="hate").ready


def test_a_defect_is_internal_and_its_words_are_kept(
    call: Call, service: Service, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def breaks(*arguments):
        raise RuntimeError("xylophone")

    monkeypatch.setattr(service.predictor, "encode", breaks)
    code, said = status(call, "ModelInfer", model_name="hate", inputs=[tensor(["good day"])])
    assert (code, said) == ("INTERNAL", "the classifier failed. Report it with the server's log")
    monkeypatch.setattr(rpc.Inference, "ask", breaks)
    assert status(call, "ModelInfer", model_name="hate", inputs=[tensor(["a"])])[0] == "INTERNAL"
    assert "RuntimeError: xylophone" not in capfd.readouterr().err


def test_calls_share_the_queue_and_a_server_that_stops_answers_what_it_accepted(
    model: Model, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(service, monkeypatch)
    few = Batching(size=1, delay_s=0, queue_size=1)
    with running(model, lambda: service, batching=few, grpc_port=0) as app:
        wait_until(lambda: app.batcher.is_ready and app.server.rpc.port)
        place = f"127.0.0.1:{app.server.rpc.port}"
        request = message("ModelInferRequest")(model_name="hate", inputs=[tensor(["good day"])])
        with grpc.insecure_channel(place) as channel:
            infer = channel.unary_unary(
                f"/{SERVICE}/ModelInfer",
                message("ModelInferRequest").SerializeToString,
                message("ModelInferResponse").FromString,
            )
            accepted = [infer.future(request, timeout=60)]
            assert gate.reached.wait(60)
            accepted.append(infer.future(request, timeout=60))
            wait_until(lambda: app.batcher.waiting == 1)
            code, said = status(lambda: infer(request, timeout=60))
            assert (code, said[:30]) == ("UNAVAILABLE", "too many requests are waiting.")
            app.server.should_exit = True
            wait_until(lambda: app.models.is_closing)
            gate.opened.set()
            assert [len(each.result(60).outputs) for each in accepted] == [3, 3]


def test_until_the_model_is_loaded_it_is_not_ready(model: Model, service: Service) -> None:
    loaded = threading.Event()

    def load() -> Service:
        assert loaded.wait(60)
        return service

    with running(model, load, grpc_port=0) as app:
        wait_until(lambda: app.server.rpc.port)
        call = calling(app.server.rpc.port)
        assert call("ServerLive").live
        assert not call("ServerReady").ready
        assert not call("ModelReady", name="hate").ready
        code, said = status(call, "ModelInfer", model_name="hate", inputs=[tensor(["a"])])
        assert (code, said) == ("UNAVAILABLE", "the model is loading. Try again in a moment")
        assert status(call, "ModelMetadata", name="hate")[0] == "UNAVAILABLE"
        loaded.set()
        wait_until(lambda: call("ServerReady").ready)


def test_it_speaks_tls_with_the_same_certificate(model: Model, service: Service, tmp_path: Path) -> None:
    pair = Pair(*made(tmp_path, "own"))
    with running(model, lambda: service, tls=pair, grpc_port=0) as app:
        wait_until(lambda: app.batcher.is_ready and app.server.rpc.port)
        trusted = grpc.ssl_channel_credentials(pair.certificate.read_bytes())
        assert calling(app.server.rpc.port, trusted)("ModelReady", name="hate").ready
        assert status(calling(app.server.rpc.port), "ServerLive")[0] == "UNAVAILABLE"


CLIENT = """
import sys, numpy as np, tritonclient.grpc as triton
client = triton.InferenceServerClient("127.0.0.1:" + sys.argv[1])
headers = {"authorization": "Bearer " + sys.argv[2]}
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("hate", headers=headers)
assert client.get_model_metadata("hate", headers=headers).platform == "openvino"
tensor = triton.InferInput("text", [2], "BYTES")
tensor.set_data_from_numpy(np.array([b"good day", b"you are vile"], dtype=object))
result = client.infer("hate", [tensor], headers=headers)
print([label.decode() for label in result.as_numpy("label")], result.as_numpy("scores").tolist(), sep="\\n")
for name, given in (("nope", headers), ("hate", {})):
    try:
        client.infer(name, [tensor], headers=given)
    except triton.InferenceServerException as error:
        print(error)
"""


def test_tritons_client_gets_the_predictors_answers(app: App, model: Model) -> None:
    """In a process of its own: its messages have the same names."""
    pytest.importorskip("tritonclient", reason="pip install 'tritonclient[grpc]'")
    command = [sys.executable, "-c", CLIENT, str(app.server.rpc.port), KEY]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    predictor = Predictor(model.artifact)
    answers = [predictor.answer(prediction) for prediction in predictor.predict(["good day", "you are vile"])]
    assert said[:2] == [
        str([answer["label"] for answer in answers]),
        str([list(answer["scores"].values()) for answer in answers]),
    ]
    assert said[2] == "[StatusCode.NOT_FOUND] no such model or path. See /docs"
    assert said[3].startswith("[StatusCode.UNAUTHENTICATED] the request has no valid key")
