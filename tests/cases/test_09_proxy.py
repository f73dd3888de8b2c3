"""With a proxy in the environment, requests to this machine go there directly, all others to the proxy."""

import ast
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from benchmarks.served.head_to_head import _ask as ask_one
from benchmarks.served.run import _answers, score_served
from benchmarks.served.torchserve_metrics import read_counters
from common.proxies import is_here, open_url, spare_loopback
from common.storage import opened
from common.torchserve import Config
from deploy.drift import sources
from deploy.torchserve.access import Access
from deploy.tuning.load import closed_loop
from export.archives.verify import TEXTS
from export.archives.verify import _ask as ask_archive
from handler.errors import UserError
from tests.asking import Loopback, Quiet, listening
from tests.conftest import ROOT
from training.data.pinned import PinnedFiles, _download

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
EXCEPTIONS = ("no_proxy", "NO_PROXY")
SCORES = {"not-hate": 0.25, "hate": 0.75}
METRICS = """# TYPE ts_inference_requests_total counter
ts_inference_requests_total{model_name="hate"} 7.0
# TYPE classifier_scores counter
classifier_scores{ModelName="hate",label="hate",up_to="0.5"} 3.0
# TYPE classifier_labels counter
# TYPE classifier_lengths counter
classifier_lengths{ModelName="hate",up_to="8"} 3.0
"""


class Answering(Quiet, BaseHTTPRequestHandler):
    """As a server of the project answers; its `asked` holds the targets of requests."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        content = METRICS if self.path.endswith("/metrics") else json.dumps({"status": "Healthy"})
        self.answer(content.encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        one = {"label": "hate", "score": 0.75, "scores": SCORES}
        many = {"predictions": [one] * len(body.get("texts", ()))}
        self.answer(json.dumps(many if "texts" in body else one).encode())


@contextmanager
def remembering() -> Iterator[Loopback]:
    with listening(Answering) as server:
        server.asked = []  # type: ignore[attr-defined]
        yield server


@pytest.fixture
def server() -> Iterator[Loopback]:
    with remembering() as found:
        yield found


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A proxy for everything, which remembers what it was asked; no exceptions are named."""
    for name in EXCEPTIONS:
        monkeypatch.delenv(name, raising=False)
    with remembering() as found:
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{found.server_port}")
        yield found


@pytest.mark.parametrize(
    "ask",
    [
        lambda url: ask_archive(f"{url}/predictions/hate", ROOT),
        lambda url: sources.served(f"{url}/metrics", "hate"),
        lambda url: _answers(f"{url}/ping"),
        lambda url: score_served(f"{url}/predictions/hate", TEXTS, [range(2)], ["not-hate", "hate"]),
        lambda url: read_counters(f"{url}/metrics"),
        lambda url: ask_one(f"{url}/predictions/hate", "good day"),
        lambda url: Access(Config(ROOT, {"inference_address": url}), ROOT).is_healthy(),
        lambda url: closed_loop(f"{url}/predictions/hate", [b'{"text": "good day"}'], 1, 0.1, 0.0),
        lambda url: opened(f"{url}/texts.csv")[0].exists(f"{url}/texts.csv"),
    ],
    ids=["verify", "drift", "ready", "served", "counters", "head-to-head", "access", "load", "storage"],
)
def test_requests_to_loopback_never_ask_the_proxy(ask, server, proxy) -> None:
    ask(f"http://127.0.0.1:{server.server_port}")
    assert server.asked
    assert proxy.asked == []


def test_drift_reads_the_right_counts_where_there_is_a_proxy(server, proxy) -> None:
    found = sources.served(f"http://localhost:{server.server_port}/metrics", "hate")
    assert found["length", "8"] == found["score:hate", "0.5"] == 3


