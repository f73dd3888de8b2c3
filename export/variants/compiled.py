"""Ahead-of-time compiled PyTorch (AOTInductor): machine code for this CPU, no model code at run time."""

from pathlib import Path

from export import proof
from export.registry import Built, variant
from export.source import Source
from handler.artifact import cpu_features


@variant(
    "compiled-bf16",
    runtime="compiled",
    requires=("torch", "transformers", "g++", "cpu:avx512_bf16"),
    summary="bf16 weights and activations, compiled ahead of time for this CPU",
)
def compiled_bf16(source: Source, folder: Path) -> Built:
    import torch

    from export.graph import trace

    model = source.model().bfloat16()
    linears = proof.torch_weights(model)["linear_layers"]
    package = folder / "model.pt2"
    # Freezing packs the weights into the kernels' layout (without it matrix products are plain calls);
    # max_autotune measures generated GEMMs against oneDNN's for each layer and keeps the faster.
    options = {"freezing": True, "max_autotune": True}
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(trace(model, source.checkpoint.meta["max_length"]), package_path=str(package), inductor_configs=options)
    facts = proof.compiled_kernels(package)
    products = facts["gemm_templates"] + facts["onednn_linears"]
    proof.require(set(facts["constants"]) >= {"bfloat16"}, "weights frozen in bfloat16", facts["constants"])
    proof.require(products > 0, f"generated kernels for {linears} linear layers", facts)
    return Built(facts, cpu_features=cpu_features())
