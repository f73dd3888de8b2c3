"""Turn logits into calibrated probabilities, and choose the thresholds that decide."""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from training.data.positive import positive
from training.measures.statistics import compare

LOG_TEMPERATURE_BOUNDS = (-3.0, 3.0)  # e^±3: beyond, the model is broken rather than miscalibrated
LEAST_POSITIVES = 20  # with fewer texts that have a label, resampling says little about other texts


@dataclass(frozen=True)
class Calibration:
    """`thresholds` holds one entry, for the positive label, where there are two labels, and none else; where
    labels are independent (`multi_label`), one for each."""

    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    multi_label: bool = False

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `[n, labels]` of logits `[n, labels]`, in float64."""
        scaled = logits.astype(np.float64) / self.temperature
        return np.asarray(expit(scaled) if self.multi_label else softmax(scaled, axis=1))


def uncalibrated(
    labels: tuple[str, ...], multi_label: bool = False, positive_label: str | None = None
) -> Calibration:
    """Scores as the model gives them, with a threshold of one half: for weights without calibration."""
    if multi_label:
        return Calibration(1.0, dict.fromkeys(labels, 0.5), multi_label)
    return Calibration(1.0, {_positive(labels, positive_label): 0.5} if len(labels) == 2 else {})


def calibrate(
    logits: np.ndarray, truth: np.ndarray, labels: tuple[str, ...], positive_label: str | None = None
) -> Calibration:
    """Fit temperature, then thresholds, to validation logits `[n, labels]` and label indices `[n]`, or
    independent labels, 0 and 1, `[n, labels]`. The positive one of two labels is guessed unless given."""
    temperature = fit_temperature(logits, truth)
    if truth.ndim == 2:
        scores = Calibration(temperature, multi_label=True).scores(logits)
        thresholds = {
            label: choose_label_threshold(scores[:, place], truth[:, place])
            for place, label in enumerate(labels)
        }
        return Calibration(temperature, thresholds, multi_label=True)
    if len(labels) != 2:
        return Calibration(temperature)
    found = _positive(labels, positive_label)
    place = labels.index(found)
    scores = Calibration(temperature).scores(logits)[:, place]
    return Calibration(temperature, {found: choose_threshold(scores, (truth == place).astype(np.int64))})


def _positive(labels: tuple[str, ...], named: str | None) -> str:
    return str(positive(labels, named or "").label)


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature at which the mean negative log likelihood of the true labels is smallest: of
    independent ones, the mean binary cross-entropy over texts and labels."""
    logits = logits.astype(np.float64)
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if truth.ndim == 2:
            return float((np.logaddexp(0, scaled) - truth * scaled).mean())
        return float(-log_softmax(scaled, axis=1)[rows, truth].mean())

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


def choose_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold on scores `[n]` of label 1 with the highest macro-F1, or 0.5 if that is not better.

    The rule: 0.5, unless the 95 % interval of the best threshold's gain over it (paired bootstrap) is
    above zero. The best of a thousand candidates is partly luck: on random halves of TweetEval's
    validation split, the best of one half scored 0.777 on the other, and 0.5 scored 0.779.
    """
    best = best_threshold(scores, truth)
    given, plain = ((scores >= threshold).astype(np.int64) for threshold in (best, 0.5))
    gain = compare(truth, given, plain, labels=2)
    return best if gain.low > 0 else 0.5


def choose_label_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold on scores `[n]` of one of several independent labels, which `truth` `[n]` has (1) or not.

    The rule is that of `choose_threshold`, by the F1 of the label alone, and 0.5 stays where fewer than
    `LEAST_POSITIVES` texts have the label.
    """
    if truth.sum() < LEAST_POSITIVES:
        return 0.5
    best = best_threshold(scores, truth, of_label_alone=True)
    given, plain = ((scores >= threshold).astype(np.int64)[:, None] for threshold in (best, 0.5))
    gain = compare(truth[:, None], given, plain, labels=1)
    return best if gain.low > 0 else 0.5


def best_threshold(scores: np.ndarray, truth: np.ndarray, of_label_alone: bool = False) -> float:
    """The threshold with the highest macro-F1, or F1 `of_label_alone`; of several the nearest to 0.5.

    Candidates are 0.5 and the midpoints between neighbouring scores, so that a score that differs from
    ours by rounding falls on the same side.
    """
    ordered = np.unique(scores)
    candidates = np.append((ordered[1:] + ordered[:-1]) / 2, 0.5)
    positives = np.sort(scores[truth == 1])
    negatives = np.sort(scores[truth == 0])
    false_negative = np.searchsorted(positives, candidates)
    true_negative = np.searchsorted(negatives, candidates)
    true_positive = len(positives) - false_negative
    wrong = false_negative + len(negatives) - true_negative
    f1 = true_positive / np.maximum(2 * true_positive + wrong, 1)  # here and below, a half of it
    if not of_label_alone:
        f1 = f1 + true_negative / np.maximum(2 * true_negative + wrong, 1)
    best = candidates[f1 >= f1.max() - 1e-12]
    return round(float(best[np.abs(best - 0.5).argmin()]), 6)  # as scores are: it stands in every answer
