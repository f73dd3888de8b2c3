"""What `deploy/nginx.conf` keeps from TorchServe: each limit with its status, and who is answered meanwhile.

Behind it stands a server that records what reaches it and answers when the test lets it. Clients have
addresses of their own, all of loopback.
"""

import os
import re
import select
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests

from common.torchserve import is_taken
from deploy.torchserve.server import free_ports
from tests.asking import FORM, JSON, PREDICT, Quiet, listening, wait_until
from tests.conftest import ROOT
from tests.deploy.nginx import needs_nginx, nginx

pytestmark = [needs_nginx, pytest.mark.server]

FIELDS = b"&".join([b"a="] * 699_000)
SHORT = {f"client_{part}_timeout 10s": f"client_{part}_timeout 1s" for part in ("header", "body")}


@dataclass
class Upstream:
    """What reached it, and whether it answers."""

    port: int = 0
    answers: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.seen) >= count, lambda: f"{len(self.seen)} of {count} arrived")


@pytest.fixture(scope="module")
def recorder() -> Iterator[Upstream]:
    state = Upstream()

    class Recording(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.seen.append((self.path, dict(self.headers), body))
            state.answers.wait(60)
            self.answer(b"ok")

        def do_GET(self) -> None:
            self.answer(b"ok")

    with listening(Recording) as server:
        state.port = server.server_port
        yield state
        state.answers.set()


@pytest.fixture(scope="module")
def behind(recorder: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """nginx's port and its folder."""
    folder = tmp_path_factory.mktemp("nginx")
    with nginx([recorder.port] * 3, folder) as address:
        yield int(address.rpartition(":")[2]), folder


@pytest.fixture
def upstream(recorder: Upstream) -> Iterator[Upstream]:
    recorder.seen.clear()
    recorder.answers.set()
    yield recorder
    recorder.answers.set()


@pytest.fixture
def front(behind: tuple[int, Path], upstream: Upstream) -> int:
    return behind[0]


@pytest.fixture(scope="module")
def hasty(recorder: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """With a second for headers and between parts of a body, where the file gives ten."""
    with nginx([recorder.port] * 3, tmp_path_factory.mktemp("hasty"), SHORT) as address:
        yield int(address.rpartition(":")[2])


def connect(port: int, client: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(client, 0))


def request(
    body: bytes = b'"a"', content_type: str = JSON, path: str = PREDICT, headers: Sequence[str] = ()
) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Type: {content_type}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def chunked(body: bytes, content_type: str = JSON) -> bytes:
    lines = [f"POST {PREDICT} HTTP/1.1", "Host: a", f"Content-Type: {content_type}"]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def status(connection: socket.socket) -> int | None:
    """Of the next answer; None where the connection was closed without one."""
    try:
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(65536)
            if not part:
                return None
            head += part
    except ConnectionError:
        return None
    return int(head.split()[1])


def ask(port: int, what: bytes, client: str = "127.0.0.1") -> int | None:
    with connect(port, client) as connection:
        with suppress(ConnectionError):  # refused before all of it was sent
            connection.sendall(what)
        return status(connection)


def ask_at_once(stack: ExitStack, port: int, what: bytes, clients: Sequence[str]) -> list[socket.socket]:
    """One connection for each entry of `clients`, all sent before any is read."""
    opened = [stack.enter_context(connect(port, client)) for client in clients]
    for connection in opened:
        connection.sendall(what)
    return opened


def test_more_clients_than_three_full_queues_are_all_answered(upstream: Upstream, front: int) -> None:
    """864 requests are what three servers hold. In nginx's own default 239 were the end."""
    clients = [f"127.0.1.{1 + number % 40}" for number in range(900)]
    upstream.answers.clear()
    with ExitStack() as stack:
        opened = ask_at_once(stack, front, request(), clients)
        upstream.wait_for(len(clients))
        upstream.answers.set()
        assert Counter(map(status, opened)) == {200: len(clients)}


def test_beyond_all_that_servers_hold_clients_are_refused_in_words(upstream: Upstream, front: int) -> None:
    clients = [f"127.0.1.{1 + number % 40}" for number in range(1100)]
    upstream.answers.clear()
    with ExitStack() as stack:
        opened = ask_at_once(stack, front, request(), clients)
        upstream.wait_for(1024)
        time.sleep(0.5)
        assert len(upstream.seen) == 1024
        upstream.answers.set()
        assert Counter(map(status, opened)) == {200: 1024, 429: 76}


@pytest.mark.parametrize(
    ("what", "allowed"),
    [
        (request(), 32),
        (request(b"a" * 1_999), 32),
        (request(b"a" * 2_000), 4),
        (request(b"a" * 100_000), 4),
        (request(b"a=b", FORM), 32),
        (request(b"a=" * 500, FORM), 4),
        (chunked(b'"a"'), 4),
    ],
    ids=[
        "requests",
        "2-kB-less-one",
        "2-kB",
        "100-kB",
        "form",
        "form-of-1-kB",
        "chunked",
    ],
)
def test_one_address_has_so_many_requests_at_a_time_and_others_are_answered(
    upstream: Upstream, front: int, what: bytes, allowed: int
) -> None:
    upstream.answers.clear()
    with ExitStack() as stack:
        opened = ask_at_once(stack, front, what, ["127.0.0.9"] * (allowed + 5))
        upstream.wait_for(allowed)
        time.sleep(0.3)
        assert len(upstream.seen) == allowed
        others = ask_at_once(stack, front, what, ["127.0.0.8"])
        upstream.wait_for(allowed + 1)
        upstream.answers.set()
        assert status(others[0]) == 200
        assert Counter(map(status, opened)) == {200: allowed, 429: 5}


@pytest.mark.parametrize(
    "what",
    [
        request(path="/explanations/hate"),
        request(path="/explanations/hate/1.0"),
        request(path="/explanations%2Fhate"),
        request(path="//explanations/hate"),
        request(path="/v1/models/hate:explain"),
        request(b"text=a", FORM, "/explanations/hate"),
    ],
    ids=["explanations", "of-a-version", "escaped", "slashes", "kserve", "form-to-explain"],
)
def test_one_address_has_one_explanation_at_a_time_and_others_are_answered(
    upstream: Upstream, front: int, what: bytes
) -> None:
    upstream.answers.clear()
    with ExitStack() as stack:
        waiting = ask_at_once(stack, front, what, [f"127.0.2.{len(what) % 250}"] * 4)
        refused = []
        while len(refused) < 3:  # one by one, as the rate lets them
            ready, _, _ = select.select(waiting, [], [], 30)
            assert ready
            refused += [status(connection) for connection in ready]
            waiting = [connection for connection in waiting if connection not in ready]
        assert refused == [429] * 3
        assert len(upstream.seen) == 1
        waiting += ask_at_once(stack, front, what, ["127.0.0.8"])
        waiting += ask_at_once(stack, front, request(), ["127.0.0.9"])
        upstream.wait_for(3)
        upstream.answers.set()
        assert [status(connection) for connection in waiting] == [200] * 3


def test_explanations_that_come_fast_wait_and_too_many_are_refused(upstream: Upstream, front: int) -> None:
    with ExitStack() as stack:
        opened = ask_at_once(stack, front, request(path="/explanations/hate"), ["127.0.0.7"] * 20)
        found = Counter(map(status, opened))
    assert found.keys() == {200, 429}
    assert found[200] >= 9, "one at once, eight that wait"


def test_so_many_bodies_of_100_kb_are_held_for_all_together(upstream: Upstream, front: int) -> None:
    """Each may take 2 MiB here."""
    clients = [f"127.0.1.{1 + number % 35}" for number in range(70)]
    upstream.answers.clear()
    with ExitStack() as stack:
        opened = ask_at_once(stack, front, request(b"a" * 100_000), clients)
        upstream.wait_for(64)
        upstream.answers.set()
        assert Counter(map(status, opened)) == {200: 64, 429: 6}


def test_half_sent_bodies_never_reach_the_server_and_end(upstream: Upstream, hasty: int) -> None:
    part = request(b"a" * 2_000_000)[:-10_000]
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(hasty, "127.0.0.9")) for _ in range(300)]
        for connection in opened:
            with suppress(ConnectionError):
                connection.sendall(part)
        assert ask(hasty, request(), "127.0.0.8") == 200
        assert ask(hasty, request(b'"' + b"a" * 20_000 + b'"'), "127.0.0.8") == 200
        ended = Counter(map(status, opened))
        assert ended[200] == 0
        assert ended.keys() <= {429, 408, None}
        assert sum(ended.values()) == 300, "each was answered or closed"
    assert len(upstream.seen) == 2


def test_half_sent_headers_keep_no_client_out_and_end(upstream: Upstream, hasty: int) -> None:
    """1,030 of them closed the app to everybody."""
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(hasty, "127.0.0.9")) for _ in range(1100)]
        for connection in opened:
            connection.sendall(b"POST /predictions/hate HTTP/1.1\r\nHost: a\r\n")
        assert ask(hasty, request(), "127.0.0.9") == 200
        assert Counter(map(status, opened)).keys() <= {None, 408}
        assert ask(hasty, request(), "127.0.0.9") == 200


