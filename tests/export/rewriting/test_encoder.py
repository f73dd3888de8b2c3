"""Our own encoder is the model that it was made of, in every form that GPUs run; here it runs on the CPU."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.archives.package import package
from export.build import build
from export.registry import Built, Variant
from export.rewriting.encoder import encoder_of, quantise
from export.source import Source
from export.variants.cuda import scaled_calls, to_float, write_encoder
from handler.artifact import Artifact
from handler.batching import Grid
from handler.cuda import packed, staged
from handler.encoder import Encoder
from handler.errors import UnsupportedError
from handler.predictor import Predictor
from handler.runtimes import read_encoder
from tests.export.rewriting.test_graph import classifier
from tests.versions import skip_without_archiver, skip_without_fp8_on_cpu, skip_without_pruned_heads

FAMILIES = ("DistilBert", "Bert", "Roberta", "XLMRoberta")
PAD = 1


def model_of(family: str, **more: object):
    """Of weights so large that logits lie about 1 and what differs is seen."""
    model = classifier(family, initializer_range=0.3, pad_token_id=PAD, **more)
    with torch.no_grad():
        expected = model(torch.tensor([[0, 7, 9]])).logits
    assert expected.abs().max() > 0.1
    return model


def padded(lengths: list[int], pad_inside: bool = False) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.where(mask, draw.integers(5, 1000, mask.shape), PAD)
    if pad_inside:
        ids[0, 2] = PAD  # a text may spell the token out
    return ids, mask


@pytest.mark.parametrize("pad_inside", [False, True], ids=["plain", "with-a-pad-token-in-the-text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_and_packed_it_computes_what_transformers_does(family: str, pad_inside: bool) -> None:
    model = model_of(family)
    batches = [padded([20, 2, 7, 13], pad_inside), padded([5]), padded([64] * 3)]
    with torch.no_grad():
        expected = [model(torch.tensor(ids), torch.tensor(mask)).logits.numpy() for ids, mask in batches]
    encoder = encoder_of(model)
    for form in (staged(encoder, "cpu"), packed(encoder, "cpu")):
        for batch, logits in zip(batches, expected, strict=True):
            np.testing.assert_allclose(form(*batch), logits, atol=1e-5, rtol=0)


def test_pruned_heads_and_other_activations_are_taken_over() -> None:
    model = model_of("DistilBert", activation="relu")
    skip_without_pruned_heads()
    model.prune_heads({0: [1]})
    ids, mask = padded([9, 4])
    with torch.no_grad():
        expected = model(torch.tensor(ids), torch.tensor(mask)).logits
    encoder = encoder_of(model)
    assert encoder.anatomy.heads == (1, 2)
    np.testing.assert_allclose(packed(encoder, "cpu")(ids, mask), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "more"),
    [("Electra", {}), ("MPNet", {}), ("DebertaV2", {}), ("Bert", {"hidden_act": "silu"})],
)
def test_another_form_is_refused_with_a_sentence(family: str, more: dict) -> None:
    with pytest.raises(UnsupportedError, match=r"cannot be converted to .* own encoder: .*cuda-fp16"):
        encoder_of(classifier(family, **more))


def test_what_is_left_in_float_is_named_as_in_the_model() -> None:
    model = model_of("DistilBert")
    encoder = encoder_of(model)
    leave = ["distilbert.transformer.layer.0.attention.k_lin", "distilbert.transformer.layer.1.ffn.lin2"]
    assert quantise(encoder, model, torch.int8, leave) == ["layers.0.query_key_value", "layers.1.down"]
    assert scaled_calls(encoder, 7) == 9 - 2  # four products in the first layer, five in the last


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=["int8", "fp8"])
def test_products_of_int8_and_fp8_come_back_from_the_file_as_such(dtype: torch.dtype, tmp_path: Path) -> None:
    if dtype != torch.int8:
        skip_without_fp8_on_cpu()
    model = model_of("Bert")
    ids, mask = padded([20, 7])
    encoder = encoder_of(model)
    quantise(encoder, model, dtype)
    facts, options = write_encoder(to_float(encoder, torch.bfloat16), tmp_path)
    name = str(dtype).removeprefix("torch.")
    assert facts["linear_dtypes"] == {name: 9, "bfloat16": 2}
    reloaded = read_encoder(tmp_path, json.loads(json.dumps(options)), "cpu")
    assert scaled_calls(reloaded, 7) == 9
    np.testing.assert_array_equal(staged(reloaded, "cpu")(ids, mask), staged(encoder, "cpu")(ids, mask))


def on_cpu(dtype: str, packs: bool, products: str | None = None):
    """A variant as those for GPUs are, but for the CPU."""

    def write(source: Source, folder: Path) -> Built:
        model = source.model()
        encoder = encoder_of(model)
        if products:
            quantise(encoder, model, getattr(torch, products))
        facts, options = write_encoder(to_float(encoder, getattr(torch, dtype)), folder)
        grid = replace(source.packed_grid, batches=(1, 2, 8, 64)) if packs else None
        return Built(facts | {"summary": ""}, options | {"packed": packs}, grid=grid)

    name = f"{'packed' if packs else 'padded'}-{products or dtype}".replace("_", "-")
    return Variant(name, "for this test", "torch", write)


@pytest.fixture(scope="module")
def workbench(build_once, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A folder of artifacts with fp32 in it."""
    own = replace(source, artifacts=tmp_path_factory.mktemp("encoders"))
    shutil.copytree(build_once("fp32").folder, own.artifacts / "fp32")
    return own


