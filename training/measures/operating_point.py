"""What macro-F1 cannot see of a variant: the recall of each label, and how often it gives the label.

Both are tested as the drop in macro-F1 is, from the same counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.measures.noninferiority import DRAWS, Drop, kinds_of_cells
from training.measures.statistics import CANDIDATE, REFERENCE, TRUTH, draw_weights

RESAMPLES = DRAWS // 10


@dataclass(frozen=True)
class OperatingPoint:
    """By label: by how much its recall, and the share of texts that are given it, lie below fp32's."""

    recall: list[Drop]
    rate: list[Drop]


def of_cells(cells: Sequence[int] | np.ndarray, labels: int) -> OperatingPoint:
    """From counts `[labels ** 3]` by (truth, fp32's label, the variant's), the last running fastest."""
    return _of_kinds(kinds_of_cells(labels), np.asarray(cells))


def of_kinds(kinds: Mapping[str, int]) -> OperatingPoint:
    """Of independent labels, from counts as `noninferiority.drop_of_labels` takes them."""
    return _of_kinds(np.array([list(map(int, kind)) for kind in kinds]), np.array(list(kinds.values())))


def _of_kinds(kinds: np.ndarray, counts: np.ndarray) -> OperatingPoint:
    by_label = [(column & TRUTH > 0, column & REFERENCE > 0, column & CANDIDATE > 0) for column in kinds.T]
    return OperatingPoint(
        recall=[_share_drop(theirs, ours, counts * held) for held, theirs, ours in by_label],
        rate=[_share_drop(theirs, ours, counts) for _, theirs, ours in by_label],
    )


def _share_drop(theirs: np.ndarray, ours: np.ndarray, counts: np.ndarray) -> Drop:
    """Of `counts` texts by kind, the share of those to which fp32 gives a label, less the variant's share.

    One more text, that only one of the two gives the label, speaks against each end. So the bound of a
    variant that never differed is Clopper and Pearson's.
    """
    n = int(counts.sum())
    lost, won = int(counts[theirs & ~ours].sum()), int(counts[ours & ~theirs].sum())
    same = n - lost - won
    drawn = []
    for weights in ([lost + 1, won, same], [lost, won + 1, same]):
        draws = np.concatenate(list(draw_weights(np.random.default_rng(0), np.array(weights), RESAMPLES)))
        drawn.append((draws[:, 0] - draws[:, 1]) / draws.sum(axis=1))
    return Drop(n, (lost - won) / n if n else 0.0, *drawn)


def p_of_shift(shift: Drop, margin: float) -> float:
    """Of a share that moved by `margin` or more, up or down."""
    return max(shift.p(margin), shift.p_worse(-margin))
