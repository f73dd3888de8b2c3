"""The TorchServe handler of every variant: batches of requests in, one JSON answer each.

TorchServe loads this file from the root of the archive and expects exactly one class in it. The class only
deals with TorchServe; `replies` turns requests into replies.
"""

import logging
import os
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

from handler.answers import Model
from handler.artifact import certificate_of
from handler.errors import UserError
from handler.latency import Promise, promise_of
from handler.machine import available_cpus, gpus
from handler.metrics import PROMISED, Tally, dimension
from handler.predictor import Predictor
from handler.replies import Arrival, reply
from handler.requests import Limits
from handler.self_check import Tolerance
from handler.service import Service

# Requests to predict, to explain and to describe may share a batch. It logs no text.

logger = logging.getLogger(__name__)


class ClassifierHandler:
    """`initialize` once per worker, `handle` once per batch of up to `batchSize` requests."""

    def initialize(self, context: Any) -> None:
        """Load the artifact in the archive and warm every shape, so that the first request is a usual one."""
        _quieten()
        folder = Path(context.system_properties["model_dir"])
        config = context.model_yaml_config or {}
        settings = config.get("handler") or {}
        try:
            limits = Limits.of(settings)
            gpu = context.system_properties.get("gpu_id")  # None but for deviceType gpu: each worker its own
            workers = config.get("minWorkers") or (1 if gpu is None else max(1, len(gpus())))
            threads = settings.get("threads") or max(1, available_cpus() // workers)
            device = None if gpu is None else f"cuda:{gpu}"
            predictor = Predictor.load(folder / "artifact", threads, device, Tolerance.of(settings))
        except UserError as error:
            # TorchServe hides what a worker logs below warnings; what it writes to stderr is kept.
            print(f"the model did not load: {error}", file=sys.stderr, flush=True)
            raise
        shapes = predictor.warm()
        model = context.manifest["model"]
        name, version = model["modelName"], model["modelVersion"]
        named = Model(name=name, version=version, variant=predictor.artifact.name)
        certificate = certificate_of(predictor.artifact, folder)
        promise = promise_of(certificate)
        if promise is not None:
            _show(promise, context.metrics, name)
        tally = Tally(context.metrics, name, promise)
        self.service = Service(predictor, limits, named, tally, certificate)
        logger.info("%s is ready: %d shapes warmed, %d threads", named["variant"], shapes, threads)
        logger.info("%s: %s", named["variant"], predictor.self_check)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One UTF-8 JSON answer per request, in order; statuses of single rows are set on `context`."""
        arrivals = [_arrival(row, context.get_all_request_header(index)) for index, row in enumerate(data)]
        replies = reply(self.service, arrivals)
        for index, made in enumerate(replies):
            context.set_response_status(made.status, HTTPStatus(made.status).phrase, index)
            context.set_response_content_type(index, "application/json")
        return [made.body for made in replies]


def _show(promise: Promise, metrics: Any, model: str) -> None:
    """As gauges, which TorchServe's cache finds by their type."""
    from ts.metrics.metric_type_enum import MetricTypes

    for name, value in zip(PROMISED, (promise.p99_s, promise.rps), strict=True):
        try:
            metrics.get_metric(name, MetricTypes.GAUGE).add_or_update(value, [dimension(model)])
        except Exception:  # another server's metrics_config need not know ours
            logger.info("%s is not declared", name)


def _arrival(row: dict[str, Any], headers: dict[str, Any]) -> Arrival:
    return Arrival(
        row,
        _content_type(headers),
        explain=headers.get("explain") == "True",
        describe=_asks_for_a_description(headers),
        base64_tensors=_is_model_infer(row, headers),
        content_encoding=_content_encoding(headers),
    )


def _asks_for_a_description(headers: dict[str, Any]) -> bool:
    """The management API does; on the inference port, where `explain` is always set, anybody could say so."""
    return headers.get("describe") == "True" and "explain" not in headers


def _is_model_infer(row: dict[str, Any], headers: dict[str, Any]) -> bool:
    """Whether a request came by gRPC's ModelInfer: a body of JSON, and no headers but those of its parts."""
    by_grpc = all(isinstance(header, dict) for header in headers.values())
    return by_grpc and "body" in row and _content_type(headers) == "application/json"


def _content_type(headers: dict[str, Any]) -> str:
    """The media type of the body: TorchServe records it under the body's own name."""
    part = headers.get("body") or headers.get("data") or {}
    declared = part.get("content-type", "") if isinstance(part, dict) else ""
    given = declared or headers.get("Content-Type") or headers.get("content-type") or ""
    return given if isinstance(given, str) else ""  # a form may have a field of that name


def _content_encoding(headers: dict[str, Any]) -> str:
    found = (value for name, value in headers.items() if name.lower() == "content-encoding")
    return next((value for value in found if isinstance(value, str)), "")


def _quieten() -> None:
    """Fewer lines between worker and server: one is written for every batch, and a trace for invalid JSON."""
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Backend received inference"))
    os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # bodies arrive as bytes, and are parsed in `requests`
