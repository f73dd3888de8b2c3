"""Sockets that send too much, too slowly, or nothing cannot silence the app: an honest client is answered."""

import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import ClassVar

import pytest

from deploy.app import connections, request_bodies
from deploy.app.connections import Bounds, Seldom
from deploy.app.model import Model
from deploy.app.request_bodies import Memory
from handler.errors import Rejection
from handler.requests import Limits, Request
from handler.self_check import NONE
from tests.asking import PREDICT, ask, get, wait_until
from tests.deploy.app.test_application import App, running

BEGUN = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Stub:
    """Stands where a `Service` does, and finds every text good."""

    limits, stand_back = Limits(), None
    predictor = SimpleNamespace(self_check=NONE)
    tally = SimpleNamespace(add=lambda sums: None, emit=lambda: None)
    model: ClassVar = {"name": "hate", "version": "1.0", "variant": "stub"}
    moments, rows = (0.0, 0.0), ()  # no batch is timed
    cached = ()

    def answer(self, requests: list[Request]) -> list[list[dict]]:
        return [
            [row.answer() if isinstance(row, Rejection) else {"label": "good"} for row in request.rows]
            for request in requests
        ]

    def wrap(self, request: Request, answers: list[dict]) -> dict | list:
        return request.wrap(answers, {}, ["good"])


@pytest.fixture
def model() -> Model:
    return Model(SimpleNamespace(name="stub"))  # type: ignore[arg-type]


@pytest.fixture
def service() -> Stub:
    return Stub()


@pytest.fixture
def start(model: Model, service: Stub) -> Iterator[Callable[..., App]]:
    with ExitStack() as stack:

        def begin(**settings) -> App:
            app = stack.enter_context(running(model, lambda: service, **settings))
            wait_until(lambda: app.batcher.is_ready)
            return app

        yield begin