@pytest.mark.parametrize(
    ("form", "bound"),
    [
        (("float32", False), 1e-5),
        (("float32", True), 1e-5),
        (("float16", True), 0.01),
        (("float16", False, "int8"), 0.1),
        (("bfloat16", False, "float8_e4m3fn"), 0.2),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_an_artifact_of_it_is_built_reloaded_and_held_against_fp32(
    form: tuple, bound: float, workbench: Source
) -> None:
    if "float8_e4m3fn" in form:
        skip_without_fp8_on_cpu()
    artifact: Artifact = build(on_cpu(*form), workbench, print)
    assert artifact.meta.check.max_prob_diff <= bound
    assert artifact.meta.check.batch_mate_diff <= bound
    assert artifact.meta.check.label_agreement > 0.97
    predictor = Predictor.load(artifact.folder, device="cpu")
    assert predictor.device == "cpu"
    assert predictor.model is None, "no gradients are promised"
    assert predictor.warm() == 2


def test_packed_computes_the_tokens_of_the_texts_and_no_padding(
    workbench: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = build(on_cpu("float32", True), workbench, print)
    predictor, reference = Predictor(artifact), Predictor.load(workbench.artifacts / "fp32")
    texts = workbench.dataset.splits["validation"].texts[:150]
    whole, fed = Encoder.packed, []

    def counted(self: Encoder, input_ids: torch.Tensor, *rest: object) -> torch.Tensor:
        fed.append(len(input_ids))
        return whole(self, input_ids, *rest)

    monkeypatch.setattr(Encoder, "packed", counted)
    predictions = predictor.predict(texts)
    tokens = [prediction.tokens for prediction in predictions]
    assert sum(fed) == predictor.computed_tokens == sum(tokens)
    scores, expected = (
        np.array([prediction.scores for prediction in found])
        for found in (predictions, reference.predict(texts))
    )
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    computed = artifact.meta.proof["validation_tokens"]
    assert computed["real"] == computed["computed"]


def test_a_packed_grid_comes_back_from_the_description(workbench: Source) -> None:
    artifact = build(on_cpu("float32", True), workbench, print)
    assert artifact.grid == Grid((128,), (1, 2, 8, 64), 32_768, 1_024, packed=True)


def test_an_archive_of_it_computes_with_what_ships_in_it_and_without_transformers(
    workbench: Source, tmp_path: Path
) -> None:
    skip_without_archiver()
    artifact = build(on_cpu("float32", True), workbench, print)
    with zipfile.ZipFile(package(artifact, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked")
    code = """
import json, sys
from handler.predictor import Predictor
scores = [row.scores.tolist() for row in Predictor.load("artifact").predict(["a", "two words"])]
print(json.dumps([scores, "transformers" in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = [row.scores.tolist() for row in Predictor(artifact).predict(["a", "two words"])]
    assert json.loads(done.stdout) == [expected, False]
