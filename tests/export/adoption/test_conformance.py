"""What is served reads and answers as transformers does, whatever the family."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from export import proof
from export.adoption.adopt import adopt
from export.adoption.conformance import LOGIT_MARGIN, probes
from export.build import build
from export.registry import VARIANTS
from export.rewriting.quantise import linears
from export.source import Source
from handler.errors import UnsupportedError, UserError
from handler.predictor import Predictor, clean
from tests.tiny import make_classifier, word_tokenizer
from training.checkpoint import load_data, open_checkpoint

SERVED = (
    *("Albert", "Bert", "BigBird", "DebertaV2", "DistilBert", "Electra", "GPT2", "Longformer", "MPNet"),
    *("ModernBert", "RoFormer", "Roberta", "SqueezeBert", "XLM"),
)
FAST = ("DistilBert",)


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=() if family in FAST else pytest.mark.slow) for family in SERVED]
)
def test_each_family_is_served_as_transformers_answers(family: str, tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", family)
    checkpoint = adopt(str(place), tmp_path / "ours")
    assert open_checkpoint(tmp_path / "ours").meta == checkpoint.meta
    assert checkpoint.meta.adoption.max_logit_diff < LOGIT_MARGIN
    source = Source(checkpoint, load_data(checkpoint), tmp_path / "artifacts")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place).eval()
    texts = [probe.text for probe in probes(tokenizer, checkpoint.meta.max_length)][::3]
    expected = []
    for text in texts:
        inputs = tokenizer(
            clean(text), truncation=True, max_length=checkpoint.meta.max_length, return_tensors="pt"
        )
        with torch.no_grad():
            expected.append(model(**inputs).logits.numpy())
    for name in ("fp32", "openvino-fp32", "onnx-fp32"):
        try:
            artifact = build(VARIANTS[name], source, lambda _: None)
        except UnsupportedError:
            if name == "fp32":
                raise
            continue
        assert artifact.meta.check.equal, artifact.meta.check
        predictor = Predictor(artifact, 1)
        predictor.warm()
        logits = predictor.logits(predictor.encode(texts))
        difference = float(np.abs(logits - np.concatenate(expected)).max())
        print(f"{family} {name} {difference:.1e}")
        assert difference < LOGIT_MARGIN


def test_the_texts_tell_every_added_token_and_both_ends_of_a_long_text() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["@user"])
    found = probes(tokenizer, 32)
    kinds = {probe.kind for probe in found}
    assert {"an empty text", "one token", "lone surrogates", "a very long word"} <= kinds
    for token in ("@user", "[PAD]", "[CLS]"):
        assert any(re.search(rf"\w {re.escape(token)} \w", probe.text) for probe in found)
    long = [probe.text for probe in found if probe.kind == "a text longer than the maximum"]
    for text in long:
        right, left = (
            tokenizer(text, truncation=True, max_length=32)["input_ids"],
            word_tokenizer(truncation_side="left")(text, truncation=True, max_length=32)["input_ids"],
        )
        assert right != left
        assert len(right) == 32


def test_an_architecture_of_which_nothing_can_be_proven_is_a_sentence() -> None:
    with pytest.raises(
        UnsupportedError, match="not all of its linear layers are found in the graph: 3 of 15"
    ):
        proof.require_all_found(3, 15, "linear layers")
    with pytest.raises(UserError) as failed:
        proof.require(False, "int8 products", {f"layer {number}": "f32" for number in range(500)})
    assert len(str(failed.value)) < 400


@pytest.mark.slow
def test_layers_that_share_weights_have_a_product_each(tmp_path: Path) -> None:
    checkpoint = adopt(str(make_classifier(tmp_path / "theirs", "Albert")), tmp_path / "ours")
    source = Source(checkpoint, load_data(checkpoint), tmp_path / "artifacts")
    artifact = build(VARIANTS["fp32"], source, lambda _: None)
    artifact = build(VARIANTS["openvino-fp32"], source, lambda _: None)
    assert artifact.meta.proof["executed_matmuls"]["f32"] >= 15
    assert artifact.meta.check.equal


def test_attention_that_is_no_single_operation_does_not_keep_int8_from_being_built(tmp_path: Path) -> None:
    checkpoint = adopt(str(make_classifier(tmp_path / "theirs", "MPNet")), tmp_path / "ours")
    source = Source(checkpoint, load_data(checkpoint), tmp_path / "artifacts")
    build(VARIANTS["fp32"], source, lambda _: None)
    artifact = build(VARIANTS["openvino-int8"], source, lambda _: None)
    assert artifact.meta.proof["integer_matmuls"] == len(linears(source.model())), "attention's are in float"
