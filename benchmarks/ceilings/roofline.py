"""How far each variant is from what its own arithmetic and bytes need on this machine.

The roofline of Williams et al., 2009 (https://doi.org/10.1145/1498765.1498785): a call takes at least as long
as its operations at the rate of the fastest matrix product measured in its precision, and at least as long as
reading its weights once. The encoder's linear layers and attention count, without pruned heads and neurons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.ceilings.gemms import BYTES, Encoder
from benchmarks.records import CpuPeak, Latency, Roofline
from handler.artifact import Artifact

EAGER = "torch"  # computes every token in the last layer, where the model is transformers'


@dataclass(frozen=True)
class Layer:
    """Widths within a layer: of attention (heads times head size) and of the feed-forward part."""

    attention: int
    feed_forward: int


@dataclass(frozen=True)
class Arithmetic:
    """What a variant computes: its layers, the width of a token, its precision, and whether the last layer is
    for the first token alone."""

    layers: tuple[Layer, ...]
    width: int
    precision: str
    first_token: bool

    @property
    def weights(self) -> int:
        return sum(2 * self.width * (2 * layer.attention + layer.feed_forward) for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        return self.weights * BYTES[self.precision]

    def operations(self, texts: int, tokens: int) -> int:
        """Multiplications and additions of `texts` texts of `tokens` tokens each."""
        rows = texts * tokens
        found = 0
        for place, layer in enumerate(self.layers):
            # Rows that ask, and that go on to the feed-forward part; keys and values are of all.
            last = place == len(self.layers) - 1
            asking = texts if self.first_token and last else rows
            keys_and_values = 2 * rows * 2 * self.width * layer.attention
            queries_and_output = 2 * asking * 2 * self.width * layer.attention
            attention = 2 * 2 * asking * tokens * layer.attention
            feed_forward = 2 * asking * 2 * self.width * layer.feed_forward
            found += keys_and_values + queries_and_output + attention + feed_forward
        return found


def arithmetic(artifact: Artifact, artifacts: Mapping[str, Artifact], encoder: Encoder) -> Arithmetic | None:
    """Of `artifact`, whose ancestors among `artifacts` may be pruned ones; `encoder` is the checkpoint's.

    None where an ancestor did not take part, so that its sizes are not known; also of a student without an
    encoder, and of a cascade, whose arithmetic depends on the texts.
    """
    layers = (Layer(encoder.width, encoder.feed_forward),) * encoder.layers
    ancestor: Artifact | None = artifact
    while ancestor is not None:
        proof = ancestor.meta.proof
        if "answered_first" in proof or proof.get("encoder_layers") == 0:
            return None
        if "after" in proof:
            head_size = encoder.width // proof["before"]["heads"][0]
            sizes = zip(proof["after"]["heads"], proof["after"]["ffn_width"], strict=True)
            layers = tuple(Layer(heads * head_size, width) for heads, width in sizes)
            break
        parent = ancestor.meta.parent
        if parent is not None and parent not in artifacts:
            return None
        ancestor = artifacts.get(parent) if parent else None
    ours = "encoder" in artifact.meta.runtime_options
    eager = artifact.meta.runtime == EAGER and not ours
    return Arithmetic(layers, encoder.width, precision(artifact.meta.proof), not eager)


def precision(proof: Mapping[str, Any]) -> str:
    """Of most products, by what the runtime was seen to execute."""
    if proof.get("integer_matmuls") or proof.get("int8_linears"):
        return "int8"
    seen = {*proof.get("executed_matmuls", {}), *proof.get("constants", {})}
    return "bf16" if seen & {"bf16", "bfloat16"} else "fp32"


def roofline(work: Arithmetic, entry: Latency, peaks: Mapping[str, CpuPeak]) -> Roofline | None:
    """Of one fixed shape; None where the run has no peak of this precision."""
    peak = peaks.get(work.precision)
    if peak is None or entry.tokens is None:
        return None
    operations = work.operations(entry.batch, entry.tokens)
    compute_ms = operations / peak.tops / 1e9
    memory_ms = work.weight_bytes / peak.read_gb_s / 1e6
    bound_ms = max(compute_ms, memory_ms)
    return Roofline(
        gflop=operations / 1e9,
        weight_mb=work.weight_bytes / 1e6,
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        bound_ms=bound_ms,
        share=bound_ms / entry.p50_ms,
    )


def add_rooflines(entries: Sequence[Latency], work: Arithmetic, peaks: Mapping[str, CpuPeak]) -> None:
    """To each fixed shape of a variant its roofline."""
    for entry in entries:
        entry.roofline = roofline(work, entry, peaks)
