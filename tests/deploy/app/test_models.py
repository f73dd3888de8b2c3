"""Several models and versions in one app: each is found by its name and version, and waits for no other."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from deploy.app.application import create_app
from deploy.app.batcher import Batcher, Batching
from deploy.app.counters import Counters
from deploy.app.model import Model, Opener, Source
from deploy.app.models import Models, Served
from deploy.app.server import AppServer
from export.archives.package import package
from handler.artifact import Artifact
from handler.errors import UserError
from handler.service import Service
from tests.asking import GOOD, PREDICT, ask, get, held_to_schema, wait_until
from tests.conftest import refused
from tests.deploy.app.test_application import TENSORS, App, Gate, answering, running

# Of `hate`, the version that is given first is not the latest.
GIVEN = (("hate", "1.9", "fp32"), ("spam", "1.0", "onnx-int8"), ("hate", "1.10", "openvino-int8"))
V2 = json.dumps(TENSORS).encode()


@pytest.fixture(scope="module")
def counted() -> Counters:
    return Counters()


@pytest.fixture(scope="module")
def loaded(build_once, counted: Counters) -> list[tuple[Model, Service]]:
    models = [Model(build_once(variant), name, version, url=variant) for name, version, variant in GIVEN]
    return [(model, model.load(counted, threads=1)) for model in models]


@pytest.fixture(scope="module")
def app(loaded: list[tuple[Model, Service]], counted: Counters) -> Iterator[App]:
    models = Models([served(model, service) for model, service in loaded])
    with answering(models, AppServer(create_app(models, counted), models)) as found:
        wait_until(lambda: get(found.port, "/ready")[0] == 200)
        yield found


def served(model: Model, service: Service, batching: Batching | None = None) -> Served:
    return Served(model, Batcher(lambda: service, batching or Batching()))


def variant(app: App, path: str, body: bytes = GOOD) -> str:
    """Which artifact answered."""
    status, content = ask(app.port, path, body)
    assert status == 200, content
    answer = json.loads(content)
    answer = answer["predictions"][0] if "predictions" in answer else answer
    return str(answer["model"]["variant"])


def test_a_model_is_found_by_its_name_and_version_and_without_one_in_its_latest(app: App) -> None:
    for path, expected in {
        "/predict": "fp32",  # the first that was given
        "/predictions/hate": "openvino-int8",
        "/predictions/hate/1.9": "fp32",
        "/predictions/hate/1.10": "openvino-int8",
        "/predictions/spam": "onnx-int8",
        "/predictions/spam/1.0": "onnx-int8",
        "/explanations/spam": "onnx-int8",
        "/explanations/hate/1.9": "fp32",
    }.items():
        assert variant(app, path) == expected, path
    assert variant(app, "/v1/models/spam:predict", b'{"instances": ["good day"]}') == "onnx-int8"
    for path, version in (("", "1.10"), ("/versions/1.9", "1.9"), ("/versions/1.10", "1.10")):
        _, content = ask(app.port, f"/v2/models/hate{path}/infer", V2)
        assert json.loads(content)["model_version"] == version
    for unknown in ("/predictions/ham", "/predictions/spam/1.10", "/v1/models/ham:explain"):
        status, content = ask(app.port, unknown)
        assert (status, held_to_schema(content)["error"]["field"]) == (404, "path")
    assert get(app.port, "/models/ham")[0] == get(app.port, "/models/spam/1.10")[0] == 404


def test_each_answers_the_same_bytes_as_by_itself(
    app: App, loaded: list[tuple[Model, Service]], source
) -> None:
    texts = source.dataset.splits["test"].texts[:8]
    sent = [json.dumps({"text": text}).encode() for text in texts]
    for model, service in loaded:
        path = f"/predictions/{model.name}"
        beside = [ask(app.port, f"{path}/{model.version}", body) for body in sent]
        with running(model, lambda service=service: service) as alone:
            wait_until(lambda: alone.batcher.is_ready)
            assert beside == [ask(alone.port, path, body) for body in sent]
        assert {status for status, _ in beside} == {200}


def test_all_are_listed_and_each_describes_itself(app: App, loaded: list[tuple[Model, Service]]) -> None:
    listed = json.loads(get(app.port, "/models")[1])["models"]
    assert [(each["modelName"], each["modelVersion"], each["variant"]) for each in listed] == list(GIVEN)
    assert {each["status"] for each in listed} == {"READY"}
    for model, _ in loaded:
        found = json.loads(get(app.port, f"/models/{model.name}/{model.version}")[1])
        assert found["artifact_sha256"] == model.artifact.sha256
    latest = json.loads(get(app.port, "/models/hate")[1])
    assert latest["model"] == {"name": "hate", "version": "1.10", "variant": "openvino-int8"}
    paths = json.loads(get(app.port, "/openapi.json")[1])["paths"]
    assert {"/predictions/spam/1.0", "/predictions/hate/1.10", "/v1/models/spam:explain"} <= paths.keys()
    assert not [path for path in paths if "{" in path]
    ids = [way["operationId"] for path in paths.values() for way in path.values()]
    assert len(set(ids)) == len(ids)


def test_counters_are_by_model_and_each_series_is_declared_once(app: App) -> None:
    def texts(name: str) -> float:
        line = f'classifier_texts{{ModelName="{name}"}} '
        lines = get(app.port, "/metrics")[1].decode().splitlines()
        return sum(float(each.removeprefix(line)) for each in lines if each.startswith(line))

    before = {name: texts(name) for name in ("hate", "spam")}
    for path in ("/predictions/spam", PREDICT, PREDICT + "/1.9", PREDICT + "/1.10"):
        ask(app.port, path)
    assert {name: texts(name) - count for name, count in before.items()} == {"spam": 1, "hate": 3}
    page = get(app.port, "/metrics")[1].decode().splitlines()
    declared = [line for line in page if line.startswith("# TYPE ")]
    assert len(set(declared)) == len(declared)
    waiting = [line for line in page if line.startswith("classifier_waiting_requests{")]
    assert waiting == [f'classifier_waiting_requests{{ModelName="{name}"}} 0.0' for name in ("hate", "spam")]


def test_a_model_that_is_busy_keeps_no_other_waiting(
    loaded: list[tuple[Model, Service]], counted: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do those that fill its queue take the places of others."""
    busy, idle, _ = loaded
    gate = Gate(busy[1], monkeypatch)
    models = Models([served(*busy, Batching(1, 0, 2)), served(*idle, Batching(1, 0, 2))])
    with (
        answering(models, AppServer(create_app(models, counted), models)) as app,
        ThreadPoolExecutor(3) as clients,
    ):
        wait_until(lambda: get(app.port, "/ready")[0] == 200)
        asked = [clients.submit(ask, app.port, "/predictions/hate") for _ in range(3)]
        wait_until(lambda: gate.reached.is_set() and models.first.batcher.waiting == 2)
        assert ask(app.port, "/predictions/hate")[0] == 503
        assert [ask(app.port, "/predictions/spam")[0] for _ in range(5)] == [200] * 5
        assert not any(each.done() for each in asked)
        gate.opened.set()
        assert [each.result()[0] for each in asked] == [200] * 3


