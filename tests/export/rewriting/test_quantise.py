import numpy as np
import pytest
import torch
from torch import nn

from export.rewriting.graph import lean
from export.rewriting.quantise import (
    StaticLinear,
    input_scale,
    linears,
    make_static,
    most_sensitive,
    observe,
    quantised_weight,
    smoothing,
)
from export.source import Source


@torch.no_grad()
def test_a_static_layer_is_its_layer_within_rounding() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(64, 32), torch.randn(50, 64)
    inputs[:, 3] *= 40  # a channel of large values, as layer norms of BERT leave them
    seen = observe(_Wrapped(layer), [{"inputs": inputs.numpy()}])["layer"]
    expected = layer(inputs)
    error = (StaticLinear(layer, seen, torch.float32)(inputs) - expected).abs().mean() / expected.abs().mean()
    assert error < 0.02


class _Wrapped(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)


def test_zero_is_exact_and_the_range_covers_all_that_was_seen() -> None:
    seen = observe(_Wrapped(nn.Linear(4, 2)), [{"inputs": np.array([[1.0, 2.0, 3.0, 8.0]], np.float32)}])[
        "layer"
    ]
    scale, zero = input_scale(seen, torch.ones(4))
    assert zero == 0
    assert scale * 255 == pytest.approx(8)


def test_each_output_channel_has_a_scale_of_its_own() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.001, 0.002]])
    rounded, scales = quantised_weight(weight)
    assert rounded.dtype == torch.int8
    torch.testing.assert_close(rounded * scales[:, None], weight, rtol=0.01, atol=0)


def test_smoothing_takes_from_large_channels_only_what_weights_can_carry() -> None:
    seen = observe(_Wrapped(nn.Linear(2, 2)), [{"inputs": np.array([[100.0, 1.0]], np.float32)}])["layer"]
    factors = smoothing(seen.size, torch.ones(2))
    assert factors[0] > 10 * factors[1]


def test_layers_that_are_to_stay_in_float_stay(source: Source) -> None:
    model = lean(source.model())
    ranges = observe(model, source.calibration()[:5])
    left = next(iter(linears(model)))
    count = make_static(model, ranges, [left], torch.float32)
    assert isinstance(model.get_submodule(left), nn.Linear)
    assert sum(isinstance(module, StaticLinear) for module in model.modules()) == count


def test_every_layer_is_ranked_and_one_that_int8_cannot_hurt_comes_last(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "distilbert.transformer.layer.1.ffn.lin2"
    original = Source.model

    def with_a_layer_of_zeros(own: Source) -> nn.Module:
        model = original(own)
        model.get_submodule(name).weight.data.zero_()
        return model

    monkeypatch.setattr(Source, "model", with_a_layer_of_zeros)
    ranked = most_sensitive(source)
    assert ranked[-1] == name
    assert sorted(ranked) == sorted(linears(source.model()))


def test_calibration_with_a_handful_of_texts_is_refused(source: Source) -> None:
    from dataclasses import replace

    from handler.errors import UserError

    few = source.dataset.splits["train"].take(range(20))
    dataset = replace(source.dataset, splits=source.dataset.splits | {"train": few})
    with pytest.raises(UserError, match="too few texts to calibrate int8 with: 20 texts"):
        replace(source, dataset=dataset).calibration()
