"""Non-inferiority: is a variant's drop in macro-F1 proven to be below the margin, with all variants in view?

`pass`: a drop of the margin or more would hardly have given these texts' answers. `fail`: a drop below it
would hardly have. `inconclusive`: the data show neither, and more texts would. Both are one-sided tests at
2.5 %, so that with a single variant `pass` says the same as a 95 % interval below the margin; of twenty bad
variants tested at once one would slip through in up to 40 % of runs, so the p-values are Holm's (1979). Each
verdict says what the data could have shown at all.

The plain bootstrap knows only what it has seen: two classifiers that agree on all of 50 texts would agree for
ever. Here texts are weighed at random as their counts' Gamma variates (a Bayesian bootstrap: Rubin, 1981,
https://doi.org/10.1214/aos/1176345338), with one more text that only fp32 gets right for the upper end of the
drop, and one more that only the variant gets right for the lower end: as Clopper and Pearson's interval of a
rate errs on the side of not knowing. `power` counts how well that keeps its promise.

Where labels are independent, texts are weighed as wholes, with all of their labels, and there is one more
text for each label, that only fp32 (only the variant) gets right in that label: half a one that has it, and
half a one that has not. A label that few texts have so keeps a verdict open, as it should.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

import numpy as np
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from benchmarks.records import Interval, Noninferiority, Parity
from training.measures.statistics import CANDIDATE, REFERENCE, TRUTH, draw_weights, macro_f1_drop

MARGIN = 0.01
PASS: Final = "pass"
FAIL: Final = "fail"
INCONCLUSIVE: Final = "inconclusive"
ALPHA = 0.025  # one-sided
POWER = 0.8
RESAMPLES = 10_000
MOST_TEXTS = 10_000_000  # beyond, no number of texts is worth naming
# What harms and what helps in one label, of a text that has it and of one that has not.
LOST, GIVEN_IN_ERROR = TRUTH | REFERENCE, CANDIDATE
FOUND, SPARED = TRUTH | CANDIDATE, REFERENCE


@dataclass(frozen=True)
class Drop:
    """fp32's macro-F1 minus the variant's on `n` texts, and draws of what it may be: `most` for its upper
    end, `least` for its lower one."""

    n: int
    drop: float
    most: np.ndarray
    least: np.ndarray

    @classmethod
    def of(cls, parity: Parity, labels: int) -> "Drop | None":
        """That of a report's parity on one split; None where it holds no counts."""
        if parity.kinds is not None:
            return drop_of_labels(parity.kinds)
        return drop_of(parity.cells, labels) if parity.cells is not None else None

    @property
    def low(self) -> float:
        """Of the 95 % interval."""
        return float(np.quantile(self.least, ALPHA))

    @property
    def high(self) -> float:
        return float(np.quantile(self.most, 1 - ALPHA))


def drop_of(cells: Sequence[int] | np.ndarray, labels: int, resamples: int = RESAMPLES) -> Drop:
    """The drop from counts `[labels ** 3]` of texts by (truth, fp32's label, the variant's), the last running
    fastest; as quick for a million texts as for ten."""
    counts, kinds = np.asarray(cells, np.float64), kinds_of_cells(labels)
    truth, theirs, ours = np.indices((labels, labels, labels)).reshape(3, -1)
    harmed, helped = (theirs == truth) & (ours != truth), (theirs != truth) & (ours == truth)
    neither = (theirs != ours) & ~harmed & ~helped  # of three labels and more: wrong, and wrong otherwise
    most, least = (
        _drawn(counts + more / more.sum(), kinds, resamples) for more in (harmed | neither, helped | neither)
    )
    return Drop(int(counts.sum()), float(macro_f1_drop(counts[None], kinds)[0]), most, least)


def kinds_of_cells(labels: int) -> np.ndarray:
    """The kinds of texts, as `training.measures.statistics.outcomes` has them, of all (truth, fp32's label,
    the variant's), the last running fastest: `[labels ** 3, labels]`."""
    given = np.indices((labels, labels, labels)).reshape(3, -1, 1) == np.arange(labels)
    return np.tensordot((TRUTH, REFERENCE, CANDIDATE), given, axes=1)


