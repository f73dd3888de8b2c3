"""Bodies of HTTP requests, as `handler.requests.read` takes them: bounded in size and time, forms as fields.

What TorchServe's own HTTP server does before its handler is asked, and with its meaning: the last of several
fields of one name counts, values stay bytes, and of a form's parts only files have a type of their own. What
it breaks on is malformed here. Leaves out what the content means. Nothing is logged or touches a disk.
"""

import asyncio
import logging
import re
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from handler.errors import Rejection

MOST_BYTES = 2 * 1024 * 1024  # max_request_size of config.properties
MOST_FIELDS = 1000  # each costs microseconds, and a body has room for a million
PATIENCE_S = 60

TOO_LARGE = Rejection(413, "body", f"the body is larger than {MOST_BYTES:,} bytes", "Send smaller requests")
TOO_SLOW = Rejection(408, "body", f"the body did not arrive within {PATIENCE_S} s", "Send it again")
REMEDY = """Send --data-urlencode "text=...", or --json '{"text": "..."}'"""
MALFORMED = Rejection(422, "body", "the form is malformed", REMEDY)

# A percent sign that no two hexadecimal digits follow, or a field without a name.
BROKEN = re.compile(rb"%(?![0-9A-Fa-f]{2})|(?:^|&)=")

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its warnings quote what they stumble over


async def read_body(request: Request) -> bytes | Rejection:
    """The body, of which no more than `MOST_BYTES` are ever held.

    Raises `starlette.requests.ClientDisconnect` where the client goes away first.
    """
    if int(request.headers.get("content-length", 0)) > MOST_BYTES:
        return TOO_LARGE
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    return TOO_LARGE
    except TimeoutError:
        return TOO_SLOW
    return bytes(body)


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
