"""What is trained, how fast each part moves, and what stays as it was."""

import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from handler.errors import UserError
from training import data
from training.backbones import backbone
from training.fit import (
    _ByLength,
    _last_complete,
    fit,
    freeze,
    parameter_groups,
    phases,
    remove_state,
    units_of,
)
from training.heads import Lesson
from training.recipe import Recipe

LABELS = ("not-hate", "hate")
BRIEF = Recipe(epochs=1, learning_rate=1e-2, batch_size=32)


@pytest.fixture(scope="module")
def dataset(small_jsonl: Path) -> data.Dataset:
    return data.load(f"jsonl:{small_jsonl}")


@pytest.fixture
def model_and_tokenizer():
    return backbone("random:tiny", LABELS)


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(model, before) -> set[str]:
    """The parts that changed: embeddings, transformer, or the head."""
    names = {name for name, now in model.named_parameters() if not torch.equal(now, before[name])}
    return {next((part for part in ("embeddings", "transformer") if part in name), "head") for name in names}


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        ("none", {"embeddings", "transformer", "head"}),
        ("embeddings", {"transformer", "head"}),
        ("encoder", {"head"}),
    ],
)
def test_what_is_frozen_keeps_its_weights(dataset, model_and_tokenizer, tmp_path, frozen, trained) -> None:
    model, tokenizer = model_and_tokenizer
    before = snapshot(model)
    fit(model, tokenizer, dataset, replace(BRIEF, freeze=frozen), tmp_path / "state")
    assert moved(model, before) == trained
    assert all(parameter.requires_grad for parameter in model.parameters()), "for whoever trains it further"


def test_two_phases_train_the_head_alone_first(dataset, model_and_tokenizer, tmp_path) -> None:
    model, tokenizer = model_and_tokenizer
    recipe = replace(BRIEF, head_epochs=2, head_learning_rate=1e-2, freeze="embeddings")
    head, rest = phases(recipe)
    assert (head.freeze, head.epochs, head.learning_rate) == ("encoder", 2, 1e-2)
    assert (rest.freeze, rest.epochs, rest.learning_rate) == ("embeddings", 1, 1e-2)
    before = snapshot(model)
    fit(model, tokenizer, dataset, recipe, tmp_path / "state")
    assert moved(model, before) == {"transformer", "head"}


def test_each_layer_learns_slower_than_the_one_above(model_and_tokenizer) -> None:
    model, _ = model_and_tokenizer
    rate_of = {}
    freeze(model, "none")
    for group in parameter_groups(model, replace(Recipe(), learning_rate=1.0, layer_decay=0.5)):
        for parameter in group["params"]:
            rate_of[id(parameter)] = group["lr"]
    rates = {name: rate_of[id(parameter)] for name, parameter in model.named_parameters()}
    assert rates["classifier.weight"] == 1
    assert rates["distilbert.transformer.layer.1.attention.q_lin.weight"] == 1
    assert rates["distilbert.transformer.layer.0.attention.q_lin.weight"] == 0.5
    assert rates["distilbert.embeddings.word_embeddings.weight"] == 0.25


def test_what_stands_above_the_last_layer_learns_as_fast_as_it() -> None:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50
    )
    model = transformers.BertForSequenceClassification(config)
    groups = parameter_groups(model, replace(Recipe(), learning_rate=1.0, layer_decay=0.5))
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    rates = {name: rate_of[id(parameter)] for name, parameter in model.named_parameters()}
    assert rates["bert.pooler.dense.weight"] == rates["classifier.weight"] == 1
    assert rates["bert.encoder.layer.0.output.dense.weight"] == 0.5
    assert rates["bert.embeddings.LayerNorm.weight"] == 0.25


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_a_decoders_embeddings_can_be_frozen_too(family: str) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
    sizes |= {"intermediate_size": 64} if family == "Llama" else {}
    model = getattr(transformers, f"{family}ForSequenceClassification")(
        getattr(transformers, f"{family}Config")(**sizes)
    )
    freeze(model, "embeddings")
    frozen = {
        name.split(".")[-2] for name, parameter in model.named_parameters() if not parameter.requires_grad
    }
    assert frozen == ({"embed_tokens"} if family == "Llama" else {"wte", "wpe"})


