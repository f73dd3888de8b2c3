"""The drop from labelled flips, on counts whose drop is known."""

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.sameness.flip_coverage import MADE, draw, made
from benchmarks.sameness.power import Case
from handler.errors import UserError
from training.measures.labelled_flips import TRUSTED, Checked, FlipSample, drop_of_flips, expected_cells
from training.measures.noninferiority import drop_of, kinds_of_cells
from training.measures.statistics import macro_f1_drop

MARGIN = 0.01
# openvino's and torch's int8 on 1,750 texts, as TweetEval's gate might have them.
GATE = np.array([852, 3, 5, 179, 169, 5, 6, 531]).reshape(2, 2, 2)


def off_diagonal(labels: int) -> np.ndarray:
    return ~np.eye(labels, dtype=bool)


def large(cells: np.ndarray, texts: int, labelled: float = 1.0, checked: Checked = TRUSTED) -> FlipSample:
    """`texts` unlabelled texts whose counts are those of `cells`, in proportion."""
    unlabelled = cells * texts / cells.sum()
    return FlipSample(
        cells, unlabelled.sum(axis=0), labelled * unlabelled * off_diagonal(len(cells)), checked
    )


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_the_drop_is_what_the_flips_lose_and_fp32s_f1_of_what_is_given_less_often(labels: int) -> None:
    """The proposition of docs/flips.md, term by term."""
    p = np.random.default_rng(labels).dirichlet(np.ones(labels**3)).reshape((labels,) * 3)
    terms = []
    for k in range(labels):
        truth, theirs, ours = p[k].sum(), p[:, k].sum(), p[:, :, k].sum()
        lost, gained = p[k, k].sum() - p[k, k, k], p[k, :, k].sum() - p[k, k, k]
        f1 = 2 * p[k, k].sum() / (truth + theirs)
        terms.append((2 * (lost - gained) - f1 * (theirs - ours)) / (truth + ours))
    drop = macro_f1_drop(p.reshape(1, -1), kinds_of_cells(labels, np.arange(labels**3)))[0]
    assert np.mean(terms) == pytest.approx(drop, abs=1e-12)


def test_without_unlabelled_texts_it_is_the_gates_own() -> None:
    none = FlipSample(GATE, np.zeros((2, 2)), np.zeros((2, 2, 2)))
    found, gate = drop_of_flips(none), drop_of(GATE.ravel(), 2)
    assert found.drop == pytest.approx(gate.drop, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((gate.low, gate.high), abs=2e-4)


def test_some_two_hundred_labels_of_flips_show_what_thousands_of_texts_would() -> None:
    """The half-width falls with the square root of all texts, though agreeing ones have no label."""
    found, gate = drop_of_flips(large(GATE, 20_000)), drop_of(GATE.ravel(), 2)
    many = drop_of((GATE * (20_000 + 1750) / 1750).ravel(), 2)
    assert (GATE * off_diagonal(2)).sum() * 20_000 / 1750 == pytest.approx(217, abs=1)
    assert (found.high - found.low) / 2 == pytest.approx((many.high - many.low) / 2, rel=0.03)
    assert (found.high - found.low) / 2 == pytest.approx(0.0015, abs=0.0001)
    assert (gate.high - gate.low) / 2 > 0.005


def test_a_random_sample_of_the_flips_estimates_the_same_less_surely() -> None:
    all_of_them, half = drop_of_flips(large(GATE, 20_000)), drop_of_flips(large(GATE, 20_000, 0.5))
    assert half.drop == pytest.approx(all_of_them.drop, abs=1e-9)
    assert half.high - half.low > 1.1 * (all_of_them.high - all_of_them.low)


def test_texts_are_shared_out_as_those_of_their_pair_that_have_a_label() -> None:
    gate = np.array([[[80, 0], [0, 10]], [[20, 0], [0, 90]]])
    unlabelled = np.array([[100, 8], [6, 100]])
    labelled = np.array([[[0, 1], [0, 0]], [[0, 3], [0, 0]]])
    found = expected_cells(FlipSample(gate, unlabelled, labelled))
    assert found[:, 0, 0].tolist() == [160, 40]
    assert found[:, 1, 1].tolist() == [20, 180]
    assert found[:, 0, 1].tolist() == [2, 6]
    assert found[:, 1, 0].tolist() == [3, 3], "a pair without a label is shared between its two"


NAMES = (
    "2 labels, 42% have the first, harm to all labels",
    "2 labels, 10% have the first, harm to the first label",
    "3 labels, 10% have the first, harm to all labels",
    "3 labels, 10% have the first, harm to the first label",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [0.0, 0.05])
def test_a_drop_of_the_margin_passes_as_rarely_as_promised(name: str, wrong: float) -> None:
    shares = made()[MADE, name]
    drops = [drop_of_flips(draw(seed, shares, 5000, wrong), 400) for seed in range(200)]
    passed = sum(drop.high < MARGIN for drop in drops)
    assert passed <= binom.ppf(0.9999, 200, 0.025), "2.5 % is the promise"


def test_wrong_labels_hide_a_loss_and_the_check_brings_it_back() -> None:
    """Of two labels, one wrong in ten hides a fifth of what flips lose."""
    shares = Case("twice").population(MARGIN)
    counts = 1_000_000 * shares
    flips = counts * off_diagonal(2)
    given = 0.9 * flips + 0.1 * flips[::-1]
    gate = 1_000_000 * shares
    blind, checked = (
        drop_of_flips(FlipSample(gate / 1000, counts.sum(axis=0), given, found))
        for found in (Checked(), Checked(100_000, 10_000))
    )
    assert blind.high < 2 * MARGIN - 0.002
    assert checked.high == pytest.approx(2 * MARGIN, abs=0.0006)
    assert checked.low == pytest.approx(blind.low, abs=2e-4), "errors only ever widen the interval"


def test_what_the_counts_cannot_answer_is_refused() -> None:
    without_hate = GATE.copy()
    without_hate[1] = 0
    with pytest.raises(UserError, match="the gate is too small for a verdict from flips"):
        drop_of_flips(large(without_hate, 100))
    with pytest.raises(UserError, match="differ too often from the known ones: 25 of 100 check texts"):
        drop_of_flips(large(GATE, 100, checked=Checked(100, 25)))
    with pytest.raises(UserError, match="too many labels for a verdict from flips: 11 labels, at most 10"):
        drop_of_flips(FlipSample(np.ones((11, 11, 11)), np.ones((11, 11)), np.zeros((11, 11, 11))))
