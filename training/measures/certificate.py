"""The certificate of a promoted variant: its verdict, with all that is needed to find it again.

`certificate.json` lies in the archive, next to the artifact, and holds counts and digests, never a text. It
is as trustworthy as the signature of that archive: who can write it can make up its counts.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import isclose, sqrt
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, structs

from common.records import Count, Positive, Record, Sha256, Share, Some, Text, read
from common.shares import P99_LATE, share_interval
from handler.artifact import Artifact, archived_certificate, bad_certificate
from training.data.records import is_synthetic
from training.measures.gate_ledger import (
    Evidence,
    GateRun,
    Judged,
    Look,
    Terms,
    at_margin,
    spend,
    terms_of,
)
from training.measures.noninferiority import ALPHA, PASS, REHEARSAL, UNPROVEN, Drop, Word
from training.measures.outcomes import Outcomes, evidence_of

SCHEMA: Literal[1] = 1
REFERENCE = "fp32"
CONFIDENCE = 1 - ALPHA
SURELY = f"{100 * CONFIDENCE:g} %"
DIGITS = 12  # of a digest, as it is shown
SURE_ERRORS = 4  # standard errors by which a p-value that was drawn anew may differ


class Gate(Record):
    """`sha256` is of the salted digests of its texts (`digest_of_gate`); None of a gate that grew before its
    runs were told apart."""

    texts: Some
    salt: Text
    sha256: Sha256 | None = None


class Load(Record):
    """Requests that arrived at random, `rps` a second: `late` ones, and how many independent ones all of them
    are worth."""

    rps: Positive
    arrivals: Some
    late: Count
    worth: Positive


class OnTime(Record, kw_only=True):
    """The p99 that was asked for: no answer after `limit_ms` (None: an answer at all). `loads` were tested
    from the lowest to the highest, and all of them keep it."""

    limit_ms: Positive | None
    loads: Annotated[list[Load], Meta(min_length=1)]
    claim: str = ""


class Measured(Record):
    """The run that the outcomes are from; `commit` is that of this project."""

    run: Text
    at: Text
    data: Text
    data_sha256: Sha256
    commit: str | None
    machine: dict[str, Any]
    versions: dict[str, str]


class Certificate(Record, kw_only=True):
    """Of the artifact `artifact_sha256`, against fp32's. `looks` are all runs on the gate up to the
    selection, as its ledger has them: what they spent decides the level. `concluded` fills in what follows
    from the rest: the claim, its measure, the verdict at `margin`, the drop that was seen, the p-value and
    its level."""

    schema: Literal[1]
    claim: str = ""
    variant: Text
    verdict: Word | None = None
    measure: Literal["macro-F1", "accuracy"] | None = None
    margin: Share
    confidence: Share
    drop: float | None = None
    p: Share | None = None
    level: Share | None = None
    artifact_sha256: Sha256
    reference_sha256: Sha256
    checkpoint_sha256: Sha256
    labels: Annotated[list[str], Meta(min_length=2)]
    outcomes: Outcomes
    gate: Gate
    looks: list[GateRun]
    p99: OnTime | None = None
    measured: Measured


def concluded(certificate: Certificate) -> Certificate:
    """The certificate with all that follows from its counts and looks. ValueError where nothing does."""
    evidence = _evidence(certificate)
    terms, _ = _look(certificate)
    if not 0 < certificate.margin < 1:
        raise ValueError(f"its margin is {certificate.margin}")
    judged = at_margin(evidence, terms, certificate.margin)
    p99 = certificate.p99
    measure: Literal["macro-F1", "accuracy"] = "macro-F1" if isinstance(evidence, Drop) else "accuracy"
    return structs.replace(
        certificate,
        claim=_claim(certificate, measure, judged),
        verdict=judged.verdict,
        measure=measure,
        confidence=CONFIDENCE,
        drop=evidence.drop if isinstance(evidence, Drop) else None,
        p=judged.p,
        level=judged.level,
        p99=p99 and structs.replace(p99, claim=_p99_claim(p99)),
    )


def faults(certificate: Certificate) -> list[str]:
    """What does not follow from the certificate's own counts and looks, in sentences."""
    try:
        again = concluded(certificate)
    except (ValueError, IndexError) as error:
        return [f"nothing follows from its counts and looks: {error}"]
    found = []
    if again.verdict != PASS:
        found.append(f"its counts and looks give the verdict {again.verdict}, not {PASS}")
    for name in ("claim", "verdict", "measure", "confidence", "drop", "level"):
        said = getattr(certificate, name)
        follows = getattr(again, name)
        if not _agree(said, follows):
            found.append(
                f"it says {name} {_shown(said)}, and {_shown(follows)} follows from its counts and looks"
            )
    evidence = _evidence(certificate)
    terms, look = _look(certificate)
    texts = {certificate.outcomes.n, certificate.gate.texts, certificate.looks[terms.run - 1].texts}
    if len(texts) > 1:
        found.append(
            f"its counts, its gate and its look are of {' and '.join(map(str, sorted(texts)))} texts"
        )
    for what, margin, said_p in (
        ("it", certificate.margin, certificate.p),
        ("its look", terms.margin, look.p),
    ):
        p = evidence.p(margin)
        if said_p is None or not abs(said_p - p) <= _chance(evidence, max(said_p, p)):
            found.append(f"{what} says p {_shown(said_p)}, and {_shown(p)} follows from its counts")
    return found + replay(certificate.looks) + _late(certificate.p99)


