"""The TorchServe handler of every variant: batches of requests in, one JSON answer each.

TorchServe loads this file from the root of the archive and wants exactly one class in it. It knows
TorchServe's ways and nothing else: requests are read by `requests`, answered by `service`. Requests to
predict, to explain and to describe may share a batch. It logs no text.
"""

import json
import logging
import os
import sys
import time
import traceback
from http import HTTPStatus
from pathlib import Path

from handler.errors import Rejection, UserError
from handler.machine import available_cpus
from handler.metrics import Tally
from handler.predictor import Predictor
from handler.requests import Limits, Request, read
from handler.service import Service

logger = logging.getLogger(__name__)


class HateHandler:
    """`initialize` once per worker, `handle` once per batch of up to `batchSize` requests."""

    def initialize(self, context) -> None:
        """Load the artifact in the archive and warm every shape, so that the first request is a usual one."""
        _quieten()
        folder = Path(context.system_properties["model_dir"])
        config = context.model_yaml_config or {}
        settings = config.get("handler") or {}
        try:
            limits = Limits.of(settings)
            threads = settings.get("threads") or max(1, available_cpus() // config.get("minWorkers", 1))
            predictor = Predictor.load(folder / "artifact", threads)
        except UserError as error:
            # TorchServe hides what a worker logs below warnings; what it writes to stderr is kept.
            print(f"the model did not load: {error}", file=sys.stderr, flush=True)
            raise
        shapes = predictor.warm()
        model = context.manifest["model"]
        name, version = model["modelName"], model["modelVersion"]
        self.tally = Tally(context.metrics, name)
        named = {"name": name, "version": version, "variant": predictor.artifact.name}
        self.service = Service(predictor, limits, named, self.tally)
        logger.info("%s is ready: %d shapes warmed, %d threads", named["variant"], shapes, threads)

    def handle(self, data: list[dict], context) -> list[bytes]:
        """One UTF-8 JSON answer per request, in order; statuses of single rows are set on `context`."""
        begun = time.perf_counter()
        headers = [context.get_all_request_header(index) for index in range(len(data))]
        rows = list(zip(data, headers, strict=True))
        try:
            answered = self._answer(rows)
        except Exception as error:  # a defect of ours: whoever caused it must not harm the others
            _report(error)
            answered = [self._answer_alone(row) for row in rows]
        for index, (status, _) in enumerate(answered):
            context.set_response_status(status, HTTPStatus(status).phrase, index)
            context.set_response_content_type(index, "application/json")
        seconds = time.perf_counter() - begun
        self.tally.add(
            {
                ("classifier_requests",): len(rows),
                ("classifier_batches",): 1,
                ("classifier_handler_seconds",): seconds,
            }
        )
        return [body for _, body in answered]

    def _answer(self, rows: list[tuple[dict, dict]]) -> list[tuple[int, bytes]]:
        """Status and body of each request, all of them classified together."""
        requests = [self._read(row, headers) for row, headers in rows]
        answered = []
        for (_, headers), request, answers in zip(rows, requests, self.service.answer(requests), strict=True):
            if _asks_for_a_description(headers):
                answered.append((200, _json(self.service.describe())))
            else:
                answered.append((request.status(answers), _json(self.service.wrap(request, answers))))
        return answered

    def _answer_alone(self, row: tuple[dict, dict]) -> tuple[int, bytes]:
        try:
            (answered,) = self._answer([row])
        except Exception as error:
            _report(error)
            self.tally.add({("classifier_rejected", "500", "body"): 1})
            failed = Rejection(
                500, "body", "the classifier failed", "Report it, with the server's log"
            ).answer()
            tensors = _is_model_infer(*row)
            request = Request([], "v2" if tensors else "one", id="", only_tensors=tensors)
            return request.status([failed]), _json(self.service.wrap(request, [failed]))
        return answered

    def _read(self, row: dict, headers: dict) -> Request:
        if _asks_for_a_description(headers):
            return Request([], "list")
        return read(
            row,
            _content_type(headers),
            self.service.limits,
            explain=headers.get("explain") == "True",
            base64_tensors=_is_model_infer(row, headers),
        )


def _asks_for_a_description(headers: dict) -> bool:
    """The management API does; on the inference port, where `explain` is always set, anybody could say so."""
    return headers.get("describe") == "True" and "explain" not in headers


def _is_model_infer(row: dict, headers: dict) -> bool:
    """Whether a request came by gRPC's ModelInfer: a body of JSON, and no headers but those of its parts."""
    by_grpc = all(isinstance(header, dict) for header in headers.values())
    return by_grpc and "body" in row and _content_type(headers) == "application/json"


def _content_type(headers: dict) -> str:
    """The media type of the body: TorchServe records it under the body's own name."""
    part = headers.get("body") or headers.get("data") or {}
    declared = part.get("content-type", "") if isinstance(part, dict) else ""
    given = declared or headers.get("Content-Type") or headers.get("content-type") or ""
    return given if isinstance(given, str) else ""  # a form may have a field of that name


def _json(body: dict | list) -> bytes:
    """UTF-8 with a line's end; a lone surrogate, which UTF-8 lacks, as the escape that JSON allows."""
    try:
        return (json.dumps(body, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(body) + "\n").encode()


def _report(error: Exception) -> None:
    """Where it broke, for the log; not the message, which may quote a text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    print(f"the classifier failed: {type(error).__name__}\n{frames}", file=sys.stderr, flush=True)


def _quieten() -> None:
    """Fewer lines between worker and server: one is written for every batch, and a trace for invalid JSON."""
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Backend received inference"))
    os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # bodies arrive as bytes, and are parsed in `requests`
