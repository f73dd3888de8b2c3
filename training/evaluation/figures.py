"""A split's figures with what they rest on: intervals, lengths, confusion, curves.

`measures.metrics.evaluate` has the figures themselves. Here: the 95 % interval of macro-F1, and of a drop in
it, by a bootstrap over the texts; the figures of short and long texts; who is taken for whom; how scores and
truth go together. Labels come as booleans [n, labels] where one form serves both tasks.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, multilabel_confusion_matrix
from sklearn.metrics import precision_recall_curve as sk_curve

from training.data import Split
from training.evaluation.classifier import Classifier
from training.measures.metrics import evaluate, reliability
from training.measures.statistics import RESAMPLES, mean_f1

BY_LENGTH = ("macro_f1", "accuracy", "auroc", "average_precision", "brier", "ece")
PARTS = 4  # of about as many texts each, by length
CHUNK_WEIGHTS = 2_000_000  # resamples x different rows at once: 16 MB


def split_figures(classifier: Classifier, split: Split, scores: np.ndarray) -> dict[str, Any]:
    """What `evaluate` gives, and the interval of its macro-F1."""
    truth = np.asarray(split.labels)
    found = evaluate(scores, truth, classifier.thresholds, classifier.labels)
    given = classifier.indicators(classifier.given(scores))
    low, high = macro_f1_interval(classifier.indicators(truth), given)
    return {**found, "macro_f1_low": low, "macro_f1_high": high}


def by_length(classifier: Classifier, split: Split, scores: np.ndarray) -> list[dict[str, Any]]:
    """The figures of each quarter of the texts, from the shortest to the longest in tokens; fewer parts where
    many texts have one length."""
    lengths = np.array([len(ids) for ids in classifier.token_ids(split.texts)])
    edges = np.unique(np.quantile(lengths, np.arange(1, PARTS) / PARTS, method="lower"))
    which = np.searchsorted(edges, lengths, side="left")
    parts = []
    for rows in (np.flatnonzero(which == part) for part in range(len(edges) + 1)):
        if len(rows):
            found = split_figures(classifier, split.take(rows), scores[rows])
            kept = {name: found.get(name) for name in (*BY_LENGTH, "macro_f1_low", "macro_f1_high")}
            least, most = int(lengths[rows].min()), int(lengths[rows].max())
            parts.append({"from_tokens": least, "to_tokens": most, "n": len(rows), **kept})
    return parts


def confusion(classifier: Classifier, truth: np.ndarray, given: np.ndarray) -> list[Any]:
    """Counts [true label][given label]; of independent labels [label][true 0 or 1][given 0 or 1]."""
    if classifier.multi_label:
        return multilabel_confusion_matrix(truth, given).tolist()
    return confusion_matrix(truth, given, labels=np.arange(len(classifier.labels))).tolist()


def calibration_points(classifier: Classifier, truth: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """The points of a reliability diagram, by what is scored: a label, or the top label of three or more."""
    if classifier.multi_label:
        return {
            label: reliability(np.stack([1 - scores[:, place], scores[:, place]], axis=1), truth[:, place], 1)
            for place, label in enumerate(classifier.labels)
        }
    place = classifier.positive
    name = "the top label" if place is None else classifier.labels[place]
    return {name: reliability(scores, truth, place)}


def precision_recall(classifier: Classifier, truth: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """Of each label that is looked for (of two the positive one) the curve, its average precision and the
    point at which the classifier stands, without a precision where it never gives the label; labels that all
    texts or none have are left out."""
    held, given = classifier.indicators(truth), classifier.indicators(classifier.given(scores))
    places = range(len(classifier.labels)) if classifier.positive is None else [classifier.positive]
    curves = []
    for place in places:
        right = held[:, place]
        if right.any() and not right.all():
            precision, recall, _ = sk_curve(right, scores[:, place])
            both = int((right & given[:, place]).sum())
            curves.append(
                {
                    "label": classifier.labels[place],
                    "precision": precision,
                    "recall": recall,
                    "average_precision": float(average_precision_score(right, scores[:, place])),
                    "rate": float(right.mean()),
                    "at_precision": both / int(given[:, place].sum()) if given[:, place].any() else None,
                    "at_recall": both / int(right.sum()),
                }
            )
    return curves


def macro_f1_interval(truth: np.ndarray, given: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of macro-F1 from booleans [n, labels]: percentile bootstrap over texts (Efron, 1979)."""
    labels = truth.shape[1]
    drawn = np.concatenate(
        [
            _macro_f1(weights, rows[:, :labels], rows[:, labels:])
            for weights, rows in _resample(seed, truth, given)
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def macro_f1_drop(
    truth: np.ndarray, clean: np.ndarray, given: np.ndarray, *, seed: int = 0
) -> tuple[float, float, float, float]:
    """Macro-F1 of `given`, what it lacks to that of `clean`, and the 95 % interval of that drop; booleans
    [n, labels], the same texts resampled for both."""
    labels = truth.shape[1]
    whole, first, second = np.ones((1, len(truth))), 2 * labels, labels
    drops = np.concatenate(
        [
            _macro_f1(weights, rows[:, :labels], rows[:, second:first])
            - _macro_f1(weights, rows[:, :labels], rows[:, first:])
            for weights, rows in _resample(seed, truth, clean, given)
        ]
    )
    now = _macro_f1(whole, truth, given)[0]
    low, high = np.quantile(drops, [0.025, 0.975])
    return float(now), float(_macro_f1(whole, truth, clean)[0] - now), float(low), float(high)


def _resample(seed: int, *columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights [some, rows] of resamples and the different rows that they weigh; equal texts are counted
    together, which is the same bootstrap and as quick for a million texts as for ten."""
    rows, counts = np.unique(np.concatenate(columns, axis=1), axis=0, return_counts=True)
    rng, n, most = np.random.default_rng(seed), int(counts.sum()), max(1, CHUNK_WEIGHTS // len(rows))
    for start in range(0, RESAMPLES, most):
        yield rng.multinomial(n, counts / n, size=min(most, RESAMPLES - start)).astype(np.float64), rows


def _macro_f1(weights: np.ndarray, truth: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Macro-F1 [m] of rows weighted by [m, rows], over the labels that some row has."""
    held, right = weights @ truth.astype(np.float64), weights @ (truth & given)
    return mean_f1(right, held, weights @ given)
