"""How one protocol's clients ask and are answered: requests become the app's own, and replies the protocol's.

The app reads the body, and its batcher answers; so limits, batches and counters are the same for all.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from deploy.app.models import Served
from handler.errors import Rejection
from handler.replies import UNENCODED, Arrival, Reply, refuse
from handler.requests import HOW_TO_ASK
from handler.service import Service

LARGE_BYTES = (
    32 * 1024
)  # of JSON that is read or written in a thread, so that the event loop is free meanwhile
NOT_JSON = Rejection(400, "body", "the body is not a JSON object", "Send Content-Type: application/json")
COMPRESSED = Rejection(415, "Content-Encoding", "compressed bodies are not supported", "Send it uncompressed")

Made = TypeVar("Made")
Find = Callable[[str | None, str | None], Served | Rejection]
"""A model by its name and version; the default one by None."""


@dataclass(frozen=True)
class HeadedReply(Reply):
    """A reply that is not plain JSON, or has headers of its own."""

    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


@dataclass(frozen=True)
class Question:
    """A request in the app's own terms; `answer` makes the protocol's reply of the app's, whose status is
    200, or gives a reason why there is none. `served` is the model which the body names, if any."""

    arrival: Arrival
    answer: Callable[[Reply], Reply | Rejection]
    served: Served | None = None


class Dialect:
    """The app's own."""

    async def ask(self, arrival: Arrival | Rejection, headers: Mapping[str, str], served: Served) -> Reply:
        return self.refuse(arrival) if isinstance(arrival, Rejection) else await served.batcher.ask(arrival)

    def refuse(self, rejection: Rejection) -> Reply:
        """An error in the form that the protocol's clients read."""
        return refuse(rejection)


NATIVE = Dialect()


class Translated(Dialect):
    """A protocol that is read and answered by `read`."""

    def read(
        self, arrival: Arrival, headers: Mapping[str, str], service: Service
    ) -> Question | Rejection | None:
        """None: it is a request in the app's own form, and is answered as such."""
        raise NotImplementedError

    async def ask(self, arrival: Arrival | Rejection, headers: Mapping[str, str], served: Served) -> Reply:
        if isinstance(arrival, Rejection):
            return self.refuse(arrival)
        service = served.batcher.service
        assert service is not None, "the app refuses what comes earlier"
        large = arrival.size > LARGE_BYTES
        question = await _apart(large, lambda: self.read(arrival, headers, service))
        if question is None:
            return await served.batcher.ask(arrival)
        if isinstance(question, Rejection):
            service.tally.add({("classifier_rejected", str(question.code), question.field): 1})
            return self.refuse_question(question)
        with (question.served or served).hold() as batcher:
            reply = await batcher.ask(question.arrival)
        if reply.status != 200:
            return self.refuse_question(_first_error(json.loads(reply.body)))
        answered = await _apart(large, lambda: question.answer(reply))
        return self.refuse_question(answered) if isinstance(answered, Rejection) else answered

    def refuse_question(self, rejection: Rejection) -> Reply:
        """The same, of a request that is known to be the protocol's."""
        return self.refuse(rejection)


async def _apart(large: bool, make: Callable[[], Made]) -> Made:
    return await asyncio.to_thread(make) if large else make()


def json_object(arrival: Arrival) -> dict[str, Any] | Rejection:
    """The body, if it is a JSON object in UTF-8."""
    if arrival.content_encoding.strip().lower() not in UNENCODED:
        return COMPRESSED
    return parsed(arrival.parameters.get("body"))


def parsed(body: object) -> dict[str, Any] | Rejection:
    if not isinstance(body, bytes):
        return NOT_JSON
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return NOT_JSON
    return document if isinstance(document, dict) else NOT_JSON


def texts_of(rows: list[Any], body_bytes: int, *, logits: bool = False) -> Arrival:
    """The app's own request for these texts."""
    return Arrival({"body": {"texts": rows}}, "application/json", parsed_bytes=body_bytes, logits=logits)


def rows_of(reply: Reply) -> list[dict[str, Any]] | Rejection:
    """The answers to `texts_of`; where one of them is an error, that, with the text's number."""
    body = json.loads(reply.body)
    rows: list[dict[str, Any]] = body["predictions"]
    return _first_error(body) if any("error" in row for row in rows) else rows


def _first_error(body: dict[str, Any]) -> Rejection:
    """That of the request, or of the first text that has one."""
    rows = body.get("predictions", [body])
    number, error = next((number, row["error"]) for number, row in enumerate(rows, 1) if "error" in row)
    which = f"text {number}: " if len(rows) > 1 else ""
    return Rejection(error["code"], error["field"], f"{which}{error['message']}", error["remedy"])


def sentence(rejection: Rejection) -> str:
    """The error as one string, without the app's own forms of requests."""
    remedy = "Send a text" if rejection.remedy == HOW_TO_ASK else rejection.remedy
    return f"{rejection.message}. {remedy}"
