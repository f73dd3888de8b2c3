"""Figures of calibrated scores: labels, ranking, and calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sk

from handler.predictor import decide, positive_of_two
from training.measures.records import Figures, LabelFigures, Reliability

RELIABILITY_BINS = 10
ECE_BINS = 15  # of equal width, as Guo et al., 2017 (https://arxiv.org/abs/1706.04599)


def evaluate(
    scores: np.ndarray, truth: np.ndarray, thresholds: Mapping[str, float], labels: Sequence[str]
) -> Figures:
    """All figures of scores `[n, labels]` against label indices `[n]`, or against independent labels as 0 and
    1 `[n, labels]`.

    `macro_f1` is the mean F1 of the labels that some text has, as in `statistics.macro_f1`.
    What is undefined (AUROC where a label is absent) is None. With two labels, `auroc` and
    `average_precision` are those of the positive one; with more, the mean of each label against the rest.
    `brier` is the mean squared error of one label's score, or summed over all labels where there are more
    than two; `ece` is that of the top label.

    Of independent labels, `macro_f1` is the same mean, `micro_f1` that of all decisions together,
    `accuracy` the share of texts with all labels right, `auroc` and `average_precision` the means over the
    labels that some texts have and others have not, `brier` the mean over labels, and `ece` that of every
    decision about a label.
    """
    if truth.ndim == 2:
        return _evaluate_independent(scores, truth, thresholds, labels)
    given = decide(scores, labels, thresholds)
    indices = np.arange(len(labels))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth, given, labels=indices, zero_division=0
    )
    onehot = truth[:, None] == indices
    return Figures(
        n=len(truth),
        macro_f1=float(f1[support > 0].mean()),
        accuracy=float((given == truth).mean()),
        labels=_per_label(labels, precision, recall, f1, support),
        **_ranking(scores, onehot, [positive_of_two(labels, thresholds)] if len(labels) == 2 else indices),
        brier=float(brier_of_texts(scores, truth).mean()),
        ece=expected_calibration_error(scores, truth),
    )


def _evaluate_independent(
    scores: np.ndarray, truth: np.ndarray, thresholds: Mapping[str, float], labels: Sequence[str]
) -> Figures:
    given = decide(scores, labels, thresholds, multi_label=True)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth, given, average=None, zero_division=0
    )
    told = [column.any() and not column.all() for column in truth.T]
    return Figures(
        n=len(truth),
        macro_f1=float(f1[support > 0].mean()) if support.any() else 0.0,
        micro_f1=float(sk.f1_score(truth, given, average="micro", zero_division=0)),
        accuracy=float((given == truth).all(axis=1).mean()),
        labels=_per_label(labels, precision, recall, f1, support),
        **_mean_ranking(scores[:, told], truth[:, told]),
        brier=float(brier_of_texts(scores, truth).mean()),
        ece=expected_calibration_error(*_questions(scores, truth)),
    )


def _per_label(labels: Sequence[str], *figures: np.ndarray) -> dict[str, LabelFigures]:
    """Of each label its precision, recall, F1 and texts."""
    columns = [column.tolist() for column in figures]
    return {label: LabelFigures(*row) for label, *row in zip(labels, *columns, strict=True)}


def _questions(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every decision about an independent label as a separate text with two labels, no and yes: scores
    `[n * labels, 2]` and indices `[n * labels]`."""
    return np.stack([1 - scores, scores], axis=-1).reshape(-1, 2), truth.reshape(-1)


def expected_calibration_error(scores: np.ndarray, truth: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean gap between the top label's score and how often it is right, over bins of the score."""
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(which, weights=confidence, minlength=bins) - np.bincount(
        which, weights=right, minlength=bins
    )
    return float(np.abs(gaps).sum() / len(truth))


def perfect_calibration_error(scores: np.ndarray, truth: np.ndarray, bins: int = ECE_BINS) -> float:
    """About what `ece` would be, on average, if these scores were perfectly calibrated: a sample of this size
    shows no smaller error. Independent labels have a `truth` of `[n, labels]`."""
    confidence = (_questions(scores, truth)[0] if truth.ndim == 2 else scores).max(axis=1)
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    variances = np.bincount(which, weights=confidence * (1 - confidence), minlength=bins)
    # The mean distance of a normal variate from its mean is sqrt(2 / pi) standard deviations.
    return float(np.sqrt(2 / np.pi * variances).sum() / len(confidence))


def brier_of_texts(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The squared error of each text's scores, float64 `[n]`: the mean over two labels and over independent
    ones, the sum over more that exclude each other."""
    independent = truth.ndim == 2
    held = truth if independent else truth[:, None] == np.arange(scores.shape[1])
    squared = (scores - held) ** 2
    mean = independent or scores.shape[1] == 2
    return np.asarray(squared.mean(axis=1) if mean else squared.sum(axis=1))


def reliability(
    scores: np.ndarray, truth: np.ndarray, positive: int | None = None, bins: int = RELIABILITY_BINS
) -> list[Reliability]:
    """The points of a reliability diagram: of each bin of the score of the `positive` one of two labels (else
    of the top label; of independent labels, of every score) the mean score, how often it was right, and how
    many texts (or scores)."""
    if truth.ndim == 2:
        scores, truth = _questions(scores, truth)
        positive = 1
    if scores.shape[1] == 2 and positive is not None:
        score = scores[:, positive]
        right = truth == positive
    else:
        score = scores.max(axis=1)
        right = scores.argmax(axis=1) == truth
    which = np.minimum((score * bins).astype(np.int64), bins - 1)
    return [
        Reliability(score=float(score[rows].mean()), rate=float(right[rows].mean()), n=int(rows.sum()))
        for rows in (which == place for place in range(bins))
        if rows.any()
    ]


def _ranking(scores: np.ndarray, onehot: np.ndarray, ranked: Sequence[int] | np.ndarray) -> dict[str, Any]:
    if any(onehot[:, index].all() or not onehot[:, index].any() for index in ranked):
        return {"auroc": None, "average_precision": None}
    return _mean_ranking(scores[:, ranked], onehot[:, ranked])


def _mean_ranking(scores: np.ndarray, held: np.ndarray) -> dict[str, Any]:
    """Means over the columns; None where there is none."""
    if not held.shape[1]:
        return {"auroc": None, "average_precision": None}
    pairs = list(zip(held.T, scores.T, strict=True))
    auroc = [sk.roc_auc_score(one, score) for one, score in pairs]
    precision = [sk.average_precision_score(one, score) for one, score in pairs]
    return {"auroc": float(np.mean(auroc)), "average_precision": float(np.mean(precision))}
