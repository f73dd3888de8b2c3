"""Labels as tables have them: words for nothing, numbers in two forms, spellings, rows without labels."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from handler.errors import UserError
from training import data
from training.data import Columns
from training.data.label_names import key, natural, number

ROWS = 240


def write(path: Path, labels: Sequence[str], rows: int = ROWS) -> Path:
    """A CSV whose texts have the labels in turn."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((f"{path.stem} {row}", labels[row % len(labels)]) for row in range(rows))
    return path


def folder_of(folder: Path, splits: Mapping[str, Sequence[str]]) -> str:
    for split, labels in splits.items():
        write(folder / f"{split}.csv", labels)
    return f"csv:{folder}"


def texts_of(dataset: data.Dataset) -> int:
    return sum(len(split) for split in dataset.splits.values())


@pytest.mark.parametrize(
    "word",
    ["nan", "NaN", "NULL", "null", "N/A", "n/a", "NA", "<NA>", "#N/A", " ", "None", "none", "-NaN", "NaT"],
)
@pytest.mark.parametrize("labels", [("0", "1"), ("not-hate", "hate"), ("2", "3", "4")], ids=", ".join)
def test_a_word_for_nothing_is_no_label(word: str, labels: tuple[str, ...], tmp_path: Path, capsys) -> None:
    dataset = data.load(f"csv:{write(tmp_path / 'some.csv', [*labels, word])}")
    assert len(dataset.labels) == len(labels)
    missing = ROWS // (len(labels) + 1)
    assert dataset.dropped["train"] == {"no label": missing}
    assert texts_of(dataset) == ROWS - missing
    if word.strip():
        assert f"holds {word!r} {missing} times, which is read as no label" in capsys.readouterr().err


@pytest.mark.parametrize(
    "labels",
    [
        ("hate", "none"),
        ("Hate", "None"),
        ("racism", "sexism", "none"),
        ("HATE", "NONE", "OFFN", "PRFN"),
        ("Hate", "None", "Offensive"),
    ],
    ids=", ".join,
)
def test_none_is_a_class_where_it_is_written_like_the_others(labels: tuple[str, ...], tmp_path: Path) -> None:
    dataset = data.load(f"csv:{write(tmp_path / 'some.csv', labels)}")
    assert set(dataset.labels) == set(labels)
    assert not dataset.dropped


@pytest.mark.parametrize(
    "labels", [("racism", "sexism"), ("hate", "normal"), ("True", "False")], ids=", ".join
)
def test_pythons_none_among_words_is_no_label(labels: tuple[str, ...], tmp_path: Path) -> None:
    dataset = data.load(f"csv:{write(tmp_path / 'some.csv', [*labels, 'None'])}")
    assert len(dataset.labels) == 2
    assert dataset.dropped["train"] == {"no label": ROWS // 3}


def test_a_word_for_nothing_is_a_label_where_it_is_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "some.csv", ["NA", "EU"])
    dataset = data.load(f"csv:{file}", columns=Columns(labels=("EU", "NA")))
    assert dataset.labels == ("EU", "NA")
    assert not dataset.dropped


def test_a_table_that_is_labelled_in_part_is_read_in_part(tmp_path: Path) -> None:
    dataset = data.load(f"csv:{write(tmp_path / 'some.csv', ['0', '', '1', '', 'nan'])}")
    assert dataset.dropped["train"] == {"no label": ROWS * 3 // 5}
    assert texts_of(dataset) == ROWS * 2 // 5


def test_numbers_in_two_forms_are_one_label(tmp_path: Path, capsys) -> None:
    spec = folder_of(tmp_path / "set", {"train": ["0", "1", "2"], "test": ["0.0", "1.0", "2.0"]})
    dataset = data.load(spec)
    assert dataset.labels == ("0", "1", "2")
    assert dataset.counts()["test"] == {"0": 80, "1": 80, "2": 80}
    assert "'2' and '2.0' are '2'" in capsys.readouterr().err


def test_numbers_and_truth_values_of_json_are_the_labels_that_tables_have(tmp_path: Path) -> None:
    for name, values in {"numbers": [0, 1.0, 2, "2.0"], "truth": [True, "false", "TRUE", False]}.items():
        file = tmp_path / f"{name}.jsonl"
        rows = [{"text": f"{name} {row}", "label": values[row % 4]} for row in range(ROWS)]
        file.write_text("\n".join(map(json.dumps, rows)))
    assert data.load(f"jsonl:{tmp_path / 'truth.jsonl'}").labels == ("not-hate", "hate")
    dataset = data.load(f"jsonl:{tmp_path / 'numbers.jsonl'}")
    assert sorted(map(float, dataset.labels)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2", "2.0", True),
        ("2", "+2", True),
        ("10", "1e1", True),
        ("-1", "-1.00", True),
        ("1", "01", False),  # a code
        ("1.0", "1.5", False),
        ("Hate", "HATE", True),
        ("hate speech", "Hate  Speech\u00a0", True),
        ("ｈate", "hate", True),
        ("cafe\u0301", "café", True),
        ("not-hate", "not hate", False),
        ("1_0", "10", False),
        ("nan", "inf", False),
    ],
)
def test_which_spellings_are_one_label(first: str, second: str, same: bool) -> None:
    assert (key(first) == key(second)) is same


