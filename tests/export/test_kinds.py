"""What can be made of a decoder, of an encoder under the project's head, and of a model with its own code."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import dynamic_module_utils

from export.archives.package import package
from export.build import build
from export.registry import KINDS, VARIANTS, choose, kind_of, suits
from export.source import Source
from handler.artifact import open_artifact
from handler.errors import UnsupportedError
from handler.pooled_classifier import TRUST
from handler.predictor import Predictor
from tests.bases import save
from tests.conftest import refused
from training import data, pipeline
from training.checkpoint import load_data, open_checkpoint
from training.data import demo
from training.recipe import Recipe

RECIPE = Recipe(epochs=1, learning_rate=1e-3, max_length=32)
TEXTS = [
    "short",
    "a text that is quite a bit longer than the first, so that padding matters",
    "and a third 🐒",
]
# Of each kind what is quick to build here: enough that none of the table's columns is an empty promise.
BUILT = [(kind, "onnx-fp32") for kind in ("gpt2", "own-code", "sentences", "fourier")]
SLOW = [
    *(("gpt2", "openvino-fp32"), ("llama", "onnx-fp32")),
    *((kind, name) for kind in ("sentences", "fourier") for name in ("onnx-int8", "openvino-fp32")),
    *((kind, name) for kind in ("sentences", "fourier") for name in ("openvino-int8", "openvino-bf16")),
    *((kind, name) for kind in ("sentences", "fourier") for name in ("onnx-int8-dynamic", "compiled-bf16")),
    *((kind, name) for kind in ("sentences", "fourier") for name in ("torch-int8-dynamic", "compiled-fp32")),
    *((kind, "compiled-int8") for kind in ("sentences", "fourier")),
    *(("llama", name) for name in ("openvino-fp32", "openvino-bf16")),
    ("own-code", "openvino-fp32"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """The source of a classifier trained from a base of that kind; once each."""
    place = tmp_path_factory.mktemp("kinds")
    rows = demo.corpus(sizes={"train": 300})["train"]
    lines = [json.dumps({"text": row.text, "label": ("not-hate", "hate")[row.label]}) for row in rows]
    (place / "small.jsonl").write_text("\n".join(lines))
    found: dict[str, Source] = {}

    def get(kind: str) -> Source:
        if kind not in found:
            architecture = "sentences" if kind == "fourier" else kind
            base, output = save(architecture, place / kind / "base"), place / kind / "checkpoint"
            dataset = data.load(f"jsonl:{place / 'small.jsonl'}")
            recipe = replace(RECIPE, head="fourier", emoji=True) if kind == "fourier" else RECIPE
            pipeline.train(dataset, base, recipe, output, trust_remote_code=True)
            checkpoint = open_checkpoint(output)
            found[kind] = Source(checkpoint, load_data(checkpoint), place / kind / "artifacts")
        return found[kind]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(place / "modules"))
        patch.syspath_prepend(place / "modules")
        patch.setenv(TRUST, "1")
        yield get


def built(source: Source, name: str):
    try:
        chosen, _ = choose([name])
    except UnsupportedError as error:
        pytest.skip(str(error))
    return [build(variant, source, lambda _: None) for variant in chosen][-1]


@pytest.mark.parametrize(
    ("kind", "name"), [*BUILT, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_each_kind_is_exported_proven_and_checked(kind: str, name: str, made) -> None:
    source = made(kind)
    try:
        artifact = built(source, name)
    except UnsupportedError as error:
        if "crashes" not in str(error):
            raise
        pytest.skip(str(error))
    check = artifact.meta.check
    assert check.max_prob_diff < (1e-4 if "fp32" in name else 0.15), check
    assert check.equal or "fp32" not in name, check
    assert kind_of(source.model().config.to_dict()) in VARIANTS[name].kinds


def test_a_graph_of_a_model_with_code_of_its_own_holds_none_and_asks_for_no_trust(
    made, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made("own-code")
    graph = built(source, "onnx-fp32")
    assert not list(graph.folder.rglob("*.py"))
    eager = source.artifacts / "fp32"
    assert {"modeling_tinylm.py", "configuration_tinylm.py"} <= set(open_artifact(eager).meta.files)
    monkeypatch.delenv(TRUST)
    assert len(Predictor.load(graph.folder).predict(TEXTS)) == 3
    with pytest.raises(UnsupportedError, match=f"its own code.*onnx-fp32.*{TRUST}=1"):
        Predictor.load(eager)


def test_an_archive_of_a_decoder_is_served_by_what_ships_in_it(made, tmp_path: Path) -> None:
    source = made("gpt2")
    artifact = built(source, "fp32")
    archive = package(artifact, tmp_path)
    shutil.unpack_archive(archive, tmp_path / "unpacked", "zip")
    code = (
        "import json, sys; from handler.predictor import Predictor; "
        "print(json.dumps([row.scores.tolist() for row in Predictor.load('artifact').predict(sys.argv[1:])]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TEXTS],
        cwd=tmp_path / "unpacked",
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [row.scores for row in Predictor(artifact).predict(TEXTS)]
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


def test_what_cannot_be_made_of_a_decoder_is_refused_before_any_work(made, tmp_path: Path) -> None:
    folder = made("gpt2").checkpoint.folder
    arguments = ("--checkpoint", folder, "--artifacts", tmp_path / "artifacts")
    said = refused("export", "build", "pruned", *arguments)
    assert "pruned cannot be built here, because it needs: a classifier other than a decoder" in said
    assert "Install it" not in said
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_collective_name_leaves_out_what_cannot_be_made_of_that_kind(kind: str) -> None:
    chosen, left_out = choose(["all"], kind)
    assert all(suits(variant, kind) for variant in chosen)
    offered = {name: variant for name, variant in VARIANTS.items() if not variant.demonstration}
    assert {name for name, variant in offered.items() if not suits(variant, kind)} <= set(left_out)
    assert ("pruned" in left_out) == (kind != "encoder")
