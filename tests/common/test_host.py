"""What the doctor sees of folders, limits and the shell."""

import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from common import host
from common.host import Finding

Room = namedtuple("Room", "free")


def found(*checks) -> dict[str, Finding]:
    return {finding.name: finding for check in checks for finding in check}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the shell gave, to be changed."""
    given: dict[str, str] = {}
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(host, "_given", lambda: given)
    return given


def test_a_sound_host_has_no_findings(environment, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOG_LOCATION", str(tmp_path / "logs"))
    monkeypatch.setattr(host, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(host, "_limit", lambda name: None)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment["OMP_WAIT_POLICY"] = "passive"
    assert {finding.status for finding in host.host()} <= {"ok"}


@pytest.mark.parametrize(
    ("spared", "warned"),
    [("", True), ("intranet", True), ("localhost,127.0.0.1", False), ("*", False), ("localhost", True)],
)
def test_a_proxy_for_loopback_is_found(spared: str, warned: bool, environment, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:3128")
    environment["no_proxy"] = spared
    finding = found(host._proxy()).get("proxy")
    assert (finding is not None) == warned
    if finding is not None:
        assert "http://proxy:3128" in finding.seen
        assert "secret" not in finding.seen


@pytest.mark.parametrize("home", ["/nowhere/at/all", "/proc"])
def test_a_home_that_cannot_be_written_is_found(home: str, monkeypatch) -> None:
    monkeypatch.setenv("HOME", home)
    if os.access(home, os.W_OK):
        pytest.skip("root may")
    assert found(host._home())["HOME"].status == "warn"


def test_logs_that_find_no_room_are_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOG_LOCATION", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Room(1_000_000))
    assert found(host._logs())["logs"].seen == f"1 MB free in {tmp_path}"
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert found(host._logs())["logs"].status == "fail"


def test_limits_of_the_shell_are_found(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    assert found(host._files())["open files"].seen == "at most 256"
    assert found(host._address_space())["address space"].status == "warn"
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, 0))
    assert found(host._files(), host._address_space()) == {}


def test_little_shared_memory_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Room(1_000_000))
    assert "--shm-size" in found(host._shared_memory())["shared memory"].remedy


@pytest.mark.parametrize(
    ("encoding", "warned"), [("UTF-8", False), ("ANSI_X3.4-1968", False), ("cp1252", True)]
)
def test_a_locale_that_other_tools_write_by_is_found(encoding: str, warned: bool, monkeypatch) -> None:
    monkeypatch.setattr(host.locale, "getpreferredencoding", lambda do_setlocale: encoding)
    assert ("locale" in found(host._locale())) == warned


def test_a_clock_of_the_past_is_found(monkeypatch) -> None:
    monkeypatch.setattr(host.time, "time", lambda: 0.0)
    assert found(host._clock())["clock"].status == "warn"


def test_a_temporary_folder_that_is_full_or_another_user_took_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(host.tempfile, "gettempdir", lambda: str(tmp_path))
    assert set(found(host.temporary_folder(1000, "onnx"))) == {"disk"}
    (tmp_path / ".model_server.pid").write_text("7")
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    seen = found(host.temporary_folder(1000, "onnx"))
    assert seen["pid file"].status == "fail"
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Room(1000))
    assert found(host.temporary_folder(1000, "onnx"))["disk"].status == "fail"


def test_a_tmpdir_that_python_passes_over_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    monkeypatch.setattr(host.tempfile, "gettempdir", lambda: str(tmp_path))
    seen = found(host.temporary_folder(1000, "compiled"))
    assert seen["TMPDIR"].status == seen["code in TMPDIR"].status == "fail"


def test_an_archive_that_others_cannot_read_is_found(monkeypatch, tmp_path: Path) -> None:
    archive = tmp_path / "hate.mar"
    archive.write_text("")
    archive.chmod(0o644)
    assert found(host.archive_rights(archive)) == {}
    archive.chmod(0o600)
    assert found(host.archive_rights(archive))["rights"].status == "warn"
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert found(host.archive_rights(archive))["rights"].status == "fail"
