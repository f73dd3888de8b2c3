"""Which texts may be in which split: the rules that keep figures honest.

`train` fits, `validation` decides about training, `gate` decides between variants, `test` is read for
published figures only. A text is in one split only, or a later figure would measure memory.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from handler.errors import UserError
from training.data.records import Leak
from training.data.texts import StoredTexts, join, pick

# Two texts are the same when they are equal without the white space at their ends. They are compared by
# 64-bit digests, so that memory stays at eight bytes a text: among ten million texts, two that differ would
# be taken for the same with a probability of 3 in a million.

SPLITS = ("train", "validation", "gate", "test")
# At most so many texts are carved. A gate of 2,000 is enough to see a macro-F1 drop of about a point; more
# would cost training data, and more for validation time.
MOST = {"validation": 5000, "gate": 2000, "test": 10_000}
# The shares of train that go to missing splits; of texts that a model from elsewhere was not trained on, most
# may judge it, since little more than the scales of int8 is fitted to train.
SHARE_OF_TRAIN = {"test": 0.2, "validation": 0.1, "gate": 0.2}
SHARE_OF_UNSEEN = {"test": 0.1, "validation": 0.2, "gate": 0.5}
GROUP_IN = "its group is in"
# The order in which splits keep a text that is in several. For a model that is trained here, train gives it
# up; a model that was trained elsewhere has seen it, so train keeps it.
TRAIN_LAST = ("test", "validation", "gate", "train")
TRAIN_FIRST = ("train", "gate", "test", "validation")
# The shares of a file that is not for training which go to missing splits: if one is missing, or several.
SHARE_OF_ONE = {"validation": 0.5, "gate": 0.8, "test": 0.5}
SHARE_OF_SEVERAL = {"validation": 0.2, "gate": 0.6, "test": 0.2}


@dataclass(frozen=True)
class Split:
    """Texts and what is known of them, row by row.

    `labels` are indices `[n]`, or 0 and 1 `[n, labels]` where labels are independent (multi-label): figures
    count these. `soft` are the probabilities float32 `[n, labels]` that they were decided from, where the set
    has them: training learns from these. `weights` float32 `[n]` say how much each text counts in the loss.
    `cases` names each text's functional class where known. Texts with the same number in `groups`, uint64
    `[n]`, came together (of one author, thread or template): None where nothing is known of that.
    """

    texts: Sequence[str]
    labels: np.ndarray
    cases: tuple[str, ...] = ()
    soft: np.ndarray | None = None
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    def take(self, rows: Sequence[int] | np.ndarray) -> "Split":
        """The given rows, in the given order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Split(
            pick(self.texts, rows),
            self.labels[rows],
            tuple(self.cases[row] for row in rows) if self.cases else (),
            None if self.soft is None else self.soft[rows],
            None if self.weights is None else self.weights[rows],
            None if self.groups is None else self.groups[rows],
        )

    def targets(self, labels: int) -> np.ndarray:
        """What training learns, float32 `[n, labels]`: the probabilities, or the labels as 0 and 1."""
        if self.soft is not None:
            return self.soft
        hard = self.labels if self.multi_label else self.labels[:, None] == np.arange(labels)
        return hard.astype(np.float32)


@dataclass(frozen=True)
class Prepared:
    """Splits after the rules; `dropped[split][reason]` counts rows.

    `leaks[split]` counts the texts of a split that train held too; `leaked[split]` are their rows.
    """

    splits: dict[str, Split]
    dropped: dict[str, dict[str, int]]
    leaks: dict[str, Leak]
    leaked: dict[str, np.ndarray] = field(default_factory=dict)


def prepare(
    raw: Mapping[str, Split],
    seed: int = 0,
    seen: Sequence[tuple[str, np.ndarray]] | None = None,
    shares: Mapping[str, float] = SHARE_OF_TRAIN,
    least_labels: int = 2,
) -> Prepared:
    """Apply the rules to the splits of a source, and carve those that it does not have: `shares` of train.

    Test is kept as published, except for empty texts. If a text is in several splits, the copy in test stays,
    else the one in validation, else the one in gate. If copies in train disagree on the label, all are
    dropped, since nothing says which is right; of copies that agree, one stays.

    `seen` is for a model that was trained elsewhere: what it has seen besides train, as named digests. Then
    the copy in train stays, and no other split is carved from train. Raises UserError where a split has no
    text, or texts of fewer than `least_labels` labels that exclude each other.

    A group stays in one split: if it is in several, its texts stay where a single text would.
    """
    dropped: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    stripped = {name: _without_empty(split, dropped[name]) for name, split in raw.items()}
    keys = {name: digests(split.texts) for name, split in stripped.items()}
    found = {
        name: _leak(stripped["train"], keys["train"], split, keys[name])
        for name, split in stripped.items()
        if name != "train"
    }
    splits, kept = _apart(stripped, keys, seen, dropped)
    leaked = {name: np.flatnonzero(shared[kept[name]]) for name, (_, shared) in found.items()}
    train_keys = keys["train"][kept["train"]]
    splits["train"] = splits["train"].take(_without_duplicates(splits["train"], train_keys, dropped["train"]))
    if seen is None:
        _carve_missing(splits, seed, shares)
    else:
        _share_out(splits, seed)
    _check_size(splits, least_labels)
    return Prepared(
        {name: splits[name] for name in SPLITS},
        {name: dict(+counts) for name, counts in dropped.items() if +counts},
        {name: leak for name, (leak, _) in found.items() if leak.texts},
        {name: rows for name, rows in leaked.items() if len(rows)},
    )


