import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from common.atomic import write_json
from export.archives.package import SHIPPED, package
from export.archives.promote import promote
from handler.artifact import Artifact, archived_artifact
from handler.errors import UserError
from handler.records import plain
from tests.conftest import ran, refused
from tests.descriptions import changed
from tests.training.measures.test_gate_ledger import candidate
from training.measures.gate_ledger import judge
from training.measures.noninferiority import PASS, UNPROVEN


@pytest.fixture(scope="module")
def fp32(build_once) -> Artifact:
    return build_once("fp32")


def test_the_same_artifact_gives_the_same_bytes(fp32: Artifact, tmp_path: Path) -> None:
    first = package(fp32, tmp_path / "a").read_bytes()
    assert package(fp32, tmp_path / "b").read_bytes() == first


def test_an_archive_holds_the_artifact_the_handler_and_the_settings_and_nothing_else(
    fp32: Artifact, tmp_path: Path
) -> None:
    archive = package(fp32, tmp_path)
    names = set(zipfile.ZipFile(archive).namelist())
    artifact = {f"artifact/{name}" for name in (*fp32.meta.files, "artifact.json")}
    code = {f"handler/{name}" for name in SHIPPED} | {"classifier_handler.py"}
    assert names == artifact | code | {"model-config.yaml", "MAR-INF/MANIFEST.json"}
    assert archived_artifact(archive).meta == fp32.meta
    assert [path.name for path in tmp_path.iterdir()] == ["hate-fp32.mar"], "no staging is left"