def test_a_header_that_comes_in_drops_ends(hasty: int) -> None:
    """The time is for all of them, not between two bytes."""
    with connect(hasty) as connection:
        connection.sendall(b"POST /predictions/hate HTTP/1.1\r\n")
        connection.settimeout(0.3)

        def is_closed() -> bool:
            try:
                connection.sendall(b"A: b\r\n")
                return not connection.recv(100)
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_until(is_closed)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 9_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: aaaaaaaaaaaaaaaa\r\n" * 1_000 + b"\r\n",
    ],
    ids=["line", "one-header", "many-headers"],
)
def test_headers_have_a_size(front: int, head: bytes) -> None:
    assert ask(front, head) in (400, 414)


@pytest.mark.parametrize(
    "what",
    [
        request(FIELDS, FORM),
        request(b"a=" * 8_500, FORM),
        request(FIELDS, FORM + "; charset=utf-8"),
        request(FIELDS, FORM.upper()),
        request(FIELDS, "\t" + FORM),
        request(FIELDS, FORM, headers=[f"Content-Type: {JSON}"]),
        request(b"a" * 20_000, "multipart/form-data; boundary=a"),
        request(b"a" * 20_000, "Multipart/Mixed; boundary=a"),
        request(b"a" * 2_200_000, JSON),
        request(FIELDS, FORM, path=PREDICT + "?a=b"),
        request(FIELDS, FORM, path="//predictions/../predictions/hate"),
    ],
    ids=[
        "fields",
        "17-kB",
        "charset",
        "upper",
        "tab",
        "two-types",
        "multipart",
        "mixed",
        "json-2.2-MB",
        "query",
        "dots",
    ],
)
def test_what_is_too_large_for_its_kind_is_refused_and_does_not_reach_the_server(
    upstream: Upstream, front: int, what: bytes
) -> None:
    assert ask(front, what) == 413
    assert not upstream.seen


