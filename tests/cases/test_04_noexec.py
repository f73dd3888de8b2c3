"""A compiled artifact is unpacked into the temporary folder and loaded from there.

Where that cannot be, a sentence says which folder and what to do, and `doctor` finds it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import host
from export import registry
from export.registry import TEMPORARY, VARIANTS
from handler import machine, runtimes
from handler.artifact import Artifact
from handler.errors import UnsupportedError, UserError
from handler.machine import unpacking_fault
from handler.runtimes import load_models
from tests.conftest import ROOT

# Without a file system that anything could be mounted on, such as in a container without that right.
MOUNT = "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt"
CAN_MOUNT = (
    sys.platform == "linux"
    and shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-m", "sh", "-c", MOUNT], capture_output=True).returncode == 0
)
needs_mounts = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs unshare and root")


def mounted(folder: Path, options: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run the Python `code` with a temporary folder that is mounted with `options`."""
    command = f'mount --make-rprivate / && mount -t tmpfs -o {options} tmpfs "$1" && TMPDIR="$1" "$2" -c "$3"'
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", str(folder), sys.executable, code],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


FAULT = "from handler.machine import unpacking_fault; print(unpacking_fault(5_000_000))"


@needs_mounts
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("size=50m,exec", "None"),
        ("size=50m,noexec", "mounted noexec: libraries cannot be loaded from there"),
        ("size=50m,ro", "Read-only file system"),
        ("size=1m,exec", "1 MB free, 5 needed"),
    ],
    ids=["sound", "noexec", "read-only", "small"],
)
def test_what_a_mounted_folder_lacks_is_seen(tmp_path: Path, options: str, expected: str) -> None:
    done = mounted(tmp_path, options, FAULT)
    assert done.stdout.strip() == expected, done.stderr


def test_a_folder_that_is_not_there_is_named(monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    assert unpacking_fault() == "there is no such folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert unpacking_fault() == "Permission denied"


def test_a_sound_folder_is_no_finding(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert unpacking_fault(1_000_000) is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def compiled(tmp_path: Path) -> Artifact:
    """What `_load_compiled` reads of an artifact; its package is none."""
    (tmp_path / "model.pt2").write_bytes(bytes(2_000_000))
    meta = SimpleNamespace(runtime="compiled", runtime_options={})
    return SimpleNamespace(folder=tmp_path, name="compiled-bf16", meta=meta)  # type: ignore[return-value]


@pytest.mark.parametrize("raising", [None, RuntimeError("Error in dlopen: failed to map segment")])
def test_loading_says_which_folder_and_what_to_do(compiled: Artifact, monkeypatch, raising) -> None:
    monkeypatch.setattr(runtimes, "unpacking_fault", lambda size: "mounted noexec: no library is loaded")
    monkeypatch.setattr(runtimes, "unpacks_into", lambda: Path("/tmp/here"))
    if raising is not None:
        monkeypatch.setattr("torch._inductor.aoti_load_package", lambda *given, **options: refuse(raising))
    with pytest.raises(UnsupportedError) as told:
        load_models(compiled, 1, "cpu")
    assert "/tmp/here, mounted noexec" in str(told.value)
    assert "Set TMPDIR to a folder with 2 MB free, not mounted noexec" in str(told.value)


def refuse(error: Exception) -> None:
    raise error


def test_a_package_that_is_damaged_is_a_sentence_of_its_own(compiled: Artifact) -> None:
    with pytest.raises(UserError, match="the runtime compiled cannot load"):
        load_models(compiled, 1, "cpu")


@needs_mounts
def test_loading_from_a_noexec_folder_is_that_sentence(compiled: Artifact, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from types import SimpleNamespace
from handler.runtimes import load_models
meta = SimpleNamespace(runtime="compiled", runtime_options={{}})
one = SimpleNamespace(folder=Path({str(compiled.folder)!r}), name="compiled-bf16", meta=meta)
try:
    load_models(one, 1, "cpu")
except Exception as error:
    print(type(error).__name__, error)
"""
    place = tmp_path / "mounted"
    place.mkdir()
    done = mounted(place, "size=50m,noexec", code)
    assert done.stdout.startswith("UnsupportedError a compiled artifact cannot be loaded from the temporary")
    assert f"{place}, mounted noexec" in done.stdout


def test_a_runtime_that_is_installed_and_cannot_be_loaded_is_not_called_missing(
    compiled, monkeypatch
) -> None:
    """As in an environment that is mounted noexec itself."""
    error = ImportError("libtorch.so: failed to map segment from shared object")
    fake = runtimes.Runtime(lambda *given: refuse(error), {"torch": ""}, "torch")
    monkeypatch.setitem(runtimes.RUNTIMES, "compiled", fake)
    with pytest.raises(UnsupportedError, match=r"installed but cannot be loaded: libtorch.so: failed to map"):
        load_models(compiled, 1, "cpu")


def test_nothing_is_compiled_where_the_compiler_would_silently_leave_out_vectors(monkeypatch) -> None:
    """torch tries its instruction sets by loading a library from there; where it cannot, it uses none."""
    monkeypatch.setattr(registry, "unpacking_fault", lambda: "mounted noexec")
    for variant in VARIANTS.values():
        if variant.runtime == "compiled":
            assert TEMPORARY in variant.requires
            assert any("mounted noexec" in lacking for lacking in variant.lacks())


@pytest.mark.parametrize(("runtime", "status"), [("compiled", "fail"), ("openvino", "warn")])
def test_the_doctor_finds_it(runtime: str, status: str, monkeypatch) -> None:
    monkeypatch.setattr(host, "unpacking_fault", lambda size: "mounted noexec")
    found = {finding.name: finding for finding in host.temporary_folder(1000, runtime)}
    assert found["code in TMPDIR"].status == status
    assert "TMPDIR" in found["code in TMPDIR"].remedy


def test_temporary_folders_of_containers_allow_code() -> None:
    """Docker mounts a tmpfs noexec unless an option says otherwise; an emptyDir is a folder of the node."""
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    (mounts,) = re.findall(r"- /tmp:(size=1g\S*)", compose)
    assert "exec" in mounts.split(",")
    yaml = pytest.importorskip("yaml")
    for place in (ROOT / "deploy" / "kubernetes").rglob("*.yaml"):
        for part in yaml.safe_load_all(place.read_text()):
            assert '"medium": "Memory"' not in json.dumps(part), place
    assert machine.unpacks_into().is_absolute()
