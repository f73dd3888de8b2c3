"""A power cut leaves the old or the new, never neither; a scoring job that goes on has every row once.

The published figures are of a hundred cuts each: `tests.durability.cuts` says how.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CUTS = 8


@pytest.mark.slow
@pytest.mark.parametrize("work", ["scoring", "export", "training"])
def test_a_power_cut_leaves_the_old_or_the_new(work: str, build_once, checkpoint_folder, tmp_path) -> None:
    if os.geteuid() or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        pytest.skip("needs root, mkfs.ext4 and loop devices")
    subject = build_once("onnx-fp32").folder if work == "scoring" else checkpoint_folder
    command = ["unshare", "-m", sys.executable, "-m", "tests.durability.cuts", work, "--of", subject]
    done = subprocess.run(
        [*command, "--folder", tmp_path, "--cuts", str(CUTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(json.loads(done.stdout)["outcomes"].values()) == CUTS
