"""Ahead-of-time compiled PyTorch (AOTInductor): machine code for this CPU, no model code at run time.

One package takes any batch and any length: a worker that loads it compiles nothing.
"""

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from export import proof
from export.registry import TEMPORARY, TRACED, Built, variant
from export.source import Source
from handler.machine import cpu_features

NEEDS = ("g++", TEMPORARY)
compiled = partial(variant, runtime="compiled", kinds=TRACED)


@compiled(
    "compiled-fp32",
    requires=NEEDS,
    summary="fp32, compiled ahead of time for this CPU",
)
def compiled_fp32(source: Source, folder: Path) -> Built:
    from export.rewriting.graph import lean

    return _compile(lean(source.model()), source, folder, {})


@compiled(
    "compiled-bf16",
    parents=("fp32", "pruned"),
    requires=(*NEEDS, "cpu:avx512_bf16"),
    summary="bf16 weights and activations, compiled ahead of time for this CPU",
)
def compiled_bf16(source: Source, folder: Path) -> Built:
    from export.rewriting.graph import lean

    model = lean(source.model()).bfloat16()
    built = _compile(model, source, folder, {})
    constants = built.proof["constants"]
    proof.require("bfloat16" in constants, "weights frozen in bfloat16", constants)
    return built


@compiled(
    "compiled-int8",
    parents=("fp32", "pruned"),
    requires=(*NEEDS, "cpu:avx512_vnni"),
    summary="static int8, scales from calibration texts, compiled ahead of time for this CPU",
)
def compiled_int8(source: Source, folder: Path, leave: Collection[str] = ()) -> Built:
    import torch

    from export.rewriting.graph import lean, parts
    from export.rewriting.quantise import linears, make_static, observe

    model = lean(source.model())
    ranges = observe(model, source.calibration())
    left = [name for name in linears(model) if set(parts(name)) & set(leave)]
    # What is not int8 runs in bf16 where the CPU multiplies it: half the bytes move between products.
    dtype = torch.bfloat16 if "avx512_bf16" in cpu_features() else torch.float32
    quantised = make_static(model, ranges, left, dtype)
    built = _compile(model, source, folder, {"int8_linears_asked": quantised, "left_in_float": sorted(left)})
    facts = built.proof
    proof.require(facts["int8_linears"] == quantised, f"{quantised} products of int8", facts)
    return built


def _compile(model: Any, source: Source, folder: Path, facts: dict[str, Any]) -> Built:
    """Compile the traced model into `folder/model.pt2`, and count what was generated."""
    import torch
    from torch._inductor import select_algorithm

    from export.rewriting.graph import compile_ahead
    from export.rewriting.quantise import StaticLinear

    kinds = (torch.nn.Linear, StaticLinear)
    linears = sum(isinstance(module, kinds) for module in model.modules())
    package = folder / "model.pt2"
    # Freezing packs the weights into the kernels' layout (without it matrix products are plain calls);
    # max_autotune measures generated GEMMs against oneDNN's for each layer and keeps the faster.
    options = {"freezing": True, "max_autotune": True, "max_autotune_report_choices_stats": False}
    select_algorithm.PRINT_AUTOTUNE = False
    compile_ahead(model, source.checkpoint.meta.max_length, package, options)
    facts = facts | proof.compiled_kernels(package)
    called = facts["generated_linears"] + facts["library_linears"]
    proof.require_all_found(called, linears, "linear layers")
    of_int8 = f"{facts['int8_linears']} of int8, " if facts["int8_linears"] else ""
    used = f" ({', '.join(facts['instructions'])})" if facts["instructions"] else ""
    makers = f"{facts['library_linears']} by oneDNN or MKL, {facts['generated_linears']} generated{used}"
    facts["summary"] = f"{linears} packed products, {of_int8}{makers}"
    return Built(facts, cpu_features=cpu_features())