def test_spellings_of_a_label_are_one_and_that_is_said(tmp_path: Path, capsys) -> None:
    dataset = data.load(f"csv:{write(tmp_path / 'some.csv', ['Angry', 'calm', 'angry ', 'ANGRY', 'Angry'])}")
    assert dataset.labels == ("Angry", "calm")
    assert "'ANGRY' and 'Angry' and 'angry' are 'Angry'" in capsys.readouterr().err


def test_labels_that_look_alike_are_kept_apart_with_a_warning(tmp_path: Path, capsys) -> None:
    dataset = data.load(f"csv:{write(tmp_path / 'some.csv', ['01', '1', 'very_bad', 'very bad'])}")
    assert len(dataset.labels) == 4
    said = capsys.readouterr().err
    assert "WARNING: '01' and '1' are read as different labels" in said
    assert "WARNING: 'very bad' and 'very_bad' are read as different labels" in said


def test_labels_asked_for_are_found_in_other_spellings(tmp_path: Path) -> None:
    file = write(tmp_path / "some.csv", ["0.0", "1.0", "2.0", "9"])
    dataset = data.load(f"csv:{file}", columns=Columns(labels=("2", "1", "0")))
    assert dataset.labels == ("2", "1", "0")
    assert dataset.dropped["train"] == {"label not asked for": 60}


def test_a_row_of_minus_one_in_test_alone_was_not_judged(tmp_path: Path) -> None:
    spec = folder_of(tmp_path / "set", {"train": ["0", "1"], "test": ["-1", "0", "-1", "1", "-1"]})
    dataset = data.load(spec)
    assert dataset.labels == ("not-hate", "hate")
    assert dataset.dropped["test"] == {"not judged (-1)": 144}
    assert len(dataset.splits["test"]) == 96


def test_a_class_called_minus_one_is_one(tmp_path: Path) -> None:
    dataset = data.load(f"csv:{write(tmp_path / 'some.csv', ['-1', '0', '1'])}")
    assert dataset.labels == ("-1", "0", "1")


def test_a_test_file_without_labels_is_left_out_and_that_is_said(tmp_path: Path, capsys) -> None:
    dataset = data.load(folder_of(tmp_path / "set", {"train": ["0", "1"], "test": ["-1.0"]}))
    assert "no row has a label; test is carved from train instead" in capsys.readouterr().err
    assert set(dataset.splits["test"].texts) < {f"train {row}" for row in range(ROWS)}


def test_independent_labels_without_a_judgement_cost_their_rows_alone(tmp_path: Path) -> None:
    names = ("toxic", "insult", "threat")
    folder = tmp_path / "jigsaw"
    folder.mkdir()
    for split in ("train", "test"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", *names])
            for row in range(ROWS):
                judged = [row % 2, "yes" if row % 3 else "no", f"{row % 5 // 4}.0"]
                if split == "test" and row % 5 < 3:
                    judged = [-1, -1, -1] if row % 2 else [0, "-1.0", 1]
                writer.writerow([f"{split} {row}", *judged])
    dataset = data.load(f"csv:{folder}", columns=Columns(label=",".join(names)))
    assert dataset.dropped == {"test": {"not judged (-1)": 144}}
    assert len(dataset.splits["test"]) == 96
    assert set(np.unique(dataset.splits["test"].labels)) == {0, 1}
    assert dataset.splits["test"].soft is None


def test_probabilities_among_rows_without_a_judgement(tmp_path: Path) -> None:
    spec = folder_of(
        tmp_path / "set", {"train": ["0.0", "0.25", "0.8", "1.0"], "test": ["-1", "0.1", "-1", "0.9"]}
    )
    dataset = data.load(spec)
    assert dataset.dropped["test"] == {"not judged (-1)": 120}
    assert dataset.splits["test"].labels.mean() == 0.5


def test_a_column_of_no_more_than_one_label_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 different values"):
        data.load(f"csv:{write(tmp_path / 'some.csv', ['HATE', 'hate', 'nan'])}")


def test_numbers_sort_as_numbers_and_so_do_those_in_names(tmp_path: Path) -> None:
    assert [number(name) for name in ("1e1", "-1", "2.0", "007", "x", "1_0")] == [10, -1, 2, None, None, None]
    assert sorted(["LABEL_10", "LABEL_2", "LABEL_1"], key=natural) == ["LABEL_1", "LABEL_2", "LABEL_10"]
    for values, order in {
        ("10.0", "2.0", "1.5", "-1.0", "0.0"): ("-1.0", "0.0", "1.5", "2.0", "10.0"),
        ("1e1", "9", "+8", "-7"): ("-7", "+8", "9", "1e1"),
        ("class 10", "class 9", "class 1"): ("class 1", "class 9", "class 10"),
        ("2", "10", "other"): ("2", "10", "other"),
    }.items():
        assert data.load(f"csv:{write(tmp_path / 'some.csv', values)}").labels == order
