"""Tables as people have them: broken rows, probabilities, several labels, every format, large files."""

import json
import subprocess
import sys

import numpy as np
import pytest

from handler.errors import UserError
from tests.training.conftest import write_jsonl
from training import data
from training.data import sources
from training.data.sources import Columns
from training.data.texts import StoredTexts, TextWriter, join, pick

SIX = ("toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat")


def lines_of(count, start=0):
    return [f"text {row},{row % 2}" for row in range(start, start + count)]


def write(path, header, lines, encoding="utf-8"):
    path.write_bytes(b"".join(f"{line}\n".encode(encoding, "surrogateescape") for line in [header, *lines]))
    return path


def test_every_broken_row_is_counted_by_reason_named_by_line_and_costs_no_other(tmp_path):
    broken = [
        '"one text',  # 42: a row of two lines, which is whole
        'over ""two"" lines",1',
        "too,many,cells",  # 44
        "too few",
        " ,1",  # 46
        "no label,",
        "text,label",  # 48: the header once more
        "caf\udce9,1",
        '"a quote that never closes,1',  # 50
    ]
    file = write(tmp_path / "some.csv", "text,label", [*lines_of(40), *broken, *lines_of(40, 40)])
    dataset = data.load(f"csv:{file}")
    reasons = {
        "wrong number of columns": (2, [44, 45]),
        "empty text": (1, [46]),
        "no label": (1, [47]),
        "unknown label": (1, [48]),
        "not valid UTF-8": (1, [49]),
        "unclosed quote": (1, [50]),
    }
    assert dataset.dropped["train"] == {reason: count for reason, (count, _) in reasons.items()}
    assert dataset.lines["train"] == {reason: lines for reason, (_, lines) in reasons.items()}
    texts = [text for split in dataset.splits.values() for text in split.texts]
    assert len(texts) == 81
    assert 'one text\nover "two" lines' in texts


def test_the_first_five_lines_of_a_reason_are_named(tmp_path):
    file = write(tmp_path / "some.csv", "text,label", [*["no label,"] * 9, *lines_of(60)])
    dataset = data.load(f"csv:{file}")
    assert dataset.dropped["train"]["no label"] == 9
    assert dataset.lines["train"]["no label"] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_lines_are_counted_whatever_ends_them(tmp_path, end):
    file = tmp_path / "some.csv"
    file.write_bytes(end.join(["text,label", "", '"a', 'b",1', "x", *lines_of(60)]).encode())
    assert data.load(f"csv:{file}").lines["train"] == {"wrong number of columns": [5]}


def test_a_stray_quote_within_a_row_is_part_of_its_text(tmp_path):
    rows = ['5" screen,1', '"he said "hi" there",0', *lines_of(60)]
    dataset = data.load(f"csv:{write(tmp_path / 'some.csv', 'text,label', rows)}")
    assert not dataset.dropped
    assert any(text == '5" screen' for split in dataset.splits.values() for text in split.texts)


def test_a_json_line_that_is_broken_costs_itself_alone(tmp_path):
    good = [json.dumps({"text": f"text {row}", "label": row % 2}) for row in range(60)]
    bad = ["{", "[1]", '{"label": 1}', '{"text": "\\ud800", "label": 1}', '{"text": "x", "label": [1]}']
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join([*bad, "", *good]))
    assert data.load(f"jsonl:{file}").lines["train"] == {
        "not JSON": [1],
        "not a JSON object": [2],
        "no text": [3],
        "not valid UTF-8": [4],
        "unknown label": [5],
    }


def test_a_file_of_another_encoding_is_read_by_its_name_and_row_by_row_without_it(tmp_path, capsys):
    rows = [f"café {row},{row % 2}" if row < 9 else f"tea {row},{row % 2}" for row in range(90)]
    file = write(tmp_path / "some.csv", "text,label", rows, "cp1252")
    assert data.load(f"csv:{file}").dropped["train"] == {"not valid UTF-8": 9}
    assert "--encoding" in capsys.readouterr().err
    dataset = data.load(f"csv:{file}", columns=Columns(encoding="cp1252"))
    assert not dataset.dropped
    assert sum(text.startswith("café") for split in dataset.splits.values() for text in split.texts) == 9
    with pytest.raises(UserError, match="Unknown encoding: klingon"):
        data.load(f"csv:{file}", columns=Columns(encoding="klingon"))


