"""How good calibrated scores are: labels, ranking, and the scores as probabilities.

Covers single-label tasks of two labels and more. Leaves out: multi-label, differences between two models
(`statistics`), and plots.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn import metrics as sk

from handler.predictor import decide

RELIABILITY_BINS = 10
ECE_BINS = 15  # of equal width, as Guo et al., 2017 (https://arxiv.org/abs/1706.04599)


def evaluate(
    scores: np.ndarray, truth: np.ndarray, thresholds: Mapping[str, float], labels: Sequence[str]
) -> dict:
    """All figures of scores `[n, labels]` against label indices `[n]`, in plain JSON numbers.

    What is undefined (AUROC where a label is absent) is None. With two labels, `auroc` and
    `average_precision` are those of the second; with more, the mean of each label against the rest.
    `brier` is the mean squared error of the second label's score, or summed over all labels where there
    are more than two; `ece` is that of the top label.
    """
    given = decide(scores, labels, thresholds)
    indices = np.arange(len(labels))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth, given, labels=indices, zero_division=0
    )
    per_label = {
        label: {
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "support": int(support[index]),
        }
        for index, label in enumerate(labels)
    }
    onehot = truth[:, None] == indices
    return {
        "n": len(truth),
        "macro_f1": float(f1.mean()),
        "accuracy": float((given == truth).mean()),
        "labels": per_label,
        **_ranking(scores, onehot),
        "brier": float(((scores - onehot) ** 2).sum(axis=1).mean() / (2 if len(labels) == 2 else 1)),
        "ece": expected_calibration_error(scores, truth),
    }


def expected_calibration_error(scores: np.ndarray, truth: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean gap between the top label's score and how often it is right, over bins of the score."""
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(which, weights=confidence, minlength=bins) - np.bincount(
        which, weights=right, minlength=bins
    )
    return float(np.abs(gaps).sum() / len(truth))


def reliability(scores: np.ndarray, truth: np.ndarray, bins: int = RELIABILITY_BINS) -> list[dict]:
    """The points of a reliability diagram: of each bin of the last of two labels' score (of the top label,
    where there are more) the mean score, how often it was right, and how many texts."""
    if scores.shape[1] == 2:
        score, right = scores[:, 1], truth == 1
    else:
        score, right = scores.max(axis=1), scores.argmax(axis=1) == truth
    which = np.minimum((score * bins).astype(np.int64), bins - 1)
    return [
        {"score": float(score[rows].mean()), "rate": float(right[rows].mean()), "n": int(rows.sum())}
        for rows in (which == place for place in range(bins))
        if rows.any()
    ]


def _ranking(scores: np.ndarray, onehot: np.ndarray) -> dict[str, float | None]:
    ranked = [1] if scores.shape[1] == 2 else list(range(scores.shape[1]))
    if any(onehot[:, index].all() or not onehot[:, index].any() for index in ranked):
        return {"auroc": None, "average_precision": None}
    auroc = [sk.roc_auc_score(onehot[:, index], scores[:, index]) for index in ranked]
    precision = [sk.average_precision_score(onehot[:, index], scores[:, index]) for index in ranked]
    return {"auroc": float(np.mean(auroc)), "average_precision": float(np.mean(precision))}
