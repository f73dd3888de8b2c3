"""The app and TorchServe give the same bytes; and batches, overload, start and stop over uvicorn."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import jsonschema
import pytest

from deploy.app import openapi, request_bodies
from deploy.app.application import PAGES, create_app
from deploy.app.batcher import Batcher, Batching
from deploy.app.connections import Admission, Bounds
from deploy.app.counters import Counters
from deploy.app.keys import Keys
from deploy.app.latency import Latencies
from deploy.app.model import Model
from deploy.app.models import Models, Served
from deploy.app.protocols.routes import rpc_server
from deploy.app.request_bodies import Memory
from deploy.app.server import AppServer, listen
from deploy.app.shadow import Shadow
from deploy.app.timing import Watcher
from deploy.app.tls import Pair
from deploy.torchserve.server import Server, free_ports
from export.archives.package import package
from handler.artifact import Artifact
from handler.errors import UserError
from handler.metrics import COUNTERS, LATENCY
from handler.records import plain
from handler.service import Service
from tests.asking import FORM, GOOD, JSON, PREDICT, ask, counter, get, held_to_schema, wait_until
from tests.conftest import ROOT, refused
from tests.deploy.app.test_hostile import generated
from tests.deploy.torchserve.test_server import ask_about_a_xylophone
from tests.handler.test_self_check import flipped

MULTIPART = "multipart/form-data; boundary=XX"
TENSORS = {
    "id": "7",
    "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good day", "a"]}],
}


# Labels of what TorchServe does not count.
OWN = {
    "classifier_waiting_requests": (),
    "classifier_cached_texts": (),
    "classifier_reloads": ("status",),
    "classifier_responses": ("code",),
    "classifier_request_seconds_bucket": ("kind", "le"),
    "classifier_request_seconds_sum": ("kind",),
    "classifier_request_seconds_count": ("kind",),
}


def multipart(*parts: tuple[str, str, bytes]) -> bytes:
    """A body of (disposition, type, content); a type of "" is not declared."""
    body = b""
    for disposition, type_, content in parts:
        declared = f"\r\nContent-Type: {type_}" if type_ else ""
        head = f"--XX\r\nContent-Disposition: form-data; {disposition}{declared}\r\n\r\n"
        body += head.encode() + content + b"\r\n"
    return body + b"--XX--\r\n"


@dataclass
class App:
    """A running app: its port, what can be asked of it from inside, and its thread."""

    port: int
    server: AppServer
    models: Models
    thread: threading.Thread

    @property
    def batcher(self) -> Batcher:
        return self.models.first.batcher

    def counted(self, name: str) -> float:
        return counter(self.port, name)


@contextmanager
def running(
    model: Model,
    load: Callable[[], Service] | None = None,
    counted: Counters | None = None,
    batching: Batching | None = None,
    drain_s: float = 0,
    bounds: Bounds | None = None,
    memory: Memory | None = None,
    shadow: Shadow | None = None,
    keys: Keys | None = None,
    tls: Pair | None = None,
    grpc_port: int | None = None,
    watchers: Sequence[Watcher] = (),
) -> Iterator[App]:
    """One model; `load` may give a service that is loaded already."""
    counted = counted or Counters()
    batcher = Batcher(load or (lambda: model.load(counted)), batching or Batching())
    models = Models([Served(model, batcher, shadow)])
    admission = Admission(bounds or Bounds(), lambda code, field: None)
    latencies = Latencies(models)
    app = create_app(models, counted, memory, keys=keys, latencies=latencies, watchers=watchers)
    rpc = None
    if grpc_port is not None:
        denied = partial(counted.add, "classifier_rejected", 1, [model.name, "401", "Authorization"])
        everyone = (*watchers, latencies)
        rpc = rpc_server(models, keys, tls, denied, "127.0.0.1", grpc_port, everyone)
    context = tls.context() if tls else None
    with answering(models, AppServer(app, models, drain_s, admission, tls=context, rpc=rpc)) as found:
        yield found


@contextmanager
def answering(models: Models, server: AppServer) -> Iterator[App]:
    """uvicorn in a thread, on a free port."""
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield App(listening.getsockname()[1], server, models, thread)
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


@pytest.fixture(scope="module")
def app(model: Model, service: Service, counted: Counters) -> Iterator[App]:
    with running(model, lambda: service, counted) as found:
        wait_until(lambda: found.batcher.is_ready)
        yield found


class Gate:
    """Holds the real predictor back until it is opened."""

    def __init__(self, service: Service, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        encode = service.predictor.encode

        def wait_and_encode(*arguments):
            self.reached.set()
            assert self.opened.wait(60)
            return encode(*arguments)

        patch.setattr(service.predictor, "encode", wait_and_encode)


@pytest.fixture
def gate(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate(service, monkeypatch)
    yield found
    found.opened.set()


# What both servers answer with the same status and the same bytes: path, body, type.
SAME = {
    "json": (PREDICT, GOOD, JSON),
    "charset": (PREDICT, GOOD, JSON + "; charset=utf-8"),
    "query": (PREDICT + "?text=zebra", GOOD, JSON),
    "version": (PREDICT + "/1.0", GOOD, JSON),
    "plain": (PREDICT, b"good day", "text/plain"),
    "untyped": (PREDICT, b"good day", ""),
    "untyped-json": (PREDICT, b'["good day", ""]', ""),
    "nothing": (PREDICT, b"", ""),
    "no-json": (PREDICT, b"", JSON),
    "bad-json": (PREDICT, b"{bad", JSON),
    "not-utf8": (PREDICT, b"\xff", "text/plain"),
    "mark": (PREDICT, b"\xef\xbb\xbf" + GOOD, ""),
    "utf-16": (PREDICT, GOOD.decode().encode("utf-16"), ""),
    "text-json": (PREDICT, GOOD, "text/json"),
    "html": (PREDICT, b"<p>good day</p>", "text/html"),
    "json-lines": (PREDICT, GOOD + b"\n" + GOOD, ""),
    "v2-id": (PREDICT, json.dumps(TENSORS | {"id": "x" * 300}).encode(), JSON),
    "picture": (PREDICT, b"\x89PNG", "image/png"),
    "no-type": (PREDICT, b"good day", "junk"),
    "list": (PREDICT, b'["good day", "", 3]', JSON),
    "texts": (PREDICT, b'{"texts": ["good day", {"text": "a", "long": "chunks"}]}', JSON),
    "too-many": (PREDICT, json.dumps(["a"] * 129).encode(), JSON),
    "too-long": (PREDICT, json.dumps({"text": "a " * 500_000}).encode(), JSON),
    "largest-body": (PREDICT, GOOD.ljust(request_bodies.MOST_BYTES), JSON),
    "windows": (PREDICT, json.dumps({"text": "a kind word " * 300, "long": "chunks"}).encode(), JSON),
    "surrogate": (PREDICT, b'{"text": "good \\ud800 day \xc3\xa9"}', JSON),
    "form": (PREDICT, urlencode({"text": "good day"}).encode(), FORM),
    "form-charset": (PREDICT, b"text=good", FORM + "; charset=utf-8"),
    "form-unencoded": (PREDICT, "text=é ü;x=1".encode(), FORM),
    "form-not-utf8": (PREDICT, b"text=%ff", FORM),
    "form-twice": (PREDICT, b"text=good&text=vile", FORM),
    "form-options": (PREDICT, b"text=good&long=chunks&aggregate=magic", FORM),
    "form-of-json": (PREDICT, urlencode({"body": '{"text": "good day"}'}).encode(), FORM),
    "form-data": (PREDICT, urlencode({"data": "good", "x": ""}).encode(), FORM),
    "form-without-fields": (PREDICT, b"good day", FORM),
    "form-empty": (PREDICT, b"", FORM),
    "parts": (PREDICT, multipart(('name="text"', "", "é ü".encode())), MULTIPART),
    "parts-not-utf8": (PREDICT, multipart(('name="text"', "text/plain", b"\xff")), MULTIPART),
    "parts-file": (PREDICT, multipart(('name="data"; filename="a.json"', JSON, GOOD)), MULTIPART),
    "parts-picture": (PREDICT, multipart(('name="data"; filename="a"', "image/png", GOOD)), MULTIPART),
    "parts-untyped": (PREDICT, multipart(('name="data"; filename="a"', "", b"good")), MULTIPART),
    "parts-json-field": (PREDICT, multipart(('name="body"', JSON, GOOD)), MULTIPART),
    "parts-unfinished": (PREDICT, multipart(('name="text"', "", b"good"))[:-10], MULTIPART),
    "parts-none": (PREDICT, b"", MULTIPART),
    "v1": ("/v1/models/hate:predict", b'{"instances": ["good day", {"text": "a"}]}', JSON),
    "v1-explain": ("/v1/models/hate:explain", b'{"instances": ["good day"]}', JSON),
    "v2": ("/v2/models/hate/infer", json.dumps(TENSORS).encode(), JSON),
    "v2-anywhere": (PREDICT, json.dumps(TENSORS).encode(), JSON),
    "v2-bad": (PREDICT, b'{"inputs": 3}', JSON),
    "explain": ("/explanations/hate", b'{"text": "you are vile", "target": "not-hate"}', JSON),
    "explain-too-many": ("/explanations/hate", b'["a", "b", "c"]', JSON),
    "explain-unknown": ("/explanations/hate", b'{"text": "a", "method": "magic"}', JSON),
}
# Where TorchServe decides before the handler is asked: its status, the app's, and the field of its error.
DIFFERENT = {
    # TorchServe's HTTP server fails (500); the form is at fault.
    "form-bad-percent": (PREDICT, b"text=a&a=%zz", FORM, 500, 422, "body"),
    "form-without-a-name": (PREDICT, b"text=a&=b", FORM, 500, 422, "body"),
    "parts-without-a-name": (PREDICT, multipart(('filename="x"', "", b"good")), MULTIPART, 500, 422, "body"),
    # It finds no part and calls that no text; and without a boundary it takes the body for a text.
    "parts-garbage": (PREDICT, b"garbage", MULTIPART, 422, 422, "body"),
    "parts-without-boundary": (PREDICT, b"garbage", "multipart/form-data", 200, 422, "body"),
    # It drops the charset before the handler could refuse it.
    "another-charset": (PREDICT, b"good day", "text/plain; charset=latin-1", 200, 415, "Content-Type"),
    # The words are its own: an error of another schema, or none.
    "unknown-model": ("/predictions/nope", GOOD, JSON, 404, 404, "path"),
    "unknown-model-v1": ("/v1/models/nope:predict", GOOD, JSON, 404, 404, "path"),
    "unknown-version": (PREDICT + "/9", GOOD, JSON, 404, 404, "path"),
    "unknown-path": ("/nowhere", GOOD, JSON, 404, 404, "path"),
    "too-large": (PREDICT, GOOD.ljust(request_bodies.MOST_BYTES + 1), JSON, 413, 413, "body"),
    # A slash at the end is another path.
    "slash": (PREDICT + "/", GOOD, JSON, 200, 404, "path"),
}


@pytest.mark.parametrize(("path", "body", "content_type"), SAME.values(), ids=SAME)
def test_the_app_answers_as_the_archive_does(
    served: tuple[Server, Artifact], app: App, path: str, body: bytes, content_type: str
) -> None:
    assert ask(app.port, path, body, content_type) == ask(served[0].inference_port, path, body, content_type)


def test_both_refuse_a_compressed_body_as_one(served: tuple[Server, Artifact], app: App) -> None:
    compressed = {"Content-Encoding": "gzip"}
    refused = ask(app.port, **compressed)
    assert refused == ask(served[0].inference_port, **compressed)
    assert refused[0] == 415


def test_a_file_may_be_put_and_predict_is_a_name_for_it(served: tuple[Server, Artifact], app: App) -> None:
    expected = ask(served[0].inference_port, PREDICT, b"good day", "", "PUT")
    assert expected[0] == 200
    assert ask(app.port, PREDICT, b"good day", "", "PUT") == expected
    assert ask(app.port, "/predict") == expected


@pytest.mark.parametrize(
    ("path", "body", "content_type", "theirs", "ours", "field"), DIFFERENT.values(), ids=DIFFERENT
)
def test_where_torchserve_decides_the_app_keeps_to_the_schema_of_errors(
    served: tuple[Server, Artifact],
    app: App,
    path: str,
    body: bytes,
    content_type: str,
    theirs: int,
    ours: int,
    field: str,
) -> None:
    assert ask(served[0].inference_port, path, body, content_type)[0] == theirs
    status, content = ask(app.port, path, body, content_type)
    answer = held_to_schema(content)
    assert (status, answer["error"]["code"], answer["error"]["field"]) == (ours, ours, field)


def test_whatever_a_request_holds_both_answer_it_alike(served: tuple[Server, Artifact], app: App) -> None:
    for sent in generated(100):
        asked = sent.path, sent.body, sent.content_type
        assert ask(app.port, *asked) == ask(served[0].inference_port, *asked), sent


def test_other_methods_are_refused_in_the_same_words(app: App) -> None:
    for method in ("GET", "HEAD", "DELETE", "PATCH"):
        status, content = ask(app.port, PREDICT, None, "", method)
        assert status == 405
        if method != "HEAD":
            held_to_schema(content)


@pytest.mark.parametrize("path", ["/ping", "/ready", "/metrics", "/models/hate"])
def test_health_checks_may_use_head(app: App, path: str) -> None:
    assert ask(app.port, path, None, "", "HEAD") == (200, b"")


def test_pages_can_be_left_out(model: Model, service: Service) -> None:
    models = Models([Served(model, Batcher(lambda: service, Batching()))])
    paths = {route.path for route in create_app(models, Counters(), without=PAGES).routes}
    assert not paths & {"/metrics", "/docs", "/openapi.json", "/models", "/models/{name}"}
    assert {"/ping", "/ready", "/predict", "/predictions/{name}"} <= paths


def test_requests_at_once_share_a_batch_and_are_answered_as_if_alone(
    model: Model, service: Service, counted: Counters, gate: Gate, source
) -> None:
    texts = source.dataset.splits["test"].texts[:24]
    sent = [json.dumps({"text": text}).encode() for text in texts]
    with running(model, lambda: service, counted) as app, ThreadPoolExecutor(len(sent)) as clients:
        wait_until(lambda: app.batcher.is_ready)
        before = [app.counted(f"classifier_{name}") for name in ("requests", "batches")]
        asked = [clients.submit(ask, app.port, PREDICT, sent[0])]
        assert gate.reached.wait(60)
        asked += [clients.submit(ask, app.port, PREDICT, body) for body in sent[1:]]
        wait_until(lambda: app.batcher.waiting == len(sent) - 1)
        gate.opened.set()
        together = [request.result() for request in asked]
        after = [app.counted(f"classifier_{name}") for name in ("requests", "batches")]
    assert after[0] - before[0] == len(sent)
    assert after[1] - before[1] == 2, "the first alone, then all others"
    with running(model, lambda: service, counted, Batching(delay_s=0)) as app:
        wait_until(lambda: app.batcher.is_ready)
        alone = [ask(app.port, PREDICT, body) for body in sent]
        assert app.counted("classifier_batches") - after[1] == len(sent)
    assert {status for status, _ in alone} == {200}
    assert together == alone, "static scales: a score does not depend on its batch mates"


def test_a_request_that_meets_a_defect_harms_no_other(
    app: App, service: Service, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    encode = service.predictor.encode

    def breaks(texts, whole):
        if "xylophone" in texts:
            raise RuntimeError(texts[0])
        return encode(texts, whole)

    monkeypatch.setattr(service.predictor, "encode", breaks)
    sent = [b'"good day"', b'"xylophone"', b'"good day"']
    with ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(lambda body: ask(app.port, PREDICT, body), sent))
    assert [status for status, _ in answers] == [200, 500, 200]
    held_to_schema(answers[1][1])
    said = capfd.readouterr().err
    assert "RuntimeError" in said
    assert "xylophone" not in said.replace('if "xylophone" in texts', "")


def test_what_the_queue_cannot_hold_is_refused_at_once_and_the_accepted_are_answered(
    model: Model, service: Service, counted: Counters, gate: Gate
) -> None:
    few = Batching(size=1, delay_s=0, queue_size=2)
    with running(model, lambda: service, counted, few) as app, ThreadPoolExecutor(3) as clients:
        wait_until(lambda: app.batcher.is_ready)
        accepted = [clients.submit(ask, app.port, PREDICT)]
        assert gate.reached.wait(60), "the first is being computed"
        accepted += [clients.submit(ask, app.port, PREDICT) for _ in range(2)]
        wait_until(lambda: app.counted("classifier_waiting_requests") == 2)
        for path in (PREDICT, "/explanations/hate", "/v1/models/hate:predict"):
            status, content = ask(app.port, path)
            assert status == 503
            held_to_schema(content)
        assert get(app.port, "/ping")[0] == get(app.port, "/ready")[0] == 200
        assert not any(request.done() for request in accepted)
        gate.opened.set()
        assert [request.result()[0] for request in accepted] == [200, 200, 200]
        assert 'code="503",field="queue"} 3.0' in get(app.port, "/metrics")[1].decode()


def test_a_server_that_stops_answers_what_it_accepted(
    model: Model, service: Service, counted: Counters, gate: Gate
) -> None:
    one_by_one = Batching(size=1, delay_s=0)
    with running(model, lambda: service, counted, one_by_one) as app, ThreadPoolExecutor(4) as clients:
        wait_until(lambda: app.batcher.is_ready)
        accepted = [clients.submit(ask, app.port, PREDICT) for _ in range(4)]
        wait_until(lambda: gate.reached.is_set() and app.batcher.waiting == 3)
        app.server.should_exit = True
        wait_until(lambda: refuses_connections(app.port))
        assert not any(request.done() for request in accepted)
        gate.opened.set()
        assert [request.result()[0] for request in accepted] == [200] * 4
        app.thread.join(60)
        assert not app.thread.is_alive()


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_until_the_model_is_loaded_the_server_lives_and_is_not_ready(model: Model, service: Service) -> None:
    loaded = threading.Event()

    def load() -> Service:
        assert loaded.wait(60)
        return service

    with running(model, load) as app:
        assert get(app.port, "/ping")[0] == 200
        for status, content in (
            get(app.port, "/ready"),
            get(app.port, "/models/hate"),
            ask(app.port, PREDICT),
        ):
            held_to_schema(content)
            assert status == 503
        assert get(app.port, "/metrics")[0] == 200
        loaded.set()
        wait_until(lambda: get(app.port, "/ready")[0] == 200)
        assert ask(app.port, PREDICT)[0] == 200


def test_a_model_whose_scores_are_others_is_refused_or_served_with_a_warning(artifact_copy: Artifact) -> None:
    damaged = Model(flipped(artifact_copy, "classifier.weight"))
    with running(damaged) as app:
        app.thread.join(60)
        assert not app.thread.is_alive()
    assert "gives other scores here" in str(app.batcher.failure)
    counted = Counters()
    with running(damaged, lambda: damaged.load(counted, on_mismatch="warn"), counted) as app:
        wait_until(lambda: app.batcher.is_ready)
        assert json.loads(get(app.port, "/ready")[1]) == {"status": "Ready", "self_check": "mismatch"}
        assert json.loads(get(app.port, "/models/hate")[1])["self_check"]["status"] == "mismatch"
        metrics = get(app.port, "/metrics")[1].decode()
        assert 'classifier_self_check{ModelName="hate",status="mismatch"} 1.0' in metrics


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_sentence(model: Model) -> None:
    unlimited = Model(model.artifact, settings={"handler": {"maxTexts": 0}})
    with running(unlimited) as app:
        app.thread.join(60)
        assert not app.thread.is_alive()
    assert isinstance(app.batcher.failure, UserError)
    assert "maxTexts is not a count" in str(app.batcher.failure)


def test_bodies_are_bounded_in_size_and_time(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"a" * 65536

    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=60)
    connection.request("POST", PREDICT, chunks(), {"Content-Type": "text/plain"}, encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]["code"]) == (413, 413)
    # The rest is not awaited: what was declared is enough.
    assert b"413" in answer_to(app.port, request_bodies.MOST_BYTES + 1, b"")
    monkeypatch.setattr(request_bodies, "PATIENCE_S", 0.1)
    assert b"408" in answer_to(app.port, 100, b"slow")


def answer_to(port: int, length: int, begun: bytes) -> bytes:
    """The first of what comes back where no more of a body is sent than `begun`."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        client.sendall(head.encode() + begun)
        return client.recv(20)


