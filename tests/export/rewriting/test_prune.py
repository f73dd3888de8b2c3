import copy
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedModel,
    RobertaConfig,
)

from export.rewriting import prune as pruning
from export.rewriting.prune import Importance, Shape, fit_shape, importance, prune
from handler.errors import UserError
from training.backbones import backbone

SIZES = {"vocab_size": 100, "num_labels": 3}
BERT_SIZES = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
CONFIGS = {
    "distilbert": DistilBertConfig(n_layers=3, dim=64, n_heads=4, hidden_dim=128, **SIZES),
    "bert": BertConfig(**BERT_SIZES, **SIZES),
    "roberta": RobertaConfig(**BERT_SIZES, **SIZES, max_position_embeddings=64),
}


def tiny(architecture: str = "distilbert", attention: str = "sdpa") -> PreTrainedModel:
    """Three layers of 64 with weights large enough for every part to matter."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[architecture])
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for linear in pruning.encoder_linears(model):
            linear.weight.normal_(std=0.15)
            linear.bias.normal_(std=0.15)
    return model


def texts(count: int = 6) -> dict[str, torch.Tensor]:
    """Texts of three lengths, and labels."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(count, 12, dtype=torch.int64)
    mask[::3, 7:] = 0
    mask[1::3, 10:] = 0
    ids = torch.randint(5, 100, (count, 12), generator=generator)
    return {
        "input_ids": ids.where(mask == 1, 1),
        "attention_mask": mask,
        "labels": torch.arange(count) % 3,
    }


def logits(model: PreTrainedModel) -> torch.Tensor:
    batch = texts()
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def made_up(model: PreTrainedModel) -> Importance:
    torch.manual_seed(2)
    layers = len(pruning.layers_of(model))
    return Importance(
        torch.rand(layers, pruning.head_counts(model)[0]), torch.rand(layers, pruning.widths(model)[0])
    )


