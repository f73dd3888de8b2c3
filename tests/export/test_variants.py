"""Every variant, whatever is registered: build, write, reload, compare."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import export.variants  # noqa: F401
from export.build import build, fingerprint
from export.check import ask, check
from export.registry import VARIANTS
from export.variants import openvino
from handler.errors import UnsupportedError
from handler.machine import cpu_features
from handler.predictor import Predictor
from handler.runtimes import _openvino_core
from tests.house import schemas

LONG = ("shallow", "shallow-openvino-int8")  # trained


def marks(name: str) -> list[pytest.MarkDecorator]:
    if "compiled" in name:
        return [pytest.mark.compiler]
    return [pytest.mark.slow] if name in LONG else []


EACH = [pytest.param(name, marks=marks(name)) for name in VARIANTS]


@pytest.mark.parametrize("name", EACH)
def test_the_reloaded_artifact_agrees_with_fp32_within_its_recorded_check(
    name: str, build_once, source
) -> None:
    artifact = build_once(name)
    texts = source.dataset.splits["validation"].texts
    scores, reference = (
        np.array([prediction.scores for prediction in Predictor.load(folder).predict(texts)])
        for folder in (artifact.folder, source.artifacts / "fp32")
    )
    recorded = artifact.meta.check
    assert np.abs(scores - reference).max() <= recorded.max_prob_diff + recorded.batch_mate_diff + 1e-6
    assert reference[:, 1].std() > 0.1, "the tiny classifier tells texts apart"
    alike = np.corrcoef(scores[:, 1], reference[:, 1])[0, 1]
    if "static" in name or "cascade" in name:  # word embeddings are another classifier, and answer much here
        assert alike > 0.6
        return
    # 600 texts of a tiny classifier cannot always prove it: a few that lie at the threshold decide.
    assert recorded.equal or recorded.label_agreement >= 0.98, str(recorded)
    assert alike > 0.99


@pytest.mark.parametrize("name", EACH)
def test_the_description_fits_its_schema_and_lists_every_file(name: str, build_once) -> None:
    artifact = build_once(name)
    schema = json.loads(schemas.ARTIFACT.read_text())
    jsonschema.validate(json.loads((artifact.folder / "artifact.json").read_text()), schema)
    files = {
        path.relative_to(artifact.folder).as_posix() for path in artifact.folder.rglob("*") if path.is_file()
    }
    assert files == {*artifact.meta.files, "artifact.json"}


@pytest.mark.parametrize("name", EACH)
def test_loaded_again_it_gives_the_scores_of_its_export_to_made_sequences(name: str, build_once) -> None:
    found = Predictor(build_once(name)).self_check
    assert (found.status, found.sequences) == ("same", 64), found


@pytest.mark.parametrize("name", EACH)
def test_a_score_hardly_depends_on_the_batch_mates_in_any_shape(name: str, build_once) -> None:
    assert build_once(name).meta.check.batch_mate_diff < 0.05


def test_quantised_artifacts_prove_that_they_are(build_once) -> None:
    """The tiny model has 14 linear layers, six in each of two layers and the head's two; where query, key and
    value are one product (in the last layer key and value) 11 products are left."""
    assert build_once("fp32").meta.proof["linear_dtypes"] == {"float32": 14}
    assert build_once("torch-int8-dynamic").meta.proof["int8_linears"] == 14
    assert build_once("openvino-int8").meta.proof["integer_matmuls"] >= 11


def largest_int8(folder: Path, tables: Collection[int]) -> int:
    """Of all weights that are stored as int8 and multiplied: `tables` are the lengths of the embeddings."""
    if (folder / "model.onnx").exists():
        import onnx

        graph = onnx.load(folder / "model.onnx").graph
        weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    else:
        constants = _openvino_core().read_model(folder / "model.xml").get_ops()
        weights = [op.data for op in constants if op.get_type_name() == "Constant"]
    return max(
        int(np.abs(each.astype(int)).max())
        for each in weights
        if each.dtype == np.int8 and each.size > 1 and each.shape[0] not in tables  # scalars are zero points
    )


@pytest.mark.parametrize("name", ["openvino-int8", "onnx-int8"])
def test_portable_int8_has_weights_of_seven_bits(name: str, build_once, source, tmp_path: Path) -> None:
    config = json.loads((source.checkpoint.folder / "config.json").read_text())
    tables = {config["vocab_size"], config["max_position_embeddings"]}
    assert largest_int8(build_once(name).folder, tables) >= 127
    own = replace(source, artifacts=tmp_path, portable=True)
    shutil.copytree(build_once("fp32").folder, tmp_path / "fp32")
    portable = build(VARIANTS[name], own, print)
    assert largest_int8(portable.folder, tables) <= 64
    assert portable.meta.proof["portable"]
    assert portable.meta.check.label_agreement >= 0.97
    assert build(VARIANTS[name], own, print).meta.build == portable.meta.build, "it is fresh"
    assert fingerprint(VARIANTS[name], own) != fingerprint(VARIANTS[name], source)
    if name == "openvino-int8" and "avx512_vnni" in cpu_features():
        assert moved_without_vnni(portable.folder) == 0
        assert moved_without_vnni(build_once(name).folder) > 0


LOGITS = """
import json, sys
from handler.predictor import Predictor
predictor = Predictor.load(sys.argv[1], 1)
print(json.dumps(predictor.logits(predictor.encode(["a text", "you are all the same to me"])).tolist()))
"""


def moved_without_vnni(folder: Path) -> float:
    """By how much logits move with the kernels of a CPU that has neither VNNI nor bf16."""

    def logits(environment: dict[str, str]) -> np.ndarray:
        command = [sys.executable, "-c", LOGITS, str(folder)]
        environment = {**os.environ, "SELF_CHECK_ON_MISMATCH": "warn", **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return np.array(json.loads(done.stdout))

    return float(np.abs(logits({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}) - logits({})).max())


@pytest.mark.compiler
def test_compiled_artifacts_call_a_narrow_kernel_for_each_linear_layer(build_once) -> None:
    assert build_once("compiled-int8").meta.proof["int8_linears"] == 11
    proof = build_once("compiled-bf16").meta.proof
    assert proof["generated_linears"] + proof["library_linears"] == 11
    assert proof["constants"]["bfloat16"] >= 11


def test_the_traced_graph_reads_the_texts_and_the_mask(source) -> None:
    """torch.export folds two example inputs that are one tensor into one, and the graph reads only it."""
    import torch

    from export.rewriting.graph import trace

    model = source.model()
    graph = trace(model, 128).module()
    for batch, length, padding in ((1, 2, 0), (3, 20, 7), (8, 128, 50)):
        ids = torch.randint(1000, 30000, (batch, length))
        mask = torch.ones_like(ids)
        mask[0, length - padding :] = 0
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(graph(ids, mask), expected, atol=1e-5, rtol=0)


def test_a_runtime_that_is_wrong_for_one_shape_alone_is_not_equal(build_once, source) -> None:
    predictor = Predictor(build_once("fp32"))
    (model,) = predictor.models
    sound = model.forward

    def wrong_at_one_length(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return sound(ids, mask) + 3 * (ids.shape == (4, predictor.grid.lengths[1])) * np.array(
            [-1, 1], np.float32
        )

    model.forward = wrong_at_one_length
    answers = ask(predictor, source)
    assert not check(predictor, source, answers, predictor.scores(answers.logits))[0].equal


def test_a_runtime_that_crashes_costs_its_variant_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -FPE $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(UnsupportedError, match=r"OpenVINO crashes .*SIGFPE.* openvino-fp32"):
        openvino._compiled(tmp_path / "model.xml", {})
