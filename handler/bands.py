"""Bands of the positive label's score, and what is decided in each: to act, to review or to let pass."""

import numpy as np

from handler.description import Bands

PASS, REVIEW, ACT = range(3)  # places in `handler.answers.DECISIONS`


def decide_bands(scores: np.ndarray, act: float, review: float) -> np.ndarray:
    """What is decided, int [texts], by the positive label's scores as they are served, [texts]."""
    return (scores >= review).astype(np.int64) + (scores >= act)


def decisions(scores: np.ndarray, positive: int, bands: Bands) -> np.ndarray:
    """The same from the scores of all labels, [texts, labels]."""
    return decide_bands(scores[:, positive], bands.act, bands.review)
