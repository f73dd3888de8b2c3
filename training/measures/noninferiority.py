"""Non-inferiority: do these texts rule out that a variant loses the margin or more in macro-F1?

`pass` rejects a drop of the margin or more, `fail` one of the margin or less, each a one-sided test at the
level that `gate_ledger` gives it; `inconclusive` rejects neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log, log1p, sqrt
from typing import Final, Literal

import numpy as np
from scipy.stats import beta, binom, norm

from training.measures.statistics import (
    CANDIDATE,
    REFERENCE,
    TRUTH,
    Groups,
    draw_weights,
    groups_of,
    macro_f1_drop,
    macro_f1_drop_with_one_more,
    outcome_of_each,
    outcomes,
)

# A plain bootstrap knows only what it has seen: two classifiers that agree on all of 50 texts would agree for
# ever. Texts are weighted by Gamma variates of their counts (a Bayesian bootstrap: Rubin, 1981,
# https://doi.org/10.1214/aos/1176345338). For the upper end of the drop, one text is added that only fp32
# gets right, and for the lower end one that only the variant gets right, just as Clopper and Pearson's
# interval of a share allows for what was not seen. `benchmarks power` measures how often the result is right.
#
# Texts that came together (of one author, thread or template) are not independent evidence. Then whole groups
# are weighted instead, and one group is added, of the size of the group of a random text.

MARGIN = 0.01
PASS: Final = "pass"
FAIL: Final = "fail"
INCONCLUSIVE: Final = "inconclusive"
UNPROVEN: Final = "not proven"  # whatever the figures: the model may have been trained on these texts
REHEARSAL = "a rehearsal on synthetic text"  # what any verdict on the demo's texts is
MAY_HAVE_SEEN = "the model may have seen these texts"
SHOW_UNSEEN = (
    "adopt it again (export build) with --gate FILE, texts that it was not trained on, or with --unseen if "
    "it was trained on none of these"
)
Word = Literal["pass", "fail", "inconclusive", "not proven"]
ALPHA = 0.025  # one-sided: all that a gate may spend
POWER = 0.8
MOST_RESAMPLES, LEAST_RESAMPLES = 100_000, 10_000
DRAWS = 1_000_000  # of one end of a drop, over all kinds of texts: a tenth of a second
MOST_WAYS = 400  # kinds of texts that the one more is spread over: of 77 labels there would be 5,851
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

    @property
    def low(self) -> float:
        """Of the 95 % interval."""
        return float(np.quantile(self.least, ALPHA))

    @property
    def high(self) -> float:
        return float(np.quantile(self.most, 1 - ALPHA))

    def p(self, margin: float) -> float:
        """Of a drop of `margin` or more."""
        return _share_of_draws(self.most >= margin)

    def p_worse(self, margin: float) -> float:
        """Of a drop of `margin` or less."""
        return _share_of_draws(self.least <= margin)

    def smallest_margin(self, level: float) -> float:
        """The margin that a variant of no drop, flipping as often as this one, would pass in `POWER` of
        cases."""
        return float(self.most.mean() - self.drop + _needed_errors(level) * self.most.std())

    def texts_to_settle(self, margin: float, level: float) -> int | None:
        """About how many labelled texts like these would settle it at `level`, were the drop what it was
        here; None where it is so near to the margin that no number is worth naming."""
        distance = abs(margin - self.drop)
        if not distance:
            return None
        texts = ceil(self.n * (_needed_errors(level) * float(self.most.std()) / distance) ** 2)
        return max(texts, self.n + 1) if texts <= MOST_TEXTS else None


@dataclass(frozen=True)
class Flips:
    """Without labels: of `n` texts, how many have another label than by fp32; of independent labels, how many
    do in the label where that is the most. Accuracy cannot drop by more than that share; macro-F1 can."""

    n: int
    flips: int

    def p(self, margin: float) -> float:
        """Of flips in a share of `margin` or more (Clopper and Pearson, 1934)."""
        return float(binom.cdf(self.flips, self.n, margin))

    def p_worse(self, margin: float) -> float:
        """A flip may be for the better: nothing shows that accuracy drops."""
        return 1.0

    def smallest_margin(self, level: float) -> float:
        """The margin that a variant which flips as often as this one would pass in `POWER` of cases."""
        often = binom.ppf(POWER, self.n, self.flips / self.n)
        return float(beta.isf(level, often + 1, self.n - often)) if often < self.n else 1.0

    def texts_to_settle(self, margin: float, level: float) -> int | None:
        """About how many texts like these would prove it, did as many flip; None where too many do."""
        share = self.flips / self.n
        if share >= margin:
            return None
        at_margin, here = (sqrt(rate * (1 - rate)) for rate in (margin, share))
        errors = norm.isf(level) * at_margin + norm.isf(1 - POWER) * here
        texts = ceil(max((errors / (margin - share)) ** 2, log(level) / log1p(-margin)))
        return max(texts, self.n + 1) if texts <= MOST_TEXTS else None


def drop_of(
    cells: Sequence[int] | np.ndarray,
    labels: int,
    resamples: int | None = None,
    groups: Groups | None = None,
) -> Drop:
    """The drop from counts `[labels ** 3]` of texts by (truth, fp32's label, the variant's), the last running
    fastest; as quick for a million texts as for ten. `groups` have the same texts, by the same kinds.

    Of the one more text, half is of the kind that moves macro-F1 the most, half is spread over the other
    kinds that only one of the two gets right. Spread over all kinds alike, it would let a variant pass that
    loses exactly the margin in 5 % of runs where all harm is done to one rare label of five, and in a fifth
    of runs if texts that both get wrong were among the kinds.
    """
    counts = np.asarray(cells, np.float64)
    truth, theirs, ours = np.indices((labels, labels, labels)).reshape(3, -1)
    harmed, helped = (theirs == truth) & (ours != truth), (theirs != truth) & (ours == truth)
    more = [
        one_more(counts, labels, np.flatnonzero(ways), sign) for ways, sign in ((harmed, 1), (helped, -1))
    ]
    may_occur = np.flatnonzero(counts + sum(more))  # of ten labels there are a thousand cells
    counts, kinds = counts[may_occur], kinds_of_cells(labels, may_occur)
    if groups is not None:
        groups = Groups(groups.often, groups.texts[:, may_occur])
    most, least = (_drawn(counts, each[may_occur], kinds, resamples, groups) for each in more)
    return Drop(int(counts.sum()), float(macro_f1_drop(counts[None], kinds)[0]), most, least)


def one_more(counts: np.ndarray, labels: int, ways: np.ndarray, sign: int) -> np.ndarray:
    """Weights `[cells]` of one text in the cells `ways`, half of it in the one that moves the drop most: up
    with a `sign` of 1, down with -1."""
    seen = np.flatnonzero(counts)
    seen_kinds, kinds = (kinds_of_cells(labels, cells) for cells in (seen, ways))
    costliest = (sign * macro_f1_drop_with_one_more(counts[seen], seen_kinds, kinds)).argmax()
    others = np.random.default_rng(0).permutation(np.delete(ways, costliest))[:MOST_WAYS]
    weights = np.zeros(len(counts))
    weights[others] = 0.5 / len(others)
    weights[ways[costliest]] = 0.5
    return weights


def kinds_of_cells(labels: int, cells: np.ndarray) -> np.ndarray:
    """The kinds of texts, as `training.measures.statistics.outcomes` has them, in these of all cells by
    (truth, fp32's label, the variant's), the last running fastest: `[cells, labels]`."""
    given = np.stack(np.unravel_index(cells, (labels, labels, labels)))[:, :, None] == np.arange(labels)
    return np.tensordot((TRUTH, REFERENCE, CANDIDATE), given, axes=1)


def drop_of_labels(
    kinds: Mapping[str, int], resamples: int | None = None, groups: Groups | None = None
) -> Drop:
    """The drop in the mean of independent labels' F1, from counts of texts by kind.

    A kind is a string of one digit a label: 4 if the text has it, plus 2 if fp32 says so, plus 1 if the
    variant does (`training.measures.statistics.outcomes`). Texts are weighed as wholes, with all of their
    labels. There is one more text for each label, that only fp32 (only the variant) gets right in that label:
    half a one that has it, and half a one that has not. So a label that few texts have keeps a verdict open.
    `groups` have the same texts, by the kinds in the same order.
    """
    seen = np.array([list(map(int, kind)) for kind in kinds])
    counts = np.fromiter(kinds.values(), np.float64)
    each_label = np.eye(seen.shape[1], dtype=np.int64)
    draws = []
    for has_it, has_it_not in ((LOST, GIVEN_IN_ERROR), (FOUND, SPARED)):
        added = np.concatenate([each_label * has_it, each_label * has_it_not])
        none = np.zeros(len(added))
        padded = groups and Groups(groups.often, np.pad(groups.texts, ((0, 0), (0, len(added)))))
        more = np.concatenate([np.zeros(len(counts)), np.full(len(added), 0.5)])
        draws.append(
            _drawn(np.concatenate([counts, none]), more, np.concatenate([seen, added]), resamples, padded)
        )
    return Drop(int(counts.sum()), float(macro_f1_drop(counts[None], seen)[0]), *draws)


def drop_between(
    truth: np.ndarray,
    reference: np.ndarray,
    candidate: np.ndarray,
    labels: int,
    groups: np.ndarray | None = None,
) -> Drop:
    """The drop on texts of which truth and both answers are label indices `[n]`, or independent labels, 0 and
    1, `[n, labels]`; the texts of one of `groups` `[n]` weigh as one."""
    cells, kinds = counts_of(truth, reference, candidate, labels)
    if kinds is not None:
        _, which = outcome_of_each(truth, reference, candidate)
        return drop_of_labels(kinds, groups=_grouped(which, len(kinds), groups))
    assert cells is not None
    which = cells_of(truth, reference, candidate, labels)
    return drop_of(cells, labels, groups=_grouped(which, len(cells), groups))


def _grouped(which: np.ndarray, kinds: int, groups: np.ndarray | None) -> Groups | None:
    return None if groups is None else groups_of(which, kinds, groups)


def counts_of(
    truth: np.ndarray, reference: np.ndarray, candidate: np.ndarray, labels: int
) -> tuple[list[int] | None, dict[str, int] | None]:
    """What a verdict at any margin needs: `cells`, texts by (truth, fp32's label, the variant's), the last
    running fastest; of independent labels `kinds`, as `drop_of_labels` takes them."""
    if truth.ndim == 1:
        cells = np.bincount(cells_of(truth, reference, candidate, labels), minlength=labels**3)
        return cells.tolist(), None
    kinds, counts = outcomes(truth, reference, candidate)
    return None, {"".join(map(str, kind)): count for kind, count in zip(kinds, counts.tolist(), strict=True)}


def cells_of(truth: np.ndarray, reference: np.ndarray, candidate: np.ndarray, labels: int) -> np.ndarray:
    """Which cell each text is in, `[n]`."""
    return np.asarray((truth * labels + reference) * labels + candidate)


def share_of_groups(held: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of the share of texts that are `held`, bool `[n]`, where those of one of `groups` `[n]`
    are no independent evidence: what Clopper and Pearson's is for texts that are."""
    found = groups_of(held.astype(np.int64), 2, groups)
    ends = []
    for added, quantile in ((0, ALPHA), (1, 1 - ALPHA)):  # all of the one more group has it not, or has it
        shapes = np.append(found.often, 1.0)
        texts = np.concatenate([found.texts, found.size * np.eye(2)[[added]]])
        drawn = draw_weights(np.random.default_rng(0), shapes, LEAST_RESAMPLES)
        shares = np.concatenate([(counts := portion @ texts)[:, 1] / counts.sum(axis=1) for portion in drawn])
        ends.append(float(np.quantile(shares, quantile)))
    return (ends[0] if held.any() else 0.0), (1.0 if held.all() else ends[1])


