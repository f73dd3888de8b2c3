"""Recipes compared on validation texts, of their own corpora and of others."""

import json
from pathlib import Path

import pytest

from benchmarks.report.files import read_recipes
from handler.errors import UserError
from tests.conftest import refused
from training import data
from training.__main__ import main
from training.compare import apart, without
from training.data import demo
from training.measures.comparison import NAME, Comparison, Judged, excerpt, table


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three files of made-up texts; the last repeats some of the first."""
    place = tmp_path_factory.mktemp("corpora")
    rows = demo.corpus(sizes={"train": 600})["train"]
    specs = []
    for name, part in (("a", rows[:250]), ("b", rows[250:450]), ("c", [*rows[450:], *rows[:50]])):
        lines = [json.dumps({"text": row.text, "label": ("not-hate", "hate")[row.label]}) for row in part]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
        specs.append(f"jsonl:{place / name}.jsonl")
    return specs


def test_each_recipe_is_judged_on_each_corpus_and_the_best_mean_wins(
    corpora: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = []
    for head in ("logistic", "fourier"):
        config = tmp_path / f"{head}.yaml"
        config.write_text(f"data: {json.dumps(corpora)}\nbase: random:tiny\nepochs: 1\nhead: {head}\n")
        configs.append(str(config))
    arguments = ["compare", "--leave-one-out", *configs, "--folder", str(tmp_path / "kept")]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["corpora"] == corpora
    assert set(first["recipes"]) == {"logistic", "fourier"}
    found = read_recipes(tmp_path / "kept" / f"{NAME}.json")
    scores = {name: found.mean(name) for name in first["recipes"]}
    assert first["winner"] == max(scores, key=scores.__getitem__)
    assert len(list((tmp_path / "kept").iterdir())) == 6 + 1
    assert main(arguments) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == first
    assert "training on" not in again.err, "figures are read back"


def test_recipes_and_data_are_compared_on_their_own_validation_texts(
    corpora: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "logistic.yaml"
    config.write_text(f"data: {json.dumps(corpora[1])}\nbase: random:tiny\nhead: logistic\n")
    datas = [corpora[0], f"{corpora[0]}+{corpora[1]}"]
    on = [argument for spec in datas for argument in ("--on", spec)]
    arguments = ["compare", config, *on, "--seeds", "2", "--folder", tmp_path / "kept"]
    assert main(list(map(str, arguments))) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["corpora"] == [corpora[0]]
    assert list(document["recipes"]) == [f"logistic on {spec}" for spec in datas]
    assert (document["left_out"], document["seeds"]) == (False, 2)
    kept = [path for path in (tmp_path / "kept").iterdir() if path.stem != NAME]
    assert len(kept) == len(datas) * 2
    validation = data.load(corpora[0]).splits["validation"]
    assert {judged[corpora[0]]["n"] for judged in document["recipes"].values()} == {len(validation)}
    page = excerpt(read_recipes(tmp_path / "kept" / f"{NAME}.json"))
    assert "best of each corpus" not in page
    assert "the mean of 2 seeds" in page


def test_recipes_that_are_judged_on_different_texts_are_refused(corpora: list[str], tmp_path: Path) -> None:
    config = tmp_path / "logistic.yaml"
    config.write_text(f"data: {json.dumps(corpora[1])}\nbase: random:tiny\nhead: logistic\n")
    arguments = ["training", "compare", config, "--on", corpora[0], "--on", corpora[1]]
    assert "not judged on the same texts" in refused(*arguments)


def test_the_corpus_left_out_gives_nothing_to_the_training(corpora: list[str]) -> None:
    joined = "+".join([corpora[0], f"{corpora[1]}*0.5", corpora[2]])
    assert without(joined, corpora[1]) == f"{corpora[0]}+{corpora[2]}"
    held_out = data.load(corpora[2]).splits["validation"]
    rest = data.load(corpora[0])
    known = {text for split in rest.splits.values() for text in split.texts}
    kept = apart(held_out, rest)
    assert 0 < len(kept) < len(held_out)
    assert not set(kept.texts) & known
    with pytest.raises(UserError, match="nothing to train on"):
        without(corpora[0], corpora[0])


def test_the_table_has_the_best_recipe_first_and_says_what_it_loses_to_the_best_of_each_corpus() -> None:
    recipes = {
        "worse": {"x": Judged(10, 0.4, 0.6), "y": Judged(1200, 0.8, None)},
        "better": {"x": Judged(10, 0.7, 0.6), "y": Judged(1200, 0.6, 0.9)},
    }
    found = Comparison(["x", "y"], recipes)
    lines = table(found).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["better", "worse", "best of each corpus"]
    assert [cell.strip() for cell in lines[2].split("|")[2:-1]] == [
        "0.700 0.600",
        "0.600 0.900",
        "0.650",
        "0.750",
    ]
    assert [cell.strip() for cell in lines[3].split("|")[3:-1]] == ["0.800 –", "0.600", "–"]
    assert found.regret == pytest.approx(0.1)
    assert "1,200 of y" in excerpt(found)


def test_a_configuration_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    assert "The settings cannot be read" in refused("training", "compare", tmp_path / "none.yaml")
