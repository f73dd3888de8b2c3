"""Evidence that an optimisation really happened, read from what the runtime executes.

A quantised graph that runs in fp32, or a compiled one without its kernels, looks fine from outside. Each
function returns facts for `artifact.json`; `require` turns a missing fact into a failed export.
"""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.errors import UnsupportedError, UserError

LONGEST_SEEN = 200  # characters of what was found, in a sentence
# A generated kernel: its name and the type that it multiplies. One for AMX takes a state first.
MICRO_GEMM = re.compile(r"inline void (cpp_\w+?)_micro_gemm\(\s*(?:AMXState& amx_state,\s*)?const ([\w:]+)\*")
# What stands in a generated kernel that uses them; library kernels choose their own.
INSTRUCTIONS = {"AMX": "_micro_gemm_amx_kernel", "VNNI": "_dpbusd_", "AVX512-BF16": "_dpbf16_"}


def require(fact: bool, expected: str, seen: object) -> None:
    """Fail the export unless `fact` holds."""
    if not fact:
        raise UserError(
            f"the proof is missing: expected {expected}",
            seen=_short(seen),
            remedy="The runtime did not do what the variant promises; no artifact was written",
        )


def require_all_found(found: int, expected: int, parts: str) -> None:
    """Refuse a model if its graph does not show all of its `parts`: nothing could be proven for it."""
    if found != expected:
        raise UnsupportedError(
            f"nothing can be proven for this architecture: not all of its {parts} are found in the graph",
            seen=f"{found} of {expected}",
            remedy="Serve fp32, or a variant of another runtime",
        )


def _short(seen: object) -> str:
    text = str(seen)
    return text if len(text) <= LONGEST_SEEN else f"{text[:LONGEST_SEEN]} …"


def torch_weights(model: Any) -> dict[str, Any]:
    """Parameters, non-zero parameters, and the dtypes of linear weights of a torch module."""
    import torch

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "non_zeros": sum(int(parameter.count_nonzero()) for parameter in model.parameters()),
        "linear_layers": len(linear),
        "linear_dtypes": dict(Counter(str(layer.weight.dtype).removeprefix("torch.") for layer in linear)),
    }


@dataclass(frozen=True)
class Profile:
    """How often each was seen: operators and calls of CUDA on the host, kernels on the GPU."""

    calls: dict[str, int]
    kernels: dict[str, int]


def torch_profile(model: Any, token: int) -> Profile:
    """One forward pass of an eager model."""
    import torch

    ids = torch.full((1, 8), token, device=next(model.parameters()).device)
    with torch.inference_mode():
        return profiled(lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)))


def profiled(run: Callable[[], object]) -> Profile:
    """What torch's profiler sees while `run` runs."""
    import torch
    from torch.autograd import DeviceType  # type: ignore[attr-defined] # is there, without being exported

    with torch.profiler.profile() as seen:  # of all devices that there are
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    on_gpu: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for event in seen.key_averages():
        on_gpu[event.device_type == DeviceType.CUDA][event.key] += event.count
    if torch.cuda.is_initialized() and not on_gpu[True]:
        raise UnsupportedError(
            "torch's profiler does not see what runs on this GPU, so nothing can be proven",
            seen=torch.cuda.get_device_name(),
            remedy="Give it access: another profiler may hold the GPU, or only root may read its counters",
        )
    return Profile(dict(on_gpu[False]), dict(on_gpu[True]))


def keeps_fp32(device: str) -> bool:
    """Whether products of fp32 on `device` keep fp32's 23 bits of each factor: TensorFloat-32 has 10, and
    rounds 1 + 2^-12 to 1. The products are large enough for its kernels to be chosen."""
    import torch

    factor = torch.full((1024, 1024), 1 + 2**-12, device=device)
    return bool((factor @ torch.eye(1024, device=device) == factor).all())


def openvino_precisions(compiled: Any) -> dict[str, Any]:
    """Matrix products of a compiled OpenVINO model: the precision that each is executed in, and how often."""
    layers = {}
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if info["layerType"].value in ("FullyConnected", "MatMul"):
            layers[operation.get_friendly_name()] = info["runtimePrecision"].value
    return {"executed_matmuls": dict(Counter(layers.values())), "executed_layers": layers}


def onnx_operators(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Operators of the graph that ONNX Runtime executes on this machine, after its own optimisation."""
    import tempfile

    import onnx

    from handler.runtimes import onnx_session

    with tempfile.TemporaryDirectory() as scratch:
        executed = Path(scratch) / "executed.onnx"  # for looking at, not for shipping: it fits this CPU
        onnx_session(path, options, 1, executed=executed)
        nodes = onnx.load(executed, load_external_data=False).graph.node
        return {"executed_operators": dict(Counter(node.op_type for node in nodes).most_common())}


def onnx_providers(
    path: Path, options: dict[str, Any], inputs: dict[str, Any], device: str
) -> dict[str, Any]:
    """Which execution provider of ONNX Runtime ran how many nodes of each kind, in one call with `inputs`."""
    import tempfile

    from handler.runtimes import onnx_session

    with tempfile.TemporaryDirectory() as scratch:
        session = onnx_session(path, options, 1, device=device, profile=Path(scratch) / "nodes")
        session.run(["logits"], inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = {  # each once: a node is told of again for its fences
        (event["args"]["provider"], event["name"].removesuffix("_kernel_time"), event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event["args"].get("provider")
    }
    nodes: dict[str, Counter[str]] = {}
    for provider, _, kind in ran:
        nodes.setdefault(provider, Counter())[kind] += 1
    return {"executed_by": {provider: dict(counts.most_common()) for provider, counts in nodes.items()}}


def compiled_kernels(package: Path) -> dict[str, Any]:
    """What AOTInductor generated: dtypes of the frozen constants, and the matrix products that it calls.

    A linear layer is either a call of oneDNN or MKL with packed weights, or of a generated kernel built
    around a micro-GEMM, whose operands and instructions its source shows.
    """
    with zipfile.ZipFile(package) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".cpp")}
    kernels = "".join(text for name, text in sources.items() if name.endswith("kernel.cpp"))
    wrapper = "".join(text for name, text in sources.items() if name.endswith("wrapper.cpp"))
    generated = dict(MICRO_GEMM.findall(kernels))
    # Of the places where a kernel's name is followed by "(", one is its declaration.
    calls = {name: len(re.findall(rf"\b{name}\(", wrapper)) - 1 for name in generated}
    integer_calls = len(re.findall(r"\baoti_torch_cpu__qlinear_pointwise\w*\(", wrapper))
    float_calls = len(re.findall(r"\baoti_torch_cpu__(?:linear_pointwise\w*|mkl_linear)\(", wrapper))
    integer_kernels = sum(calls[name] for name, operand in generated.items() if "int8" in operand)
    return {
        "constants": dict(Counter(re.findall(r"\.dtype = cached_torch_dtype_(\w+)", wrapper))),
        "generated_linears": sum(calls.values()),
        "library_linears": integer_calls + float_calls,
        "int8_linears": integer_kernels + integer_calls,
        "operands": dict(
            sum((Counter({generated[name]: count}) for name, count in calls.items()), Counter())
        ),
        "instructions": [name for name, mark in INSTRUCTIONS.items() if mark in kernels],
    }
