"""The record of all tests on a gate's texts, and of the part of their shared 2.5 % that each test spent.

A gate that is tested again and again says PASS by luck in the end: each run of the suite therefore spends
three quarters of what is left, and nothing is given back. The file lies outside every folder that is rebuilt,
so retraining does not reset it.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec
from filelock import FileLock

from common.atomic import replacing
from handler.errors import UserError
from training.measures.noninferiority import ALPHA, INCONCLUSIVE, UNPROVEN, Word, in_sequence, verdict

SCHEMA = 1
SHARE_OF_A_RUN = 0.75  # of what is left
# Two gates with this share of the smaller one's texts in common are one gate: a gate that grows keeps
# spending, while a few texts in common by chance do not matter.
SAME_GATE = 0.05
DIGEST_BYTES = 8


class Look(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One question: these decisions on the gate's texts, against fp32's. `share` is its part of what the run
    may spend; `level` and `level_worse`, at which it was tested, have what was handed on to it besides."""

    decisions: str
    variant: str
    artifacts: list[str]
    share: float
    p: float
    level: float
    p_worse: float
    level_worse: float
    verdict: Word


class GateRun(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The looks of one run, in the order of their tests; `left` and `left_worse` are what the next run gets
    on top of its own share, since the last test of this one rejected."""

    at: str
    texts: int
    margin: float
    looks: list[Look]
    left: float
    left_worse: float


class Gate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`texts` are salted digests."""

    texts: list[str]
    runs: list[GateRun]


class Ledger(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    schema: int
    salt: str
    gates: list[Gate]


class Evidence(Protocol):
    """What the gate's texts say of one variant (`noninferiority.Drop`)."""

    def p(self, margin: float) -> float: ...

    def p_worse(self, margin: float) -> float: ...

    def smallest_margin(self, level: float) -> float: ...

    def texts_to_settle(self, margin: float, level: float) -> int | None: ...


@dataclass(frozen=True)
class Candidate:
    """A variant that a run asks about. `decisions` is a digest of the texts' labels, fp32's and its own;
    `agreement` with fp32 on validation texts sets its place in the order. Nothing is proven of a model that
    `may_have_seen` the gate's texts."""

    name: str
    artifact_sha256: str
    decisions: str
    agreement: float
    evidence: Evidence
    may_have_seen: bool = False


@dataclass(frozen=True)
class Terms:
    """On which terms a look was made: at which margin and levels, in which run on its gate (counted from 1),
    at which margin the first of these asked, and whether the model may have been trained on these texts."""

    margin: float
    share: float
    level: float
    level_worse: float
    run: int
    first_margin: float
    may_have_seen: bool = False


@dataclass(frozen=True)
class Judged:
    """A verdict. `smallest_margin` is what an equal variant passes in four of five cases on so many texts;
    an inconclusive one is settled by a new gate of about `texts_to_settle`, if the drop is as it was seen
    (None: by none that is worth naming)."""

    verdict: Word
    margin: float
    share: float
    p: float
    level: float
    p_worse: float
    level_worse: float
    run: int
    first_margin: float
    smallest_margin: float
    texts_to_settle: int | None


def share_of(run: int) -> float:
    """What the run of this number (from 1) may spend."""
    return float(ALPHA * SHARE_OF_A_RUN * (1 - SHARE_OF_A_RUN) ** (run - 1))


def judge(
    path: Path | None, texts: Sequence[str], candidates: Sequence[Candidate], margin: float
) -> dict[str, Judged]:
    """The verdict of each candidate on the gate's `texts`, by name; new looks are written to the ledger.

    Decisions that were tested before are answered from the ledger, whatever the artifact's digest. Without a
    `path`, nothing is recorded and each call is the first run.
    """
    if not candidates:
        return {}
    if path is None:
        return judge_in(Ledger(schema=SCHEMA, salt="", gates=[]), texts, candidates, margin)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        ledger = read_ledger(path) or Ledger(schema=SCHEMA, salt=secrets.token_hex(16), gates=[])
        found = judge_in(ledger, texts, candidates, margin)
        with replacing(path) as file:
            file.write(msgspec.json.format(msgspec.json.encode(ledger), indent=1))
    return found


def read_ledger(path: Path) -> Ledger | None:
    """None if there is none. Raises `UserError` if it is damaged: going on without it would forget."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            "the gate ledger is damaged",
            seen=f"{path}: {error}",
            remedy="Restore it, or use gate texts that no run has seen",
        ) from error


def next_run(path: Path, texts: Sequence[str]) -> int:
    """The number, from 1, that the next run on the gate of these texts will have. Raises `UserError` as
    `read_ledger` does."""
    ledger = read_ledger(path)
    return 1 + len(_gate_of(ledger, texts).runs) if ledger else 1


def look_at(ledger: Ledger, artifact_sha256: str) -> tuple[Look, GateRun] | None:
    """The latest look at this artifact, and its run."""
    found = [
        (look, run)
        for gate in ledger.gates
        for run in gate.runs
        for look in run.looks
        if artifact_sha256 in look.artifacts
    ]
    return max(found, key=lambda pair: pair[1].at, default=None)


def judge_in(
    ledger: Ledger, texts: Sequence[str], candidates: Sequence[Candidate], margin: float
) -> dict[str, Judged]:
    """As `judge`, in a ledger that the caller holds and that is changed."""
    gate = _gate_of(ledger, texts)
    known = {look.decisions: look for run in gate.runs for look in run.looks}
    asked: dict[str, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda candidate: (-candidate.agreement, candidate.name)):
        asked.setdefault(candidate.decisions, []).append(candidate)
    new = {decisions: same[0] for decisions, same in asked.items() if decisions not in known}
    if new:
        gate.runs.append(_run(gate, len(texts), list(new.values()), margin))
    found = {}
    for number, run in enumerate(gate.runs, 1):
        for look in run.looks:
            for candidate in asked.get(look.decisions, []):
                if candidate.artifact_sha256 not in look.artifacts:
                    look.artifacts.append(candidate.artifact_sha256)
                seen = candidate.may_have_seen
                look.verdict = (
                    UNPROVEN if seen else verdict(look.p, look.level, look.p_worse, look.level_worse)
                )
                terms = Terms(
                    run.margin, look.share, look.level, look.level_worse, number, gate.runs[0].margin, seen
                )
                found[candidate.name] = at_margin(candidate.evidence, terms, margin)
    return found


def at_margin(evidence: Evidence, terms: Terms, margin: float) -> Judged:
    """The verdict of a look at a margin that may differ from its own.

    What is handed on was earned at the look's own margin. It also counts for a wider one, since a variant
    that loses less than the margin loses less than a wider one; for a narrower one, the look has only its own
    part.
    """
    level = terms.level if margin >= terms.margin else terms.share
    level_worse = terms.level_worse if margin <= terms.margin else terms.share
    p, p_worse = evidence.p(margin), evidence.p_worse(margin)
    word = UNPROVEN if terms.may_have_seen else verdict(p, level, p_worse, level_worse)
    return Judged(
        verdict=word,
        margin=margin,
        share=terms.share,
        p=p,
        level=level,
        p_worse=p_worse,
        level_worse=level_worse,
        run=terms.run,
        first_margin=terms.first_margin,
        smallest_margin=evidence.smallest_margin(level),
        texts_to_settle=evidence.texts_to_settle(margin, share_of(1)) if word == INCONCLUSIVE else None,
    )


def _gate_of(ledger: Ledger, texts: Sequence[str]) -> Gate:
    """The gate of these texts: all gates that share texts with it are merged."""
    digests = {_digest(ledger.salt, text) for text in texts}

    def shares_texts(gate: Gate) -> bool:
        common = len(digests.intersection(gate.texts))
        return common >= max(1, SAME_GATE * min(len(digests), len(gate.texts)))

    same = [gate for gate in ledger.gates if shares_texts(gate)]
    merged = Gate(
        texts=sorted(digests.union(*(gate.texts for gate in same))),
        runs=sorted((run for gate in same for run in gate.runs), key=lambda run: run.at),
    )
    ledger.gates = [gate for gate in ledger.gates if gate not in same] + [merged]
    return merged


def _digest(salt: str, text: str) -> str:
    return hashlib.blake2b(text.encode(), key=salt.encode(), digest_size=DIGEST_BYTES).hexdigest()


def _run(gate: Gate, texts: int, candidates: Sequence[Candidate], margin: float) -> GateRun:
    """The looks of one more run. Non-inferiority is tested from the surest variant to the most doubtful,
    inferiority the other way round."""
    share = share_of(len(gate.runs) + 1)
    left, left_worse = _left(gate, margin)
    p = [candidate.evidence.p(margin) for candidate in candidates]
    p_worse = [candidate.evidence.p_worse(margin) for candidate in candidates]
    levels, left = in_sequence(p, share + left)
    levels_worse, left_worse = in_sequence(p_worse[::-1], share + left_worse)
    looks = [
        Look(
            decisions=candidate.decisions,
            variant=candidate.name,
            artifacts=[],
            share=share / len(candidates),
            p=p[place],
            level=levels[place],
            p_worse=p_worse[place],
            level_worse=levels_worse[-1 - place],
            verdict=verdict(p[place], levels[place], p_worse[place], levels_worse[-1 - place]),
        )
        for place, candidate in enumerate(candidates)
    ]
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return GateRun(at=now, texts=texts, margin=margin, looks=looks, left=left, left_worse=left_worse)


def _left(gate: Gate, margin: float) -> tuple[float, float]:
    """What the last run hands on to each test: what it earned at another margin counts on one side only."""
    if not gate.runs:
        return 0.0, 0.0
    last = gate.runs[-1]
    return (
        last.left if margin >= last.margin else 0.0,
        last.left_worse if margin <= last.margin else 0.0,
    )
