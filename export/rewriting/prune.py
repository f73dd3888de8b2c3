"""Pruning: make a trained encoder smaller, by the measured contribution of its parts.

Whole layers, attention heads and feed-forward neurons go, and what is left is a dense model, faster on any
machine. Or single weights become zero: any of them, which compresses well and runs no faster, or two in every
four, the pattern of NVIDIA's sparse tensor cores.
"""

import copy
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune as masks
from transformers import PreTrainedModel
from transformers.pytorch_utils import prune_linear_layer

from export.rewriting.distil import inputs_of, label_loss
from handler.errors import UserError
from training.anatomies import ANATOMIES, Anatomy

Batch = dict[str, torch.Tensor]  # input_ids, attention_mask, and labels where importance is measured

WIDTH_MULTIPLES = (64, 16)  # int8 kernels work in tiles of 64; what is narrower than that, in vectors of 16


@dataclass(frozen=True)
class Importance:
    """The mean contribution of each part to the loss: heads [layers, heads], neurons [layers, width]."""

    heads: torch.Tensor
    neurons: torch.Tensor


@dataclass(frozen=True)
class Shape:
    """What to keep: layers by number, and how many heads and feed-forward neurons in each of them."""

    layers: tuple[int, ...]
    heads: int
    width: int


def anatomy(model: PreTrainedModel) -> Anatomy:
    """Where this model keeps its parts; raises UserError for an unknown architecture."""
    kind = model.config.model_type
    if kind not in ANATOMIES:
        raise UserError(
            "this architecture cannot be pruned",
            seen=kind,
            remedy=f"Train on one of {', '.join(ANATOMIES)}, or leave the pruned variants out",
        )
    return ANATOMIES[kind]


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The encoder's layers, first to last."""
    layers = model.base_model.get_submodule(anatomy(model).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def encoder_linears(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers that can be pruned: not the embeddings, not the classifier's head."""
    return [module for module in layers_of(model).modules() if isinstance(module, nn.Linear)]


def head_counts(model: PreTrainedModel) -> list[int]:
    """Attention heads of each layer."""
    size = _head_size(model)
    query = anatomy(model).query
    return [_linear(layer, query).out_features // size for layer in layers_of(model)]


def widths(model: PreTrainedModel) -> list[int]:
    """Feed-forward neurons of each layer."""
    return [_linear(layer, anatomy(model).up).out_features for layer in layers_of(model)]


def encoder_flops(model: PreTrainedModel, tokens: int) -> int:
    """Floating-point operations of the encoder's layers for one text: linear layers and attention products.

    A multiplication and an addition are two; norms, activations and softmax are left out, as is customary.
    """
    attention = sum(4 * tokens**2 * heads * _head_size(model) for heads in head_counts(model))
    return tokens * linear_flops(model) + attention


def linear_flops(model: PreTrainedModel) -> int:
    """Floating-point operations of the encoder's linear layers for one token."""
    return sum(2 * linear.weight.numel() for linear in encoder_linears(model))


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """Facts for a proof: the sizes that pruning changes, read from the modules and not from the config."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": len(layers_of(model)),
        "heads": head_counts(model),
        "ffn_width": widths(model),
        "linear_flops_per_token": linear_flops(model),
        "encoder_flops_32_tokens": encoder_flops(model, 32),
    }


def importance(model: PreTrainedModel, batches: Iterable[Batch], *, labelled: bool) -> Importance:
    """How much each head and each feed-forward neuron contributes, to first order, averaged over texts.

    A part's output x scaled by a gate g changes the loss by dL/dg = x . dL/dx at g = 1: the first term of
    the Taylor expansion at its removal. Summed over the tokens of a text, in absolute value, averaged over
    texts (Michel et al. 2019, arXiv:1905.10650, eq. 2, for heads; Molchanov et al. 2019, arXiv:1906.10771,
    for neurons). The loss is (binary) cross-entropy where `labelled`, else the sum of squared logits.
    """
    model.eval()
    tapped = _Taps(model)
    heads = torch.zeros(len(layers_of(model)), head_counts(model)[0], dtype=torch.float64)
    neurons = torch.zeros(len(layers_of(model)), widths(model)[0], dtype=torch.float64)
    texts = 0
    try:
        for batch in batches:
            _loss(model, batch, labelled).backward()
            texts += len(batch["input_ids"])
            for layer, (attended, activated) in enumerate(tapped.changes()):
                heads[layer] += attended.unflatten(-1, (heads.shape[1], -1)).sum(-1).abs().sum(0)
                neurons[layer] += activated.abs().sum(0)
            model.zero_grad(set_to_none=True)
    finally:
        tapped.remove()
    return Importance(heads / max(texts, 1), neurons / max(texts, 1))


def fit_depth(depth: int, keep: float) -> int:
    """How many of `depth` layers to keep for the share `keep`: both depth and width are cut.

    Both by the square root, depth rounded down: of 6 layers, 4 with three quarters of each at a half, 3 with
    a half of each at a quarter. Fewer layers were as accurate as narrower ones, and call fewer kernels.
    """
    return max(1, math.floor(depth * math.sqrt(keep)))


def fit_shape(model: PreTrainedModel, keep: float, layers: Sequence[int]) -> Shape:
    """The widest shape of the given layers whose linear FLOPs are at most the share `keep` of the model's.

    Heads and neurons are cut by the same share, to whole tiles of what int8 kernels work in.
    """
    size = _head_size(model)
    hidden = model.config.hidden_size
    heads = head_counts(model)[0]
    width = widths(model)[0]
    budget = keep * linear_flops(model) / 2 / len(layers)  # weights of one layer
    share = min(1.0, budget / (4 * hidden * heads * size + 2 * hidden * width))
    step = max(1, WIDTH_MULTIPLES[0] // size) if heads * size >= 2 * WIDTH_MULTIPLES[0] else 1
    kept_heads = min(heads, max(1, round(share * heads / step) * step))
    left = int((budget - 4 * hidden * kept_heads * size) // (2 * hidden))
    while left < WIDTH_MULTIPLES[-1] and kept_heads > 1:
        kept_heads -= 1
        left += 2 * size
    if left < WIDTH_MULTIPLES[-1]:
        raise UserError(
            f"{len(layers)} layers cannot be pruned to that share of the FLOPs",
            seen=keep,
            remedy=f"Keep more, or fewer layers: one head and {WIDTH_MULTIPLES[-1]} neurons are the least",
        )
    multiple = next(multiple for multiple in WIDTH_MULTIPLES if left >= multiple)
    return Shape(tuple(layers), kept_heads, min(width, left // multiple * multiple))


def prune(model: PreTrainedModel, measured: Importance, shape: Shape) -> PreTrainedModel:
    """Remove, in place, all but the `shape`: the most important heads and neurons of the layers it names.

    The matrices become smaller and the config says so: `from_pretrained` reads back what was saved.
    Heads are removed by transformers' own `prune_heads`, whose config field `pruned_heads` it reloads by.
    """
    if model.config.pruned_heads:
        raise UserError(
            "the model has been pruned before", seen=model.config.pruned_heads, remedy="Prune the original"
        )
    parts = anatomy(model)
    for layer, scores in zip(layers_of(model), measured.neurons, strict=True):
        _keep_neurons(layer, parts, _best(scores, shape.width))
    setattr(model.config, parts.width_field, shape.width)
    keep_layers(model, shape.layers)
    unneeded = {
        position: sorted(set(range(len(scores))) - set(_best(scores, shape.heads)))
        for position, scores in enumerate(measured.heads[list(shape.layers)])
    }
    model.prune_heads({position: heads for position, heads in unneeded.items() if heads})
    model.config.pruned_heads = {position: sorted(heads) for position, heads in unneeded.items() if heads}
    return model


def keep_layers(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Drop, in place, every layer that is not named, as in Sajjad et al. 2020 (arXiv:2004.03844)."""
    parts = anatomy(model)
    layers = layers_of(model)
    model.base_model.set_submodule(parts.layers, nn.ModuleList(layers[number] for number in kept))
    setattr(model.config, parts.depth_field, len(kept))
    return model


def spaced_layers(depth: int, count: int) -> tuple[int, ...]:
    """`count` of `depth` layers, the first and the last among them, evenly spaced."""
    return tuple(torch.linspace(0, depth - 1, count).round().int().tolist())


@torch.no_grad()
def choose_layers(model: PreTrainedModel, count: int, batches: Sequence[Batch]) -> tuple[int, ...]:
    """The `count` layers that come closest, without training, to the whole model's logits (mean square).

    Two candidates compete: even spacing, and what is left after removing, one by one, the layer whose absence
    moves the logits the least.
    """
    whole = [model(**inputs_of(batch)).logits for batch in batches]

    def moved(candidate: tuple[int, ...]) -> float:
        thin = keep_layers(_sharing_copy(model), candidate)
        seen = (thin(**inputs_of(batch)).logits for batch in batches)
        errors = ((logits - known).square().sum().item() for logits, known in zip(seen, whole, strict=True))
        return float(sum(errors))

    depth = len(layers_of(model))
    greedy = tuple(range(depth))
    while len(greedy) > count:
        greedy = min((greedy[:gone] + greedy[gone + 1 :] for gone in range(len(greedy))), key=moved)
    return min(greedy, spaced_layers(depth, count), key=moved)


def mask_smallest(model: PreTrainedModel, sparsity: float) -> None:
    """Zero the share `sparsity` of the encoder's linear weights, the smallest of all in absolute value.

    The zeros hold through training, until `make_permanent` (Han et al. 2015, arXiv:1506.02626).
    """
    weights = [(linear, "weight") for linear in encoder_linears(model)]
    masks.global_unstructured(weights, pruning_method=masks.L1Unstructured, amount=sparsity)


def make_permanent(model: PreTrainedModel) -> None:
    """Turn masked weights into plain ones that hold zeros."""
    for linear in encoder_linears(model):
        masks.remove(linear, "weight")


def zeros(model: PreTrainedModel) -> float:
    """Share of the encoder's linear weights that are zero."""
    weights = [linear.weight for linear in encoder_linears(model)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def compressed_bytes(model: PreTrainedModel) -> int:
    """Bytes of the encoder's linear weights after zlib, as an archive would hold them."""
    contents = (linear.weight.detach().numpy().tobytes() for linear in encoder_linears(model))
    return sum(len(zlib.compress(content)) for content in contents)


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Mask, of bools, that keeps the two largest of every four consecutive weights of a row.

    The pattern that NVIDIA's sparse tensor cores run at twice the rate (Mishra et al. 2021,
    arXiv:2104.08378). Raises UserError where rows are no multiple of four long.
    """
    groups = _groups_of_four(weight).abs()
    kept = groups.topk(2, dim=-1).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter(-1, kept, True).reshape(weight.shape)


def fits_two_of_four(weight: torch.Tensor) -> float:
    """Share of the groups of four consecutive weights of which at least two are zero."""
    return ((_groups_of_four(weight) == 0).sum(-1) >= 2).float().mean().item()


class _Taps:
    """Hooks that keep the inputs of the last matrix of attention and feed-forward, with their gradients."""

    def __init__(self, model: PreTrainedModel) -> None:
        parts = anatomy(model)
        self.held: dict[nn.Module, torch.Tensor] = {}
        self.pairs = [
            (_linear(layer, parts.attention_output), _linear(layer, parts.down)) for layer in layers_of(model)
        ]
        self.handles = [
            module.register_forward_pre_hook(self._hold) for pair in self.pairs for module in pair
        ]

    def _hold(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].retain_grad()
        self.held[module] = inputs[0]

    def changes(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each layer activation x gradient, summed over tokens: [texts, features] of both matrices."""
        for pair in self.pairs:
            first, second = (self._change(self.held[module]) for module in pair)
            yield first, second

    @staticmethod
    def _change(held: torch.Tensor) -> torch.Tensor:
        assert held.grad is not None
        return (held.detach() * held.grad).sum(dim=1).double()

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _loss(model: PreTrainedModel, batch: Batch, labelled: bool) -> torch.Tensor:
    """Summed over texts, so that the gradient of each text is its own."""
    logits = model(**inputs_of(batch)).logits
    if labelled:
        return label_loss(logits, batch["labels"])
    loss: torch.Tensor = logits.square().sum()
    return loss


def _head_size(model: PreTrainedModel) -> int:
    return int(model.config.hidden_size // model.config.num_attention_heads)


def _linear(layer: nn.Module, path: str) -> nn.Linear:
    module = layer.get_submodule(path)
    assert isinstance(module, nn.Linear)
    return module


def _best(scores: torch.Tensor, count: int) -> list[int]:
    """Numbers of the `count` highest, in order."""
    return sorted(scores.argsort(descending=True, stable=True)[:count].tolist())


def _keep_neurons(layer: nn.Module, parts: Anatomy, neurons: list[int]) -> None:
    index = torch.LongTensor(neurons)
    layer.set_submodule(parts.up, prune_linear_layer(_linear(layer, parts.up), index))
    layer.set_submodule(parts.down, prune_linear_layer(_linear(layer, parts.down), index, dim=1))


def _sharing_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own that shares all weights: layers may be dropped from it, not changed."""
    shared = {id(parameter): parameter for parameter in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _groups_of_four(weight: torch.Tensor) -> torch.Tensor:
    if weight.shape[-1] % 4:
        raise UserError(
            "2:4 sparsity needs rows of a multiple of four weights",
            seen=tuple(weight.shape),
            remedy="Leave this matrix dense",
        )
    return weight.reshape(*weight.shape[:-1], -1, 4)
