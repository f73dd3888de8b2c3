"""HTTP connections of the app, bounded before it sees a request: their number, their heads, and every wait.

uvicorn has no settings for these with httptools as the parser; h11 has one for heads, but answers 0.7 times
as many requests per second of CPU. The connection that has been idle longest is closed to make room for a new
one, so idle connections keep no client out.
"""

import asyncio
import logging
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr

from deploy.app.timing import ARRIVED
from handler.errors import Rejection
from handler.replies import refuse

MOST_HEAD_BYTES = 32 * 1024  # request line and headers, as nginx takes them
MOST_PIPELINED = 16  # requests sent before the first is answered
HEAD_S = 10  # from the first byte, or the connection, to the end of the head
KEEP_ALIVE_S = 75  # longer than a load balancer keeps a connection that it may use again
LINGER_S = 5  # for the rest of a body that was answered early, so that the client can read why
LINGER_BYTES = 4 * 1024 * 1024
TAKE_S = 30  # for a client to take an answer
SWEEP_S = 0.25
RESERVED = 32  # connections above the limit, for those paths alone that tell whether the server lives
ALWAYS = (b"/ping", b"/ready", b"/metrics", b"/v2/health/live", b"/v2/health/ready")
FILES = 256  # what the process opens besides connections
SAID_AGAIN_S = 60

# What a client is to send next.
FIRST_HEAD, BODY, NEXT_HEAD = "first head", "body", "next head"

BAD_HTTP = Rejection(400, "request", "this is not valid HTTP", "Send HTTP/1.1")
SLOW_HEAD = Rejection(408, "headers", f"the headers did not arrive within {HEAD_S} s", "Send it again")
LARGE_HEAD = Rejection(
    431, "headers", f"the headers are larger than {MOST_HEAD_BYTES:,} bytes", "Send fewer or shorter ones"
)
NO_ROOM = Rejection(503, "connections", "too many connections are busy", "Try again in a moment")
# An ASGI app, as every response of starlette is.
_no_room = Response(
    refuse(NO_ROOM).body,
    NO_ROOM.code,
    {"Retry-After": "1", "Connection": "close"},
    media_type="application/json",
)