def test_one_column_of_probabilities_gives_soft_targets_and_that_is_said(tmp_path, capsys):
    rows = [f"text {row},{row / 100}" for row in range(100)]
    file = write(tmp_path / "some.csv", "text,toxicity", [*rows, "x,1.5", "y,unsure", "z,-1"])
    dataset = data.load(f"csv:{file}", columns=Columns(label="toxicity"))
    assert "'toxicity' holds probabilities" in capsys.readouterr().err
    assert dataset.labels == ("not-hate", "hate")
    assert dataset.task == "single-label"
    for split in dataset.splits.values():
        np.testing.assert_allclose(split.soft.sum(axis=1), 1)
        np.testing.assert_array_equal(split.labels, split.soft[:, 1] >= 0.5)
    assert dataset.lines["train"] == {"unknown label": [103], "a probability outside 0 to 1": [102, 104]}
    assert sum(len(split) for split in dataset.splits.values()) == 100


def test_ids_0_and_1_and_ratings_are_no_probabilities(tmp_path):
    hard = write(tmp_path / "hard.csv", "text,label", [f"text {row},{row % 2}.0" for row in range(60)])
    assert data.load(f"csv:{hard}").splits["train"].soft is None
    stars = write(tmp_path / "stars.csv", "text,label", [f"text {row},{row % 6 / 2}" for row in range(90)])
    assert len(data.load(f"csv:{stars}").labels) == 6


def jigsaw(folder, value):
    folder.mkdir()
    for name, count in {"train": 80, "validation": 20, "test": 20}.items():
        rows = [
            f"{name} {row}," + ",".join(str(value(row, place)) for place in range(6)) for row in range(count)
        ]
        write(folder / f"{name}.csv", "text," + ",".join(SIX), [*rows, "x,0,0,0,0,0,2", "y,0,0,,0,0,0"])
    return folder


@pytest.mark.parametrize("soft", [True, False], ids=["probabilities", "0 and 1"])
def test_six_toxicity_columns_are_independent_labels(tmp_path, soft):
    value = (lambda row, place: ((row + place) % 5) / 4) if soft else (lambda row, place: (row + place) % 2)
    folder = jigsaw(tmp_path / "jigsaw", value)
    dataset = data.load(f"csv:{folder}", columns=Columns(label=",".join(SIX)))
    assert dataset.labels == SIX
    assert dataset.task == "multi-label"
    split = dataset.splits["test"]
    assert split.labels.shape == (20, 6)
    assert (split.soft is not None) == soft
    assert dataset.lines["test"] == {"a probability outside 0 to 1": [22], "no label": [23]}


def test_label_names_for_label_columns_must_be_as_many(tmp_path):
    folder = jigsaw(tmp_path / "jigsaw", lambda row, place: row % 2)
    with pytest.raises(UserError, match="2 names for 6 columns"):
        data.load(f"csv:{folder}", columns=Columns(label=",".join(SIX), labels=("a", "b")))


def test_a_table_names_its_own_columns_and_is_loaded_the_same_again(tmp_path):
    first = write(tmp_path / "a.csv", "text,label", lines_of(90))
    second = write(
        tmp_path / "b.csv",
        "Content,Label",
        [f"other {row},{row % 2}" for row in range(90)] + ["Content,Label"],
    )
    dataset = data.load(f"csv:{first}+csv:{second}?text=Content&label=Label*0.5")
    other = f"csv:{second}?text=Content&label=Label"
    assert list(dataset.others) == [other]
    assert [(part.spec, part.weight) for part in dataset.parts] == [(f"csv:{first}", 1), (other, 0.5)]
    assert dataset.dropped == {f"train of {other}": {"unknown label": 1}}
    assert dataset.lines == {f"train of {other}": {"unknown label": [92]}}
    assert data.load(dataset.spec).sha256 == dataset.sha256


def test_settings_of_a_table_that_are_unknown_are_answered_with_those_there_are(tmp_path):
    file = write(tmp_path / "a.csv", "text,label", lines_of(60))
    with pytest.raises(UserError, match=r"Unknown setting of .*: lable.*Did you mean label\?"):
        data.load(f"csv:{file}?lable=x")
    odd = write(tmp_path / "a.csv?label=x", "text,label", lines_of(60))
    assert data.load(f"csv:{odd}").spec == f"csv:{odd}"


