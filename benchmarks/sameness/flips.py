"""Label only the flips: verdicts from labels of the texts that some variant gives another label than fp32."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from scipy.stats import chi2_contingency

from benchmarks.sameness.flips_key import GATE_CHECK, Asked, Key
from benchmarks.sameness.flips_labels import NO_LABEL
from benchmarks.sameness.parity import digest_of
from handler.errors import UserError
from training.data.splits import Split
from training.measures.gate_ledger import Candidate, Judged, judge
from training.measures.labelled_flips import Checked, FlipSample, drop_of_flips
from training.measures.noninferiority import Drop

UNLIKE = 0.01  # p-value below which gate and unlabelled texts do not look alike
LEAST_OF_A_LABEL = 100  # texts of the gate; with 35, a drop of the margin passed too often


class Likeness(msgspec.Struct, forbid_unknown_fields=True):
    """How many texts of the gate and of the unlabelled ones get each label by fp32, and the p-value (chi
    squared) of as large a difference between texts of one population."""

    gate: dict[str, int]
    unlabelled: dict[str, int]
    p: float


@dataclass(frozen=True)
class Verdict:
    """Of one variant: `flips` of the unlabelled texts, of which `labelled` have a label, the drop that all
    labels show, and the verdict; inconclusive ones are settled by about `unlabelled_to_settle` texts."""

    flips: int
    labelled: int
    drop: float
    low: float
    high: float
    judged: Judged

    @property
    def unlabelled_to_settle(self) -> int | None:
        return self.judged.texts_to_settle


@dataclass(frozen=True)
class Found:
    """Of a labelled file: `unlabelled` texts, what the labeller got wrong of texts with known labels, whether
    gate and unlabelled texts look alike, and the verdicts by variant."""

    unlabelled: int
    checked: Checked
    likeness: Likeness
    verdicts: dict[str, Verdict]


def require_exclusive(labels: Sequence[str], multi_label: bool, judged: bool, gate: Split) -> None:
    """Raises `UserError` where labels of flips alone would prove nothing."""
    if not judged:
        raise UserError(
            "a verdict from flips needs a labelled gate and a trained model",
            seen="labels that mean nothing",
            remedy="Train on labelled texts, or compare on texts without labels: benchmarks run --unlabelled",
        )
    if multi_label:
        raise UserError(
            "a verdict from flips is for labels that exclude each other: of independent ones, each text "
            "would need a label of its own for each that flips",
            seen=f"independent labels {', '.join(labels)}",
            remedy="Label a gate instead",
        )
    if gate.groups is not None:
        raise UserError(
            "a verdict from flips counts single texts, but the gate's texts belong to groups",
            seen=f"{len(np.unique(gate.groups)):,} groups of {len(gate):,} texts",
            remedy="Label a larger gate instead",
        )


def count(labels: int, *places: np.ndarray) -> np.ndarray:
    """How many texts have each combination of labels, int [labels, …]."""
    counts = np.zeros((labels,) * len(places), np.int64)
    np.add.at(counts, places, 1)
    return counts


def verdicts(
    ledger: Path | None,
    key: Key,
    given: np.ndarray,
    gate: Split,
    unlabelled: Sequence[str],
    margin: float,
    may_have_seen: bool,
) -> Found:
    """The verdict of each variant from the labels `given` int [rows]; each new one is a look at the gate."""
    labels = len(key.labels)
    if (least := int(np.bincount(gate.labels, minlength=labels).min())) < LEAST_OF_A_LABEL:
        raise UserError(
            "the gate has too few texts of some label for a verdict from flips",
            seen=f"{least}, at least {LEAST_OF_A_LABEL} are needed",
            remedy="Use a larger gate",
        )
    is_check = np.array([row.source == GATE_CHECK for row in key.rows])
    rows = np.array([row.row for row in key.rows])
    truth = np.full(len(unlabelled), NO_LABEL)
    truth[rows[~is_check]] = given[~is_check]
    known = gate.labels[rows[is_check]]
    checked = Checked(int(is_check.sum()), int((known != given[is_check]).sum()))
    samples = {
        name: _sample(key.reference, asked, gate.labels, truth, labels, checked)
        for name, asked in key.variants.items()
    }
    drops = {name: drop_of_flips(sample) for name, sample in samples.items()}
    candidates = [
        Candidate(
            name=name,
            artifact_sha256=asked.artifact_sha256,
            decisions=_decisions(key.reference, asked, gate.labels, truth, checked),
            agreement=asked.agreement,
            evidence=drops[name],
            may_have_seen=may_have_seen,
        )
        for name, asked in key.variants.items()
    ]
    judged = judge(ledger, [*gate.texts, *unlabelled], candidates, margin)
    return Found(
        len(unlabelled),
        checked,
        _likeness(key),
        {name: _verdict(samples[name], drops[name], judged[name]) for name in key.variants},
    )


def _sample(
    reference: Asked, asked: Asked, gate: np.ndarray, truth: np.ndarray, labels: int, checked: Checked
) -> FlipSample:
    """Of one variant; `truth` [unlabelled] is -1 where no label was given. A text that only other variants
    flip counts as unlabelled here: it was not chosen as a random one of those that agree."""
    theirs, ours = np.array(reference.unlabelled), np.array(asked.unlabelled)
    flipped = (theirs != ours) & (truth != NO_LABEL)
    return FlipSample(
        gate=count(labels, gate, np.array(reference.gate), np.array(asked.gate)),
        unlabelled=count(labels, theirs, ours),
        labelled=count(labels, truth[flipped], theirs[flipped], ours[flipped]),
        checked=checked,
    )


def _decisions(reference: Asked, asked: Asked, gate: np.ndarray, truth: np.ndarray, checked: Checked) -> str:
    """A digest of all that the verdict is found from: what else was labelled for other variants is not."""
    theirs, ours = (np.array([*row.gate, *row.unlabelled]) for row in (reference, asked))
    known = np.concatenate([gate, np.where(theirs[len(gate) :] != ours[len(gate) :], truth, NO_LABEL)])
    answered = digest_of(known, theirs, ours)
    return hashlib.sha256(f"{answered} {checked.texts} {checked.wrong}".encode()).hexdigest()


def _likeness(key: Key) -> Likeness:
    places = np.arange(len(key.labels))
    table = np.array(
        [
            (np.array(given)[:, None] == places).sum(axis=0)
            for given in (key.reference.gate, key.reference.unlabelled)
        ]
    )
    occurring = table[:, table.any(axis=0)]
    p = float(chi2_contingency(occurring).pvalue) if occurring.shape[1] > 1 else 1.0
    gate, unlabelled = (dict(zip(key.labels, row.tolist(), strict=True)) for row in table)
    return Likeness(gate, unlabelled, p)


def _verdict(sample: FlipSample, drop: Drop, judged: Judged) -> Verdict:
    flips = int(sample.unlabelled.sum() - np.trace(sample.unlabelled))
    return Verdict(flips, int(sample.labelled.sum()), drop.drop, drop.low, drop.high, judged)
