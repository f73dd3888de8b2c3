"""A split's figures in detail: intervals, lengths, confusion, curves.

`measures.metrics.evaluate` computes the figures themselves.
"""

from typing import Any

import numpy as np
from msgspec.structs import replace
from sklearn.metrics import average_precision_score, confusion_matrix, multilabel_confusion_matrix
from sklearn.metrics import precision_recall_curve as sk_curve

from training.data import Split
from training.evaluation.classifier import Classifier
from training.evaluation.records import LengthPart
from training.measures.metrics import evaluate, reliability
from training.measures.records import Figures, Rates, Reliability
from training.measures.statistics import macro_f1_interval

PARTS = 4  # of about as many texts each, by length


def split_figures(classifier: Classifier, split: Split, scores: np.ndarray) -> Figures:
    """What `evaluate` gives, and the interval of its macro-F1."""
    truth = np.asarray(split.labels)
    found = evaluate(scores, truth, classifier.thresholds, classifier.labels)
    given = classifier.indicators(classifier.given(scores))
    low, high = macro_f1_interval(classifier.indicators(truth), given, groups=split.groups)
    return replace(found, macro_f1_low=low, macro_f1_high=high)


def by_length(classifier: Classifier, split: Split, scores: np.ndarray) -> list[LengthPart]:
    """The figures of each quarter of the texts, from the shortest to the longest in tokens; fewer parts if
    many texts have the same length."""
    lengths = np.array([len(ids) for ids in classifier.token_ids(split.texts)])
    edges = np.unique(np.quantile(lengths, np.arange(1, PARTS) / PARTS, method="lower"))
    which = np.searchsorted(edges, lengths, side="left")
    parts = []
    for rows in (np.flatnonzero(which == part) for part in range(len(edges) + 1)):
        if len(rows):
            found = split_figures(classifier, split.take(rows), scores[rows])
            kept = {name: getattr(found, name) for name in Rates.__struct_fields__}
            least, most = int(lengths[rows].min()), int(lengths[rows].max())
            parts.append(LengthPart(from_tokens=least, to_tokens=most, **kept))
    return parts


def confusion(classifier: Classifier, truth: np.ndarray, given: np.ndarray) -> list[Any]:
    """Counts [true label][given label]; of independent labels [label][true 0 or 1][given 0 or 1]."""
    if classifier.multi_label:
        return list(multilabel_confusion_matrix(truth, given).tolist())
    return list(confusion_matrix(truth, given, labels=np.arange(len(classifier.labels))).tolist())


def calibration_points(
    classifier: Classifier, truth: np.ndarray, scores: np.ndarray
) -> dict[str, list[Reliability]]:
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
    """For each label to detect (of two, the positive one): the curve, its average precision, and the point of
    the classifier, without a precision if it never gives the label. Labels that all texts or none have are
    left out."""
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
