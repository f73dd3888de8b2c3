"""The doctor sees what is wrong, and says what to do."""

import json
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest

from common import doctor
from common.atomic import write_json
from common.doctor import configuration, examine, table
from export.archives.package import package
from handler.artifact import Artifact
from handler.errors import UserError
from handler.machine import Gpu
from tests.conftest import ROOT, run_stage
from tests.descriptions import changed
from tests.handler.test_self_check import flipped


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's configuration and no archive."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "metrics.yaml", tmp_path / "deploy")
    shutil.copy(ROOT / "config.properties", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TS_CONFIG_FILE", "config.properties")
    return tmp_path


@pytest.fixture
def shop(configured: Path, build_once) -> Path:
    """The same with an archive, as `torchserve --start` would meet it."""
    archive = package(build_once("fp32"), configured / "model_store")
    archive.rename(configured / "model_store" / "hate.mar")
    return configured


def change(shop: Path, **values: str) -> None:
    lines = (shop / "config.properties").read_text().splitlines()
    kept = [line for line in lines if line.split("=")[0] not in values]
    text = "\n".join([*kept, *(f"{key}={value}" for key, value in values.items())])
    (shop / "config.properties").write_text(text + "\n")


def status(name: str) -> str:
    return {finding.name: finding.status for finding in examine("hate")}.get(name, "nothing said")


def test_nothing_fails_where_everything_is_in_place(shop: Path) -> None:
    findings = examine("hate")
    assert not [finding for finding in findings if finding.status == "fail"], table(findings)
    assert status("archive") == status("threads") == status("listens") == status("keys") == "ok"


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ({"jobqueue_size": "9"}, "keys", "warn"),
        ({"inference_address": "http://0.0.0.0:8080"}, "listens", "warn"),
        ({"grpc_inference_address": "0.0.0.0"}, "listens", "warn"),
        (
            {"inference_address": "http://0.0.0.0:8080", "disable_token_authorization": "false"},
            "listens",
            "ok",
        ),
        ({"enable_model_api": "True"}, "enable_model_api", "warn"),
        ({"inference_address": "http://0.0.0.0:1", "disable_token_authorization": "TRUE"}, "listens", "warn"),
        ({"enable_envvars_config": "true"}, "enable_envvars_config", "warn"),
        ({"metrics_config": "nowhere.yaml"}, "metrics_config", "fail"),
        ({"metrics_mode": "log"}, "metrics", "warn"),
        ({"model_store": "nowhere"}, "archive", "fail"),
        ({"inference_address": "http://10.0.0.1:8080"}, "TLS", "warn"),
        ({"grpc_inference_address": "0.0.0.0"}, "TLS", "warn"),
        ({"grpc_inference_address": "0.0.0.0", "enable_grpc_ssl": "true"}, "TLS", "nothing said"),
        ({"inference_address": "https://0.0.0.0:8443"}, "certificate", "warn"),
        ({"inference_address": "https://0.0.0.0:8443", "keystore": "a.p12"}, "certificate", "warn"),
        ({"management_address": "https://0.0.0.0:8444"}, "management API", "warn"),
        ({"metrics_address": "http://0.0.0.0:8082"}, "metrics API", "warn"),
        ({"disable_token_authorization": "false"}, "tokens", "warn"),
        ({"disable_token_authorization": "false", "token_expiration_min": "1440"}, "tokens", "ok"),
        ({"allowed_urls": "https://.*"}, "allowed_urls", "warn"),
        ({"allowed_urls": "https://models[.]example/hate[.]mar"}, "allowed_urls", "nothing said"),
        ({"use_env_allowed_urls": "true"}, "use_env_allowed_urls", "warn"),
        ({"install_py_dep_per_model": "true"}, "install_py_dep_per_model", "warn"),
        ({"cors_allowed_origin": "*"}, "CORS", "warn"),
        ({"job_queue_size": "1000000"}, "job_queue_size", "warn"),
        ({"max_request_size": "2147483647"}, "max_request_size", "warn"),
    ],
    ids=[
        "typo",
        "open",
        "open-grpc",
        "open-with-tokens",
        "model-api",
        "open-in-capitals",
        "environment",
        "metrics-lost",
        "metrics-log",
        "store",
        "clear-text",
        "clear-grpc",
        "encrypted-grpc",
        "certificate-made-up",
        "keystore",
        "management-open",
        "metrics-open",
        "tokens-of-an-hour",
        "tokens-of-a-day",
        "any-address",
        "one-address",
        "addresses-by-environment",
        "packages-from-the-network",
        "any-site",
        "endless-queue",
        "endless-request",
    ],
)
def test_what_is_wrong_in_the_configuration_is_found(
    configured: Path, values: dict[str, str], name: str, expected: str
) -> None:
    change(configured, **values)
    assert status(name) == expected


