"""Traces as a collector gets them: an OTLP server of our own reads what OpenTelemetry's exporter sends."""

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.app.latency import OPEN_METRICS
from deploy.app.model import Model
from deploy.app.protocols.rpc import SERVICE, message
from deploy.app.timing import PHASES
from deploy.app.traces import PATH, tracing
from deploy.torchserve.server import free_ports
from handler.errors import UserError
from handler.service import Service
from tests.asking import GOOD, JSON, PREDICT, ask, get, wait_until
from tests.conftest import ROOT
from tests.deploy.app.test_application import App, Gate, running

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SERVER, OK, ERROR = 2, 0, 2


class Collector(ThreadingHTTPServer):
    """Keeps the spans that it is sent, and what else came with them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Any] = []
        self.services: set[str] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == PATH
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.services.add(values(resource.resource)["service.name"])
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def values(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@contextmanager
def traced(collector: Collector, model: Model, service: Service, **given: Any) -> Iterator[App]:
    """An app whose spans are with the collector from the block's end on."""
    with tracing(collector.endpoint) as traces:
        assert traces is not None
        with running(model, lambda: service, watchers=[traces], **given) as app:
            wait_until(lambda: app.batcher.is_ready)
            yield app


def asked(app: App, body: bytes = GOOD, path: str = PREDICT, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=120)
    connection.request("POST", path, body, {"Content-Type": JSON, "Connection": "close"} | headers)
    response = connection.getresponse()
    response.read()
    return response


def children(collector: Collector, span: Any) -> list[Any]:
    return [each for each in collector.spans if each.parent_span_id == span.span_id]


