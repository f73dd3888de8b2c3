"""Whether two classifiers differ, judged on the same texts.

Covers: the interval of the difference in macro-F1 by a paired bootstrap, McNemar's exact test of which of
them is right more often, intervals of the differences in AUROC and average precision, and of a rate. Leaves
out the verdict on a margin, and many candidates at once (`benchmarks.noninferiority`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 2000
RANKING_RESAMPLES = 1000
CHUNK_WEIGHTS = 2_000_000  # resamples x texts at once: 16 MB each


@dataclass(frozen=True)
class Comparison:
    """`drop` is reference minus candidate macro-F1 with its interval (`low`, `high`); `only_*_right`
    counts texts that one of the two alone got right, `p_value` is McNemar's for these counts."""

    n: int
    agreement: float
    reference_macro_f1: float
    candidate_macro_f1: float
    drop: float
    low: float
    high: float
    confidence: float
    only_reference_right: int
    only_candidate_right: int
    p_value: float


@dataclass(frozen=True)
class Interval:
    """A difference, reference minus candidate, with its 95 % interval."""

    drop: float
    low: float
    high: float


def compare(
    truth: np.ndarray,
    reference: np.ndarray,
    candidate: np.ndarray,
    labels: int,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two vectors of label indices `[n]` for the same texts, with `labels` labels in all.

    Resampling texts with replacement is drawing counts of (truth, reference, candidate) triples from a
    multinomial, which makes the percentile bootstrap exact and as quick for a million texts as for ten.
    """
    cells = (truth * labels + reference) * labels + candidate
    counts = np.bincount(cells, minlength=labels**3)
    drawn = np.random.default_rng(seed).multinomial(len(truth), counts / len(truth), size=resamples)
    drops = macro_f1_drop(drawn, labels)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drops, [tail, 1 - tail])
    table = counts.reshape(1, labels, labels, labels)
    first, second = reference == truth, candidate == truth
    only_reference, only_candidate = int((first & ~second).sum()), int((second & ~first).sum())
    return Comparison(
        n=len(truth),
        agreement=float((reference == candidate).mean()),
        reference_macro_f1=float(macro_f1(table.sum(axis=3))[0]),
        candidate_macro_f1=float(macro_f1(table.sum(axis=2))[0]),
        drop=float(macro_f1_drop(counts[None], labels)[0]),
        low=float(low),
        high=float(high),
        confidence=confidence,
        only_reference_right=only_reference,
        only_candidate_right=only_candidate,
        p_value=mcnemar(only_reference, only_candidate),
    )


def mcnemar(only_first_right: int, only_second_right: int) -> float:
    """Exact two-sided p-value that both are right equally often (McNemar, 1947)."""
    discordant = only_first_right + only_second_right
    return float(binomtest(only_first_right, discordant).pvalue) if discordant else 1.0


def rate_interval(count: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate of `count` in `n`, exact (Clopper and Pearson, 1934)."""
    found = binomtest(count, n).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Macro-F1 `[m]` of confusion counts or weights `[m, truth, predicted]`; a label that never occurs
    counts 0."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    involved = confusion.sum(axis=1) + confusion.sum(axis=2)
    return np.divide(2 * right, involved, out=np.zeros(right.shape), where=involved > 0).mean(axis=1)


def macro_f1_drop(counts: np.ndarray, labels: int) -> np.ndarray:
    """Reference minus candidate macro-F1 `[m]` of counts or weights `[m, labels ** 3]` by (truth, reference,
    candidate), the last running fastest."""
    table = counts.reshape(-1, labels, labels, labels)
    return macro_f1(table.sum(axis=3)) - macro_f1(table.sum(axis=2))


def compare_ranking(
    truth: np.ndarray, reference: np.ndarray, candidate: np.ndarray, *, seed: int = 0
) -> dict[str, Interval | None]:
    """Drops in `auroc` and `average_precision` from scores `[n]` of the label to be found, where `truth`
    `[n]` is 1; None where one of the two kinds of text is absent.

    Texts are resampled with replacement, for both alike.
    """
    if truth.all() or not truth.any():
        return {"auroc": None, "average_precision": None}
    n, rng = len(truth), np.random.default_rng(seed)
    ours, theirs = _Ranking(truth, reference), _Ranking(truth, candidate)
    drops = np.concatenate(
        [ours.figures(weights) - theirs.figures(weights) for weights in _resample(rng, n, RANKING_RESAMPLES)],
        axis=1,
    )
    exact = (ours.figures(np.ones((1, n))) - theirs.figures(np.ones((1, n))))[:, 0]
    lows, highs = np.nanquantile(drops, [0.025, 0.975], axis=1)
    return {
        name: Interval(float(exact[row]), float(lows[row]), float(highs[row]))
        for row, name in enumerate(("auroc", "average_precision"))
    }


def _resample(rng: np.random.Generator, n: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each text is drawn, `[some, n]`, until there are `resamples` rows."""
    most = max(1, CHUNK_WEIGHTS // n)
    for start in range(0, resamples, most):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(most, resamples - start)).astype(np.float64)


class _Ranking:
    """One classifier's texts in the order of its scores, so that a resample costs a running sum."""

    def __init__(self, truth: np.ndarray, scores: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ordered = scores[self.order]
        self.truth = truth[self.order].astype(np.float64)
        self.starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # texts of one score

    def figures(self, weights: np.ndarray) -> np.ndarray:
        """AUROC and average precision `[2, m]` of texts weighted by `[m, n]`, as scikit-learn has them."""
        weights = weights[:, self.order]
        positive = np.add.reduceat(weights * self.truth, self.starts, axis=1)
        negative = np.add.reduceat(weights * (1 - self.truth), self.starts, axis=1)
        positives, negatives = positive.sum(axis=1), negative.sum(axis=1)
        above, beyond = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            # A negative is beaten by all positives above it, and half by those of the same score.
            auroc = (negative * (above - positive / 2)).sum(axis=1) / (positives * negatives)
            precision = np.nan_to_num(above / (above + beyond))
            return np.stack([auroc, (positive * precision).sum(axis=1) / positives])
