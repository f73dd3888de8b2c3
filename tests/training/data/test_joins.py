"""Several sets as one: the first is what the model is for, the others teach."""

import json
from pathlib import Path

import numpy as np
import pytest

from handler.errors import UserError
from training import data
from training.data import sources
from training.data.sources import Part


def write(path: Path, name: str, count: int, shared: tuple[str, ...] = ()) -> str:
    texts = [f"{name} {number}" for number in range(count)] + list(shared)
    rows = [{"text": text, "label": ("not-hate", "hate")[row % 2]} for row, text in enumerate(texts)]
    file = path / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{file}"


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("tweeteval", [Part("tweeteval", "")]),
        ("tweeteval+davidson:binary*0.5", [Part("tweeteval", ""), Part("davidson", "binary", 0.5)]),
        ("csv:/a+b/c.csv*2+demo", [Part("csv", "/a+b/c.csv", 2.0), Part("demo", "")]),
        ("jsonl:x+demonstration.jsonl", [Part("jsonl", "x+demonstration.jsonl")]),
        ("csv:2*3.csv", [Part("csv", "2*3.csv")]),
    ],
)
def test_a_spec_is_parted_at_the_names_of_sources_alone(spec: str, parts: list[Part]) -> None:
    assert sources.parse(spec) == parts
    assert "+".join(map(str, parts)) == spec


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("tweeteval+davidsn", "Unknown data: 'tweeteval\\+davidsn'"),
        ("davidson:threefold", r"davidson\[:binary\]"),
        ("tweeteval*0", "A set with weight 0 has no effect"),
        ("demo+davidson:binary+", "The name of the data is not valid"),
    ],
)
def test_a_wrong_part_is_named(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        sources.parse(spec)


def test_the_first_set_decides_and_the_others_add_training_texts_with_their_weight(tmp_path: Path) -> None:
    first, second = write(tmp_path, "first", 200), write(tmp_path, "second", 100)
    alone, joined = data.load(first), data.load(f"{first}+{second}*0.25")
    for name in ("validation", "gate", "test"):
        assert joined.split_sha256[name] == alone.split_sha256[name]
    train = joined.splits["train"]
    assert len(train) == len(alone.splits["train"]) + 70, "70 % of the second: its gate is for training"
    assert train.weights.tolist() == [1.0] * len(alone.splits["train"]) + [0.25] * 70
    assert {name: len(split) for name, split in joined.others[second].items()} == {
        "validation": 10,
        "test": 20,
    }
    assert not set(train.texts) & set(joined.others[second]["test"].texts)
    assert data.load(joined.spec).sha256 == joined.sha256
    assert data.load(f"{first}+{second}*0.5").sha256 != joined.sha256


def test_a_text_that_two_sets_share_stays_with_the_first_and_is_counted(tmp_path: Path) -> None:
    first = write(tmp_path, "first", 200)
    shared = tuple(data.load(first).splits["test"].texts[:3]) + tuple(
        data.load(first).splits["train"].texts[:2]
    )
    joined = data.load(f"{first}+{write(tmp_path, 'second', 100, shared)}")
    everywhere = [text for split in joined.splits.values() for text in split.texts]
    everywhere += [text for own in joined.others.values() for split in own.values() for text in split.texts]
    assert len(everywhere) == len(set(everywhere)) == 300
    counted = [reasons for split, reasons in joined.dropped.items() if " of jsonl:" in split]
    assert sum(sum(reasons.values()) for reasons in counted) == 5


def test_probabilities_of_one_set_join_the_labels_of_another(tmp_path: Path) -> None:
    hard = data.Split(["a", "b"], np.array([0, 1]))
    soft = data.Split(["c"], np.array([1]), soft=np.array([[0.4, 0.6]], np.float32))
    both = data.splits.concatenate([hard, soft], [1, 0.5])
    assert both.soft == pytest.approx(np.array([[1, 0], [0, 1], [0.4, 0.6]]))
    assert both.weights.tolist() == [1, 1, 0.5]


def test_sets_of_other_labels_are_not_joined(tmp_path: Path) -> None:
    file = tmp_path / "moods.jsonl"
    file.write_text(
        "".join(
            json.dumps({"text": f"t {row}", "label": ("calm", "heated")[row % 2]}) + "\n" for row in range(50)
        )
    )
    with pytest.raises(UserError, match="different labels: calm, heated and not-hate, hate"):
        data.load(f"demo+jsonl:{file}")


@pytest.mark.parametrize("weight", ["0.3333333", "0.00001", "1000000"])
def test_a_weight_is_written_so_that_it_is_read_again(tmp_path: Path, weight: str) -> None:
    first, second = write(tmp_path, "first", 60), write(tmp_path, "second", 60)
    joined = data.load(f"{first}+{second}*{weight}")
    assert data.load(joined.spec).sha256 == joined.sha256


def test_a_train_file_without_rows_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n")
    (tmp_path / "test.csv").write_text("text,label\na,0\nb,1\n")
    with pytest.raises(UserError, match="The train split needs texts of at least two labels"):
        data.load(f"csv:{tmp_path}")
