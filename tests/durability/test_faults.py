"""Whole commands of which one call to the system fails: the old or the new, a sentence, and then it succeeds.

Published figures are of more calls: `tests.durability.faults` says how.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.durability.faults import lacking

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("work", "trials"), [("scoring", 20), ("export", 8), ("training", 8)])
def test_a_call_that_fails_costs_nothing(
    work: str, trials: int, build_once, checkpoint_folder, tmp_path
) -> None:
    if why := lacking():
        pytest.skip(why)
    subject = build_once("onnx-fp32").folder if work == "scoring" else checkpoint_folder
    command = [sys.executable, "-m", "tests.durability.faults", work, "--of", subject]
    done = subprocess.run(
        [*command, "--folder", tmp_path, "--trials", str(trials)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)["outcomes"]
    assert sum(outcomes.values()) == trials
    counted = sum(count for outcome, count in outcomes.items() if "not counted" not in outcome)
    assert counted > trials / 2
