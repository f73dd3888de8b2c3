"""The data of a run: labelled texts in four splits, with a fingerprint that later stages check.

Covers: loading what a spec names (`tweeteval`, `csv:PATH`, `tweeteval+davidson:binary*0.5`), joining sets,
and fingerprints. Leaves out: each set's own format (`public`, `tables`) and the rules (`splits`).

    sources   the registry and the grammar of a spec      texts    few in memory, many on disk
    public    sets that others published, pinned          splits   what may stand where
    tables    files with columns of your own              pinned   download, or find, and check the sums
    rows      their formats, row by row                   demo     the embedded synthetic corpus
    labels    what their label columns mean               positive which label is looked for
    label_names  how they are written                     describe `python -m training data`
    unlabelled   texts without labels, for `--unlabelled`
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.records import Task
from handler.errors import UserError
from training.data import (  # noqa: F401 - public and tables register their sources
    public,
    sources,
    splits,
    tables,
)
from training.data.positive import Positive, positive
from training.data.records import KEPT_APART, STATED, UNKNOWN, Leak, Part, Unseen
from training.data.sources import Columns, Raw
from training.data.splits import SPLITS, Prepared, Split, prepare

__all__ = ["SPLITS", "Columns", "Dataset", "Split", "load"]
FEW_TEXTS = 10  # of a label: fewer teach next to nothing
HELD_OUT = ("validation", "test")  # of a joined set

Dropped = defaultdict[str, Counter[str]]
"""Rows left out, by split and reason."""


@dataclass(frozen=True)
class Dataset:
    """Splits `train`, `validation`, `gate` and `test`, and all that is needed to load them again.

    `dropped[split][reason]` counts rows left out, and `lines` names the first of those of a file;
    `leaks[split]` counts the texts of a split that train held too, before they were dropped there, and
    `leaked[split]` are their rows. `others[set][split]` are the parts of joined sets that are kept out of the
    training; `parts` are all sets with what each gives to it. `sha256` covers labels, task and the texts of
    all splits. `published` are the splits that the first set brought: the others were carved from its train.
    `positive` is the label that is looked for. `unseen` is of a model that was trained elsewhere, else None.
    """

    spec: str
    data_dir: Path
    columns: Columns
    seed: int
    labels: tuple[str, ...]
    task: Task
    splits: dict[str, Split]
    dropped: dict[str, dict[str, int]]
    leaks: dict[str, Leak]
    split_sha256: dict[str, str]
    sha256: str
    others: dict[str, dict[str, Split]] = field(default_factory=dict)
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    positive: Positive = field(default_factory=lambda: Positive(None, "none"))
    published: tuple[str, ...] = ()
    leaked: dict[str, np.ndarray] = field(default_factory=dict)
    unseen: Unseen | None = None

    @property
    def calibration(self) -> Split:
        """The split whose texts set the scales of int8: train, unless the model may have been trained on it
        and there are other texts."""
        return self.splits["validation" if self.unseen == KEPT_APART else "train"]

    @property
    def multi_label(self) -> bool:
        return self.task == "multi-label"

    def unleaked(self, split: str) -> np.ndarray | None:
        """Rows of the split that train did not hold too; None where that is all of them, or none."""
        texts = len(self.splits[split])
        leaked = self.leaked.get(split, ())
        return np.setdiff1d(np.arange(texts), leaked) if 0 < len(leaked) < texts else None

    def warnings(self) -> list[str]:
        """Sentences on labels for which train has no texts, or hardly any."""
        counts = self.counts()
        found = []
        for label in self.labels:
            taught = counts["train"][label]
            if taught < FEW_TEXTS:
                where = ", ".join(f"{counts[name][label]:,} in {name}" for name in SPLITS[1:])
                few = (
                    f"has {taught} training texts" if taught else "has no training text, so it is not learnt"
                )
                found.append(f"WARNING: the label {label!r} {few} ({where})")
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """Texts of each label in each split."""
        return {name: count(split, self.labels) for name, split in self.splits.items()}


def count(split: Split, labels: tuple[str, ...]) -> dict[str, int]:
    """Texts of each label."""
    held = split.labels if split.multi_label else split.labels[:, None] == np.arange(len(labels))
    return {label: int(number) for label, number in zip(labels, held.sum(axis=0), strict=True)}


def load(
    spec: str,
    data_dir: str | Path = "data",
    seed: int = 0,
    columns: Columns | None = None,
    elsewhere: bool = False,
    unseen: bool = False,
) -> Dataset:
    """Read, clean and split the data that `spec` names; `seed` decides how splits are carved, not the
    training.

    If several sets are joined by `+`, the model is for the first: its validation, gate and test splits decide
    and judge. The others add training texts; their own validation and test parts are held out, so that
    figures on them are honest too.

    For a model that was trained `elsewhere`, gate, validation and test are never carved from train if there
    is another file. `unseen` states that it was not trained on any of the data.

    Raises UserError if the spec is unknown, a file is missing or not what it should be, or the labels of
    joined sets differ.
    """
    columns = columns or Columns()
    folder = Path(data_dir).expanduser().absolute()
    parts, raws = _read(spec, folder, seed, columns)
    why = _why_unseen(raws[0], unseen) if elsewhere else None
    prepared = _prepared(parts, raws, seed, why)
    dropped: Dropped = defaultdict(Counter)
    _count(dropped, "", raws[0].dropped, prepared[0].dropped)
    joined = dict(prepared[0].splits)
    others: dict[str, dict[str, Split]] = {}
    shares = [len(joined["train"])]
    if len(parts) > 1:
        joined["train"], others, shares = _join(parts, raws, prepared, dropped)
    task: Task = "multi-label" if joined["train"].multi_label else "single-label"
    split_sha256 = _fingerprints(joined)
    held_out = {name: _fingerprints(own) for name, own in others.items()}
    identity = (task, raws[0].labels, split_sha256, *([held_out] if held_out else []))
    return Dataset(
        spec="+".join(map(str, parts)),
        data_dir=folder,
        columns=columns,
        seed=seed,
        labels=raws[0].labels,
        task=task,
        splits=joined,
        dropped={split: dict(+reasons) for split, reasons in dropped.items() if +reasons},
        leaks=prepared[0].leaks,
        split_sha256=split_sha256,
        sha256=hashlib.sha256(repr(identity).encode()).hexdigest(),
        others=others,
        lines=_lines(parts, raws),
        parts=tuple(
            Part(spec=part.spec, weight=part.weight, texts=n) for part, n in zip(parts, shares, strict=True)
        ),
        positive=_positive(columns.positive_label, raws),
        leaked=prepared[0].leaked,
        published=tuple(raws[0].splits),
        unseen=why,
    )


def _read(spec: str, folder: Path, seed: int, columns: Columns) -> tuple[list[sources.Part], list[Raw]]:
    """The sets that a spec joins, and what each holds; a table of gate texts is the first one's."""
    parts = []
    raws: list[Raw] = []
    for part in sources.parse(spec):
        own = replace(columns, gate="") if raws else columns
        raw = sources.SOURCES[part.name].read(sources.Request(part.argument, folder, own, seed))
        raws.append(raw)
        parts.append(sources.Part(part.name, raw.argument, part.weight))
    _check_train(parts, raws)
    _check_labels(parts, raws)
    return parts, raws


