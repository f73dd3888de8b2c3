"""A new archive replaces the old one while clients ask: no request is lost, and a bad one changes nothing."""

import gc
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from common.signing import make_keys, sign
from deploy.app.application import create_app
from deploy.app.counters import Counters
from deploy.app.model import Opener, Source
from deploy.app.models import Models
from deploy.app.reload import Reloader
from deploy.app.server import AppServer, Beside, Loading, Settings
from deploy.torchserve.server import free_ports
from export.archives.package import package
from handler.artifact import Artifact, open_artifact
from tests.asking import PREDICT, ask, get, wait_until
from tests.conftest import ROOT
from tests.deploy.app.test_application import App, Gate, answering
from tests.handler.test_self_check import flipped

VARIANT = "openvino-int8"


@pytest.fixture(scope="module")
def archives(build_once, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """An archive of this version."""
    made: dict[tuple[str, str], Path] = {}

    def get_archive(version: str, name: str = "hate", variant: str = VARIANT) -> Path:
        key = version, name, variant
        if key not in made:
            store = tmp_path_factory.mktemp("store")
            made[key] = package(build_once(variant), store, name=name, version=version)
        return made[key]

    return get_archive


@dataclass
class Reloading:
    """An app whose archive is at `path`."""

    app: App
    path: Path
    scratch: Path
    reloader: Reloader

    def reload(self, archive: Path | None = None) -> None:
        if archive is not None:
            put(archive, self.path)
        self.reloader.ask()

    def version(self, path: str = PREDICT) -> str:
        status, content = ask(self.app.port, path)
        assert status == 200, content
        return str(json.loads(content)["model"]["version"])

    def reloads(self, status: str, name: str = "hate") -> float:
        line = f'classifier_reloads{{ModelName="{name}",status="{status}"}} '
        page = get(self.app.port, "/metrics")[1].decode().splitlines()
        return sum(float(each.removeprefix(line)) for each in page if each.startswith(line))


def put(archive: Path, path: Path) -> None:
    """In one step, as a careful user does."""
    shutil.copy(archive, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@contextmanager
def reloading(
    tmp_path: Path,
    *archives: Path,
    watches: bool = False,
    trusted_key: Path | None = None,
    shadow: Beside | None = None,
) -> Iterator[Reloading]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    paths = [tmp_path / f"{place}.mar" for place in range(len(archives))]
    for archive, path in zip(archives, paths, strict=True):
        shutil.copy(archive, path)
    counted = Counters()
    opener = Opener(scratch, trusted_key)
    opened = [opener.open(Source(path)) for path in paths]
    loading = Loading(Settings(threads=1, shadow=shadow), counted, lambda service: None)
    models = Models([loading.serve(each.model) for each in opened])
    reloader = Reloader(models, opened, opener, loading.serve, watches=watches)
    server = AppServer(create_app(models, counted), models, reloader=reloader)
    del opened
    with answering(models, server) as app:
        wait_until(lambda: get(app.port, "/ready")[0] == 200)
        yield Reloading(app, paths[0], scratch, reloader)


def test_a_reload_under_load_loses_no_request_and_frees_the_old_model(
    archives, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    def ask_on() -> Counter[tuple[int, str]]:
        answered: Counter[tuple[int, str]] = Counter()
        while not ended.is_set():
            status, content = ask(found.app.port, PREDICT)
            answered[status, json.loads(content).get("model", {}).get("version", "")] += 1
        return answered

    with reloading(tmp_path, archives("1.0")) as found, ThreadPoolExecutor(8) as clients:
        old = weakref.ref(found.app.batcher.service.predictor)
        asked = [clients.submit(ask_on) for _ in range(8)]
        for version in ("1.1", "1.2"):
            time.sleep(0.5)
            found.reload(archives(version))
            wait_until(lambda version=version: found.version() == version)
        wait_until(lambda: found.reloads("replaced") == 2)
        time.sleep(0.5)
        ended.set()
        answered = sum((each.result() for each in asked), Counter())
        assert answered.keys() == {(200, "1.0"), (200, "1.1"), (200, "1.2")}
        gc.collect()
        assert old() is None
        assert len(list(found.scratch.iterdir())) == 1, "what was unpacked of the old ones is removed"
        assert ask(found.app.port, PREDICT + "/1.0")[0] == 404
        assert not [each for each in threading.enumerate() if each.name == "model_0"][1:]
    said = capfd.readouterr().err
    assert said.count("has replaced") == 2
    assert f"hate 1.1 ({VARIANT}, " in said


def test_what_the_old_model_has_accepted_it_answers(
    archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reloading(tmp_path, archives("1.0")) as found, ThreadPoolExecutor(3) as clients:
        gate = Gate(found.app.batcher.service, monkeypatch)
        accepted = [clients.submit(found.version) for _ in range(3)]
        assert gate.reached.wait(60)
        found.reload(archives("1.1"))
        wait_until(lambda: found.app.models.first.model.version == "1.1")
        assert found.version() == "1.1"
        assert not any(each.done() for each in accepted)
        assert found.reloads("replaced") == 0
        gate.opened.set()
        assert [each.result() for each in accepted] == ["1.0"] * 3
        wait_until(lambda: found.reloads("replaced") == 1)


def test_a_shadow_begins_anew_with_the_new_model(archives, build_once, tmp_path: Path) -> None:
    with reloading(tmp_path, archives("1.0"), shadow=Beside(build_once(VARIANT), 1.0, 0.05)) as found:

        def compares() -> bool:
            """The model that answers now, and one text."""
            shadow = found.app.models.first.shadow
            return shadow.is_up and shadow.report.compared == 1

        def workers() -> list[psutil.Process]:
            children = psutil.Process().children()
            return [each for each in children if "deploy.app.shadow_worker" in each.cmdline()]

        wait_until(lambda: found.app.models.first.shadow.is_up, patience_s=300)
        found.version()
        wait_until(compares)
        (before,) = workers()
        found.reload(archives("1.1"))
        wait_until(lambda: found.reloads("replaced") == 1)
        wait_until(lambda: found.app.models.first.shadow.is_up, patience_s=300)
        assert found.app.models.first.shadow.report.compared == 0
        assert found.version() == "1.1"
        wait_until(compares)
        (after,) = workers()
        assert after.pid != before.pid


def corrupt(archive: Path, tmp_path: Path) -> Path:
    """With one byte of its largest file changed."""
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "corrupt.mar").write_bytes(content)
    return tmp_path / "corrupt.mar"


def test_a_bad_archive_is_a_sentence_and_a_count_and_the_old_one_goes_on(
    archives, artifact_copy: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = package(flipped(artifact_copy, "classifier.weight"), tmp_path / "wrong", version="3.0")
    empty = tmp_path / "empty.mar"
    empty.touch()
    bad = {
        corrupt(archives("1.1"), tmp_path): "corrupt",
        wrong: "gives other scores here",
        archives("1.1", "spam"): "the model has another name: spam in 0.mar. Package it with --name hate",
        empty: "this is not an archive of this project",
        archives("2.0"): "two models have one name and version: hate 2.0 in 1.mar and 0.mar",
    }
    with reloading(tmp_path, archives("1.0"), archives("2.0")) as found:
        before = found.app.models.first
        for count, (archive, words) in enumerate(bad.items(), 1):
            found.reload(archive)
            wait_until(lambda count=count: found.reloads("refused") == count, words)
            said = capfd.readouterr().err
            assert f"hate 1.0 goes on, and {found.path} is not served: " in said
            assert words in said
            assert "Traceback" not in said
            assert found.app.models.first is before
            assert (found.version("/predict"), found.version()) == ("1.0", "2.0")
        found.path.unlink()
        found.reload()
        wait_until(lambda: found.reloads("refused") == len(bad) + 1)
        assert len(list(found.scratch.iterdir())) == 2
        found.reload(archives("1.5"))
        wait_until(lambda: found.version("/predict") == "1.5")
        wait_until(lambda: found.reloads("replaced") == 1)  # when the old one is freed


def test_what_no_trusted_key_signed_is_not_loaded(archives, tmp_path: Path, capfd) -> None:
    secret = tmp_path / "key"
    public = make_keys(secret)
    signed, unsigned = (shutil.copy(archives(version), tmp_path / version) for version in ("1.0", "1.1"))
    first = shutil.copy(sign(Path(signed), secret), tmp_path / "0.mar.minisig")
    with reloading(tmp_path, Path(signed), watches=True, trusted_key=public) as found:
        put(Path(unsigned), found.path)
        wait_until(lambda: found.reloads("refused") == 1)
        assert "the signature does not match the file" in capfd.readouterr().err
        assert found.version() == "1.0"
        shutil.copy(sign(Path(unsigned), secret), first)
        wait_until(lambda: found.version() == "1.1")


def test_a_change_is_seen_where_it_is_watched_for_and_only_there(archives, tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "left").mkdir()
    with (
        reloading(tmp_path / "watched", archives("1.0"), watches=True) as watched,
        reloading(tmp_path / "left", archives("1.0")) as left,
    ):
        for each in (watched, left):
            put(archives("1.1"), each.path)
        wait_until(lambda: watched.version() == "1.1")
        assert left.version() == "1.0"
        half = archives("1.2").read_bytes()
        with watched.path.with_suffix(".new").open("wb") as file:
            watched.path.with_suffix(".new").replace(watched.path)  # and is written in place
            for begin in range(0, len(half), len(half) // 4):
                file.write(half[begin : begin + len(half) // 4])
                file.flush()
                time.sleep(0.2)
        wait_until(lambda: watched.version() == "1.2")
        assert watched.reloads("refused") == 0, "a file that is being written is left alone"


def test_an_artifact_that_was_built_anew_is_reloaded_and_an_unchanged_one_is_not(
    build_once, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(build_once("openvino-int8").folder, folder)
    opener = Opener(tmp_path / "scratch")
    opened = [opener.open(Source(folder))]
    counted = Counters()
    loading = Loading(Settings(threads=1), counted, lambda service: None)
    models = Models([loading.serve(opened[0].model)])
    reloader = Reloader(models, opened, opener, loading.serve)
    with answering(models, AppServer(create_app(models, counted), models, reloader=reloader)) as app:
        wait_until(lambda: get(app.port, "/ready")[0] == 200)
        reloader.ask()
        wait_until(lambda: "hate 1.0 is unchanged" in capfd.readouterr().err)
        shutil.rmtree(folder)
        shutil.copytree(build_once("onnx-int8").folder, folder)
        reloader.ask()
        wait_until(lambda: json.loads(ask(app.port)[1])["model"]["variant"] == "onnx-int8")
        assert models.first.model.artifact.sha256 == open_artifact(folder).sha256


@contextmanager
def command(tmp_path: Path, *options: object, **settings) -> Iterator[tuple[subprocess.Popen, int, Path]]:
    """The command, when it is ready: the process, its port and its log."""
    (port,), log = free_ports(1), tmp_path / "app.log"
    line = [sys.executable, "-m", "deploy", "app", "--port", port, "--threads", "1", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(list(map(str, line)), cwd=ROOT, stderr=output, **settings)
    try:
        wait_until(lambda: process.poll() is not None or "ready. Try it" in log.read_text())
        wait_until(lambda: get(port, "/ready")[0] == 200, log.read_text)
        yield process, port, log
    finally:
        process.kill()
        process.wait()


def test_the_command_serves_several_and_reloads_on_sighup(archives, tmp_path: Path) -> None:
    one, other = tmp_path / "one.mar", tmp_path / "other.mar"
    put(archives("1.0"), one)
    put(archives("1.0", "spam"), other)
    with command(tmp_path, "--archive", one, "--archive", other) as (process, port, log):
        for version in ("1.1", "1.2"):
            put(archives(version, "spam"), other)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda version=version: f"spam {version} (" in log.read_text(), log.read_text)
            assert json.loads(ask(port, "/predictions/spam")[1])["model"]["version"] == version
        assert log.read_text().count("hate 1.0 is unchanged") == 2
        assert ask(port, PREDICT)[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@contextmanager
def end_of_terminal(
    tmp_path: Path, archive: Path, ignored: bool
) -> Iterator[tuple[subprocess.Popen, int, Path]]:
    """The command, started from a terminal, which is then closed."""
    main, terminal = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(terminal), os.O_RDWR))  # the session's from now on
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    with command(tmp_path, "--archive", archive, preexec_fn=take_terminal) as found:
        os.close(terminal)
        os.close(main)
        yield found


@pytest.mark.parametrize("ignored", [False, True], ids=["as it is", "nohup"])
def test_the_end_of_its_terminal_still_ends_it_unless_it_is_to_go_on(
    archives, tmp_path: Path, ignored: bool
) -> None:
    path = tmp_path / "a.mar"
    put(archives("1.0"), path)
    with end_of_terminal(tmp_path, path, ignored) as (process, port, log):
        if not ignored:
            assert process.wait(60) == 128 + signal.SIGHUP
            assert not {"unchanged", "Traceback"} & set(re.findall(r"\w+", log.read_text()))
        else:
            put(archives("1.1"), path)

            def has_replaced() -> bool:
                process.send_signal(signal.SIGHUP)  # one may be taken for that of the terminal's end
                return "has replaced" in log.read_text()

            wait_until(has_replaced, log.read_text)
            assert ask(port, PREDICT)[0] == 200
