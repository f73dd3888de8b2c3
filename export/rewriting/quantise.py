"""Int8 linear layers in torch: the ranges of their inputs, the layer itself, and the most sensitive layers.

The static layer is what PT2E lowers a linear layer to on x86 (quantize_per_tensor, then oneDNN's product of
int8): an input scale observed on training texts, its channels smoothed, and one weight scale per output
channel. PT2E's own quantiser comes with torchao, which slows and litters every import of transformers,
servers' too; what is needed of it is the thirty lines below, and they name the int8 kernel instead of
hoping that a pattern matches.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers torch.ops.quantized_decomposed

from export.rewriting.distil import Texts, predict
from export.source import Source

# Texts on which the layers are ranked: a ranking needs less than a verdict.
RANKING_TEXTS = 128
# SmoothQuant's strength (Xiao et al. 2022, arXiv:2211.10438). Of 0.3 to 0.95, with the 22 M classifier on
# TweetEval's validation texts: 98.5 % of labels agree at 0.85, 97.2 % without smoothing; clipping the rarest
# values instead cost ten points. ONNX Runtime agrees: 0.8 to 0.9 are alike there, and best.
SMOOTHING = 0.85


@dataclass(frozen=True)
class Range:
    """Least and greatest value of each input channel of a layer, fp32 [inputs]; zero always lies between."""

    low: torch.Tensor
    high: torch.Tensor

    @property
    def size(self) -> torch.Tensor:
        return torch.maximum(-self.low, self.high)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def observe(model: nn.Module, inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Range]:
    """The range of inputs of every linear layer of `model` over `inputs`."""
    ranges: dict[str, Range] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            seen = arguments[0].flatten(0, -2)
            low, high = seen.amin(dim=0).clamp(max=0), seen.amax(dim=0).clamp(min=0)
            if before := ranges.get(name):
                low, high = torch.minimum(low, before.low), torch.maximum(high, before.high)
            ranges[name] = Range(low, high)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in linears(model).items()]
    with torch.inference_mode():
        for example in inputs:
            model(**{key: torch.from_numpy(value) for key, value in example.items()})
    for handle in handles:
        handle.remove()
    return ranges


def smoothing(peaks: torch.Tensor, weight_peaks: torch.Tensor) -> torch.Tensor:
    """fp32 [inputs]: what to divide the inputs by, and multiply the weights with, so that a few channels of
    large values do not set the scale of all. Both arguments are the largest sizes by input channel."""
    factors = peaks.clamp(min=1e-5) ** SMOOTHING / weight_peaks.clamp(min=1e-5) ** (1 - SMOOTHING)
    return (factors / factors.mean()).clamp(min=1e-3).float()


def input_scale(seen: Range, factors: torch.Tensor) -> tuple[float, int]:
    """Scale and zero point of unsigned 8-bit values over all of the smoothed inputs."""
    low, high = (seen.low / factors).min().item(), (seen.high / factors).max().item()
    scale = max(high - low, 1e-8) / 255
    return scale, round(-low / scale)


def quantised_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [outputs, inputs] and the scales, fp32 [outputs], that it was divided by: symmetric, one for each
    output channel."""
    scales = weight.abs().amax(dim=1).clamp(min=1e-8).float() / 127
    return (weight.float() / scales[:, None]).round().clamp(-127, 127).to(torch.int8), scales


class StaticLinear(nn.Module):
    """A linear layer as one oneDNN product of int8, its result in `dtype`. For tracing: only a compiler that
    folds constants packs the weights once."""

    def __init__(self, linear: nn.Linear, seen: Range, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.per_factor: torch.Tensor
        factors = smoothing(seen.size, linear.weight.data.abs().amax(dim=0))
        self.scale, self.zero_point = input_scale(seen, factors)
        weight, scales = quantised_weight(linear.weight.data * factors)
        self.register_buffer("per_factor", 1 / factors)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scales", scales)
        self.register_buffer("weight_zero_points", torch.zeros(len(scales), dtype=torch.int64))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        quantised = torch.ops.quantized_decomposed.quantize_per_tensor.default(
            inputs.float() * self.per_factor, self.scale, self.zero_point, 0, 255, torch.uint8
        )
        packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
        weights = (packed, self.weight_scales, self.weight_zero_points, self.bias)
        # No second quantisation, no fused operation.
        rest: tuple[Any, ...] = (1.0, 0, self.dtype, "none", [], "")
        products: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            quantised, self.scale, self.zero_point, *weights, *rest
        )
        return products


@torch.library.register_fake("onednn::qlinear_prepack")  # type: ignore[untyped-decorator]  # torch's own
def _packed_shape(weight: torch.Tensor, _: object) -> torch.Tensor:
    """The shape of packed weights, which tracing needs and torch does not give."""
    return weight.new_empty((weight.shape[1], weight.shape[0]))


def make_static(
    model: nn.Module, ranges: Mapping[str, Range], leave: Collection[str], dtype: torch.dtype
) -> int:
    """Replace the linear layers of `model`, except those in `leave`, by `StaticLinear`s. Returns how many.

    The rest of the model is cast to `dtype`.
    """
    chosen = {name: layer for name, layer in linears(model).items() if name not in leave}
    exact = {name: StaticLinear(layer, ranges[name], dtype) for name, layer in chosen.items()}
    model.to(dtype)
    for name, layer in exact.items():
        model.set_submodule(name, layer)
    return len(chosen)


def most_sensitive(source: Source) -> list[str]:
    """Names of the linear layers of `source.model()`, the most sensitive to int8 first.

    Each layer alone is computed with rounded weights and inputs, the others in fp32; the measure is the mean
    change of the logits on validation texts, by which the layers' order varies little between runtimes.
    """
    model = source.model()
    ranges = observe(model, source.calibration())
    texts = Texts.of(source, "validation").first(RANKING_TEXTS)
    exact = predict(model, texts)
    moved = {}
    for name, layer in linears(model).items():
        weight = layer.weight.data
        factors = smoothing(ranges[name].size, weight.abs().amax(dim=0))
        rounded, scales = quantised_weight(weight * factors)
        layer.weight.data = rounded * scales[:, None]
        handle = layer.register_forward_pre_hook(_rounding(factors, *input_scale(ranges[name], factors)))
        moved[name] = float(np.abs(predict(model, texts) - exact).mean())
        handle.remove()
        layer.weight.data = weight
    return sorted(moved, key=moved.__getitem__, reverse=True)


def _rounding(factors: torch.Tensor, scale: float, zero_point: int) -> Any:
    """A hook that gives a layer its inputs smoothed and rounded to 8 bits."""

    def hook(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        smooth = arguments[0] / factors
        return (torch.fake_quantize_per_tensor_affine(smooth, scale, zero_point, 0, 255),)

    return hook
