"""Attributions: right by construction on the real tiny model, and alike in rank between runtimes."""

import numpy as np
import pytest

from handler import explanations
from handler.explanations import INTEGRATED_GRADIENTS, OCCLUSION, explain, mask_id
from handler.predictor import Encoding, Predictor

ENOUGH_TOKENS = 5


@pytest.fixture(scope="module")
def fp32(build_once) -> Predictor:
    return Predictor(build_once("fp32"))


@pytest.fixture(scope="module")
def texts(source, fp32: Predictor) -> list[str]:
    found = source.dataset.splits["test"].texts
    return [text for text in found if len(fp32.encode([text])[0].ids) > ENOUGH_TOKENS + 2][:20]


def log_odds(predictor: Predictor, ids: list[int]) -> float:
    logits = predictor.logits([Encoding(ids)])[0].astype(float)
    return float(logits[1] - logits[0]) / predictor.artifact.meta.temperature


def test_occlusion_is_what_the_score_loses_without_the_token(fp32: Predictor) -> None:
    text = "you are vile and I like soup"
    (encoding,) = fp32.encode([text])
    found = explain(fp32, text, "hate", OCCLUSION).tokens
    assert len(found) == len(encoding.ids) - 2
    for place, token in enumerate(found, start=1):
        without = [*encoding.ids[:place], mask_id(fp32), *encoding.ids[place + 1 :]]
        expected = log_odds(fp32, encoding.ids) - log_odds(fp32, without)
        assert token.attribution == pytest.approx(expected, abs=2e-4)


def test_integrated_gradients_part_the_whole_way_from_masks_to_text(
    fp32: Predictor, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completeness (Sundararajan et al. 2017, proposition 1), with enough steps for so curved a model."""
    monkeypatch.setattr(explanations, "STEPS", 256)
    for text in texts[:5]:
        (encoding,) = fp32.encode([text])
        masked = [encoding.ids[0], *[mask_id(fp32)] * (len(encoding.ids) - 2), encoding.ids[-1]]
        found = sum(token.attribution for token in explain(fp32, text, "hate", INTEGRATED_GRADIENTS).tokens)
        way = log_odds(fp32, encoding.ids) - log_odds(fp32, masked)
        assert found == pytest.approx(way, abs=0.01 + 0.01 * abs(way))


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-fp32", "openvino-int8", "onnx-int8"])
def test_runtimes_agree_in_what_tokens_do(name: str, build_once, fp32: Predictor, texts: list[str]) -> None:
    other = Predictor(build_once(name))
    assert median_correlation(fp32, other, texts) > (0.999 if "fp32" in name else 0.95)


def median_correlation(reference: Predictor, other: Predictor, texts: list[str]) -> float:
    """Median over texts of the correlation of two runtimes' attributions by occlusion: not of their ranks,
    since most tokens do next to nothing, in whatever order."""
    found = []
    for text in texts:
        ours = [token.attribution for token in explain(reference, text, "hate", OCCLUSION).tokens]
        theirs = [token.attribution for token in explain(other, text, "hate", OCCLUSION).tokens]
        found.append(np.corrcoef(ours, theirs)[0, 1])
    return float(np.median(found))


def test_a_text_of_no_tokens_has_no_attributions(fp32: Predictor) -> None:
    assert explain(fp32, "\u200b", "hate", OCCLUSION).tokens == []
    assert explain(fp32, "\u200b", "hate", INTEGRATED_GRADIENTS).tokens == []


def test_what_lies_beyond_the_maximum_is_not_explained(fp32: Predictor) -> None:
    assert len(explain(fp32, "many words " * 500, "hate", OCCLUSION).tokens) == fp32.artifact.max_length - 2
