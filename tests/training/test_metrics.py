import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from training.metrics import evaluate, expected_calibration_error

LABELS = ("not-hate", "hate")


def of_hate(*scores):
    return np.column_stack([1 - np.array(scores), scores])


def test_figures_of_two_labels_by_hand():
    figures = evaluate(of_hate(0.1, 0.6, 0.4, 0.9), np.array([0, 0, 1, 1]), {"hate": 0.5}, LABELS)
    assert figures["n"] == 4
    assert figures["accuracy"] == 0.5
    assert figures["macro_f1"] == 0.5
    assert figures["labels"]["hate"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert figures["auroc"] == 0.75
    assert figures["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)


def test_figures_of_three_labels_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, truth = rng.dirichlet([1, 1, 1], 200), rng.integers(0, 3, 200)
    figures = evaluate(scores, truth, {}, ("a", "b", "c"))
    assert figures["macro_f1"] == pytest.approx(f1_score(truth, scores.argmax(axis=1), average="macro"))
    assert set(figures["labels"]) == {"a", "b", "c"}


def test_what_is_undefined_is_null_and_never_nan():
    figures = evaluate(of_hate(0.1, 0.2), np.array([0, 0]), {"hate": 0.5}, LABELS)
    assert figures["auroc"] is None
    assert figures["labels"]["hate"]["f1"] == 0
    json.dumps(figures, allow_nan=False)


def test_calibration_error_is_the_gap_between_confidence_and_being_right():
    scores = of_hate(*[0.8] * 10)
    assert expected_calibration_error(scores, np.array([1] * 8 + [0] * 2)) == pytest.approx(0)
    assert expected_calibration_error(scores, np.array([1] * 5 + [0] * 5)) == pytest.approx(0.3)
    assert expected_calibration_error(of_hate(1.0, 0.0), np.array([1, 0])) == 0
