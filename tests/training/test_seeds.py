"""Trainings of one recipe with several seeds, side by side."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report.files import read_seeds
from tests.conftest import refused
from training.__main__ import main
from training.measures.seeds import NAME, Measured, Run, Seeds, excerpt, table


@pytest.fixture(scope="module")
def checkpoints(small_jsonl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trainings that differ in their seed, with evaluations of validation."""
    place = tmp_path_factory.mktemp("seeds")
    folders = [place / f"seed-{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        settings = ["--base", "random:tiny", "--head", "logistic", "--seed", seed, "--track", "none"]
        train = ["train", "--data", f"jsonl:{small_jsonl}", *settings, "--output", folder]
        assert main(list(map(str, train))) == 0
        assert main(["evaluate", "--checkpoint", str(folder), "--sample", "0"]) == 0
    return folders


def test_the_figures_are_those_of_the_evaluations(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["seeds", *map(str, checkpoints), "--output", str(tmp_path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    found = read_seeds(tmp_path / f"{NAME}.json")
    assert [run["name"] for run in shown["runs"]] == ["seed-0", "seed-1"]
    assert [run.seed for run in found.runs] == [0, 1]
    for run, folder in zip(found.runs, checkpoints, strict=True):
        evaluation = json.loads((folder / "evaluation/validation/evaluation.json").read_text())
        assert run.figures["validation"].macro_f1 == evaluation["figures"]["macro_f1"]
        assert run.figures["validation"].n == evaluation["figures"]["n"]


def test_checkpoints_of_two_recipes_are_refused(checkpoints: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    description = json.loads((checkpoints[0] / "checkpoint.json").read_text())
    description["recipe"]["head"] = "linear"
    (other / "checkpoint.json").write_text(json.dumps(description))
    assert "more than their seed" in refused("training", "seeds", checkpoints[0], other)


def test_a_checkpoint_that_was_not_evaluated_is_a_sentence(checkpoints: list[Path]) -> None:
    said = refused("training", "seeds", *checkpoints, "--split", "test")
    assert "has no valid evaluation" in said
    assert "training evaluate" in said


def test_the_last_row_is_the_median() -> None:
    values = (0.6, 0.5, 0.58)
    runs = [
        Run(f"seed-{seed}", seed, {"test": Measured(2970, value, value - 0.02, value + 0.02, 0.6, 0.7)})
        for seed, value in enumerate(values)
    ]
    found = Seeds("tweeteval", "minilm", "test", {}, runs)
    assert found.median("test") == np.median(values)
    assert table(found).splitlines()[-1].split("|")[3].strip() == "0.580"
    assert "0.500 (0.480 to 0.520), AUROC 0.700" in table(found)
    assert "2,970 of test" in excerpt(found)
