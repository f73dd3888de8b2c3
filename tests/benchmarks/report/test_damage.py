"""Do verdicts notice? Classifiers that were damaged on purpose, and an identical copy, in a real run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.inputs import prepare
from benchmarks.profiles import PROFILES
from benchmarks.records import Variant
from benchmarks.suite import measure
from common.atomic import write_json
from handler.artifact import DESCRIPTION, describe_files
from handler.self_check import FILE as SELF_CHECK

WEIGHTS = "model.safetensors"
WHOLE = replace(PROFILES["demo"], max_texts=None, blocks=6, most_blocks=6, single_texts=5)


def damaged(source: Path, folder: Path, noise: float = 0.0, threshold: float | None = None) -> None:
    """A copy of fp32's artifact with noise on every weight, in shares of its tensor's spread, or with another
    threshold; sealed as an export would, but noise is not refused by its self-check."""
    shutil.copytree(source, folder)
    if noise:
        (folder / SELF_CHECK).unlink()
        generator = torch.Generator().manual_seed(0)
        weights = load_file(folder / WEIGHTS)
        noisy = {
            name: values + noise * values.std() * torch.randn(values.shape, generator=generator)
            if values.dim() > 1
            else values
            for name, values in weights.items()
        }
        save_file(noisy, folder / WEIGHTS, metadata={"format": "pt"})
    meta = json.loads((folder / DESCRIPTION).read_text()) | {"name": folder.name}
    if threshold is not None:
        meta["thresholds"] = {"hate": threshold}
    write_json(folder / DESCRIPTION, meta | {"files": describe_files(folder)})


@pytest.fixture(scope="module")
def reports(build_once, checkpoint, dataset, tmp_path_factory) -> dict[str, Variant]:
    folder = tmp_path_factory.mktemp("damaged")
    source = build_once("fp32").folder
    shutil.copytree(source, folder / "fp32")
    damaged(source, folder / "copy")
    damaged(source, folder / "noisy", noise=8.0)
    damaged(source, folder / "shifted", threshold=0.99)
    subject = prepare([], folder, None, checkpoint, dataset, WHOLE)
    return {variant.name: variant for variant in measure(subject, WHOLE, threads=1).variants}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noisy", "shifted"])
def test_a_damaged_classifier_is_shown_to_be_worse(reports, name: str) -> None:
    verdict = reports[name].parity["gate"].noninferiority
    assert verdict.verdict == "fail"
    assert verdict.p_worse < verdict.level_worse


@pytest.mark.slow
def test_a_shifted_threshold_flips_in_one_direction_and_moves_no_score(reports) -> None:
    parity = reports["shifted"].parity["gate"]
    assert parity.flips["hate -> not-hate"] > 0 == parity.flips["not-hate -> hate"]
    assert parity.max_prob_diff == 0
    assert parity.auroc_drop.drop == 0


@pytest.mark.slow
def test_refitting_mends_a_shifted_threshold_and_no_noise(reports) -> None:
    fp32, shifted, noisy = (reports[name].quality["gate"] for name in ("fp32", "shifted", "noisy"))
    assert shifted.macro_f1 < fp32.macro_f1 - 0.02
    assert shifted.refitted.macro_f1 == pytest.approx(fp32.refitted.macro_f1)
    assert noisy.refitted.macro_f1 < fp32.refitted.macro_f1 - 0.02


@pytest.mark.slow
@pytest.mark.quiet
def test_an_identical_copy_is_not_shown_to_be_worse_and_not_another_speed(reports) -> None:
    verdict = reports["copy"].parity["gate"].noninferiority
    assert verdict.verdict != "fail"
    assert verdict.verdict == "pass" or verdict.smallest_margin > 0.01, "too few texts, or it passes"
    speeds = {entry.case: entry.speedup.verdict for entry in reports["copy"].latency}
    alike = ("equal", "not resolved")
    assert sum(verdict in alike for verdict in speeds.values()) >= len(speeds) - 1