def _prepared(parts: list[sources.Part], raws: list[Raw], seed: int, why: Unseen | None) -> list[Prepared]:
    """The splits of each set after the rules."""
    seen = _seen(parts, raws) if why == KEPT_APART else None
    carved = splits.SHARE_OF_UNSEEN if why == STATED else splits.SHARE_OF_TRAIN
    first = prepare(raws[0].splits, seed, seen, carved)
    # What a joined set lacks of the labels, the first has: it may be one of negatives alone.
    return [first, *(prepare(raw.splits, seed, least_labels=1) for raw in raws[1:])]


def _why_unseen(raw: Raw, stated: bool) -> Unseen:
    """Why a model that was trained elsewhere is taken not to have seen the texts that it is judged on."""
    if stated:
        return STATED
    return KEPT_APART if raw.made_up or set(raw.splits) - {"train"} else UNKNOWN


def _seen(parts: list[sources.Part], raws: list[Raw]) -> list[tuple[str, np.ndarray]] | None:
    """What a model that was trained elsewhere may have seen besides the first set's train; None where that
    was made up, so that it has seen nothing."""
    if raws[0].made_up and set(raws[0].splits) == {"train"}:
        return None
    return [
        (f"train of {part.spec}", splits.digests(raw.splits["train"].texts))
        for part, raw in zip(parts[1:], raws[1:], strict=True)
    ]