@pytest.mark.parametrize(
    "what", [chunked(FIELDS, FORM), chunked(b"a" * 2_200_000)], ids=["form", "json-2.2-MB"]
)
def test_nor_does_it_without_a_length(upstream: Upstream, front: int, what: bytes) -> None:
    assert ask(front, what) == 413
    assert not upstream.seen


@pytest.mark.parametrize(
    "path", [PREDICT, PREDICT + "?a=%2F%20b", "/predictions/ha%74e", "/v1/models/hate:predict"]
)
@pytest.mark.parametrize("content_type", [FORM, JSON])
def test_what_is_small_enough_arrives_as_it_was_sent(
    upstream: Upstream, front: int, path: str, content_type: str
) -> None:
    body = b"text=good+day&more=%C3%A4"
    assert ask(front, request(body, content_type, path)) == 200
    ((seen_path, headers, seen_body),) = upstream.seen
    assert (seen_path, headers["Content-Type"], seen_body) == (path, content_type, body)


SMUGGLED = b"POST /smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nbad"
HEAD = b"POST /predictions/hate HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    "what",
    [
        HEAD + b"\x0bTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Content-Length: 1\r\nContent-Length: 99\r\n\r\na" + SMUGGLED,
        b"\x01\x02" + HEAD + b"Content-Length: 1\r\n\r\na",
        HEAD + b"A: b\rTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\na",
    ],
    ids=["control", "both", "two-codings", "space", "two-lengths", "before", "bare-cr"],
)
def test_what_netty_of_2020_reads_as_two_requests_is_refused(
    upstream: Upstream, front: int, what: bytes
) -> None:
    """CVE-2021-43797, CVE-2025-58056, CVE-2026-50020 and their kin."""
    ask(front, what)
    assert not upstream.seen