def strangers(certificate: Certificate, artifact: Artifact) -> list[str]:
    """How the certificate shows that it is not that of the artifact."""
    checkpoint = artifact.meta.build.checkpoint_sha256
    return [
        f"it certifies the {what} {said[:shown]}, and the archive holds {held[:shown]}"
        for what, said, held, shown in (
            ("artifact", certificate.artifact_sha256, artifact.sha256, DIGITS),
            ("variant", certificate.variant, artifact.name, None),
            ("checkpoint", certificate.checkpoint_sha256, checkpoint, DIGITS),
            ("labels", ", ".join(certificate.labels), ", ".join(artifact.labels), None),
        )
        if said != held
    ]


def replay(looks: Sequence[GateRun]) -> list[str]:
    """Where the levels of runs on a gate do not follow from the p-values before them, in sentences."""
    found = []
    for number, run in enumerate(looks, 1):
        if not run.looks:
            found.append(f"run {number} has no look")
            continue
        p = [look.p for look in run.looks]
        p_worse = [look.p_worse for look in run.looks]
        spent = spend(looks[: number - 1], p, p_worse, run.margin)
        levels = zip(spent.levels, spent.levels_worse, strict=True)
        for look, (level, level_worse) in zip(run.looks, levels, strict=True):
            said = (look.share, look.level, look.level_worse)
            if not all(map(_agree, said, (spent.share, level, level_worse))):
                found.append(
                    f"run {number} tested {look.variant} at {look.level:.2g}, and {level:.2g} follows from "
                    "the looks before it"
                )
        if not (_agree(run.left, spent.left) and _agree(run.left_worse, spent.left_worse)):
            found.append(f"run {number} left {run.left:.2g}, and {spent.left:.2g} follows from its looks")
    return found


def archived(archive: Path) -> Certificate | None:
    """That of an archive; None where there is none. Raises `UserError` for a damaged one."""
    document = archived_certificate(archive)
    if document is None:
        return None
    try:
        return read(document, Certificate)
    except ValueError as error:  # msgspec's are among them
        raise bad_certificate(archive, error) from error


def _evidence(certificate: Certificate) -> Evidence:
    labels = len(certificate.labels)
    outcomes = certificate.outcomes
    if outcomes.cells is not None and len(outcomes.cells) != labels**3:
        raise ValueError(f"it has {len(outcomes.cells)} counts, and {labels} labels have {labels**3}")
    for kind in outcomes.kinds or ():
        if len(kind) != labels or not set(kind) <= set("01234567"):
            raise ValueError(f"{kind[:100]!r} is no kind of text with {labels} labels")
    counts = outcomes.cells or list((outcomes.kinds or {}).values())
    if outcomes.unlabelled_flips is None and sum(counts) != outcomes.n:
        raise ValueError(f"its counts are of {sum(counts):,} texts, not of {outcomes.n:,}")
    if outcomes.unlabelled_flips is not None and outcomes.unlabelled_flips > outcomes.n:
        raise ValueError(f"{outcomes.unlabelled_flips:,} of {outcomes.n:,} texts flip")
    evidence = evidence_of(outcomes, labels)
    if evidence is None:
        raise ValueError("it has no outcome counts")
    return evidence


def _look(certificate: Certificate) -> tuple[Terms, Look]:
    decisions = certificate.outcomes.decisions
    terms = terms_of(certificate.looks, decisions)
    if terms is None:
        raise ValueError("none of its looks is at these decisions")
    look = next(look for look in certificate.looks[terms.run - 1].looks if look.decisions == decisions)
    return replace(terms, may_have_seen=look.verdict == UNPROVEN), look


def _claim(certificate: Certificate, measure: str, judged: Judged) -> str:
    """In the words of docs/claim.md, with the values of this variant."""
    looks = sum(len(run.looks) for run in certificate.looks)
    at_gate = f"all {looks} looks" if looks > 1 else "the one look"
    claim = (
        f"With {SURELY} confidence, {certificate.variant} loses less than {certificate.margin:g} "
        f"{measure} against {REFERENCE}, on texts like the {certificate.outcomes.n:,} of its "
        f"gate; the confidence covers {at_gate} at that gate"
    )
    if judged.first_margin != judged.margin:
        claim += (
            f", but the margin was {judged.first_margin:g} at the first of them and has been changed since, "
            f"so the proof does not hold at {SURELY}"
        )
    return f"{claim} ({REHEARSAL})." if is_synthetic(certificate.measured.data) else f"{claim}."


def _p99_claim(p99: OnTime) -> str:
    within = "" if p99.limit_ms is None else f" within {p99.limit_ms:g} ms"
    return (
        f"With {SURELY} confidence, at most {100 * P99_LATE:g} % of requests that arrive at random at "
        f"{p99.loads[-1].rps:,.0f} a second have no answer{within}, on the machine that was measured, in the "
        "state it was in."
    )


def _late(p99: OnTime | None) -> list[str]:
    """Rates at which too many requests were late, by their counts."""
    found = []
    for load in p99.loads if p99 else ():
        most = share_interval(load.late * load.worth / load.arrivals, load.worth)[1]
        if load.worth > load.arrivals or most > P99_LATE:
            found.append(
                f"at {load.rps:,.0f} requests a second {load.late} of {load.arrivals:,} were late, so up to "
                f"{100 * most:.1f} % may be"
            )
    if p99 and (said := p99.claim) != (follows := _p99_claim(p99)):
        found.append(f"it says {said!r} of its p99, and {follows!r} follows")
    return found


def _agree(said: Any, follows: Any) -> bool:
    if isinstance(said, float) and isinstance(follows, float):
        return isclose(said, follows, rel_tol=1e-9, abs_tol=1e-12)
    return bool(said == follows)


def _chance(evidence: Evidence, p: float) -> float:
    """By how much a p-value may differ that is drawn with another version of numpy."""
    draws = len(evidence.most) if isinstance(evidence, Drop) else None
    return SURE_ERRORS * sqrt(p / draws) if draws else 1e-9


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "nothing" if value is None else repr(value)
