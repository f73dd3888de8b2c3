"""The study of what our servers cost: intervals of paired turns, and real servers."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.report.files import read_overhead
from benchmarks.served.overheads import excerpt
from benchmarks.studies.overhead import difference, main
from export.archives.package import package
from tests.benchmarks.served.test_servers import TEXTS


def test_what_shifts_both_sides_of_a_turn_does_not_widen_the_difference() -> None:
    turns, texts = 20, 40
    slow = np.random.default_rng(0).uniform(1, 3, size=(turns, 1)).repeat(texts, axis=1)
    draws = np.random.default_rng(1).integers(turns, size=(500, turns))
    found = difference(slow + 0.5, slow, 50, draws)
    assert found.app_ms - found.predictor_ms == found.difference_ms == pytest.approx(0.5)
    assert (found.low_ms, found.high_ms) == pytest.approx((0.5, 0.5))
    noisy = difference(slow + 0.5, slow[::-1], 50, draws)
    assert noisy.low_ms < 0.2 < 0.8 < noisy.high_ms


@pytest.mark.server
@pytest.mark.slow
def test_real_servers_are_compared_with_the_predictor(build_once, tmp_path: Path) -> None:
    archive = package(build_once("onnx-int8"), tmp_path)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    brief = ["--clients", "4", "--rounds", "1", "--seconds", "0.5", "--turns", "3", "--size", "5"]
    assert main([str(archive), "--texts", str(texts), "--results", str(tmp_path), *brief]) == 0
    found = read_overhead(tmp_path / "overhead.json")
    (ours,) = found.archives
    torchserve, app = ours.batched
    assert torchserve.java_ms
    assert app.java_ms is None
    assert 1 <= torchserve.batch <= 4
    assert 1 <= app.batch <= 4
    assert ours.lone.p50.predictor_ms > 0
    assert "onnx-int8" in excerpt(found)
