"""Texts that came together: a group stays in one split, and its number goes with its texts."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training import data
from training.data import Columns, Dataset
from training.data.splits import SPLITS, Split, carve, concatenate, prepare

ROWS = [
    (f"text {row}", ("calm", "heated")[row % 2], f"author {row * row % 97}" if row % 5 else "")
    for row in range(900)
]


def as_csv(place: Path) -> str:
    with (place / "all.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "author"])
        writer.writerows(ROWS)
    return f"csv:{place}/all.csv"


def as_jsonl(place: Path) -> str:
    rows = [dict(zip(("text", "label", "author"), row, strict=True)) for row in ROWS]
    for row in rows:
        row["author"] = row["author"] or None
    (place / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"jsonl:{place}/all.jsonl"


@pytest.fixture(params=[as_csv, as_jsonl])
def grouped(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    write: Callable[[Path], str] = request.param
    return data.load(write(tmp_path), columns=Columns(group="author"))


def test_a_group_stays_in_one_split_and_no_text_is_lost(grouped: Dataset) -> None:
    author = {text: name or text for text, _, name in ROWS}
    held = {name: {author[text] for text in split.texts} for name, split in grouped.splits.items()}
    assert sum(len(split) for split in grouped.splits.values()) == len(ROWS)
    assert sum(map(len, held.values())) == len(set.union(*held.values())), "none straddles"
    for split in grouped.splits.values():
        groups, names = split.groups, [author[text] for text in split.texts]
        assert groups is not None
        assert (
            len(set(groups.tolist())) == len(set(names)) == len(set(zip(groups.tolist(), names, strict=True)))
        )


def test_splits_have_about_the_sizes_and_shares_that_they_have_without_groups(grouped: Dataset) -> None:
    counts = grouped.counts()
    for name, size in (("test", 180), ("validation", 90), ("gate", 180)):
        assert abs(len(grouped.splits[name]) - size) < 20
        assert abs(counts[name]["heated"] / len(grouped.splits[name]) - 0.5) < 0.15


def test_the_fingerprint_knows_the_groups(grouped: Dataset) -> None:
    plain = data.load(grouped.spec)
    assert plain.splits["gate"].groups is None
    assert plain.sha256 != grouped.sha256


def test_of_a_group_in_several_files_the_texts_stay_where_a_text_would() -> None:
    def split(name: str, groups: list[int]) -> Split:
        rows = range(len(groups))
        labels = np.array([row % 2 for row in rows])
        return Split([f"{name} {row}" for row in rows], labels, groups=np.array(groups, np.uint64))

    given = {"train": split("train", list(range(100))), "test": split("test", [98, 99, *range(200, 240)])}
    ours, theirs = prepare(given), prepare(given, seen=[])
    assert ours.dropped == {"train": {"its group is in test": 2}}
    assert theirs.dropped == {"test": {"its group is in train": 2}}


@pytest.mark.parametrize("size", [1, 3, 7])
def test_whole_groups_are_carved_in_their_share(size: int) -> None:
    labels = np.repeat(np.arange(300) % 3, size)
    whole = Split([str(row) for row in range(len(labels))], labels, groups=np.repeat(np.arange(300), size))
    rest, carved = carve(whole, len(whole) // 5, 0)
    assert len(rest) + len(carved) == len(whole)
    assert abs(len(carved) - len(whole) // 5) <= size
    assert np.ptp(np.bincount(carved.labels)) <= 2 * size


def test_texts_without_a_group_are_groups_of_their_own() -> None:
    plain = Split(["a", "b"], np.array([0, 1]))
    joined = concatenate(
        [plain, Split(["c", "d"], np.array([0, 1]), groups=np.array([5, 5], np.uint64))], [1, 1]
    )
    assert joined.groups is not None
    assert len(set(joined.groups.tolist())) == 3
    assert list(SPLITS) == ["train", "validation", "gate", "test"]
