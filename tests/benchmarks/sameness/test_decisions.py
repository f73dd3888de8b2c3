"""What bands decide on a gate, on scores whose figures can be counted by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.records import Parity
from benchmarks.report.columns import DECIDED
from benchmarks.report.tables import markdown, named
from benchmarks.sameness.decisions import decided
from benchmarks.sameness.parity import parity
from common.shares import share_interval
from handler.artifact import Artifact
from handler.description import Bands, Promise
from tests.descriptions import description
from training.data.splits import Split

PROMISES = [
    Promise("precision", 0.9, 1.0, 3),
    Promise("recall", 0.9, 1.0, 3),
    Promise("false-positive-rate", 0.1, 0.0, 3),
    Promise("review-share", 0.3, 0.2, 6),
    Promise("cost", 1.0, 0.5, 6),
]
PLAIN = Artifact(Path(), description(labels=["not-hate", "hate"]))
DECIDING = Artifact(Path(), replace(PLAIN.meta, bands=Bands(0.8, 0.3, 0.95, "validation", 6, PROMISES)))
TRUTH = np.array([1, 0, 1, 0, 1, 0])
THEIRS = np.array([0.9, 0.85, 0.5, 0.4, 0.1, 0.2])
OURS = np.array([0.9, 0.79, 0.5, 0.2, 0.1, 0.2])


def both(scores: np.ndarray) -> np.ndarray:
    return np.stack([1 - scores, scores], axis=1)


def test_decisions_and_promises_are_counted() -> None:
    found = decided(DECIDING, both(OURS), DECIDING, both(THEIRS), TRUTH)
    assert found is not None
    assert found.shares == pytest.approx({"act": 1 / 6, "review": 2 / 6, "pass": 3 / 6})
    assert found.ways == {"act -> review": 1, "review -> pass": 1}
    assert (found.differ.n, found.differ.rate) == (2, 2 / 6)
    assert (found.differ.low, found.differ.high) == share_interval(2, 6)
    assert {each.kind: (each.n, round(each.found, 3)) for each in found.kept} == {
        "precision": (1, 1.0),
        "recall": (3, 0.667),
        "false-positive-rate": (3, 0.0),
        "review-share": (6, 0.333),
    }
    assert all(each.low <= each.found <= each.high for each in found.kept)


def test_without_bands_nothing_is_decided_and_without_labels_no_promise_is_judged() -> None:
    assert decided(PLAIN, both(OURS), PLAIN, both(THEIRS), TRUTH) is None
    assert decided(DECIDING, both(OURS), PLAIN, both(THEIRS), TRUTH) is None
    found = decided(DECIDING, both(OURS), DECIDING, both(THEIRS), None)
    assert found is not None
    assert found.kept == []


def test_a_verdict_has_its_row_of_decisions() -> None:
    def of(artifact: Artifact) -> Parity:
        split = {"gate": Split(list("abcdef"), TRUTH)}
        tokens = {"gate": np.full(6, 5)}
        return parity(artifact, {"gate": both(OURS)}, artifact, {"gate": both(THEIRS)}, split, tokens)["gate"]

    assert of(PLAIN).decided is None
    row = of(DECIDING).decided
    table = markdown(named("Decisions", "variant", DECIDED, [("int8", row)]))
    assert "33.33% (4.33% to 77.72%)" in table
    assert "1 act → review, 1 review → pass" in table
    assert "recall 66.7% (9.4% to 99.2%), promised 0.9" in table
