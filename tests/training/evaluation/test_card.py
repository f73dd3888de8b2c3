import json
import shutil
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from msgspec import structs

from training.__main__ import PROGRAM, main
from training.checkpoint import Checkpoint, open_checkpoint
from training.evaluation.card import card, command_line, read_evaluations, write_card
from training.evaluation.page import short


@pytest.fixture
def copy(checkpoint, tmp_path):
    shutil.copytree(checkpoint.folder, tmp_path / "checkpoint")
    return open_checkpoint(tmp_path / "checkpoint")


def test_a_training_ends_with_a_card(checkpoint):
    text = (checkpoint.folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["pipeline_tag"] == "text-classification"
    assert "license" not in front
    assert "base_model" not in front  # random weights have none
    (first, second) = front["model-index"][0]["results"]
    assert (first["dataset"]["split"], second["dataset"]["split"]) == ("validation", "test")
    assert first["metrics"][0]["value"] == round(checkpoint.meta.metrics["validation"].macro_f1, 4)


def test_the_hub_reads_the_card(checkpoint):
    data = ModelCard.load(checkpoint.folder / "README.md").data
    assert {result.dataset_split for result in data.eval_results} == {"validation", "test"}


def test_an_evaluation_refreshes_the_card_and_leaves_the_checkpoint_what_it_was(copy, monkeypatch):
    before = {file.name: file.read_bytes() for file in copy.folder.iterdir() if file.name != "README.md"}
    assert "## Robustness" not in (copy.folder / "README.md").read_text()
    main(["evaluate", "--checkpoint", str(copy.folder), "--sample", "25"])
    text = (copy.folder / "README.md").read_text()
    for part in (
        "## Robustness, on validation",
        "## Functional suite",
        "(evaluation/validation/evaluation.md)",
    ):
        assert part in text
    after = {file.name: file.read_bytes() for file in copy.folder.iterdir() if file.is_file()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"README.md"}
    assert open_checkpoint(copy.folder) == copy


def test_results_of_other_weights_are_passed_over(copy, evaluated):
    shutil.copytree(evaluated, copy.folder / "evaluation" / "validation")
    assert len(read_evaluations(copy, copy.folder / "evaluation")) == 1
    file = copy.folder / "evaluation" / "validation" / "evaluation.json"
    document = json.loads(file.read_text())
    document["checkpoint"]["weights_sha256"] = "0" * 64
    file.write_text(json.dumps(document))
    write_card(copy)
    assert "## Robustness" not in (copy.folder / "README.md").read_text()


def test_what_training_measured_too_has_one_row_with_its_interval(copy, evaluated):
    shutil.copytree(evaluated, copy.folder / "evaluation" / "validation")
    (evaluation,) = read_evaluations(copy, copy.folder / "evaluation")
    joined = structs.replace(evaluation, others={"other": evaluation.figures})
    plain = structs.replace(evaluation.figures, macro_f1_low=None, macro_f1_high=None)
    metrics = copy.meta.metrics | {"validation of other": plain}
    meta = structs.replace(copy.meta, metrics=metrics)
    shown = card(replace(copy, meta=meta), [joined])
    (row,) = [line for line in shown.splitlines() if line.startswith("| validation of other")]
    assert " to " in row.split("|")[3]


def test_an_evaluation_that_lies_elsewhere_has_its_card_there(evaluated, checkpoint):
    assert "## Robustness" in (evaluated.parent / "README.md").read_text()
    assert "## Robustness" not in (checkpoint.folder / "README.md").read_text()


def test_the_command_line_gives_the_recipe_again(checkpoint):
    words = command_line(checkpoint.meta).split()
    assert words[:3] == ["python", "-m", "training"]
    options = PROGRAM.parser("train").parse_args(words[3:])
    assert (options.epochs, options.learning_rate, options.base) == (1, 1e-2, "random:tiny")
    assert options.batch_size is None  # as by default
    recipe = checkpoint.meta.recipe | {"soft_targets": False, "teacher": "/x/best"}
    meta = structs.replace(checkpoint.meta, recipe=recipe)
    assert "--no-soft-targets" in command_line(meta)
    assert "--teacher best" in command_line(meta)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("csv:/home/me/a+b/texts.csv*0.5", "csv:texts.csv*0.5"),
        ("csv:/a/b.csv+jsonl:/c/d.jsonl", "csv:b.csv+jsonl:d.jsonl"),
        ("tweeteval+davidson:binary*0.5", "tweeteval+davidson:binary*0.5"),
        ("hub:org/name:config", "hub:org/name:config"),
        ("distilbert/distilbert-base-uncased", "distilbert/distilbert-base-uncased"),
        ("/models/mine", "mine"),
        ("../models/mine", "mine"),
    ],
)
def test_folders_of_the_machine_are_left_out(given, wanted):
    assert short(given) == wanted


def test_known_sets_and_bases_have_their_names_on_the_hub(checkpoint):
    data = structs.replace(checkpoint.meta.data, spec="tweeteval+davidson:binary*0.5")
    text = card(replace(checkpoint, meta=structs.replace(checkpoint.meta, base="minilm", data=data)), [])
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert front["datasets"] == ["cardiffnlp/tweet_eval", "tdavidson/hate_speech_offensive"]
    assert "each text has weight 0.5 in the loss" in text
    assert "synthetic" not in text


def test_two_tasks_of_tweeteval_are_one_set_on_the_hub(checkpoint):
    spec = "tweeteval-offensive+tweeteval-offensive:as-not-hate"
    data = structs.replace(checkpoint.meta.data, spec=spec)
    text = card(replace(checkpoint, meta=structs.replace(checkpoint.meta, data=data)), [])
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["datasets"] == ["cardiffnlp/tweet_eval"]
    results = front["model-index"][0]["results"]
    assert {result["dataset"]["config"] for result in results} == {"offensive"}


def test_synthetic_data_and_adopted_models_are_said_to_be_such(checkpoint):
    meta = structs.replace(checkpoint.meta, data=structs.replace(checkpoint.meta.data, spec="demo"))
    assert "The data is synthetic" in card(replace(checkpoint, meta=meta), [])
    adopted = structs.replace(meta, base="/models/theirs", recipe={"adopted": True, "epochs": 0}, metrics={})
    text = card(Checkpoint(checkpoint.folder, adopted), [])
    assert "neither a temperature nor a threshold was fitted here" in text
    assert "fitted on validation" not in text
    assert "Trained elsewhere" in text
    assert "/models" not in text
