"""Certificates: made of what selection chose, and held against an archive, a ledger or the gate's texts."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import structs

from benchmarks.lateness import share_late
from benchmarks.names import GATE, REFERENCE
from benchmarks.records import Report, Variant
from benchmarks.sameness.parity import decided, outcomes_of
from benchmarks.sameness.scores import in_lists, sample
from benchmarks.selection import Objective, Selection, kept_rates
from common.programs import command
from handler.artifact import Artifact, archived_artifact, unpacked
from handler.errors import UnsupportedError, UserError
from handler.predictor import Predictor
from training.data.splits import Split
from training.measures.certificate import (
    CONFIDENCE,
    SCHEMA,
    Certificate,
    Gate,
    Load,
    Measured,
    OnTime,
    archived,
    concluded,
    faults,
    strangers,
)
from training.measures.gate_ledger import (
    GateRun,
    Ledger,
    digest_of_gate,
    digests_of,
    gate_of,
    terms_of,
)
from training.measures.noninferiority import PASS
from training.measures.outcomes import Outcomes

TABLES = ("csv", "jsonl", "parquet")
Progress = Callable[[Iterator[np.ndarray], str, int], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Check:
    """What the certificate was held against, what that gave, and how it contradicts the certificate, or shows
    that it is out of date."""

    against: str
    found: str
    faults: list[str]
    is_outdated: bool = False


def certificate_of(report: Report, selection: Selection, artifact: Artifact, ledger: Ledger) -> Certificate:
    """The certificate of the selected variant, which is `artifact`.

    Raises `UserError` where the artifact is not what was measured, the ledger has no look at it, or what both
    say does not agree.
    """
    by_name = {variant.name: variant for variant in report.variants}
    variant = by_name[str(selection.selected)]
    if artifact.sha256 != variant.artifact_sha256:
        remedy = f"Measure again: {command('benchmarks run', 'benchmark')}"
        raise UserError("the artifact has changed since it was measured", seen=artifact.folder, remedy=remedy)
    reference = by_name[REFERENCE].artifact_sha256
    assert reference is not None
    outcomes = _outcomes(variant)
    gate, looks = _gate_and_looks(ledger, outcomes.decisions)
    made = concluded(
        Certificate(
            schema=SCHEMA,
            variant=variant.name,
            margin=selection.objective.max_f1_drop,
            confidence=CONFIDENCE,
            artifact_sha256=artifact.sha256,
            reference_sha256=reference,
            checkpoint_sha256=artifact.meta.build.checkpoint_sha256,
            labels=report.data.labels,
            outcomes=outcomes,
            gate=gate,
            looks=looks,
            p99=_on_time(variant, selection.objective),
            measured=_measured(report),
        )
    )
    if wrong := faults(made):
        remedy = "Use a gate that no run has seen"
        raise UserError(
            "the report and the ledger contradict each other", seen="; ".join(wrong), remedy=remedy
        )
    return made


def _outcomes(variant: Variant) -> Outcomes:
    found = variant.judged
    if found.decisions is None or (
        found.cells is None and found.kinds is None and found.unlabelled_flips is None
    ):
        raise UserError(
            "nothing was judged: weights are random, or the report is of an earlier version",
            seen=variant.name,
            remedy=f"Measure a trained model: {command('benchmarks run', 'benchmark')}",
        )
    return Outcomes(
        n=found.n,
        decisions=found.decisions,
        cells=found.cells,
        kinds=found.kinds,
        groups=found.groups,
        unlabelled_flips=found.unlabelled_flips,
    )


def _gate_and_looks(ledger: Ledger, decisions: str) -> tuple[Gate, list[GateRun]]:
    found = gate_of(ledger, decisions)
    terms = terms_of(found.runs, decisions) if found else None
    if found is None or terms is None:
        again = command("benchmarks run", "benchmark")
        raise UserError(
            "the ledger has no look at these decisions",
            seen=decisions[:12],
            remedy=f"Give the ledger of that run (--ledger), or measure again: {again}",
        )
    run = found.runs[terms.run - 1]
    return Gate(texts=run.texts, salt=ledger.salt, sha256=_digest(found.texts, run)), found.runs


def _digest(digests: Sequence[str], run: GateRun) -> str | None:
    """Of the texts of the run: an earlier version kept only those of all runs."""
    if run.texts_sha256 is not None or len(digests) != run.texts:
        return run.texts_sha256
    return digest_of_gate(digests)


def _on_time(variant: Variant, objective: Objective) -> OnTime | None:
    """The late requests of all rates that keep the objective; None where none was asked for."""
    if not objective.is_served:
        return None
    kept = kept_rates(variant, objective)
    loads = []
    for level in sorted(variant.open, key=lambda level: level.offered_rps):
        if level.offered_rps in kept and (late := share_late(level, objective.p99_ms)):
            loads.append(
                Load(
                    rps=level.offered_rps,
                    arrivals=level.arrivals,
                    late=round(late.share * level.arrivals),
                    worth=late.worth,
                )
            )
    return OnTime(limit_ms=objective.p99_ms, loads=loads)


def _measured(report: Report) -> Measured:
    machine = report.machine
    return Measured(
        run=report.run.id,
        at=report.run.started_at,
        data=report.data.spec,
        data_sha256=report.data.sha256,
        commit=report.run.commit,
        machine={
            "id": machine.id,
            "system": machine.system,
            "cpu": machine.cpu,
            "cores": machine.cores,
            "cpu_features": machine.cpu_features,
            "gpus": [card.name for card in machine.gpus],
        },
        versions=machine.versions,
    )


def read_certificate(archive: Path) -> Certificate:
    """That of the archive. Raises `UserError` where there is none, or it is damaged."""
    found = archived(archive)
    if found is None:
        raise UserError(
            "the archive has no certificate",
            seen=archive,
            remedy=f"Select and promote a variant: {command('benchmarks select', 'select')}",
        )
    return found


def check_alone(archive: Path, certificate: Certificate) -> list[Check]:
    """The certificate against its own counts and looks, and against the archive that it lies in, whose files
    are verified. Raises `UserError` for a damaged archive."""
    with tempfile.TemporaryDirectory(prefix="certify-") as scratch:
        try:
            artifact = unpacked(archive, Path(scratch))
        except UnsupportedError:  # of a machine that lacks something: the files have been verified by then
            artifact = archived_artifact(archive)
        differing = strangers(certificate, artifact)
    spent = sum(len(run.looks) for run in certificate.looks)
    return [
        Check("its archive", f"artifact {artifact.sha256[:12]}, all files match their checksums", differing),
        Check(
            "its own counts and looks",
            f"{certificate.verdict} at a margin of {certificate.margin:g}, after {spent} looks",
            faults(certificate),
        ),
    ]


def check_ledger(certificate: Certificate, ledger: Ledger) -> Check:
    """The certificate's looks against those that the gate's ledger has today."""
    decisions = certificate.outcomes.decisions
    gate = gate_of(ledger, decisions)
    terms = terms_of(gate.runs, decisions) if gate else None
    if gate is None or terms is None:
        return Check("the ledger", "no look at it", ["this is not the ledger of its gate: no look is at it"])
    known = certificate.looks
    today = gate.runs
    found = [
        f"run {number} of the ledger is not run {number} of the certificate"
        for number, (theirs, ours) in enumerate(zip(known, today, strict=False), 1)
        if _identity(theirs) != _identity(ours)
    ]
    digest = _digest(gate.texts, today[terms.run - 1])
    if ledger.salt != certificate.gate.salt or digest not in (None, certificate.gate.sha256):
        found.append("its gate is not that of the ledger: salts or digests differ")
    if len(today) < len(known):
        found.append(f"the ledger has {_runs(today)}, and the certificate knows of {_runs(known)}")
    if is_outdated := len(today) > len(known) and not found:
        found.append(
            f"the ledger has grown since: it has {_runs(today)}, the certificate knows of {_runs(known)}. "
            "The verdict stands, since later runs spend only what earlier ones left; for a certificate with "
            f"all looks, select again: {command('benchmarks select', 'select')}"
        )
    return Check("the ledger", _runs(today), found, is_outdated)


def _runs(runs: Sequence[GateRun]) -> str:
    looks = sum(len(run.looks) for run in runs)
    return f"{len(runs)} run{'s' * (len(runs) != 1)} with {looks} look{'s' * (looks != 1)}"


def _identity(run: GateRun) -> tuple[object, ...]:
    """What never changes in a run: artifacts may join a look later, if they decide the same."""
    looks = tuple(
        (look.decisions, look.share, look.p, look.level, look.p_worse, look.level_worse, look.verdict)
        for look in run.looks
    )
    return (run.at, run.texts, run.margin, looks)


def read_gate(place: Path, certificate: Certificate) -> Split:
    """The gate's texts and labels: of a checkpoint's data, or of a table (CSV, JSONL or Parquet).

    Raises `UserError` where there is neither, or its labels are others.
    """
    if place.is_dir():
        from training.checkpoint import load_data, open_checkpoint

        dataset = load_data(open_checkpoint(place))
        return sample(dataset.splits[GATE], certificate.outcomes.n)
    from training.data.sources import SOURCES, Columns, Request

    form = place.suffix.partition("?")[0].removeprefix(".")
    if form not in TABLES:
        remedy = f"Name a checkpoint's folder, or a file that ends with {' or '.join(TABLES)}"
        raise UserError("the gate's texts cannot be read", seen=place, remedy=remedy)
    columns = Columns(labels=tuple(certificate.labels))
    raw = SOURCES[form].read(Request(str(place), place.parent, columns))
    (split,) = raw.splits.values()
    return split


def check_texts(
    certificate: Certificate,
    artifact: Artifact,
    reference: Artifact,
    gate: Split,
    threads: int | None,
    progress: Progress,
) -> list[Check]:
    """The certificate against the gate's texts, and against what the variant and fp32 answer to them here."""
    digests = digests_of(certificate.gate.salt, gate.texts)
    known = certificate.gate.sha256
    other = known is not None and digest_of_gate(digests) != known
    texts = Check(
        "the gate's texts",
        f"{len(gate):,} texts, digest {digest_of_gate(digests)[:12]}",
        [f"these are not the texts of the gate, whose digest is {str(known)[:12]}"] if other else [],
    )
    if reference.sha256 != certificate.reference_sha256:
        wrong = f"this is not the fp32 that it was compared with: {certificate.reference_sha256[:12]}"
        return [texts, Check("fp32", f"artifact {reference.sha256[:12]}", [wrong])]
    given, theirs = (
        decided(each, _scores(each, gate.texts, threads, progress)) for each in (artifact, reference)
    )
    truth = None if certificate.outcomes.unlabelled_flips is not None else gate.labels
    anew = outcomes_of(truth, theirs, given, len(artifact.labels), gate.groups)
    return [texts, _answers(certificate, anew)]


