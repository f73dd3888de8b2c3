"""Quality and parity on scores whose figures can be counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.quality import flips, parity, quality, sample
from training.splits import Split

LABELS = ["not-hate", "hate"]


def artifact(threshold: float = 0.5) -> SimpleNamespace:
    return SimpleNamespace(labels=LABELS, meta={"thresholds": {"hate": threshold}})


def scores(*of_hate: float) -> np.ndarray:
    return np.array([[1 - score, score] for score in of_hate])


@pytest.fixture
def splits() -> dict[str, Split]:
    return {"gate": Split(["a", "b", "c", "d"], np.array([1, 0, 1, 0]))}


def test_quality_uses_the_artifacts_own_threshold(splits) -> None:
    given = {"gate": scores(0.7, 0.6, 0.9, 0.1)}
    assert quality(artifact(0.5), given, splits)["gate"]["accuracy"] == 0.75
    assert quality(artifact(0.65), given, splits)["gate"]["accuracy"] == 1.0
    assert quality(artifact(), given, splits)["gate"]["auroc"] == 1.0


def test_parity_counts_agreement_flips_and_the_drop(splits) -> None:
    reference, given = {"gate": scores(0.9, 0.2, 0.8, 0.1)}, {"gate": scores(0.4, 0.2, 0.8, 0.6)}
    found = parity(artifact(), given, artifact(), reference, splits)["gate"]
    assert found["label_agreement"] == 0.5
    assert found["flips"] == {"not-hate -> hate": 1, "hate -> not-hate": 1}
    assert found["max_prob_diff"] == pytest.approx(0.5)
    assert found["macro_f1_drop"]["drop"] == pytest.approx(0.5)
    assert found["macro_f1_drop"]["low"] <= 0.5 <= found["macro_f1_drop"]["high"]


def test_the_reference_agrees_with_itself(splits) -> None:
    given = {"gate": scores(0.9, 0.2, 0.8, 0.1)}
    found = parity(artifact(), given, artifact(), given, splits)["gate"]
    assert found["label_agreement"] == 1
    assert found["macro_f1_drop"]["low"] == found["macro_f1_drop"]["high"] == 0


def test_labels_without_meaning_give_agreement_and_no_drop() -> None:
    given = {"gate": scores(0.9, 0.2)}
    found = parity(artifact(), given, artifact(), given, None)["gate"]
    assert found["macro_f1_drop"] is None
    assert found["label_agreement"] == 1


def test_flips_of_three_labels_name_every_direction() -> None:
    found = flips(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 0]), ["a", "b", "c"])
    assert found["b -> c"] == 1
    assert found["c -> a"] == 1
    assert sum(found.values()) == 2
    assert len(found) == 6


def test_a_sample_is_the_same_every_time_and_keeps_labels_with_their_texts() -> None:
    whole = Split([str(number) for number in range(100)], np.arange(100))
    part = sample(whole, 10)
    assert part.texts == [str(label) for label in part.labels]
    assert part.texts == sample(whole, 10).texts
    assert sample(whole, None) is whole
    assert sample(whole, 100) is whole
