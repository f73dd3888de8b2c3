"""Which of the data's labels stands on which output is said in a table, and never guessed silently."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from export.adoption.adopt import adopt
from export.adoption.assignment import CERTAIN, CONVENTION, GUESS, assign, fit, require_known, table
from handler.errors import UserError
from tests.conftest import ran, refused, run_stage
from tests.tiny import edit_json, make_classifier
from training.checkpoint import load_data
from training.data.sources import Columns


def numbered(count: int) -> list[str]:
    return [f"LABEL_{index}" for index in range(count)]


def write(path: Path, values: Sequence[str], rows: int = 600) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(
            [f"number {row} of {row % 7} words", values[row % len(values)]] for row in range(rows)
        )
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([f"{index}.0" for index in range(12)], [float(index) for index in range(12)]),
        ([str(index) for index in range(12)], [float(index) for index in range(12)]),
        (["-1", "0", "1"], [-1, 0, 1]),
        (["1", "2", "3", "4", "5"], [1, 2, 3, 4, 5]),
        (["10", "9", "-2"], [-2, 9, 10]),
    ],
    ids=["decimals", "whole numbers", "below 0", "stars", "any"],
)
def test_numbers_stand_on_the_outputs_as_numbers(
    values: list[str], expected: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_classifier(tmp_path / "theirs", labels=numbered(len(values)))
    checkpoint = adopt(str(place), tmp_path / "ours", f"csv:{write(tmp_path / 'data.csv', values)}")
    assert [float(label) for label in checkpoint.labels] == expected
    said = capsys.readouterr().err
    assert "labels are assigned to the outputs by number: accuracy 0." in said
    assert "LABEL_2" in said
    assert load_data(checkpoint).labels == checkpoint.labels
    assert checkpoint.meta.adoption.labels["own"] == numbered(len(values))


def test_names_of_the_data_on_numbered_outputs_are_asked_for(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", labels=numbered(3))
    data = write(tmp_path / "data.csv", ["glad", "sad", "angry"])
    arguments = ("--checkpoint", place, "--data", f"csv:{data}", "--artifacts", tmp_path / "b" / "a")
    done = run_stage("export", "build", "fp32", *arguments)
    assert done.returncode == 2
    assert "the model's names do not tell which label each output stands for" in done.stderr
    assert "the best fit is --labels " in done.stderr
    for word in ("LABEL_0", "texts with the label", "in the order of the data's names, a guess"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b").exists()
    done = ran("export", "build", "fp32", *arguments, "--labels", "sad,glad,angry")
    assert "labels are assigned to the outputs as --labels says: accuracy" in done.stderr
    meta = json.loads((tmp_path / "b" / "a" / "fp32" / "artifact.json").read_text())
    assert meta["labels"] == ["sad", "glad", "angry"]
    assert meta["adoption"]["labels"]["accuracy"] <= 1


def test_equal_names_are_matched_in_whatever_order_the_data_has_them(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", labels=["Sad", "GLAD", "angry"])
    data = write(tmp_path / "data.csv", ["glad", "sad", "angry"])
    checkpoint = adopt(str(place), tmp_path / "ours", f"csv:{data}")
    assert checkpoint.labels == ("sad", "glad", "angry")
    dataset = load_data(checkpoint)
    split = dataset.splits["train"]
    for text, label in zip(split.texts, split.labels, strict=True):
        assert dataset.labels[label] == ["glad", "sad", "angry"][int(text.split()[1]) % 3]


def test_labels_without_data_name_the_outputs(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", labels=numbered(2))
    named = Columns(labels=("calm", "heated"))
    assert adopt(str(place), tmp_path / "ours", columns=named).labels == ("calm", "heated")
    with pytest.raises(
        UserError, match="--labels does not name each output of the model: 3 names, 2 outputs"
    ):
        adopt(str(place), tmp_path / "again", columns=Columns(labels=("a", "b", "c")))
    with pytest.raises(UserError, match="--labels gives one name to several outputs: a"):
        adopt(str(place), tmp_path / "again", columns=Columns(labels=("a", "a")))
    with pytest.raises(
        UserError, match="--labels names other labels than the data has: calm, heated; not-hate"
    ):
        adopt(str(place), tmp_path / "again", "demo", columns=named)


def test_a_model_that_does_not_say_whether_labels_exclude_each_other_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_classifier(tmp_path / "theirs", labels=["gold", "salt"])
    independent(tmp_path / "data.csv")
    arguments = (
        "--checkpoint",
        place,
        "--data",
        f"csv:{tmp_path / 'data.csv'}",
        "--label-column",
        "gold,salt",
    )
    artifacts = ("--artifacts", tmp_path / "b" / "a")
    said = refused("export", "build", "fp32", *arguments, *artifacts)
    assert "does not say whether its labels exclude each other, and in the data they do not" in said
    assert "Give --task multi-label" in said
    ran("export", "build", "fp32", *arguments, *artifacts, "--task", "multi-label")
    meta = json.loads((tmp_path / "b" / "a" / "fp32" / "artifact.json").read_text())
    assert meta["task"] == "multi-label"
    capsys.readouterr()
    assert not adopt(str(place), tmp_path / "ours").multi_label
    assert "does not say whether labels exclude each other; they are assumed to" in capsys.readouterr().err
    edit_json(place / "config.json", problem_type="single_label_classification")
    with pytest.raises(UserError, match="--task contradicts the model's configuration"):
        adopt(str(place), tmp_path / "again", task="multi-label")


@pytest.mark.parametrize(
    ("own", "given", "expected", "trust"),
    [
        (("hate", "none"), ("none", "hate"), ("hate", "none"), CERTAIN),
        (("Not Hate", "HATE"), ("not-hate", "hate"), ("not-hate", "hate"), CERTAIN),
        (("LABEL_1", "LABEL_0"), ("0", "1"), ("1", "0"), CONVENTION),
        (("1", "0"), ("0.0", "1.0"), ("1.0", "0.0"), CERTAIN),
        (("LABEL_0", "LABEL_1"), ("not-hate", "hate"), ("not-hate", "hate"), CONVENTION),
        (("LABEL_0", "LABEL_1"), ("HOF", "NOT"), ("HOF", "NOT"), GUESS),
        (("negative", "neutral", "positive"), ("-1", "0", "1"), ("-1", "0", "1"), GUESS),
        (("LABEL_1", "LABEL_2"), ("1", "2"), ("1", "2"), GUESS),
    ],
    ids=str,
)
def test_how_sure_an_assignment_is(
    own: tuple[str, ...], given: tuple[str, ...], expected: tuple[str, ...], trust: str
) -> None:
    assigned = assign(own, given, ())
    assert (assigned.names, assigned.trust) == (expected, trust)


def test_labels_that_contradict_the_models_own_names_are_refused() -> None:
    with pytest.raises(UserError, match="--labels contradicts the model's own names"):
        assign(("glad", "sad"), ("sad", "glad"), ("sad", "glad"))


def test_an_order_that_fits_far_better_is_seen_and_named() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 300)
    logits = np.eye(3)[[2, 0, 1]][truth] + 0.3 * generator.standard_normal((300, 3))  # 0 on output 2 ...
    found = fit(assign(("0", "1", "2"), ("0", "1", "2"), ()), logits, truth, ("0", "1", "2"))
    assert found.clearly_better
    assert found.best == ("1", "2", "0")
    assert found.accuracy < 0.1 < 0.9 < found.best_accuracy
    numbers = assign(("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "1", "2"), ())
    with pytest.raises(UserError, match="the best fit is --labels 1,2,0"):
        require_known(numbers, found)
    assert "the order 1,2,0 fits far better" in table(numbers, found)


def test_chance_is_not_taken_for_a_better_order() -> None:
    generator = np.random.default_rng(0)
    labels = tuple(map(str, range(12)))
    for _ in range(20):
        truth, logits = generator.integers(0, 12, 500), generator.standard_normal((500, 12))
        assert not fit(assign(labels, labels, ()), logits, truth, labels).clearly_better


def test_independent_labels_are_held_against_each_output() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (300, 3))
    logits = (truth[:, [1, 2, 0]] * 2 - 1) * 3.0
    labels = ("a", "b", "c")
    found = fit(assign(labels, labels, ()), logits, truth, labels)
    assert found.best == ("b", "c", "a")
    assert found.clearly_better
    assert found.best_accuracy == 1


def independent(path: Path) -> Path:
    """A table in which every second text is of gold, every third of salt."""
    rows = [f"number {row},{int(row % 2 == 0)},{int(row % 3 == 0)}" for row in range(300)]
    path.write_text("\n".join(["text,gold,salt", *rows]))
    return path


def test_columns_of_independent_labels_follow_the_models_names_too(tmp_path: Path) -> None:
    place = make_classifier(
        tmp_path / "theirs", labels=["salt", "gold"], problem_type="multi_label_classification"
    )
    spec = f"csv:{independent(tmp_path / 'data.csv')}"
    checkpoint = adopt(str(place), tmp_path / "ours", spec, columns=Columns(label="gold,salt"))
    assert checkpoint.labels == ("salt", "gold")
    split = load_data(checkpoint).splits["train"]
    for text, (salt, gold) in zip(split.texts, split.labels, strict=True):
        number = int(text.split()[1])
        assert (salt, gold) == (number % 3 == 0, number % 2 == 0)


def test_columns_of_independent_labels_on_numbered_outputs_are_asked_for(tmp_path: Path) -> None:
    place = make_classifier(
        tmp_path / "theirs", labels=numbered(2), problem_type="multi_label_classification"
    )
    spec = f"csv:{independent(tmp_path / 'data.csv')}"
    with pytest.raises(UserError, match=r"--label-column (gold,salt --labels gold|salt,gold --labels salt)"):
        adopt(str(place), tmp_path / "ours", spec, columns=Columns(label="gold,salt"))
    named = Columns(label="salt,gold", labels=("salt", "gold"))
    assert adopt(str(place), tmp_path / "ours", spec, columns=named).labels == ("salt", "gold")


def test_zeros_and_ones_that_stand_the_other_way_are_seen_and_the_remedy_works(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", labels=numbered(2), scale=4)
    texts = [f"{words} {row}" for row in range(200) for words in ("hate these people", "a lovely day")]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    with torch.no_grad():
        answers = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    above = answers[:, 1] - answers[:, 0]
    outputs = (above > above.median()).int().tolist()  # by shifting the head, half of the texts each
    with torch.no_grad():
        model.classifier.bias[0] += above.median()
    model.save_pretrained(place)
    rows = [f"{text},{1 - output}" for text, output in zip(texts, outputs, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]))
    spec = f"csv:{tmp_path / 'data.csv'}"
    with pytest.raises(UserError, match=r"in another order\. .* --labels 1,0") as refused:
        adopt(str(place), tmp_path / "ours", spec)
    assert "accuracy 0.0" in str(refused.value)
    checkpoint = adopt(str(place), tmp_path / "ours", spec, columns=Columns(labels=("1", "0")))
    assert checkpoint.labels == ("1", "0")
    assert checkpoint.meta.adoption.labels["accuracy"] > 0.95
