import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec import structs
from transformers import PreTrainedModel

from export import proof
from export.build import _named_modules, build, fingerprint
from export.registry import VARIANTS, Built, Variant
from export.source import Source
from handler.artifact import open_artifact
from handler.errors import UserError
from handler.machine import Gpu
from tests.conftest import ran, refused, run_stage

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


def test_a_corrupt_artifact_is_built_again(own: Source) -> None:
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


def test_what_was_made_for_one_kind_of_gpu_is_stale_on_another_and_what_is_for_cpus_is_not(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prints() -> list[str]:
        return [fingerprint(VARIANTS[name], source) for name in ("fp32", "cuda-compiled-fp16")]

    seen = []
    for capability in ((8, 0), (9, 0)):
        cards = [Gpu("a card", capability, 1 << 30)]
        monkeypatch.setattr("export.build.gpus", lambda cards=cards: cards)
        seen.append(prints())
    (on_cpu, on_gpu), (same, other) = seen
    assert on_cpu == same
    assert on_gpu != other


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


def changed(source: Source, folder: Path, shift: float = 0, scale: float = 1) -> PreTrainedModel:
    """Save the model with another bias and other weights of its classifier."""
    model = source.model()
    with torch.no_grad():
        model.classifier.bias.add_(torch.tensor([shift, -shift]))
        model.classifier.weight.mul_(scale)
    model.save_pretrained(folder)
    return model


def damaged(source: Source, folder: Path) -> Built:
    changed(source, folder, scale=-1)
    return Built({"summary": "damaged"}, {"dtype": "float32"})


def shifted(source: Source, folder: Path) -> Built:
    changed(source, folder, shift=3)
    return Built({"summary": "shifted"}, {"dtype": "float32"})


def test_a_variant_is_compared_with_what_fp32_says_and_a_bad_one_is_recorded(own: Source) -> None:
    build(FP32, own, quiet)
    check = build(Variant("damaged", "an inverted head", "torch", damaged), own, quiet).meta.check
    assert not check.equal
    assert check.macro_f1_drop[1] > 0.1


def test_a_shift_of_all_scores_is_taken_back_before_the_check(own: Source) -> None:
    build(FP32, own, quiet)
    meta = build(Variant("shifted", "a shifted bias", "torch", shifted), own, quiet).meta
    assert meta.logit_offsets == pytest.approx([0, 6], abs=0.01)
    assert meta.check.equal
    assert meta.check.max_prob_diff < 0.002


def needing(count: int, tries: list[int]):
    """A variant that is only right when it is allowed to leave `count` layers in float."""

    def quantised(source: Source, folder: Path, leave: Collection[str] = ()) -> Built:
        tries.append(len(leave))
        changed(source, folder, scale=0 if len(leave) < count else 1)
        return Built({"summary": f"left {len(leave)}", "left": sorted(leave)}, {"dtype": "float32"})

    return Variant("stubborn", "wrong unless some layers stay in float", "torch", quantised)


def test_what_is_not_equal_is_built_again_with_its_worst_layers_left_in_float(own: Source) -> None:
    build(FP32, own, quiet)
    tries: list[int] = []
    said: list[str] = []
    built = build(needing(3, tries), own, said.append)
    assert tries == [0, 1, 2, 4]
    assert built.meta.check.equal
    assert len(built.meta.proof["left"]) == 4
    assert any("4 layers left in float" in line for line in said)
    assert sorted(path.name for path in own.artifacts.iterdir()) == ["fp32", "stubborn"]


def test_what_cannot_be_made_equal_says_so_and_leaves_no_layer_in_float(own: Source) -> None:
    build(FP32, own, quiet)
    tries: list[int] = []
    meta = build(needing(99, tries), own, quiet).meta
    assert tries == [0, 1, 2, 4]  # of 14 layers, at most half
    assert not meta.check.equal
    assert "leaving up to 4 layers in float did not help" in meta.check.note
    assert meta.proof["summary"] == "left 0"


def test_random_weights_tune_nothing(own: Source) -> None:
    recipe = own.checkpoint.meta.recipe | {"epochs": 0}
    untrained = replace(
        own, checkpoint=replace(own.checkpoint, meta=structs.replace(own.checkpoint.meta, recipe=recipe))
    )
    build(FP32, untrained, quiet)
    tries: list[int] = []
    check = build(needing(3, tries), untrained, quiet).meta.check
    assert tries == [0]
    assert check.macro_f1 is None


def test_a_retry_that_breaks_leaves_what_was_built_at_first(own: Source) -> None:
    def quantised(source: Source, folder: Path, leave: Collection[str] = ()) -> Built:
        if leave:
            raise RuntimeError("out of memory")
        return needing(1, []).build(source, folder)

    build(FP32, own, quiet)
    check = build(Variant("stubborn", "", "torch", quantised), own, quiet).meta.check
    assert not check.equal
    assert "with 1 layers left in float: stubborn could not be built" in check.note


def test_what_a_killed_retry_left_is_removed(own: Source) -> None:
    (own.artifacts / ".fp32.0123abcd.partial" / ".retry").mkdir(parents=True)
    build(FP32, own, quiet)
    assert [path.name for path in own.artifacts.iterdir()] == ["fp32"]


def test_an_exporter_that_breaks_is_a_sentence_its_traceback_a_file_and_the_old_artifact_stays(
    own: Source,
) -> None:
    def broken(source: Source, folder: Path) -> Built:
        (folder / "half").write_bytes(b"written")
        raise RuntimeError("no such operator\nand much more")

    kept = build(FP32, own, quiet)
    with pytest.raises(UserError, match=r"fp32 could not be built: RuntimeError: no such operator\."):
        build(Variant("fp32", "breaks", "torch", broken, parent=None), own, quiet)
    assert open_artifact(kept.folder).sha256 == kept.sha256
    assert "and much more" in (own.artifacts / "fp32.failed.txt").read_text()
    assert sorted(path.name for path in own.artifacts.iterdir()) == ["fp32", "fp32.failed.txt"]
    shutil.rmtree(kept.folder)
    build(FP32, own, quiet)
    assert [path.name for path in own.artifacts.iterdir()] == ["fp32"], "it is built: no traceback lies about"


def test_a_disk_that_fails_is_no_fault_of_the_exporter(own: Source) -> None:
    def unlucky(source: Source, folder: Path) -> Built:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder / "config.json"))

    with pytest.raises(UserError, match=r"the disk has read or write errors: .*config\.json"):
        build(Variant("fp32", "unlucky", "torch", unlucky, parent=None), own, quiet)
    assert not list(own.artifacts.iterdir())


