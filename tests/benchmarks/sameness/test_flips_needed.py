"""How many labels settle a verdict, on answers and labels that a test gives."""

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec import to_builtins

from benchmarks.report.publishing import publish_kind
from benchmarks.sameness.flips_key import Asked
from benchmarks.sameness.flips_needed import CHECKS, ORDERS, LabelsNeeded, excerpt, needed
from benchmarks.sameness.labels_needed import LabelPlan as Forecast
from benchmarks.sameness.labels_needed import Need

TEXTS, GATE = 6000, 1750
RNG = np.random.default_rng(0)
HIDDEN, TRUE_GATE = RNG.integers(0, 2, TEXTS), RNG.integers(0, 2, GATE)


def asked(truth: dict[str, np.ndarray], harmed: float, helped: float, name: str) -> Asked:
    """Fp32 is right on four of five texts, a variant loses and gains these shares of all."""

    def of(split: str) -> list[int]:
        rng = np.random.default_rng(len(split))
        chance = rng.random(len(truth[split]))
        is_wrong = (chance < 0.2 - helped) | (chance > 1 - harmed)
        return np.where(is_wrong, 1 - truth[split], truth[split]).tolist()

    return Asked(name, 1.0, of("gate"), of("unlabelled"))


@pytest.fixture(scope="module")
def found() -> LabelsNeeded:
    truth = {"gate": TRUE_GATE, "unlabelled": HIDDEN}
    variants = {
        "alike": asked(truth, 0.002, 0.002, "alike"),
        "worse": asked(truth, 0.04, 0.0, "worse"),
        "at the margin": asked(truth, 0.011, 0.001, "at the margin"),
    }
    need = Need("alike", 8, 0.004, 0.002, 0.008, 900, 4000, 70)
    forecast = Forecast(0.01, 2000, GATE, 2, 0.006, 0.0015, CHECKS, [need], "alike", [])
    return needed("made", asked(truth, 0, 0, "fp32"), variants, TRUE_GATE, HIDDEN, 2, forecast)


def test_a_variant_like_fp32_passes_a_worse_one_fails_and_one_at_the_margin_stays_open(found) -> None:
    rows = {(each.variant, each.wrong): each for each in found.needed}
    alike, worse, edge = (rows[name, 0.0] for name in ("alike", "worse", "at the margin"))
    assert alike.words == {"pass": ORDERS}
    assert worse.words == {"fail": ORDERS}
    assert edge.settled < ORDERS / 2
    assert edge.labels is None
    assert alike.true_drop == pytest.approx(0, abs=0.002)
    assert worse.true_drop == pytest.approx(0.04, abs=0.008)
    assert alike.labels - CHECKS == pytest.approx(alike.flip_rate * alike.unlabelled, rel=0.6, abs=4)
    assert (alike.forecast_unlabelled, alike.forecast_labels) == (4000, 70)
    assert worse.forecast_labels is None


def test_labels_that_are_wrong_never_make_it_cheaper_to_fail(found) -> None:
    sure, unsure = (each for each in found.needed if each.variant == "worse")
    assert (sure.wrong, unsure.wrong) == (0.0, 0.05)
    assert unsure.unlabelled >= sure.unlabelled


def test_it_is_published_as_a_table(found, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(to_builtins(found)))
    path = publish_kind("labels", "made", tmp_path, tmp_path)
    assert path.name == "made.labels.json"
    assert excerpt(found) in path.with_suffix(".md").read_text()
    assert "| 4,000 / 70 " in excerpt(found)
    assert "the look is the gate's number 2, at a level of 0.15%" in excerpt(found)
