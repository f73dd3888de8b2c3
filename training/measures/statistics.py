"""Whether two classifiers differ on the same texts: by macro-F1, by who is right, and by ranking.

Exclusive and independent labels are treated alike, as booleans `[texts, labels]` (`indicators`).
`training.measures.noninferiority` gives the verdict on a margin.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.flips import mcnemar

RESAMPLES = 2000
RANKING_RESAMPLES = 1000
CHUNK_WEIGHTS = 2_000_000  # resamples x texts at once: 16 MB each
TRUTH, REFERENCE, CANDIDATE = 4, 2, 1  # who says of a label that the text has it: bits of an outcome


@dataclass(frozen=True)
class Comparison:
    """`drop` is reference minus candidate macro-F1 with its interval (`low`, `high`); `agreement` is the
    share of texts with the same label (all labels the same), `only_*_right` counts texts that one of the two
    alone got right, `p_value` is McNemar's for these counts."""

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


@dataclass(frozen=True)
class Groups:
    """Groups of texts that came together, those that are alike counted: `often` `[m]` of each, with counts
    `texts` `[m, kinds]` of its texts by kind."""

    often: np.ndarray
    texts: np.ndarray

    @property
    def size(self) -> float:
        """Texts in the group of a text that is taken at random, on average."""
        sizes = self.texts.sum(axis=1)
        return float((self.often * sizes**2).sum() / (self.often * sizes).sum())


def groups_of(which: np.ndarray, kinds: int, groups: np.ndarray) -> Groups:
    """The `groups` `[n]` of texts whose kinds are `which` `[n]`, out of `kinds`."""
    alike = alike_groups(which, groups)
    texts = np.zeros((len(alike), kinds))
    for row, counts in enumerate(alike):
        texts[row, [kind for kind, _ in counts]] = [count for _, count in counts]
    return Groups(np.array(list(alike.values()), np.float64), texts)


def alike_groups(which: np.ndarray, groups: np.ndarray) -> Counter[tuple[tuple[int, int], ...]]:
    """How many of the `groups` `[n]` have the same number of texts of each kind, `which` `[n]`: by pairs of
    kind and number."""
    names, place = np.unique(groups, return_inverse=True)
    (rows, kinds), counts = np.unique(np.stack([place, which]), axis=1, return_counts=True)
    ends = np.searchsorted(rows, np.arange(len(names) + 1))
    pairs = list(zip(kinds.tolist(), counts.tolist(), strict=True))
    return Counter(tuple(pairs[start:end]) for start, end in itertools.pairwise(ends.tolist()))


