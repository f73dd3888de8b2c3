"""A power cut, or a call to the system that fails, leaves the old or the new, never neither; what goes on
afterwards has every row once. Published figures are of more: `cuts.py` and `faults.py` say how."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.durability.faults import lacking


@pytest.fixture
def outcomes(build_once, checkpoint_folder: Path, tmp_path: Path):
    """Run a program of this folder on a kind of work; how often it came to each outcome."""

    def run(program: str, work: str, *options: str, before: tuple[str, ...] = ()) -> dict[str, int]:
        subject = build_once("onnx-fp32").folder if work == "scoring" else checkpoint_folder
        command = [*before, sys.executable, "-m", f"tests.durability.{program}", work, "--of", subject]
        command += ["--folder", tmp_path, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["outcomes"]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("work", ["scoring", "export", "training"])
def test_a_power_cut_leaves_the_old_or_the_new(work: str, outcomes) -> None:
    if os.geteuid() or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        pytest.skip("needs root, mkfs.ext4 and loop devices")
    assert sum(outcomes("cuts", work, "--cuts", "8", before=("unshare", "-m")).values()) == 8


@pytest.mark.slow
@pytest.mark.parametrize(("work", "trials"), [("scoring", 20), ("export", 8), ("training", 8)])
def test_a_call_that_fails_costs_nothing(work: str, trials: int, outcomes) -> None:
    if why := lacking():
        pytest.skip(why)
    found = outcomes("faults", work, "--trials", str(trials))
    assert sum(found.values()) == trials
    counted = sum(count for outcome, count in found.items() if "not counted" not in outcome)
    assert counted > trials / 2
