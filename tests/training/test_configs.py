"""Every configuration is read, names data that exists, and says how it is used."""

from pathlib import Path

import pytest

from handler.errors import UserError
from training.__main__ import PROGRAM
from training.data import sources
from training.options import columns, recipe

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_read_and_a_flag_overrides_it(path: Path) -> None:
    options = PROGRAM.parser("train").parse_args(["--config", str(path)])
    assert sources.parse(options.data)
    assert recipe(options).epochs > 0
    assert recipe(PROGRAM.parser("train").parse_args(["--config", str(path), "--epochs", "7"])).epochs == 7
    assert path.read_text().startswith("# ")


def test_sets_are_listed_and_label_columns_too(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(
        "data: [tweeteval, davidson:binary*0.5]\nlabel_column: [toxicity, insult]\nsoft_targets: false\n"
    )
    options = PROGRAM.parser("train").parse_args(["--config", str(file)])
    assert options.data == "tweeteval+davidson:binary*0.5"
    assert columns(options).label == "toxicity,insult"
    assert not recipe(options).soft_targets


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("freeze: encodr", "Choose none or embeddings or encoder"),
        ("epoch: 3", r"Did you mean epochs\?"),
        ("trust_remote_code: 0", "Write true or false"),
        ('resume: "false"', "Write true or false"),
        ("test:", "Write true or false"),
        ("teacher:", "remove the line"),
        ("epochs: true", "remove the line"),
    ],
)
def test_a_wrong_setting_is_a_sentence(tmp_path: Path, line: str, sentence: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=sentence):
        PROGRAM.parser("train").parse_args(["--config", str(file)])


@pytest.mark.parametrize(
    "flag",
    [
        ("--dropout", "1.5"),
        ("--seed", "-1"),
        ("--split-seed", "-1"),
        ("--teacher-temperature", "0"),
        ("--label-smoothing", "3"),
        ("--teacher-weight", "2"),
    ],
    ids=" ".join,
)
def test_a_value_out_of_range_is_refused_before_any_work(flag: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        PROGRAM.parser("train").parse_args(flag)
    assert ended.value.code == 2