@pytest.mark.slow
def test_shipped_code_runs_without_the_rest_of_the_project(fp32: Artifact, tmp_path: Path) -> None:
    with zipfile.ZipFile(package(fp32, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked")
    code = "import classifier_handler as h; print(len(h.Predictor.load('artifact').predict(['a'])))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "1", done.stderr


def test_promotion_copies_the_archive(fp32: Artifact, tmp_path: Path) -> None:
    archive = package(fp32, tmp_path)
    assert promote("fp32", tmp_path).read_bytes() == archive.read_bytes()
    apart = tmp_path / "served"
    assert promote("fp32", apart, archives=tmp_path).read_bytes() == archive.read_bytes()
    assert [path.name for path in apart.iterdir()] == ["hate.mar"]


def test_what_is_not_equal_is_promoted_only_by_force(artifact_copy: Artifact, tmp_path: Path) -> None:
    unequal = replace(artifact_copy.meta, check=replace(artifact_copy.meta.check, equal=False))
    write_json(artifact_copy.folder / "artifact.json", unequal)
    store = tmp_path / "store"
    package(artifact_copy, store)
    with pytest.raises(UserError, match="is not promoted"):
        promote("fp32", store)
    assert not (store / "hate.mar").exists()
    promote("fp32", store, force=True)
    assert (store / "hate.mar").exists()


def test_what_is_named_is_promoted_by_its_verdict_on_the_gate(
    artifact_copy: Artifact, tmp_path: Path
) -> None:
    """The screen at export is not the last guard."""
    variant = changed(artifact_copy, parent="fp32", name="int8")
    write_json(variant.folder / "artifact.json", plain(variant.meta))
    store, ledger = tmp_path / "store", tmp_path / "gate-ledger.json"
    sha256 = archived_artifact(package(variant, store)).sha256
    with pytest.raises(UserError, match="nothing proves that int8 is equal to fp32"):
        promote("int8", store, ledger=ledger)
    for p, decisions in ((0.5, "doubtful"), (0.0001, "sure")):
        judge(ledger, ["a text"], [candidate("int8", p, sha256=sha256, decisions=decisions)], 0.01)
        if p == 0.5:
            with pytest.raises(UserError, match="int8 is not proven to be equal to fp32") as refusal:
                promote("int8", store, ledger=ledger)
            assert "inconclusive at a margin of 0.01 (p = 0.5, 0.019 needed)" in str(refusal.value)
            promote("int8", store, ledger=ledger, force=True)
    promote("int8", store, ledger=ledger)


def test_promotion_refuses_what_the_model_may_have_seen_until_it_is_said_that_it_did_not(
    artifact_copy: Artifact, tmp_path: Path
) -> None:
    variant = changed(artifact_copy, parent="fp32", name="int8")
    write_json(variant.folder / "artifact.json", plain(variant.meta))
    store, ledger = tmp_path / "store", tmp_path / "gate-ledger.json"
    asked = candidate("int8", sha256=archived_artifact(package(variant, store)).sha256)
    seen = replace(asked, may_have_seen=True)
    assert judge(ledger, ["a text"], [seen], 0.01)["int8"].verdict == UNPROVEN
    with pytest.raises(UserError, match="the model may have seen these texts") as refusal:
        promote("int8", store, ledger=ledger)
    assert "--gate FILE" in str(refusal.value)
    promote("int8", store, ledger=ledger, force=True)
    assert judge(ledger, ["a text"], [asked], 0.01)["int8"].verdict == PASS
    promote("int8", store, ledger=ledger)


def test_fp32_needs_no_verdict(fp32: Artifact, tmp_path: Path) -> None:
    package(fp32, tmp_path)
    promote("fp32", tmp_path, ledger=tmp_path / "no-ledger.json")


def test_a_failed_package_keeps_the_old_archive(artifact_copy: Artifact, tmp_path: Path) -> None:
    store = tmp_path / "store"
    kept = package(artifact_copy, store).read_bytes()
    shutil.rmtree(artifact_copy.folder)
    with pytest.raises(OSError, match="No such file"):
        package(artifact_copy, store)
    assert (store / "hate-fp32.mar").read_bytes() == kept
    assert [path.name for path in store.iterdir()] == ["hate-fp32.mar"]


@pytest.mark.server
def test_verify_asks_a_real_server_and_finds_the_artifact_served(build_once, workshop: Path) -> None:
    archive = package(build_once("onnx-int8-dynamic"), workshop / "verify-store")
    done = ran("export", "verify", archive)
    assert "serves its artifact" in done.stderr


def test_one_corrupt_byte_in_an_archive_is_a_sentence(fp32: Artifact, tmp_path: Path) -> None:
    archive = package(fp32, tmp_path)
    whole = bytearray(archive.read_bytes())
    whole[len(whole) // 2] ^= 1
    archive.write_bytes(whole)
    assert "corrupt" in refused("export", "verify", archive)


def test_an_archive_that_is_not_what_was_measured_is_not_promoted(fp32: Artifact, tmp_path: Path) -> None:
    package(fp32, tmp_path)
    with pytest.raises(UserError, match="does not hold the artifact that was measured"):
        promote("fp32", tmp_path, sha256="0" * 64)
    promote("fp32", tmp_path, sha256=fp32.sha256)


def test_an_artifact_of_another_checkpoint_is_not_packaged_with_fp32(fp32: Artifact, tmp_path: Path) -> None:
    for name in ("fp32", "old"):
        shutil.copytree(fp32.folder, tmp_path / "artifacts" / name)
    meta = replace(fp32.meta, name="old", build=replace(fp32.meta.build, checkpoint_sha256="0" * 64))
    write_json(tmp_path / "artifacts" / "old" / "artifact.json", meta)
    done = ran("export", "package", "--artifacts", tmp_path / "artifacts", "--store", tmp_path / "store")
    assert "old: left out" in done.stderr
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["hate-fp32.mar", "hate.mar"]


def test_an_archive_for_gpus_leaves_the_number_of_workers_to_the_machine_that_serves_it(
    fp32: Artifact, tmp_path: Path
) -> None:
    """TorchServe then starts one for each GPU."""
    settings = []
    for name, devices in (("on-cpu", ["cpu"]), ("on-gpu", ["cuda"])):
        artifact = changed(fp32, name=name, devices=devices)
        with zipfile.ZipFile(package(artifact, tmp_path)) as archive:
            settings.append(yaml.safe_load(archive.read("model-config.yaml")))
    on_cpu, on_gpu = settings
    assert (on_cpu["deviceType"], on_cpu["minWorkers"], on_cpu["maxWorkers"]) == ("cpu", 1, 1)
    assert on_gpu["deviceType"] == "gpu"
    assert not {"minWorkers", "maxWorkers"} & on_gpu.keys()
    assert on_gpu["batchSize"] > on_cpu["batchSize"]
    assert on_gpu["handler"] == on_cpu["handler"]
