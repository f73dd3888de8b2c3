"""Bands: what is decided at their ends, what an artifact may say of them, and how far texts are from another
decision."""

import numpy as np
import pytest

from handler.answers import DECISIONS
from handler.artifact import described
from handler.bands import ACT, PASS, REVIEW, decide_bands, decisions
from handler.records import plain
from handler.stages import margins, stages_of
from tests.descriptions import description

BANDS = {
    "act": 0.8,
    "review": 0.3,
    "confidence": 0.95,
    "fitted_on": "validation",
    "texts": 100,
    "promises": [{"kind": "recall", "promised": 0.9, "found": 0.95, "texts": 40}],
}
STAGE = {"name": "int8", "offsets": [0.0, 0.0]}


def test_a_score_at_the_end_of_a_band_is_in_it() -> None:
    scores = np.array([0.8, 0.799999, 0.3, 0.299999, 1.0, 0.0])
    assert decide_bands(scores, 0.8, 0.3).tolist() == [ACT, REVIEW, REVIEW, PASS, ACT, PASS]
    assert [DECISIONS[place] for place in (ACT, REVIEW, PASS)] == ["act", "review", "pass"]


def test_one_end_leaves_nothing_to_review() -> None:
    assert set(decide_bands(np.linspace(0, 1, 101), 0.5, 0.5).tolist()) == {ACT, PASS}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bands": BANDS | {"review": 0.9}}, "reviews from 0.9, but acts from 0.8"),
        ({"bands": BANDS, "task": "multi-label", "positive_label": None}, "positive label"),
        ({"bands": BANDS | {"act": 1.2}}, "act is 1.2"),
    ],
)
def test_bands_that_cannot_be_are_refused(fields: dict, message: str) -> None:
    described(plain(description(bands=BANDS)))
    with pytest.raises(ValueError, match=message):
        described(plain(description()) | fields)


@pytest.mark.parametrize("labels", [["no", "yes"], ["yes", "no"], ["a", "yes", "b"]])
def test_no_move_below_the_margin_turns_a_decision_and_one_of_the_margin_does(labels: list[str]) -> None:
    thresholds = {"yes": 0.5} if len(labels) == 2 else {}
    meta = description(
        labels=labels, thresholds=thresholds, positive_label="yes", bands=BANDS, temperature=1.5
    )
    place = labels.index("yes")

    def told(logits: np.ndarray) -> np.ndarray:
        odds = np.exp(logits / 1.5)
        scores = odds / odds.sum(axis=1, keepdims=True)
        given = scores[:, place] >= 0.5 if len(labels) == 2 else scores.argmax(axis=1)
        return np.stack([decisions(scores, place, meta.bands), given])

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, len(labels))) * 2
    before, margin = told(logits), margins(meta, logits)[:, None]
    turned = np.zeros(len(logits), bool)
    for direction in rng.normal(size=(300, 1, len(labels))):
        unit = direction / np.ptp(direction)
        assert (told(logits + 0.999 * margin * unit) == before).all()
        turned |= (told(logits + 1.001 * margin * unit) != before).any(axis=0)
    assert turned.mean() > (0.9 if len(labels) == 2 else 0.5)


def test_stages_that_were_fitted_for_other_bands_are_refused_until_fitted_anew() -> None:
    fitted = {"stages": [STAGE], "bands": [0.8, 0.3]}
    assert len(stages_of(description(runtime_options=fitted, bands=BANDS))) == 1
    assert len(stages_of(description(runtime_options={"stages": [STAGE]}))) == 1
    for options, bands in (
        ({"stages": [STAGE]}, BANDS),
        (fitted, None),
        (fitted, BANDS | {"act": 0.9}),
    ):
        with pytest.raises(ValueError, match="fitted for other bands"):
            stages_of(description(runtime_options=options, bands=bands))
