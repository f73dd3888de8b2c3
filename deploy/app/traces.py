"""Traces by OpenTelemetry: a span for each request with one for each phase, and one for each batch.

A request goes on with the trace of its W3C `traceparent`, and its answer has a `traceresponse`.
OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME …) apply.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.commands import say
from deploy.app.timing import Batch, Timing
from handler.errors import UserError

if TYPE_CHECKING:  # it is of the extra otel
    from opentelemetry.sdk.trace.export import SpanExporter

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PATH = "/v1/traces"
SERVICE = "classifier"  # unless OTEL_SERVICE_NAME is another name
REMEDY = "pip install '.[otel]', or leave --traces out"


@contextmanager
def tracing(endpoint: str | None) -> Iterator["Traces | None"]:
    """To this endpoint, or those of `VARIABLES`, until the block's end; None without any. Raises `UserError`
    where packages are missing."""
    traces = _traces(endpoint)
    try:
        yield traces
    finally:
        if traces is not None:
            traces.close()


def _traces(endpoint: str | None) -> "Traces | None":
    """A variable alone, which may be meant for others, keeps nothing from being served."""
    if endpoint is None and not any(os.environ.get(name) for name in VARIABLES):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        missing = UserError("traces need packages that are missing", seen=error.name, remedy=REMEDY)
        if endpoint is not None:
            raise missing from error
        say(f"there are no traces, although {VARIABLES[0]} is set: {missing}")
        return None
    return Traces(OTLPSpanExporter(endpoint=_with_path(endpoint) if endpoint else None))


def _with_path(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        remedy = "Give an OTLP endpoint over HTTP, such as http://127.0.0.1:4318"
        raise UserError("this is no address for traces", seen=endpoint, remedy=remedy)
    return endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}{PATH}"


class Traces:
    """Watches requests; spans are exported in a thread of OpenTelemetry's, from `close` on none."""

    def __init__(self, exporter: "SpanExporter") -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        name = os.environ.get("OTEL_SERVICE_NAME", SERVICE)
        resource = Resource.create({SERVICE_NAME: name})
        self._processor = BatchSpanProcessor(exporter)
        requests, batches = TracerProvider(resource=resource), TracerProvider(ALWAYS_ON, resource)
        for provider in (requests, batches):
            provider.add_span_processor(self._processor)
        self._requests = requests.get_tracer(__name__)
        self._batches = batches.get_tracer(__name__)  # those with a request that is sampled

    def begin(self, timing: Timing, headers: Iterable[tuple[bytes, bytes]]) -> None:
        # Without tracestate, in which clients may write what they like.
        given = next((value for name, value in headers if name == b"traceparent"), b"")
        parent = self._propagator.extract({"traceparent": given.decode("latin-1")})
        kind = self._api.SpanKind.SERVER
        timing.span = self._requests.start_span("request", parent, kind, start_time=_wall(timing.arrived))
        context = timing.span.get_span_context()
        timing.trace = f"{context.trace_id:032x}" if context.trace_flags.sampled else ""
        timing.hand_on = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, timing: Timing, method: str, path: str | None) -> None:
        span = timing.span
        if span is None or not span.is_recording():
            return
        span.update_name(f"{method} {path or 'unknown'}")
        span.set_attributes(_attributes(timing, method, path))
        if timing.status >= 500:
            span.set_status(self._api.StatusCode.ERROR)
        within = self._api.set_span_in_context(span)
        links = [self._api.Link(self._batch(timing.batch, timing))] if timing.batch else []
        at = timing.arrived
        for phase, seconds in timing.phases():
            of_batch = links if phase in ("tokenise", "model") else ()
            child = self._requests.start_span(phase, within, links=of_batch, start_time=_wall(at))
            at += seconds
            child.end(_wall(at))
        span.end(_wall(timing.ended))

    def close(self) -> None:
        """Export what there is."""
        self._processor.shutdown()

    def _batch(self, batch: Batch, timing: Timing) -> Any:
        """The context of the batch's span, which is made at the end of the first of its requests."""
        if batch.context is None:
            contexts = [span.get_span_context() for span in batch.spans]
            links = [self._api.Link(context) for context in contexts if context.trace_flags.sampled]
            about: dict[str, str | int] = {"classifier.requests": batch.requests, **_of_model(timing)}
            start, end = _wall(batch.started), _wall(batch.classified)
            span = self._batches.start_span("batch", links=links, attributes=about, start_time=start)
            span.end(end)
            batch.context = span.get_span_context()
        return batch.context


def _attributes(timing: Timing, method: str, path: str | None) -> dict[str, str | int]:
    """OpenTelemetry's names where there are some. No text, and nothing that a client chose."""
    known = {"http.route": path} if path else {}
    return {
        "http.request.method": method,
        "http.response.status_code": timing.status,
        "classifier.texts": timing.texts,
        **known,
        **_of_model(timing),
    }


def _of_model(timing: Timing) -> dict[str, str]:
    return {f"classifier.model.{key}": str(value) for key, value in (timing.model or {}).items()}


def _wall(moment: float) -> int:
    """Nanoseconds since 1970 of a moment of `time.perf_counter`."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)