def _drawn(
    counts: np.ndarray,
    more: np.ndarray,
    kinds: np.ndarray,
    resamples: int | None,
    groups: Groups | None,
) -> np.ndarray:
    """Draws of the drop from texts, or `groups` of them, and `more` `[kinds]`: the shares of the one that is
    added."""
    held = counts + more > 0
    shapes, texts = (counts + more)[held], None
    if groups is not None:
        added = more > 0
        shapes = np.concatenate([groups.often, more[added]])
        texts = np.concatenate([groups.texts, groups.size * np.eye(len(more))[added]])[:, held]
    if resamples is None:
        resamples = max(LEAST_RESAMPLES, min(MOST_RESAMPLES, DRAWS // len(shapes)))
    drawn = draw_weights(np.random.default_rng(0), shapes, resamples)
    weights = drawn if texts is None else (portion @ texts for portion in drawn)
    return np.concatenate([macro_f1_drop(portion, kinds[held]) for portion in weights])


def _share_of_draws(contradicting: np.ndarray) -> float:
    """No smaller than their number can tell."""
    return float((1 + contradicting.sum()) / (1 + len(contradicting)))


def _needed_errors(level: float) -> float:
    """Standard errors between what is true and the margin, for a verdict in `POWER` of cases."""
    return float(norm.isf(level) + norm.isf(1 - POWER))


def in_sequence(p_values: Sequence[float], share: float) -> tuple[list[float], float]:
    """The level at which each is tested, where `share` is all that may be spent; and what is left of it.

    Each is given an equal part of `share`, and what the one before it had, if that was rejected. However the
    tests depend on each other, some true hypothesis is rejected with a probability of at most `share` (the
    fallback procedure: Wiens, 2003, https://doi.org/10.1002/pst.064), provided that their order was set
    without a look at the texts.
    """
    levels, handed_on = [], 0.0
    for p in p_values:
        levels.append(share / len(p_values) + handed_on)
        handed_on = levels[-1] if p <= levels[-1] else 0.0
    return levels, handed_on


def verdict(p: float, level: float, p_worse: float, level_worse: float) -> Word:
    if p <= level:
        return PASS
    return FAIL if p_worse <= level_worse else INCONCLUSIVE
