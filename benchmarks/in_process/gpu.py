"""The GPUs of this machine, and what a process can ask of the one that it computes on.

Energy and the driver's version come from NVML, by the package nvidia-ml-py; where it or the card does not
tell, the reason is kept instead. Torch and NVML are imported in the functions that need them: a worker
measures import times.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from handler.errors import UnsupportedError
from handler.machine import gpus

# Dense fp16 products with the tensor cores, TFLOP/s, by the name that CUDA gives the card. From NVIDIA's data
# sheets of these cards, whose doubled figures are with sparsity. The names have been read and not been seen.
# Whole names: L4 is no L40, and an H100 with PCIe is slower than one with SXM.
DATASHEET_TFLOPS = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA A10": 125.0,
    "NVIDIA L4": 121.0,
    "Tesla T4": 65.0,
}
# Packages whose versions matter where there is a card.
PACKAGES = ("onnxruntime-gpu", "tensorrt", "torchao", "triton", "nvidia-ml-py")


class UntoldError(Exception):
    """What NVML does not tell here, and why."""


def cards() -> list[dict[str, Any]]:
    """The fingerprint's `gpus`: name, capability [major, minor] and memory in GB of each."""
    return [
        {
            "name": card.name,
            "capability": list(card.capability),
            "memory_gb": round(card.memory_bytes / 1e9),
        }
        for card in gpus()
    ]


def require_cards() -> list[dict[str, Any]]:
    """Like `cards`, with each card's data-sheet peak (None: unknown). Raises `UnsupportedError` if none."""
    found = cards()
    if not found:
        raise UnsupportedError(
            "there is no GPU to measure",
            seen=_why_none(),
            remedy="Run this on a machine with an NVIDIA GPU, its driver, and a torch built for CUDA",
        )
    return [card | {"datasheet_tflops": DATASHEET_TFLOPS.get(card["name"])} for card in found]


def _why_none() -> str:
    """What is missing."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if torch.version.cuda is None:
        return f"torch {torch.__version__}, which is built without CUDA"
    return f"torch {torch.__version__} for CUDA {torch.version.cuda}, but the driver shows no GPU"


def versions() -> dict[str, str]:
    """Of CUDA, as torch was built for it, and of the driver where NVML tells."""
    import torch

    found = {"cuda": str(torch.version.cuda)}
    try:
        with _nvml() as nvml:
            found["nvidia-driver"] = str(nvml.nvmlSystemGetDriverVersion())
    except UntoldError:
        pass
    return found


def peak_memory() -> dict[str, int] | None:
    """Bytes that torch's allocator had in use and had taken from the card at most.

    None where torch has taken nothing: ONNX Runtime and TensorRT keep memory of their own.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.max_memory_reserved():
        return None
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
    }


def busy_ms(call: Callable[[], object], calls: int) -> float | None:
    """How long the card works in one call: kernels and copies, without the gaps between them; None without a
    card, or where the profiler cannot look at it.

    By the profiler and not by events around the call: the call waits for its result, so that between two
    events lies what the host takes as well.
    """
    import torch
    from torch.autograd import DeviceType  # type: ignore[attr-defined] # is there, without being exported
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        return None
    call()
    try:
        # The host's too: without them, others have seen the profiler miss kernels.
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            for _ in range(calls):
                call()
    except RuntimeError:  # another profiler holds the card, or this user may not: no row is lost for it
        return None
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events() or ()
        # Annotations span the gaps between the kernels that they name.
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return covered(spans) / 1000 / calls if spans else None


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of spans (begin, end): what two streams do at once counts once."""
    total = 0.0
    reached = float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def energy_mj(call: Callable[[], object], seconds: float) -> tuple[float, int]:
    """Millijoules of the card while `call` runs again and again for `seconds`, and how many calls that were.

    Of the whole card: what it takes at rest is in it, and so would be what another process does. Raises
    `UntoldError`.
    """
    import torch

    if not torch.cuda.is_available():
        raise UntoldError("there is no GPU")
    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    with _nvml() as nvml:
        try:
            card = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
            before = nvml.nvmlDeviceGetTotalEnergyConsumption(card)
            calls = 0
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                call()
                calls += 1
            return nvml.nvmlDeviceGetTotalEnergyConsumption(card) - before, calls
        except nvml.NVMLError as error:
            raise UntoldError(f"NVML: {error}") from error


@contextmanager
def _nvml() -> Iterator[Any]:
    """The module, ready to be asked. Raises `UntoldError` without it, or without the driver's library."""
    try:
        import pynvml
    except ImportError as error:
        raise UntoldError("nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise UntoldError(f"NVML: {error}") from error
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()