@pytest.mark.parametrize("kind", ["plain", "dictionary"])
def test_parquet_is_read_like_csv(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    labels = pyarrow.array([*["hate", "not-hate"] * 40, None, "hate"])
    table = pyarrow.table(
        {
            "text": [*[f"text {row}" for row in range(80)], "x", None],
            "label": labels.dictionary_encode() if kind == "dictionary" else labels,
            "unused": range(82),
        }
    )
    parquet.write_table(table, tmp_path / "some.parquet")
    dataset = data.load(f"parquet:{tmp_path}/some.parquet")
    assert dataset.labels == ("not-hate", "hate")
    assert dataset.lines["train"] == {"no label": [81], "no text": [82]}
    with pytest.raises(UserError, match=r"no column 'body': text, label, unused.*--text-column"):
        data.load(f"parquet:{tmp_path}/some.parquet", columns=Columns("body"))
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="is not Parquet"):
        data.load(f"parquet:{tmp_path}/broken.parquet")


@pytest.mark.parametrize("saved", [True, False], ids=["saved to disk", "parquet files"])
def test_a_hugging_face_data_set_in_a_folder_keeps_its_splits_and_class_names(tmp_path, saved, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    classes = datasets.ClassLabel(names=["neutral", "angry", "glad"])
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    folder = tmp_path / "set"
    folder.mkdir()
    found = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {
                    "text": [f"{name} {row}" for row in range(count)],
                    "label": [-1, *[row % 3 for row in range(count - 1)]],
                },
                features=features,
            )
            for name, count in {"train": 91, "validation": 31, "test": 31}.items()
        }
    )
    if saved:
        found.save_to_disk(str(folder))
    else:
        for name, split in found.items():
            split.to_parquet(str(folder / f"{name}.parquet"))
    dataset = data.load(f"hub:{folder}")
    assert dataset.labels == ("neutral", "angry", "glad")
    assert len(dataset.splits["test"]) == 30
    assert dataset.lines["test"] == {"no label": [1]}
    assert data.load(dataset.spec).sha256 == dataset.sha256


def test_a_data_set_that_cannot_be_reached_is_answered_with_a_sentence():
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match=r"'nobody/nothing' .*hub:PATH"):
        data.load("hub:nobody/nothing")


def test_hub_takes_a_name_and_a_configuration():
    assert sources.parse("hub:owner/name:config*0.5")[0] == sources.Part("hub", "owner/name:config", 0.5)
    with pytest.raises(UserError, match="Write it as hub:NAME"):
        sources.parse("hub")


def test_small_tables_need_neither_pyarrow_nor_datasets(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": f"text {row}", "label": row % 2} for row in range(60)])
    script = (
        "import sys; sys.modules['pyarrow'] = sys.modules['datasets'] = None\n"
        f"from training import data; print(len(data.load('jsonl:{file}').splits['train']))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "30"


def test_many_texts_are_read_from_a_file_in_any_order_as_they_were_written():
    pytest.importorskip("pyarrow")
    writer, given = TextWriter(in_memory=100), [f"text {row} é\n" for row in range(25_000)]
    for text in given:
        writer.append(text)
    texts = writer.finish()
    assert isinstance(texts, StoredTexts)
    assert list(texts) == given
    rows = np.random.default_rng(0).integers(0, 25_000, 30_000)
    assert list(pick(texts, rows)) == [given[row] for row in rows]
    assert texts[7:9][1] == given[8]
    assert list(join([texts[:3], ["more"]])) == [*given[:3], "more"]


def test_a_table_reads_the_same_from_a_file_as_from_memory(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    file = write(tmp_path / "a.csv", "text,label", [*lines_of(500), "x,label"])
    first = data.load(f"csv:{file}")
    monkeypatch.setattr(TextWriter.__init__, "__defaults__", (50,))
    stored = data.load(f"csv:{file}")
    assert isinstance(stored.splits["train"].texts, StoredTexts)
    assert stored.sha256 == first.sha256
    assert stored.dropped == first.dropped == {"train": {"unknown label": 1}}
