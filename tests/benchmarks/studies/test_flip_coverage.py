import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report.publishing import publish_kind
from benchmarks.sameness.flip_coverage import CHECKED, Coverage, draw, excerpt, made, page
from benchmarks.sameness.power import GATE_TEXTS, MARGIN
from benchmarks.studies import flip_coverage
from common.records import read
from training.measures.noninferiority import kinds_of_cells
from training.measures.statistics import macro_f1_drop

PUBLISHED = Path("benchmarks/published/cascades.json")


def test_made_populations_lose_the_margin_and_have_two_or_three_labels() -> None:
    assert {len(shares) for shares in made().values()} == {2, 3}
    for shares in made().values():
        kinds = kinds_of_cells(len(shares), np.arange(shares.size))
        assert macro_f1_drop(shares.reshape(1, -1), kinds)[0] == pytest.approx(MARGIN, abs=1e-9)


def test_a_labeller_errs_as_often_as_told_and_labels_flips_alone() -> None:
    shares = made()["made", "3 labels, 42% have the first, harm to all labels"]
    sure, unsure = (draw(0, shares, 400_000, wrong) for wrong in (0.0, 0.3))
    assert sure.gate.sum() == GATE_TEXTS
    assert sure.unlabelled.sum() == 400_000
    for sample in (sure, unsure):
        flips = sample.unlabelled.sum() - np.trace(sample.unlabelled)
        assert sample.labelled.sum() == flips
        assert not np.einsum("taa->ta", sample.labelled).any()
    assert sure.checked.wrong == 0
    assert 0 < unsure.checked.wrong < CHECKED
    moved = np.abs(unsure.labelled - sure.labelled).sum() / 2
    assert 0.05 * sure.labelled.sum() < moved < 0.3 * sure.labelled.sum()


def test_the_study_counts_published_variants_and_is_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--runs", "2", "--results", str(tmp_path), "--reports", str(PUBLISHED))
    assert flip_coverage.main(given) == 0
    shown = capsys.readouterr()
    found = read(json.loads(shown.out), Coverage)
    names = {each.population for each in found.counted if each.source == "published"}
    assert "openvino-int8-cascade" in names
    assert "fp32" not in names
    assert {each.runs for each in found.counted} == {2}
    first = next(each for each in found.counted if each.population == "openvino-int8")
    # 19 of 1,750 published gate texts flip.
    assert first.labelled == pytest.approx(20_000 * 19 / 1750, rel=0.15)
    assert first.half_width < first.gate_half_width / 2
    assert first.drop == pytest.approx(0.0044, abs=5e-5)
    path = publish_kind("flips", "verdicts", tmp_path, tmp_path)
    assert path.name == "verdicts.flips.json"
    assert path.with_suffix(".md").read_text() == page(found)
    assert excerpt(found) in shown.err
    assert "| 6 made, 3 labels " in excerpt(found)