def test_each_epoch_has_its_own_order_and_a_resumed_one_has_it_too(dataset, tmp_path) -> None:
    orders = {}
    for run, resume in (("whole", False), ("parts", False), ("parts", True)):
        model, tokenizer = backbone("random:tiny", LABELS)
        watcher = Orders(stop_after=1 if (run, resume) == ("parts", False) else None)
        recipe = replace(BRIEF, epochs=3, learning_rate=1e-3, patience=9)
        with contextlib.suppress(KeyboardInterrupt):
            fit(model, tokenizer, dataset, recipe, tmp_path / run, resume=resume, callbacks=[watcher])
        orders.setdefault(run, []).extend(watcher.seen)
    assert orders["whole"] == orders["parts"] == [0, 1, 2]
    lengths = [len(text) for text in dataset.splits["train"].texts]
    sampler = _ByLength(4, lengths, [[row] for row in range(len(lengths))], seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    sampler.set_epoch(1)
    assert list(sampler) == second


def test_the_texts_of_a_group_stay_together_in_every_epoch(dataset) -> None:
    split = dataset.splits["train"]
    groups = np.arange(len(split), dtype=np.uint64) // 2
    order = np.random.default_rng(0).permutation(len(split))
    paired = replace(split.take(order), groups=groups[order])
    units = units_of(paired)
    assert {len(unit) for unit in units} <= {1, 2}
    assert {tuple(paired.groups[unit]) for unit in units if len(unit) == 2} == {
        (group, group) for group in range(len(split) // 2)
    }
    sampler = _ByLength(4, [len(text) for text in paired.texts], units, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        assert sorted(rows) == list(range(len(split)))
        assert len(sampler) == len(split)
        places = {row: place for place, row in enumerate(rows)}
        assert all(max(map(places.get, unit)) - min(map(places.get, unit)) == len(unit) - 1 for unit in units)


def test_pairs_need_groups_and_batches(dataset, tmp_path) -> None:
    model, tokenizer = backbone("random:tiny", LABELS)
    with pytest.raises(UserError, match="no groups"):
        fit(model, tokenizer, dataset, replace(BRIEF, pairs=True), tmp_path / "state")
    train = dataset.splits["train"]
    grouped = replace(train, groups=np.arange(len(train), dtype=np.uint64))
    paired = replace(dataset, splits={**dataset.splits, "train": grouped})
    with pytest.raises(UserError, match="not in batches"):
        fit(model, tokenizer, paired, replace(BRIEF, pairs=True, head="fourier"), tmp_path / "state")


def test_a_cut_while_a_state_is_saved_leaves_the_one_before(dataset, tmp_path, monkeypatch) -> None:
    model, tokenizer = backbone("random:tiny", LABELS)
    saved: list[Path] = []

    def cut_at_the_second(folder: Path) -> None:
        saved.append(folder)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("training.fit.sync_tree", cut_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        fit(model, tokenizer, dataset, BRIEF, tmp_path / "state", save_minutes=0)
    assert _last_complete(tmp_path / "state" / "none") == saved[0]


class Orders(transformers.TrainerCallback):
    """The epochs that the sampler was told, and an interruption once some are saved."""

    def __init__(self, stop_after: int | None) -> None:
        self.seen: list[int] = []
        self.stop_after = stop_after

    def on_epoch_end(self, *args, train_dataloader=None, **kwargs) -> None:
        self.seen.append(train_dataloader.batch_sampler.sampler.epoch)

    def on_save(self, *args, **kwargs) -> None:
        if self.stop_after == len(self.seen):
            raise KeyboardInterrupt


def test_a_folder_that_holds_no_training_state_is_left_alone(dataset, model_and_tokenizer, tmp_path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "thesis.txt").write_text("the only copy")
    with pytest.raises(UserError, match="contains files that are not the state of a training"):
        fit(*model_and_tokenizer, dataset, BRIEF, tmp_path / "state")
    assert (tmp_path / "state" / "thesis.txt").read_text() == "the only copy"


def test_a_state_of_which_something_could_not_be_removed_is_known_again(tmp_path, monkeypatch) -> None:
    state = tmp_path / "state"
    (state / "none" / "checkpoint-1").mkdir(parents=True)
    (state / "run.json").write_text("{}")
    (state / "none" / "checkpoint-1" / "optimizer.pt").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", unable)
        with pytest.raises(OSError, match="Input/output error"):
            remove_state(state)
    assert (state / "run.json").is_file()
    remove_state(state)
    assert not state.exists()
    remove_state(state)


def unable(*_, **__):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_vectors_are_not_decayed(model_and_tokenizer) -> None:
    model, _ = model_and_tokenizer
    freeze(model, "none")
    for group in parameter_groups(model, Recipe()):
        dimensions = {parameter.dim() for parameter in group["params"]}
        assert dimensions == ({1} if group["weight_decay"] == 0 else {2})


def test_a_text_without_weight_teaches_nothing(dataset, tmp_path) -> None:
    """Half of train has its label turned round and a weight of zero: the model is that of a clean half."""
    train = dataset.splits["train"]
    half = np.arange(len(train)) % 2
    turned = replace(train, labels=np.where(half == 1, 1 - train.labels, train.labels))
    found = []
    for labels, weights in ((train, 1 - half), (turned, 1 - half)):
        model, tokenizer = backbone("random:tiny", LABELS)
        splits = {**dataset.splits, "train": replace(labels, weights=weights.astype(np.float32))}
        recipe = replace(BRIEF, dropout=0.0)
        fit(model, tokenizer, replace(dataset, splits=splits), recipe, tmp_path / "state")
        found.append(snapshot(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_teacher_is_followed_where_the_labels_say_nothing(dataset, model_and_tokenizer, tmp_path) -> None:
    """With all of the loss from a teacher that calls everything hate, so does the student."""
    model, tokenizer = model_and_tokenizer
    teacher = np.tile(np.array([-3.0, 3.0], np.float32), (len(dataset.splits["train"]), 1))
    recipe = replace(BRIEF, teacher_weight=1.0, epochs=2, patience=5)
    fit(model, tokenizer, dataset, recipe, tmp_path / "state", teacher=Lesson(teacher))
    encoded = tokenizer(dataset.splits["validation"].texts[:8], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**encoded).logits
    assert (logits[:, 1] > logits[:, 0] + 1).all()


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_encoder_moves_back_to_its_pretrained_weights(share, dataset, tmp_path) -> None:
    found = []
    for part in (0.0, share):
        model, tokenizer = backbone("random:tiny", LABELS)
        before = snapshot(model)
        recipe = replace(BRIEF, pretrained_share=part)
        fit(model, tokenizer, dataset, recipe, tmp_path / "state")
        found.append(snapshot(model))
    trained, averaged = found
    for name, value in trained.items():
        moved = name.startswith("distilbert.")
        expected = torch.lerp(value, before[name], share) if moved else value
        torch.testing.assert_close(averaged[name], expected)
    assert any(not torch.equal(trained[name], before[name]) for name in before)


def test_independent_labels_are_trained_on_probabilities(dataset, tmp_path) -> None:
    rows = {
        name: replace(
            split,
            labels=np.stack([split.labels, 1 - split.labels], axis=1),
            soft=np.tile(np.array([0.9, 0.2], np.float32), (len(split), 1)),
        )
        for name, split in dataset.splits.items()
    }
    model, tokenizer = backbone("random:tiny", LABELS)
    both = replace(dataset, splits=rows, task="multi-label")
    fit(model, tokenizer, both, replace(BRIEF, batch_size=4), tmp_path / "state")
    encoded = tokenizer(dataset.splits["validation"].texts[:8], padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = torch.sigmoid(model.eval()(**encoded).logits)
    assert scores[:, 0].mean() > 0.7
    assert scores[:, 1].mean() < 0.4
