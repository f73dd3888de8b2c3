"""Bands on texts of a known population, so that what was promised can be held against what is true."""

import numpy as np
import pytest
from scipy.special import expit

from handler.bands import ACT, PASS, REVIEW, decide_bands
from handler.errors import UserError
from training.measures.bands import (
    STARTS,
    THRESHOLDS,
    Costs,
    Goals,
    Judged,
    by_costs,
    cost_of,
    counted,
    fit,
    share_of,
)

GOALS = {
    "precision": Goals(precision=0.8),
    "recall": Goals(recall=0.9),
    "false-positive-rate": Goals(false_positive_rate=0.05),
    "review-share": Goals(review_share=0.1),
    "precision and recall": Goals(precision=0.8, recall=0.9),
    "precision and review-share": Goals(precision=0.8, review_share=0.1),
    "recall and review-share": Goals(recall=0.9, review_share=0.1),
}


def drawn(rng: np.random.Generator, count: int) -> Judged:
    """Texts whose scores are their chances to have the label."""
    log_odds = rng.normal(-0.5, 2, size=count)
    return Judged(np.round(expit(log_odds), 6), rng.random(count) < expit(log_odds))


EVERYTHING = drawn(np.random.default_rng(1), 400_000)


def is_broken(kind: str, promised: float, act: float, review: float) -> bool:
    broken, among = counted(kind, decide_bands(EVERYTHING.scores, act, review), EVERYTHING.truth)
    return broken > share_of(kind, promised) * among


@pytest.mark.parametrize("goals", GOALS.values(), ids=GOALS)
def test_promises_are_broken_no_oftener_than_the_confidence_says(goals: Goals) -> None:
    rng, promised, broken = np.random.default_rng(2), 0, 0
    for _ in range(100):
        try:
            bands = fit(drawn(rng, 1000), goals, 0.5)
        except UserError:
            continue
        promised += 1
        ends = bands.act, bands.review
        broken += any(is_broken(each.kind, each.promised, *ends) for each in bands.promises)
        assert [each.kind for each in bands.promises] == [name for name in GOALS if _asks(goals, name)]
    assert promised >= 75, "a promise that is hardly ever made helps nobody"
    assert broken <= 10  # 5 of 100 are promised, and 11 or more would come by chance once in a hundred times


def _asks(goals: Goals, kind: str) -> bool:
    return getattr(goals, kind.replace("-", "_"), None) is not None


def test_an_end_of_which_nothing_is_asked_is_the_threshold_of_the_classifier() -> None:
    texts = drawn(np.random.default_rng(3), 3000)
    assert fit(texts, Goals(precision=0.8), 0.3).review == 0.3
    assert fit(texts, Goals(recall=0.9), 0.6).act == 0.6
    low = fit(texts, Goals(precision=0.6), 0.9)
    assert low.review == low.act < 0.9, "there is nothing to review where acting begins below the threshold"


def test_goals_that_leave_nothing_to_review_have_one_end() -> None:
    bands = fit(drawn(np.random.default_rng(4), 3000), Goals(precision=0.6, recall=0.5), 0.5)
    assert bands.act == bands.review


def test_a_share_to_review_is_spent_around_the_threshold() -> None:
    texts = drawn(np.random.default_rng(5), 5000)
    bands = fit(texts, Goals(review_share=0.2), 0.5)
    assert bands.review < 0.5 < bands.act
    assert 0.17 < bands.promises[0].found <= 0.2


def test_what_cannot_be_promised_is_said_with_the_best_that_can() -> None:
    few = drawn(np.random.default_rng(6), 100)
    with pytest.raises(UserError, match="cannot be promised with these 100 texts") as caught:
        fit(few, Goals(precision=0.99), 0.5)
    best = float(str(caught.value.seen).rpartition(" ")[2])
    assert 0 < best < 0.99
    assert fit(few, Goals(precision=best), 0.5).promises[0].promised == best
    with pytest.raises(UserError, match="recall"):
        fit(few, Goals(recall=0.999), 0.5)


def test_one_false_alarm_at_the_top_does_not_end_the_walk_for_a_precision() -> None:
    """The reason for several starts: the first walk ends there."""
    scores = np.repeat([0.999, 0.97, 0.6, 0.1], [5, 400, 95, 500])
    truth = np.repeat([False, True, False, False], [5, 400, 95, 500])
    found = fit(Judged(scores, truth), Goals(precision=0.95), 0.5)
    assert 0.6 < found.act <= 0.97
    assert found.promises[0].texts == 405


def test_walks_begin_at_thresholds_of_the_grid() -> None:
    assert [round(THRESHOLDS[start], 2) for start in STARTS] == [1.0, 0.99, 0.98, 0.95, 0.88, 0.73, 0.5]


def test_costs_place_the_bands_where_each_decision_is_the_cheapest() -> None:
    assert by_costs(Costs(1, 5)) == (0.166667, 0.166667)
    act, review = by_costs(Costs(1, 5, 0.25))
    assert (act, review) == (0.75, 0.05)
    assert by_costs(Costs(1, 1, 0.6)) == (0.5, 0.5), "a look that costs more than it saves is not taken"
    for score in np.linspace(0.001, 0.999, 99):
        costs = {ACT: 1 - score, REVIEW: 0.25, PASS: 5 * score}
        (decided,) = decide_bands(np.array([score]), act, review)
        assert costs[int(decided)] <= min(costs.values()) + 1e-9


def test_a_cost_is_bounded_as_often_as_promised() -> None:
    costs, rng, broken = Costs(1, 5, 0.25), np.random.default_rng(7), 0
    true = cost_of(decide_bands(EVERYTHING.scores, *by_costs(costs)), EVERYTHING.truth, costs)
    for _ in range(200):
        (promise,) = fit(drawn(rng, 500), Goals(cost=costs), 0.5).promises
        assert promise.found < promise.promised
        broken += promise.promised < true
    assert broken <= 17


@pytest.mark.parametrize(
    ("goals", "message"),
    [
        ({}, "Nothing says"),
        ({"precision": 0.9, "false_positive_rate": 0.1}, "both say where to act"),
        ({"precision": 0.9, "recall": 0.9, "review_share": 0.1}, "both ends"),
        ({"recall": 0.9, "cost": Costs(1, 5)}, "Costs alone"),
    ],
)
def test_goals_that_exclude_each_other_are_refused(goals: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Goals(**goals)


def test_too_few_texts_or_texts_of_one_kind_are_refused() -> None:
    for truth in (np.ones(100, bool), np.zeros(100, bool), np.arange(20) > 10):
        with pytest.raises(UserError, match="too few labelled texts"):
            fit(Judged(np.linspace(0, 1, len(truth)), truth), Goals(recall=0.5), 0.5)
