"""Quality on scores whose figures can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.sameness.scores import calibrated, quality, refitted, sample
from handler.artifact import Artifact
from tests.descriptions import description
from training.data.splits import Split

LABELS = ["not-hate", "hate"]


def artifact(threshold: float = 0.5) -> Artifact:
    return Artifact(Path(), description(labels=LABELS, thresholds={"hate": threshold}))


def scores(*of_hate: float) -> np.ndarray:
    return np.array([[1 - score, score] for score in of_hate])


@pytest.fixture
def splits() -> dict[str, Split]:
    return {"gate": Split(["a", "b", "c", "d"], np.array([1, 0, 1, 0]))}


def test_quality_uses_the_artifacts_own_threshold(splits) -> None:
    given = {"gate": scores(0.7, 0.6, 0.9, 0.1)}
    assert quality(artifact(0.5), given, splits)["gate"].accuracy == 0.75
    assert quality(artifact(0.65), given, splits)["gate"].accuracy == 1.0
    assert quality(artifact(), given, splits)["gate"].auroc == 1.0


def test_a_refitted_temperature_undoes_a_variant_that_is_too_sure() -> None:
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.02, 0.98, 4000)
    split = Split([""] * 4000, (rng.random(4000) < honest).astype(np.int64))
    sure = scores(*(1 / (1 + np.exp(-3 * np.log(honest / (1 - honest))))))
    labelled = {"validation": split, "gate": split}
    given = quality(artifact(), {"gate": sure}, labelled)["gate"]
    again = refitted(artifact(), {"gate": sure}, sure, labelled)
    assert list(again) == ["gate"]
    assert again["gate"].temperature == pytest.approx(3, rel=0.1)
    assert again["gate"].ece < 0.03 < 0.1 < given.ece
    assert again["gate"].brier < given.brier


def test_a_reliable_score_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    honest = rng.uniform(0, 1, 20000)
    split = Split([""] * 20000, (rng.random(20000) < honest).astype(np.int64))
    points = quality(artifact(), {"gate": scores(*honest)}, {"gate": split})["gate"].reliability
    assert len(points) == 10
    assert sum(point.n for point in points) == 20000
    assert all(abs(point.score - point.rate) < 0.04 for point in points)


def test_a_sample_is_the_same_every_time_and_keeps_labels_with_their_texts() -> None:
    whole = Split([str(number) for number in range(100)], np.arange(100))
    part = sample(whole, 10)
    assert part.texts == [str(label) for label in part.labels]
    assert part.texts == sample(whole, 10).texts
    assert sample(whole, None) is whole
    assert sample(whole, 100) is whole


def test_independent_labels_are_refitted_with_one_temperature_and_a_threshold_each() -> None:
    rng = np.random.default_rng(2)
    honest = rng.uniform(0.02, 0.98, (2000, 2))
    split = Split([""] * 2000, (rng.random((2000, 2)) < honest).astype(np.int64))
    thresholds = {"not-hate": 0.5, "hate": 0.5}
    several = Artifact(Path(), description(task="multi-label", labels=LABELS, thresholds=thresholds))
    sure = 1 / (1 + np.exp(-3 * np.log(honest / (1 - honest))))
    labelled = {"validation": split, "gate": split}
    given = quality(several, {"gate": sure}, labelled)["gate"]
    again = refitted(several, {"gate": sure}, sure, labelled)["gate"]
    assert again.temperature == pytest.approx(3, rel=0.1)
    assert again.threshold is None
    assert again.ece < 0.03 < 0.1 < given.ece
    warmer = calibrated({"gate": sure}, 3.0, multi_label=True)["gate"]
    np.testing.assert_allclose(warmer, honest, atol=1e-6)
