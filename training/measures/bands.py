"""Bands of the positive label's score: where to act, where a person is to look, what may pass.

Bands are fitted to labelled texts so that goals are kept with a stated confidence, by exact binomial bounds
over thresholds that were set before the texts were seen.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import expit, logit

from common.shares import kept_in_sequence, upper_share
from handler.bands import ACT, PASS, REVIEW, decide_bands
from handler.description import Bands, Promise, PromiseKind
from handler.errors import UserError

PRECISION: Final = "precision"
RECALL: Final = "recall"
FALSE_POSITIVES: Final = "false-positive-rate"
REVIEWED: Final = "review-share"
COST: Final = "cost"
WORDS = {
    PRECISION: "precision",
    RECALL: "recall",
    FALSE_POSITIVES: "false-positive rate",
    REVIEWED: "share of reviewed texts",
    COST: "cost of a text",
}
AT_LEAST = (PRECISION, RECALL)  # of the other kinds at most so much is promised
# Thresholds that are tried, from strict to loose, evenly spaced in log-odds: set before any text is seen.
THRESHOLDS = tuple(np.round(expit(np.arange(200, -201, -1) / 20), 6).tolist())
WIDTHS = (np.arange(201) / 20).tolist()  # of a band to either side of one threshold, in log-odds
# Where walks for a precision begin: at the strictest thresholds too few texts are acted on to prove any.
STARTS = tuple(THRESHOLDS.index(round(float(expit(log_odds)), 6)) for log_odds in range(6, -1, -1))
LEAST_TEXTS = 50

Ends = tuple[float, float]
"""The scores from which on to act and to review."""


@dataclass(frozen=True)
class Costs:
    """Of a text that is acted on wrongly, one that passes wrongly, and one that is reviewed (None: nothing is
    reviewed), in any unit."""

    fp: float
    fn: float
    review: float | None = None


@dataclass(frozen=True)
class Goals:
    """What bands are to keep: shares from 0 to 1, or costs alone. UserError for goals that exclude each
    other, and for none."""

    precision: float | None = None
    recall: float | None = None
    false_positive_rate: float | None = None
    review_share: float | None = None
    cost: Costs | None = None

    def __post_init__(self) -> None:
        given = [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]
        seen = " ".join(given) or "no goal"
        if not given:
            remedy = "Give --precision, --recall, --false-positive-rate, --review-share or --cost"
            raise UserError("Nothing says what the decisions are to keep", seen=seen, remedy=remedy)
        if self.cost and len(given) > 1:
            remedy = "Give --cost alone, or leave it out"
            raise UserError("Costs alone decide where each band begins", seen=seen, remedy=remedy)
        if self.precision is not None and self.false_positive_rate is not None:
            remedy = "Give one of the two"
            raise UserError(
                "Precision and false-positive rate both say where to act", seen=seen, remedy=remedy
            )
        if self.review_share is not None and self.recall is not None and len(given) > 2:
            remedy = "Leave one of the three out"
            raise UserError("Two goals set both ends of the review already", seen=seen, remedy=remedy)

    @property
    def count(self) -> int:
        """How many promises share what may go wrong."""
        return sum(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class Judged:
    """Texts with their labels: scores of the positive label as they are served, float64 [texts], and whether
    each has the label, bool [texts]."""

    scores: np.ndarray
    truth: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray) -> "Judged":
        return Judged(self.scores[rows], self.truth[rows])

    def counted(self, kind: str, ends: Ends) -> tuple[int, int]:
        """The texts that break a promise of this kind, and the texts that it is about."""
        return counted(kind, decide_bands(self.scores, *ends), self.truth)


def counted(kind: str, decided: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """The texts that break a promise of this kind, and the texts that it is about, from decisions, int
    [texts], and whether texts have the label, bool [texts]."""
    acted = decided == ACT
    broken, among = {
        PRECISION: (acted & ~truth, acted),
        RECALL: ((decided == PASS) & truth, truth),
        FALSE_POSITIVES: (acted & ~truth, ~truth),
        REVIEWED: (decided == REVIEW, np.ones(len(truth), bool)),
    }[kind]
    return int(broken.sum()), int(among.sum())


def share_of(kind: str, share: float) -> float:
    """From the share of texts that break a promise to the figure that is promised, and back."""
    return 1 - share if kind in AT_LEAST else share


def fit(
    texts: Judged, goals: Goals, threshold: float, confidence: float = 0.95, fitted_on: str = "validation"
) -> Bands:
    """Bands that keep all goals at once with this confidence, on texts like these.

    An end of which nothing is asked is the classifier's own `threshold`. `UserError` says the best that can
    be promised where these texts do not show that a goal is kept.
    """
    if len(texts) < LEAST_TEXTS or texts.truth.all() or not texts.truth.any():
        raise UserError(
            "There are too few labelled texts to fit decisions to",
            seen=f"{len(texts):,} texts, {int(texts.truth.sum()):,} of them with the positive label",
            remedy=f"Give at least {LEAST_TEXTS}, with and without the label: --data",
        )
    each = 1 - (1 - confidence) / goals.count  # Bonferroni
    if goals.cost:
        ends = by_costs(goals.cost)
        kept = [cost_promise(texts, ends, goals.cost, each)]
    else:
        ends, promised = _walked(texts, goals, threshold, each)
        kept = [_promise(texts, ends, kind, value) for kind, value in promised.items()]
    act, review = ends
    return Bands(act, review, confidence, fitted_on, len(texts), kept)


def _walked(
    texts: Judged, goals: Goals, threshold: float, confidence: float
) -> tuple[Ends, dict[PromiseKind, float]]:
    """Both ends, and what is promised of them by kind."""
    act: float | None = None
    review: float | None = None
    promised: dict[PromiseKind, float] = {}
    if goals.precision is not None:
        promised[PRECISION] = goals.precision
        act = act_by_precision(texts, goals.precision, confidence)
    if goals.false_positive_rate is not None:
        promised[FALSE_POSITIVES] = goals.false_positive_rate
        act, _ = last_kept(texts, FALSE_POSITIVES, goals.false_positive_rate, _pairs(THRESHOLDS), confidence)
    if goals.recall is not None:
        promised[RECALL] = goals.recall
        _, review = last_kept(texts, RECALL, goals.recall, _pairs(THRESHOLDS[::-1]), confidence)
    if goals.review_share is not None:
        promised[REVIEWED] = goals.review_share
        ends = bands_to_review(act, review, threshold)
        # These texts chose one end, so the share is bounded for every end that they could have chosen.
        if act is not None or review is not None:
            confidence = 1 - (1 - confidence) / len(THRESHOLDS)
        act, review = last_kept(texts, REVIEWED, goals.review_share, ends, confidence)
    if act is None:
        act = threshold if review is None else max(threshold, review)
    # Where both goals leave nothing to review, less passes than may pass, which breaks none.
    return (act, min(act, threshold if review is None else review)), promised


def _pairs(thresholds: Sequence[float]) -> list[Ends]:
    return [(tried, tried) for tried in thresholds]


def last_kept(texts: Judged, kind: str, goal: float, ends: Sequence[Ends], confidence: float) -> Ends:
    """The last of a sequence of bands that is shown to keep the goal."""
    kept, _ = kept_in_sequence(
        (texts.counted(kind, tried) for tried in ends), share_of(kind, goal), confidence
    )
    if not kept:
        best = share_of(kind, upper_share(*texts.counted(kind, ends[0]), confidence))
        raise cannot_promise(kind, goal, best, len(texts))
    return ends[kept - 1]


def act_by_precision(texts: Judged, goal: float, confidence: float) -> float:
    """The least score from which on to act that one of several walks is shown to keep, each with its part of
    what may go wrong (fixed sequences with several starts, as in Learn then Test)."""
    each = 1 - (1 - confidence) / len(STARTS)
    ends = _pairs(THRESHOLDS)
    counts = [texts.counted(PRECISION, tried) for tried in ends]
    walks = (kept_in_sequence(counts[start:], share_of(PRECISION, goal), each)[0] for start in STARTS)
    last = [start + kept - 1 for start, kept in zip(STARTS, walks, strict=True) if kept]
    if not last:
        best = min(upper_share(*counts[start], each) for start in STARTS)
        raise cannot_promise(PRECISION, goal, share_of(PRECISION, best), len(texts))
    return float(THRESHOLDS[max(last)])


def bands_to_review(act: float | None, review: float | None, threshold: float) -> list[Ends]:
    """Bands from narrow to wide: down from where to act, up from where to review, or around the threshold."""
    if act is not None:
        return [(act, act), *((act, tried) for tried in THRESHOLDS if tried < act)]
    if review is not None:
        return [(review, review), *((tried, review) for tried in THRESHOLDS[::-1] if tried > review)]
    middle = logit(np.clip(threshold, THRESHOLDS[-1], THRESHOLDS[0]))
    return [
        (round(float(expit(middle + width)), 6), round(float(expit(middle - width)), 6)) for width in WIDTHS
    ]


def by_costs(costs: Costs) -> Ends:
    """Where a calibrated score makes each decision the cheapest (Chow 1970; Elkan 2001): no text is asked."""
    alike = costs.fp * costs.fn / (costs.fp + costs.fn)
    if costs.review is None or costs.review >= alike:
        act = round(costs.fp / (costs.fp + costs.fn), 6)
        return act, act
    return round(1 - costs.review / costs.fp, 6), round(costs.review / costs.fn, 6)


def cost_promise(texts: Judged, ends: Ends, costs: Costs, confidence: float) -> Promise:
    """The most that a text costs on average: the sum of the exact bounds of what each decision costs."""
    decided = decide_bands(texts.scores, *ends)
    priced = list(_priced(decided, texts.truth, costs))
    each = 1 - (1 - confidence) / len(priced)
    bound = sum(price * upper_share(count, len(texts), each) for price, count in priced)
    return Promise(COST, _rounded(bound), cost_of(decided, texts.truth, costs), len(texts))


def cost_of(decided: np.ndarray, truth: np.ndarray, costs: Costs) -> float:
    """What a text costs on average, from decisions, int [texts], and truth, bool [texts]."""
    return _rounded(sum(price * count for price, count in _priced(decided, truth, costs)) / len(truth))


def _priced(decided: np.ndarray, truth: np.ndarray, costs: Costs) -> Iterator[tuple[float, int]]:
    """The price of each thing that costs, and how many texts cost it."""
    yield costs.fp, int(((decided == ACT) & ~truth).sum())
    yield costs.fn, int(((decided == PASS) & truth).sum())
    if costs.review is not None:
        yield costs.review, int((decided == REVIEW).sum())


def _promise(texts: Judged, ends: Ends, kind: PromiseKind, promised: float) -> Promise:
    broken, among = texts.counted(kind, ends)
    return Promise(kind, promised, _rounded(share_of(kind, broken / among if among else 0.0)), among)


def sentence(promise: Promise, label: str) -> str:
    """What is promised, and what the texts of the fit showed."""
    bound = "at least" if promise.kind in AT_LEAST else "at most"
    if promise.kind == COST:
        return f"a text costs {bound} {promise.promised:g} on average (here {promise.found:g})"
    of = {
        PRECISION: f"of the texts acted on are {label}",
        RECALL: f"of the texts that are {label} are acted on or reviewed",
        FALSE_POSITIVES: f"of the texts that are not {label} are acted on",
        REVIEWED: "of all texts are reviewed",
    }[promise.kind]
    return f"{bound} {promise.promised:.4g} {of} (here {promise.found:.4g} of {promise.texts:,})"


def _rounded(value: float) -> float:
    return round(float(value), 6)


def cannot_promise(kind: str, goal: float, best: float, texts: int) -> UserError:
    """The error that says the best that can be promised, rounded to the safe side."""
    best = math.floor(best * 1000) / 1000 if kind in AT_LEAST else math.ceil(best * 1000) / 1000
    words = WORDS[kind]
    bound = "at least" if kind in AT_LEAST else "at most"
    return UserError(
        f"A {words} of {bound} {goal:g} cannot be promised with these {texts:,} texts",
        seen=f"the best that can be promised is {bound} {best:g}",
        remedy="Ask for that, lower --confidence, or give more labelled texts: --data",
    )
