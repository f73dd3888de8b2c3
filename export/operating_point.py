"""Offsets for a variant's logits, so that it gives each label to as many texts as fp32 at fp32's thresholds.

Quantisation moves all scores a little to one side, so some texts end up on the other side of a threshold.
Macro-F1 does not show that, because what is lost in recall is gained in precision.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import logit, logsumexp, softmax

from handler.artifact import Artifact
from handler.predictor import positive_of_two
from handler.stages import LEAST_SCORE, limits

# Shares are counted over a band around the threshold, not at it. On a thousand texts a dozen labels flip: an
# offset that corrected only these twelve would move the next thousand by as much as it should correct.
IN_BAND = 100  # texts, those that fp32 was the least sure of
PRECISION = 1e-6  # of a share
MOST = 100.0


def fit_offsets(artifact: Artifact, logits: np.ndarray, reference: np.ndarray) -> list[float]:
    """What to add to the logit of each label, from the variant's logits and fp32's scores `[texts, labels]`.

    Of two labels the positive one is moved; of three and more the offsets have a mean of zero.
    """
    ours = logits - limits(artifact.meta)
    theirs = _logits(artifact, reference) - limits(artifact.meta)
    if artifact.multi_label:
        offsets = np.array([_two(ours[:, label], theirs[:, label]) for label in range(ours.shape[1])])
    elif len(artifact.labels) == 2:
        place = positive_of_two(artifact.labels, artifact.meta.thresholds)
        offsets = np.zeros(2)
        offsets[place] = _two(ours[:, place] - ours[:, 1 - place], theirs[:, place] - theirs[:, 1 - place])
    else:
        offsets = _fit(ours, theirs)
        offsets -= offsets.mean()
    return [round(float(offset), 6) for offset in offsets]


def _logits(artifact: Artifact, scores: np.ndarray) -> np.ndarray:
    """Logits of calibrated scores; for exclusive labels, up to a constant for each text."""
    scaled = logit(_inside(scores)) if artifact.multi_label else np.log(_inside(scores))
    return np.asarray(artifact.meta.temperature * scaled)


def _inside(scores: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(scores, LEAST_SCORE, 1 - LEAST_SCORE))


def _two(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The offset of a label that is given if its logit, `[texts]`, is above zero."""
    no, yes = _fit(*(np.stack([np.zeros_like(values), values], axis=1) for values in (ours, theirs)))
    return float(yes - no)


def _fit(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Offsets `[labels]` at which the mean soft decision of `ours` is that of `theirs`, `[texts, labels]`.

    The soft decisions are a softmax as wide as the band; their mean is the gradient of a convex function.
    """
    second, first = np.sort(theirs, axis=1)[:, -2:].T
    sure = np.sort(first - second)
    band = max(float(sure[min(IN_BAND, len(sure) // 2)]) / 2, LEAST_SCORE)
    share = softmax(theirs / band, axis=1).mean(axis=0)

    def excess(offsets: np.ndarray) -> tuple[float, np.ndarray]:
        moved = (ours + offsets) / band
        value = band * logsumexp(moved, axis=1).mean() - share @ offsets
        return float(value), softmax(moved, axis=1).mean(axis=0) - share

    # Far from the solution the soft decisions are flat: it begins where the texts in the band would have it.
    start = (theirs - ours)[np.argsort(first - second)[:IN_BAND]].mean(axis=0)
    bounds = [(-MOST, MOST)] * len(share)
    found = minimize(
        excess,
        np.clip(start, -MOST, MOST),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"gtol": PRECISION, "ftol": 0},
    )
    return np.asarray(found.x)
