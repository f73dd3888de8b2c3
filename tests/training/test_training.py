"""From data to checkpoint with a tiny random model, the way a person runs it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from common.records import read
from handler.errors import UserError
from tests.conftest import refused
from training import data
from training.__main__ import PROGRAM, main
from training.backbones import backbone
from training.checkpoint import load_data, open_checkpoint
from training.description import Description
from training.fit import fit, predict_logits
from training.measures.metrics import evaluate
from training.recipe import Recipe, default_recipe

ROOT = Path(__file__).parents[2]


class Interrupt(TrainerCallback):
    """A person at the keyboard, once the first epoch is saved."""

    def on_save(self, *args, **kwargs):
        raise KeyboardInterrupt


def argv(small_jsonl, output, *more):
    return ["--data", f"jsonl:{small_jsonl}", "--base", "random:tiny", "--output", str(output), *more]


@pytest.fixture(scope="module")
def trained(small_jsonl, tmp_path_factory):
    output = tmp_path_factory.mktemp("build") / "checkpoint"
    assert main(argv(small_jsonl, output, "--epochs", "1", "--learning-rate", "1e-2")) == 0
    return open_checkpoint(output)


def test_the_record_is_opened_as_it_was_written(trained):
    assert trained.meta.data.splits["gate"].n == 60
    assert trained.meta.recipe["epochs"] == 1


def test_no_text_of_the_data_is_in_the_record(trained):
    record = (trained.folder / "checkpoint.json").read_text()
    assert not [
        text for split in load_data(trained).splits.values() for text in split.texts if text in record
    ]


def test_the_checkpoint_is_read_by_transformers_and_gives_the_recorded_figures(trained):
    model = AutoModelForSequenceClassification.from_pretrained(trained.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained.folder)
    assert model.config.id2label == {0: "not-hate", 1: "hate"}
    validation = load_data(trained).splits["validation"]
    logits = predict_logits(model, tokenizer, validation.texts, 128) / trained.meta.temperature
    scores = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    found = evaluate(scores, validation.labels, trained.meta.thresholds, trained.labels)
    recorded = trained.meta.metrics["validation"]
    # Not to the last digit: a score at the threshold may be rounded to either side of it.
    assert found.brier == pytest.approx(recorded.brier, rel=1e-4)
    assert found.accuracy == pytest.approx(recorded.accuracy, abs=1.5 / len(validation))


def test_the_training_state_is_removed_once_the_checkpoint_is_complete(trained):
    left = sorted(entry.name for entry in trained.folder.parent.iterdir())
    assert left == ["checkpoint", "runs"], "and what TensorBoard shows of the run"


def test_random_weights_are_not_trained_unless_asked(small_jsonl, tmp_path, capsys):
    main(argv(small_jsonl, tmp_path / "checkpoint"))
    captured = capsys.readouterr()
    meta = read(json.loads(captured.out), Description)
    assert "its head stays random" in captured.err
    assert (meta.temperature, meta.thresholds, meta.recipe["epochs"]) == (1, {"hate": 0.5}, 0)


def test_an_interrupted_run_resumes_and_ends_where_an_uninterrupted_one_does(small_jsonl, tmp_path, capsys):
    more = ("--epochs", "2", "--learning-rate", "1e-3")
    main(argv(small_jsonl, tmp_path / "whole", *more))
    dataset = data.load(f"jsonl:{small_jsonl}")
    state = tmp_path / "parts-state"
    recipe = Recipe(epochs=2, learning_rate=1e-3)
    model, tokenizer = backbone("random:tiny", dataset.labels, 0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, tokenizer, dataset, recipe, state, base="random:tiny", callbacks=[Interrupt()])
    (state / "checkpoint-999").mkdir()  # as left by an interruption while saving
    capsys.readouterr()
    main(argv(small_jsonl, tmp_path / "parts", *more, "--resume"))
    said = capsys.readouterr().err
    assert "resuming after step 5" in said
    assert "epoch 1:" not in said
    whole, parts = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in ("whole", "parts")
    )
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one, msg=name)


def test_a_run_is_not_resumed_with_other_settings(small_jsonl, tmp_path):
    dataset = data.load(f"jsonl:{small_jsonl}")
    model, tokenizer = backbone("random:tiny", dataset.labels, 0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, tokenizer, dataset, Recipe(epochs=2), tmp_path / "state", callbacks=[Interrupt()])
    with pytest.raises(UserError, match="seed 0 then, 1 now"):
        fit(model, tokenizer, dataset, Recipe(epochs=2, seed=1), tmp_path / "state", resume=True)


def test_logits_do_not_depend_on_the_order_of_the_texts(small_jsonl):
    dataset = data.load(f"jsonl:{small_jsonl}")
    model, tokenizer = backbone("random:tiny", dataset.labels, 0)
    texts = dataset.splits["train"].texts[:50]
    forward = predict_logits(model, tokenizer, texts, 128, batch_size=8)
    backward = predict_logits(model, tokenizer, texts[::-1], 128, batch_size=8)
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-5)
    assert len(np.unique(forward[:, 0])) > 25


def test_flags_override_yaml_and_yaml_overrides_defaults(tmp_path):
    config = tmp_path / "some.yaml"
    config.write_text("data: tweeteval\nlearning-rate: 2e-5\nbatch_size: 8\n")
    options = PROGRAM.parser("train").parse_args(["--config", str(config), "--batch-size", "16"])
    assert (options.data, options.learning_rate, options.batch_size) == ("tweeteval", 2e-5, 16)
    assert options.base == "minilm"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("epoch: 3", "Did you mean epochs?"), ("- 3", "contains no settings"), ("{", "is not YAML")],
)
def test_a_wrong_config_is_answered_with_a_sentence(tmp_path, content, sentence):
    config = tmp_path / "some.yaml"
    config.write_text(content)
    with pytest.raises(UserError) as error:
        PROGRAM.parser("train").parse_args(["--config", str(config)])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--data", "twteval"], "Did you mean tweeteval?"),
        (["--data", "csv:/no/such.csv"], "Check the path"),
        (["--epochs", "-1"], "must be 0 or more"),
        (["--epochs", "many"], "--epochs"),
    ],
)
def test_a_users_mistake_ends_with_a_sentence_and_status_2(arguments, part):
    assert part in refused("training", *arguments)


def test_logits_after_bf16_training_are_those_of_the_saved_weights(small_jsonl, tmp_path):
    """The Trainer leaves its autocast on the model; calibration must not be fitted to it."""
    dataset = data.load(f"jsonl:{small_jsonl}")
    recipe = replace(default_recipe("random:tiny"), epochs=1, learning_rate=2e-3)
    model, tokenizer = backbone("random:tiny", dataset.labels, 0)
    fit(model, tokenizer, dataset, recipe, tmp_path / "state", base="random:tiny")
    texts = dataset.splits["train"].texts
    fitted = predict_logits(model, tokenizer, texts, 128)
    model.save_pretrained(tmp_path / "saved")
    saved = type(model).from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(fitted, predict_logits(saved, tokenizer, texts, 128), atol=1e-6)


def test_test_is_figured_with_and_without_the_texts_that_stood_in_train(tmp_path, capsys):
    texts = tmp_path / "texts"
    texts.mkdir()
    rows = [f"text {row},{'ok' if row % 2 else 'bad'}" for row in range(80)]
    (texts / "train.csv").write_text("\n".join(["text,label", *rows[:60], *rows[70:73]]))
    (texts / "test.csv").write_text("\n".join(["text,label", *rows[60:]]))
    output = tmp_path / "checkpoint"
    assert main(["--data", f"csv:{texts}", "--base", "random:tiny", "--output", str(output)]) == 0
    meta = open_checkpoint(output).meta
    assert meta.data.leaks["test"].texts == 3
    assert (meta.metrics["test"].n, meta.metrics["test_without_leaks"].n) == (20, 17)
    assert "test without leaks" in capsys.readouterr().err