def drop_of_labels(kinds: Mapping[str, int], resamples: int = RESAMPLES) -> Drop:
    """The drop in the mean of independent labels' F1, from counts of texts by kind.

    A kind is a string of one digit a label: 4 if the text has it, plus 2 if fp32 says so, plus 1 if the
    variant does (`training.measures.statistics.outcomes`).
    """
    seen = np.array([list(map(int, kind)) for kind in kinds])
    counts = np.fromiter(kinds.values(), np.float64)
    each_label = np.eye(seen.shape[1], dtype=np.int64)
    draws = []
    for has_it, has_it_not in ((LOST, GIVEN_IN_ERROR), (FOUND, SPARED)):
        more = np.concatenate([each_label * has_it, each_label * has_it_not])
        weights = np.concatenate([counts, np.full(len(more), 0.5)])
        draws.append(_drawn(weights, np.concatenate([seen, more]), resamples))
    return Drop(int(counts.sum()), float(macro_f1_drop(counts[None], seen)[0]), *draws)


def _drawn(weights: np.ndarray, kinds: np.ndarray, resamples: int) -> np.ndarray:
    drawn = draw_weights(np.random.default_rng(0), weights, resamples)
    return np.concatenate([macro_f1_drop(portion, kinds) for portion in drawn])


def judge(compared: Mapping[str, Drop], margin: float = MARGIN) -> dict[str, Noninferiority]:
    """The report's `noninferiority` of every variant that was compared with fp32, all tested together."""
    if not compared:
        return {}
    smaller = [p_value(drop.most >= margin) for drop in compared.values()]
    larger = [p_value(drop.least <= margin) for drop in compared.values()]
    rows = zip(compared.items(), smaller, _holm(smaller), larger, _holm(larger), strict=True)
    found = {}
    for (name, drop), p, p_adjusted, p_worse, p_worse_adjusted in rows:
        verdict = _verdict(p_adjusted, p_worse_adjusted)
        is_open = verdict == INCONCLUSIVE
        found[name] = Noninferiority(
            margin=margin,
            verdict=verdict,
            p=p,
            p_adjusted=p_adjusted,
            p_worse=p_worse,
            p_worse_adjusted=p_worse_adjusted,
            variants=len(compared),
            confidence=1 - 2 * ALPHA,
            smallest_margin=smallest_margin(drop, len(compared)),
            texts_to_settle=texts_to_settle(drop, margin, len(compared)) if is_open else None,
        )
    return found


def _verdict(p_adjusted: float, p_worse_adjusted: float) -> Literal["pass", "fail", "inconclusive"]:
    if p_adjusted <= ALPHA:
        return PASS
    return FAIL if p_worse_adjusted <= ALPHA else INCONCLUSIVE


def by_interval(drop: Interval, margin: float) -> Literal["pass", "fail", "inconclusive"]:
    """The verdict on a report that has an interval alone, of an earlier version."""
    if drop.high <= margin:
        return PASS
    return FAIL if drop.low > margin else INCONCLUSIVE


def p_value(as_bad: np.ndarray) -> float:
    """The share of draws that contradict, no smaller than their number can tell."""
    return float((1 + as_bad.sum()) / (1 + len(as_bad)))


def _holm(p_values: list[float]) -> list[float]:
    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) > 1 else p_values


def _needed_errors(variants: int) -> float:
    """Standard errors between what is true and the margin, for a verdict in `POWER` of cases."""
    return float(norm.isf(ALPHA / variants) + norm.isf(1 - POWER))


def smallest_margin(drop: Drop, variants: int) -> float:
    """The margin that a variant of no drop, flipping as often as this one, would pass in `POWER` of cases."""
    return float(drop.most.mean() - drop.drop + _needed_errors(variants) * drop.most.std())


def texts_to_settle(drop: Drop, margin: float, variants: int) -> int | None:
    """About how many labelled texts like these would settle it, were the drop what it was here; None where
    it is so near to the margin that no number is worth naming."""
    distance = abs(margin - drop.drop)
    if not distance:
        return None
    texts = ceil(drop.n * (_needed_errors(variants) * float(drop.most.std()) / distance) ** 2)
    return max(texts, drop.n + 1) if texts <= MOST_TEXTS else None
