"""A forecast and the load that it is of, on the session's TorchServe: figures are there, not how good."""

import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks.capacity.queueing import Batching
from benchmarks.progress import progress
from benchmarks.records import plain
from benchmarks.served.run import Running
from benchmarks.studies import plan_check
from benchmarks.studies.plan_check import Checked, archived_batching, check, check_note, check_table, steps
from common.records import read
from handler.errors import UserError

TEXTS = [f"a text of some {'more ' * (number % 9)}words" for number in range(40)]


@pytest.mark.slow
@pytest.mark.quiet
def test_a_forecast_is_shown_with_what_was_then_measured(
    served, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, artifact = served
    monkeypatch.setattr(plan_check, "CLIENTS", (1, 8))
    monkeypatch.setattr(plan_check, "SIZES", (1, 8))
    monkeypatch.setattr(plan_check, "WARM_S", 0.2)
    running = Running(server.predictions, 1.0, server.worker(), server.metrics)
    archive = workshop / "model_store" / "hate-openvino-int8.mar"
    with progress(steps([0.5], 1.0)) as step:
        found = check(archive, nullcontext(running), TEXTS, [0.5], 1.0, step)
    (half,) = found.rates
    forecast, seen = half.forecast, half.measured
    assert half.rps == pytest.approx(found.saturation.forecast_rps / 2, rel=0.01)
    assert seen.arrivals == pytest.approx(half.rps, abs=1)
    assert half.p99_ratio == pytest.approx(forecast.p99_ms / seen.p99_ms, rel=1e-3)
    ratios = [found.saturation.ratio, half.p99_ratio]
    assert found.within is all(abs(ratio - 1) <= 0.2 for ratio in ratios)
    assert [fit.clients for fit in found.calibration.fitted] == [1, 8]
    assert found.artifact_sha256 == artifact.sha256
    assert read(plain(found), Checked).within is found.within
    assert f"p99 ms at {half.rps:g} texts/s (50%)" in check_table(found)
    assert "shared" in check_note(found)


def test_the_batching_is_that_of_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "one.mar"

    def write(config: str) -> None:
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("model-config.yaml", config)

    write("batchSize: 8\nmaxBatchDelay: 5\nmaxWorkers: 1\n")
    assert archived_batching(archive) == Batching(8, 5)
    write("batchSize: 8\nmaxBatchDelay: 5\nmaxWorkers: 2\n")
    with pytest.raises(UserError, match="one worker"):
        archived_batching(archive)
    write("")
    with pytest.raises(UserError, match="how it is batched"):
        archived_batching(archive)