def discordant(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> tuple[int, int]:
    """How many texts hold by `first` alone and by `second` alone, from booleans `[n]`; with `groups` `[n]`,
    how many groups by the one oftener than by the other, since the texts of one are no independent trials."""
    if groups is None:
        return int((first & ~second).sum()), int((second & ~first).sum())
    place = np.unique(groups, return_inverse=True)[1]
    more = np.bincount(place, weights=first.astype(np.float64) - second)
    return int((more > 0).sum()), int((more < 0).sum())


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
    """Compare two vectors of label indices `[n]` for the same texts, with `labels` labels in all; or, of
    independent labels, two matrices of 0 and 1 `[n, labels]`.

    Resampling texts with replacement is drawing counts of their outcomes from a multinomial, which makes the
    percentile bootstrap exact and as quick for a million texts as for ten. Texts are drawn, never labels.
    """
    truth, reference, candidate = (indicators(given, labels) for given in (truth, reference, candidate))
    kinds, counts = outcomes(truth, reference, candidate)
    drawn = draw_counts(np.random.default_rng(seed), counts, resamples)
    drops = np.concatenate([macro_f1_drop(weights, kinds) for weights in drawn])
    tail = (1 - confidence) / 2
    low, high = np.quantile(drops, [tail, 1 - tail])
    first, second = same_labels(reference, truth), same_labels(candidate, truth)
    only_reference, only_candidate = int((first & ~second).sum()), int((second & ~first).sum())
    return Comparison(
        n=len(truth),
        agreement=float(same_labels(reference, candidate).mean()),
        reference_macro_f1=macro_f1(truth, reference),
        candidate_macro_f1=macro_f1(truth, candidate),
        drop=float(macro_f1_drop(counts[None], kinds)[0]),
        low=float(low),
        high=float(high),
        confidence=confidence,
        only_reference_right=only_reference,
        only_candidate_right=only_candidate,
        p_value=mcnemar(only_reference, only_candidate),
    )


def indicators(given: np.ndarray, labels: int) -> np.ndarray:
    """Whether a text has each label, bool `[n, labels]`, of label indices `[n]` or of independent labels, 0
    and 1 `[n, labels]`."""
    return given.astype(bool) if given.ndim == 2 else given[:, None] == np.arange(labels)


def same_labels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether two answers are the same, bool `[n]`: the label, or every one of independent labels."""
    return np.asarray(first == second if first.ndim == 1 else (first == second).all(axis=1))


def macro_f1(truth: np.ndarray, given: np.ndarray) -> float:
    """The mean F1 of the labels that some text has, from booleans `[n, labels]`; 0 where there is none.

    scikit-learn's `f1_score(average="macro")` also counts a label that is given and that no text has, as 0:
    one such answer would cost a third of three labels, and nothing in a resample without it. Here it costs
    what it makes wrong, which is the recall of the text's own label.
    """
    return float(_mean_f1((truth & given).sum(axis=0), truth.sum(axis=0), given.sum(axis=0)))


def macro_f1_of_logits(logits: np.ndarray, truth: np.ndarray) -> float:
    """Macro-F1 of logits `[n, labels]` at the highest score for label indices `[n]`; for independent labels,
    0 and 1 `[n, labels]`, each at one half."""
    given = logits >= 0 if truth.ndim == 2 else logits.argmax(axis=1)
    return macro_f1(*(indicators(each, logits.shape[1]) for each in (truth, given)))


def macro_f1_interval(
    truth: np.ndarray, given: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of macro-F1 of booleans `[n, labels]`: percentile bootstrap over texts (Efron, 1979), or
    over their `groups` `[n]`."""
    kinds, which = outcome_of_each(truth, given, given)
    rng = np.random.default_rng(seed)
    if groups is None:
        drawn = draw_counts(rng, np.bincount(which), RESAMPLES)
    else:
        alike = groups_of(which, len(kinds), groups)
        drawn = (portion @ alike.texts for portion in draw_counts(rng, alike.often, RESAMPLES))
    low, high = np.quantile(
        np.concatenate([_weighted_macro_f1(weights, kinds, CANDIDATE) for weights in drawn]), [0.025, 0.975]
    )
    return float(low), float(high)


def macro_f1_drop(weights: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Reference minus candidate macro-F1 `[m]` of counts or weights `[m, kinds]` of the kinds of texts that
    `outcomes` gives."""
    return np.asarray(
        _weighted_macro_f1(weights, kinds, REFERENCE) - _weighted_macro_f1(weights, kinds, CANDIDATE)
    )


def macro_f1_drop_with_one_more(counts: np.ndarray, kinds: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The drop `[m]` on `counts` `[kinds]` of texts and one more, of each of the kinds `more` `[m, labels]`:
    for 77 labels it may be of 5,852."""

    def with_one_more(whose: int) -> np.ndarray:
        (held, given), (also_held, also_given) = (
            [(of & bit > 0).astype(np.float64) for bit in (TRUTH, whose)] for of in (kinds, more)
        )
        right = counts @ (held * given) + also_held * also_given
        return _mean_f1(right, counts @ held + also_held, counts @ given + also_given)

    return np.asarray(with_one_more(REFERENCE) - with_one_more(CANDIDATE))


def _weighted_macro_f1(weights: np.ndarray, kinds: np.ndarray, whose: int) -> np.ndarray:
    truth, given = ((kinds & bit > 0).astype(np.float64) for bit in (TRUTH, whose))
    return _mean_f1(weights @ (truth * given), weights @ truth, weights @ given)


def _mean_f1(right: np.ndarray, held: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The mean F1, over the last axis, of the labels that texts have; 0 where they have none. From counts or
    weights of texts by label: those rightly given it, those that have it, those given it."""
    f1 = np.divide(2.0 * right, held + given, out=np.zeros(held.shape), where=held > 0)
    return np.asarray(f1.sum(axis=-1) / np.maximum((held > 0).sum(axis=-1), 1))


def outcomes(
    truth: np.ndarray, reference: np.ndarray, candidate: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The kinds of texts that occur `[kinds, labels]`, and how many are of each `[kinds]`, from booleans
    `[n, labels]`.

    A kind says of every label, in the bits `TRUTH`, `REFERENCE` and `CANDIDATE`, whether the text has it,
    whether the reference says so, and whether the candidate does: all that the figures of both need, and far
    fewer than there are texts.
    """
    kinds, which = outcome_of_each(truth, reference, candidate)
    return kinds, np.bincount(which)


def outcome_of_each(
    truth: np.ndarray, reference: np.ndarray, candidate: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The kinds of `outcomes`, and which of them each text is, `[n]`."""
    says = ((TRUTH, truth), (REFERENCE, reference), (CANDIDATE, candidate))
    kinds, which = np.unique(
        sum(bit * held.astype(np.int8) for bit, held in says), axis=0, return_inverse=True
    )
    return kinds.astype(np.int64), which.reshape(-1)


def draw_counts(rng: np.random.Generator, counts: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
    """Counts `[some, kinds]` of as many texts as there are, drawn with replacement, until there are
    `resamples` rows."""
    n = int(counts.sum())
    for size in _portions(len(counts), resamples):
        yield rng.multinomial(n, counts / n, size=size)


def draw_weights(rng: np.random.Generator, shapes: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
    """Gamma variates `[some, kinds]` of the given `shapes` `[kinds]`, as a Bayesian bootstrap weighs texts
    (Rubin, 1981), until there are `resamples` rows."""
    for size in _portions(len(shapes), resamples):
        yield rng.standard_gamma(shapes, (size, len(shapes)))


def compare_ranking(
    truth: np.ndarray,
    reference: np.ndarray,
    candidate: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Drops in `auroc` and `average_precision` from scores `[n]` of the label to be found, where `truth`
    `[n]` is 1; of independent labels `[n, labels]`, drops in the mean over those labels that some texts have
    and others have not. None where one of the two kinds of text is absent.

    Texts, or their `groups` `[n]`, are resampled with replacement, for both alike and for all labels at once.
    """
    truth, reference, candidate = (each.reshape(len(truth), -1) for each in (truth, reference, candidate))
    told = [place for place, column in enumerate(truth.T) if column.any() and not column.all()]
    if not told:
        return {"auroc": None, "average_precision": None}
    n = len(truth)
    rng = np.random.default_rng(seed)
    pairs = [
        (_Ranking(truth[:, place], reference[:, place]), _Ranking(truth[:, place], candidate[:, place]))
        for place in told
    ]

    def mean_drops(weights: np.ndarray) -> np.ndarray:
        drops = np.stack([ours.figures(weights) - theirs.figures(weights) for ours, theirs in pairs])
        return drops[0] if len(pairs) == 1 else _mean_of_known(drops)

    drawn = [mean_drops(weights) for weights in _resample(rng, n, RANKING_RESAMPLES, groups)]
    exact = mean_drops(np.ones((1, n)))[:, 0]
    lows, highs = np.nanquantile(np.concatenate(drawn, axis=1), [0.025, 0.975], axis=1)
    return {
        name: Interval(float(exact[row]), float(lows[row]), float(highs[row]))
        for row, name in enumerate(("auroc", "average_precision"))
    }


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis without what is not a number: labels that a resample has no text of."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0).sum(axis=0) / known.sum(axis=0))


def _resample(
    rng: np.random.Generator, n: int, resamples: int, groups: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """How often each text is drawn, `[some, n]`, until there are `resamples` rows; those of one of `groups`
    `[n]` together."""
    place = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(place.max()) + 1
    for size in _portions(n, resamples):
        drawn = rng.multinomial(units, np.full(units, 1 / units), size=size)
        yield drawn.astype(np.float64)[:, place]


def _portions(width: int, resamples: int) -> Iterator[int]:
    """How many resamples of so many weights to hold at once, until there are enough."""
    most = max(1, CHUNK_WEIGHTS // width)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


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
