"""Which texts may stand in which split: the rules that keep a figure honest.

`train` fits, `validation` decides about training, `gate` decides between variants, `test` is read for
published figures only. A text stands in one split alone, or the later figure would measure memory.
Covers: empty texts, duplicates, leaks between splits, and carving the splits that a set does not bring.
Leaves out: reading files (`sources`) and fingerprints (`data`).

Two texts are the same when they are equal without the white space at their ends.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from handler.errors import UserError

SPLITS = ("train", "validation", "gate", "test")
GATE_TEXTS = 2000  # enough to see a macro-F1 drop of about a point; more would cost training data
GATE_SHARE = 0.2
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """Texts and their label indices `[n]`; `cases` names each text's functional class where known."""

    texts: list[str]
    labels: np.ndarray
    cases: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Split":
        """The given rows, in the given order."""
        cases = tuple(self.cases[row] for row in rows) if self.cases else ()
        return Split([self.texts[row] for row in rows], self.labels[np.asarray(rows, dtype=np.int64)], cases)


@dataclass(frozen=True)
class Prepared:
    """Splits after the rules; `dropped[split][reason]` counts rows.

    `leaks[split]` counts the texts of a split that train held too (`texts`), and how many of those bore
    a label there that differs from their own (`other_label`).
    """

    splits: dict[str, Split]
    dropped: dict[str, dict[str, int]]
    leaks: dict[str, dict[str, int]]


def prepare(raw: Mapping[str, Split], seed: int = 0) -> Prepared:
    """Apply the rules to the splits that a source brought, and carve those that it did not.

    Test is kept as published but for empty texts; of a text that stands in several splits the copy in
    test stays, then the one in validation, then in gate. In train all copies of a text whose copies
    disagree on the label are dropped, since nothing says which is right; of agreeing copies one stays.
    """
    dropped: dict[str, Counter] = {name: Counter() for name in SPLITS}
    stripped = {name: _without_empty(split, dropped[name]) for name, split in raw.items()}
    train = stripped["train"]
    leaks = {name: _leak(train, split) for name, split in stripped.items() if name != "train"}
    splits: dict[str, Split] = {}
    for name in ("test", "validation", "gate", "train"):
        if name in stripped:
            splits[name] = _without_leaks(stripped[name], splits, dropped[name])
    splits["train"] = _without_duplicates(splits["train"], dropped["train"])
    total = len(splits["train"])
    carved = {
        "test": round(total * TEST_SHARE),
        "validation": round(total * VALIDATION_SHARE),
        "gate": min(GATE_TEXTS, int(total * GATE_SHARE)),
    }
    for name, count in carved.items():
        if name not in splits:
            splits["train"], splits[name] = carve(splits["train"], count, seed)
    _check_size(splits)
    return Prepared(
        {name: splits[name] for name in SPLITS},
        {name: dict(counts) for name, counts in dropped.items() if counts},
        {name: leak for name, leak in leaks.items() if leak["texts"]},
    )


def carve(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Part a split into (rest, carved): `count` texts, every label in its share, order kept.

    Systematic sampling over a shuffled order sorted by label, so that rare labels need no special case.
    """
    order = np.random.default_rng(seed).permutation(len(split))
    by_label = order[np.argsort(split.labels[order], kind="stable")]
    picked = by_label[((np.arange(count) + 0.5) * len(split) / max(count, 1)).astype(np.int64)]
    rest = np.setdiff1d(np.arange(len(split)), picked)
    return split.take(rest), split.take(np.sort(picked))


def _without_empty(split: Split, dropped: Counter) -> Split:
    texts = [text.strip() for text in split.texts]
    rows = [row for row, text in enumerate(texts) if text]
    if len(rows) < len(texts):
        dropped["empty text"] += len(texts) - len(rows)
    return Split(texts, split.labels, split.cases).take(rows)


def _without_leaks(split: Split, earlier: Mapping[str, Split], dropped: Counter) -> Split:
    for name, other in earlier.items():
        held = set(other.texts)
        rows = [row for row, text in enumerate(split.texts) if text not in held]
        if len(rows) < len(split):
            dropped[f"also in {name}"] += len(split) - len(rows)
        split = split.take(rows)
    return split


def _without_duplicates(split: Split, dropped: Counter) -> Split:
    labels = _labels_of(split)
    seen: set[str] = set()
    rows = []
    for row, text in enumerate(split.texts):
        if len(labels[text]) > 1:
            dropped["duplicates disagree on the label"] += 1
        elif text in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(text)
            rows.append(row)
    return split.take(rows)


def _leak(train: Split, split: Split) -> dict[str, int]:
    labels = _labels_of(train)
    shared = [(text, label) for text, label in zip(split.texts, split.labels, strict=True) if text in labels]
    return {
        "texts": len(shared),
        "other_label": sum(labels[text] != {int(label)} for text, label in shared),
    }


def _labels_of(split: Split) -> dict[str, set[int]]:
    labels: dict[str, set[int]] = {}
    for text, label in zip(split.texts, split.labels, strict=True):
        labels.setdefault(text, set()).add(int(label))
    return labels


def _check_size(splits: Mapping[str, Split]) -> None:
    for name in SPLITS:
        if len(np.unique(splits[name].labels)) < 2:
            raise UserError(
                f"The {name} split needs texts of at least two labels",
                seen=f"{len(splits[name])} usable texts",
                remedy="Give more texts, or check the text and label columns.",
            )
