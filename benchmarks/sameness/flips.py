"""Label only the flips: which texts a person is to label, and the verdicts that their labels give.

The file to label has ids, texts and nothing that tells what a classifier said. What fp32 and the variants
said of every text is kept apart, and is read with the labels.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from scipy.stats import chi2_contingency

from benchmarks.names import REFERENCE
from benchmarks.sameness.parity import decided, digest_of
from common.atomic import write_json, write_text
from common.commands import did_you_mean
from common.records import Count
from common.tables.layout import Reading, look
from common.tables.records import records
from handler.artifact import Artifact
from handler.errors import UserError, refusals
from handler.predictor import Predictor
from training.data.splits import Split
from training.measures.gate_ledger import Candidate, Judged, judge
from training.measures.labelled_flips import Checked, FlipSample, drop_of_flips
from training.measures.noninferiority import Drop

SCHEMA = 1
COLUMNS = ("id", "text", "label")
KEY = ".key.json"  # after the name of the file to label
GATE_CHECK = "gate"  # where a text of the file comes from
UNLABELLED = "unlabelled"
MOST_TOLD = 10  # rows of a labelled file that are wrong
UNLIKE = 0.01  # p-value below which gate and unlabelled texts do not look alike
NO_LABEL = -1
LEAST_OF_A_LABEL = 100  # texts of the gate; with 35, a drop of the margin passed too often
REMEDY_ROWS = "Correct these rows, then read the file again"


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A row of the file to label: the text at place `row` of the gate or of the unlabelled texts."""

    source: str
    row: Count


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A variant: its artifact, how often it agreed with fp32 on validation texts, and the place of the label
    that it gives each text of the gate and of the unlabelled ones."""

    artifact_sha256: str
    agreement: float
    gate: list[int]
    unlabelled: list[int]


class Key(msgspec.Struct, forbid_unknown_fields=True):
    """What the labeller must not see: where each row comes from (in the order of their ids, from 1), and what
    fp32 and the variants said. `gate` and `unlabelled` are digests of the texts; of `flips` texts with
    another label by some variant, some may have been left out of the file."""

    schema: int
    labels: list[str]
    gate: str
    unlabelled: str
    flips: Count
    rows: list[Row]
    reference: Asked
    variants: dict[str, Asked]


@dataclass(frozen=True)
class Answers:
    """The place of the label that fp32 and each variant give each text of the gate and of the unlabelled
    ones, int [texts]."""

    gate: dict[str, np.ndarray]
    unlabelled: dict[str, np.ndarray]


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


def answers(
    artifacts: Mapping[str, Artifact],
    gate: Sequence[str],
    unlabelled: Sequence[str],
    threads: int | None,
    progress: Callable[[Iterator[np.ndarray], str, int], Iterator[np.ndarray]],
) -> Answers:
    """What every artifact answers, one after another. `progress` passes scores [labels] on, and is told the
    variant's name and the number of texts."""
    found = Answers({}, {})
    texts = [*gate, *unlabelled]
    for name, artifact in artifacts.items():
        stream = (answer.scores for answer in Predictor(artifact, threads).stream(texts))
        places = decided(artifact, np.array(list(progress(stream, name, len(texts)))))
        found.gate[name] = places[: len(gate)]
        found.unlabelled[name] = places[len(gate) :]
    return found


def choose_rows(found: Answers, checks: int, most: int, rng: np.random.Generator) -> tuple[list[Row], int]:
    """The rows to label in random order, and how many texts flip in all. At most `most` texts that flip by
    some variant, a random sample if there are more; and up to `checks` random texts of the gate on which
    fp32 and all variants agree."""
    flipping = np.flatnonzero(flips_of_any(found.unlabelled))
    agreeing = np.flatnonzero(~flips_of_any(found.gate))
    rows = [
        Row(source, int(row))
        for source, places, count in ((UNLABELLED, flipping, most), (GATE_CHECK, agreeing, checks))
        for row in rng.choice(places, min(count, len(places)), replace=False)
    ]
    return [rows[place] for place in rng.permutation(len(rows))], len(flipping)