def test_a_full_disk_is_a_sentence_and_leaves_nothing(checkpoint_folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files, which a write meets in the middle as it does the end of a disk."""
    artifacts = tmp_path / "artifacts"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        arguments = ("--checkpoint", checkpoint_folder, "--artifacts", artifacts)
        done = run_stage("export", "build", "fp32", *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.returncode == 2, done.stderr
    assert "error: the file would exceed the size limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(artifacts.iterdir())


def test_a_folder_that_cannot_be_written_is_a_sentence(own: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"the artifact cannot be written: .*Not a directory"):
        build(FP32, replace(own, artifacts=tmp_path / "file" / "artifacts"), quiet)


def test_a_variants_child_is_made_from_its_parents_model(own: Source) -> None:
    def halved(source: Source, folder: Path) -> Built:
        model = changed(source, folder, scale=0.5)
        return Built({"summary": str(float(model.classifier.weight.abs().sum()))}, {"dtype": "float32"})

    build(FP32, own, quiet)
    VARIANTS["half"] = Variant("half", "", "torch", halved)
    VARIANTS["half-half"] = Variant("half-half", "", "torch", halved, parent="half")
    try:
        first, second = (
            float(build(VARIANTS[name], own, quiet).meta.proof["summary"]) for name in ("half", "half-half")
        )
    finally:
        del VARIANTS["half"], VARIANTS["half-half"]
    assert second == pytest.approx(first / 2)


def test_a_change_of_a_module_that_a_variant_names_at_any_remove_makes_it_stale() -> None:
    code = "def build():\n    from export import proof\n    from export.rewriting.onnx_graph import export\n"
    named = _named_modules(code)
    assert {
        "export/proof.py",
        "export/rewriting/onnx_graph.py",
        "export/rewriting/graph.py",
        "export/rewriting/quantise.py",
    } <= set(named)


def test_a_child_of_what_is_not_equal_is_built_once(own: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    build(FP32, own, quiet)
    tries: list[int] = []
    monkeypatch.setitem(VARIANTS, "damaged", Variant("damaged", "", "torch", damaged))
    build(VARIANTS["damaged"], own, quiet)
    check = build(replace(needing(3, tries), parent="damaged"), own, quiet).meta.check
    assert tries == [0]
    assert not check.equal


@pytest.mark.slow
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
    done = ran("export", "build", "fp32", "--checkpoint", checkpoint_folder, "--artifacts", artifacts)
    assert json.loads(done.stdout)["fp32"]["check"]["max_prob_diff"] < 1e-5
    assert [path.name for path in artifacts.iterdir()] == ["fp32"], "what the killed build left is removed"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build", "fp33"], "Did you mean fp32"),
        (["build", "pruned", "--keep", "1.5"], "must be above 0 and at most 1"),
        (["build", "--checkpoint", "nowhere"], "python -m training train"),
        (["package", "--artifacts", "nowhere"], "python -m export build"),
        (["promote", "fp32", "--store", "nowhere"], "no such archive"),
    ],
    ids=["misspelt", "share", "checkpoint", "artifacts", "archive"],
)
def test_a_mistake_is_one_sentence_and_status_2(arguments: list[str], expected: str) -> None:
    assert expected in refused("export", *arguments)


def test_the_list_shows_every_variant() -> None:
    listed = run_stage("export", "--list").stderr
    assert all(name in listed for name in VARIANTS)
