"""What this machine is: its processor, the instruction sets that kernels need, the CPUs that we may use, and
its NVIDIA GPUs."""

import importlib.util
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# The instruction sets that make an ahead-of-time compiled kernel unable to run, or to be fast, elsewhere.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")


@cache
def cpu_features() -> tuple[str, ...]:
    """Those of `INSTRUCTION_SETS` that this CPU has; empty where the platform does not say."""
    flags = next(_cpuinfo("flags"), "").split()
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def available_cpus() -> int:
    """CPUs that this process may use: affinity, and the cgroup quota (v2, then v1) where there is one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return count
    if quota in ("max", "-1"):
        return count
    return max(1, min(count, int(quota) // int(period)))


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU. `capability` is its compute capability, which decides what kernels it runs: (9, 0) for
    an H100 or H200."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that torch can use, in CUDA's order: the first is `cuda:0`. Imports torch where it is
    installed; empty where it is not, or was built without CUDA."""
    if not has_cuda():
        return []
    import torch

    every = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [Gpu(one.name, (one.major, one.minor), one.total_memory) for one in every]


def has_cuda() -> bool:
    """Whether there is an NVIDIA GPU, and a torch that can use it. Imports torch where it is installed."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def cpu_model() -> str:
    """The processor's own name, or its architecture where the platform does not tell."""
    return next(_cpuinfo("model name"), platform.processor() or platform.machine())


def _cpuinfo(field: str) -> Iterator[str]:
    """Every value of a field of Linux' /proc/cpuinfo; none elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                yield value.strip()
