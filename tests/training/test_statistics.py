import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import f1_score

from training.statistics import compare, macro_f1, mcnemar

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 2, 3000)
REFERENCE = np.where(RNG.random(3000) < 0.8, TRUTH, 1 - TRUTH)
CANDIDATE = np.where(RNG.random(3000) < 0.95, REFERENCE, 1 - REFERENCE)


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


def test_macro_f1_counts_a_label_that_never_occurs_as_zero():
    assert macro_f1(np.array([[[5, 0, 0], [0, 5, 0], [0, 0, 0]]])).tolist() == [pytest.approx(2 / 3)]


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1), (5, 5, 1), (0, 10, 2 / 1024), (1, 0, 1)])
def test_mcnemar_is_exact(first, second, p):
    assert mcnemar(first, second) == pytest.approx(p)
