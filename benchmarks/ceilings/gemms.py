"""The matrix products of an encoder, each timed alone in a worker.

Nothing of `handler` is imported: threads wait for the next product as torch has them wait, which is what
the quickest time needs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CALL = "call"  # the smallest product there is: what it takes is the cost of calling
CALL_MS = 0.2
QUEUED = 20  # products on a GPU between two of its events
ROUSE_MS = 100.0
BYTES = {"int8": 1, "bf16": 2, "fp32": 4}  # of a weight

Samples = dict[str, dict[str, list[float]]]
"""By precision and product: durations of single calls in milliseconds."""


@dataclass(frozen=True)
class Encoder:
    """The sizes that decide the products: layers, width of a token, width within the feed-forward part."""

    layers: int
    width: int
    feed_forward: int

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of each different product of a layer; `qkv` is three of `square` at once."""
        return {
            "square": (self.width, self.width),
            "qkv": (3 * self.width, self.width),
            "up": (self.feed_forward, self.width),
            "down": (self.width, self.feed_forward),
        }

    @property
    def weights(self) -> int:
        """Of all layers' products."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.feed_forward)

    def operations(self, rows: int) -> int:
        """Multiplications and additions of all layers for so many tokens."""
        return 2 * rows * self.weights


class Products:
    """The products of an encoder, ready to be timed; lives in a worker."""

    def __init__(self, encoder: Encoder, threads: int, bf16: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        self.encoder = encoder
        self.makers = {"int8": _int8, "fp32": _fp32} | ({"bf16": _bf16} if bf16 else {})
        self._made: dict[tuple[str, int, int, int], Callable[[], object]] = {}
        self._weights: dict[str, Any] = {}

    def turn(self, rows: int, turn_ms: float) -> Samples:
        """Every product of `rows` tokens in every precision, about `turn_ms` in all."""
        import torch

        products = self.encoder.products
        each_ms = turn_ms / len(products) / len(self.makers)
        with torch.inference_mode():
            return {
                precision: {CALL: _times(self._product(precision, 1, 16, 16), CALL_MS)}
                | {
                    name: _times(self._product(precision, rows, *shape), each_ms)
                    for name, shape in products.items()
                }
                for precision in self.makers
            }

    def on_cuda(self, rows: int, turn_ms: float) -> dict[str, list[float]]:
        """Every product of `rows` tokens in fp16 on the GPU, about `turn_ms` in all; ms of one each."""
        import torch

        each_ms = turn_ms / len(self.encoder.products)
        found: dict[str, list[float]] = {}
        with torch.inference_mode():
            for name, (outputs, inputs) in self.encoder.products.items():
                key = "cuda", rows, outputs, inputs
                if key not in self._made:
                    self._made[key] = _cuda_fp16(rows, outputs, inputs)
                if not found:  # idle between turns, the card has lowered its clocks
                    _cuda_times(self._made[key], ROUSE_MS)
                found[name] = _cuda_times(self._made[key], each_ms)
        return found

    def reading(self, turn_ms: float) -> dict[str, list[float]]:
        """By precision: how long it takes to read as many bytes as all layers' weights have, once."""
        import torch

        if not self._weights:
            self._weights = {
                precision: torch.ones(self.encoder.weights * BYTES[precision] // 4)
                for precision in self.makers
            }
        with torch.inference_mode():
            return {
                precision: _times(weights.sum, turn_ms / len(self.makers))
                for precision, weights in self._weights.items()
            }

    def _product(self, precision: str, rows: int, outputs: int, inputs: int) -> Callable[[], object]:
        key = precision, rows, outputs, inputs
        if key not in self._made:
            self._made[key] = self.makers[precision](rows, outputs, inputs)
        return self._made[key]


def _int8(rows: int, outputs: int, inputs: int) -> Callable[[], object]:
    """uint8 activations by int8 weights, scales per channel, back to uint8: as a quantised layer chains."""
    import torch

    values = torch.randint(0, 255, (rows, inputs), dtype=torch.uint8)
    weights = torch.randint(-127, 127, (outputs, inputs), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weights, [rows, inputs])
    scales, zeros = torch.full((outputs,), 0.01), torch.zeros(outputs, dtype=torch.int64)
    bias = torch.zeros(outputs)
    product = torch.ops.onednn.qlinear_pointwise
    return lambda: product(
        values, 0.02, 128, packed, scales, zeros, bias, 0.05, 128, torch.uint8, "none", [], ""
    )


def _fp32(rows: int, outputs: int, inputs: int) -> Callable[[], object]:
    """What eager PyTorch calls for a linear layer."""
    import torch

    values = torch.randn(rows, inputs)
    weights = torch.randn(outputs, inputs)
    bias = torch.zeros(outputs)
    return lambda: torch.nn.functional.linear(values, weights, bias)


def _bf16(rows: int, outputs: int, inputs: int) -> Callable[[], object]:
    """With packed weights, as compiled models have them: quicker than eager PyTorch's."""
    import torch

    values = torch.randn(rows, inputs).bfloat16()
    weights = torch.ops.mkldnn._reorder_linear_weight(torch.randn(outputs, inputs).bfloat16(), rows)
    bias = torch.zeros(outputs).bfloat16()
    return lambda: torch.ops.mkldnn._linear_pointwise(values, weights, bias, "none", [], "")


def _cuda_fp16(rows: int, outputs: int, inputs: int) -> Callable[[], object]:
    """What eager PyTorch calls for a linear layer in fp16, without its bias."""
    import torch

    values = torch.randn(rows, inputs, dtype=torch.float16, device="cuda")
    weights = torch.randn(outputs, inputs, dtype=torch.float16, device="cuda")
    return lambda: torch.nn.functional.linear(values, weights)


def _cuda_times(call: Callable[[], object], turn_ms: float) -> list[float]:
    """As `_times`, by events on the card around `QUEUED` calls at once, so that no launch is waited for."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    samples: list[float] = []
    while len(samples) < 2 or QUEUED * sum(samples) < turn_ms:
        begin.record()
        for _ in range(QUEUED):
            call()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) / QUEUED)
    return samples


def _times(call: Callable[[], object], turn_ms: float) -> list[float]:
    """At least two calls, and more until the turn is over; the first of all is not counted."""
    call()
    samples: list[float] = []
    while len(samples) < 2 or sum(samples) < turn_ms:
        began = time.perf_counter_ns()
        call()
        samples.append((time.perf_counter_ns() - began) / 1e6)
    return samples
