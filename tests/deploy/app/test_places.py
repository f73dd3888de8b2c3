"""The app's container and its service of systemd: valid, confined, and in agreement with the command."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.__main__ import main
from deploy.app import command, probe
from deploy.app.connections import FILES, RESERVED, Bounds
from deploy.app.server import STOP_S
from tests.asking import wait_until
from tests.conftest import ROOT
from tests.deploy.app.test_application import running

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile.app").read_text()
UNIT = (DEPLOY / "app.service").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.app.yaml").read_text())["services"]["app"]
EXEC = shlex.split(re.search(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)[1])  # type: ignore[index]


def directive(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return value


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str):
    """The options of a command line, as the app gets them."""
    seen = []
    monkeypatch.setattr(command, "app", lambda options: seen.append(options) or 0)
    main([*arguments])
    (options,) = seen
    return options


def test_the_units_command_line_is_one_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = EXEC
    assert Path(program).name == "hate-speech-archive"
    options = asked(monkeypatch, *arguments[1:])
    assert [source.path for source in options.sources] == [Path("/srv/classifier/hate.mar")]
    assert options.keys == Path("${CREDENTIALS_DIRECTORY}/keys")
    assert directive("LoadCredential").split(":")[0] == options.keys.name
    for place in (*options.sources, directive("LoadCredential").split(":")[1]):
        assert str(getattr(place, "path", place)) in UNIT.split("[Unit]")[0], "how it gets there is said"


def test_the_units_limits_are_those_of_the_app() -> None:
    assert int(directive("TimeoutStopSec")) > STOP_S
    assert int(directive("LimitNOFILE")) >= Bounds().total + RESERVED + FILES
    assert directive("Type") == "notify"
    assert directive("ExecReload") == "/bin/kill -HUP $MAINPID"
    assert directive("KillMode") == "mixed", "workers are told by the first process"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit_and_finds_little_to_expose(tmp_path: Path) -> None:
    unit = tmp_path / "classifier.service"
    unit.write_text(UNIT.replace(EXEC[0], sys.executable))  # which must be there
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit]
    done = subprocess.run(judged, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_docker_has_nothing_to_complain_about() -> None:
    lint = str(Path(sys.executable).with_name("hadolint"))
    done = subprocess.run([lint, DEPLOY / "Dockerfile.app"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*schema, DEPLOY / "compose.app.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_container_is_confined_and_its_command_line_one_of_the_app(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert COMPOSE["read_only"]
    assert COMPOSE["cap_drop"] == ["ALL"]
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > STOP_S
    assert [port.split(":")[0] for port in COMPOSE["ports"]] == ["127.0.0.1"]
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    entry = yaml.safe_load(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[1])  # type: ignore[index]
    assert entry[1:4] == ["-m", "deploy", "app"]
    given = [each.replace("${WORKERS:-1}", "2") for each in COMPOSE["command"]]
    options = asked(monkeypatch, *entry[3:], *given)
    assert (options.host, options.workers, options.port) == ("0.0.0.0", 2, 8080)
    assert options.sources[0].path.parent == Path("/srv/model_store")
    assert f"EXPOSE {options.port}" in DOCKERFILE


def test_the_image_holds_all_that_the_app_imports(tmp_path: Path) -> None:
    """Its folders alone: not the trainer's or the exporter's packages."""
    folders = re.findall(r"^COPY (\w+) /srv/\1/$", DOCKERFILE, re.MULTILINE)
    for folder in folders:
        (tmp_path / folder).symlink_to(ROOT / folder)
    modules = ("command", "worker", "shadow_worker", "probe", "protocols.rpc")
    code = "".join(f"import deploy.app.{module}\n" for module in modules)
    # The environment of tests has no path to the checkout but through the folder.
    line = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"]
    done = subprocess.run(line, cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_probe_says_whether_the_app_is_ready(model, service) -> None:
    with running(model, lambda: service) as app:
        wait_until(lambda: app.batcher.is_ready)
        assert probe.main(["--port", str(app.port)]) == 0
        app.models.is_closing = True
        assert probe.main(["--port", str(app.port)]) == 1
    assert probe.main(["--port", str(app.port)]) == 1
