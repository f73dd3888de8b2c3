"""ONNX Runtime: the graph of optimum with fused attention, in fp32 and with int8 products.

bf16 is not here: ONNX Runtime 1.31 has no bf16 kernels for x86. It refuses to load a graph with a MatMul,
Gemm, Add, Softmax or Attention in bf16 ("Could not find an implementation").
"""

import tempfile
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import proof
from export.registry import ANY, TRACED, Built, variant
from export.source import Source

if TYPE_CHECKING:
    from export.rewriting.onnx_graph import Exported

in_onnx = partial(variant, runtime="onnx", requires=("onnx", "onnxruntime", "optimum-onnx"))
INTEGER_PRODUCTS = (
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "QLinearMatMul",
    "QGemm",
)
OPTIONS = {
    "disabled_optimizers": [
        # Its CPU kernel is slow: at full size, 32 texts of 32 tokens and one thread, the twelve took 50 ms,
        # and as Add and LayerNormalization 7.
        "SkipLayerNormFusion",
        # Makes Gemm of the head's products, which is then not executed in int8.
        "MatMulAddFusion",
    ]
}


@in_onnx(
    "onnx-fp32",
    parents=("fp32", "static"),
    summary="ONNX Runtime in fp32, each attention fused into one operator",
    kinds=ANY,
)
def onnx_fp32(source: Source, folder: Path) -> Built:
    import onnx

    exported, layers = _export(source)
    onnx.save(exported.proto, folder / "model.onnx")
    facts = _executed(exported, layers, folder / "model.onnx")
    norms = facts["fused_layer_norms"]
    gelus = facts["fused_gelus"]
    facts["summary"] = f"{layers} fused attentions, {norms} layer norms, {gelus} gelus"
    if not layers:  # of a decoder
        facts["summary"] = f"{len(exported.nodes(exported.products))} products in fp32, attention as exported"
    return Built(facts, OPTIONS)


@in_onnx(
    "onnx-int8-dynamic",
    summary="ONNX Runtime, int8 weights per channel, activations quantised at run time",
    options=("portable",),
    kinds=TRACED,
)
def onnx_int8_dynamic(source: Source, folder: Path, leave: Collection[str] = ()) -> Built:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exported, layers = _export(source)
    weights = {tensor.name for tensor in exported.proto.graph.initializer}
    nodes = exported.proto.graph.node
    embeddings = {node.name for node in nodes if node.op_type == "Gather" and node.input[0] in weights}
    quantize_dynamic(
        exported.proto,
        folder / "model.onnx",
        op_types_to_quantize=["MatMul", "Gather"],
        nodes_to_quantize=sorted(_chosen(exported, leave) | embeddings),
        # Signed weights: U8 activations with S8 weights are the pair that VNNI and AMX multiply.
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=source.portable,
    )
    return _proven(exported, layers, leave, folder / "model.onnx", source.portable)


@in_onnx(
    "onnx-int8",
    parents=("fp32", "pruned"),
    default=True,
    summary="ONNX Runtime, static int8 with SmoothQuant, scales from calibration texts",
    options=("portable",),
    kinds=TRACED,
)
def onnx_int8(source: Source, folder: Path, leave: Collection[str] = ()) -> Built:
    """Ranges are the least and greatest value seen (MinMax).

    Entropy and percentiles are not to be had: the histogram calibrators of ONNX Runtime 1.31 fail on texts of
    different lengths. On TweetEval's validation texts, embedded base: mean change of a probability 0.018 with
    MinMax, 0.019 with its moving average, 0.007 with MinMax behind SmoothQuant.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from export.rewriting.onnx_graph import smooth

    exported, layers = _export(source)
    chosen = _chosen(exported, leave)
    with tempfile.TemporaryDirectory() as scratch:
        smoothed = Path(scratch) / "smoothed.onnx"
        onnx.save(smooth(exported, chosen, source.calibration()).proto, smoothed)
        quantize_static(
            smoothed,
            folder / "model.onnx",
            _reader(source),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=sorted(chosen),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            # Signed weights: U8 activations with S8 weights are the pair that VNNI and AMX multiply.
            weight_type=QuantType.QInt8,
            reduce_range=source.portable,
            # What a product gives goes into a sum in float: rounding it would cost accuracy and gain nothing.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
    return _proven(exported, layers, leave, folder / "model.onnx", source.portable)


def _reader(source: Source) -> Any:
    """The calibration texts as ONNX Runtime reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Texts(CalibrationDataReader):  # type: ignore[misc]  # of no annotations
        def __init__(self) -> None:
            self.left = iter(source.calibration())

        def get_next(self) -> Any:
            return next(self.left, None)

    return Texts()


def _export(source: Source) -> "tuple[Exported, int]":
    """The fused graph, and the number of encoder layers that it must have an attention for."""
    from export.rewriting.graph import with_linears
    from export.rewriting.onnx_graph import export

    model = with_linears(source.model())
    # A decoder's attention looks back alone: it is left as the exporter writes it.
    layers = 0 if getattr(model.config, "causal", False) else model.config.num_hidden_layers
    linears = proof.torch_weights(model)["linear_layers"]
    exported = export(model)
    found = len(exported.products)
    proof.require_all_found(found, linears, "linear layers")
    proof.require_all_found(exported.attentions, layers, "attentions")
    return exported, layers


def _chosen(exported: "Exported", leave: Collection[str]) -> set[str]:
    """The products to be computed in int8."""
    return exported.nodes(exported.products) - exported.nodes(leave)


def _proven(exported: "Exported", layers: int, leave: Collection[str], path: Path, portable: bool) -> Built:
    """One executed integer product for every linear layer that is not left in float."""
    facts = _executed(exported, layers, path)
    integer = sum(facts["executed_operators"].get(name, 0) for name in INTEGER_PRODUCTS)
    products = len(exported.nodes(exported.products))
    asked = len(_chosen(exported, leave))
    proof.require(integer >= asked, f"{asked} integer matrix products", facts["executed_operators"])
    facts |= {"integer_matmuls": integer, "left_in_float": sorted(set(leave) & set(exported.products))}
    facts["portable"] = portable
    facts["summary"] = f"{layers} fused attentions, {integer} of {products} products in int8"
    return Built(facts, OPTIONS)


def _executed(exported: "Exported", layers: int, path: Path) -> dict[str, Any]:
    """What ONNX Runtime executes of the graph at `path`, and what the plain export consists of."""
    facts = proof.onnx_operators(path, OPTIONS)
    executed = facts["executed_operators"]
    facts |= {
        "exported_operators": exported.operators,
        "fused_attentions": executed.get("Attention", 0),
        "fused_layer_norms": sum(
            executed.get(name, 0) for name in ("LayerNormalization", "SkipLayerNormalization")
        ),
        "fused_gelus": sum(executed.get(name, 0) for name in ("Gelu", "BiasGelu", "FastGelu")),
    }
    proof.require(facts["fused_attentions"] == layers, f"{layers} fused attentions", executed)
    proof.require(facts["fused_layer_norms"] >= 2 * layers, f"{2 * layers} fused layer norms", executed)
    return facts
