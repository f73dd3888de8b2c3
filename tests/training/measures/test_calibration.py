import numpy as np
import pytest
from sklearn.metrics import f1_score

from training.measures.calibration import (
    LEAST_POSITIVES,
    Calibration,
    best_threshold,
    calibrate,
    choose_label_threshold,
    choose_threshold,
    fit_temperature,
    uncalibrated,
)


def drawn(temperature, labels=2, n=20_000):
    """Logits whose calibrated form is known: the truth is drawn from their softmax at a temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (n, labels))
    scores = Calibration(temperature).scores(logits)
    truth = (scores.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return logits, truth


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_truth_is_found(temperature, labels):
    assert fit_temperature(*drawn(temperature, labels)) == pytest.approx(temperature, rel=0.05)


def test_scores_are_probabilities():
    scores = Calibration(2.0).scores(np.array([[1000.0, -1000.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(scores, [[1, 0], [0.5, 0.5]])


def test_no_other_threshold_has_a_higher_macro_f1():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 300)
    scores = np.clip(rng.normal(0.3 + 0.2 * truth, 0.15), 0, 1)
    best = f1_score(truth, scores >= best_threshold(scores, truth), average="macro")
    assert best >= max(f1_score(truth, scores >= cut, average="macro") for cut in np.linspace(0, 1, 1001))


def test_of_equally_good_thresholds_the_nearest_to_one_half_is_taken():
    scores, truth = np.array([0.1, 0.2, 0.9, 0.95]), np.array([0, 0, 1, 1])
    assert best_threshold(scores, truth) == 0.5
    assert best_threshold(scores / 4, truth) == pytest.approx((0.05 + 0.225) / 2)


def test_one_half_is_left_for_a_gain_beyond_noise_only():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, 500)
    fitting = np.clip(rng.normal(0.4 + 0.2 * truth, 0.15), 0, 1)
    assert best_threshold(fitting, truth) != 0.5
    assert choose_threshold(fitting, truth) == 0.5
    leaning = fitting / 2
    assert choose_threshold(leaning, truth) == best_threshold(leaning, truth) < 0.4


def test_three_labels_have_a_temperature_and_no_threshold():
    logits, truth = drawn(2.0, labels=3, n=500)
    assert calibrate(logits, truth, ("a", "b", "c")).thresholds == {}


def test_the_threshold_bears_the_name_of_the_second_label():
    logits, truth = drawn(2.0, n=500)
    assert set(calibrate(logits, truth, ("not-hate", "hate")).thresholds) == {"hate"}
    assert uncalibrated(("not-hate", "hate")) == Calibration(1.0, {"hate": 0.5})


def independent(temperature, n=5000):
    """Logits of three labels whose truth is drawn from their sigmoids at a temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (n, 3))
    scores = Calibration(temperature, multi_label=True).scores(logits)
    return logits, (rng.random((n, 3)) < scores).astype(np.int64)


def test_scores_of_independent_labels_need_not_add_up_to_one():
    logits = np.array([[1000.0, 0.0, -1000.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    scores = Calibration(2.0, multi_label=True).scores(logits)
    np.testing.assert_allclose(scores, [[1, 0.5, 0], [0.5, 0.5, 0.5]], atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_independent_labels_share_the_temperature_that_made_the_truth(temperature):
    assert fit_temperature(*independent(temperature)) == pytest.approx(temperature, rel=0.1)


def test_every_independent_label_has_a_threshold():
    fitted = calibrate(*independent(2.0), ("a", "b", "c"))
    assert fitted.multi_label
    assert list(fitted.thresholds) == ["a", "b", "c"]
    same = uncalibrated(("a", "b"), multi_label=True)
    assert same == Calibration(1.0, {"a": 0.5, "b": 0.5}, multi_label=True)


def test_no_other_threshold_of_a_label_alone_has_a_higher_f1():
    rng = np.random.default_rng(1)
    truth = (rng.random(300) < 0.2).astype(np.int64)
    scores = np.clip(rng.normal(0.2 + 0.3 * truth, 0.15), 0, 1)
    best = f1_score(truth, scores >= best_threshold(scores, truth, of_label_alone=True))
    assert best >= max(f1_score(truth, scores >= cut) for cut in np.linspace(0, 1, 1001))


def test_a_label_leaves_one_half_for_a_gain_beyond_noise_and_on_texts_enough_alone():
    rng = np.random.default_rng(2)
    truth = (rng.random(500) < 0.3).astype(np.int64)
    fitting = np.clip(rng.normal(0.35 + 0.3 * truth, 0.15), 0, 1)
    assert choose_label_threshold(fitting, truth) == 0.5
    leaning = fitting / 2
    assert choose_label_threshold(leaning, truth) == best_threshold(leaning, truth, of_label_alone=True) < 0.4
    few = np.flatnonzero(truth)[: LEAST_POSITIVES - 1]
    rows = np.concatenate([few, np.flatnonzero(truth == 0)])
    assert choose_label_threshold(leaning[rows], truth[rows]) == 0.5
