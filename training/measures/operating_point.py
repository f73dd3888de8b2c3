"""What macro-F1 does not show of a variant: the recall of each label, and how often it gives the label.

Both are tested like the drop in macro-F1, from the same counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.measures.noninferiority import DRAWS, Drop, kinds_of_cells
from training.measures.statistics import CANDIDATE, REFERENCE, TRUTH, Groups, draw_weights

RESAMPLES = DRAWS // 10


@dataclass(frozen=True)
class OperatingPoint:
    """From `kinds` of texts, with their `counts`, and `groups` of them; it is drawn when it is asked for."""

    kinds: np.ndarray
    counts: np.ndarray
    groups: Groups | None = None

    @property
    def recall(self) -> list[Drop]:
        """By label, how far its recall lies below fp32's."""
        return [self._share_drop(column, column & TRUTH > 0) for column in self.kinds.T]

    @property
    def rate(self) -> list[Drop]:
        """By label, how far the share of texts that are given it lies below fp32's."""
        return [self._share_drop(column, np.ones(len(column), bool)) for column in self.kinds.T]

    def _share_drop(self, label: np.ndarray, among: np.ndarray) -> Drop:
        """`among` texts of some kinds, the share to which fp32 alone gives the label, less the variant's."""
        theirs, ours = label & REFERENCE > 0, label & CANDIDATE > 0
        return _share_drop(theirs & ~ours, ours & ~theirs, among, self.counts, self.groups)


def of_cells(cells: Sequence[int] | np.ndarray, labels: int, groups: Groups | None = None) -> OperatingPoint:
    """From counts `[labels ** 3]` by (truth, fp32's label, the variant's), the last running fastest."""
    counts = np.asarray(cells)
    seen = np.flatnonzero(counts)
    if groups is not None:
        groups = Groups(groups.often, groups.texts[:, seen])
    return OperatingPoint(kinds_of_cells(labels, seen), counts[seen], groups)


def of_kinds(kinds: Mapping[str, int], groups: Groups | None = None) -> OperatingPoint:
    """Of independent labels, from counts as `noninferiority.drop_of_labels` takes them."""
    digits = np.array([list(map(int, kind)) for kind in kinds])
    return OperatingPoint(digits, np.array(list(kinds.values())), groups)


def _share_drop(
    lost: np.ndarray, won: np.ndarray, among: np.ndarray, counts: np.ndarray, groups: Groups | None
) -> Drop:
    """Among texts of some kinds, with `counts`, the share that lost the label minus the share that won it.

    Each end of the interval gets one more text, to which only one of the two gives the label (one more group
    if texts came in groups). So the bound of a variant that never differed is Clopper and Pearson's.
    """
    outcomes = np.stack([lost & among, won & among, ~(lost | won) & among], axis=1).astype(float)
    if groups is None:
        shapes, texts, size = counts @ outcomes, np.eye(3), 1.0
    else:
        shapes, texts, size = groups.often, groups.texts @ outcomes, groups.size
    drawn = []
    for way in (0, 1):
        weights = draw_weights(np.random.default_rng(0), np.append(shapes, 1.0), RESAMPLES)
        with_one_more = np.vstack([texts, size * np.eye(3)[way]])
        drawn.append(np.concatenate([_differences(each @ with_one_more) for each in weights]))
    n_lost, n_won, n_same = counts @ outcomes
    n = n_lost + n_won + n_same
    return Drop(int(n), float((n_lost - n_won) / n) if n else 0.0, *drawn)


def _differences(texts: np.ndarray) -> np.ndarray:
    """Of weights `[draws, 3]` of texts that were lost, won, and neither, the first less the second share."""
    return np.asarray((texts[:, 0] - texts[:, 1]) / texts.sum(axis=1))


def p_of_shift(shift: Drop, margin: float) -> float:
    """Of a share that moved by `margin` or more, up or down."""
    return max(shift.p(margin), shift.p_worse(-margin))