def test_a_form_of_too_many_fields_is_malformed(app: App) -> None:
    parts = multipart(*[(f'name="a{number}"', "", b"") for number in range(request_bodies.MOST_FIELDS + 1)])
    for body, content_type in ((b"a&" * request_bodies.MOST_FIELDS + b"text=a", FORM), (parts, MULTIPART)):
        assert ask(app.port, PREDICT, body, content_type)[0] == 422


def test_the_counters_are_those_of_the_archive(app: App) -> None:
    names = ("texts", "rejected", "scores", "lengths", "labels", "requests")
    before = [app.counted(f"classifier_{name}") for name in names]
    ask(app.port, PREDICT, b'["a", "b", ""]')
    more = [app.counted(f"classifier_{name}") - old for name, old in zip(names, before, strict=True)]
    assert more == [2, 1, 2, 2, 2, 1]
    for line in get(app.port, "/metrics")[1].decode().splitlines():
        if not line.startswith("# TYPE "):
            name, labels = re.fullmatch(r'(\w+)\{ModelName="hate"(.*)\} [\d.e+-]+', line).groups()
            assert tuple(re.findall(r',(\w+)="', labels)) == (COUNTERS | LATENCY | OWN)[name]


def test_a_model_describes_itself(app: App, model: Model) -> None:
    status, content = get(app.port, "/models/hate")
    described = json.loads(content)
    assert status == 200
    assert described["artifact_sha256"] == model.artifact.sha256
    assert described["check"] == plain(model.artifact.meta.check)


