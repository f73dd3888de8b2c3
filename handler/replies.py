"""Turns arrived requests into statuses and bodies, for any server: one reply each, in order.

The requests of a batch are classified together; a defect fails only the request that triggers it. Texts are
never logged.
"""

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from handler.errors import Rejection
from handler.requests import Request, read, refused
from handler.service import Service

UNENCODED = ("", "identity")  # values of Content-Encoding


@dataclass(frozen=True)
class Arrival:
    """A request as a server hands it over: form fields, or the body under `body` or `data`, and its type.

    `describe`: it asks what is served, and its parameters are not read. `base64_tensors` as in
    `requests.read`. `content_encoding` is the header of that name. A body that is read already has
    `parsed_bytes`. `logits`: answers are to have the model's own, too, for a server that asks for them.
    """

    parameters: Mapping[str, object]
    content_type: str
    explain: bool = False
    describe: bool = False
    base64_tensors: bool = False
    content_encoding: str = ""
    parsed_bytes: int = 0
    logits: bool = False

    @property
    def size(self) -> int:
        """Bytes of its fields."""
        return self.parsed_bytes + sum(
            len(value) for value in self.parameters.values() if isinstance(value, (bytes, bytearray, str))
        )


@dataclass(frozen=True)
class Reply:
    """HTTP status, and UTF-8 JSON."""

    status: int
    body: bytes


def reply(service: Service, arrivals: Sequence[Arrival]) -> list[Reply]:
    """One reply to each, in order. Raises nothing."""
    begun = time.perf_counter()
    try:
        replies = _together(service, arrivals)
    except Exception as error:  # a defect: whoever caused it must not harm the others
        report(error)
        replies = [_alone(service, arrival) for arrival in arrivals]
    ended = time.perf_counter()
    service.tally.add(
        {
            ("classifier_requests",): len(arrivals),
            ("classifier_batches",): 1,
            ("classifier_handler_seconds",): ended - begun,
        }
    )
    tokenised, classified = service.moments
    if begun <= tokenised:  # else it failed before
        phases = {"tokenise": tokenised - begun, "model": classified - tokenised, "reply": ended - classified}
        waited = sum(not arrival.explain for arrival in arrivals)
        service.tally.took(waited, **phases, handler=ended - begun)
    return replies


def refuse(rejection: Rejection) -> Reply:
    """The reply to a request that is not even read."""
    return Reply(rejection.code, as_json(rejection.answer()))


def failure() -> Rejection:
    """The error of a request that failed because of a defect."""
    return Rejection(500, "body", "the classifier failed", "Report it with the server's log")


def report(error: Exception) -> None:
    """Log the traceback, but not the message, which may quote a text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    print(f"the classifier failed: {type(error).__name__}\n{frames}", file=sys.stderr, flush=True)


def as_json(body: dict[str, Any] | list[Any]) -> bytes:
    """UTF-8 with a line's end; a lone surrogate, which UTF-8 lacks, as the escape that JSON allows."""
    return (json.dumps(body, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _together(service: Service, arrivals: Sequence[Arrival]) -> list[Reply]:
    requests = [_read(service, arrival) for arrival in arrivals]
    replies = []
    for arrival, request, answers in zip(arrivals, requests, service.answer(requests), strict=True):
        if arrival.describe:
            replies.append(Reply(200, as_json(service.describe())))
        else:
            replies.append(Reply(request.status(answers), as_json(service.wrap(request, answers))))
    return replies


def _alone(service: Service, arrival: Arrival) -> Reply:
    try:
        (answered,) = _together(service, [arrival])
    except Exception as error:
        report(error)
        service.tally.add({("classifier_rejected", "500", "body"): 1})
        failed = failure().answer()
        tensors = arrival.base64_tensors
        request = Request([], "v2" if tensors else "one", id="", only_tensors=tensors)
        return Reply(request.status([failed]), as_json(service.wrap(request, [failed])))
    return answered


def _read(service: Service, arrival: Arrival) -> Request:
    if arrival.describe:
        return Request([], "list")
    if arrival.content_encoding.strip().lower() not in UNENCODED:
        remedy = "Send it uncompressed, without gzip or another encoding"
        return refused(Rejection(415, "Content-Encoding", "compressed bodies are not supported", remedy))
    request = read(
        arrival.parameters,
        arrival.content_type,
        service.limits,
        explain=arrival.explain,
        base64_tensors=arrival.base64_tensors,
    )
    return replace(request, logits=True) if arrival.logits else request