def _apart(
    stripped: Mapping[str, Split],
    keys: Mapping[str, np.ndarray],
    seen: Sequence[tuple[str, np.ndarray]] | None,
    dropped: Mapping[str, Counter[str]],
) -> tuple[dict[str, Split], dict[str, np.ndarray]]:
    """The splits without the texts and groups of those that come before them, and which rows that leaves."""
    splits: dict[str, Split] = {}
    kept: dict[str, np.ndarray] = {}
    earlier = list(seen or ())
    order = TRAIN_LAST if seen is None else TRAIN_FIRST
    for name in filter(stripped.__contains__, order):
        others = () if name == "train" and seen is not None else earlier
        rows = without(keys[name], others, dropped[name])
        rows = rows[_rows_apart(stripped[name].take(rows), splits, dropped[name])]
        splits[name] = stripped[name].take(rows)
        kept[name] = rows
        earlier.append((name, keys[name][rows]))
    return splits, kept


def _rows_apart(split: Split, earlier: Mapping[str, Split], dropped: Counter[str]) -> np.ndarray:
    """The rows whose groups are in no `earlier` split; the others are counted."""
    if split.groups is None:
        return np.arange(len(split))
    named = [(name, other.groups) for name, other in earlier.items() if other.groups is not None]
    return without(split.groups, named, dropped, GROUP_IN)


def _carve_missing(splits: dict[str, Split], seed: int, shares: Mapping[str, float]) -> None:
    total = len(splits["train"])
    for name, share in shares.items():
        if name not in splits:
            # Rounded down for the gate, as ever: another text would be another gate.
            count = min(MOST[name], int(total * share) if name == "gate" else round(total * share))
            splits["train"], splits[name] = carve(splits["train"], count, seed)


def _share_out(splits: dict[str, Split], seed: int) -> None:
    """Carve missing splits from files that are not for training: from test first, which is the least likely
    to have influenced the training."""
    missing = [name for name in ("gate", "validation", "test") if name not in splits]
    source = next(name for name in ("test", "validation", "gate") if name in splits)
    shares = SHARE_OF_ONE if len(missing) == 1 else SHARE_OF_SEVERAL
    total = len(splits[source])
    for name in missing:
        count = min(MOST[name], round(total * shares[name]))
        splits[source], splits[name] = carve(splits[source], count, seed)