def _positive(asked: str, raws: list[Raw]) -> Positive:
    """The positive label, for all sets or for one of them named, or guessed."""
    labels = raws[0].labels
    multi_label = raws[0].splits["train"].multi_label
    given = dict.fromkeys(name for raw in raws if (name := raw.positive_label or asked))
    found = [positive(labels, name, multi_label) for name in given] or [positive(labels, "", multi_label)]
    if len(set(found)) > 1:
        raise UserError(
            "Joined sets must have the same positive label",
            seen=" and ".join(str(chosen.label) for chosen in found),
            remedy="Give the same positive label for all of them.",
        )
    return found[0]


def _join(
    parts: list[sources.Part], raws: list[Raw], prepared: list[Prepared], dropped: Dropped
) -> tuple[Split, dict[str, dict[str, Split]], list[int]]:
    """The training texts of all sets, each text once; what is held out of the sets after the first; and how
    many training texts each set gives."""
    known = [
        (f"{name} of {parts[0].spec}", splits.digests(split.texts))
        for name, split in prepared[0].splits.items()
    ]
    groups = [
        (f"{name} of {parts[0].spec}", split.groups)
        for name, split in prepared[0].splits.items()
        if split.groups is not None
    ]
    training = [prepared[0].splits["train"]]
    others: dict[str, dict[str, Split]] = {}
    for part, raw, ready in zip(parts[1:], raws[1:], prepared[1:], strict=True):
        name = _unused(part.spec, others)
        own = {split: ready.splits[split] for split in HELD_OUT}
        own["train"] = splits.concatenate([ready.splits["train"], ready.splits["gate"]], [1, 1])
        _count(dropped, f" of {name}", raw.dropped, ready.dropped)
        for split, texts in own.items():
            where = f"{split} of {name}"
            keys = splits.digests(texts.texts)
            rows = splits.without(keys, known, dropped[where])
            if texts.groups is not None:
                apart = [(other, held) for other, held in groups if other != f"train of {parts[0].spec}"]
                rows = rows[splits.without(texts.groups[rows], apart, dropped[where], splits.GROUP_IN)]
            own[split] = texts.take(rows)
            known.append((where, keys))
            if (numbers := own[split].groups) is not None and split != "train":
                groups.append((where, numbers))
        training.append(own.pop("train"))
        others[name] = own
    whole = splits.concatenate(training, [part.weight for part in parts])
    return whole, others, [len(split) for split in training]


def _unused(name: str, taken: Mapping[str, object]) -> str:
    return name if name not in taken else f"{name} ({len(taken) + 1})"


def _check_train(parts: list[sources.Part], raws: list[Raw]) -> None:
    for part, raw in zip(parts, raws, strict=True):
        if "train" not in raw.splits:
            raise UserError(
                f"Nothing can be trained on {part.spec}: it has no train split",
                seen=", ".join(raw.splits),
                remedy=f"Use its texts without their labels: python -m export build --unlabelled {part.spec}",
            )


def _check_labels(parts: list[sources.Part], raws: list[Raw]) -> None:
    first = raws[0]
    for part, raw in zip(parts, raws, strict=True):
        differs = raw.splits["train"].multi_label != first.splits["train"].multi_label
        if raw.labels != first.labels or differs:
            raise UserError(
                f"{part.spec} cannot be joined with {parts[0].spec}: they have different labels",
                seen=f"{', '.join(raw.labels)} and {', '.join(first.labels)}",
                remedy="Join sets with the same labels (davidson:binary has those of tweeteval), or name "
                "your table's labels with --labels.",
            )


def _count(dropped: Dropped, of: str, *more: Mapping[str, Mapping[str, int]]) -> None:
    for counts in more:
        for split, reasons in counts.items():
            dropped[f"{split}{of}"].update(reasons)


def _lines(parts: list[sources.Part], raws: list[Raw]) -> dict[str, dict[str, list[int]]]:
    return {
        (split if place == 0 else f"{split} of {part.spec}"): reasons
        for place, (part, raw) in enumerate(zip(parts, raws, strict=True))
        for split, reasons in raw.lines.items()
        if reasons
    }


def _fingerprints(found: Mapping[str, Split]) -> dict[str, str]:
    return {name: fingerprint(split) for name, split in found.items()}


def fingerprint(split: Split) -> str:
    """The sha256 of a split's labels, texts, and probabilities and weights where it has them."""
    digest = hashlib.sha256(np.ascontiguousarray(split.labels, dtype="<i8").tobytes())
    for text in split.texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)  # so that no two lists read the same
    if split.groups is not None:
        digest.update(np.ascontiguousarray(split.groups, dtype="<u8").tobytes())
    for values in (split.soft, split.weights):
        if values is not None:
            digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return digest.hexdigest()
