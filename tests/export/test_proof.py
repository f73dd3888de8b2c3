"""What proofs read in generated code."""

import zipfile
from pathlib import Path

from export.proof import compiled_kernels

KERNEL = """
inline void cpp_fused_0_micro_gemm(
    const bfloat16* __restrict__ A,
inline void cpp_fused_1_micro_gemm(
    AMXState& amx_state,
    const uint8_t* __restrict__ A,
"""
WRAPPER = "void cpp_fused_0(…); void cpp_fused_1(…); cpp_fused_0(a); cpp_fused_1(a); cpp_fused_1(b);"


def test_generated_products_are_counted_whether_or_not_they_use_amx(tmp_path: Path) -> None:
    package = tmp_path / "model.pt2"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("data/kernel.cpp", KERNEL)
        archive.writestr("data/wrapper.cpp", WRAPPER)
    found = compiled_kernels(package)
    assert found["generated_linears"] == 3
    assert found["operands"] == {"bfloat16": 1, "uint8_t": 2}
