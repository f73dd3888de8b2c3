"""For NVIDIA GPUs: from eager PyTorch in four precisions to CUDA graphs, no padding, int8, fp8 and ONNX
Runtime.

These were written without a GPU: what needs one is proven when it is built, or the build fails.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import proof
from export.registry import ANY, TEMPORARY, TRACED, Built, variant
from export.source import Source
from handler.batching import Grid
from handler.machine import gpus
from handler.runtimes import read_encoder

if TYPE_CHECKING:
    import torch

    from handler.encoder import Encoder

DEVICE = "cuda:0"
on_cuda = partial(variant, devices=("cuda",))
in_torch = partial(on_cuda, runtime="torch")
in_onnx = partial(on_cuda, runtime="onnx", kinds=TRACED)


def _eager(dtype: str, tf32: bool = False) -> Callable[[Source, Path], Built]:
    """The model of transformers as it is, in another dtype."""

    def build(source: Source, folder: Path) -> Built:
        import torch

        from handler.cuda import set_kernels

        model = source.model().to(getattr(torch, dtype))
        model.save_pretrained(folder, safe_serialization=True)
        facts = proof.torch_weights(model)
        proof.require(set(facts["linear_dtypes"]) == {dtype}, f"every linear weight in {dtype}", facts)
        set_kernels(tf32)
        facts["tf32"] = not proof.keeps_fp32(DEVICE)
        proof.require(facts["tf32"] == tf32, f"TensorFloat-32 {'on' if tf32 else 'off'}", facts)
        facts["kernels"] = proof.torch_profile(model.to(DEVICE), source.pad_id).kernels
        named = "float32, products in TensorFloat-32" if tf32 else dtype
        facts["summary"] = f"{facts['parameters'] / 1e6:.1f} M parameters in {named}"
        return Built(facts, {"dtype": dtype, "tf32": tf32}, grid=source.gpu_grid)

    return build


for _name, _gpu, _build, _summary in (
    ("cuda-fp32", "cuda", _eager("float32"), " in fp32, without TensorFloat-32"),
    ("cuda-tf32", "cuda:8.0", _eager("float32", tf32=True), ", products in TensorFloat-32"),
    ("cuda-fp16", "cuda", _eager("float16"), " in fp16"),
    ("cuda-bf16", "cuda:8.0", _eager("bfloat16"), " in bf16"),
):
    in_torch(_name, requires=(_gpu,), summary=f"eager PyTorch on a GPU{_summary}", kinds=ANY)(_build)


@in_torch(
    "cuda-graphs-fp16",
    requires=("cuda",),
    summary="fp16, one CUDA graph for each shape of the grid",
)
def cuda_graphs_fp16(source: Source, folder: Path) -> Built:
    facts, options = _half(source, folder)
    grid = source.gpu_grid
    facts |= _replayed(folder, options, grid)
    facts["summary"] = f"{facts['linear_layers']} linear layers in fp16, {facts['replays']} graphs replayed"
    return Built(facts, options | {"graphs": True}, grid=grid)


@in_torch(
    "cuda-packed-fp16",
    requires=("cuda:8.0",),  # flash attention's
    summary="fp16, texts packed side by side without padding",
)
def cuda_packed_fp16(source: Source, folder: Path) -> Built:
    facts, options = _half(source, folder)
    encoder = read_encoder(folder, options, DEVICE)
    profile = proof.profiled(lambda: _packed_once(encoder))
    layers = len(encoder.layers)
    seen = profile.calls.get("aten::_flash_attention_forward", 0)
    proof.require(seen == layers, f"{layers} flash attentions over packed texts", profile)
    facts |= {"flash_attentions": seen, "kernels": profile.kernels}
    facts["summary"] = f"{seen} flash attentions over texts without padding"
    return Built(facts, options | {"packed": True}, grid=source.packed_grid)


# Not by torchao: tensors and scales are plain safetensors, and a server needs neither torchao nor its pickled
# subclasses. Quantising each activation is a kernel of its own, where a compiler would fuse it with the last.
def _scaled(dtype: str, rest: str) -> Callable[..., Built]:
    """The products of the layers in `dtype`, all else in `rest`."""

    def build(source: Source, folder: Path, leave: Collection[str] = ()) -> Built:
        import torch

        from export.rewriting.encoder import encoder_of, quantise

        model = source.model()
        encoder = encoder_of(model)
        left = quantise(encoder, model, getattr(torch, dtype), leave)
        facts, options = write_encoder(to_float(encoder, getattr(torch, rest)), folder)
        products = facts["linear_dtypes"].get(dtype, 0)
        called = scaled_calls(read_encoder(folder, options, DEVICE), source.pad_id)
        proof.require(called == products > 0, f"{products} products of {dtype}", called)
        grid = source.gpu_grid
        facts |= _replayed(folder, options, grid) | {"left_in_float": left}
        facts["summary"] = (
            f"{products} of {products + len(left)} products of the layers in {dtype}, CUDA graphs"
        )
        return Built(facts, options | {"graphs": True}, grid=grid)

    return build


in_torch(
    "cuda-int8",
    requires=("cuda:7.5",),  # the first whose tensor cores multiply int8
    summary="int8 weights per output, activations quantised per token at run time; CUDA graphs",
)(_scaled("int8", "float16"))
in_torch(
    "cuda-fp8",
    requires=("cuda:8.9",),
    summary="fp8 (e4m3) weights per output, activations scaled per token at run time; CUDA graphs",
)(_scaled("float8_e4m3fn", "bfloat16"))


@on_cuda(
    "cuda-compiled-fp16",
    runtime="compiled",
    requires=("g++", TEMPORARY, "triton", "cuda:7.0"),  # Triton's least
    summary="fp16, compiled ahead of time (AOTInductor) for this kind of GPU",
    kinds=TRACED,
)
def cuda_compiled_fp16(source: Source, folder: Path) -> Built:
    import torch

    from export.rewriting.graph import Layer, compile_ahead, lean
    from handler.cuda import set_kernels

    set_kernels(tf32=False)  # attention's is chosen when it is compiled
    model = lean(source.model()).half().to(DEVICE)
    facts = proof.torch_weights(model)
    facts["leaned_layers"] = sum(isinstance(module, Layer) for module in model.modules())
    proof.require(set(facts["linear_dtypes"]) == {"float16"}, "every linear weight in float16", facts)
    package = folder / "model.pt2"
    # Not tuned: products would be tuned for the rows of one example, and run with 16 to 8,192 of them.
    # Weights by torch's allocator, else what the card holds of them is in no figure.
    options = {"aot_inductor.weight_use_caching_allocator": True}
    compile_ahead(model, source.checkpoint.meta.max_length, package, options)
    loaded = torch._inductor.aoti_load_package(str(package), device_index=0)
    ids = torch.full((4, 32), source.pad_id, device=DEVICE)
    kernels = proof.profiled(lambda: loaded(ids, torch.ones_like(ids))).kernels
    generated = sum(count for name, count in kernels.items() if name.startswith("triton_"))
    proof.require(generated > 0, "generated kernels", kernels)
    facts |= {"generated_kernels": generated, "kernels": kernels}
    facts["summary"] = f"{facts['linear_layers']} linear layers in fp16, {generated} generated kernels a call"
    return Built(facts, exact_capability=gpus()[0].capability, grid=source.gpu_grid)


@in_onnx(
    "cuda-onnx-fp16",
    requires=("onnx", "optimum-onnx", "onnxruntime-gpu", "cuda"),
    summary="ONNX Runtime on a GPU in fp16",
)
def cuda_onnx_fp16(source: Source, folder: Path) -> Built:
    write_onnx_fp16(source, folder)
    options = {"providers": [["CUDAExecutionProvider", {}]]}
    grid = source.gpu_grid
    return Built(_ran_on(folder, options, grid), options, grid=grid)


@in_onnx(
    "cuda-tensorrt-fp16",
    requires=("onnx", "optimum-onnx", "onnxruntime-gpu", "tensorrt", "cuda"),
    summary="TensorRT in fp16, through ONNX Runtime; its engine is in the artifact",
)
def cuda_tensorrt_fp16(source: Source, folder: Path) -> Built:
    grid = source.gpu_grid
    write_onnx_fp16(source, folder)
    (folder / "engines").mkdir()

    def shapes(batch: int, length: int) -> str:
        return f"input_ids:{batch}x{length},attention_mask:{batch}x{length}"

    own = {  # an engine for every shape of the grid, made for the middle one
        "trt_fp16_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "engines",
        "trt_profile_min_shapes": shapes(1, grid.lengths[0]),
        "trt_profile_opt_shapes": shapes(grid.batches[len(grid.batches) // 2], grid.lengths[0]),
        "trt_profile_max_shapes": shapes(grid.batches[-1], grid.lengths[-1]),
    }
    providers: list[list[Any]] = [["TensorrtExecutionProvider", own], ["CUDAExecutionProvider", {}]]
    options = {"providers": providers}
    facts = _ran_on(folder, options, grid)
    proof.require(any((folder / "engines").iterdir()), "an engine in the artifact", folder / "engines")
    return Built(facts, options, exact_capability=gpus()[0].capability, grid=grid)


def _half(source: Source, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The encoder in fp16, as `write_encoder` does."""
    from export.rewriting.encoder import encoder_of

    facts, options = write_encoder(encoder_of(source.model()).half(), folder)
    proof.require(set(facts["linear_dtypes"]) == {"float16"}, "every linear weight in float16", facts)
    return facts, options