@dataclass(frozen=True)
class Bounds:
    """Connections at once, in all and from one address; behind a proxy all come from the proxy's."""

    total: int = 1024
    per_client: int = 256

    def within_files(self) -> "Bounds":
        """As many as the process may open files for; its own limit is raised as far as it may be."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.total + RESERVED + FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return Bounds(max(1, min(self.total, soft - RESERVED - FILES)), self.per_client)
        return self


class Admission:
    """All connections of one server; `count` takes the status and the field of each refusal."""

    def __init__(self, bounds: Bounds, count: Callable[[str, str], None]) -> None:
        self.bounds = bounds
        self.count = count
        self._open: set[Connection] = set()
        self._by_client: Counter[str] = Counter()
        # What a connection waits for, by client, the longest wait first. Those in front make room first.
        self._waits: dict[str, defaultdict[str, dict[Connection, None]]] = {
            wait: defaultdict(dict) for wait in (FIRST_HEAD, BODY, NEXT_HEAD)
        }

    @property
    def is_beyond_reserve(self) -> bool:
        return len(self._open) > self.bounds.total + RESERVED

    def enter(self, connection: "Connection") -> bool:
        """Let it in; False where it may only ask for `ALWAYS`, since all others are busy."""
        host = connection.host
        if self._by_client[host] >= self.bounds.per_client:
            self._close_one([host])
        elif len(self._open) >= self.bounds.total:
            self._close_one([host for host, _ in self._by_client.most_common()])
        has_room = self._by_client[host] < self.bounds.per_client and len(self._open) < self.bounds.total
        self._open.add(connection)
        self._by_client[host] += 1
        self.waits(connection, FIRST_HEAD)
        return has_room

    def leave(self, connection: "Connection") -> None:
        if connection not in self._open:
            return
        self.waits(connection, None)
        self._open.remove(connection)
        self._by_client[connection.host] -= 1
        if not self._by_client[connection.host]:  # clients may have any number of addresses
            del self._by_client[connection.host]
            for waiting in self._waits.values():
                waiting.pop(connection.host, None)

    def waits(self, connection: "Connection", wait: str | None) -> None:
        """The client's turn: it is to send this. None: it waits for an answer, and keeps its place."""
        if connection not in self._open:
            return
        if connection.wait is not None:
            self._waits[connection.wait][connection.host].pop(connection, None)
        if wait is not None:
            self._waits[wait][connection.host][connection] = None
        connection.wait = wait

    async def sweep_for_ever(self) -> None:
        """Close what has waited beyond its time."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for connection in list(self._open):
                connection.expire(asyncio.get_running_loop().time())

    def _close_one(self, hosts: Sequence[str]) -> None:
        for waiting in self._waits.values():
            for host in hosts:
                for connection in waiting.get(host, ()):
                    self.leave(connection)
                    connection.give_up()
                    return


class Connection(HttpToolsProtocol):
    """One connection: heads within bytes and time, and an end to every wait for the client."""

    def __init__(self, admission: Admission, **given: Any) -> None:
        super().__init__(**given)
        self.admission = admission
        self.host = ""
        self.wait: str | None = None  # kept by `Admission.waits`
        self._is_admitted = True
        self._cycles: WeakSet[RequestResponseCycle] = WeakSet()
        self._in_body = False
        self._head_bytes = 0  # of a head, or of what a chunked body holds besides its chunks
        self._lingered_bytes = 0
        self._deadline: float | None = None  # for the client to send what comes next
        self._take_by: float | None = None  # for the client to take what was answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # TCP's
        super().connection_made(transport)
        self.enter(transport)

    def enter(self, transport: asyncio.Transport) -> None:
        """Count it from now on."""
        client = get_remote_addr(transport)
        self.host = client[0] if client else ""
        self._is_admitted = self.admission.enter(self)
        self._wait(HEAD_S)
        if self.admission.is_beyond_reserve:
            self.admission.count("503", "connections")
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the last of several requests alone; others would write to a transport that is closed.
        for cycle in self._cycles:
            cycle.disconnected = True
        self.admission.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_body and not self._head_bytes:
            self._wait(HEAD_S)
        while data and not self.transport.is_closing():
            size = len(data) if self._in_body else MOST_HEAD_BYTES
            part, data = data[:size], data[size:]
            self._head_bytes += len(part)
            super().data_received(part)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(LARGE_HEAD)
            if len(self.pipeline) > MOST_PIPELINED:
                self.transport.abort()

    def on_headers_complete(self) -> None:
        self.scope["state"][ARRIVED] = time.perf_counter()
        self._in_body = True
        self._head_bytes = 0
        self._lingered_bytes = 0
        self._deadline = None  # a body's time is `bodies.PATIENCE_S`
        self.admission.waits(self, BODY)
        if not self._is_admitted and self.url.partition(b"?")[0] not in ALWAYS:
            self.admission.count("503", "connections")
            self.app = _no_room
        super().on_headers_complete()
        self._cycles.add(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._lingered_bytes += len(body)
            if self._lingered_bytes > LINGER_BYTES:
                self.give_up()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._head_bytes = 0
        self.admission.waits(self, None)
        super().on_message_complete()
        if self.cycle.response_complete:
            self._idle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.cycle.response_complete:  # another request came meanwhile
            return
        if self._in_body:
            self._wait(LINGER_S)
        else:
            self._idle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._take_by = self.loop.time() + TAKE_S

    def resume_writing(self) -> None:
        super().resume_writing()
        self._take_by = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(BAD_HTTP)

    def expire(self, now: float) -> None:
        """Close it where its time is over; abort it where the client does not take the end of an answer."""
        if self._take_by is not None and now > self._take_by:
            self.transport.abort()
        elif self.transport.is_closing():
            self._take_by = self._take_by or now + TAKE_S
        elif self._deadline is not None and now > self._deadline and self._is_answered:
            if self._head_bytes and not self._in_body:
                self._refuse(SLOW_HEAD)
            else:
                self.give_up()

    def give_up(self) -> None:
        """Close it; nothing is waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds

    def _idle(self) -> None:
        self.admission.waits(self, NEXT_HEAD)
        self._wait(KEEP_ALIVE_S)

    def _refuse(self, rejection: Rejection) -> None:
        """Say so, unless an answer is on its way, and close."""
        self.admission.count(str(rejection.code), rejection.field)
        if self._is_answered:
            body = refuse(rejection).body
            head = f"HTTP/1.1 {rejection.code} {HTTPStatus(rejection.code).phrase}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()


class Seldom(logging.Filter):
    """A line that clients can cause at will is written once a minute, with how often it came meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._kept_back: Counter[str] = Counter()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        line = str(record.msg)
        now = time.monotonic()
        if record.exc_info:
            return True
        if now - self._said.get(line, -SAID_AGAIN_S) < SAID_AGAIN_S:
            self._kept_back[line] += 1
            return False
        self._said[line] = now
        if more := self._kept_back.pop(line, 0):
            record.msg = f"{line} ({more:,} more since)"
        return True
