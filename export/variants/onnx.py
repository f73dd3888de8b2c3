"""ONNX, exported with optimum and run by ONNX Runtime."""

import tempfile
from pathlib import Path

from export import proof
from export.registry import Built, variant
from export.source import Source

INTEGER_PRODUCTS = (
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "QLinearMatMul",
    "QGemm",
)


@variant(
    "onnx-int8-dynamic",
    runtime="onnx",
    requires=("torch", "transformers", "onnx", "onnxruntime", "optimum-onnx"),
    summary="ONNX Runtime, int8 weights per channel, activations quantised as they come",
)
def onnx_int8_dynamic(source: Source, folder: Path) -> Built:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        exported = export_onnx(source, Path(scratch))
        # Signed weights: U8 activations with S8 weights are the pair that VNNI and AMX multiply.
        quantize_dynamic(exported, folder / "model.onnx", weight_type=QuantType.QInt8, per_channel=True)
    linears = proof.torch_weights(source.model())["linear_layers"]
    facts = proof.onnx_operators(folder / "model.onnx")
    integer = sum(facts["executed_operators"].get(name, 0) for name in INTEGER_PRODUCTS)
    proof.require(integer >= linears, f"at least {linears} integer matrix products", integer)
    return Built(facts | {"integer_matmuls": integer})


def export_onnx(source: Source, folder: Path) -> Path:
    """The fp32 graph, checked by `onnx.checker`."""
    import onnx
    from optimum.exporters.onnx import main_export

    main_export(
        str(source.checkpoint.folder),
        output=folder,
        task="text-classification",
        do_validation=False,  # export's own check compares the reloaded artifact on real texts
        no_post_process=True,
        local_files_only=True,
    )
    onnx.checker.check_model(str(folder / "model.onnx"))
    return folder / "model.onnx"
