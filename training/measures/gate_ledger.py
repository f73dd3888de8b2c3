"""The record of all tests on a gate's texts, and of the part of their shared 2.5 % that each test spent.

A gate that is tested again and again says PASS by luck in the end: each run of the suite therefore spends
three quarters of what is left, and nothing is given back. The file lies outside every folder that is rebuilt,
so retraining does not reset it.
"""

import hashlib
import secrets
from collections.abc import Collection, Sequence
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
    on top of its own share, since the last test of this one rejected. `texts_sha256` is `digest_of_gate` of
    its texts, which earlier versions did not keep."""

    at: str
    texts: int
    margin: float
    looks: list[Look]
    left: float
    left_worse: float
    texts_sha256: str | None = None


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
class Spent:
    """What the tests of a run spend, in their order: each its `share`, at its level; and what is left."""

    share: float
    levels: list[float]
    levels_worse: list[float]
    left: float
    left_worse: float


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


def gate_of(ledger: Ledger, decisions: str) -> Gate | None:
    """The gate at which these decisions were looked at."""
    return next((gate for gate in ledger.gates if terms_of(gate.runs, decisions)), None)


def terms_of(runs: Sequence[GateRun], decisions: str, may_have_seen: bool = False) -> Terms | None:
    """The terms of the latest look at these decisions; None if there was none in the runs of a gate."""
    for number, run in reversed(list(enumerate(runs, 1))):
        for look in run.looks:
            if look.decisions == decisions:
                levels = (look.share, look.level, look.level_worse)
                return Terms(run.margin, *levels, number, runs[0].margin, may_have_seen)
    return None


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
        texts_sha256 = digest_of_gate(digests_of(ledger.salt, texts))
        gate.runs.append(_run(gate.runs, len(texts), texts_sha256, list(new.values()), margin))
    found = {}
    for look in (look for run in gate.runs for look in run.looks):
        for candidate in asked.get(look.decisions, []):
            if candidate.artifact_sha256 not in look.artifacts:
                look.artifacts.append(candidate.artifact_sha256)
            seen = candidate.may_have_seen
            look.verdict = UNPROVEN if seen else verdict(look.p, look.level, look.p_worse, look.level_worse)
            terms = terms_of(gate.runs, look.decisions, seen)
            assert terms is not None
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
    digests = digests_of(ledger.salt, texts)

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


def digests_of(salt: str, texts: Sequence[str]) -> set[str]:
    """What a ledger keeps of the texts."""
    return {
        hashlib.blake2b(text.encode(), key=salt.encode(), digest_size=DIGEST_BYTES).hexdigest()
        for text in texts
    }


def digest_of_gate(digests: Collection[str]) -> str:
    """One digest of those of all texts, whatever their order: it confirms the texts to who has all of them,
    and none to who guesses one."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def spend(earlier: Sequence[GateRun], p: Sequence[float], p_worse: Sequence[float], margin: float) -> Spent:
    """What a run spends after the `earlier` ones on its gate, by the p-values of its tests. Non-inferiority
    is tested from the surest variant to the most doubtful, inferiority the other way round."""
    share = share_of(len(earlier) + 1)
    left, left_worse = _left(earlier, margin)
    levels, left = in_sequence(p, share + left)
    levels_worse, left_worse = in_sequence(p_worse[::-1], share + left_worse)
    return Spent(share / len(p), levels, levels_worse[::-1], left, left_worse)


def _run(
    earlier: Sequence[GateRun], texts: int, texts_sha256: str, candidates: Sequence[Candidate], margin: float
) -> GateRun:
    """The looks of one more run."""
    p = [candidate.evidence.p(margin) for candidate in candidates]
    p_worse = [candidate.evidence.p_worse(margin) for candidate in candidates]
    spent = spend(earlier, p, p_worse, margin)
    looks = [
        Look(
            decisions=candidate.decisions,
            variant=candidate.name,
            artifacts=[],
            share=spent.share,
            p=p[place],
            level=spent.levels[place],
            p_worse=p_worse[place],
            level_worse=spent.levels_worse[place],
            verdict=verdict(p[place], spent.levels[place], p_worse[place], spent.levels_worse[place]),
        )
        for place, candidate in enumerate(candidates)
    ]
    return GateRun(
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        texts=texts,
        margin=margin,
        looks=looks,
        left=spent.left,
        left_worse=spent.left_worse,
        texts_sha256=texts_sha256,
    )


def _left(earlier: Sequence[GateRun], margin: float) -> tuple[float, float]:
    """What the last run hands on to each test: what it earned at another margin counts on one side only."""
    if not earlier:
        return 0.0, 0.0
    last = earlier[-1]
    return (
        last.left if margin >= last.margin else 0.0,
        last.left_worse if margin <= last.margin else 0.0,
    )
