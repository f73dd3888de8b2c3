import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from common.atomic import write_json
from handler.artifact import Artifact, describe_files, open_artifact
from handler.errors import UnsupportedError, UserError
from handler.machine import available_cpus, cpu_features, cpu_model
from handler.records import plain
from tests.descriptions import changed


def change(artifact: Artifact, **fields: object) -> None:
    write_json(artifact.folder / "artifact.json", plain(artifact.meta) | fields)


def test_a_missing_artifact_is_a_sentence_that_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m export build openvino-int8"):
        open_artifact(tmp_path / "openvino-int8")


def test_another_schema_is_refused(artifact_copy: Artifact) -> None:
    change(artifact_copy, schema=99)
    with pytest.raises(UserError, match="from another version"):
        open_artifact(artifact_copy.folder)


def test_one_flipped_bit_in_any_file_is_found(artifact_copy: Artifact) -> None:
    for name in artifact_copy.meta.files:
        path = artifact_copy.folder / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(UserError, match="corrupt"):
            open_artifact(artifact_copy.folder)
        path.write_bytes(whole)
    open_artifact(artifact_copy.folder)


def test_a_file_that_has_gone_is_named(artifact_copy: Artifact) -> None:
    (artifact_copy.folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"missing: .*tokenizer\.json"):
        open_artifact(artifact_copy.folder)


def test_an_artifact_for_another_cpu_is_refused_before_it_runs(artifact_copy: Artifact) -> None:
    change(artifact_copy, cpu_features=["avx9000"])
    with pytest.raises(UnsupportedError, match="avx9000"):
        open_artifact(artifact_copy.folder)


def test_the_identity_follows_what_is_computed_and_not_when_it_was_built(artifact_copy: Artifact) -> None:
    build = replace(artifact_copy.meta.build, seconds=1e6)
    same = changed(artifact_copy, build=build, summary="other words")
    other = changed(artifact_copy, temperature=2.0)
    assert same.sha256 == artifact_copy.sha256 != other.sha256


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"kept": True})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"lost": float("nan")})
    assert json.loads(path.read_text()) == {"kept": True}
    assert describe_files(tmp_path).keys() == {"value.json"}, "nothing half-written lies about"


def test_the_machine_knows_itself() -> None:
    assert available_cpus() >= 1
    assert cpu_model()
    assert set(cpu_features()) <= set(Path("/proc/cpuinfo").read_text().split())


def test_a_folder_that_cannot_be_listed_is_said(artifact_copy: Artifact, monkeypatch) -> None:
    """What lies in it might be anything."""
    (artifact_copy.folder / "hidden").mkdir()
    scandir = os.scandir

    def unable(path):
        if str(path).endswith("hidden"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", unable)
    with pytest.raises(UserError, match=r"the artifact cannot be read: .*hidden: Permission denied"):
        open_artifact(artifact_copy.folder)
    with pytest.raises(PermissionError):
        describe_files(artifact_copy.folder)
