import os
from pathlib import Path

import numpy as np
import pytest

from handler.errors import UserError
from tests.training.conftest import write_jsonl
from training import data
from training.data import public
from training.data.records import Leak
from training.data.sources import Columns

DATA_DIR = Path(os.environ.get("DATA_DIR") or "data")
HAS_TWEETEVAL = (DATA_DIR / "tweeteval" / "hate").is_dir()


def rows(count, labels=("not-hate", "hate")):
    return [{"text": f"text {row}", "label": labels[row % len(labels)]} for row in range(count)]


def write_csv(path, header, lines):
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_demo_brings_its_four_splits_and_functional_classes():
    dataset = data.load("demo")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 4000,
        "validation": 600,
        "gate": 1500,
        "test": 600,
    }
    assert dataset.labels == ("not-hate", "hate")
    assert not dataset.dropped
    assert len(dataset.splits["test"].cases) == 600


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("twteval", "Did you mean tweeteval?"),
        ("nothing-like-it", "Known: demo, tweeteval, vicomtech"),
        ("csv", "Write it as csv:PATH"),
        ("demo:more", "Write it as demo"),
        ("csv:/no/such/file.csv", "Check the path"),
    ],
)
def test_a_wrong_spec_is_answered_with_what_to_write(spec, remedy):
    with pytest.raises(UserError) as error:
        data.load(spec)
    assert remedy in str(error.value)


def test_a_csv_file_is_split_by_seed_and_read_the_same_again(tmp_path):
    lines = [f'"text, {row}",{row % 2}' for row in range(200)]
    file = write_csv(tmp_path / "some.csv", "text,label", lines)
    dataset = data.load(f"csv:{file}")
    assert dataset.labels == ("not-hate", "hate")
    assert data.load(f"csv:{file}").sha256 == dataset.sha256
    assert data.load(f"csv:{file}", seed=1).split_sha256 != dataset.split_sha256


def test_a_relative_path_is_recorded_independently_of_the_working_folder(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "some.jsonl", rows(60))
    monkeypatch.chdir(tmp_path)
    assert data.load("jsonl:some.jsonl").spec == f"jsonl:{tmp_path}/some.jsonl"


def test_named_columns_and_label_order_are_followed(tmp_path):
    lines = [f"{'offensive' if row % 2 else 'ok'},text {row}" for row in range(100)]
    file = write_csv(tmp_path / "some.csv", "verdict,Content", [*lines, "unsure,text"])
    columns = Columns("Content", "verdict", ("ok", "offensive"))
    dataset = data.load(f"csv:{file}", columns=columns)
    assert dataset.labels == ("ok", "offensive")
    assert dataset.dropped == {"train": {"label not asked for": 1}}


def test_a_missing_column_is_answered_with_the_columns_there_are(tmp_path):
    file = write_csv(tmp_path / "some.csv", "Content,Label", ["text,0"])
    with pytest.raises(UserError, match=r"no column 'text': Content, Label\. .*--text-column"):
        data.load(f"csv:{file}")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("1", "0"), ("not-hate", "hate")),
        (("hate", "noHate"), ("not-hate", "hate")),
        (("10", "2", "1"), ("1", "2", "10")),
        (("neutral", "angry"), ("angry", "neutral")),
    ],
)
def test_labels_are_named_and_ordered_by_rule(tmp_path, given, expected):
    file = write_jsonl(tmp_path / "some.jsonl", rows(90, given))
    assert data.load(f"jsonl:{file}").labels == expected


def test_rows_without_text_or_label_are_dropped_and_counted(tmp_path):
    broken = [{"text": None, "label": "hate"}, {"text": "x", "label": None}, {"text": " ", "label": "hate"}]
    file = write_jsonl(tmp_path / "some.jsonl", [*rows(60), *broken])
    assert data.load(f"jsonl:{file}").dropped == {"train": {"no text": 1, "no label": 1, "empty text": 1}}


