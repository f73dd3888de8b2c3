"""Ahead-of-time compiled PyTorch (AOTInductor): machine code for this CPU, no model code at run time."""

from pathlib import Path

from export import proof
from export.registry import Built, variant
from export.source import Source
from handler.errors import UserError
from handler.machine import cpu_features


@variant(
    "compiled-bf16",
    runtime="compiled",
    requires=("torch", "transformers", "g++", "cpu:avx512_bf16"),
    summary="bf16 weights and activations, compiled ahead of time for this CPU",
)
def compiled_bf16(source: Source, folder: Path) -> Built:
    import torch
    from torch._inductor import select_algorithm
    from torch._inductor.exc import InductorError

    from export.graph import trace

    model = source.model().bfloat16()
    linears = proof.torch_weights(model)["linear_layers"]
    package = folder / "model.pt2"
    # Freezing packs the weights into the kernels' layout (without it matrix products are plain calls);
    # max_autotune measures generated GEMMs against oneDNN's for each layer and keeps the faster.
    options = {"freezing": True, "max_autotune": True, "max_autotune_report_choices_stats": False}
    select_algorithm.PRINT_AUTOTUNE = False
    with torch.no_grad():
        program = trace(model, source.checkpoint.meta["max_length"])
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(package), inductor_configs=options
            )
        except InductorError as error:
            raise UserError(
                "the model did not compile",
                seen=str(error).strip().splitlines()[-1],
                remedy="Check the compiler (g++ --version) and the free disk space",
            ) from error
    facts = proof.compiled_kernels(package)
    proof.require("bfloat16" in facts["constants"], "weights frozen in bfloat16", facts["constants"])
    linears_called = facts["generated_linears"] + facts["onednn_linears"]
    proof.require(linears_called == linears, f"kernels for {linears} linear layers", facts)
    return Built(facts, cpu_features=cpu_features())
