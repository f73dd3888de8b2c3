import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from common.flips import mcnemar
from training.measures.statistics import (
    compare,
    compare_ranking,
    indicators,
    macro_f1,
    macro_f1_interval,
    outcomes,
)

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 2, 3000)
REFERENCE = np.where(RNG.random(3000) < 0.8, TRUTH, 1 - TRUTH)
CANDIDATE = np.where(RNG.random(3000) < 0.95, REFERENCE, 1 - REFERENCE)
INDEPENDENT = (RNG.random((600, 3)) < [0.4, 0.2, 0.1]).astype(np.int64)
OURS, THEIRS = (np.where(RNG.random((600, 3)) < share, INDEPENDENT, 1 - INDEPENDENT) for share in (0.9, 0.85))


def f1(truth, given):
    return f1_score(truth, given, average="macro")


def test_a_classifier_does_not_differ_from_itself():
    same = compare(TRUTH, REFERENCE, REFERENCE, 2)
    assert (same.drop, same.low, same.high, same.p_value, same.agreement) == (0, 0, 0, 1, 1)


def test_the_drop_is_that_of_scikit_learn_and_lies_in_its_interval():
    seen = compare(TRUTH, REFERENCE, CANDIDATE, 2)
    assert seen.reference_macro_f1 == pytest.approx(f1(TRUTH, REFERENCE))
    assert seen.drop == pytest.approx(f1(TRUTH, REFERENCE) - f1(TRUTH, CANDIDATE))
    assert 0 < seen.low < seen.drop < seen.high
    assert seen.p_value < 0.001


def test_the_interval_agrees_with_resampling_texts_one_by_one():
    def drop(truth, reference, candidate):
        return f1(truth, reference) - f1(truth, candidate)

    texts = slice(0, 400)
    expected = bootstrap(
        (TRUTH[texts], REFERENCE[texts], CANDIDATE[texts]),
        drop,
        paired=True,
        vectorized=False,
        n_resamples=600,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    seen = compare(TRUTH[texts], REFERENCE[texts], CANDIDATE[texts], 2)
    assert (seen.low, seen.high) == pytest.approx((expected.low, expected.high), abs=0.006)


def test_more_than_two_labels_are_compared():
    truth, given = RNG.integers(0, 4, 500), RNG.integers(0, 4, 500)
    assert compare(truth, truth, given, 4).drop == pytest.approx(1 - f1(truth, given))


def test_macro_f1_is_over_the_labels_that_some_text_has():
    truth = np.repeat([0, 1], 5)
    one_wrong = np.append(truth[:-1], 2)
    held, right, wrong = (indicators(given, 3) for given in (truth, truth, one_wrong))
    assert macro_f1(held, right) == 1
    assert macro_f1(held, wrong) == pytest.approx((1 + 8 / 9) / 2)
    assert macro_f1(held[:0], right[:0]) == 0


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1), (5, 5, 1), (0, 10, 2 / 1024), (1, 0, 1)])
def test_mcnemar_is_exact(first, second, p):
    assert mcnemar(first, second) == pytest.approx(p)


@pytest.mark.parametrize("digits", [6, 1], ids=["scores that differ", "scores with ties"])
def test_the_drops_in_ranking_are_those_of_scikit_learn(digits):
    noise = np.random.default_rng(2)
    reference = np.round(TRUTH * 0.3 + noise.random(3000) * 0.7, digits)
    candidate = np.round(reference * 0.8 + noise.random(3000) * 0.2, digits)
    found = compare_ranking(TRUTH, reference, candidate)
    for name, figure in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        assert found[name].drop == pytest.approx(figure(TRUTH, reference) - figure(TRUTH, candidate))
        assert found[name].low < found[name].drop < found[name].high


def test_the_interval_of_the_ranking_agrees_with_resampling_texts_one_by_one():
    truth, noise = TRUTH[:300], np.random.default_rng(3)
    reference = truth * 0.3 + noise.random(300) * 0.7
    candidate = reference + noise.normal(0, 0.15, 300)

    def drop(texts):
        return roc_auc_score(truth[texts], reference[texts]) - roc_auc_score(truth[texts], candidate[texts])

    expected = np.quantile([drop(noise.integers(0, 300, 300)) for _ in range(600)], [0.025, 0.975])
    found = compare_ranking(truth, reference, candidate)["auroc"]
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.01)


