"""Label only the flips: the file that a person labels has ids, texts and nothing that tells what a classifier
said. That is in the key, which is kept apart and read with the labels.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.names import REFERENCE
from benchmarks.sameness.parity import decided
from common.atomic import write_json, write_text
from common.records import Count
from handler.artifact import Artifact
from handler.errors import UserError, refusals
from handler.predictor import Predictor

SCHEMA = 1
COLUMNS = ("id", "text", "label")
KEY = ".key.json"  # after the name of the file to label
GATE_CHECK = "gate"  # where a text of the file comes from
UNLABELLED = "unlabelled"


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


def _digest(texts: Sequence[str]) -> str:
    """sha256 of texts in their order."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return whole.hexdigest()
