"""When a request came, waited, was computed and answered; whoever watches is told at its end.

The request's task has its `Timing`: what answers it on the way notes moments there.
"""

import re
import time
from collections.abc import Awaitable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.answers import Model

# By `time.perf_counter`. A phase ends where the next one begins.
PHASES = ("receive", "queue", "tokenise", "model", "reply")
ARRIVED = "arrived"  # in the state of a request's scope
TEMPLATE = "template"  # in the scope: a path as it is declared, where FastAPI did not find its route
# W3C's Trace Context; a version to come may add fields.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)


@dataclass(slots=True)
class Batch:
    """Of requests that are computed together; `spans` are those of its requests, and `context` is that of its
    own, if there are traces."""

    started: float
    tokenised: float
    classified: float
    requests: int
    spans: list[Any]
    context: Any = None


@dataclass(slots=True)
class Timing:
    """One request. Moments are 0 until they come; one that is answered without the model has no batch."""

    arrived: float  # its head is complete
    trace: str = ""  # 32 hexadecimal digits
    queued: float = 0.0  # it is read
    batch: Batch | None = None
    ended: float = 0.0  # the reply was given to the connection
    status: int = 0  # of HTTP
    name: str = ""  # of the model that is asked; none, where none is
    model: Model | None = None
    explain: bool = False
    texts: int = 0
    span: Any = None  # of OpenTelemetry
    hand_on: str = ""  # the trace as the client is to have it

    def ask(self, model: Model, explain: bool) -> None:
        """It joins a queue."""
        self.queued, self.name, self.model, self.explain = time.perf_counter(), model["name"], model, explain

    @property
    def seconds(self) -> float:
        return self.ended - self.arrived

    def moments(self) -> tuple[float, ...]:
        """The start of each of `PHASES`, and the end of the last; none of an explanation, whose passes of the
        model go in between."""
        batch = self.batch
        if batch is None or self.explain:
            return ()
        return self.arrived, self.queued, batch.started, batch.tokenised, batch.classified, self.ended

    def phases(self) -> list[tuple[str, float]]:
        """Those of `PHASES` with their seconds, which add up to `seconds`; none without moments."""
        moments = self.moments()
        lasted = (end - start for start, end in pairwise(moments))
        return list(zip(PHASES, lasted, strict=True)) if moments else []


class Watcher(Protocol):
    """Is told of each request twice; headers are those of the request, with names in lower case."""

    def begin(self, timing: Timing, headers: Iterable[tuple[bytes, bytes]]) -> None: ...

    def end(self, timing: Timing, method: str, path: str | None) -> None: ...


CURRENT: ContextVar[Timing | None] = ContextVar("timing", default=None)


class Watched:
    """An ASGI app that times requests to `app`."""

    def __init__(self, app: ASGIApp, watchers: Sequence[Watcher]) -> None:
        self._app = app
        self._watchers = watchers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        timing = begin(self._watchers, scope["headers"], scope.get("state", {}).get(ARRIVED))

        def noted(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                timing.status = message["status"]
                if timing.hand_on:
                    message["headers"] = [*message["headers"], (b"traceresponse", timing.hand_on.encode())]
            return send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:  # it is answered further out
            timing.status = 500
            raise
        finally:
            path = scope.get(TEMPLATE) or getattr(scope.get("route"), "path", None)
            end(self._watchers, timing, scope["method"], path)


def begin(
    watchers: Iterable[Watcher], headers: Iterable[tuple[bytes, bytes]], arrived: float | None = None
) -> Timing:
    """That of the task from now on."""
    timing = Timing(arrived or time.perf_counter())
    for name, value in headers:
        if name == b"traceparent" and (found := _TRACEPARENT.fullmatch(value)):
            timing.trace = found[1].decode()
    for watcher in watchers:
        watcher.begin(timing, headers)
    CURRENT.set(timing)
    return timing


def end(watchers: Iterable[Watcher], timing: Timing, method: str, path: str | None) -> None:
    """`path` is as it is declared: what clients put in it is not looked at."""
    timing.ended = time.perf_counter()
    for watcher in watchers:
        watcher.end(timing, method, path)
