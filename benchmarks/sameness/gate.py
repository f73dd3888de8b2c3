"""Verdicts on the gate's texts: for a run, by the ledger of its looks; for a report, at any margin.

Variants that the check at export refused are not judged: they are never selected, and judging them would
spend the error that others need.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from benchmarks.names import REFERENCE
from benchmarks.records import ACCURACY, MACRO_F1, Interval, Noninferiority, Parity, Variant, Verdict
from training.measures.gate_ledger import Candidate, Evidence, Judged, Terms, at_margin, judge
from training.measures.noninferiority import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    UNPROVEN,
    Drop,
    Flips,
    Word,
    drop_of,
    drop_of_labels,
)
from training.measures.operating_point import OperatingPoint, of_cells, of_kinds
from training.measures.statistics import Groups

SEEN = "may_have_seen"  # the field of `Terms` that a parity has


def evidence_of(parity: Parity, labels: int) -> Evidence | None:
    """What the texts say about the drop in macro-F1 or, without labels, in accuracy. None if the record has
    no counts, or the weights are random."""
    if drop := drop_of_parity(parity, labels):
        return drop
    return None if parity.unlabelled_flips is None else Flips(parity.n, parity.unlabelled_flips)


def drop_of_parity(parity: Parity, labels: int) -> Drop | None:
    """The drop on one split; None where its record holds no counts."""
    if parity.kinds is not None:
        return drop_of_labels(parity.kinds, groups=_groups(parity))
    return None if parity.cells is None else drop_of(parity.cells, labels, groups=_groups(parity))


def operating_point(parity: Parity, labels: int) -> OperatingPoint | None:
    """Recall and rate of each label on one split; None where its record holds no counts."""
    if parity.kinds is not None:
        return of_kinds(parity.kinds, _groups(parity))
    return None if parity.cells is None else of_cells(parity.cells, labels, _groups(parity))


def _groups(parity: Parity) -> Groups | None:
    """The groups, by the kinds or cells of the record in their order."""
    if parity.groups is None:
        return None
    kinds = list(parity.kinds or map(str, range(len(parity.cells or ()))))
    texts = np.array([[alike.texts.get(kind, 0) for kind in kinds] for alike in parity.groups], np.float64)
    return Groups(np.array([alike.groups for alike in parity.groups], np.float64), texts)


def judge_run(
    ledger: Path | None, texts: Sequence[str], variants: Sequence[Variant], margin: float, labels: int
) -> None:
    """Write each variant's verdict into its parity on the gate's `texts`."""
    found = judge(ledger, texts, _candidates(variants, labels), margin)
    for variant in variants:
        if judged := found.get(variant.name):
            variant.judged.noninferiority = _recorded(judged, variant.judged)


def verdicts_at(variants: Sequence[Variant], margin: float, labels: int) -> dict[str, Verdict]:
    """The verdict of every variant at any margin, from the counts in its report.

    A report from before the ledger is judged as the first run on its gate; without counts, by its interval.
    """
    found: dict[str, Verdict] = {}
    candidates = _candidates(variants, labels)
    asked = {candidate.name: candidate.evidence for candidate in candidates}
    first = judge(None, ["texts of a report"], candidates, margin)
    for variant in variants:
        if variant.name in asked:
            terms = _terms(variant.judged)
            judged = at_margin(asked[variant.name], terms, margin) if terms else first[variant.name]
            found[variant.name] = _recorded(judged, variant.judged)
        elif _is_asked(variant) and (drop := variant.judged.macro_f1_drop):
            found[variant.name] = Verdict(verdict=by_interval(drop, margin), texts_to_settle=None)
        elif _is_asked(variant) and variant.judged.may_have_seen:
            found[variant.name] = Verdict(verdict=UNPROVEN, texts_to_settle=None)
    return found


def _recorded(judged: Judged, parity: Parity) -> Noninferiority:
    return Noninferiority(**asdict(judged), measure=MACRO_F1 if parity.unlabelled_flips is None else ACCURACY)


def _is_asked(variant: Variant) -> bool:
    return variant.name != REFERENCE and not variant.error and variant.built.check.equal


def _candidates(variants: Sequence[Variant], labels: int) -> list[Candidate]:
    return [
        Candidate(
            name=variant.name,
            artifact_sha256=variant.artifact_sha256 or variant.name,
            decisions=variant.judged.decisions or variant.name,
            agreement=variant.built.check.label_agreement or 0.0,
            evidence=evidence,
            may_have_seen=variant.judged.may_have_seen,
        )
        for variant in variants
        if _is_asked(variant) and (evidence := evidence_of(variant.judged, labels)) is not None
    ]


def _terms(parity: Parity) -> Terms | None:
    """None for a report from before the ledger."""
    judged = parity.noninferiority
    if judged is None or judged.run is None:
        return None
    known = {field.name: getattr(judged, field.name) for field in fields(Terms) if field.name != SEEN}
    return Terms(**known, may_have_seen=parity.may_have_seen)


def by_interval(drop: Interval, margin: float) -> Word:
    """The verdict on a report of an earlier version, which has only an interval."""
    if drop.high <= margin:
        return PASS
    return FAIL if drop.low > margin else INCONCLUSIVE