def carve(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Split into (rest, carved): `count` texts, or about that many in whole groups, stratified by label,
    order kept.

    Systematic sampling over a shuffled order sorted by label, so that rare labels need no special case. Where
    labels are independent, every combination of them is a label here.
    """
    if split.groups is not None:
        carved = np.isin(split.groups, _chosen_groups(split, count, seed))
        return split.take(np.flatnonzero(~carved)), split.take(np.flatnonzero(carved))
    order = np.random.default_rng(seed).permutation(len(split))
    by_label = order[np.argsort(codes(split.labels)[order], kind="stable")]
    picked = by_label[((np.arange(count) + 0.5) * len(split) / max(count, 1)).astype(np.int64)]
    rest = np.setdiff1d(np.arange(len(split)), picked)
    return split.take(rest), split.take(np.sort(picked))


def _chosen_groups(split: Split, count: int, seed: int) -> np.ndarray:
    """Groups with about `count` texts, stratified by label. They are visited in a shuffled order sorted by
    the label of their first text; a group is taken if that brings the total closer to its target at that
    point."""
    assert split.groups is not None
    found, first, sizes = np.unique(split.groups, return_index=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(found))
    order = order[np.argsort(codes(split.labels)[first][order], kind="stable")]
    due = np.cumsum(sizes[order]) * count / max(len(split), 1)
    chosen, taken = [], 0
    for group, size, wanted in zip(order.tolist(), sizes[order].tolist(), due.tolist(), strict=True):
        if wanted - taken >= size / 2:
            chosen.append(group)
            taken += size
    return found[chosen]


def codes(labels: np.ndarray) -> np.ndarray:
    """One number `[n]` for each label, or for each combination of independent labels."""
    return labels if labels.ndim == 1 else np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)


def digests(texts: Sequence[str]) -> np.ndarray:
    """64 bits of BLAKE2 for each text, uint64 `[n]`."""
    found = (blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    # Not joined as bytes first: that would hold 50 bytes a text for a moment.
    return np.fromiter((int.from_bytes(digest, sys.byteorder) for digest in found), np.uint64, len(texts))


def own_groups(texts: Sequence[str]) -> np.ndarray:
    """Groups of one text each, of texts that are known to belong to none."""
    return digests([f"text {text.strip()}" for text in texts])


def without(
    keys: np.ndarray,
    earlier: Sequence[tuple[str, np.ndarray]],
    dropped: Counter[str],
    reason: str = "also in",
) -> np.ndarray:
    """The rows of the `keys` that are in none of the named `earlier` ones; the others are counted."""
    rows = np.arange(len(keys))
    for name, others in earlier:
        known = np.isin(keys[rows], others)
        dropped[f"{reason} {name}"] += int(known.sum())
        rows = rows[~known]
    return rows


def concatenate(parts: Sequence[Split], weights: Sequence[float]) -> Split:
    """Splits after each other, every text with the weight of its part."""
    soft = None
    if any(part.soft is not None for part in parts):
        count = next(part.soft.shape[1] for part in parts if part.soft is not None)
        soft = np.concatenate([part.targets(count) for part in parts])
    groups = None
    if any(part.groups is not None for part in parts):
        groups = np.concatenate(
            [own_groups(part.texts) if part.groups is None else part.groups for part in parts]
        )
    return Split(
        join([part.texts for part in parts]),
        np.concatenate([part.labels for part in parts]),
        soft=soft,
        groups=groups,
        weights=np.repeat(np.array(weights, np.float32), [len(part) for part in parts]),
    )


def _without_empty(split: Split, dropped: Counter[str]) -> Split:
    texts = split.texts
    if not isinstance(texts, StoredTexts):  # those were stripped when they were written
        texts = [text.strip() for text in texts]
    rows = np.flatnonzero(np.fromiter(map(bool, texts), bool, len(texts)))
    dropped["empty text"] += len(texts) - len(rows)
    return replace(split, texts=texts).take(rows)


def _without_duplicates(split: Split, keys: np.ndarray, dropped: Counter[str]) -> np.ndarray:
    """The rows of train that stay: the first of the copies that agree on the label."""
    _, first, place, copies = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    low, high = _label_range(codes(split.labels), place, len(first))
    disputed = low != high
    dropped["duplicate"] += int((copies[~disputed] - 1).sum())
    dropped["duplicates disagree on the label"] += int(copies[disputed].sum())
    return np.sort(first[~disputed])


def _leak(train: Split, train_keys: np.ndarray, split: Split, keys: np.ndarray) -> tuple[Leak, np.ndarray]:
    """How many, and which texts of `split` stand in `train` too, bool `[n]`."""
    ours, theirs = np.split(codes(np.concatenate([train.labels, split.labels])), [len(train)])
    if not len(train):
        return Leak(texts=0, other_label=0), np.zeros(len(keys), bool)
    known, place = np.unique(train_keys, return_inverse=True)
    low, high = _label_range(ours, place, len(known))
    where = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    shared = known[where] == keys
    same = (low[where] == theirs) & (high[where] == theirs)
    return Leak(texts=int(shared.sum()), other_label=int((shared & ~same).sum())), shared


def _label_range(labels: np.ndarray, place: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest label of each group of texts; `place` is each text's group."""
    low, high = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
    np.minimum.at(low, place, labels)
    np.maximum.at(high, place, labels)
    return low, high


def _check_size(splits: Mapping[str, Split], least_labels: int) -> None:
    for name in SPLITS:
        split = splits[name]
        short = not len(split) if split.multi_label else len(np.unique(split.labels)) < least_labels
        if short or (name == "train" and split.multi_label and _constant(split.labels)):
            raise UserError(
                f"The {name} split needs texts" + (" of at least two labels" if least_labels > 1 else ""),
                seen=f"{len(split)} usable texts",
                remedy="Give more texts, or check the text and label columns.",
            )


def _constant(labels: np.ndarray) -> bool:
    return bool((labels == labels[:1]).all())