@pytest.mark.parametrize("extension", [b"", b";a=b", b';a="b\r"', b";a=b\n0", b";\n\nGET /smuggled HTTP/1.1"])
def test_chunks_reach_the_server_as_one_body_of_a_length(
    upstream: Upstream, front: int, extension: bytes
) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    answered = ask(front, head + b"3" + extension + b"\r\n" + b"abc\r\n0\r\n\r\n")
    assert len(upstream.seen) <= 1
    for path, headers, body in upstream.seen:
        assert (path, body, answered) == (PREDICT, b"abc", 200)
        assert headers["Content-Length"] == "3"
        assert "Transfer-Encoding" not in headers


def test_the_internal_place_of_forms_cannot_be_asked_for(upstream: Upstream, front: int) -> None:
    assert ask(front, request(path="/form")) == 404
    assert not upstream.seen


def test_refusals_are_json_with_a_remedy(front: int) -> None:
    answer = requests.post(f"http://127.0.0.1:{front}{PREDICT}", data={"text": "a" * 17_000}, timeout=30)
    error = answer.json()["error"]
    assert (error["code"], answer.headers["Content-Type"]) == (413, JSON)
    assert error["remedy"]


def test_refusals_are_logged_without_texts_and_addresses(
    upstream: Upstream, behind: tuple[int, Path]
) -> None:
    front, folder = behind
    logged = folder / "nginx-refusals.log"
    logged.write_text("")
    assert ask(front, request(b"xylophone" * 2_000, FORM, PREDICT + "?xylophone")) == 413
    assert ask(front, request(b"xylophone", path="/xylophone")) == 200
    assert ask(front, b"xylophone\r\n\r\n") == 400
    upstream.answers.clear()
    with ExitStack() as stack:
        opened = ask_at_once(stack, front, request(path="/explanations/xylophone"), ["127.0.0.9"] * 2)
        select.select(opened, [], [], 30)  # the second one is refused when its turn comes
        upstream.answers.set()
        assert Counter(map(status, opened)) == {200: 1, 429: 1}
    # A refused body is read a while before the line is written.
    wait_until(
        lambda: {*re.findall(r"^\S+ (\d+) ", logged.read_text(), re.MULTILINE)} >= {"400", "413", "429"}
    )
    written = logged.read_text()
    assert "xylophone" not in written
    assert "127.0.0." not in written


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_it_starts_as_a_user_who_may_write_nowhere_else(upstream: Upstream) -> None:
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/nginx-XXXXXX"], text=True).strip())
    (port,) = free_ports(1)
    config = (ROOT / "deploy" / "nginx.conf").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    (folder / "nginx.conf").write_text(config.replace("127.0.0.1:8080", f"127.0.0.1:{upstream.port}"))
    subprocess.run(["chown", "-R", "nobody", folder], check=True)
    process = subprocess.Popen(
        ["nginx", "-p", folder, "-c", folder / "nginx.conf"], user="nobody", group="nogroup", cwd=folder
    )
    try:
        wait_until(lambda: process.poll() is not None or is_taken(port))
        assert ask(port, request()) == 200
    finally:
        process.terminate()
        process.wait()
        subprocess.run(["rm", "-r", folder], check=True)