def mask_all_but(model: PreTrainedModel, scores: Importance, shape: Shape) -> PreTrainedModel:
    """The dense model in which what is to be pruned no longer reaches the residual stream."""
    parts, size = pruning.anatomy(model), 16
    with torch.no_grad():
        for layer, heads, neurons in zip(pruning.layers_of(model), scores.heads, scores.neurons, strict=True):
            for head in heads.argsort()[: len(heads) - shape.heads]:
                layer.get_submodule(parts.attention_output).weight[:, head * size : (head + 1) * size] = 0
            layer.get_submodule(parts.down).weight[:, neurons.argsort()[: len(neurons) - shape.width]] = 0
    return model


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_pruned_model_says_what_the_dense_one_says_with_the_same_parts_masked(architecture: str) -> None:
    scores, shape = made_up(tiny(architecture)), Shape((0, 1, 2), heads=3, width=48)
    pruned = prune(tiny(architecture), scores, shape)
    masked = mask_all_but(tiny(architecture), scores, shape)
    torch.testing.assert_close(logits(pruned), logits(masked), atol=1e-5, rtol=0)
    assert (logits(pruned) - logits(tiny(architecture))).abs().max() > 0.01, "the parts had mattered"


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_pruned_model_is_read_back_as_it_was_saved(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    pruned = prune(model, made_up(model), Shape((0, 2), heads=1, width=32))
    pruned.save_pretrained(tmp_path)
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert pruning.describe(reloaded) == pruning.describe(pruned)
    assert pruning.describe(reloaded)["heads"] == [1, 1]
    assert pruning.describe(reloaded)["ffn_width"] == [32, 32]
    torch.testing.assert_close(logits(reloaded), logits(pruned), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [None, Shape((0, 2), heads=2, width=64)], ids=["dense", "pruned"])
def test_flops_are_what_torch_counts(shape: Shape | None) -> None:
    model = tiny(attention="eager")
    if shape:
        prune(model, made_up(model), shape)
    batch = texts(count=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    classifier = 2 * (64 * 64 + 64 * 3)
    assert pruning.encoder_flops(model, tokens=12) + classifier == counter.get_total_flops()


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("labelled", [True, False])
def test_parts_that_contribute_nothing_have_no_importance(architecture: str, labelled: bool) -> None:
    model = tiny(architecture)
    parts = pruning.anatomy(model)
    layer = pruning.layers_of(model)[1]
    with torch.no_grad():
        layer.get_submodule(parts.attention_output).weight[:, 32:48] = 0
        layer.get_submodule(parts.down).weight[:, 5] = 0
    scores = importance(model, [texts()], labelled=labelled)
    assert scores.heads[1, 2] == 0
    assert scores.neurons[1, 5] == 0
    assert (scores.heads == 0).sum() == 1
    assert (scores.neurons == 0).sum() == 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_importance_does_not_depend_on_how_texts_are_batched() -> None:
    model, whole = tiny(), texts()
    halves = [{name: tensor[part] for name, tensor in whole.items()} for part in (slice(3), slice(3, 6))]
    together, apart = (importance(model, batches, labelled=True) for batches in ([whole], halves))
    torch.testing.assert_close(together.heads, apart.heads, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(together.neurons, apart.neurons, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("keep", [0.25, 0.4, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("layers", [(0, 1, 2), (0, 2), (1,)])
def test_no_shape_takes_more_flops_than_it_may(keep: float, layers: tuple[int, ...]) -> None:
    model = tiny()
    before = pruning.linear_flops(model)
    shape = fit_shape(model, keep, layers)
    prune(model, made_up(model), shape)
    assert pruning.linear_flops(model) <= keep * before
    assert shape.width % 16 == 0


def test_depth_and_width_share_the_cut() -> None:
    assert [pruning.fit_depth(6, keep) for keep in (1.0, 0.5, 0.35, 0.25)] == [6, 4, 3, 3]
    assert pruning.fit_depth(2, 0.1) == 1


def test_the_embedded_base_is_pruned_to_whole_tiles() -> None:
    model, _ = backbone("random:distilbert-base", ["a", "b"])
    assert fit_shape(model, 0.5, range(6)) == Shape((0, 1, 2, 3, 4, 5), heads=6, width=1536)


def test_random_tiny_can_be_pruned_to_half_with_both_layers_or_one() -> None:
    for layers in ((0, 1), (0,)):
        model, _ = backbone("random:tiny", ["a", "b"])
        before = pruning.linear_flops(model)
        prune(model, made_up(model), fit_shape(model, 0.5, layers))
        assert pruning.linear_flops(model) <= before / 2


def test_a_share_that_leaves_nothing_is_refused_with_the_least_that_stays() -> None:
    with pytest.raises(UserError, match="one head and 16 neurons are the least"):
        fit_shape(tiny(), 0.01, (0, 1, 2))


def test_another_architecture_is_refused_with_those_that_are_known() -> None:
    config = AlbertConfig(
        hidden_size=32, num_attention_heads=2, intermediate_size=32, embedding_size=16, vocab_size=50
    )
    with pytest.raises(UserError, match=r"albert\. Train on one of bert, distilbert, roberta"):
        importance(AlbertForSequenceClassification(config), [], labelled=True)


def test_what_was_pruned_is_not_pruned_again() -> None:
    model = tiny()
    shape = Shape((0, 1, 2), heads=2, width=64)
    prune(model, made_up(model), shape)
    with pytest.raises(UserError, match="has been pruned before"):
        prune(model, made_up(model), shape)


def test_the_layer_that_does_least_is_dropped_first_and_the_model_stays_whole() -> None:
    model = tiny()
    with torch.no_grad():
        for path in ("attention.out_lin", "ffn.lin2"):
            idle = pruning.layers_of(model)[1].get_submodule(path)
            idle.weight.zero_()
            idle.bias.zero_()
    before = logits(model)
    assert pruning.choose_layers(model, 2, [texts()]) == (0, 2)
    assert len(pruning.layers_of(model)) == model.config.n_layers == 3
    assert torch.equal(logits(model), before)


def test_evenly_spaced_layers_hold_the_first_and_the_last() -> None:
    assert pruning.spaced_layers(6, 3) == (0, 2, 5)
    assert pruning.spaced_layers(12, 6) == (0, 2, 4, 7, 9, 11)
    assert pruning.spaced_layers(2, 1) == (0,)


def test_the_smallest_weights_become_zero_and_compress() -> None:
    model = tiny()
    dense = pruning.compressed_bytes(model)
    before = torch.cat([linear.weight.flatten() for linear in pruning.encoder_linears(model)])
    pruning.mask_smallest(model, 0.5)
    pruning.make_permanent(model)
    after = torch.cat([linear.weight.flatten() for linear in pruning.encoder_linears(model)])
    assert pruning.zeros(model) == pytest.approx(0.5, abs=1e-4)
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert pruning.compressed_bytes(model) < 0.7 * dense
    assert not [name for name in model.state_dict() if "mask" in name]


def test_two_of_four_keeps_the_two_largest_of_every_four() -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 5.0]])
    mask = pruning.two_of_four(weight)
    assert mask[0, :4].tolist() == [False, True, True, False]
    assert mask[0, 4:].sum() == 2
    assert mask[0, 7]
    assert pruning.fits_two_of_four(weight) == 0.5
    assert pruning.fits_two_of_four(weight * mask) == 1
    with pytest.raises(UserError, match="multiple of four"):
        pruning.two_of_four(torch.zeros(2, 6))
