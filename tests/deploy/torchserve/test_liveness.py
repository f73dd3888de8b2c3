"""A worker that hangs, is stopped or was given up is found out within seconds; one at work is left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import requests

from common.torchserve import read_config
from deploy.torchserve import container
from deploy.torchserve import server as servers
from deploy.torchserve.access import Access
from deploy.torchserve.server import Server, clear, is_alive, private_server, serving, sweep
from handler.artifact import Artifact
from tests.asking import wait_until
from tests.conftest import ROOT, run_apart, run_stage

SPIN = "any(iter(int, 1))"  # for ever
SLEEP = "import time; time.sleep(600)"


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen]:
    """A process that has started, which takes time of the CPU too, and does this."""
    process = subprocess.Popen([sys.executable, "-c", f"print(flush=True); {code}"], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def test_a_worker_that_is_stopped_is_said_by_status_and_by_the_probes(
    served: tuple[Server, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = served
    config = str(server.access.config.path)
    monkeypatch.chdir(server.access.folder)
    assert container.main(["probe", "--config", config]) == 0
    assert container.main(["alive", "--config", config]) == 0
    assert container.main(["probe", "--config", config, "--name", "another"]) == 1
    assert run_stage("deploy", "status", "--config", config).returncode == 0
    monkeypatch.setattr("deploy.torchserve.access.PATIENCE_S", 1)
    with stopped(server.worker()):
        assert container.main(["alive", "--config", config]) == 1
        assert container.main(["probe", "--config", config]) == 1
        said = run_stage("deploy", "status", "--config", config)
        assert said.returncode == 1
        assert "no worker of hate answers or is busy" in said.stderr
        assert '"healthy": true' in said.stdout, "which is all that TorchServe says"
    monkeypatch.setattr("deploy.torchserve.access.PATIENCE_S", 30)
    assert container.main(["probe", "--config", config]) == 0


@pytest.mark.parametrize(("code", "alive"), [(SPIN, True), (SLEEP, False)], ids=["computes", "waits"])
def test_a_worker_that_does_not_answer_is_alive_where_it_computes(
    served: tuple[Server, Artifact], monkeypatch: pytest.MonkeyPatch, code: str, alive: bool
) -> None:
    access = served[0].access
    monkeypatch.setattr(Access, "answers", lambda self, name: False)
    with program(code) as worker:
        monkeypatch.setattr(servers, "workers_of", lambda java: [psutil.Process(worker.pid)])
        assert is_alive(access, "hate") is alive


def test_no_server_is_not_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "WATCH_S", 0.01)
    path, _ = servers._private_config(tmp_path, tmp_path / "hate.mar", {})
    assert not is_alive(Access(read_config(path), tmp_path), "hate")


@pytest.fixture
def as_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The container's `run` with a program of the test's in place of Java."""
    path, _ = servers._private_config(tmp_path, tmp_path / "hate.mar", {})

    def run(code: str) -> int:
        monkeypatch.setattr(container, "checked_archive", lambda *_: None)
        monkeypatch.setattr(container, "private_folder", lambda: tmp_path)
        monkeypatch.setattr(container, "java_command", lambda *_: [sys.executable, "-c", code])
        monkeypatch.setattr(container, "EVERY_S", 0.2)
        before = {number: signal.getsignal(number) for number in container.PASSED_ON}
        try:
            return container.main(["run", "--config", str(path)])
        finally:
            for number, was in before.items():
                signal.signal(number, was)

    return run


def test_a_container_ends_where_no_worker_has_been_alive_for_a_while(as_java, monkeypatch, capsys) -> None:
    few = container.MOST_FAILURES
    looks = iter([*[False] * 20, True, *[False] * (few - 1), True, *[False] * few])
    monkeypatch.setattr(container, "is_alive", lambda *_: next(looks))
    assert as_java(SLEEP) == 1
    assert next(looks, None) is None, (
        "a start takes longer, and one look that finds it alive begins the count again"
    )
    assert "ending TorchServe" in capsys.readouterr().err


def test_a_container_ends_as_its_java_does(as_java, monkeypatch) -> None:
    monkeypatch.setattr(container, "is_alive", lambda *_: True)
    assert as_java("raise SystemExit(3)") == 3
    assert as_java("import os; os.kill(os.getpid(), 9)") == 137


def test_a_container_passes_sigterm_on(as_java, monkeypatch) -> None:
    def look(*_) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(container, "is_alive", look)
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); time.sleep(600)"
    assert as_java(code) in (7, 143), "143 where it came before the program could say what it does"


def test_what_a_killed_server_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "models" / "0a1b").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    for name in (".model_server.pid", ".ts.sock.9000", "notes.txt"):
        (tmp_path / name).write_text("")
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "notes.txt"}


def test_a_link_that_lies_in_its_place_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "models").symlink_to(tmp_path / "mine")
    clear(tmp_path / "scratch")
    assert (tmp_path / "mine" / "kept").is_file()
    assert not list((tmp_path / "scratch").iterdir())


def test_the_folder_of_a_server_that_runs_is_left_alone(served: tuple[Server, Artifact]) -> None:
    folder = served[0].access.folder
    clear(folder)
    sweep()
    assert list((folder / "models").iterdir())


