"""Recall and rate of each label: tested at the level that is promised, and as sharp as an exact interval."""

import numpy as np
import pytest
from scipy.stats import beta

from training.measures import operating_point
from training.measures.operating_point import of_cells, of_kinds, p_of_shift
from training.measures.statistics import Groups


def cells(**counts: int) -> np.ndarray:
    """Of two labels, texts by truth, fp32's label and the variant's, such as `t110=3`."""
    found = np.zeros((2, 2, 2), np.int64)
    for name, count in counts.items():
        found[tuple(map(int, name[1:]))] = count
    return found.ravel()


def test_recall_and_rate_fall_where_a_label_is_given_less_often() -> None:
    found = of_cells(cells(t111=90, t110=10, t000=180, t010=20), 2)
    assert found.recall[1].drop == pytest.approx(0.1)
    assert found.rate[1].drop == pytest.approx(0.1)
    assert found.rate[0].drop == pytest.approx(-0.1)
    assert found.recall[0].drop == pytest.approx(-0.1)


def test_a_variant_that_never_differed_has_the_exact_bound() -> None:
    found = of_cells(cells(t111=120, t000=280), 2)
    assert found.recall[1].high == pytest.approx(beta.ppf(0.975, 1, 120), rel=0.03)
    assert found.rate[1].high == pytest.approx(beta.ppf(0.975, 1, 400), rel=0.03)
    assert p_of_shift(found.rate[1], 0.01) == pytest.approx(0.99**400, rel=0.1)


def test_a_label_that_no_text_has_proves_nothing() -> None:
    assert of_cells(cells(t000=1000), 2).recall[1].p(0.5) == 1.0


def test_independent_labels_are_judged_one_by_one() -> None:
    """A digit a label: 4 if the text has it, plus 2 if fp32 says so, plus 1 if the variant does."""
    found = of_kinds({"70": 80, "60": 20, "02": 10, "00": 90})
    assert [drop.drop for drop in found.recall] == pytest.approx([0.2, 0.0])
    assert [drop.drop for drop in found.rate] == pytest.approx([0.1, 0.05])


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.42, 0.1, 0.02])
@pytest.mark.parametrize("helped", [0.0, 0.01])
def test_what_loses_the_margin_passes_as_rarely_as_promised(
    share: float, helped: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recall of a label that `share` of 1,750 texts have, and its rate: 2.5 % of runs, and chance."""
    monkeypatch.setattr(operating_point, "RESAMPLES", 4000)
    runs, n, margin, level = 1000, 1750, 0.02, 0.025
    rng = np.random.default_rng(0)
    passed = {"recall": 0, "rate": 0}
    tries = {"recall": margin * share, "rate": margin}
    for name, lost in tries.items():
        # Of texts with the label: lost, won, right by both; the rest are the others.
        won = helped * share
        chances = [lost + won, won, max(share - lost - 2 * won, 0.0)]
        chances.append(1 - sum(chances))
        for lost_n, won_n, both, other in rng.multinomial(n, chances, runs):
            found = of_cells(cells(t110=lost_n, t101=won_n, t111=both, t000=other), 2)
            if name == "recall":
                passed[name] += found.recall[1].p(margin) <= level
            else:
                passed[name] += p_of_shift(found.rate[1], margin) <= level
    most = level + 3 * np.sqrt(level * (1 - level) / runs)
    assert passed["recall"] / runs <= most
    assert passed["rate"] / runs <= most


def test_texts_of_a_group_are_no_independent_evidence() -> None:
    """A hundred groups of ten texts each prove no more than a hundred texts."""
    counts = cells(t111=500, t000=500)
    groups = Groups(np.array([50.0, 50.0]), 10.0 * np.eye(8)[[7, 0]])
    alone, together = of_cells(counts, 2), of_cells(counts, 2, groups)
    assert together.rate[1].drop == alone.rate[1].drop == 0
    assert together.rate[1].high == pytest.approx(beta.ppf(0.975, 1, 100), rel=0.05)
    assert together.recall[1].high == pytest.approx(beta.ppf(0.975, 1, 50), rel=0.05)
