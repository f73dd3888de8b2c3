"""Which machine and which software a figure belongs to, and how busy the machine was before the run."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress

import psutil

from benchmarks.in_process import gpu
from benchmarks.records import Machine
from common.environment import installed, machine, versions
from common.records import read
from handler.machine import available_cpus, cpu_features
from handler.runtimes import PACKAGES

VERSIONED = (*PACKAGES, "tokenizers", "torchserve", "numpy", "aiohttp")
# Above this share of the cores taken by others, a timing says more about them than about the model.
BUSY_SHARE = 0.25


def fingerprint() -> Machine:
    """The machine (its `id` covers the hardware alone) and the versions that ran on it."""
    hardware = {
        **machine(),
        "memory_gb": round(memory_bytes() / 1e9),
        "cpu_features": list(cpu_features()),
    }
    if cards := gpu.cards():  # without them the id stays what it was before there was such a field
        hardware["gpus"] = cards
    digest = hashlib.sha256(json.dumps(hardware, sort_keys=True).encode()).hexdigest()
    of_gpus = installed(gpu.PACKAGES) | gpu.versions() if cards else {}
    return read({"id": digest[:12], **hardware, "versions": versions(VERSIONED) | of_gpus}, Machine)


def memory_bytes() -> int:
    """Physical memory; 0 where the platform does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def load_average() -> float | None:
    """Processes that wanted to run, averaged over the last minute; None where there is no such figure."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


class Others:
    """What other processes use of the CPU from now on: everything that was used, minus our share."""

    def __init__(self, ours: Sequence[int]) -> None:
        """`ours` are processes of this run; they and this one do not count, nor do children that ended."""
        self._ours = [psutil.Process(pid) for pid in (os.getpid(), *ours)]
        self._used = self._of_others()

    def seconds(self) -> float:
        """CPU seconds since the beginning."""
        return max(0.0, self._of_others() - self._used)

    def _of_others(self) -> float:
        """CPU seconds; those that a hypervisor took for its other guests count as well."""
        times = psutil.cpu_times()
        busy: float = (
            sum(times)
            - times.idle
            - sum(getattr(times, kind, 0.0) for kind in ("iowait", "guest", "guest_nice"))
        )
        for process in self._ours:
            with suppress(psutil.Error):
                busy -= sum(process.cpu_times()[:4])
        return busy


def is_busy(load: float | None) -> bool:
    """Whether other processes used so much of the machine before the run that its timings need a warning."""
    return load is not None and load > BUSY_SHARE * available_cpus()
