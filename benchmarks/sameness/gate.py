"""Verdicts on the gate's texts: for a run, by the ledger of its looks; for a report, at any margin.

Variants that the check at export refused are not judged: they are never selected, and judging them would
spend the error that others need.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks.names import REFERENCE
from benchmarks.records import ACCURACY, MACRO_F1, Interval, Noninferiority, Parity, Variant, Verdict
from training.measures.gate_ledger import Candidate, Judged, Terms, at_margin, judge
from training.measures.noninferiority import FAIL, INCONCLUSIVE, PASS, UNPROVEN, Word
from training.measures.outcomes import evidence_of

SEEN = "may_have_seen"  # the field of `Terms` that a parity has


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
