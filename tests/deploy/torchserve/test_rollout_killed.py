"""A roll-out on a real TorchServe that is ended goes back by itself; one that was killed is undone."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from deploy.torchserve.rollout import Front
from deploy.torchserve.rollout_note import read_note
from deploy.torchserve.server import private_server
from export.archives.package import package
from handler.artifact import Artifact
from tests.conftest import ROOT, ran, run_stage
from training import data

pytestmark = [pytest.mark.server, pytest.mark.slow]

PATIENCE_S = 180
numbers = count(2)


@dataclass
class RollOut:
    """Of a new version onto a server that answers with an old one."""

    front: Front
    command: list[str]
    old: str
    new: str

    @property
    def config(self) -> str:
        return self.command[self.command.index("--config") + 1]

    def is_compared(self) -> bool:
        return self.new in self.front.versions()

    def is_watched(self) -> bool:
        return self.front.default() == self.new

    @contextmanager
    def until(self, reached: Callable[[], bool], **options) -> Iterator[subprocess.Popen]:
        """It as a program, begun and as far as `reached` says."""
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy", *self.command, "--watch-s", "600"], cwd=ROOT, **options
        )
        try:
            wait_until(lambda: process.poll() is not None or reached())
            assert process.poll() is None
            yield process
        finally:
            process.kill()
            process.wait()

    def assert_old_serves_alone(self) -> None:
        assert self.front.default() == self.old
        assert self.front.versions().keys() == {self.old}
        assert self.front.ask("good day")[0]["model"]["version"] == self.old
        assert not self.front.note_file.exists()


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def store(build_once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    package(build_once("fp32"), folder)
    return folder


@pytest.fixture(scope="module")
def front(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with private_server(store / "hate-fp32.mar", settings={"enable_model_api": "true"}) as server:
        yield Front(server.access, "hate")


@pytest.fixture
def rolled_out(front: Front, store: Path, build_once, tmp_path: Path) -> RollOut:
    artifact: Artifact = build_once("fp32")
    new = f"{next(numbers)}.0"
    package(artifact, store / "new", version=new).rename(store / f"hate-{new}.mar")
    texts = tmp_path / "texts.txt"
    few = list(data.load("demo").splits["validation"].texts)[:120]
    texts.write_text("\n".join(few * 20))
    command = ["rollout", f"hate-{new}.mar", "--config", str(front.access.config.path)]
    command += ["--texts", str(texts), "--count", "120", "--max-slowdown", "50"]
    return RollOut(front, command, front.default(), new)


def heeds_hangups() -> None:
    """Also where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_its_canary_phase_brings_the_old_version_back(rolled_out: RollOut, number: int) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with rolled_out.until(rolled_out.is_watched, preexec_fn=heeds_hangups, **pipes) as process:
        process.send_signal(number)
        said, told = process.communicate(timeout=PATIENCE_S)
    assert "the old version stays: interrupted" in told
    if number == signal.SIGINT:
        assert process.returncode == 1
        assert not json.loads(said)["done"]
    else:
        assert process.returncode == 128 + number
    rolled_out.assert_old_serves_alone()


@pytest.mark.parametrize("phase", ["compared", "watched"])
def test_a_terminal_that_closes_brings_the_old_version_back(rolled_out: RollOut, phase: str) -> None:
    """As a window or a connection does: its session gets SIGHUP, and there is nobody to write to."""
    ours, theirs = pty.openpty()

    def on_the_terminal() -> None:
        heeds_hangups()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    reached = rolled_out.is_watched
    if phase == "compared":
        reached = rolled_out.is_compared
        rolled_out.command += ["--count", "2400"]  # so many that this is not over when the terminal closes
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with rolled_out.until(reached, start_new_session=True, preexec_fn=on_the_terminal, **streams) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGHUP
    rolled_out.assert_old_serves_alone()


def killed(rolled_out: RollOut) -> None:
    with rolled_out.until(rolled_out.is_watched) as process:
        process.kill()
        process.wait()
    assert rolled_out.front.default() == rolled_out.new, "and so it stays: nothing was tidied up"
    status = ran("deploy", "status", "--config", rolled_out.config)
    assert f"a roll-out of hate-{rolled_out.new}.mar was interrupted" in status.stderr
    assert "was interrupted" in json.loads(status.stdout)["rollout"]


def is_quiet(rolled_out: RollOut) -> bool:
    return "rollout" not in json.loads(run_stage("deploy", "status", "--config", rolled_out.config).stdout)


def test_one_that_was_killed_is_undone_by_back(rolled_out: RollOut) -> None:
    killed(rolled_out)
    done = ran("deploy", "rollout", "--back", "--config", rolled_out.config)
    assert f"version {rolled_out.old} is the default again" in done.stderr
    rolled_out.assert_old_serves_alone()
    assert is_quiet(rolled_out)
    assert run_stage("deploy", "rollout", "--back", "--config", rolled_out.config).returncode == 1


def test_one_that_was_killed_is_undone_by_the_same_command_which_then_goes_on(rolled_out: RollOut) -> None:
    killed(rolled_out)
    done = ran("deploy", *rolled_out.command, "--watch-s", "0.5")
    assert f"interrupted. {rolled_out.front.management}: version {rolled_out.old} is the" in done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["done"]
    (server,) = outcome["servers"]
    assert (server["old"], server["new"]) == (rolled_out.old, rolled_out.new)
    assert rolled_out.front.versions().keys() == {rolled_out.new}
    assert rolled_out.front.ask("good day")[0]["model"]["version"] == rolled_out.new
    assert read_note(rolled_out.front.note_file) is None
    assert is_quiet(rolled_out)