@pytest.mark.parametrize("case", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_requests_to_others_ask_the_proxy(case: str, proxy, monkeypatch) -> None:
    if case == "HTTP_PROXY" and os.environ.get("REQUEST_METHOD"):
        pytest.skip("of a CGI program the upper case is not trusted")
    for name in PROXIES:
        if name != case:
            monkeypatch.delenv(name)
    with open_url("http://prometheus.example:9090/api/v1/query", 10) as response:
        assert json.load(response) == {"status": "Healthy"}
    assert proxy.asked == ["http://prometheus.example:9090/api/v1/query"]


def test_pinned_data_and_tables_of_the_web_ask_the_proxy(proxy, tmp_path) -> None:
    files = PinnedFiles("a set", "set", "http://data.example/{name}", "data.example", {"train.txt": "0"})
    _download(files, "http://data.example/train.txt", tmp_path)
    filesystem, path = opened("http://tables.example/texts.csv")
    assert filesystem.exists(path)
    assert proxy.asked[0] == "http://data.example/train.txt"
    assert "http://tables.example/texts.csv" in proxy.asked


def test_exceptions_that_the_user_names_hold(server, proxy, monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", ".example")
    with pytest.raises(OSError, match=r"."):
        open_url("http://nowhere.invalid.example/", 1)
    assert proxy.asked == []


@pytest.mark.parametrize("proxy_of", ["http://proxy:port", "socks5://127.0.0.1:9", "no such thing"])
def test_a_proxy_that_cannot_be_is_a_sentence_and_nothing_to_loopback(
    proxy_of: str, server, monkeypatch, tmp_path
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, proxy_of)
    sources.served(f"http://127.0.0.1:{server.server_port}/metrics", "hate")
    files = PinnedFiles("a set", "set", "http://data.example/{name}", "data.example", {"train.txt": "0"})
    with pytest.raises(UserError, match="could not be downloaded"):
        _download(files, "http://data.example/train.txt", tmp_path)
    with pytest.raises(UserError):
        sources.served("http://metrics.example:8082/metrics", "hate")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080/ping", True),
        ("http://127.0.1.1", True),
        ("http://127.1:8080", True),
        ("http://LOCALHOST:8080", True),
        ("http://app.localhost", True),
        ("http://[::1]:8080/ping", True),
        ("http://[::ffff:127.0.0.1]:8080", True),
        ("http://0.0.0.0:8080", True),
        (f"http://{socket.gethostname()}:8080", True),
        ("http://192.0.2.7:8080", False),
        ("http://localhost.example:8080", False),
        ("http://127.0.0.1.example", False),
        ("https://huggingface.co/x", False),
        ("http://127.0.0.1@proxy.example/", False),
        ("http://", False),
    ],
)
def test_this_machine_is_known_by_its_names_and_addresses(url: str, expected: bool) -> None:
    assert is_here(url) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "intranet.example"}, "intranet.example,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": " .example , ,127.0.0.1"}, ".example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example"}, "a.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
    ids=["none", "lower", "upper-with-blanks", "lower-first", "all"],
)
def test_libraries_are_kept_from_the_proxy_for_loopback(
    given: dict[str, str], expected: str, server, proxy, monkeypatch
) -> None:
    import httpx
    import requests

    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context():
        before = dict(os.environ)
        try:
            spare_loopback()
            assert os.environ["no_proxy"] == expected
            url = f"http://127.0.0.1:{server.server_port}/ping"
            assert requests.get(url, timeout=10).ok
            assert httpx.get(url, timeout=10).is_success
            done = subprocess.run(["curl", "-s", "-f", url], capture_output=True, timeout=10, check=False)
            assert b"Healthy" in done.stdout
        finally:
            for name in EXCEPTIONS:
                os.environ.pop(name, None)
                if name in before:
                    os.environ[name] = before[name]
    assert proxy.asked == []


def test_nothing_is_set_where_there_is_no_proxy(monkeypatch) -> None:
    for name in (*PROXIES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)
    spare_loopback()
    assert "no_proxy" not in os.environ


def test_http_is_asked_in_one_place() -> None:
    """Whoever opens an address in another way decides about proxies too, and says so here."""
    allowed = {
        "common/proxies.py": {"urllib.request"},
        "deploy/torchserve/access.py": {"urllib.request"},  # requests alone, which common.proxies opens
        "benchmarks/baselines/public_servers.py": {"urllib.request"},
        "benchmarks/served/head_to_head.py": {"urllib.request"},
        "benchmarks/served/run.py": {"urllib.request"},
        "export/archives/verify.py": {"urllib.request"},
        "deploy/torchserve/rollout.py": {"requests"},  # sessions with trust_env off
        "deploy/torchserve/rollout_shadow.py": {"requests"},
    }
    found: dict[str, set[str]] = {}
    opening = []
    for stage in ("handler", "common", "scoring", "training", "export", "benchmarks", "deploy"):
        for path in (ROOT / stage).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                place = path.relative_to(ROOT).as_posix()
                for name in names:
                    if name in ("urllib.request", "urllib3", "httpx", "requests"):
                        found.setdefault(place, set()).add(name)
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if called.endswith(
                    ("urlopen", "build_opener", "urlretrieve", "requests.get", "requests.post")
                ):
                    opening.append(place)
                # By itself aiohttp knows no proxy.
                if isinstance(node, ast.keyword) and node.arg == "trust_env":
                    opening.append(place)
    assert {place: names for place, names in found.items() if names - allowed.get(place, set())} == {}
    assert set(opening) == {"common/proxies.py"}


def test_the_demo_asks_past_the_proxy() -> None:
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "  curl " in line]
    asking = [line for line in lines if "printf" not in line]
    assert asking
    assert all("--noproxy '*'" in line for line in asking)
