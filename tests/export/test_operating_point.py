"""An offset of its logits brings a variant back to where fp32 says yes, for any number and kind of labels."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax

from export.operating_point import fit_offsets
from export.registry import VARIANTS
from handler.artifact import Artifact
from handler.explanations import INTEGRATED_GRADIENTS, OCCLUSION, explain
from handler.predictor import Predictor, decide
from tests.descriptions import changed, description

TWO = {
    "labels": ["not-hate", "hate"],
    "positive_label": "hate",
    "thresholds": {"hate": 0.62},
    "temperature": 1.7,
}
FIRST = TWO | {"labels": ["hate", "not-hate"]}
THREE = {"labels": ["a", "b", "c"], "positive_label": None, "thresholds": {}, "temperature": 0.8}
INDEPENDENT = {
    "labels": ["a", "b", "c"], "positive_label": None, "task": "multi-label",
    "thresholds": {"a": 0.5, "b": 0.2, "c": 0.9}, "temperature": 1.2,
}  # fmt: skip


def scored(artifact: Artifact, logits: np.ndarray) -> np.ndarray:
    scaled = logits / artifact.meta.temperature
    return np.round(expit(scaled) if artifact.multi_label else softmax(scaled, axis=1), 6)


def decided(artifact: Artifact, logits: np.ndarray) -> np.ndarray:
    given = decide(scored(artifact, logits), artifact.labels, artifact.meta.thresholds, artifact.multi_label)
    return given if artifact.multi_label else given[:, None] == np.arange(len(artifact.labels))


@pytest.mark.parametrize(
    "kind", [TWO, FIRST, THREE, INDEPENDENT], ids=["two", "first", "three", "independent"]
)
def test_what_moves_all_scores_is_taken_back(kind: dict) -> None:
    artifact = Artifact(Path(), description(**kind))
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (1000, len(artifact.labels)))
    moved = logits + np.linspace(-0.4, 0.1, len(artifact.labels))
    offsets = np.array(fit_offsets(artifact, moved, scored(artifact, logits)))
    assert (decided(artifact, moved) != decided(artifact, logits)).any(axis=1).sum() > 20
    assert (decided(artifact, moved + offsets) != decided(artifact, logits)).any(axis=1).sum() <= 2


@pytest.mark.parametrize(
    "kind", [TWO, FIRST, THREE, INDEPENDENT], ids=["two", "first", "three", "independent"]
)
def test_each_label_is_given_as_often_as_by_fp32(kind: dict) -> None:
    """Of a variant that is noisy, too, to as many of other texts: the noise alone flips more to one side."""
    artifact = Artifact(Path(), description(**kind))
    rng = np.random.default_rng(1)
    logits = rng.normal(-1, 2, (40_000, len(artifact.labels)))
    moved = 0.9 * logits - 0.2 + rng.normal(0, 0.3, logits.shape)
    fitting, other = slice(None, 20_000), slice(20_000, None)
    offsets = fit_offsets(artifact, moved[fitting], scored(artifact, logits[fitting]))
    wanted = decided(artifact, logits[other]).mean(axis=0)
    np.testing.assert_allclose(decided(artifact, moved[other] + offsets).mean(axis=0), wanted, atol=0.004)


def test_the_same_scores_need_no_offset_and_what_is_never_said_none_either() -> None:
    artifact = Artifact(Path(), description(**TWO))
    logits = np.random.default_rng(0).normal(0, 2, (500, 2))
    assert fit_offsets(artifact, logits, scored(artifact, logits)) == pytest.approx([0, 0], abs=1e-4)
    never = np.tile([9.0, -9.0], (20, 1))
    assert np.abs(fit_offsets(artifact, never, scored(artifact, never))).max() < 0.05


@pytest.mark.parametrize("kind", [TWO, THREE], ids=["two", "three"])
def test_flips_go_either_way_after_it(kind: dict) -> None:
    """Fitted on 1,000 texts, over other texts: rarely by more than chance."""
    artifact = Artifact(Path(), description(**kind))
    uneven = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 1.5, (2750, len(artifact.labels)))
        moved = logits + rng.normal(0, 0.05, logits.shape) - 0.1 * np.arange(len(artifact.labels))
        fitting, gate = slice(None, 1000), slice(1000, None)
        offsets = fit_offsets(artifact, moved[fitting], scored(artifact, logits[fitting]))
        wanted, given = decided(artifact, logits[gate]), decided(artifact, moved[gate] + offsets)
        lost, won = (wanted & ~given)[:, 1].sum(), (given & ~wanted)[:, 1].sum()
        uneven.append((lost - won) / max(1.0, np.sqrt(lost + won)))
    assert np.mean(np.abs(uneven) > 1.96) < 0.1
    assert abs(np.mean(uneven)) < 0.25


def test_the_offset_is_part_of_the_artifact_its_answers_and_its_digest(build_once) -> None:
    fp32, variant = build_once("fp32"), build_once("openvino-int8")
    assert fp32.meta.logit_offsets is None
    offsets = variant.meta.logit_offsets
    assert offsets is not None
    assert len(offsets) == len(variant.labels)
    assert changed(variant, logit_offsets=[0.0, 0.25]).sha256 != variant.sha256
    assert changed(fp32, logit_offsets=None).sha256 == fp32.sha256

    plain, moved = Predictor(fp32), Predictor(changed(fp32, logit_offsets=[0.0, 0.25]))
    texts = ["these people are a plague", "lovely soup"]
    logits = plain.logits(plain.encode(texts)).astype(np.float64) + np.array([0.0, 0.25])
    expected = softmax(logits / fp32.meta.temperature, axis=1)
    found = [prediction.scores for prediction in moved.predict(texts)]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("method", [OCCLUSION, INTEGRATED_GRADIENTS])
def test_explanations_are_of_the_scores_that_are_served(method: str, build_once) -> None:
    """Of two labels an offset moves the odds of each text alike, and so no token's part in them."""
    fp32 = build_once("fp32")
    plain, moved = Predictor(fp32), Predictor(changed(fp32, logit_offsets=[0.0, 0.25]))
    told = [explain(each, "these people made soup", "hate", method).tokens for each in (plain, moved)]
    first, second = ([token.attribution for token in tokens] for tokens in told)
    assert first == pytest.approx(second, abs=2e-4)


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        ([0.1], "2 labels but 1 logit offsets"),
        ([0.0, float("nan")], "logit_offsets"),
        ([0.0, 1e9], "logit_offsets"),
    ],
)
def test_offsets_that_cannot_be_are_refused(offsets: list[float], said: str) -> None:
    from handler.artifact import described
    from handler.records import plain

    document = plain(description(**TWO)) | {"logit_offsets": offsets}
    with pytest.raises(ValueError, match=said):
        described(document)


def test_every_variant_of_fp32_has_one() -> None:
    assert [name for name, variant in VARIANTS.items() if variant.parent is None] == ["fp32"]
