"""The app over TLS: what it accepts and refuses, and handshakes that never end keep no client out."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.app import tls
from deploy.app.connections import Bounds
from deploy.app.model import Model
from deploy.app.tls import Pair, tls_context
from deploy.torchserve.server import free_ports
from handler.errors import UserError
from tests.asking import GOOD, JSON, get, wait_until
from tests.conftest import ROOT, refused
from tests.deploy.app.test_application import App, running
from tests.deploy.app.test_connections import Stub, held


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("tls"), "own")


def made(folder: Path, name: str, *options: str) -> tuple[Path, Path]:
    """A certificate and its key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=localhost", "-days", "2"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *(options or ("-nodes",))], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def start(pair: tuple[Path, Path]):
    stub = Model(SimpleNamespace(name="stub"))  # type: ignore[arg-type]
    with ExitStack() as stack:

        def begin(**settings) -> App:
            app = stack.enter_context(running(stub, Stub, tls=Pair(*pair), **settings))  # type: ignore[arg-type]
            wait_until(lambda: app.batcher.is_ready)
            return app

        yield begin


def trusting(pair: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair[0]))


def asked(
    port: int, context: ssl.SSLContext, path: str = "/predict", body: bytes = GOOD
) -> tuple[int, bytes]:
    """By a client that verifies the certificate and the name."""
    with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)) as connection:
        connection.request("POST", path, body, {"Content-Type": JSON})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_requests_are_answered_over_tls_in_any_size(start, pair) -> None:
    app = start()
    assert asked(app.port, trusting(pair)) == (200, b'{"label": "good"}\n')
    assert asked(app.port, trusting(pair), body=b'{"text": "a"}'.ljust(1_500_000))[0] == 200
    assert asked(app.port, trusting(pair), body=b" " * 3_000_000)[0] == 413


def test_a_request_that_comes_with_the_end_of_the_handshake_is_not_lost(start, pair) -> None:
    """The client's last flight and its request are one piece on the wire."""
    app = start()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(pair).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", app.port), timeout=60) as connection:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
        client.write(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.sendall(outgoing.read())
        found = b""
        while b"Healthy" not in found:
            incoming.write(connection.recv(65536))
            with suppress(ssl.SSLWantReadError):
                while True:
                    found += client.read(65536)
    assert found.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("version", "is_spoken"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
def test_tls_1_2_and_later_is_spoken(start, pair, version: str, is_spoken: bool) -> None:
    app = start()
    context = trusting(pair)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if is_spoken:
        assert asked(app.port, context)[0] == 200
    else:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            asked(app.port, context)


def test_plain_http_gets_no_answer_and_harms_nobody(start, pair) -> None:
    app = start()
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        get(app.port, "/ping")
    assert asked(app.port, trusting(pair))[0] == 200


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "half-a-handshake"])
def test_handshakes_that_never_end_keep_no_other_client_out(start, pair, sent: bytes) -> None:
    app = start(bounds=Bounds(total=20, per_client=10))
    with held(app.port, 60, sent):
        for _ in range(5):
            assert asked(app.port, trusting(pair))[0] == 200
        files = len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))
    assert files < 60 + 20 + 200, "both ends of the 60 are this process's"


def test_a_handshake_has_its_time(start, pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HEAD_S", 0.3)
    app = start()
    with socket.create_connection(("127.0.0.1", app.port), timeout=20) as client:
        client.sendall(b"\x16\x03\x01")
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""
    assert asked(app.port, trusting(pair))[0] == 200


def test_a_pair_that_cannot_be_used_is_a_sentence(pair, tmp_path: Path) -> None:
    other = made(tmp_path, "other")
    encrypted = made(tmp_path, "encrypted", "-passout", "pass:secret")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for certificate, key, words in (
        (pair[0], other[1], "the key is not that of the certificate"),
        (*encrypted, "the key is encrypted: .*encrypted.key. Decrypt it"),
        (nonsense, pair[1], "the certificate or the key is not valid PEM"),
        (pair[0], nonsense, "the certificate or the key is not valid PEM"),
        (pair[1], pair[0], "the certificate or the key is not valid PEM"),
        (pair[0], tmp_path / "none", "the file for TLS cannot be read: .*none: No such file"),
    ):
        with pytest.raises(UserError, match=words):
            tls_context(certificate, key)


def test_the_command_needs_both_of_the_pair(pair, build_once) -> None:
    artifact = build_once("openvino-int8").folder
    said = refused("deploy", "app", "--artifact", artifact, "--tls-certificate", pair[0])
    assert "TLS needs a certificate and its key" in said


def test_the_command_serves_with_keys_over_tls_and_says_how_to_ask(pair, build_once, tmp_path: Path) -> None:
    (port,), log, keys = free_ports(1), tmp_path / "app.log", tmp_path / "keys"
    keys.write_text("xylophone-xylophone\n")
    keys.chmod(0o600)
    command = [sys.executable, "-m", "deploy", "app", "--artifact", str(build_once("openvino-int8").folder)]
    command += ["--host", "0.0.0.0", "--port", str(port), "--threads", "1", "--keys", str(keys)]
    command += ["--tls-certificate", str(pair[0]), "--tls-key", str(pair[1])]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or "ready. Try it" in log.read_text())
        assert f'curl https://0.0.0.0:{port}/predict -H "Authorization: Bearer KEY"' in log.read_text()
        assert "open to others" not in log.read_text()
        status, body = asked(port, trusting(pair))
        assert (status, json.loads(body)["error"]["code"]) == (401, 401)
        ask = ["curl", "-s", "--cacert", str(pair[0]), "-H", "Authorization: Bearer xylophone-xylophone"]
        ask += [f"https://127.0.0.1:{port}/predict", "--json", GOOD.decode()]
        answer = json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)
        assert answer["label"] in ("hate", "not-hate")
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert "xylophone" not in log.read_text()