def certify(folder: Path, kind: str, *options: str) -> None:
    """A self-signed certificate where the production configuration looks for one."""
    (folder / "tls").mkdir(exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", kind, *options, "-subj", "/CN=localhost"]
    command += ["-keyout", "tls/tls.key", "-out", "tls/tls.crt"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "tls" / "tls.key").chmod(0o600)


def test_the_production_configuration_is_judged_well(configured: Path) -> None:
    shutil.copy(ROOT / "deploy" / "production.properties", configured / "config.properties")
    assert status("certificate") == "fail", "there is none yet"
    certify(configured, "rsa:2048", "-nodes")
    about_settings = {
        "keys",
        "listens",
        "tokens",
        "certificate",
        "metrics",
        "job_queue_size",
        "max_request_size",
    }
    found = {finding.name: finding.status for finding in examine("hate")}
    assert {found[name] for name in about_settings} == {"ok"}
    assert not found.keys() & {
        "TLS",
        "management API",
        "metrics API",
        "enable_model_api",
        "allowed_urls",
        "CORS",
    }
    (configured / "tls" / "tls.key").chmod(0o644)
    assert status("certificate") == "warn"


@pytest.mark.parametrize(
    ("kind", "options"),
    [("ec", ["-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]), ("rsa:2048", ["-passout", "pass:secret"])],
    ids=["elliptic-curve", "password"],
)
def test_a_key_that_torchserve_does_not_start_with_fails(
    configured: Path, kind: str, options: list[str]
) -> None:
    shutil.copy(ROOT / "deploy" / "production.properties", configured / "config.properties")
    certify(configured, kind, *options)
    assert status("certificate") == "fail"


def offer(shop: Path, fp32: Artifact, **fields: object) -> None:
    """Put fp32 into the shop as an artifact that says something else of itself."""
    shutil.copytree(fp32.folder, shop / "fp32")
    other = Artifact(shop / "fp32", changed(fp32, **fields).meta)
    write_json(other.folder / "artifact.json", other.meta)
    package(other, shop / "model_store").rename(shop / "model_store" / "hate.mar")


def test_an_artifact_for_other_cpus_fails(shop: Path, build_once) -> None:
    offer(shop, build_once("fp32"), cpu_features=["avx9000"])
    assert status("built for") == "fail"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([], "fail"), ([(7, 5)], "fail"), ([(9, 0)], "ok"), ([(9, 0), (7, 5)], "fail")],
    ids=["none", "too-old", "fits", "one-of-two-too-old"],
)
def test_an_artifact_for_gpus_is_held_against_every_gpu(
    capabilities: list, expected: str, shop: Path, build_once, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [Gpu("a card", capability, 16 << 30) for capability in capabilities]
    monkeypatch.setattr(doctor, "gpus", lambda: cards)
    offer(shop, build_once("fp32"), devices=["cuda"], cuda_capability=[8, 0])
    findings = examine("hate")
    assert {finding.name: finding.status for finding in findings}["made for"] == expected
    shown = [finding.seen for finding in findings if finding.name == "GPU"]
    expected_shown = [f"a card, compute capability {major}.{minor}, 17 GB" for major, minor in capabilities]
    assert shown == (expected_shown or ["none"])
    if (7, 5) in capabilities:
        assert "a card has compute capability 7.5, and it needs 8.0 or later" in table(findings)


def test_a_model_that_gives_other_scores_here_fails(
    shop: Path, artifact_copy: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status("self-check") == "ok"
    archive = package(flipped(artifact_copy, "classifier.weight"), shop / "model_store")
    archive.rename(shop / "model_store" / "hate.mar")
    assert status("self-check") == "fail"
    monkeypatch.setenv("SELF_CHECK_ON_MISMATCH", "warn")
    assert status("self-check") == "warn"


@pytest.mark.parametrize("content", ["- a", "minWorkers: [1]", "handler: {threads: two}", "a: b: c"])
def test_settings_that_are_none_fail_with_a_sentence(shop: Path, content: str) -> None:
    archive = shop / "model_store" / "hate.mar"
    with zipfile.ZipFile(archive) as opened:
        kept = {name: opened.read(name) for name in opened.namelist() if name != "model-config.yaml"}
    with zipfile.ZipFile(archive, "w") as written:
        for name, data in kept.items():
            written.writestr(name, data)
        written.writestr("model-config.yaml", content)
    assert status("archive") == "fail"


def test_what_is_in_the_way_is_found(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        change(shop, inference_address=f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert status("ports") == status("PYTHONPATH") == "warn"


def test_java_that_is_not_there_fails(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nonexistent")
    assert status("Java") == "fail"


def test_a_file_that_is_not_an_archive_fails(shop: Path) -> None:
    (shop / "model_store" / "hate.mar").write_bytes(b"PK")
    assert status("archive") == "fail"


def test_without_a_named_configuration_it_says_how_to_have_one(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torchserve --start` would find the file in this folder, and no model store in it."""
    monkeypatch.delenv("TS_CONFIG_FILE")
    with pytest.raises(UserError, match="TS_CONFIG_FILE is not set"):
        configuration()
    assert status("configuration") == "fail"


def test_the_command_exits_with_1_where_something_fails_and_prints_both_forms(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_stage("handler", "doctor", "--name", "nothing")
    assert done.returncode == 1
    assert "nothing.mar does not exist" in done.stderr
    assert {"name", "status", "seen", "remedy"} == set(json.loads(done.stdout)[0])