@contextmanager
def held(port: int, count: int, sent: bytes = b"", host: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """So many connections from `host` that have sent this and no more."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port), 60, source_address=(host, 0))
            found.append(stack.enter_context(client))
            client.sendall(sent)
        yield found


def received(client: socket.socket) -> bytes:
    """All that comes back until the server closes."""
    found = b""
    try:
        while piece := client.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def code(answer: bytes) -> int:
    """That of the error in the body, which is the status."""
    head, _, body = answer.partition(b"\r\n\r\n")
    found = json.loads(body)["error"]["code"]
    assert head.startswith(b"HTTP/1.1 %d " % found)
    return found


def half_sent(count: int) -> bytes:
    return BEGUN + b"Content-Length: 2000000\r\n\r\n" + b"a" * count


@pytest.mark.parametrize(
    "sent", [b"", BEGUN, PING, half_sent(10)], ids=["silent", "half-a-head", "idle", "half-a-body"]
)
def test_held_connections_keep_no_other_client_out(start, sent: bytes) -> None:
    app = start(bounds=Bounds(total=20, per_client=10))
    with held(app.port, 40, sent):
        for _ in range(5):
            assert get(app.port, "/ping")[0] == get(app.port, "/ready")[0] == 200
            assert ask(app.port, PREDICT)[0] == 200
        assert len(app.server.server_state.connections) <= 21


def test_an_answered_connection_outlives_those_that_never_asked(start) -> None:
    app = start(bounds=Bounds(total=4, per_client=4))
    with held(app.port, 1, PING) as (honest,):
        assert b"200 OK" in honest.recv(1000)
        with held(app.port, 20, BEGUN):
            honest.sendall(PING)
            assert b"200 OK" in honest.recv(1000)


def test_where_all_are_busy_only_health_is_answered(
    start, service: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(bounds=Bounds(total=2, per_client=2))
    release = []
    answer = service.answer

    def slow(requests):
        wait_until(lambda: bool(release))
        return answer(requests)

    monkeypatch.setattr(service, "answer", slow)
    whole = BEGUN + b'Content-Length: 3\r\n\r\n"a"'
    with held(app.port, 2, whole) as busy:
        wait_until(lambda: len(app.server.server_state.tasks) == 2)
        assert get(app.port, "/ping")[0] == get(app.port, "/ready")[0] == 200
        assert ask(app.port, PREDICT)[0] == 503
        release.append(True)
        assert [client.recv(12) for client in busy] == [b"HTTP/1.1 200"] * 2
    wait_until(lambda: ask(app.port, PREDICT)[0] == 200)


def test_one_address_leaves_room_for_others(start) -> None:
    app = start(bounds=Bounds(total=20, per_client=4))
    with held(app.port, 30, BEGUN), held(app.port, 4, PING, "127.0.0.2") as others:
        assert [client.recv(12) for client in others] == [b"HTTP/1.1 200"] * 4
        assert len(app.server.server_state.connections) <= 8


@pytest.mark.parametrize(
    "sent",
    [
        BEGUN + b"X: " + b"a" * 40_000,
        BEGUN + b"X: a\r\n" * 7_000,
        b"GET /" + b"a" * 40_000,
        b"\r\n" * 20_000,
    ],
    ids=["one-line", "many-lines", "path", "empty-lines"],
)
def test_a_head_is_bounded_in_bytes(start, sent: bytes) -> None:
    app = start()
    with held(app.port, 1, sent) as (client,):
        assert code(received(client)) == 431


def test_what_comes_with_the_chunks_of_a_body_is_bounded(start) -> None:
    app = start()
    begun = BEGUN + b"Transfer-Encoding: chunked\r\n\r\n"
    for sent in (b"0\r\nX: " + b"a" * 40_000, b"1;x=" + b"a" * 40_000, b"0\r\n" + b"X: a\r\n" * 7_000):
        with held(app.port, 1, begun) as (client,):
            time.sleep(0.05)
            client.sendall(sent)
            time.sleep(0.05)
            with_more = b"a" * 40_000
            try:
                client.sendall(with_more)
            except OSError:
                continue
            assert b"200 OK" not in received(client)
    assert ask(app.port, PREDICT)[0] == 200


def test_a_body_of_one_byte_chunks_is_read(start) -> None:
    app = start()
    body = b'{"text": "' + b"good day " * 500 + b'"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    sent = BEGUN + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks + b"0\r\n\r\n"
    with held(app.port, 1, sent) as (client,):
        assert received(client).startswith(b"HTTP/1.1 200")


def test_every_wait_for_a_client_ends(start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_S", "KEEP_ALIVE_S", "LINGER_S", "TAKE_S"):
        monkeypatch.setattr(connections, name, 0.3)
    monkeypatch.setattr(request_bodies, "PATIENCE_S", 0.3)
    app = start()
    for sent, expected in (
        (b"", b""),
        (BEGUN, b"HTTP/1.1 408"),
        (b"\r\n", b"HTTP/1.1 408"),
        (PING, b"HTTP/1.1 200"),
        (PING + b"GET /pi", b"HTTP/1.1 200"),
        (half_sent(10), b"HTTP/1.1 408"),
        (b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na", b"HTTP/1.1 404"),
    ):
        with held(app.port, 1, sent) as (client,):
            assert received(client)[:12] == expected, sent


def test_a_client_that_takes_no_answers_is_dropped(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TAKE_S", 0.3)
    app = start()
    ask_much = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.2)
        client.connect(("127.0.0.1", app.port))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                client.sendall(ask_much)
            except TimeoutError:
                continue
            except OSError:
                break
    wait_until(lambda: not app.server.server_state.connections)


def test_requests_that_are_not_awaited_are_bounded(start) -> None:
    app = start()
    with held(app.port, 1, PING * 1500) as (client,):
        assert received(client).count(b"HTTP/1.1 200") <= connections.MOST_PIPELINED + 1
    with held(app.port, 1, PING * 10 + PING.replace(b"Host", b"Connection: close\r\nHost")) as (client,):
        assert received(client).count(b"HTTP/1.1 200") == 11


def test_half_sent_bodies_make_room_for_whole_ones(start) -> None:
    most = 8 * 1024 * 1024
    app = start(memory=Memory(most))
    large = json.dumps({"text": "good day " * 10_000}).encode()
    with held(app.port, 12, half_sent(1_500_000)) as clients:
        for _ in range(3):
            assert ask(app.port, PREDICT, large)[0] == 200
            assert ask(app.port, PREDICT)[0] == 200
        assert code(received(clients[0])) == 503, "the oldest made room"


def test_room_for_bodies_comes_back(start) -> None:
    memory = Memory(4 * 1024 * 1024)
    app = start(memory=memory)
    for _ in range(3):
        with held(app.port, 3, half_sent(1_000_000)):
            assert ask(app.port, PREDICT, b'"' + b"a " * 50_000 + b'"')[0] in (200, 413)
    wait_until(lambda: memory._left == 4 * 1024 * 1024)


def test_what_is_not_http_is_refused_in_the_schema_of_errors_and_logged_once(
    start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start()
    for _ in range(20):
        with held(app.port, 1, b"xylophone\r\n\r\n") as (client,):
            assert code(received(client)) == 400
    said = capfd.readouterr().err
    assert said.count("Invalid HTTP request") <= 1
    assert "xylophone" not in said


def test_a_line_that_clients_cause_is_written_seldom_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(connections.time, "monotonic", lambda: now[0])
    seldom = Seldom()

    def said() -> str | None:
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Invalid", None, None)
        return record.getMessage() if seldom.filter(record) else None

    assert [said(), said(), said()] == ["Invalid", None, None]
    now[0] = connections.SAID_AGAIN_S + 1
    assert said() == "Invalid (2 more since)"


def test_an_upgrade_is_answered_as_a_plain_request(start) -> None:
    app = start()
    sent = PING.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost")
    with held(app.port, 1, sent) as (client,):
        assert client.recv(12) == b"HTTP/1.1 200"


def test_a_client_that_goes_with_several_requests_open_leaves_no_traceback(
    start: Callable[..., App], service: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    may_answer, asked = threading.Event(), threading.Event()
    answer = service.answer

    def slowly(requests: list[Request]) -> list[list[dict]]:
        asked.set()
        may_answer.wait(60)
        return answer(requests)

    service.answer = slowly  # type: ignore[method-assign]
    app = start()
    request = b'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"a"'
    with socket.create_connection(("127.0.0.1", app.port)) as client:
        client.sendall(3 * request)
        assert asked.wait(60)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.5)  # it is cut, and the app knows
    may_answer.set()
    assert ask(app.port, PREDICT)[0] == 200
    assert "Exception" not in capsys.readouterr().err
