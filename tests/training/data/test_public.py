"""Public sets in their upstream layouts; what is written here is of our own making."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from training import data
from training.data import public

DATA_DIR = Path(os.environ.get("DATA_DIR") or "data")


def write(path: Path, header: list[str], rows: list[list[object]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


@pytest.fixture
def vicomtech(tmp_path: Path) -> Path:
    rows = []
    for sample, count in {"sampled_train": 40, "sampled_test": 10}.items():
        (tmp_path / sample).mkdir()
        for number in range(count):
            (tmp_path / sample / f"{sample}_{number}.txt").write_text(f"sentence {number} of {sample}\n")
            rows.append([f"{sample}_{number}", 1, 1, 0, "hate" if number % 2 else "noHate"])
    rows[0][-1], rows[1][-1] = "relation", "idk/skip"
    write(
        tmp_path / "annotations_metadata.csv",
        ["file_id", "user_id", "subforum_id", "num_contexts", "label"],
        rows,
    )
    return tmp_path


def test_vicomtech_leaves_out_relations_and_what_was_skipped(vicomtech: Path) -> None:
    raw = public.vicomtech_from(vicomtech)
    assert np.bincount(raw.splits["train"].labels).tolist() == [19, 19]
    assert np.bincount(raw.splits["test"].labels).tolist() == [5, 5]
    assert raw.dropped == {"train": {"label not asked for": 2}}
    assert raw.labels == ("not-hate", "hate")


@pytest.fixture
def davidson(tmp_path: Path) -> Path:
    header = ["", "count", "hate_speech", "offensive_language", "neither", "class", "tweet"]
    rows = [[0, 3, 3, 0, 0, 0, "one"], [1, 3, 0, 2, 1, 1, "two\nlines"], [2, 6, 1, 1, 4, 2, "three, parts"]]
    write(tmp_path / "labeled_data.csv", header, rows)
    return tmp_path


def test_davidsons_votes_are_the_soft_targets_of_three_classes(davidson: Path) -> None:
    raw = public.davidson_from(davidson)
    assert raw.labels == ("neither", "offensive", "hate")
    train = raw.splits["train"]
    assert train.texts == ["one", "two\nlines", "three, parts"]
    assert train.labels.tolist() == [2, 1, 0]
    assert train.soft == pytest.approx(np.array([[0, 0, 1], [1 / 3, 2 / 3, 0], [4 / 6, 1 / 6, 1 / 6]]))


def test_davidson_binary_is_hate_against_the_rest(davidson: Path) -> None:
    raw = public.davidson_from(davidson, "binary")
    assert raw.labels == ("not-hate", "hate")
    assert raw.splits["train"].labels.tolist() == [1, 0, 0]
    assert raw.splits["train"].soft[:, 1] == pytest.approx([1, 0, 1 / 6])


def test_ethos_is_hate_from_half_of_the_votes_and_keeps_their_share(tmp_path: Path) -> None:
    rows = [["a; b", "1.0"], ["c", "0.5"], ["d", "0.16"]]
    write(tmp_path / "Ethos_Dataset_Binary.csv", ["comment", "isHate"], rows, ";")
    train = public.ethos_from(tmp_path).splits["train"]
    assert train.texts == ["a; b", "c", "d"]
    assert train.labels.tolist() == [1, 1, 0]
    assert train.soft[:, 1] == pytest.approx([1, 0.5, 0.16])


def test_ethos_multilabel_has_eight_independent_labels(tmp_path: Path) -> None:
    names = list(public.ETHOS_LABELS)
    write(
        tmp_path / "Ethos_Dataset_Multi_Label.csv",
        ["comment", *names],
        [["a", 1, 0.5, 0, 0, 0, 0, 0.3, 0]],
        ";",
    )
    raw = public.ethos_from(tmp_path, "multilabel")
    assert raw.labels == public.ETHOS_LABELS
    assert raw.splits["train"].multi_label
    assert raw.splits["train"].labels.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]
    assert raw.splits["train"].soft[0, 6] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("spec", "texts", "labels"),
    [
        ("vicomtech", 1914 + 478, 2),
        ("davidson", 24783, 3),
        ("davidson:binary", 24783, 2),
        ("ethos", 998, 2),
        ("ethos:multilabel", 433, 8),
    ],
)
def test_the_published_files_are_read_whole(spec: str, texts: int, labels: int) -> None:
    if not (DATA_DIR / spec.partition(":")[0]).is_dir():
        pytest.skip("DATA_DIR holds no such set")
    dataset = data.load(spec, DATA_DIR)
    dropped = sum(sum(reasons.values()) for reasons in dataset.dropped.values())
    assert sum(map(len, dataset.splits.values())) + dropped == texts
    assert len(dataset.labels) == labels
