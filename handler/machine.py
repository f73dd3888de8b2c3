"""This machine: its processor, the instruction sets that kernels need, the CPUs that we may use, and its
NVIDIA GPUs."""

import importlib.util
import mmap
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# The instruction sets that make an ahead-of-time compiled kernel unable to run, or to be fast, elsewhere.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
UNLIMITED_BYTES = 1 << 60  # cgroups v1 write no limit as the largest number of whole pages


@cache
def cpu_features() -> tuple[str, ...]:
    """Those of `INSTRUCTION_SETS` that this CPU has; empty where the platform does not say."""
    flags = next(_cpuinfo("flags"), "").split()
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def available_cpus() -> int:
    """The number of whole CPUs that this process may use under its affinity and its control groups' quotas;
    at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([count, *cpu_quotas()])))


def cpu_quotas(root: Path = Path("/")) -> list[float]:
    """CPUs that the process' control group and each group above it may use, where they are limited; `root` is
    the folder that holds `proc` and `sys`."""
    found = []
    for group in _control_groups("cpu", root):
        values = _words(group / "cpu.max") or [
            *_words(group / "cpu.cfs_quota_us"),
            *_words(group / "cpu.cfs_period_us"),
        ]
        with suppress(ValueError):  # "max", or not there
            quota, period = map(int, values)
            if quota > 0 and period > 0:
                found.append(quota / period)
    return found


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes that the process' control groups leave it, counting file cache that can be freed; None if no
    group is limited."""
    found = []
    for group in _control_groups("memory", root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with suppress(ValueError):
                ((most,), (taken,)) = _words(group / limit), _words(group / used)
                if int(most) < UNLIMITED_BYTES:
                    found.append(max(0, int(most) - int(taken) + _inactive_file(group)))
    return min(found, default=None)


def _inactive_file(group: Path) -> int:
    words = iter(_words(group / "memory.stat"))
    return dict(zip(words, map(int, words), strict=False)).get("inactive_file", 0)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the process' own control group of `controller` and of all above it that can be seen, of
    cgroups v1 and v2."""
    for mount in _lines(root / "proc/self/mountinfo"):
        before, _, after = mount.partition(" - ")
        kind, _, options = (*after.split(), "", "", "")[:3]
        if kind == "cgroup2":
            controllers = ""
        elif kind == "cgroup" and controller in options.split(","):
            controllers = controller
        else:
            continue
        inside, place = (Path(_unescaped(word)) for word in before.split()[3:5])
        mounted = root / place.relative_to("/")
        for line in _lines(root / "proc/self/cgroup"):
            _, names, path = line.split(":", 2)
            if controllers in names.split(","):
                own = Path(path)
                if ".." in own.parts:  # above what this namespace shows
                    below = Path()
                else:
                    below = own.relative_to(inside) if own.is_relative_to(inside) else Path()
                yield from (mounted / folder for folder in (below, *below.parents))


def _unescaped(word: str) -> str:
    """A word of mountinfo, in which blanks stand as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def unpacks_into() -> Path:
    """The folder that torch unpacks compiled artifacts into, and loads them from."""
    named = (os.environ.get(name) for name in ("TMPDIR", "TMP", "TEMP", "TEMPDIR"))
    return Path(next((folder for folder in named if folder), "/tmp"))


def unpacking_fault(needed_bytes: int = 0) -> str | None:
    """Why a compiled artifact of this many bytes cannot be unpacked and loaded; None if it can."""
    folder = unpacks_into()
    if not folder.is_dir():
        return "there is no such folder"
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed below
    except OSError as error:
        return error.strerror or str(error)
    with file:
        try:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
        except OSError as error:
            return error.strerror or str(error)
        try:
            mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
        except OSError:
            return "mounted noexec: libraries cannot be loaded from there"
    free = shutil.disk_usage(folder).free
    return f"{free / 1e6:.0f} MB free, {needed_bytes / 1e6:.0f} needed" if free < needed_bytes else None


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
    return [Gpu(gpu.name, (gpu.major, gpu.minor), gpu.total_memory) for gpu in every]


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
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() == field:
            yield value.strip()
