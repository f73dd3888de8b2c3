import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from export import proof
from export.build import build, fingerprint
from export.registry import VARIANTS, Built, Variant
from export.source import Source
from handler.artifact import open_artifact
from handler.errors import UserError
from tests.conftest import run_stage

FP32 = VARIANTS["fp32"]


@pytest.fixture
def own(source: Source, tmp_path: Path) -> Source:
    """The session's checkpoint with an artifact folder of the test's own."""
    return replace(source, artifacts=tmp_path / "artifacts")


def quiet(_: str) -> None: ...


def test_what_is_fresh_is_not_built_again(own: Source) -> None:
    first = build(FP32, own, quiet)
    stamp = (first.folder / "artifact.json").stat().st_mtime_ns
    said: list[str] = []
    build(FP32, own, said.append)
    assert said == ["fp32: fresh"]
    assert (first.folder / "artifact.json").stat().st_mtime_ns == stamp


def test_a_corrupt_artifact_is_built_anew(own: Source) -> None:
    first = build(FP32, own, quiet)
    (first.folder / "model.safetensors").write_bytes(b"broken")
    build(FP32, own, quiet)
    open_artifact(first.folder)


def test_other_weights_make_an_artifact_stale(own: Source, tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(own.checkpoint.folder, copy)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    other = replace(own, checkpoint=replace(own.checkpoint, folder=copy))
    assert fingerprint(FP32, other) != fingerprint(FP32, own)


def lying(source: Source, folder: Path) -> Built:
    """A variant that promises int8 and delivers nothing of the kind."""
    model = source.model()
    model.save_pretrained(folder)
    facts = proof.torch_weights(model)
    proof.require("int8" in facts["linear_dtypes"], "int8 weights", facts["linear_dtypes"])
    return Built(facts)


def test_a_missing_proof_fails_the_export_and_leaves_the_old_artifact(own: Source) -> None:
    kept = build(FP32, own, quiet)
    liar = Variant("fp32", "int8 in name only", "torch", lying, parent=None)
    with pytest.raises(UserError, match=r"proof is missing: expected int8 weights: \{'float32': 14\}"):
        build(liar, own, quiet)
    assert open_artifact(kept.folder).sha256 == kept.sha256
    assert [path.name for path in own.artifacts.iterdir()] == ["fp32"], "nothing half-built lies about"


def test_a_variant_is_compared_with_what_fp32_says_and_a_bad_one_is_recorded(own: Source) -> None:
    def damaged(source: Source, folder: Path) -> Built:
        import torch

        model = source.model()
        with torch.no_grad():
            model.classifier.bias.add_(torch.tensor([3.0, -3.0]))
        model.save_pretrained(folder)
        return Built(proof.torch_weights(model), {"dtype": "float32"})

    build(FP32, own, quiet)
    check = build(Variant("damaged", "a shifted bias", "torch", damaged), own, quiet).meta["check"]
    assert not check["equal"]
    assert check["macro_f1_drop"][1] > 0.1


def test_a_build_that_is_killed_leaves_no_half_artifact(checkpoint_folder: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    command = [sys.executable, "-m", "export", "build", "fp32", "--checkpoint", checkpoint_folder]
    process = subprocess.Popen(
        [*command, "--artifacts", artifacts], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(artifacts.glob(".fp32.*.partial")) and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (artifacts / "fp32" / "artifact.json").exists() or open_artifact(artifacts / "fp32")
    done = run_stage("export", "build", "fp32", "--checkpoint", checkpoint_folder, "--artifacts", artifacts)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fp32"]["check"]["max_prob_diff"] < 1e-5
    assert [path.name for path in artifacts.iterdir()] == ["fp32"], (
        "the leavings of the killed build are removed"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build", "fp33"], "Did you mean fp32"),
        (["build", "--checkpoint", "nowhere"], "make train"),
        (["package", "--artifacts", "nowhere"], "make export"),
        (["promote", "fp32", "--store", "nowhere"], "no such archive"),
    ],
    ids=["misspelt", "checkpoint", "artifacts", "archive"],
)
def test_a_mistake_is_one_sentence_and_status_2(arguments: list[str], expected: str) -> None:
    done = run_stage("export", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_shows_every_variant() -> None:
    listed = run_stage("export", "--list").stderr
    assert all(name in listed for name in VARIANTS)
