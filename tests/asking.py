"""How tests ask servers on loopback, wait for what those do, and hold answers to the public schema."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema

import handler

ANSWER_SCHEMA = json.loads(Path(handler.__file__).with_name("answer.schema.json").read_text())
PREDICT = "/predictions/hate"
GOOD = b'{"text": "good day"}'
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def ask(
    port: int,
    path: str = PREDICT,
    body: Any = GOOD,
    content_type: str = JSON,
    method: str = "POST",
    **headers: str,
) -> tuple[int, bytes]:
    """Status and body of the answer. The request declares no type where that is ""."""
    declared = {"Content-Type": content_type} if content_type else {}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request(method, path, body, declared | headers)
        response = connection.getresponse()
        return response.status, response.read()


def get(port: int, path: str) -> tuple[int, bytes]:
    return ask(port, path, None, "", "GET")


def ask_json(port: int, path: str, body: Any) -> tuple[int, Any]:
    """The same, with JSON both ways."""
    status, content = ask(port, path, json.dumps(body))
    return status, json.loads(content)


def held_to_schema(answer: Any) -> Any:
    """The answer for a text, or the error in its place, as it came or read already."""
    answer = json.loads(answer) if isinstance(answer, bytes) else answer
    jsonschema.validate(answer, ANSWER_SCHEMA)
    return answer


def counter(port: int, name: str) -> float:
    """The sum of a counter that is to be read at /metrics."""
    lines = get(port, "/metrics")[1].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))


def wait_until(holds: Callable[[], Any], what: object = "", patience_s: float = 100) -> None:
    """By default 100 s, enough where a machine is busy; else `what`, or what it gives, is said."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.02)


class Quiet:
    """For handlers of requests: nothing is logged, and an answer is one line."""

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Loopback(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


@contextmanager
def listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[Loopback]:
    """A server on a free port of loopback, until the block ends."""
    with Loopback(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server that gives the files of a folder."""
    quiet = type("QuietFiles", (Quiet, SimpleHTTPRequestHandler), {})
    with listening(partial(quiet, directory=folder)) as server:
        yield f"http://127.0.0.1:{server.server_port}"
