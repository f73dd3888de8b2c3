import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from common.records import plain
from training.measures.metrics import evaluate, expected_calibration_error, reliability
from training.measures.records import LabelFigures

LABELS = ("not-hate", "hate")


def of_hate(*scores):
    return np.column_stack([1 - np.array(scores), scores])


def test_figures_of_two_labels_by_hand():
    figures = evaluate(of_hate(0.1, 0.6, 0.4, 0.9), np.array([0, 0, 1, 1]), {"hate": 0.5}, LABELS)
    assert figures.n == 4
    assert figures.accuracy == 0.5
    assert figures.macro_f1 == 0.5
    assert figures.labels["hate"] == LabelFigures(precision=0.5, recall=0.5, f1=0.5, support=2)
    assert figures.auroc == 0.75
    assert figures.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert figures.brier == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)


def test_figures_of_three_labels_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, truth = rng.dirichlet([1, 1, 1], 200), rng.integers(0, 3, 200)
    figures = evaluate(scores, truth, {}, ("a", "b", "c"))
    assert figures.macro_f1 == pytest.approx(f1_score(truth, scores.argmax(axis=1), average="macro"))
    assert set(figures.labels) == {"a", "b", "c"}


def test_what_is_undefined_is_null_and_never_nan():
    figures = evaluate(of_hate(0.1, 0.2), np.array([0, 0]), {"hate": 0.5}, LABELS)
    assert figures.auroc is None
    assert figures.labels["hate"].f1 == 0
    json.dumps(plain(figures), allow_nan=False)


def test_calibration_error_is_the_gap_between_confidence_and_being_right():
    scores = of_hate(*[0.8] * 10)
    assert expected_calibration_error(scores, np.array([1] * 8 + [0] * 2)) == pytest.approx(0)
    assert expected_calibration_error(scores, np.array([1] * 5 + [0] * 5)) == pytest.approx(0.3)
    assert expected_calibration_error(of_hate(1.0, 0.0), np.array([1, 0])) == 0


def test_figures_of_independent_labels_by_hand():
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    scores = np.array([[0.9, 0.1, 0.2], [0.4, 0.8, 0.1], [0.2, 0.7, 0.3], [0.6, 0.2, 0.1]])
    figures = evaluate(scores, truth, {"a": 0.5, "b": 0.75, "c": 0.5}, ("a", "b", "c"))
    assert figures.labels["a"] == LabelFigures(precision=0.5, recall=0.5, f1=0.5, support=2)
    assert figures.labels["b"] == LabelFigures(precision=1, recall=0.5, f1=2 / 3, support=2)
    assert figures.labels["c"].f1 == 0
    assert figures.macro_f1 == pytest.approx((0.5 + 2 / 3) / 2), "no text has c"
    assert figures.micro_f1 == pytest.approx(2 * 2 / (4 + 3))
    assert figures.accuracy == 0.25
    assert figures.auroc == pytest.approx((0.75 + 1) / 2), "no text has c"
    assert figures.brier == pytest.approx(((scores - truth) ** 2).mean())
    json.dumps(plain(figures), allow_nan=False)


def test_ranking_is_null_where_every_independent_label_is_constant():
    figures = evaluate(np.array([[0.2, 0.9]]), np.array([[0, 1]]), {"a": 0.5, "b": 0.5}, ("a", "b"))
    assert (figures.auroc, figures.average_precision) == (None, None)


def test_every_decision_about_an_independent_label_counts_for_its_calibration():
    scores, truth = np.array([[0.8, 0.2]] * 10), np.array([[1, 0]] * 5 + [[0, 0]] * 5)
    figures = evaluate(scores, truth, {"a": 0.5, "b": 0.5}, ("a", "b"))
    assert figures.ece == pytest.approx(abs(20 * 0.8 - 15) / 20)
    assert [(part.rate, part.n) for part in reliability(scores, truth)] == [(0, 10), (0.5, 10)]
