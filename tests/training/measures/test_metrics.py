import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score

from common.records import plain
from training.measures.metrics import (
    brier_of_texts,
    evaluate,
    expected_calibration_error,
    perfect_calibration_error,
    reliability,
)
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


@pytest.mark.parametrize("texts", [300, 1750, 20_000])
def test_what_a_perfect_model_shows_is_about_what_one_shows_that_is_drawn(texts: int) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.beta(0.5, 0.5, texts)
    scores = np.stack([1 - drawn, drawn], axis=1)
    shown = [expected_calibration_error(scores, rng.random(texts) < drawn) for _ in range(200)]
    found = perfect_calibration_error(scores, np.zeros(texts, np.int64))
    assert found == pytest.approx(np.mean(shown), rel=0.1)
    independent = perfect_calibration_error(drawn[:, None], np.zeros((texts, 1), np.int64))
    assert independent == pytest.approx(found)


def test_the_brier_score_of_texts_has_the_mean_that_is_reported() -> None:
    """As scikit-learn has it, of two labels, three, and independent ones."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 50)
    two = rng.dirichlet([1, 1], 50)
    assert brier_of_texts(two, truth).mean() == pytest.approx(brier_score_loss(truth, two[:, 1]))
    three, of_three = rng.dirichlet([1, 1, 1], 50), rng.integers(0, 3, 50)
    summed = sum(brier_score_loss(of_three == label, three[:, label]) for label in range(3))
    assert brier_of_texts(three, of_three).mean() == pytest.approx(summed)
    held, scores = rng.integers(0, 2, (50, 3)), rng.random((50, 3))
    each = [brier_score_loss(held[:, label], scores[:, label]) for label in range(3)]
    assert brier_of_texts(scores, held).mean() == pytest.approx(np.mean(each))
