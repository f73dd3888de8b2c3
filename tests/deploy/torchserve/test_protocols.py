"""The one real TorchServe of the session, by every other way than a text at /predictions."""

import importlib.util
import json
import time
import zipfile
from pathlib import Path

import grpc
import numpy as np
import pytest

from deploy.torchserve.server import Server
from handler.artifact import Artifact
from handler.predictor import Predictor
from handler.records import plain
from tests.asking import PREDICT, ask_json, counter, get, held_to_schema, wait_until

TEXTS = ["good day", "you are vile"]


@pytest.fixture(scope="module")
def expected(served: tuple[Server, Artifact]) -> list[float]:
    return [prediction.scores[1] for prediction in Predictor(served[1]).predict(TEXTS)]


def test_kserve_v1_at_its_own_path(served: tuple[Server, Artifact], expected: list[float]) -> None:
    body = {"instances": [{"text": text} for text in TEXTS]}
    status, answer = ask_json(served[0].inference_port, "/v1/models/hate:predict", body)
    assert status == 200
    found = [row["scores"]["hate"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("path", ["/predictions/hate", "/v2/models/hate/infer"])
def test_kserve_v2_at_both_paths(served: tuple[Server, Artifact], expected: list[float], path: str) -> None:
    body = {
        "id": "seven",
        "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": TEXTS}],
    }
    status, answer = ask_json(served[0].inference_port, path, body)
    assert status == 200
    scores = next(output for output in answer["outputs"] if output["name"] == "scores")
    found = np.array(scores["data"]).reshape(scores["shape"])[:, 1]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert (answer["id"], answer["model_name"]) == ("seven", "hate")


@pytest.mark.parametrize("path", ["/explanations/hate", "/v1/models/hate:explain"])
def test_explanations_by_path(served: tuple[Server, Artifact], path: str) -> None:
    body = {"instances": TEXTS} if ":" in path else TEXTS
    status, answers = ask_json(served[0].inference_port, path, body)
    assert status == 200
    rows = answers["predictions"] if ":" in path else answers
    for text, answer in zip(TEXTS, rows, strict=True):
        tokens = held_to_schema(answer)["explanation"]["tokens"]
        assert [text[token["start"] : token["end"]] for token in tokens] == text.split()


def test_a_model_describes_itself(served: tuple[Server, Artifact]) -> None:
    server, artifact = served
    status, content = get(server.management_port, "/models/hate?customized=true")
    assert status == 200
    described = json.loads(content)[0]["customizedMetadata"]
    described = json.loads(described) if isinstance(described, str) else described
    assert described["artifact_sha256"] == artifact.sha256
    assert described["check"] == plain(artifact.meta.check)
    assert described["proof"] == artifact.meta.proof


def test_prometheus_reads_what_the_worker_counts(served: tuple[Server, Artifact]) -> None:
    server, _ = served
    names = ("texts", "rejected", "scores", "lengths", "labels", "requests", "model_seconds", "padded_tokens")
    before: dict[str, float] = {}
    while before != (before := {name: counter(server.metrics_port, f"classifier_{name}") for name in names}):
        time.sleep(2.5)  # until what was asked before has been handed over
    ask_json(server.inference_port, PREDICT, ["a", "b", ""])
    wait_until(lambda: counter(server.metrics_port, "classifier_texts") >= before["texts"] + 2)
    more = {name: counter(server.metrics_port, f"classifier_{name}") - before[name] for name in names}
    assert [more[name] for name in names[:6]] == [2, 1, 2, 2, 2, 1]
    assert more["model_seconds"] > 0
    assert more["padded_tokens"] >= 6


@pytest.fixture(scope="module")
def grpc_interface(tmp_path_factory: pytest.TempPathFactory):
    """TorchServe's gRPC interfaces by the name of their definition, which is inside its own jar."""
    folder = tmp_path_factory.mktemp("protos")
    jar = Path(importlib.util.find_spec("ts").origin).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as opened:
        opened.extractall(folder, ["inference.proto", "google/rpc/status.proto"])
        (folder / "open_inference.proto").write_bytes(opened.read("proto/open_inference_grpc.proto"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield grpc.protos_and_services


def test_kserve_v2_by_grpc(served: tuple[Server, Artifact], expected: list[float], grpc_interface) -> None:
    """The Open Inference Protocol: health, metadata, inference."""
    messages, services = grpc_interface("open_inference.proto")
    request = messages.ModelInferRequest(model_name="hate", id="seven")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(TEXTS)])
    tensor.contents.bytes_contents.extend(text.encode() for text in TEXTS)
    with grpc.insecure_channel(f"127.0.0.1:{served[0].grpc_port}") as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(messages.ServerReadyRequest(), timeout=60).ready
        assert stub.ModelReady(messages.ModelReadyRequest(name="hate"), timeout=60).ready
        answer = stub.ModelInfer(request, timeout=60)
    scores = next(output for output in answer.outputs if output.name == "scores")
    found = np.array(scores.contents.fp64_contents).reshape(scores.shape)[:, 1]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert answer.id == "seven"
    worker = served[0].worker().pid
    with grpc.insecure_channel(f"127.0.0.1:{served[0].grpc_port}") as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        assert stub.ModelMetadata(messages.ModelMetadataRequest(name="hate"), timeout=60).name == "hate"
        tensor.contents.bytes_contents[1] = b" "
        both = stub.ModelInfer(request, timeout=60)
        tensor.contents.bytes_contents[0] = b"\xff"
        neither = stub.ModelInfer(request, timeout=60)
    whole = [json.loads(json.loads(text)) for text in both.outputs[2].contents.bytes_contents]
    assert ["error" in answer for answer in whole] == [False, True]
    whole = [json.loads(json.loads(text)) for text in neither.outputs[2].contents.bytes_contents]
    assert [answer["error"]["code"] for answer in whole] == [400, 422]
    assert served[0].worker().pid == worker, "no error ends the worker"
    assert json.loads(get(served[0].inference_port, "/v2/health/ready")[1]) == {"ready": True}


def test_a_message_that_is_too_large_leaves_no_trace_in_the_log(served: tuple[Server, Artifact]) -> None:
    """gRPC's own log wrote one of twenty lines each time, into a file that nothing bounds."""
    server, _ = served
    unlimited = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=unlimited) as channel:
        ask = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")
        with pytest.raises(grpc.RpcError):
            ask(b"xylophone" * 500_000, timeout=60)
    assert "MessageDeframer" not in server.log.read_text()


def test_grpc_takes_the_same_json(
    served: tuple[Server, Artifact], expected: list[float], grpc_interface
) -> None:
    messages, services = grpc_interface("inference.proto")
    with grpc.insecure_channel(f"127.0.0.1:{served[0].grpc_port}") as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def predict(**given: bytes) -> object:
            request = messages.PredictionsRequest(model_name="hate", input=given)
            return json.loads(stub.Predictions(request, timeout=60).prediction)

        one = predict(data=json.dumps({"text": TEXTS[0]}).encode())
        plain = predict(data=TEXTS[0].encode())
        field = predict(text=TEXTS[0].encode())
        many = predict(data=json.dumps({"texts": TEXTS}).encode())
        for answer in (one, plain, field):
            assert answer["scores"]["hate"] == pytest.approx(expected[0], abs=2e-6)
        found = [row["scores"]["hate"] for row in many["predictions"]]
        np.testing.assert_allclose(found, expected, atol=2e-6)
        refused = predict(
            data=b'{"texts": 3}'
        )  # TorchServe's gRPC carries no status: the error is the answer
        assert (refused["error"]["code"], refused["error"]["field"]) == (422, "texts")
