import json

import pytest

from handler.errors import UserError
from training.__main__ import main
from training.data.describe import length_tokenizer, token_lengths
from training.recipe import Recipe


def write(path, rows):
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


def described(capsys, *argv):
    assert main(["data", *map(str, argv)]) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def test_splits_labels_lengths_and_dropped_rows_are_reported_to_people_and_machines(tmp_path, capsys):
    rows = [f"some words {row},{row % 2}" for row in range(100)]
    file = write(tmp_path / "a.csv", [*rows, "no label,", rows[0]])
    report, page = described(capsys, "--data", f"csv:{file}")
    assert {name: split["texts"] for name, split in report["splits"].items()} == {
        "train": 50,
        "validation": 10,
        "gate": 20,
        "test": 20,
    }
    assert report["splits"]["test"]["labels"] == {"not-hate": 10, "hate": 10}
    assert report["splits"]["test"]["tokens"]["p50"] == 5  # with [CLS] and [SEP]
    assert report["dropped"]["train"] == {
        "no label": {"rows": 1, "lines": [102]},
        "duplicate": {"rows": 1, "lines": []},
    }
    assert "dropped from train: 1 no label (line 102)" in page
    assert "some words" not in page


def test_parts_of_joined_sets_have_weights_and_their_held_out_splits(tmp_path, capsys):
    first = write(tmp_path / "a.csv", [f"some {row},{row % 2}" for row in range(100)])
    second = write(tmp_path / "b.csv", [f"other {row},{row % 2}" for row in range(100)])
    report, page = described(capsys, "--data", f"csv:{first}+csv:{second}*0.5")
    assert [(part["weight"], part["texts"]) for part in report["parts"]] == [(1, 50), (0.5, 70)]
    assert report["others"][f"csv:{second}"]["test"]["texts"] == 20
    assert "train is joined from" in page


def test_leaks_and_copies_are_shown(tmp_path, capsys):
    for name, rows in {
        "train": [f"some {row},{row % 2}" for row in range(60)],
        "validation": [f"validation {row},{row % 2}" for row in range(10)],
        "test": [
            "some 1,0",
            "some 2,0",
            "twice,1",
            "twice,1",
            *[f"test {row},{row % 2}" for row in range(10)],
        ],
    }.items():
        write(tmp_path / f"{name}.csv", rows)
    report, page = described(capsys, "--data", f"csv:{tmp_path}")
    assert report["leaks"] == {"test": {"texts": 2, "other_label": 1}}
    assert report["splits"]["test"]["copies"] == 1
    assert "leaks: 2 texts of test were also in train, 1 of them" in page


def test_the_yaml_of_a_training_describes_its_data(tmp_path, capsys):
    file = write(tmp_path / "a.csv", [f"some words {row},{row % 2}" for row in range(100)])
    config = tmp_path / "a.yaml"
    config.write_text(f"data: csv:{file}\nmax_length: 4\nepochs: 2\n")
    report, _ = described(capsys, "--config", config)
    assert report["max_length"] == 4
    assert report["splits"]["train"]["tokens"]["over_max_length"] == 1


def test_the_length_is_that_of_training_where_none_is_given(tmp_path, capsys):
    report, _ = described(capsys, "--base", "random:tiny")
    assert report["max_length"] == Recipe.max_length


def test_lengths_are_those_of_the_tokenizer_beyond_one_window():
    tokenizer = length_tokenizer("minilm")
    texts = ["word " * (row % 300) for row in range(2500)]
    lengths = sorted(len(tokenizer.encode(text)) for text in texts)
    found = token_lengths(texts, tokenizer, 128, "texts")
    assert found.mean == round(sum(lengths) / 2500, 2)
    assert found.p50 == lengths[1249]
    assert found.p99 == lengths[2474]
    assert found.max == lengths[-1] == 301
    assert found.over_max_length == sum(length > 128 for length in lengths) / 2500


def test_a_base_that_cannot_be_loaded_is_answered_before_the_data_is_read(tmp_path):
    with pytest.raises(UserError, match="no tokenizer that can be read"):
        main(["data", "--base", str(tmp_path), "--data", "csv:/no/such/file.csv"])
