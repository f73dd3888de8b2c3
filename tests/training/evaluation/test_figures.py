from itertools import pairwise

import pytest

from training.evaluation import figures


def test_quarters_by_length_hold_every_text_once(classifier, dataset):
    split = dataset.splits["train"]
    parts = figures.by_length(classifier, split, classifier.scores(split.texts, "train"))
    assert sum(part.n for part in parts) == len(split)
    assert all(first.to_tokens < second.from_tokens for first, second in pairwise(parts))
    assert min(part.n for part in parts) > len(split) / 10


def test_confusion_and_curve_agree_with_the_figures(classifier, dataset):
    split = dataset.splits["validation"]
    scores = classifier.scores(split.texts, "validation")
    found = figures.split_figures(classifier, split, scores)
    (_, false), (missed, right) = figures.confusion(classifier, split.labels, classifier.given(scores))
    (curve,) = figures.precision_recall(classifier, split.labels, scores)
    assert curve["label"] == "hate"
    assert curve["average_precision"] == pytest.approx(found.average_precision)
    assert curve["at_recall"] == pytest.approx(right / (right + missed))
    assert curve["at_precision"] == pytest.approx(right / (right + false))
