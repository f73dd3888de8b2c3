"""An alarm for shares of texts that you may check as often as you like.

A Shiryaev-Roberts sum of e-values (an e-detector: Shin, Ramdas and Rinaldo, 2023), which detects a change
after a million quiet texts as fast as one on the first day. As long as a share stays within its limits,
however it moves there, the first false alarm comes after `texts_per_alarm` texts or more on average, and
within n texts with a probability of at most n / `texts_per_alarm`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, logsumexp

# Changes that are looked for, in log-odds beyond what is allowed. Each is twice the one before: a change in
# between takes at most a fifth more texts than it would if it were one of them.
STEPS = 0.0125 * 2.0 ** np.arange(9)
ALTERNATIVES = 2 * len(STEPS)
# A share of less than nothing or more than all cannot be bet on: such a bet loses with every text.
LOST = -1.0
CALM = 0.5  # of the alarm's level, as a logarithm: below it an alarm ends
NOTHING = -np.inf


@dataclass(frozen=True)
class Bets:
    """What a text adds to each alternative's log e-value: with the property in question (`hit`) and without
    it (`miss`), float64 [..., `ALTERNATIVES`]."""

    hit: np.ndarray
    miss: np.ndarray


def bets(low: float | np.ndarray, high: float | np.ndarray) -> Bets:
    """Likelihood ratios of shares below `low` to `low` and of shares above `high` to `high`, of any shape.
    Their mean is at most 1 for every share in between."""
    edges = np.stack([np.asarray(low, np.float64), np.asarray(high, np.float64)], axis=-1)[..., None]
    inside = (edges > 0) & (edges < 1)
    allowed = np.where(inside, edges, 0.5)
    sought = expit(logit(allowed) + np.array([[-1.0], [1.0]]) * STEPS)
    hit = np.where(inside, np.log(sought / allowed), LOST)
    miss = np.where(inside, np.log((1 - sought) / (1 - allowed)), LOST)
    return Bets(*(each.reshape(*each.shape[:-2], ALTERNATIVES) for each in (hit, miss)))


def wagered(levels: np.ndarray, bets: Bets, hits: int | np.ndarray, texts: int) -> np.ndarray:
    """Log e-values [..., `ALTERNATIVES`] after `texts` more, `hits` [...] of them with the property. Their
    order makes no difference."""
    found = np.asarray(hits, np.float64)[..., None]
    return np.asarray(levels + found * bets.hit + (texts - found) * bets.miss)


def grown(levels: np.ndarray, bets: Bets, hits: int | np.ndarray, texts: int) -> np.ndarray:
    """Log Shiryaev-Roberts sums [..., `ALTERNATIVES`] after `texts` more, as in `wagered`. Each of these
    texts may be the first after a change."""
    return wagered(np.logaddexp(levels, np.log(texts)), bets, hits, texts) if texts else levels


def evidence(levels: np.ndarray) -> np.ndarray:
    """The logarithm of the mean over alternatives [...]: what an alarm or a test goes by."""
    return np.asarray(logsumexp(levels, axis=-1) - np.log(ALTERNATIVES))


class AnytimeTest:
    """Tests after every text whether a share is from `low` to `high`. The probability of a false rejection is
    at most `alpha`, however long the test goes on (Ville's inequality)."""

    def __init__(self, low: float, high: float, alpha: float) -> None:
        self.is_rejected = False
        self.hits = self.texts = 0
        self._least = -float(np.log(alpha)) if alpha else np.inf
        self._levels = np.zeros(ALTERNATIVES)
        self._bets = bets(low, high)

    def add(self, hits: int, texts: int) -> None:
        """`texts` more, `hits` of which have the property."""
        self.hits, self.texts = self.hits + hits, self.texts + texts
        self._levels = wagered(self._levels, self._bets, hits, texts)
        self.is_rejected |= float(evidence(self._levels)) >= self._least


class Detector:
    """Watches one share that may be from `low` to `high`. An alarm lasts until the evidence has fallen to
    the square root of what raised it; then all begins again."""

    def __init__(self, low: float, high: float, texts_per_alarm: float) -> None:
        self.alarm = float(np.log(texts_per_alarm))
        self.levels = np.full(ALTERNATIVES, NOTHING)
        self.is_alarmed = False
        self._bets = bets(low, high)

    def add(self, hits: int, texts: int) -> None:
        """`texts` more, `hits` of which have the property."""
        self.levels = grown(self.levels, self._bets, hits, texts)
        found = float(evidence(self.levels))
        if found >= self.alarm:
            self.is_alarmed = True
            self.levels -= found - self.alarm  # a month of drift is forgotten as soon as a day of it
        elif self.is_alarmed and found < CALM * self.alarm:
            self.is_alarmed, self.levels = False, np.full(ALTERNATIVES, NOTHING)

    @property
    def progress(self) -> float:
        """How near the alarm is: the logarithm of the evidence, 1 where it is raised, at least 0."""
        return max(0.0, float(evidence(self.levels)) / self.alarm)
