"""Every text is tested once, by a model that never saw it."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from handler.errors import UserError
from training import cross_validation, data
from training.__main__ import main
from training.cross_validation import folds, judge, summarise


def test_each_text_is_tested_once_and_never_trained_on_in_its_fold(small_jsonl) -> None:
    dataset = data.load(f"jsonl:{small_jsonl}")
    everything = Counter(text for split in dataset.splits.values() for text in split.texts)
    tested: Counter[str] = Counter()
    shares = []
    for fold in folds(dataset, 5):
        test = fold.splits["test"]
        tested.update(test.texts)
        shares.append(test.labels.mean())
        seen = set(fold.splits["train"].texts) | set(fold.splits["validation"].texts)
        assert not seen & set(test.texts)
        assert len(seen) + len(test) == len(everything)
    assert tested == everything
    assert np.ptp(shares) < 0.05, "every fold has its share of each label"


def test_independent_labels_are_folded_by_combination_as_far_as_they_go(small_jsonl) -> None:
    dataset = data.load(f"jsonl:{small_jsonl}")
    splits = {
        name: data.Split(split.texts, np.stack([split.labels, 1 - split.labels], axis=1))
        for name, split in dataset.splits.items()
    }
    fold = next(folds(replace(dataset, splits=splits, task="multi-label"), 4))
    assert fold.splits["test"].labels.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.05)


@pytest.mark.parametrize(
    ("spec", "count", "sentence"),
    [
        ("demo+jsonl:{}", 5, "Cross-validation works on one data set"),
        ("jsonl:{}", 1000, "That number of folds is not possible"),
    ],
)
def test_what_cannot_be_folded_is_a_sentence(small_jsonl, spec: str, count: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        next(folds(data.load(spec.format(small_jsonl)), count))


def test_a_published_test_split_is_not_mixed_with_train(tmp_path) -> None:
    for name in ("train", "test"):
        rows = [f"{name} {row},{row % 2}" for row in range(60)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    with pytest.raises(UserError, match="has its own test split"):
        next(folds(data.load(f"csv:{tmp_path}"), 3))


def test_means_leave_out_what_is_undefined() -> None:
    found = summarise([{"macro_f1": 0.5, "auroc": None, "n": 3}, {"macro_f1": 0.7, "auroc": 0.9, "n": 3}])
    assert found["macro_f1"]["mean"] == pytest.approx(0.6)
    assert found["auroc"] == {"mean": 0.9, "standard_deviation": None, "folds": [0.9]}
    assert "n" not in found


def test_the_command_says_each_fold_prints_the_whole_and_goes_on_where_it_was(
    small_jsonl, tmp_path, capsys, monkeypatch
) -> None:
    options = ["--data", f"jsonl:{small_jsonl}", "--base", "random:tiny", "--folder", str(tmp_path)]
    assert main(["cross-validate", *options, "--epochs", "1", "--folds", "2"]) == 0
    said = capsys.readouterr()
    assert "fold 2 of 2: macro-F1 validation" in said.err
    first = json.loads(said.out)
    assert len(first["test"]["macro_f1"]["folds"]) == len(first["validation"]["macro_f1"]["folds"]) == 2

    next(tmp_path.rglob("fold-2.json")).unlink()
    judged = []
    monkeypatch.setattr(cross_validation, "judge", lambda *given: judged.append(1) or judge(*given))
    assert main(["cross-validate", *options, "--epochs", "1", "--folds", "2"]) == 0
    assert len(judged) == 1
    assert json.loads(capsys.readouterr().out) == first
    assert main(["cross-validate", *options, "--epochs", "2", "--folds", "2"]) == 0
    assert len(judged) == 3, "another recipe has folds of its own"
