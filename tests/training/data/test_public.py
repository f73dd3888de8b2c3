"""Public sets in their upstream layouts; what is written here is of our own making."""

import csv
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from handler.errors import UserError
from training import data
from training.data import public
from training.data.pinned import PinnedFiles
from training.data.splits import prepare
from training.data.unlabelled import unlabelled_texts

DATA_DIR = Path(os.environ.get("DATA_DIR") or "data")


def write(path: Path, header: list[str], rows: list[list[object]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def needs(folder: str) -> None:
    if not (DATA_DIR / folder).is_dir():
        pytest.skip(f"DATA_DIR holds no {folder}")


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


HATEMOJI_COLUMNS = ["entry_id", "text", "label_gold", "matched_text", "matched_id"]


@pytest.fixture
def hatemoji(tmp_path: Path) -> Path:
    """40 pairs of a text and its perturbation. The halves of five are in train and test, those of three in
    train and validation, and those of two in validation and test."""
    apart = dict.fromkeys(range(5), ("train", "test")) | dict.fromkeys(range(5, 8), ("train", "validation"))
    apart |= dict.fromkeys(range(8, 10), ("validation", "test"))
    rows: dict[str, list[list[object]]] = {"train": [], "validation": [], "test": []}
    for pair in range(40):
        within = ("train", "train", "validation", "test")[pair % 4]
        for half, split in enumerate(apart.get(pair, (within, within))):
            own, other = 2 * pair + half, 2 * pair + 1 - half
            rows[split].append([own, f"text {own}, 🙂\nof two lines", half, f"text {other}", other])
    for split, found in rows.items():
        write(tmp_path / f"{split}.csv", HATEMOJI_COLUMNS, found)
    return tmp_path


def test_a_text_of_hatemoji_and_its_perturbation_are_a_group_across_files(hatemoji: Path) -> None:
    raw = public.hatemoji_from(hatemoji)
    assert raw.labels == ("not-hate", "hate")
    pair_of = {}
    for split in raw.splits.values():
        for text, label, group in zip(split.texts, split.labels, split.groups, strict=True):
            number = int(text.removeprefix("text ").partition(",")[0])
            assert text == f"text {number}, 🙂\nof two lines"
            assert label == number % 2
            assert pair_of.setdefault(group, number // 2) == number // 2
    assert len(pair_of) == 40


def test_of_a_pair_in_two_of_hatemojis_splits_one_half_stays(hatemoji: Path) -> None:
    raw = public.hatemoji_from(hatemoji)
    ready = prepare(raw.splits)
    assert ready.dropped == {
        "train": {"its group is in test": 5, "its group is in validation": 3},
        "validation": {"its group is in test": 2},
    }
    assert len(ready.splits["test"]) == len(raw.splits["test"])
    groups = [set(split.groups.tolist()) for split in ready.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)), "none is in two splits"


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    """TweetEval's layout, with 20 tweets in each file."""
    for stem in ("train", "val", "test"):
        (tmp_path / f"{stem}_text.txt").write_text("".join(f"{stem} {row}\n" for row in range(20)))
        (tmp_path / f"{stem}_labels.txt").write_text("0\n1\n" * 10)
    return tmp_path


def test_offence_has_labels_of_its_own_or_is_not_hate(tweets: Path) -> None:
    raw = public.tweeteval_offensive_from(tweets)
    assert raw.labels == ("not-offensive", "offensive")
    assert raw.splits["test"].labels.tolist() == [0, 1] * 10
    negatives = public.tweeteval_offensive_from(tweets, "as-not-hate")
    assert negatives.labels == ("not-hate", "hate")
    assert negatives.argument == "as-not-hate", "or the data could not be loaded again"
    for name in ("train", "validation", "test"):
        assert negatives.splits[name].texts == raw.splits[name].texts
        assert not negatives.splits[name].labels.any()


def test_sentiment_has_three_labels_and_no_train(tweets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stem in ("val", "test"):
        (tweets / f"{stem}_labels.txt").write_text("0\n1\n2\n1\n" * 5)
    raw = public.tweeteval_sentiment_from(tweets)
    assert raw.labels == ("negative", "neutral", "positive")
    assert list(raw.splits) == ["validation", "test"]
    assert raw.splits["test"].labels.tolist() == [0, 1, 2, 1] * 5
    monkeypatch.setattr(public, "fetch", lambda files, data_dir: tweets)
    with pytest.raises(
        UserError, match=r"has no train split: validation, test\..*--unlabelled tweeteval-sent"
    ):
        data.load("demo+tweeteval-sentiment")


def test_negatives_alone_can_be_joined_and_not_come_first(
    tweets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public, "fetch", lambda files, data_dir: tweets)
    joined = data.load("demo+tweeteval-offensive:as-not-hate*0.5")
    assert joined.spec == "demo+tweeteval-offensive:as-not-hate*0.5"
    assert joined.parts[1].texts == 20
    (held_out,) = joined.others.values()
    assert {name: split.labels.tolist() for name, split in held_out.items()} == {
        "validation": [0] * 20,
        "test": [0] * 20,
    }
    assert data.load(joined.spec).sha256 == joined.sha256
    with pytest.raises(UserError, match="needs texts of at least two labels"):
        data.load("tweeteval-offensive:as-not-hate+demo")


def test_a_task_of_tweeteval_by_its_name_on_the_hub_is_answered_with_ours() -> None:
    with pytest.raises(UserError, match=r"Write it as tweeteval\. Did you mean tweeteval-offensive\?"):
        data.load("tweeteval:offensive")


@pytest.mark.parametrize(
    "files",
    [public.HATEMOJI, public.TWEETEVAL_OFFENSIVE, public.TWEETEVAL_SENTIMENT],
    ids=lambda files: files.name,
)
def test_other_files_in_the_place_of_the_published_ones_are_refused(
    files: PinnedFiles, tmp_path: Path
) -> None:
    folder = tmp_path / files.folder
    folder.mkdir(parents=True)
    for name in files.sha256:
        (folder / name).write_text("something else\n")
    with pytest.raises(UserError, match=f"does not match the checksum pinned for {files.name}"):
        unlabelled_texts(files.name, tmp_path)


@pytest.mark.parametrize(
    ("spec", "texts", "labels"),
    [
        ("vicomtech", 1914 + 478, 2),
        ("davidson", 24783, 3),
        ("davidson:binary", 24783, 2),
        ("ethos", 998, 2),
        ("ethos:multilabel", 433, 8),
        ("hatemoji", 4728 + 591 + 593, 2),
        ("tweeteval-offensive", 11916 + 1324 + 860, 2),
    ],
)
def test_the_published_files_are_read_whole(spec: str, texts: int, labels: int) -> None:
    needs(spec.partition(":")[0].replace("-", "/"))
    dataset = data.load(spec, DATA_DIR)
    dropped = sum(sum(reasons.values()) for reasons in dataset.dropped.values())
    assert sum(map(len, dataset.splits.values())) + dropped == texts
    assert len(dataset.labels) == labels


def test_hatemojis_texts_are_pairs_a_third_of_them_in_two_published_splits() -> None:
    needs("hatemoji")
    raw = public.hatemoji_from(DATA_DIR / "hatemoji")
    places = defaultdict(list)
    for name, split in raw.splits.items():
        for group in split.groups.tolist():
            places[group].append(name)
    assert Counter("+".join(sorted(names)) for names in places.values()) == {
        "train+train": 1904,
        "train+validation": 461,
        "test+train": 459,
        "test+validation": 62,
        "validation+validation": 34,
        "test+test": 36,
    }
    dataset = data.load("hatemoji", DATA_DIR)
    of_groups = {
        name: {reason: count for reason, count in reasons.items() if "group" in reason}
        for name, reasons in dataset.dropped.items()
    }
    assert of_groups == {
        "train": {"its group is in test": 459, "its group is in validation": 461},
        "validation": {"its group is in test": 62},
    }
    assert len(dataset.splits["test"]) == 593
    groups = [set(split.groups.tolist()) for split in dataset.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_tweeteval_sentiment_gives_all_its_texts_without_labels() -> None:
    needs("tweeteval/sentiment")
    found = unlabelled_texts("tweeteval-sentiment", DATA_DIR)
    assert len(set(found.texts)) == 2000 + 12284


def test_offensive_tweets_teach_as_negatives_beside_tweeteval() -> None:
    needs("tweeteval/offensive")
    alone = data.load("tweeteval", DATA_DIR)
    joined = data.load("tweeteval+tweeteval-offensive:as-not-hate", DATA_DIR)
    for name in ("validation", "gate", "test"):
        assert joined.split_sha256[name] == alone.split_sha256[name]
    assert joined.counts()["train"]["hate"] == alone.counts()["train"]["hate"]