def flips_of_any(by_name: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether some variant gives another label than fp32, bool [texts]."""
    return np.asarray(np.any([places != by_name[REFERENCE] for places in by_name.values()], axis=0))


def write_flips(
    path: Path,
    found: Answers,
    artifacts: Mapping[str, Artifact],
    gate: Sequence[str],
    unlabelled: Sequence[str],
    checks: int,
    most: int,
) -> Key:
    """Write the CSV to label at `path`, and the key next to it.

    Raises `UserError` where no text flips: then there is nothing to label.
    """
    rows, flips = choose_rows(found, checks, most, np.random.default_rng())
    if not flips:
        raise UserError(
            "there is nothing to label: no text gets another label than by fp32",
            seen=f"{len(unlabelled):,} texts",
            remedy="Give more texts, or see what the gate shows: python -m benchmarks run",
        )
    asked = {
        name: Asked(
            artifact_sha256=artifact.sha256,
            agreement=artifact.meta.check.label_agreement or 0.0,
            gate=found.gate[name].tolist(),
            unlabelled=found.unlabelled[name].tolist(),
        )
        for name, artifact in artifacts.items()
    }
    key = Key(
        schema=SCHEMA,
        labels=list(artifacts[REFERENCE].labels),
        gate=_digest(gate),
        unlabelled=_digest(unlabelled),
        flips=flips,
        rows=rows,
        reference=asked.pop(REFERENCE),
        variants=asked,
    )
    texts = {GATE_CHECK: gate, UNLABELLED: unlabelled}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for number, row in enumerate(rows, 1):
        writer.writerow((number, texts[row.source][row.row], ""))
    write_json(key_of(path), msgspec.to_builtins(key))
    write_text(path, buffer.getvalue())
    return key


def key_of(path: Path) -> Path:
    """Where the key of the file to label at `path` lies."""
    return path.with_name(path.name + KEY)


def read_key(path: Path, labels: Sequence[str], gate: Sequence[str], unlabelled: Sequence[str]) -> Key:
    """The key of the labelled file at `path`. Raises `UserError` where it is missing or damaged, or belongs
    to other texts or labels."""
    place = key_of(path)
    with refusals(
        "the key of the labelled file cannot be read",
        place,
        "Keep it next to the file, as it was written",
    ):
        content = place.read_bytes()
    try:
        key = msgspec.json.decode(content, type=Key)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            "the key of the labelled file is damaged",
            seen=f"{place}: {error}",
            remedy="Restore it, or write the file again",
        ) from error
    for what, was, now in (
        ("other labels", key.labels, list(labels)),
        ("another gate", key.gate, _digest(gate)),
        ("other unlabelled texts", key.unlabelled, _digest(unlabelled)),
    ):
        if was != now:
            raise UserError(
                f"the labelled file was written for {what}",
                seen=path,
                remedy="Give the same --checkpoint and --texts as when it was written",
            )
    return key


def read_labels(path: Path, key: Key, gate: Sequence[str], unlabelled: Sequence[str]) -> np.ndarray:
    """The place of each row's label in the order of ids, int [rows].

    Raises `UserError` where a label is missing or unknown, an id is unknown, missing or there twice, or a
    text is not the one that was written; rows that are wrong are named by their lines.
    """
    found = np.full(len(key.rows), NO_LABEL)
    faults: list[str] = []
    unlabelled_lines: list[int] = []
    texts = {GATE_CHECK: gate, UNLABELLED: unlabelled}
    with refusals("the labelled file cannot be read", path, "Give the CSV file that was labelled"):
        file = path.open("rb")
    with file:
        layout = look(file, str(path), "csv", "label", Reading(escape=""))
        if absent := [name for name in COLUMNS if name not in layout.header]:
            raise UserError(
                f"the labelled file has no column {' and no column '.join(absent)}",
                seen=", ".join(layout.header) or "no header",
                remedy=f"Keep the columns {', '.join(COLUMNS)}",
            )
        columns = [layout.header.index(name) for name in COLUMNS]
        for record in records(file, layout):
            if record.fault or len(record.values) <= max(columns):
                faults.append(f"line {record.line}: {record.fault or 'too few cells'}")
                continue
            number, text, label = (record.values[column].strip() for column in columns)
            if fault := _fault(number, text, key, texts, found):
                faults.append(f"line {record.line}: {fault}")
            elif not label:
                unlabelled_lines.append(record.line)
            elif label not in key.labels:
                close = did_you_mean(label, key.labels).strip().replace("Did", "did")
                hint = f" ({close})" if close else ""
                faults.append(f"line {record.line}: unknown label {label!r}{hint}")
            else:
                found[int(number) - 1] = key.labels.index(label)
    _require_labelled(path, key, found, faults, unlabelled_lines)
    return found


def _require_labelled(
    path: Path, key: Key, found: np.ndarray, faults: Sequence[str], unlabelled_lines: Sequence[int]
) -> None:
    """Raises `UserError` unless every row is as it was written and has a label."""
    if faults:
        more = f"; and {len(faults) - MOST_TOLD} more" if len(faults) > MOST_TOLD else ""
        raise UserError(
            f"rows of the labelled file are wrong (labels: {', '.join(key.labels)})",
            seen=f"{path}: {'; '.join(faults[:MOST_TOLD])}{more}",
            remedy=REMEDY_ROWS,
        )
    if unlabelled_lines:
        raise UserError(
            "rows of the labelled file have no label",
            seen=f"{path}: {len(unlabelled_lines)}, the first on line {unlabelled_lines[0]}",
            remedy="Label every row: a verdict from the easy ones would be wrong",
        )
    if gone := np.flatnonzero(found == NO_LABEL).tolist():
        raise UserError(
            "rows of the labelled file are missing",
            seen=f"{path}: {len(gone)}, the first has the id {gone[0] + 1}",
            remedy="Put them back: a verdict without them would be wrong",
        )


def _fault(number: str, text: str, key: Key, texts: Mapping[str, Sequence[str]], found: np.ndarray) -> str:
    """What is wrong with a row's id and text; empty where nothing is."""
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= len(key.rows)):
        return f"unknown id {number!r}"
    if found[int(number) - 1] != NO_LABEL:
        return f"id {number} is there twice"
    row = key.rows[int(number) - 1]
    # A spreadsheet may write the line ends of a cell in its own way.
    if text.split() != texts[row.source][row.row].split():
        return f"the text is not that of id {number}"
    return ""


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


def count(labels: int, *places: np.ndarray) -> np.ndarray:
    """How many texts have each combination of labels, int [labels, …]."""
    counts = np.zeros((labels,) * len(places), np.int64)
    np.add.at(counts, places, 1)
    return counts


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


def _digest(texts: Sequence[str]) -> str:
    """sha256 of texts in their order."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return whole.hexdigest()