def scaled_calls(encoder: "Encoder", token: int) -> int:
    """Products of int8 and of fp8 in one forward pass: torch's operators for them take nothing else."""
    calls = proof.torch_profile(encoder, token).calls
    return calls.get("aten::_int_mm", 0) + calls.get("aten::_scaled_mm", 0)


def to_float(encoder: "Encoder", dtype: "torch.dtype") -> "Encoder":
    """`encoder` with its fp32 parameters in `dtype`, except for the scales of its products."""
    for parameter in encoder.parameters():
        parameter.data = parameter.data.to(dtype)
    return encoder


def write_encoder(encoder: "Encoder", folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the weights; the facts about them, and the options with which they are read again."""
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    linear = Counter(
        str(tensor.dtype).removeprefix("torch.")
        for name, tensor in weights.items()
        if name.endswith(".weight") and tensor.dim() == 2 and name not in ("words.weight", "places.weight")
    )
    facts = {"linear_layers": linear.total(), "linear_dtypes": dict(linear)}
    return facts, {"encoder": asdict(encoder.anatomy)}


def _replayed(folder: Path, options: dict[str, Any], grid: Grid) -> dict[str, Any]:
    """Facts of graphs as they are served: two shapes, each recorded by its first call and run three times."""
    import numpy as np

    from handler.cuda import Graphs

    shapes, rounds = (grid.shapes()[0], grid.shapes()[-1]), 3
    graphs = Graphs(read_encoder(folder, options, DEVICE), DEVICE, shapes)

    def run(times: int) -> None:
        for shape in shapes * times:
            graphs(np.zeros(shape, np.int64), np.ones(shape, np.int64))

    run(1)
    profile = proof.profiled(lambda: run(rounds))
    replays = graphs.replays - len(shapes)
    proof.require(replays == rounds * len(shapes), f"{rounds * len(shapes)} replays", replays)
    launches = profile.calls.get("cudaGraphLaunch", 0)
    proof.require(launches == replays, f"{replays} graphs launched, as the profiler sees them", profile)
    return {"replays": replays, "kernels": profile.kernels}


def _packed_once(encoder: "Encoder") -> None:
    import numpy as np

    from handler.cuda import packed

    mask = np.tri(8, dtype=np.int64)  # texts of 1 to 8 tokens
    packed(encoder, DEVICE)(np.zeros_like(mask), mask)


def write_onnx_fp16(source: Source, folder: Path) -> None:
    """The plain export in fp16, ids and logits as ever. Attention is left as the exporter writes it: the one
    operator that our CPU graphs have for it is none that TensorRT knows."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from export.rewriting.graph import lean
    from export.rewriting.onnx_graph import plain_export

    proto = plain_export(lean(source.model()))
    onnx.save(convert_float_to_float16(proto, keep_io_types=True), folder / "model.onnx")


def _ran_on(folder: Path, options: dict[str, Any], grid: Grid) -> dict[str, Any]:
    """Every product executed by the provider that was asked for."""
    import numpy as np

    wanted = options["providers"][0][0]
    inputs = dict.fromkeys(("input_ids", "attention_mask"), np.ones((2, grid.lengths[-1]), np.int64))
    facts = proof.onnx_providers(folder / "model.onnx", options, inputs, DEVICE)
    ran = facts["executed_by"]
    elsewhere = [name for name, kinds in ran.items() if name != wanted and {"MatMul", "Gemm"} & kinds.keys()]
    proof.require(wanted in ran and not elsewhere, f"every product run by {wanted}", ran)
    counts = (f"{sum(kinds.values())} nodes by {name}" for name, kinds in sorted(ran.items()))
    return facts | {"summary": ", ".join(counts)}
