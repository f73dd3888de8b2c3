"""A kill between the two renames by which a folder is replaced where names cannot be exchanged: whoever opens
the folder next puts back what stood there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.atomic import recover_all
from deploy.app import command
from export.archives.package import package
from handler.artifact import Artifact, open_artifact
from tests.conftest import ROOT, ran, run_stage
from training.backbones import backbone
from training.checkpoint import open_checkpoint

KILLED = """
import os, sys
from pathlib import Path
from common import atomic

atomic._exchange = lambda one, other: False
rename = Path.rename

def killed(self, target):
    if self.name.endswith(".partial") and not target.exists():
        os._exit(9)
    return rename(self, target)

Path.rename = killed
with atomic.replacing_folder(Path(sys.argv[1])) as folder:
    (folder / "half").touch()
"""


def kill_between_renames(place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, place], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 9
    assert not place.exists()


@pytest.fixture
def killed(build_once, tmp_path: Path) -> Path:
    """The place of an artifact which was being replaced."""
    place = tmp_path / "artifacts" / "fp32"
    shutil.copytree(build_once("fp32").folder, place)
    kill_between_renames(place)
    return place


def assert_back(place: Path) -> None:
    open_artifact(place)  # checks every sum
    assert not list(place.parent.glob(".*.old"))


def test_predict_puts_an_artifact_back(killed: Path) -> None:
    done = ran("handler", "predict", "--artifact", killed, "good day")
    assert json.loads(done.stdout)["label"]
    assert_back(killed)


def test_a_scoring_job_puts_an_artifact_back(killed: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("good day\nbad day\n")
    options = ("--file", tmp_path / "in.txt", "--output", tmp_path / "out.csv")
    ran("handler", "predict", "--artifact", killed, *options)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3
    assert_back(killed)


def test_the_app_puts_an_artifact_back(killed: Path, monkeypatch) -> None:
    served: list[Artifact] = []
    monkeypatch.setattr(command, "serve", lambda opened, *_: served.append(opened[0].model.artifact))
    ran("deploy", "app", "--artifact", killed)
    assert served[0].name == "fp32"
    assert_back(killed)


def test_drift_puts_an_artifact_back(killed: Path, tmp_path: Path) -> None:
    run_stage("deploy", "drift", "--artifact", killed, "--file", tmp_path / "none.csv")
    assert_back(killed)


def test_packaging_leaves_no_artifact_out(killed: Path, tmp_path: Path) -> None:
    options = ("--artifacts", killed.parent, "--store", tmp_path / "store")
    done = ran("export", "package", *options)
    assert list(json.loads(done.stdout)["archives"]) == ["fp32"]
    assert_back(killed)


def test_a_fetched_version_is_put_back(build_once, tmp_path: Path) -> None:
    place = tmp_path / "fetched"
    package(build_once("fp32"), place)
    kill_between_renames(place)
    ran("export", "promote", "fp32", "--archives", place, "--store", tmp_path / "store")
    assert (tmp_path / "store" / "hate.mar").read_bytes() == (place / "hate-fp32.mar").read_bytes()


def test_a_checkpoint_that_is_trained_on_is_put_back(checkpoint_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_folder, place)
    kill_between_renames(place)
    model, _ = backbone(str(place), ["not-hate", "hate"], 0)
    assert model.num_labels == 2
    assert place.is_dir()


def test_benchmarks_leave_no_artifact_out(killed: Path, source) -> None:
    from benchmarks.inputs import find_artifacts

    found, unusable = find_artifacts([], killed.parent, source.dataset)
    assert (list(found), unusable) == (["fp32"], {})
    assert_back(killed)


def test_a_checkpoint_is_put_back(checkpoint_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_folder, place)
    kill_between_renames(place)
    assert open_checkpoint(place).meta.labels


def test_all_of_a_folder_is_put_back_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        ".a.0123abcd.old",
        ".a.b.0123abcd.old",
        ".c.0123abcd.old",
        ".notes.old",
        ".d.0123abcd.partial",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "c").mkdir()
    recover_all(tmp_path)
    recover_all(tmp_path / "nowhere")
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"a", "a.b", "c", ".c.0123abcd.old", ".notes.old", ".d.0123abcd.partial"}
