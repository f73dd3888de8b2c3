"""OpenVINO: the graph comes from torch.export, int8 scales from NNCF on training texts."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from export import proof
from export.registry import ANY, TRACED, Built, variant
from export.source import Source
from handler.errors import UnsupportedError
from handler.runtimes import compile_openvino

DAMAGED_BITS = 6  # turns an eighth of the labels of the demo's validation texts
in_openvino = partial(variant, runtime="openvino")


@in_openvino(
    "openvino-fp32",
    parents=("fp32", "static"),
    requires=("openvino",),
    summary="OpenVINO, fixed to fp32",
    kinds=ANY,
)
def openvino_fp32(source: Source, folder: Path) -> Built:
    return _float(source, folder, "f32")


@in_openvino(
    "openvino-bf16",
    requires=("openvino", "cpu:avx512_bf16"),
    default=True,
    summary="OpenVINO in bf16, weights stored in fp16",
    kinds=ANY,
)
def openvino_bf16(source: Source, folder: Path) -> Built:
    return _float(source, folder, "bf16")


@in_openvino(
    "damaged",
    requires=("openvino",),
    summary=f"every matrix rounded to {DAMAGED_BITS} bits: shows in the demo how a variant is refused",
    demonstration=True,
    kinds=TRACED,
)
def damaged(source: Source, folder: Path) -> Built:
    return _float(source, folder, "f32", _round)


@in_openvino(
    "openvino-int8",
    parents=("fp32", "pruned", "shallow"),
    requires=("openvino", "nncf"),
    default=True,
    summary="OpenVINO, static int8 with SmoothQuant, scales from calibration texts",
    options=("portable",),
    kinds=TRACED,
)
def openvino_int8(source: Source, folder: Path, leave: Collection[str] = ()) -> Built:
    import nncf
    import openvino

    from export.rewriting.graph import parts

    graph, linears = _convert(source)
    left = sorted({name for name, _ in linears if set(parts(name)) & set(leave)})
    in_float = [product for name, product in linears if name in left]
    calibration = source.calibration()
    # Kernels without VNNI add pairs of products in 16 bits, which those of eight by eight bits overflow.
    fix = nncf.OverflowFix.ENABLE if source.portable else None
    quantised = nncf.quantize(
        graph,
        nncf.Dataset(calibration),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=_attention(graph, linears) + in_float),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )
    openvino.save_model(quantised, folder / "model.xml", compress_to_fp16=False)
    # The float precision that OpenVINO would choose differs between CPUs as well.
    options = {"INFERENCE_PRECISION_HINT": "f32"} if source.portable else {}
    facts = proof.openvino_precisions(_compiled(folder / "model.xml", options))
    integer = sum(
        count for precision, count in facts["executed_matmuls"].items() if precision in ("i8", "u8")
    )
    asked = sum(name not in left for name, _ in linears)
    proof.require(integer >= asked, f"{asked} matrix products executed in int8", facts["executed_matmuls"])
    facts |= {"integer_matmuls": integer, "left_in_float": left, "portable": source.portable}
    return Built(facts | {"summary": f"{integer} of {len(linears)} products executed in int8"}, options)


def _attention(graph: Any, linears: Collection[tuple[str, str]]) -> list[str]:
    """The names of attention's operations: one a layer, or its products where there is none (MPNet's)."""
    # They stay in the float precision of the CPU. In int8 they gained nothing that could be measured at 32
    # tokens, and OpenVINO 2026.4 computes them wrongly on AMX where the length equals the size of a head
    # below 64: with MiniLM's shape and random weights, logits were off by 3.5 at 32 tokens.
    layers = {product for _, product in linears}
    return [
        node.get_friendly_name()
        for node in graph.get_ops()
        if node.get_type_name() == "ScaledDotProductAttention"
        or (node.get_type_name() == "MatMul" and node.get_friendly_name() not in layers)
    ]


def _float(
    source: Source, folder: Path, precision: str, change: Callable[[Any], None] | None = None
) -> Built:
    """The graph in a float precision that OpenVINO would else choose by itself; `change` is made to the model
    before, in place."""
    import openvino

    graph, linears = _convert(source, change)
    # fp16 keeps three bits more of each weight than bf16 computes with.
    openvino.save_model(graph, folder / "model.xml", compress_to_fp16=precision == "bf16")
    options = {"INFERENCE_PRECISION_HINT": precision}
    facts = proof.openvino_precisions(_compiled(folder / "model.xml", options))
    proof.require_all_found(min(len(linears), len(facts["executed_layers"])), len(linears), "linear layers")
    executed = facts["executed_matmuls"].get(precision, 0)
    proof.require(executed >= len(linears), f"{len(linears)} matrix products executed in {precision}", facts)
    facts["summary"] = f"{executed} products executed in {precision}"
    return Built(facts, options)


def _round(model: Any) -> None:
    """Round the weights of linear layers on one scale per matrix, without any calibration."""
    from export.rewriting.quantise import linears

    most = 2 ** (DAMAGED_BITS - 1) - 1
    for layer in linears(model).values():
        scale = layer.weight.data.abs().max() / most
        layer.weight.data = (layer.weight.data / scale).round() * scale


COMPILE = """
import json, pathlib, sys
sys.path[:] = json.loads(sys.argv[3])
from handler.runtimes import compile_openvino
compile_openvino(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), 1)
"""


def _compiled(graph: Path, options: Mapping[str, str]) -> Any:
    """The graph as one thread serves it, an `openvino.CompiledModel`.

    It is compiled in another process first: on AMX, OpenVINO 2026.4 divides by zero in compiling a Llama in
    bf16 for one thread (not for two), which would end the export of all variants without a word.
    """
    command = [sys.executable, "-c", COMPILE, str(graph), json.dumps(options), json.dumps(sys.path)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode < 0:
        raise UnsupportedError(
            "OpenVINO crashes when it compiles this model for one thread on this CPU",
            seen=signal.Signals(-done.returncode).name,
            remedy="Serve openvino-fp32, or a variant of another runtime",
        )
    return compile_openvino(graph, dict(options), 1)


def _convert(source: Source, change: Callable[[Any], None] | None = None) -> Any:
    """The traced graph as an `openvino.Model`, and of each call of a linear layer the layer's name and its
    product's: layers that share weights have one name."""
    import openvino
    import torch

    from export.rewriting.graph import lean, trace

    model = source.model()
    if change:
        change(model)
    program = trace(lean(model), source.checkpoint.meta.max_length)
    try:
        graph = openvino.convert_model(program)
    except Exception as error:  # of whatever kind its frontend raises at an operator that it does not know
        raise UnsupportedError(
            "OpenVINO cannot convert this architecture",
            seen=f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[-1][:200]}",
            remedy="Serve fp32, or a variant of another runtime",
        ) from error
    weights = program.graph_signature.inputs_to_parameters
    calls = {  # by the node of the traced graph, whose name OpenVINO's begin with
        node.name: weights[node.args[1].name].removeprefix("model.").removesuffix(".weight")
        for node in program.graph.nodes
        if node.target is torch.ops.aten.linear.default
    }
    products = [
        (calls[traced], operation.get_friendly_name())
        for operation in graph.get_ops()
        if operation.get_type_name() == "MatMul"
        and (traced := operation.get_friendly_name().partition("/")[0]) in calls
    ]
    proof.require_all_found(len(products), len(calls), "linear layers")
    return graph, products
