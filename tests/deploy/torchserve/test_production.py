"""The production configuration, on a server of its own: the session's has neither TLS nor tokens."""

import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.torchserve import read_config
from deploy.torchserve import container
from deploy.torchserve.access import Access
from deploy.torchserve.rollout import Front
from deploy.torchserve.server import Server, private_server
from export.archives.package import package
from tests.asking import PREDICT, ask
from tests.conftest import ROOT

PRODUCTION = read_config(ROOT / "deploy" / "production.properties").values


@pytest.fixture(scope="module")
def guarded(build_once, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as `deploy/production.properties` has it, with a certificate of its own."""
    folder = tmp_path_factory.mktemp("tls")
    files = {"private_key_file": str(folder / "tls.key"), "certificate_file": str(folder / "tls.crt")}
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", files["private_key_file"]]
    subprocess.run([*command, "-out", files["certificate_file"]], check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_PASSWORD", "hush")
        archive = package(build_once("openvino-int8"), folder)
        # The model API is open, as for a roll-out: what keeps it is the token.
        settings = {**PRODUCTION, **files, "enable_model_api": "true"}
        with private_server(archive, settings=settings) as server:
            yield server


def test_a_rollout_asks_over_tls_with_the_token(guarded: Server, monkeypatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    answer, _ = Front(guarded.access, "hate").ask("good day")
    assert answer["label"] in ("hate", "not-hate")


def connect(server: Server) -> http.client.HTTPSConnection:
    """As a client elsewhere would: the certificate is verified, and its name too."""
    context = ssl.create_default_context(cafile=server.access.config["certificate_file"])
    return http.client.HTTPSConnection("localhost", server.inference_port, context=context, timeout=60)


def predict(server: Server, headers: dict[str, str]) -> tuple[int, dict]:
    connection = connect(server)
    body = json.dumps({"text": "good day"})
    connection.request("POST", PREDICT, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answer = response.status, json.load(response)
    connection.close()
    return answer


def test_requests_over_tls_are_answered_with_the_token_alone(guarded: Server) -> None:
    status, answer = predict(guarded, guarded.access.headers("inference_address"))
    assert status == 200
    assert answer["label"] in ("hate", "not-hate")
    for headers in (
        {},
        {"Authorization": "Bearer 12345678"},
        guarded.access.headers("management_address"),
    ):
        status, answer = predict(guarded, headers)
        assert status == 400
        assert answer["type"] == "InvalidKeyException"


def test_a_page_of_another_site_cannot_register_code(guarded: Server, tmp_path: Path) -> None:
    """A browser sends such a request without asking anybody first; but it has no token."""
    (tmp_path / "handler.py").write_text("raise SystemExit")
    path = f"/models?url={tmp_path}&model_name=evil&initial_workers=1"
    for token in ({}, guarded.access.headers("inference_address")):
        headers = {"Origin": "https://evil.example"} | token
        _, content = ask(guarded.management_port, path, "", "text/plain", **headers)
        assert json.loads(content)["type"] == "InvalidKeyException"
    assert list(Front(guarded.access, "hate").versions()) == ["1.0"]


def test_no_old_cipher_suite_is_left_and_clear_text_is_refused(guarded: Server) -> None:
    connection = connect(guarded)
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.cipher()[:2] == ("ECDHE-RSA-AES128-GCM-SHA256", "TLSv1.2")  # type: ignore[index]
    connection.close()
    token = guarded.access.headers("inference_address")
    assert ask(guarded.inference_port, "/ping", None, "", "GET", **token)[0] == 403


def test_only_the_inference_api_listens_beyond_loopback(guarded: Server) -> None:
    listening = {
        connection.laddr.port
        for connection in psutil.Process(guarded.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")
    }
    assert listening == {guarded.inference_port}


def test_the_worker_inherits_no_secret_and_the_tokens_are_for_their_owner_alone(guarded: Server) -> None:
    environment = Path(f"/proc/{guarded.worker().pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"PASSWORD" not in environment
    assert (guarded.access.folder / "key_file.json").stat().st_mode & 0o777 == 0o600


def test_the_containers_probe_knows_tokens_and_tls(guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(guarded.access.config.path)
    monkeypatch.chdir(guarded.access.folder)
    assert container.main(["probe", "--config", config]) == 0
    assert container.main(["probe", "--config", config, "--name", "another"]) == 1
    monkeypatch.chdir("/")  # no tokens here
    assert container.main(["probe", "--config", config]) == 1
    assert not Access(guarded.access.config, Path("/")).is_healthy()


def test_the_containers_program_imports_nothing_that_its_image_lacks() -> None:
    """Of the project, `handler` and two modules of `deploy`; of packages, what TorchServe itself needs."""
    code = (
        "import sys, deploy.torchserve.container; "
        "print(*sorted({name.split('.')[0] for name, module in sys.modules.items() if module}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    known = set(sys.stdlib_module_names) | {"common", "deploy", "handler", "numpy", "psutil"}
    foreign = {name for name in done.stdout.split() if not name.startswith(("_", "sitecustomize"))} - known
    assert foreign == set()


def test_the_container_becomes_what_torchserves_own_launcher_starts(guarded: Server) -> None:
    config = guarded.access.config
    launched = psutil.Process(guarded.pid).cmdline()
    command = container.java_command(config, "hate", Path("/somewhere"))
    # By folders, links to them and names of archives.
    moved = ("-Dmodel_server_home", "-Djava.io.tmpdir", ".:", "hate=", "/")
    assert [part for part in command[1:] if not part.startswith(moved)] == [
        part for part in launched[1:] if not part.startswith(moved)
    ]