def test_the_openapi_page_shows_shapes_that_hold(app: App) -> None:
    status, page = get(app.port, "/docs")
    assert status == 200
    assert b"openapi.json" in page
    assert b"//" not in page  # nothing is taken from others' servers
    files = re.findall(rb'(?:src|href)="([^"]+\.(?:js|css))"', page)
    assert len(files) == 2
    assert all(get(app.port, file.decode())[0] == 200 for file in files)
    document = json.loads(get(app.port, "/openapi.json")[1])
    schemas = document["components"]["schemas"]

    def hold(instance: object, name: str) -> None:
        jsonschema.validate(instance, {"$ref": openapi.REFERENCE + name, "components": {"schemas": schemas}})

    shown = document["paths"][PREDICT]["post"]
    for example in openapi.REQUEST_EXAMPLES.values():
        hold(example, "request")
        status, answered = ask(app.port, PREDICT, json.dumps(example).encode())
        assert status == 200
        hold(json.loads(answered), "response")
    for example in shown["responses"]["200"]["content"]["application/json"]["examples"].values():
        hold(example["value"], "response")
    hold(openapi.ERROR, "error")
    for wrong in (3, {}, {"txt": "a"}, [], {"texts": "a"}, {"text": "a", "long": "magic"}):
        assert ask(app.port, PREDICT, json.dumps(wrong).encode())[0] == 422
        with pytest.raises(jsonschema.ValidationError):
            hold(wrong, "request")
    assert set(shown["responses"]) == {"200", "400", "401", "408", "413", "415", "422", "500", "503"}
    assert "429" in document["paths"]["/explanations/hate"]["post"]["responses"]