def test_the_server_is_ready_when_all_are(loaded: list[tuple[Model, Service]], counted: Counters) -> None:
    (model, service), (other, _), _ = loaded
    waits = Served(other, Batcher(lambda: service, Batching()))
    waits.start = lambda: None  # type: ignore[method-assign] # until the test starts it
    models = Models([served(model, service), waits])
    with answering(models, AppServer(create_app(models, counted), models)) as app:
        wait_until(lambda: ask(app.port, "/predictions/hate")[0] == 200)
        assert get(app.port, "/ready")[0] == ask(app.port, "/predictions/spam")[0] == 503
        listed = json.loads(get(app.port, "/models")[1])["models"]
        assert [each["status"] for each in listed] == ["READY", "LOADING"]


def test_versions_ascend_by_their_numbers(build_once) -> None:
    versions = ["1.0", "1.2", "1.9", "1.10", "2", "2.0-b", "10.0"]
    model = partial(Model, build_once("fp32"), "hate")
    assert sorted(set(versions), key=lambda version: model(version).age) == versions


def test_what_cannot_be_told_apart_is_refused(build_once, tmp_path: Path) -> None:
    folder = build_once("fp32").folder
    said = refused("deploy", "app", "--artifact", folder, "--artifact", folder)
    assert "two models have one name and version: hate 1.0 in fp32 and fp32" in said
    said = refused("deploy", "app", "--artifact", folder, "--artifact", f"b={folder}", "--shadow", folder)
    assert "a shadow goes with one model: 2 models" in said
    assert "no model is given" in refused("deploy", "app")
    assert "has characters other than" in refused("deploy", "app", "--artifact", f"a b={folder}")
    with pytest.raises(UserError, match="two models have one name and version"):
        Models([served(Model(build_once("fp32")), None)] * 2)  # type: ignore[arg-type]


def test_an_artifact_may_be_given_a_name(build_once, tmp_path: Path) -> None:
    artifact: Artifact = build_once("fp32")
    assert Source.of(f"spam={artifact.folder}") == Source(artifact.folder, "spam")
    (tmp_path / "a=b").mkdir()
    for path in (tmp_path / "a=b", tmp_path / "a=c", artifact.folder):
        assert Source.of(str(path)) == Source(path)
    archive = package(artifact, tmp_path, name="ham")
    assert Opener(tmp_path).open(Source.of(str(archive))).model.name == "ham"
    assert Opener(tmp_path).open(Source.of(str(artifact.folder))).model.name == "hate"
    with pytest.raises(UserError, match="an archive has a name of its own"):
        Opener(tmp_path).open(Source.of(f"spam={archive}"))
