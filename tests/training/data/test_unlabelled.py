"""Texts without labels, from a file or from sets by their names."""

from pathlib import Path

import numpy as np
import pytest

from handler.errors import UserError
from training.data import demo, sources
from training.data.splits import Split
from training.data.unlabelled import unlabelled_texts


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set with train, in pairs, and one without."""

    def pairs(request: sources.Request) -> sources.Raw:
        groups = np.array([7, 7, 8], np.uint64)
        train = Split(["one", " ", "two"], np.array([[0, 1]] * 3), groups=groups)
        test = Split(["three"], np.array([[0, 1]]), groups=np.array([9], np.uint64))
        return sources.Raw(("a", "b"), {"train": train, "test": test})

    def rest(request: sources.Request) -> sources.Raw:
        assert request.data_dir == Path("sets")
        splits = {name: Split([f"of {name}"], np.array([1])) for name in ("validation", "test")}
        return sources.Raw(("a", "b"), splits)

    for name, read in {"pairs": pairs, "the-rest": rest}.items():
        monkeypatch.setitem(sources.SOURCES, name, sources.Source(name, "made-up texts", read))


def test_a_set_gives_the_texts_of_train_and_their_groups_but_no_label() -> None:
    found = unlabelled_texts("pairs", Path("sets"))
    assert found.texts == ["one", "two"]
    assert found.labels.tolist() == [-1, -1]
    assert found.groups is not None
    assert found.groups.tolist() == [7, 8]
    assert len(unlabelled_texts("demo", Path("sets"))) == len(demo.corpus()["train"])


def test_a_set_without_train_gives_all_its_texts_and_sets_are_joined() -> None:
    assert unlabelled_texts("the-rest", Path("sets")).texts == ["of validation", "of test"]
    both = unlabelled_texts("the-rest+pairs", Path("sets"))
    assert both.texts == ["of validation", "of test", "one", "two"]
    assert both.groups is not None
    assert len(set(both.groups.tolist())) == 4


def test_a_file_goes_before_a_set_of_the_same_name_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs").mkdir()
    assert unlabelled_texts("pairs", Path("sets")).texts == ["one", "two"]
    Path("pairs").rmdir()
    Path("pairs").write_text("a line\n\nanother\n")
    found = unlabelled_texts("pairs", Path("sets"))
    assert found.texts == ["a line", "another"]
    assert found.labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("none.txt", r"cannot be read: there is no such file or data set: none\.txt\. .*tweeteval-sentiment"),
        ("pairs*0.5", r"named sets without a weight: pairs\*0\.5"),
        ("csv:some.csv", "named sets without a weight: csv:some.csv"),
        ("pairs+thepairs", r"Unknown data: 'pairs\+thepairs'"),
        ("pairs:more", "Write it as pairs"),
    ],
)
def test_what_names_no_texts_is_a_sentence(given: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        unlabelled_texts(given, Path("sets"))