def test_an_archive_brings_its_name_and_settings_and_flags_go_first(build_once, tmp_path: Path) -> None:
    artifact = build_once("openvino-int8")
    model = Model.of_archive(package(artifact, tmp_path), tmp_path / "opened")
    assert (model.name, model.version, model.artifact.sha256) == ("hate", "1.0", artifact.sha256)
    tuned = Model(model.artifact, settings={"batchSize": 8, "maxBatchDelay": 5})
    assert tuned.batching(None, None, 9) == Batching(8, 0.005, 9)
    assert tuned.batching(4, 0, 9) == Batching(4, 0, 9)
    assert Model(model.artifact).batching(None, None, 256) == Batching()


def test_what_cannot_be_served_is_a_sentence(tmp_path: Path) -> None:
    for arguments, words in (
        (("--artifact", tmp_path), "there is no artifact"),
        (("--archive", tmp_path / "hate.mar"), "there is no such file"),
        (("--archive", ROOT / "pyproject.toml"), "this is not an archive of this project"),
    ):
        assert words in refused("deploy", "app", *arguments)
    with (
        listen("127.0.0.1", 0) as taken,
        pytest.raises(UserError, match=f"cannot listen on this address: .*{taken.getsockname()[1]}"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])


def test_the_command_serves_an_archive_logs_no_text_and_stops_when_told(
    served: tuple[Server, Artifact], workshop: Path, tmp_path: Path
) -> None:
    """Sent SIGTERM it is no longer ready, still answers for a while, and leaves nothing behind."""
    (port,), log = free_ports(1), tmp_path / "app.log"
    shutil.copy(workshop / "model_store" / "hate-openvino-int8.mar", tmp_path / "hate.mar")
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "deploy", "app", "--archive", str(tmp_path / "hate.mar")]
    command += ["--port", str(port), "--threads", "1", "--drain-s", "8"]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path / "temporary")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or f"127.0.0.1:{port}/predict" in log.read_text())
        assert get(port, "/ready")[0] == 200, log.read_text()
        assert json.loads(get(port, "/models/hate")[1])["threads"] == 1
        ask_about_a_xylophone(replace(served[0], inference_port=port, pid=process.pid, log=log))
        encoded = b"--XX\r\nContent-Transfer-Encoding: xylophone\r\nxylophone\r\n\r\n"
        ask(port, PREDICT, encoded, MULTIPART)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"xylophone\r\n\r\n")
            client.recv(100)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: get(port, "/ready")[0] == 503)
        assert ask(port, PREDICT) == ask(served[0].inference_port, PREDICT)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert "xylophone" not in log.read_text()
    assert not list((tmp_path / "temporary").iterdir())
