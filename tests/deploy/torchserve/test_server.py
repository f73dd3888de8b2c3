"""The one real TorchServe of the session: every request form, errors per row, silence in the logs."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

from common.atomic import write_json
from common.torchserve import is_taken, java_home, read_config
from deploy.torchserve import server as servers
from deploy.torchserve.server import Server
from export.archives.package import package
from handler.artifact import Artifact
from handler.errors import UserError
from handler.predictor import Predictor
from tests.asking import FORM, JSON, PREDICT, ask, ask_json, held_to_schema
from tests.conftest import run_apart
from tests.descriptions import changed


@pytest.mark.parametrize(
    ("body", "content_type", "method"),
    [
        ('{"text": "good day"}', JSON, "POST"),
        ('{"text": "good day"}', JSON + "; charset=utf-8", "POST"),
        ('"good day"', JSON, "POST"),
        ("good day", "text/plain", "POST"),
        (urlencode({"text": "good day"}), FORM, "POST"),
        ("good day", "", "PUT"),
    ],
    ids=["json", "json-charset", "json-string", "plain", "form", "put-file"],
)
def test_every_documented_form_gives_the_answer_of_the_predictor(
    served: tuple[Server, Artifact], body: str, content_type: str, method: str
) -> None:
    server, artifact = served
    status, content = ask(server.inference_port, body=body, content_type=content_type, method=method)
    answer = held_to_schema(content)
    predictor = Predictor(artifact)
    expected = predictor.answer(predictor.predict(["good day"])[0])
    assert status == 200
    assert answer["scores"]["hate"] == pytest.approx(expected["scores"]["hate"], abs=2e-6)
    assert answer["model"] == {"name": "hate", "version": "1.0", "variant": "openvino-int8"}


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        ("good day", FORM, 422),
        ("{bad", JSON, 400),
        ('{"text": ""}', JSON, 422),
        (json.dumps({"text": "a " * 500_000}), JSON, 413),
        (json.dumps(["a"] * 129), JSON, 413),
        (b"\xff\xfe", "text/plain", 400),
    ],
    ids=["plain-curl-d", "invalid-json", "empty", "one-megabyte", "too-many", "not-utf8"],
)
def test_what_cannot_be_read_is_answered_with_a_4xx_and_a_remedy(
    served: tuple[Server, Artifact], body: bytes | str, content_type: str, code: int
) -> None:
    status, content = ask(served[0].inference_port, body=body, content_type=content_type)
    assert status == code
    assert held_to_schema(content)["error"]["remedy"]


def test_a_bad_row_among_good_ones_harms_none_of_them(served: tuple[Server, Artifact]) -> None:
    status, answers = ask_json(served[0].inference_port, PREDICT, {"texts": ["a", "", 3, "b"]})
    assert status == 200
    kinds = ["error" in answer for answer in answers["predictions"]]
    assert kinds == [False, True, True, False]


def test_concurrent_requests_good_and_bad_each_get_their_own_answer(
    served: tuple[Server, Artifact], source
) -> None:
    server, artifact = served
    texts = source.dataset.splits["test"].texts[:96]
    bodies = [json.dumps({"text": text}) if index % 7 else "{bad" for index, text in enumerate(texts)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda body: ask(server.inference_port, body=body), bodies))
    expected = Predictor(artifact).predict(texts)
    bound = artifact.meta.check.batch_mate_diff + 2e-6
    for index, (status, content) in enumerate(answers):
        assert status == (200 if index % 7 else 400)
        if status == 200:
            assert json.loads(content)["scores"]["hate"] == pytest.approx(
                expected[index].scores[1], abs=bound
            )


def ask_about_a_xylophone(server: Server) -> None:
    for body, content_type in [
        ('{"text": "xylophone"}', JSON),
        ('{"text": "xylophone', JSON),
        ('{"text": "xylophone", "long": "xylophone"}', JSON),
        ("xylophone", "text/plain"),
        (b"xylophone \xff", "text/plain"),
        ("text=xylophone", FORM),
        ("a=%zzxylophone", FORM),
        ("=xylophone", FORM),
        ('{"xylophone": 1}', JSON),
    ]:
        ask(server.inference_port, body=body, content_type=content_type)
    for path in ("/predictions/hate?xylophone=1", "/explanations/hate", "/v1/models/hate:predict"):
        ask(server.inference_port, path, '{"text": "xylophone"}')


def logs_that_tell(server: Server, word: str) -> dict[str, str]:
    """The lines of all logs that hold `word`, by the log's name."""
    logs = [
        path
        for path in server.log.parent.rglob("*")
        if path.is_file() and path.suffix in (".log", ".txt", ".out")
    ]
    assert logs
    return {
        path.name: line
        for path in logs
        for line in path.read_text(errors="replace").splitlines()
        if word in line
    }


def test_no_text_of_a_user_reaches_any_log(served: tuple[Server, Artifact]) -> None:
    server, _ = served
    ask_about_a_xylophone(server)
    assert not logs_that_tell(server, "xylophone")
    assert logs_that_tell(server, "ErrorDataDecoderException"), "but what the server did not expect does"