def test_a_folder_of_files_keeps_its_splits(tmp_path):
    for name, count in {"train": 100, "dev": 10, "test": 20}.items():
        write_jsonl(
            tmp_path / f"{name}.jsonl", [{**row, "text": f"{name} {row['text']}"} for row in rows(count)]
        )
    dataset = data.load(f"jsonl:{tmp_path}")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 80,
        "validation": 10,
        "gate": 20,
        "test": 20,
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"text": \n' * 2, r"Over half of the 2 rows .*: 2 not JSON \(line 1, 2\)"),
        (b"[1, 2]\n", r"1 not a JSON object \(line 1\)\. Write one object per line"),
        (b'{"text": "\xff", "label": "hate"}\n', r"1 not valid UTF-8 \(line 1\)"),
        (b'{"text": "x", "label": "hate"}\n', "between 2 and 30 different labels"),
    ],
    ids=["broken JSON", "no object", "not UTF-8", "one label"],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_with_lines_and_without_its_text(
    tmp_path, content, sentence
):
    file = tmp_path / "some.jsonl"
    file.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as error:
        data.load(f"jsonl:{file}")
    assert "hate" not in str(error.value).replace('"label": "hate"', "")


@pytest.mark.parametrize("kind", ["several labels", "texts"])
def test_a_column_of_several_labels_at_once_is_told_apart_from_one_of_texts(tmp_path, kind):
    names = [f"label {number}" for number in range(9)]
    values = {
        "several labels": [f"{first}|{second}" for first in names for second in names if first < second],
        "texts": [f"words{row}, and more words{row}" for row in range(36)],
    }[kind]
    file = tmp_path / "some.csv"
    file.write_text("text,label\n" + "".join(f't{row},"{value}"\n' for row, value in enumerate(values)))
    with pytest.raises(UserError, match="between 2 and 30 different labels") as error:
        data.load(f"csv:{file}")
    assert ("--label-column first,second" in str(error.value)) == (kind == "several labels")
    assert "words" not in str(error.value)


def test_one_changed_text_or_label_changes_the_fingerprint(tmp_path):
    given = rows(60)
    first = data.load(f"jsonl:{write_jsonl(tmp_path / 'a.jsonl', given)}")
    given[7]["text"] += "!"
    second = data.load(f"jsonl:{write_jsonl(tmp_path / 'a.jsonl', given)}")
    assert first.sha256 != second.sha256
    assert sum(first.split_sha256[name] != second.split_sha256[name] for name in first.splits) == 1


def test_tweeteval_lines_end_at_newlines_only(tmp_path):
    for stem in ("train", "val", "test"):
        (tmp_path / f"{stem}_text.txt").write_text("one\u2028line\x0bstill\x85it\nsecond\n", encoding="utf-8")
        (tmp_path / f"{stem}_labels.txt").write_text("1\n0\n")
    raw = public.tweeteval_from(tmp_path)
    assert raw.splits["test"].texts == ["one\u2028line\x0bstill\x85it", "second"]
    assert raw.splits["test"].labels.tolist() == [1, 0]


def test_tweeteval_files_that_do_not_belong_together_are_refused(tmp_path):
    (tmp_path / "train_text.txt").write_text("one\ntwo\n")
    (tmp_path / "train_labels.txt").write_text("1\n")
    with pytest.raises(UserError, match="2 texts, 1 labels"):
        public.tweeteval_from(tmp_path)


@pytest.mark.skipif(not HAS_TWEETEVAL, reason="DATA_DIR holds no tweeteval/hate")
def test_tweeteval_has_its_published_counts_and_its_leaks_are_dropped():
    dataset = data.load("tweeteval", DATA_DIR)
    counts = {name: np.bincount(split.labels).tolist() for name, split in dataset.splits.items()}
    assert counts["validation"] == [572, 427]
    assert counts["test"] == [1718, 1252]
    assert len(dataset.splits["gate"]) == (len(dataset.splits["train"]) + len(dataset.splits["gate"])) // 5
    assert dataset.leaks["test"] == Leak(texts=233, other_label=91)
    assert dataset.dropped["train"]["also in test"] == 232  # one of the 233 stands in test twice
    assert (
        len(dataset.splits["train"]) + len(dataset.splits["gate"]) + sum(dataset.dropped["train"].values())
        == 9000
    )
    train = set(dataset.splits["train"].texts)
    assert not any(train & set(dataset.splits[name].texts) for name in ("validation", "gate", "test"))
