"""Bodies of HTTP requests, as `handler.requests.read` takes them: bounded in size and time, forms as fields.

It reads bodies in the same way as TorchServe's own HTTP server: the last of several fields with the same name
counts, values stay bytes, and only a form's files have a type of their own. Bodies that make TorchServe fail
are malformed here.
"""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from handler.errors import Rejection

# Nothing is logged or touches a disk.

MOST_BYTES = 2 * 1024 * 1024  # max_request_size of config.properties
MOST_FIELDS = 1000  # each costs microseconds, and a body has room for a million
PATIENCE_S = 60
MOST_HELD = 64 * 1024 * 1024  # of all bodies that arrive, wait, or are being answered
AT_ONCE = 4  # large bodies of which a piece is read in one round of the event loop
FREE_BYTES = 16 * 1024  # of each body, which always have room: connections are bounded too

TOO_LARGE = Rejection(413, "body", f"the body is larger than {MOST_BYTES:,} bytes", "Send smaller requests")
TOO_SLOW = Rejection(408, "body", f"the body did not arrive within {PATIENCE_S} s", "Send it again")
NO_ROOM = Rejection(503, "body", "the memory for bodies is full", "Try again in a moment")
REMEDY = """Send --data-urlencode "text=...", or --json '{"text": "..."}'"""
MALFORMED = Rejection(422, "body", "the form is malformed", REMEDY)

# A percent sign that no two hexadecimal digits follow, or a field without a name.
BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})|(?:^|&)=")

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its warnings quote what they stumble over


class Memory:
    """Room for bodies. Where none is left, the body that has been arriving for longest makes room."""

    def __init__(self, most: int = MOST_HELD) -> None:
        self._left = most
        # Large bodies are read by turns, a few in each round of the event loop, which others share.
        self.turns = asyncio.Semaphore(AT_ONCE)
        self._arriving: dict[Held, None] = {}

    @contextmanager
    def hold(self) -> "Iterator[Held]":
        """A body's share, given back at the end."""
        held = Held(self)
        self._arriving[held] = None
        try:
            yield held
        finally:
            self.give_back(held)

    def take(self, held: "Held", count: int) -> bool:
        """Whether there is room for so many bytes more."""
        while self._left < count:
            oldest = next((body for body in self._arriving if body is not held and body.count), None)
            if oldest is None:
                return False
            self.give_back(oldest)
            oldest.give_up()
        self._left -= count
        held.count += count
        return True

    def is_whole(self, held: "Held") -> None:
        """It keeps its room until it is answered."""
        self._arriving.pop(held, None)

    def give_back(self, held: "Held") -> None:
        self._arriving.pop(held, None)
        self._left += held.count
        held.count = 0


@dataclass(eq=False)
class Held:
    """What one body holds of a `Memory`: `count` bytes, those of `FREE_BYTES` not among them."""

    memory: Memory
    count: int = 0
    timeout: asyncio.Timeout | None = None
    is_given_up: bool = False

    def give_up(self) -> None:
        """Stop reading this body."""
        self.is_given_up = True
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(asyncio.get_running_loop().time())


async def read_body(request: Request, held: Held) -> bytes | Rejection:
    """The body, of which no more than `MOST_BYTES` are ever held.

    Raises `starlette.requests.ClientDisconnect` where the client goes away first.
    """
    if int(request.headers.get("content-length", 0)) > MOST_BYTES:
        return TOO_LARGE
    chunks, size = [], 0  # joined at the end: a bytearray that grows and goes costs much more
    try:
        async with asyncio.timeout(PATIENCE_S) as held.timeout:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MOST_BYTES:
                    return TOO_LARGE
                charged = max(0, size - FREE_BYTES) - held.count
                if held.is_given_up or not held.memory.take(held, charged):
                    held.is_given_up = True
                    return NO_ROOM
                chunks.append(chunk)
                if charged:
                    async with held.memory.turns:
                        await asyncio.sleep(0)
    except TimeoutError:
        return NO_ROOM if held.is_given_up else TOO_SLOW
    finally:
        held.timeout = None
    held.memory.is_whole(held)
    return b"".join(chunks)


def is_form(content_type: str) -> bool:
    """Whether the body is fields, not a text or JSON."""
    return _kind(content_type) in FORMS


def read_form(body: bytes, content_type: str) -> tuple[dict[str, object], str] | Rejection:
    """Its fields, and the type of what stands under `body` or `data`. The worst 2 MiB take half a second."""
    return FORMS[_kind(content_type)](body, content_type)


def _urlencoded(body: bytes, content_type: str) -> tuple[dict[str, object], str] | Rejection:
    if BROKEN.search(body) or body.count(b"&") >= MOST_FIELDS:
        return MALFORMED
    # Not parse_qsl, which takes seconds of the event loop for 2 MiB of percent signs.
    pairs = (field.partition(b"=") for field in body.replace(b"+", b" ").split(b"&") if field)
    fields: dict[str, object] = {}
    for name, _, value in pairs:
        fields[_name(unquote_to_bytes(name))] = unquote_to_bytes(value)
    return fields, content_type


def _multipart(body: bytes, content_type: str) -> tuple[dict[str, object], str] | Rejection:
    parameters: dict[str, object] = {}
    types: dict[str, str] = {}
    left = iter(range(MOST_FIELDS))

    def take(name: bytes | None, value: bytes, type_: str = "") -> None:
        if not name or next(left, None) is None:
            raise FormParserError("a part without a name, or too many of them")
        parameters[_name(name)], types[_name(name)] = value, type_

    def take_field(field: Field) -> None:
        take(field.field_name, field.value or b"")

    def take_file(file: File) -> None:
        file.file_object.seek(0)
        take(file.field_name, file.file_object.read(), file.content_type or "")

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    try:
        in_memory = {"MAX_MEMORY_FILE_SIZE": MOST_BYTES}
        parser = FormParser("multipart/form-data", take_field, take_file, boundary=boundary, config=in_memory)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        return MALFORMED
    held = "body" if "body" in parameters else "data"
    return parameters, types.get(held) or content_type


FORMS = {"application/x-www-form-urlencoded": _urlencoded, "multipart/form-data": _multipart}


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _name(name: bytes) -> str:
    return name.decode("utf-8", "replace")
