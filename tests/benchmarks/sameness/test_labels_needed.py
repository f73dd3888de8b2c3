"""How many labels a verdict takes, against what normal approximation says."""

from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.report.labels_page import picture, plan_table
from benchmarks.sameness.labels_needed import LabelPlan, plan, population
from training.measures.noninferiority import ALPHA

OF_REFERENCE = np.array([[520, 80], [130, 270]])  # (truth, fp32's label), of validation texts
RATE = 0.012


def pairs(there: float, back: float, texts: int = 2000) -> np.ndarray:
    """Of so many texts, the shares that flip each way; fp32 says the second label of 35 %."""
    return np.array([[texts * (0.65 - there), texts * there], [texts * back, texts * (0.35 - back)]]).astype(
        int
    )


def planned(margin: float, gate: int = 1750, **given: np.ndarray) -> LabelPlan:
    asked = given or {"even": pairs(RATE / 2, RATE / 2)}
    return plan(asked, OF_REFERENCE, RATE, gate, 1, lambda run: ALPHA / 4 ** (run - 1), margin, 50)


def test_where_both_agree_fp32_is_right_as_on_validation_and_flips_are_shared_alike() -> None:
    found = population(pairs(0.01, 0.02), OF_REFERENCE).shares
    assert found.sum() == pytest.approx(1)
    assert found[:, 0, 0] == pytest.approx(0.64 * np.array([520, 130]) / 650, rel=2e-3)
    assert found[:, 1, 1] == pytest.approx(0.33 * np.array([80, 270]) / 350, rel=2e-3)
    assert found[:, 0, 1] == pytest.approx([0.005, 0.005], rel=2e-3)
    assert found[:, 1, 0] == pytest.approx([0.01, 0.01], rel=2e-3)


def test_a_gate_needs_what_the_rate_of_flips_says() -> None:
    """For two labels the drop varies by 1.1 to 1.4 times the rate of flips over the number of texts."""
    (need,) = planned(0.005).needs
    least = RATE * ((norm.isf(ALPHA) + norm.isf(0.2)) / 0.005) ** 2
    assert need.gate is not None
    assert least < need.gate < 1.7 * least
    assert need.flips == 24
    assert need.rate == pytest.approx(RATE)
    assert need.low < RATE < need.high


def test_flips_alone_need_as_many_texts_in_all_and_a_hundredth_of_the_labels() -> None:
    (need,) = planned(0.002).needs
    assert need.gate is not None
    assert need.unlabelled == pytest.approx(need.gate - 1750, rel=0.06)
    assert need.labels == pytest.approx(RATE * need.unlabelled + 50, abs=1)


def test_a_gate_that_is_too_small_is_never_made_up_for() -> None:
    """Flips that all go one way turn what the gate does not know into doubt that no flip label removes."""
    (need,) = planned(0.001, gate=40, one_way=pairs(0.0, 0.05)).needs
    assert need.unlabelled is None
    assert need.labels is None


def test_a_later_look_at_the_gate_needs_more() -> None:
    first, second = (
        plan(
            {"even": pairs(RATE / 2, RATE / 2)},
            OF_REFERENCE,
            RATE,
            1750,
            run,
            lambda r: ALPHA / 4**r,
            0.004,
            0,
        )
        for run in (1, 2)
    )
    assert second.needs[0].unlabelled > first.needs[0].unlabelled
    assert second.needs[0].gate == first.needs[0].gate, "a new gate is at its first look"


def test_the_page_says_what_is_needed_and_assumed_and_the_picture_draws_the_costliest() -> None:
    found = planned(0.004, even=pairs(RATE / 2, RATE / 2), rare=pairs(0.001, 0.001))
    assert found.drawn == "even"
    table = plan_table(found)
    even, rare = found.needs
    assert f"| {even.gate:,} " in table
    assert f"| {rare.labels:,} " in table
    assert "as many flips are right by fp32 as by the variant" in table
    assert [point.labels for point in found.curve] == sorted({point.labels for point in found.curve})
    assert found.curve[-1].by_flips < found.curve[-1].by_gate
    assert f"flips alone need {even.labels:,}" in picture(found)
    ElementTree.fromstring(picture(found))
