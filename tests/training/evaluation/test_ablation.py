"""What checkpoints of several recipes get right, side by side."""

import json
from pathlib import Path

import pytest

from benchmarks.report.files import read_ablation
from tests.conftest import refused
from training.__main__ import main
from training.measures import functional
from training.measures.ablation import KINDS, NAME, Ablation, Passed, Row, excerpt, table


@pytest.fixture(scope="module")
def checkpoints(small_jsonl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trainings that differ in their head, with evaluations of validation."""
    place = tmp_path_factory.mktemp("ablation")
    folders = [place / head for head in ("logistic", "fourier")]
    for folder in folders:
        settings = ["--base", "random:tiny", "--head", folder.name, "--track", "none"]
        train = ["train", "--data", f"jsonl:{small_jsonl}", *settings, "--output", folder]
        assert main(list(map(str, train))) == 0
        assert main(["evaluate", "--checkpoint", str(folder), "--sample", "0"]) == 0
    return folders


def test_every_functionality_belongs_to_one_kind() -> None:
    ours = dict.fromkeys(functional.templates().functionality)
    assert sorted(name for names in KINDS.values() for name in names) == sorted(ours)


def test_the_figures_are_those_of_the_evaluations(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["ablation", *map(str, checkpoints), "--output", str(tmp_path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in shown["rows"]] == ["logistic", "fourier"]
    found = read_ablation(tmp_path / f"{NAME}.json")
    for row, folder in zip(found.rows, checkpoints, strict=True):
        evaluation = json.loads((folder / "evaluation/validation/evaluation.json").read_text())
        suite = evaluation["functional"]["templates"]
        assert list(row.macro_f1.values()) == [evaluation["figures"]["macro_f1"]]
        assert sum(passed.n for passed in row.passed.values()) == suite["n"]
        assert sum(passed.passed for passed in row.passed.values()) == suite["passed"]
        assert row.subgroup_auc == min(group["subgroup_auc"] for group in suite["groups"])
        assert row.background_auc == min(group["bpsn_auc"] for group in suite["groups"])


def test_checkpoints_of_other_texts_are_refused(checkpoints: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "evaluation/validation").mkdir(parents=True)
    description = json.loads((checkpoints[0] / "checkpoint.json").read_text())
    description["data"]["spec"] = "demo"
    (other / "checkpoint.json").write_text(json.dumps(description))
    evaluation = (checkpoints[0] / "evaluation/validation/evaluation.json").read_text()
    (other / "evaluation/validation/evaluation.json").write_text(evaluation)
    assert "not judged on the same texts" in refused("training", "ablation", checkpoints[0], other)


def test_a_cell_without_a_figure_is_a_dash() -> None:
    plain = {kind: Passed(40, 30) for kind in KINDS}
    both = Row("both", "a+b", "minilm", {"a": 0.7, "b": 0.6}, plain, 0.91, 0.52)
    alone = Row("alone", "a", "minilm", {"a": 0.65}, {}, None, None)
    found = Ablation("validation", [both, alone])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(found).splitlines()]
    assert cells[0] == ["", "a", "b", *KINDS, "subgroup AUC", "background AUC"]
    assert cells[2] == ["both", "0.700", "0.600", *["75%"] * len(KINDS), "0.910", "0.520"]
    assert cells[3] == ["alone", "0.650", *["–"] * (len(KINDS) + 3)]
    assert "40 of plain hate" in excerpt(found)