def _scores(artifact: Artifact, texts: Sequence[str], threads: int | None, progress: Progress) -> np.ndarray:
    """As in a run: in the same lists, since the other texts of a list can move a score."""
    predictor = Predictor(artifact, threads)
    answers = (
        np.array(prediction.scores)
        for part in in_lists(texts)
        for prediction in predictor.predict(texts[part.start : part.stop])
    )
    return np.array(list(progress(answers, artifact.name, len(texts))))


def _answers(certificate: Certificate, anew: Outcomes) -> Check:
    """What the texts' answers on this machine give, with the looks of the certificate."""
    was = certificate.outcomes
    again = structs.replace(certificate, outcomes=structs.replace(anew, decisions=was.decisions))
    try:
        judged = concluded(again)
    except ValueError as error:
        return Check("the answers to these texts", "no verdict", [f"they cannot be judged: {error}"])
    same = anew.decisions == was.decisions
    words = "the same labels text by text" if same else f"{_moved(was, anew):,} texts with other outcomes"
    found = f"{words} on this machine; {judged.verdict} (p = {judged.p:.2g}, {judged.level:.2g} needed)"
    wrong = []
    if _moved(was, anew) or was.n != anew.n:
        wrong.append(f"on this machine {_moved(was, anew):,} of {anew.n:,} texts have other outcomes")
    if judged.verdict != PASS:
        wrong.append(f"on this machine the verdict is {judged.verdict}")
    return Check("the answers to these texts", found, wrong)


def _moved(one: Outcomes, other: Outcomes) -> int:
    """How many texts, at least, are counted in another place."""
    counts = [_counts(each) for each in (one, other)]
    places = counts[0].keys() | counts[1].keys()
    return sum(abs(counts[0].get(place, 0) - counts[1].get(place, 0)) for place in places) // 2


def _counts(found: Outcomes) -> dict[str, int]:
    if found.unlabelled_flips is not None:
        return {"flipped": found.unlabelled_flips, "same": found.n - found.unlabelled_flips}
    return dict(found.kinds or {str(place): count for place, count in enumerate(found.cells or ())})