def test_a_request_goes_on_with_its_clients_trace_in_phases_that_fill_it(
    collector: Collector, model: Model, service: Service
) -> None:
    body = json.dumps({"texts": ["zebra", "a zebra"]}).encode()
    with traced(collector, model, service) as app:
        response = asked(app, body, f"{PREDICT}?text=zebra", traceparent=TRACEPARENT, tracestate="a=zebra")
    (span,) = collector.named("POST /predictions/{name}")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, SERVER)
    assert response.headers["traceresponse"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    phases = children(collector, span)
    assert [phase.name for phase in phases] == list(PHASES)
    assert phases[0].start_time_unix_nano == pytest.approx(span.start_time_unix_nano, abs=1e6)
    for before, after in pairwise(phases):
        assert before.end_time_unix_nano == pytest.approx(after.start_time_unix_nano, abs=1e6)
    assert phases[-1].end_time_unix_nano == pytest.approx(span.end_time_unix_nano, abs=1e6)
    assert values(span) == {
        "http.request.method": "POST",
        "http.route": "/predictions/{name}",
        "http.response.status_code": 200,
        "classifier.texts": 2,
        "classifier.model.name": "hate",
        "classifier.model.version": "1.0",
        "classifier.model.variant": model.artifact.name,
    }
    assert collector.services == {"classifier"}
    assert "zebra" not in str(collector.spans)


def test_a_batch_has_a_span_that_links_to_its_requests_and_they_to_it(
    collector: Collector, model: Model, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request holds the model, so that three others become one batch."""
    gate = Gate(service, monkeypatch)
    with traced(collector, model, service) as app, ThreadPoolExecutor(4) as pool:
        first = pool.submit(asked, app)
        assert gate.reached.wait(30)
        others = [pool.submit(asked, app) for _ in range(3)]
        wait_until(lambda: app.batcher.waiting == 3)
        gate.opened.set()
        assert [each.result().status for each in (first, *others)] == [200] * 4
    requests = {span.span_id: span for span in collector.named("POST /predictions/{name}")}
    assert len({span.trace_id for span in requests.values()}) == len(requests) == 4, "each has a trace"
    alone, together = sorted(collector.named("batch"), key=lambda span: len(span.links))
    assert [values(span)["classifier.requests"] for span in (alone, together)] == [1, 3]
    linked = {link.span_id for span in (alone, together) for link in span.links}
    assert linked == requests.keys()
    for link in together.links:
        of_batch = [span for span in children(collector, requests[link.span_id]) if span.links]
        assert [span.name for span in of_batch] == ["tokenise", "model"]
        assert {span.links[0].span_id for span in of_batch} == {together.span_id}


def test_a_failed_request_is_an_error_and_a_refused_one_is_not(
    collector: Collector, model: Model, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced(collector, model, service) as app:
        assert asked(app, b"{").status == 400
        monkeypatch.setattr(service.predictor, "encode", lambda *_: 1 / 0)
        assert asked(app).status == 500
    found = [span for span in collector.spans if span.kind == SERVER]
    codes = {values(span)["http.response.status_code"]: span.status.code for span in found}
    assert codes == {400: OK, 500: ERROR}
    assert not any(children(collector, span) for span in found if span.status.code == ERROR)


def test_a_client_that_does_not_sample_is_not_sampled_but_has_its_trace(
    collector: Collector, model: Model, service: Service
) -> None:
    with traced(collector, model, service) as app:
        response = asked(app, traceparent=f"00-{TRACE}-{PARENT}-00")
        page = ask(app.port, "/metrics", None, "", "GET", Accept=OPEN_METRICS, traceparent=TRACEPARENT)[1]
    assert response.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert response.headers["traceresponse"].endswith("-00")
    assert [span.name for span in collector.spans] == ["GET /metrics"]
    assert b"trace_id" not in page, "there would be no trace to look at"


def test_a_trace_that_begins_here_is_the_example_of_its_bucket(
    collector: Collector, model: Model, service: Service
) -> None:
    with traced(collector, model, service) as app:
        asked(app)
        page = ask(app.port, "/metrics", None, "", "GET", Accept=OPEN_METRICS)[1].decode()
    (span,) = collector.named("POST /predictions/{name}")
    assert f'# {{trace_id="{span.trace_id.hex()}"}}' in page


def test_grpc_has_the_same_traces_in_its_metadata(
    collector: Collector, model: Model, service: Service
) -> None:
    grpc = pytest.importorskip("grpc")
    with traced(collector, model, service, grpc_port=0) as app:
        wait_until(lambda: app.server.rpc.port)
        channel = grpc.insecure_channel(f"127.0.0.1:{app.server.rpc.port}")
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        texts = {"contents": {"bytes_contents": [b"good day"]}}
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", **texts}
        request = message("ModelInferRequest")(model_name="hate", inputs=[tensor])
        _, call = infer.with_call(request.SerializeToString(), metadata=[("traceparent", TRACEPARENT)])
    (span,) = collector.named(f"gRPC /{SERVICE}/ModelInfer")
    assert span.trace_id.hex() == TRACE
    assert dict(call.trailing_metadata())["traceresponse"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert [each.name for each in children(collector, span)] == list(PHASES)
    assert values(span)["http.response.status_code"] == 200


def test_the_command_sends_traces_to_its_endpoint(collector: Collector, model: Model) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "deploy", "app", "--artifact", model.artifact.folder, "--port", port]
    command += ["--traces", collector.endpoint, "--threads", "1"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while "ready. Try it" not in (line := process.stderr.readline()):
            assert line
        wait_until(lambda: get(port, "/ready")[0] == 200)
        assert ask(port, traceparent=TRACEPARENT)[0] == 200
    finally:
        process.terminate()
        process.communicate(timeout=60)
    (span,) = collector.named("POST /predictions/{name}")
    assert span.trace_id.hex() == TRACE


def test_there_are_none_without_an_endpoint(monkeypatch: pytest.MonkeyPatch, collector: Collector) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with tracing(None) as traces:
        assert traces is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    with tracing(None) as traces:
        assert traces is not None


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "ftp://127.0.0.1", "http://"])
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    with (
        pytest.raises(UserError, match=r"no address for traces.*http://127\.0\.0\.1:4318"),
        tracing(endpoint),
    ):
        pass


@pytest.mark.parametrize("named", [True, False])
def test_without_its_packages_an_option_is_refused_and_a_variable_is_said_to_be_idle(named: bool) -> None:
    """In a fresh interpreter, where they cannot be found."""
    endpoint = "http://127.0.0.1:4318"
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from common.commands import run\n"
        "from deploy.app.traces import tracing\n"
        "def main(_):\n"
        f"    with tracing({endpoint if named else None!r}) as traces: print(traces)\n"
        "run(main)"
    )
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "pip install '.[otel]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == ((2, "") if named else (0, "None\n"))
