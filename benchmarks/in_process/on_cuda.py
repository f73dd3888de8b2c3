"""Figures that only rows on a GPU have: memory on the card, energy, busy time, and shares of its peak.

Measured after the rounds, one variant after the other while the others sleep, since a profiler slows down
what it observes and energy is that of the whole card. Unknown figures are left empty, with the reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.ceilings.roofline import Arithmetic
from benchmarks.in_process.pool import Pool
from benchmarks.progress import Step
from benchmarks.records import CudaPeak, Latency, Peak

CALLS = 5  # under the profiler
ENERGY_S = 2.0  # long against the steps of NVML's counter, about whose length its documentation is silent
MB = 1e6

Found = dict[str, dict[str, Any]]


def measure_on_cuda(pool: Pool, shapes: Sequence[tuple[int, int]], step: Step) -> Found:
    """By row on a GPU: `memory` in bytes (None: not told), `busy_ms` by case, and `energy` as the worker says
    it, of the largest of the shapes; in plain JSON."""
    largest, tokens = max(shapes)
    questions: dict[str, tuple[str, dict[str, Any]]] = {
        "memory": ("gpu_memory", {}),
        "energy": ("energy", {"batch": largest, "tokens": tokens, "seconds": ENERGY_S}),
        **{
            f"{batch}x{tokens}": ("busy", {"batch": batch, "tokens": tokens, "calls": CALLS})
            for batch, tokens in shapes
        },
    }
    found: Found = {}
    for name in pool.rows:
        if name not in pool.on_cuda:
            continue
        answers = {}
        with step(f"GPU alone: {name}"):
            for what, (command, arguments) in questions.items():
                if name in pool.names:
                    answers[what] = pool.ask(name, command, **arguments)
        if name in pool.names:
            memory, energy = answers.pop("memory"), answers.pop("energy")
            found[name] = {"memory": memory, "energy": energy, "busy_ms": answers}
    return found


def resources_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the report's `resources` that only a GPU has."""
    memory, energy = found["memory"] or {}, found["energy"]
    return {
        "gpu_allocated_mb": memory["allocated"] / MB if memory else None,
        "gpu_reserved_mb": memory["reserved"] / MB if memory else None,
        **(
            {"gpu_j_per_1000_texts": None, "gpu_energy_missing": energy["missing"]}
            if "missing" in energy
            else {"gpu_j_per_1000_texts": joules_per_1000_texts(energy["mj"], energy["texts"])}
        ),
    }


def joules_per_1000_texts(taken_mj: float, texts: int) -> float | None:
    """Joules; None where the counter has not moved."""
    return (taken_mj / 1000) / (texts / 1000) if taken_mj > 0 else None


def add_busy(entries: Sequence[Latency], busy_ms: Mapping[str, float | None]) -> None:
    """The time in which the card was at work, to each fixed shape of a row."""
    for entry in entries:
        entry.gpu_busy_ms = busy_ms.get(entry.case) or None


def add_peak_share(entries: Sequence[Latency], work: Arithmetic, peak: CudaPeak) -> None:
    """To each fixed shape of a variant its rate, and what share that is of the fp16 products measured in the
    same run, and of those that the data sheet promises."""
    for entry in entries:
        if entry.tokens is None:
            continue
        tflops = work.operations(entry.batch, entry.tokens) / entry.p50_ms / 1e9
        promised = peak.datasheet_tflops
        entry.peak = Peak(
            tflops=tflops,
            of_measured=tflops / peak.tflops,
            of_datasheet=tflops / promised if promised else None,
        )