def test_the_folders_of_private_servers_whose_starter_was_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers.tempfile, "tempdir", str(tmp_path))
    dead, fresh = tmp_path / f"{servers.PRIVATE}dead", tmp_path / f"{servers.PRIVATE}fresh"
    for folder in (dead, fresh):
        (folder / "models").mkdir(parents=True)
    (dead / servers.LOCK).write_text("")  # which no process holds
    code = "import time; time.sleep(600)"
    command = [sys.executable, "-c", code, servers.JAVA, f"-Djava.io.tmpdir={dead}"]
    orphan = subprocess.Popen(command)
    try:
        while servers.JAVA not in psutil.Process(orphan.pid).cmdline():
            time.sleep(0.01)
        sweep()
        assert orphan.wait(60) == -signal.SIGKILL
    finally:
        orphan.kill()
    assert {path.name for path in tmp_path.iterdir()} == {fresh.name}, "one is made before it is locked"


def test_servers_are_found_by_their_ports(served: tuple[Server, Artifact], tmp_path: Path) -> None:
    server, _ = served
    assert [process.pid for process in serving(server.access.config)] == [server.pid]
    other, _ = servers._private_config(tmp_path, tmp_path / "hate.mar", {})
    assert not serving(read_config(other))


def test_stop_says_where_something_else_answers(tmp_path: Path) -> None:
    path, ports = servers._private_config(tmp_path, tmp_path / "hate.mar", {})
    with servers.socket.create_server(("127.0.0.1", ports[1])):
        said = run_stage("deploy", "stop", "--config", path)
    assert said.returncode == 1
    assert f"nothing was stopped: {ports[1]} in use" in said.stderr


@pytest.mark.slow
@pytest.mark.quiet
def test_a_worker_that_fails_for_longer_than_torchserve_is_patient_comes_back(
    served: tuple[Server, Artifact], workshop: Path
) -> None:
    """By its own setting TorchServe gives it up after five minutes for good."""
    with private_server(workshop / "model_store" / "hate-openvino-int8.mar") as server:
        (model,) = (server.access.folder / "models").iterdir()
        artifact, away = model / "artifact" / "artifact.json", model / "away.json"
        artifact.rename(away)
        server.worker().kill()
        time.sleep(420)
        away.rename(artifact)
        deadline = time.monotonic() + 400  # it is tried every 89 s, and a start takes long on a busy machine
        while not server.access.answers("hate"):
            assert time.monotonic() < deadline
            time.sleep(1)


@pytest.mark.slow
def test_the_containers_program_ends_by_itself_where_its_worker_hangs(
    served: tuple[Server, Artifact], workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hate.mar").symlink_to(workshop / "model_store" / "hate-openvino-int8.mar")
    path, _ = servers._private_config(tmp_path, tmp_path / "hate.mar", {})
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(servers.ROOT))
    command = [sys.executable, "-m", "deploy.torchserve.container", "run", "--config", str(path)]
    process = subprocess.Popen(command, cwd=tmp_path)
    suspended: list[psutil.Process] = []
    try:
        access = Access(read_config(path), tmp_path)
        wait_until(lambda: access.is_ready("hate"))
        time.sleep(container.EVERY_S + 2)  # it has seen a worker that lives: a start is given longer
        (java,) = psutil.Process(process.pid).children()
        suspended = servers.workers_of(java)
        for worker in suspended:
            worker.suspend()
        assert process.wait(180) == 1
        assert not java.is_running()
    finally:
        for worker in suspended:  # it does not even see that its server has gone
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            child.kill()
        process.kill()


def test_the_public_server_comes_back_from_a_kill_and_is_stopped_from_another_shell(
    served: tuple[Server, Artifact], workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in the pid file, and whatever the other shell's temporary folder is."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("LOG_LOCATION", str(tmp_path / "logs"))
    monkeypatch.setenv("LOG_FORMAT", "json")
    (tmp_path / "hate.mar").symlink_to(workshop / "model_store" / "hate-openvino-int8.mar")
    path, ports = servers._private_config(tmp_path, tmp_path / "hate.mar", {})
    config = read_config(path)
    folder = temporary / f"torchserve-{os.getuid()}"
    try:
        assert run_apart("deploy", "start", "--config", path).returncode == 0
        assert folder.stat().st_mode & 0o777 == 0o700
        (java,) = serving(config)
        java.kill()
        java.wait()
        assert list((folder / "models").iterdir()), "it could not tidy up"
        started = run_apart("deploy", "start", "--config", path)
        assert started.returncode == 0, started.stderr
        assert len(list((folder / "models").iterdir())) == 1
        (folder / ".model_server.pid").write_text("nonsense")
        body = {"Content-Type": "application/x-www-form-urlencoded"}
        requests.post(f"http://127.0.0.1:{ports[0]}/predictions/hate", data="a=%zz", headers=body, timeout=60)
        lines = (tmp_path / "logs" / "torchserve.log").read_text().splitlines()
        said = [json.loads(line)["message"] for line in lines]
        assert any("DecoderException" in message for message in said)
        assert "DecoderException" not in (ROOT / "logs" / "start.log").read_text(), "which nothing bounds"
    finally:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        stop = run_apart("deploy", "stop", "--config", path)
    assert (stop.returncode, stop.stderr.strip()) == (0, "stopped")
    assert not any(servers.is_taken(port) for port in ports)
    assert not (folder / "models").exists()
