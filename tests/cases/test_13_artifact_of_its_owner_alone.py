"""Who may read a folder may read what is in it; a file that cannot be read is a sentence."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from export.archives.package import package
from handler.artifact import open_artifact
from handler.errors import UserError
from handler.predictor import Predictor
from tests.conftest import ran, run_stage

SOMEBODY = 65534


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root may read everything: be another user, where that is possible."""
    if os.geteuid():
        yield
        return
    os.seteuid(SOMEBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable(build_once) -> Iterator[Path]:
    """A copy of fp32's artifact in a folder that any user may enter, as pytest's are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(build_once("fp32").folder, folder / "fp32")
    yield folder / "fp32"
    shutil.rmtree(folder)


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


@pytest.mark.parametrize("variant", ["fp32", "onnx-fp32"])
def test_files_of_an_artifact_have_the_rights_that_the_umask_gives(variant: str, build_once) -> None:
    folder = build_once(variant).folder
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o666 & ~umask()}, modes
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask()


def test_files_of_a_checkpoint_and_of_a_fetched_version_as_well(source, build_once, tmp_path: Path) -> None:
    archive = package(build_once("fp32"), tmp_path / "store")
    assert archive.stat().st_mode & 0o777 == 0o666 & ~umask()
    ran("export", "publish", tmp_path / "shop", "fp32", "--store", tmp_path / "store")
    (version,) = (tmp_path / "shop" / "hate").iterdir()
    ran("export", "fetch", version, "--to", tmp_path / "fetched")
    for folder in (source.checkpoint.folder, tmp_path / "shop", tmp_path / "fetched"):
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        assert set(modes.values()) == {0o666 & ~umask()}, modes


def test_another_user_loads_what_was_built(reachable: Path) -> None:
    with somebody_else():
        assert len(Predictor.load(reachable, 1).predict(["good day"])) == 1


@pytest.mark.parametrize("name", ["artifact.json", "model.safetensors", "tokenizer.json", "."])
def test_what_cannot_be_read_is_a_sentence(name: str, reachable: Path) -> None:
    (reachable / name).chmod(0)
    with somebody_else():
        for read in (open_artifact, Predictor.load):
            with pytest.raises(
                UserError, match=r"the artifact cannot be read: .*: Permission denied\. .*chmod"
            ):
                read(reachable)
        done = run_stage("handler", "predict", "--artifact", reachable, "good day")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the artifact cannot be read")
    (reachable / name).chmod(0o755)
