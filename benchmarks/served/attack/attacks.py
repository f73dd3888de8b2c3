"""The attacks: what one hostile client with one address can send without a password or much bandwidth.

Each is bounded in connections and time, and closes what it opened.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat

ADDRESS = "127.0.0.2"  # the honest client's is 127.0.0.1, so that limits per address tell them apart
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
BODY_BYTES = 2_000_000  # just below the largest body that is accepted
PAUSE_S = 0.5  # before a connection that the server closed is opened again
PATIENCE_S = 30.0  # for an answer


@dataclass(frozen=True)
class Target:
    """A server on loopback: its port, and the paths that classify and explain."""

    port: int
    predict: str = "/predictions/hate"
    explain: str = "/explanations/hate"


Attack = Callable[[Target, float], Coroutine[None, None, Counter[str]]]
"""An attack on a target until a moment of `time.monotonic`; how often each outcome was seen."""


def run_attack(name: str, target: Target, seconds: float) -> Counter[str]:
    """Attack `target` for `seconds`; outcomes by HTTP status, or by what happened to the connection."""
    return asyncio.run(ATTACKS[name](target, time.monotonic() + seconds))


def request(path: str, body: bytes, content_type: str = JSON, *headers: str) -> bytes:
    """A whole POST request; the server is asked to close the connection behind its answer."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def half_sent(path: str, sent: int) -> bytes:
    """The beginning of a request whose body is announced with `BODY_BYTES` and has `sent`."""
    whole = request(path, b"a" * BODY_BYTES)
    return whole[: len(whole) - BODY_BYTES + sent]


async def flood(target: Target, until: float, clients: int, sent: bytes) -> Counter[str]:
    """`clients` that send the same request as soon as they have an answer."""

    async def ask() -> str:
        async with asyncio.timeout(PATIENCE_S):
            return await _exchange(target, repeat(sent, 1), read_all=True)

    return await _repeated(ask, until, clients, pause_s=0)


async def hold(
    target: Target, until: float, connections: int, opening: bytes, drip: bytes = b""
) -> Counter[str]:
    """`connections` that send `opening` and then nothing, or one byte of `drip` a second, for as long as the
    server lets them."""

    async def occupy() -> str:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                return await _exchange(target, repeat(opening, 1), drip=drip)
        except TimeoutError:
            return "held to the end"

    return await _repeated(occupy, until, connections, pause_s=PAUSE_S)


async def endless_headers(target: Target, until: float) -> Counter[str]:
    """Four connections whose headers do not end: 200 MB each, in lines of 1,000 bytes."""
    line = b"X-Header: " + b"a" * 988 + b"\r\n"
    start = f"POST {target.predict} HTTP/1.1\r\nHost: localhost\r\n".encode()

    def parts() -> Iterator[bytes]:
        yield start
        yield from repeat(line * 100, 2000)

    async def send() -> str:
        async with asyncio.timeout(PATIENCE_S):
            return await _exchange(target, parts())

    return await _repeated(send, until, 4, pause_s=PAUSE_S)


async def _exchange(
    target: Target, parts: Iterator[bytes], *, drip: bytes = b"", read_all: bool = False
) -> str:
    """Send `parts` over a new connection and wait: the status of the answer, or how it ended."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", target.port, local_addr=(ADDRESS, 0), limit=1 << 20
        )
        dripping = asyncio.create_task(_send(writer, parts, drip))
        try:
            head = await reader.read(1 << 12)
            while read_all and await reader.read(1 << 20):
                pass
        finally:
            dripping.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await dripping
        return head[9:12].decode("ascii", "replace") if head.startswith(b"HTTP/") else "closed by the server"
    except OSError as error:
        return "closed by the server" if isinstance(error, ConnectionError) else type(error).__name__
    finally:
        if writer is not None:
            writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, parts: Iterator[bytes], drip: bytes) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()
    while drip:
        writer.write(drip)
        await writer.drain()
        await asyncio.sleep(1)


async def _repeated(
    once: Callable[[], Awaitable[str]], until: float, clients: int, *, pause_s: float
) -> Counter[str]:
    """`clients` that do `once` over and over until the time is up."""
    outcomes: Counter[str] = Counter()

    async def client() -> None:
        while time.monotonic() < until:
            try:
                outcomes[await once()] += 1
            except TimeoutError:
                outcomes["no answer"] += 1
            await asyncio.sleep(pause_s)

    clients_at_work = [asyncio.create_task(client()) for _ in range(clients)]
    _, waiting = await asyncio.wait(clients_at_work, timeout=until - time.monotonic() + 1)
    if waiting:
        outcomes["no answer"] += len(waiting)
    for task in clients_at_work:
        task.cancel()
    await asyncio.gather(*clients_at_work, return_exceptions=True)
    return outcomes


def _texts(text: str, count: int) -> bytes:
    return json.dumps({"texts": [text] * count}).encode()


def _huge_id() -> bytes:
    """A lone surrogate makes a JSON writer escape all that stands with it: 2 MB in, 6 MB out."""
    identifier = b"\\ud800" + ("\U0001f600" * 495_000).encode()
    tensor = b'{"name":"text","shape":[1],"datatype":"BYTES","data":["a"]}'
    return b'{"id":"' + identifier + b'","inputs":[' + tensor + b"]}"


LONG_TEXT = "the quick brown fox jumps over a lazy dog and then " * 30

ATTACKS: dict[str, Attack] = {
    "forms of 699,000 fields": lambda target, until: flood(
        target, until, 4, request(target.predict, b"&".join([b"a="] * 699_000), FORM)
    ),
    "300 half-sent bodies": lambda target, until: hold(
        target, until, 300, half_sent(target.predict, BODY_BYTES - 10_000)
    ),
    "300 dripping bodies": lambda target, until: hold(
        target, until, 300, half_sent(target.predict, 10), drip=b"a"
    ),
    "1,030 half-sent headers": lambda target, until: hold(
        target, until, 1030, f"POST {target.predict} HTTP/1.1\r\nHost: localhost\r\n".encode()
    ),
    "1,030 silent connections": lambda target, until: hold(target, until, 1030, b""),
    "200 MB of headers": endless_headers,
    "request ids of 2 MB": lambda target, until: flood(
        target, until, 12, request(target.predict, _huge_id())
    ),
    "texts of 100,000 characters": lambda target, until: flood(
        target, until, 8, request(target.predict, _texts("!?" * 50_000, 20))
    ),
    "explanations of long texts": lambda target, until: flood(
        target, until, 4, request(target.explain, _texts(LONG_TEXT, 2))
    ),
}
