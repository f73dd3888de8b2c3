"""What a model that was trained elsewhere is judged on: texts that it was not trained on, or it is said."""

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from handler.errors import UserError
from training import data
from training.data import Columns, Dataset
from training.data.records import KEPT_APART, STATED, UNKNOWN
from training.data.splits import SPLITS


def texts(name: str, count: int) -> list[str]:
    return [f"{name} {number}" for number in range(count)]


def table(path: Path, content: Iterable[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, ("calm", "heated")[row % 2]] for row, text in enumerate(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table(tmp_path / "train.csv", texts("train", 400))
    return tmp_path


def load(place: Path, gate: Path | None = None, unseen: bool = False) -> Dataset:
    return data.load(
        f"csv:{place}", columns=Columns(gate=str(gate) if gate else ""), elsewhere=True, unseen=unseen
    )


def origins(dataset: Dataset) -> dict[str, set[str]]:
    """The files that each split's texts are from."""
    return {name: {text.split()[0] for text in split.texts} for name, split in dataset.splits.items()}


def sizes(dataset: Dataset) -> dict[str, int]:
    return {name: len(split) for name, split in dataset.splits.items()}


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        ({"validation": 100, "test": 200}, {"validation": 100, "gate": 160, "test": 40}),
        ({"test": 200}, {"validation": 40, "gate": 120, "test": 40}),
        ({"validation": 200}, {"validation": 40, "gate": 120, "test": 40}),
        ({"gate": 200}, {"validation": 40, "gate": 120, "test": 40}),
        ({"gate": 200, "test": 100}, {"validation": 50, "gate": 200, "test": 50}),
        ({"gate": 200, "validation": 100}, {"validation": 50, "gate": 200, "test": 50}),
        ({"gate": 20, "validation": 30, "test": 40}, {"validation": 30, "gate": 20, "test": 40}),
    ],
)
def test_it_is_judged_on_files_that_are_not_for_training(
    folder: Path, files: dict[str, int], taken: dict[str, int]
) -> None:
    for name, count in files.items():
        table(folder / f"{name}.csv", texts(name, count))
    found = load(folder)
    assert found.unseen == KEPT_APART
    assert sizes(found) == {"train": 400, **taken}
    assert not any("train" in origins(found)[name] for name in SPLITS[1:])
    assert found.calibration is found.splits["validation"]


def test_a_gate_may_lie_in_a_table_of_another_format(folder: Path, tmp_path: Path) -> None:
    gate = tmp_path / "mine.jsonl"
    lines = [f'{{"text": "own {row}", "label": "{("calm", "heated")[row % 2]}"}}' for row in range(200)]
    gate.write_text("\n".join(lines))
    found = load(folder / "train.csv", gate)
    assert found.unseen == KEPT_APART
    assert origins(found) == {"train": {"train"}, "validation": {"own"}, "gate": {"own"}, "test": {"own"}}
    with pytest.raises(UserError, match="the table of gate texts does not exist"):
        load(folder, tmp_path / "mine.txt")


def test_a_text_that_train_holds_too_has_been_seen(folder: Path) -> None:
    table(folder / "test.csv", [*texts("test", 200), "train 3", "train 5"])
    found = load(folder)
    assert found.dropped == {"test": {"also in train": 2}}
    assert len(found.splits["train"]) == 400
    ours = data.load(f"csv:{folder}")
    assert ours.dropped == {"train": {"also in test": 2}}, "a training can do without them"


def test_a_text_of_a_joined_sets_train_has_been_seen(folder: Path) -> None:
    table(folder / "test.csv", [*texts("test", 200), "more 3"])
    table(folder / "more.csv", texts("more", 400))
    found = data.load(f"csv:{folder}+csv:{folder}/more.csv", elsewhere=True)
    assert found.dropped["test"] == {f"also in train of csv:{folder}/more.csv": 1}


def test_a_single_file_may_have_been_seen_unless_its_user_says_that_it_was_not(folder: Path) -> None:
    unknown, stated = (load(folder / "train.csv", unseen=unseen) for unseen in (False, True))
    assert (unknown.unseen, stated.unseen) == (UNKNOWN, STATED)
    judging = {"train": 80, "validation": 80, "gate": 200, "test": 40}
    assert sizes(stated) == judging, "unseen texts judge rather than teach"
    assert sizes(unknown)["gate"] == 80
    assert stated.calibration is stated.splits["train"]


def test_a_model_that_is_trained_here_reads_gate_csv_as_its_gate(folder: Path) -> None:
    table(folder / "gate.csv", texts("gate", 200))
    found = data.load(f"csv:{folder}")
    assert found.unseen is None
    assert origins(found)["gate"] == {"gate"}
    assert origins(found)["test"] == {"train"}


def test_the_embedded_texts_were_made_up_here() -> None:
    columns = replace(Columns(), labels=("calm", "heated"))
    found = data.load("texts:embedded", columns=columns, elsewhere=True)
    assert found.unseen == KEPT_APART
