import numpy as np
import pytest

from handler.errors import UserError
from training.data.records import Leak
from training.data.splits import SPLITS, Split, carve, prepare


def split(*rows):
    return Split([text for text, _ in rows], np.array([label for _, label in rows], dtype=np.int64))


def filler(name, count):
    return [(f"{name} {number}", number % 2) for number in range(count)]


def test_a_text_of_train_that_stands_in_test_or_validation_is_dropped_counted_and_its_label_compared():
    train = split(*filler("train", 40), ("same label", 1), ("other label ", 1), ("in validation", 0))
    prepared = prepare(
        {
            "train": train,
            "validation": split(*filler("validation", 4), ("in validation", 0)),
            "test": split(*filler("test", 4), ("same label", 1), (" other label", 0)),
        }
    )
    assert prepared.dropped == {"train": {"also in test": 2, "also in validation": 1}}
    assert prepared.leaks == {
        "validation": Leak(texts=1, other_label=0),
        "test": Leak(texts=2, other_label=1),
    }
    assert len(prepared.splits["test"]) == 6
    leaked = {name: rows.tolist() for name, rows in prepared.leaked.items()}
    assert leaked == {"validation": [4], "test": [4, 5]}


def test_the_rows_that_leaked_are_those_of_the_split_as_it_is_kept():
    given = {
        "train": split(*filler("train", 40), ("everywhere", 1), ("in validation", 0)),
        "validation": split(("everywhere", 1), ("", 0), *filler("validation", 4), ("in validation", 0)),
        "test": split(*filler("test", 4), ("everywhere", 1)),
    }
    prepared = prepare(given)
    for name, rows in (("validation", [4]), ("test", [4])):
        assert prepared.leaked[name].tolist() == rows
    assert prepared.splits["validation"].texts[4] == "in validation"


def test_duplicates_leave_one_copy_and_none_where_their_labels_disagree():
    rows = [*filler("train", 40), ("twice", 1), ("twice ", 1), ("disputed", 0), ("disputed", 1)]
    prepared = prepare({"train": split(*rows)})
    assert prepared.dropped["train"] == {"duplicate": 1, "duplicates disagree on the label": 2}
    kept = [text for part in prepared.splits.values() for text in part.texts]
    assert kept.count("twice") == 1
    assert "disputed" not in kept


def test_empty_texts_are_dropped_from_every_split():
    prepared = prepare(
        {
            "train": split(*filler("train", 40), (" \t", 1)),
            "validation": split(*filler("validation", 4), ("", 0)),
            "test": split(*filler("test", 4), ("\n", 0)),
        }
    )
    assert prepared.dropped == {name: {"empty text": 1} for name in ("train", "validation", "test")}


def test_one_table_is_parted_into_four_splits_that_share_no_text_and_lose_none():
    prepared = prepare({"train": split(*filler("train", 1000))})
    assert {name: len(part) for name, part in prepared.splits.items()} == {
        "train": 500,
        "validation": 100,
        "gate": 200,
        "test": 200,
    }
    assert list(prepared.splits) == list(SPLITS)
    texts = [text for part in prepared.splits.values() for text in part.texts]
    assert sorted(texts) == sorted(text for text, _ in filler("train", 1000))


def test_the_gate_takes_a_fifth_of_train_and_no_more_than_2000_texts():
    given = {"validation": split(*filler("validation", 4)), "test": split(*filler("test", 4))}
    assert len(prepare({"train": split(*filler("train", 500)), **given}).splits["gate"]) == 100
    assert len(prepare({"train": split(*filler("train", 12_000)), **given}).splits["gate"]) == 2000


def test_a_gate_that_the_source_brings_is_kept():
    gate = split(*filler("gate", 7))
    assert prepare({"train": split(*filler("train", 100)), "gate": gate}).splits["gate"].texts == gate.texts


def test_carving_keeps_the_share_of_each_label_and_follows_the_seed():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    whole = Split([f"text {row}" for row in range(1000)], labels)
    rest, carved = carve(whole, 100, seed=3)
    assert np.bincount(carved.labels).tolist() == [70, 20, 10]
    assert np.bincount(rest.labels).tolist() == [630, 180, 90]
    assert carve(whole, 100, seed=3)[1].texts == carved.texts
    assert carve(whole, 100, seed=4)[1].texts != carved.texts


def test_too_few_texts_are_refused_with_a_sentence():
    with pytest.raises(UserError, match="split needs texts of at least two labels"):
        prepare({"train": split(("one", 0), ("two", 1))})
