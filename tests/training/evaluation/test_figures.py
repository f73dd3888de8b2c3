from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import f1_score

from training.evaluation import figures
from training.measures.statistics import compare


def onehot(labels, count=3):
    return labels[:, None] == np.arange(count)


@pytest.fixture
def answers():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 400)
    clean = np.where(rng.random(400) < 0.8, truth, rng.integers(0, 3, 400))
    given = np.where(rng.random(400) < 0.9, clean, rng.integers(0, 3, 400))
    return truth, clean, given


def test_the_interval_of_macro_f1_holds_the_figure_and_narrows_with_more_texts(answers):
    truth, clean, _ = answers
    low, high = figures.macro_f1_interval(onehot(truth), onehot(clean))
    assert low < f1_score(truth, clean, average="macro") < high
    more = figures.macro_f1_interval(onehot(np.tile(truth, 9)), onehot(np.tile(clean, 9)))
    assert more[1] - more[0] == pytest.approx((high - low) / 3, rel=0.1)


def test_a_drop_is_the_one_of_the_paired_comparison(answers):
    truth, clean, given = answers
    macro_f1, drop, low, high = figures.macro_f1_drop(onehot(truth), onehot(clean), onehot(given))
    ours = compare(truth, clean, given, 3)
    assert macro_f1 == pytest.approx(ours.candidate_macro_f1)
    assert drop == pytest.approx(ours.drop)
    assert (low, high) == pytest.approx((ours.low, ours.high), abs=3e-3)


def test_independent_labels_have_the_mean_of_their_f1(answers):
    rng = np.random.default_rng(2)
    truth, given = rng.random((300, 4)) < 0.3, rng.random((300, 4)) < 0.3
    macro_f1, drop, *_ = figures.macro_f1_drop(truth, given, given)
    assert macro_f1 == pytest.approx(f1_score(truth, given, average="macro"))
    assert drop == 0


def test_quarters_by_length_hold_every_text_once(classifier, dataset):
    split = dataset.splits["train"]
    parts = figures.by_length(classifier, split, classifier.scores(split.texts, "train"))
    assert sum(part["n"] for part in parts) == len(split)
    assert all(one["to_tokens"] < other["from_tokens"] for one, other in pairwise(parts))
    assert min(part["n"] for part in parts) > len(split) / 10


def test_confusion_and_curve_agree_with_the_figures(classifier, dataset):
    split = dataset.splits["validation"]
    scores = classifier.scores(split.texts, "validation")
    found = figures.split_figures(classifier, split, scores)
    (_, false), (missed, right) = figures.confusion(classifier, split.labels, classifier.given(scores))
    (curve,) = figures.precision_recall(classifier, split.labels, scores)
    assert curve["label"] == "hate"
    assert curve["average_precision"] == pytest.approx(found["average_precision"])
    assert curve["at_recall"] == pytest.approx(right / (right + missed))
    assert curve["at_precision"] == pytest.approx(right / (right + false))