def test_ranking_of_one_kind_of_text_is_undefined():
    scores = np.array([0.1, 0.9])
    assert compare_ranking(np.array([1, 1]), scores, scores) == {"auroc": None, "average_precision": None}


def test_the_interval_of_macro_f1_holds_the_figure_and_narrows_with_more_texts():
    truth, given = indicators(TRUTH[:400], 2), indicators(CANDIDATE[:400], 2)
    low, high = macro_f1_interval(truth, given)
    assert low < f1(TRUTH[:400], CANDIDATE[:400]) < high
    more = macro_f1_interval(np.tile(truth, (9, 1)), np.tile(given, (9, 1)))
    assert more[1] - more[0] == pytest.approx((high - low) / 3, rel=0.1)


def test_independent_labels_are_compared_by_the_mean_of_their_own_f1():
    seen = compare(INDEPENDENT, OURS, THEIRS, 3)
    assert seen.reference_macro_f1 == pytest.approx(f1(INDEPENDENT, OURS))
    assert seen.candidate_macro_f1 == pytest.approx(f1(INDEPENDENT, THEIRS))
    assert seen.drop == pytest.approx(f1(INDEPENDENT, OURS) - f1(INDEPENDENT, THEIRS))
    assert seen.low < seen.drop < seen.high
    assert seen.agreement == (OURS == THEIRS).all(axis=1).mean()
    only_ours = (OURS == INDEPENDENT).all(axis=1) & (THEIRS != INDEPENDENT).any(axis=1)
    assert seen.only_reference_right == only_ours.sum()
    same = compare(INDEPENDENT, OURS, OURS, 3)
    assert (same.drop, same.low, same.high, same.p_value, same.agreement) == (0, 0, 0, 1, 1)


def test_the_interval_of_independent_labels_agrees_with_resampling_texts_one_by_one():
    rng = np.random.default_rng(4)
    drops = []
    for _ in range(600):
        rows = rng.integers(0, 600, 600)
        drops.append(f1(INDEPENDENT[rows], OURS[rows]) - f1(INDEPENDENT[rows], THEIRS[rows]))
    seen = compare(INDEPENDENT, OURS, THEIRS, 3)
    assert (seen.low, seen.high) == pytest.approx(tuple(np.quantile(drops, [0.025, 0.975])), abs=0.01)


def test_of_an_independent_label_that_no_text_has_these_texts_tell_nothing():
    never = np.zeros((10, 2), np.int64)
    never[:5, 0] = 1
    assert macro_f1(never > 0, never > 0) == 1
    same = compare(never, never, never, 2)
    assert (same.reference_macro_f1, same.candidate_macro_f1, same.drop, same.low, same.high) == (
        1,
        1,
        0,
        0,
        0,
    )


def test_a_label_that_no_text_has_is_in_no_figure_of_a_comparison():
    truth = np.array([0, 1] * 50)
    ours = truth.copy()
    ours[:2] = 2
    found = compare(truth, truth, ours, 3)
    assert found.reference_macro_f1 == 1
    assert found.candidate_macro_f1 == pytest.approx(2 * 49 / 99)
    assert found.drop == pytest.approx(found.reference_macro_f1 - found.candidate_macro_f1)
    assert -1e-9 <= found.low <= found.drop <= found.high < 0.1


def test_texts_of_one_kind_are_counted_together():
    kinds, counts = outcomes(np.array([[1, 0]] * 3), np.array([[1, 1]] * 3), np.array([[0, 1]] * 3))
    assert (kinds.tolist(), counts.tolist()) == ([[6, 3]], [3])


def test_the_drops_in_ranking_of_independent_labels_are_means_over_those_that_some_have():
    rng = np.random.default_rng(5)
    truth = np.column_stack([INDEPENDENT, np.zeros(600, np.int64)])
    reference = truth * 0.3 + rng.random((600, 4)) * 0.7
    candidate = reference * 0.8 + rng.random((600, 4)) * 0.2
    found = compare_ranking(truth, reference, candidate)
    for name, figure in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        drops = [
            figure(truth[:, label], reference[:, label]) - figure(truth[:, label], candidate[:, label])
            for label in range(3)
        ]
        assert found[name].drop == pytest.approx(np.mean(drops))
        assert found[name].low < found[name].drop < found[name].high
