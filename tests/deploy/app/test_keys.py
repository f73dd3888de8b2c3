"""Who has no key is not answered, whatever is asked; and a file of keys is read with care."""

import hmac
import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.datastructures import Headers

from deploy.app.keys import MOST_BYTES, MOST_KEYS, VARIABLE, Keys, digest
from deploy.app.model import Model
from handler.errors import UserError
from tests.asking import GOOD, PREDICT, ask, get, held_to_schema, wait_until
from tests.conftest import ran
from tests.deploy.app.test_application import App, running
from tests.deploy.app.test_connections import Stub

KEY, OTHER = "correct-horse-battery", "another/key+with=signs"
BEARER = {"Authorization": f"Bearer {KEY}"}
HASH = f"sha256:{digest(OTHER)}"
EVERY_FORM = [BEARER, {"Authorization": f"bearer  {OTHER}"}, {"X-API-Key": KEY}, {"x-api-key": OTHER}]
WRONG = [
    {},
    {"Authorization": "Bearer "},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": KEY},
    {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": f"Bearer {KEY}x"},
    {"Authorization": f"Bearer {HASH}"},
    {"X-API-Key": ""},
    {"X-API-Key": "x" * 20_000},
]


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    stub = Model(SimpleNamespace(name="stub"))  # type: ignore[arg-type]
    with running(stub, Stub, keys=Keys.of([KEY, HASH], "here")) as found:  # type: ignore[arg-type]
        wait_until(lambda: found.batcher.is_ready)
        yield found


def denied(app: App, path: str, method: str = "POST", **headers: str) -> tuple[int, bytes, str | None]:
    with closing(http.client.HTTPConnection("127.0.0.1", app.port, timeout=60)) as connection:
        connection.request(method, path, GOOD if method == "POST" else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("WWW-Authenticate")


@pytest.mark.parametrize("headers", EVERY_FORM)
def test_any_key_opens_every_path(app: App, headers: dict[str, str]) -> None:
    assert ask(app.port, PREDICT, **headers)[0] == 200
    assert ask(app.port, "/metrics", None, "", "GET", **headers)[0] == 200


@pytest.mark.parametrize("headers", WRONG)
def test_anything_else_opens_none(app: App, headers: dict[str, str]) -> None:
    for path, method in (
        (PREDICT, "POST"),
        ("/metrics", "GET"),
        ("/nowhere", "GET"),
        ("/openapi.json", "GET"),
    ):
        status, body, challenge = denied(app, path, method, **headers)
        assert (status, challenge) == (401, 'Bearer realm="classifier"')
        assert held_to_schema(body)["error"]["field"] == "Authorization"


@pytest.mark.parametrize("path", ["/ping", "/ready", "/v2/health/live", "/v2/health/ready"])
def test_load_balancers_need_no_key(app: App, path: str) -> None:
    assert get(app.port, path)[0] == 200
    assert ask(app.port, path, None, "", "HEAD")[0] == 200


@pytest.mark.parametrize(
    "path", ["/ping/", "//ping", "/v2/health/../models/hate", "/ready%2f", "/ping;/predict"]
)
def test_a_path_that_looks_open_is_not(app: App, path: str) -> None:
    assert get(app.port, path)[0] == 401


def test_each_protocol_reads_its_own_form_of_the_refusal(app: App) -> None:
    words = "the request has no valid key. Send the header"
    assert json.loads(denied(app, "/v2/models/hate/infer")[1])["error"].startswith(words)
    assert json.loads(denied(app, "/")[1])["error"].startswith(words)
    theirs = json.loads(denied(app, "/v1/moderations")[1])["error"]
    assert theirs["type"] == "authentication_error"
    assert theirs["message"].startswith(words)


def test_the_refusal_comes_before_the_body_and_is_counted(app: App) -> None:
    def counted() -> float:
        metrics = ask(app.port, "/metrics", None, "", "GET", **BEARER)[1].decode()
        found = re.search(r'classifier_rejected\{.*code="401",field="Authorization"\} ([\d.]+)', metrics)
        return float(found[1]) if found else 0.0

    before = counted()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", app.port), timeout=60) as client:
        client.sendall(head.encode())
        assert client.recv(30).startswith(b"HTTP/1.1 401 ")
    assert counted() - before == 1


def test_every_request_is_compared_with_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time that it takes would tell which key was near."""
    drawn = [f"{number:040d}" for number in range(MOST_KEYS)]
    keys = Keys.of(drawn, "here")
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return hmac.compare_digest(one, other)

    monkeypatch.setattr("deploy.app.keys.hmac", SimpleNamespace(compare_digest=compare))
    for given, is_known in ((drawn[0], True), (drawn[-1], True), ("x" * 40, False)):
        compared.clear()
        assert keys.accept(Headers({"x-api-key": given})) == is_known
        assert compared == list(keys.digests)


def test_a_file_holds_keys_hashes_and_remarks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# the shop\n{KEY}\n\n  {HASH}\r\n")
    assert Keys.read(file) == Keys((digest(KEY), digest(OTHER)))
    assert "others may read the keys" in capfd.readouterr().err
    file.chmod(0o600)
    Keys.read(file)
    file.write_text(HASH)
    file.chmod(0o644)
    Keys.read(file)
    assert "others may read" not in capfd.readouterr().err
    assert KEY not in repr(Keys.of([KEY], "here"))


def test_the_environment_has_them_where_no_file_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Keys.read(None) is None
    monkeypatch.setenv(VARIABLE, f"{KEY}, {HASH}\n")
    assert Keys.read(None) == Keys((digest(KEY), digest(OTHER)))
    assert Keys.read(None) is None, "processes that are started later do not inherit them"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "there are none"),
        ("# only a remark", "there are none"),
        ("short", "key 1 is neither"),
        (f"{KEY}\nwith a blank in it", "key 2 is neither"),
        ("é" * 20, "key 1 is neither"),
        ("sha256:" + "0" * 63, "key 1 is neither"),
        ("sha256:" + "G" * 64, "key 1 is neither"),
        ("x" * 257, "key 1 is neither"),
        ("\n".join(f"{number:020d}" for number in range(MOST_KEYS + 1)), f"more than {MOST_KEYS}"),
        ("#" * (MOST_BYTES + 1), "larger than"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_without_quoting_it(
    tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(UserError, match=words) as error:
        Keys.read(file)
    assert not any(len(line) > 3 and line in str(error.value) for line in content.splitlines())
    with pytest.raises(UserError, match="the keys cannot be read"):
        Keys.read(tmp_path / "none")


def test_a_drawn_key_fits_its_hash() -> None:
    drawn, hashed = ran("deploy", "key").stdout.split()
    assert len(drawn) >= 43
    assert Keys.of([drawn], "") == Keys.of([hashed], "")
    assert ran("deploy", "key").stdout.split()[0] != drawn