@pytest.mark.slow
def test_no_text_of_a_user_reaches_any_log_at_the_most_talkative_level(
    served: tuple[Server, Artifact], workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody looks for a fault and sets the root logger to trace."""
    (tmp_path / "deploy").mkdir()
    for name in servers.NAMED_FILES:
        shutil.copy(servers.ROOT / "deploy" / name, tmp_path / "deploy")
    settings = tmp_path / "deploy" / "log4j2.xml"
    settings.write_text(settings.read_text().replace('<Root level="warn">', '<Root level="trace">'))
    monkeypatch.setattr(servers, "ROOT", tmp_path)
    with servers.private_server(workshop / "model_store" / "hate-openvino-int8.mar") as server:
        ask_about_a_xylophone(server)
        assert logs_that_tell(server, "model_service_worker"), "at this level TorchServe says what it starts"
        assert not logs_that_tell(server, "xylophone")


def test_threads_that_wait_do_not_spin_in_the_worker(served: tuple[Server, Artifact]) -> None:
    workers = psutil.Process(served[0].pid).children(recursive=True)
    environments = [Path(f"/proc/{worker.pid}/environ").read_text(errors="replace") for worker in workers]
    assert any("OMP_WAIT_POLICY=PASSIVE" in environment for environment in environments)


def test_no_model_can_be_registered_over_http(served: tuple[Server, Artifact]) -> None:
    """TorchServe would run the Python of any folder that is named; allowed_urls guards addresses alone."""
    assert ask(served[0].management_port, "/models?url=/tmp", None)[0] == 405


@pytest.mark.server
def test_the_worker_runs_the_code_of_the_archive_and_says_why_it_cannot(
    build_once, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another `handler` in PYTHONPATH is not used, and the sentence of a refused artifact reaches the log."""
    (tmp_path / "handler").mkdir()
    (tmp_path / "handler" / "__init__.py").write_text("raise RuntimeError('the code of the checkout')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    fp32 = build_once("fp32")
    shutil.copytree(fp32.folder, tmp_path / "fp32")
    foreign = Artifact(tmp_path / "fp32", changed(fp32, cpu_features=["avx9000"]).meta)
    write_json(foreign.folder / "artifact.json", foreign.meta)
    archive = package(foreign, tmp_path / "a store")
    with (
        pytest.raises(UserError, match="CPU features that this machine lacks: avx9000"),
        servers.private_server(archive),
    ):
        pass


def test_the_server_listens_on_loopback_alone(served: tuple[Server, Artifact]) -> None:
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(served[0].pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}


def test_a_damaged_archive_is_a_sentence_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "hate.mar").write_bytes(b"PK and then nothing")
    config = tmp_path / "config.properties"
    config.write_text(f"model_store={tmp_path}\n")
    with pytest.raises(UserError, match="not an archive of this project"):
        servers.start(read_config(config))


def test_a_port_in_use_is_a_sentence_with_the_port(
    served: tuple[Server, Artifact], workshop: Path, tmp_path: Path
) -> None:
    server, _ = served
    (tmp_path / "hate.mar").symlink_to(workshop / "model_store" / "hate-openvino-int8.mar")
    config = tmp_path / "config.properties"
    config.write_text(f"inference_address=http://127.0.0.1:{server.inference_port}\nmodel_store={tmp_path}\n")
    with pytest.raises(UserError, match=f"port is in use: .*{server.inference_port}"):
        servers.start(read_config(config))


def test_a_missing_archive_is_a_sentence(tmp_path: Path) -> None:
    config = tmp_path / "config.properties"
    config.write_text(f"model_store={tmp_path}\n")
    with pytest.raises(UserError, match="python -m export package"):
        servers.start(read_config(config))


def test_java_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nonexistent")
    with pytest.raises(UserError, match="JAVA_HOME has no Java in it"):
        java_home()


def test_an_archive_that_cannot_load_fails_with_the_log_and_leaves_nothing_running(tmp_path: Path) -> None:
    broken = tmp_path / "hate-broken.mar"
    broken.write_bytes(b"no archive")
    with pytest.raises(UserError), servers.private_server(broken):
        pass
    assert str(broken.parent) not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout


def test_the_public_server_starts_answers_and_stops_by_command(
    served: tuple[Server, Artifact], workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On free ports, and with a temporary folder of its own for TorchServe's pid file."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TEMP", str(tmp_path))
    archive = workshop / "model_store" / "hate-openvino-int8.mar"
    (tmp_path / "hate.mar").symlink_to(archive)
    path, ports = servers._private_config(tmp_path, tmp_path / "hate.mar", {})
    started = run_apart("deploy", "start", "--config", path)
    try:
        assert started.returncode == 0, started.stderr
        assert f"localhost:{ports[0]}/predictions/hate" in started.stderr
        again = run_apart("deploy", "start", "--config", path)
        assert again.returncode == 2
        assert "python -m deploy stop" in again.stderr
    finally:
        stopped = run_apart("deploy", "stop", "--config", path)
    assert "stopped" in stopped.stderr
    assert not any(is_taken(port) for port in ports)
    assert "was not running" in run_apart("deploy", "stop", "--config", path).stderr
