"""What the answers on a split's texts amount to: the counts that a verdict is found from, at any margin."""

from typing import Protocol

import numpy as np

from common.records import Count, Record, Some, Text
from training.measures.gate_ledger import Evidence
from training.measures.noninferiority import Drop, Flips, drop_of, drop_of_labels
from training.measures.operating_point import OperatingPoint, of_cells, of_kinds
from training.measures.statistics import Groups


class AlikeGroups(Record):
    """`groups` of texts that came together, each with so many `texts` of each kind: by the kind's place among
    `cells`, or of independent labels by its name among `kinds`."""

    groups: Some
    texts: dict[str, Some]


class Counted(Protocol):
    """What has the counts of `Outcomes`, which explains them."""

    @property
    def n(self) -> int: ...
    @property
    def cells(self) -> list[int] | None: ...
    @property
    def kinds(self) -> dict[str, int] | None: ...
    @property
    def groups(self) -> list[AlikeGroups] | None: ...
    @property
    def unlabelled_flips(self) -> int | None: ...


class Outcomes(Record, kw_only=True):
    """Of `n` texts. `cells` are texts by (truth, fp32's label, the variant's), the last running fastest, or
    of independent labels `kinds` by a digit for each label, 4 if the text has it, plus 2 if fp32 says so,
    plus 1 if the variant does. Where texts came in groups, `groups` counts the kinds by group. Where they
    have no labels, `unlabelled_flips` are texts whose label is not fp32's: of independent labels, in the
    label where they are the most. `decisions` is a digest of all labels, text by text."""

    n: Some
    decisions: Text
    cells: list[Count] | None = None
    kinds: dict[str, Some] | None = None
    groups: list[AlikeGroups] | None = None
    unlabelled_flips: Count | None = None


def evidence_of(found: Counted, labels: int) -> Evidence | None:
    """What the texts say about the drop in macro-F1 or, without labels, in accuracy. None if the record has
    no counts, or the weights are random."""
    if drop := drop_of_counts(found, labels):
        return drop
    return None if found.unlabelled_flips is None else Flips(found.n, found.unlabelled_flips)


def drop_of_counts(found: Counted, labels: int) -> Drop | None:
    """The drop in macro-F1; None where the record holds no counts of labelled texts."""
    if found.kinds is not None:
        return drop_of_labels(found.kinds, groups=_groups(found))
    return None if found.cells is None else drop_of(found.cells, labels, groups=_groups(found))


def operating_point(found: Counted, labels: int) -> OperatingPoint | None:
    """Recall and rate of each label; None where the record holds no counts of labelled texts."""
    if found.kinds is not None:
        return of_kinds(found.kinds, _groups(found))
    return None if found.cells is None else of_cells(found.cells, labels, _groups(found))


def _groups(found: Counted) -> Groups | None:
    """The groups, by the kinds or cells of the record in their order."""
    if found.groups is None:
        return None
    kinds = list(found.kinds or map(str, range(len(found.cells or ()))))
    texts = np.array([[alike.texts.get(kind, 0) for kind in kinds] for alike in found.groups], np.float64)
    return Groups(np.array([alike.groups for alike in found.groups], np.float64), texts)
