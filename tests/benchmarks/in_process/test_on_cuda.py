"""Rows on a GPU: compared with their own reference alone, and with what only a GPU can tell.

The arithmetic and the order of things need no GPU: two processes on the CPU stand for cuda-fp32 and its like
where it matters who is compared with whom. The tests marked GPU run where there is one.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import environment
from benchmarks.ceilings.gemm_bound import GemmBound, GemmTurn
from benchmarks.ceilings.gemms import Encoder
from benchmarks.ceilings.roofline import Arithmetic, Layer
from benchmarks.in_process import gpu
from benchmarks.in_process.gpu import covered
from benchmarks.in_process.latency import Swept, Timings, Turn, measure_latency
from benchmarks.in_process.on_cuda import (
    add_busy,
    add_peak_share,
    joules_per_1000_texts,
    measure_on_cuda,
    resources_of,
)
from benchmarks.in_process.pool import open_pool
from benchmarks.in_process.worker import open_worker
from benchmarks.inputs import _with_cuda_reference
from benchmarks.names import CUDA_BATCH, CUDA_MODEL, CUDA_REFERENCE, GEMM_BOUND, REFERENCE
from benchmarks.profiles import PROFILES
from benchmarks.progress import progress
from benchmarks.records import Card, CudaPeak, plain, tidied
from benchmarks.resume_log import ResumeLog
from handler.artifact import open_artifact
from handler.errors import UnsupportedError, UserError
from handler.machine import Gpu, has_cuda
from tests.benchmarks.reports import latency_entry
from tests.conftest import run_stage

GPU = pytest.mark.skipif(not has_cuda(), reason="no NVIDIA GPU, or a torch without CUDA")
NO_GPU = pytest.mark.skipif(has_cuda(), reason="there is an NVIDIA GPU")
H200 = Gpu("NVIDIA H200", (9, 0), 150_754_820_096)
DISTILBERT = Encoder(layers=6, width=768, feed_forward=3072)
BRIEF = replace(PROFILES["demo"], blocks=1, most_blocks=1, sweep_s=0, single_texts=3)
TEXTS = [f"text number {number}" + " and more" * (number % 5) for number in range(50)]
ELSEWHERE = "cuda-fp16"


def test_a_card_is_in_the_fingerprint_and_in_its_id(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "gpus", list)
    without = environment.fingerprint()
    monkeypatch.setattr(gpu, "gpus", lambda: [H200])
    found = environment.fingerprint()
    assert without.gpus == []
    assert found.gpus == [Card("NVIDIA H200", [9, 0], 151)]
    assert found.id != without.id
    assert "cuda" in found.versions
    assert "cuda" not in without.versions


def test_without_a_card_the_id_is_that_of_earlier_versions(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "gpus", list)
    found = environment.fingerprint()
    hardware = {key: getattr(found, key) for key in ("cpu", "cores", "memory_gb", "cpu_features", "system")}
    assert found.id == hashlib.sha256(json.dumps(hardware, sort_keys=True).encode()).hexdigest()[:12]
    assert plain(found).keys() == {"id", *hardware, "versions"}


@NO_GPU
def test_without_a_card_a_sentence_says_what_is_missing() -> None:
    with pytest.raises(UnsupportedError, match=r"no GPU to measure.*torch"):
        gpu.require_cards()
    done = run_stage("benchmarks", "gpus")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no GPU to measure")


def test_work_of_two_streams_at_once_counts_once_and_gaps_do_not() -> None:
    assert covered([(10, 20), (0, 5), (12, 15), (18, 30)]) == 25
    assert covered([]) == 0


def test_energy_is_given_per_1000_texts_or_the_reason_why_not() -> None:
    assert joules_per_1000_texts(12_000, 3000) == pytest.approx(4)
    assert joules_per_1000_texts(0, 3000) is None, "a counter that has not moved has told nothing"
    memory = {"allocated": 300_000_000, "reserved": 420_000_000}
    found = resources_of({"memory": memory, "energy": {"mj": 12_000.0, "texts": 3000}})
    assert found == {"gpu_allocated_mb": 300, "gpu_reserved_mb": 420, "gpu_j_per_1000_texts": 4}
    found = resources_of({"memory": None, "energy": {"missing": "no NVML"}})
    assert found["gpu_energy_missing"] == "no NVML"
    assert found["gpu_j_per_1000_texts"] is found["gpu_reserved_mb"] is None


@pytest.mark.parametrize(
    ("promised", "share"), [pytest.param(1000.0, 0.05, id="known"), pytest.param(None, None, id="unknown")]
)
def test_a_rate_is_a_share_of_the_measured_and_of_the_promised_peak(promised, share) -> None:
    work = Arithmetic((Layer(8, 16),), width=8, precision="fp32", first_token=False)
    fixed, real = latency_entry("4x2", 4, 2, 1, False), latency_entry("1 text", 1, None, 1, False)
    fixed.p50_ms = work.operations(4, 2) / 50e9  # 50 TFLOP/s
    add_peak_share([fixed, real], work, CudaPeak("a card", "64x32", 500.0, promised))
    assert fixed.peak.tflops == pytest.approx(50)
    assert fixed.peak.of_measured == pytest.approx(0.1)
    assert fixed.peak.of_datasheet == (share and pytest.approx(share))
    assert real.peak is None


def test_a_shape_without_measurements_stays_as_it_is() -> None:
    entries = [latency_entry(case, 1, 32, 1, False) for case in ("1x32", "8x32", "1 text")]
    add_busy(entries, {"1x32": 0.2, "8x32": None})
    assert [entry.gpu_busy_ms for entry in entries] == [0.2, None, None]


def test_the_peak_is_that_of_the_quickest_batch(monkeypatch) -> None:
    """All products of a layer as often as it has them: at 10 TFLOP/s of one batch, at 40 of the other."""
    monkeypatch.setattr(gpu, "gpus", lambda: [H200])
    bound = GemmBound(DISTILBERT, [(1, 32)], 10, [(64, 32), (256, 32)])
    cpu = {kind: {name: [1.0] for name in ("call", *DISTILBERT.products)} for kind in ("int8", "fp32")}
    cuda = {}
    for batch, tflops in ((64, 10), (256, 40)):
        cuda[f"{batch}x32"] = {
            name: [2 * batch * 32 * outputs * inputs / tflops / 1e9]
            for name, (outputs, inputs) in DISTILBERT.products.items()
        }
    reading = {"int8": [1.0], "fp32": [1.0]}
    bound.add(GemmTurn(products={"1x32": cpu}, cuda=cuda, reading=reading))
    found = tidied(bound.record(None)).cuda
    assert found == CudaPeak("NVIDIA H200", "256x32", pytest.approx(40), 989)


def test_no_ratio_is_between_devices() -> None:
    times = {"fp32": 100.0, "hf-pipeline": 200.0, CUDA_REFERENCE: 4.0, ELSEWHERE: 2.0}
    timings = Timings([(1, 32)], np.full(9, 20), 2, {CUDA_REFERENCE, ELSEWHERE}, {ELSEWHERE: 0}, 1)
    for block in range(2):
        for case in timings.cases:
            turns = {
                name: [Turn(times_ms=[time_ms] * 2, cpu_ms=1)]
                for name, time_ms in times.items()
                if name in timings.on_cuda or not case.startswith("1024")
            }
            timings.add(block, case, Swept(turns=turns, seconds=1, others_s=0, starts_s=0))
    found = timings.describe("1x32", ELSEWHERE)
    assert found.speedup.ratio == pytest.approx(2, rel=0.02)
    assert found.vs_pipeline is None
    assert timings.describe("1x32", CUDA_REFERENCE).speedup.verdict == "reference"
    assert timings.describe("1x32", "fp32").vs_pipeline.ratio == pytest.approx(2)
    assert timings.may_be_chosen() == [REFERENCE, CUDA_REFERENCE, ELSEWHERE]


def test_variants_for_gpus_are_refused_without_their_reference(build_once, dataset, tmp_path: Path) -> None:
    artifacts = {REFERENCE: open_artifact(build_once("onnx-fp32").folder)}
    with pytest.raises(UserError, match="cuda-fp16 cannot be compared without cuda-fp32") as caught:
        _with_cuda_reference(artifacts, tmp_path, dataset, [ELSEWHERE])
    assert "make export VARIANTS=cuda-fp32" in caught.value.remedy


@pytest.fixture(scope="module")
def timed(build_once) -> tuple[Timings, dict, list[str]]:
    """fp32 and two that are said to be on a GPU, through a block and what comes after; all of
    them on the CPU. The timings, what a GPU was asked, and who was still there."""
    folder = str(build_once("onnx-fp32").folder)
    names = [REFERENCE, CUDA_REFERENCE, ELSEWHERE]
    with (
        open_pool(names, resume_log=ResumeLog(None, {})) as pool,
        progress({"latency,": (1, 1), "GPU": (2, 1)}) as step,
    ):
        for name in pool.names:
            pool.ask(name, "load", folder=folder, threads=1, first_text=TEXTS[0])
        pool.on_cuda = frozenset({CUDA_REFERENCE, ELSEWHERE})
        timings = measure_latency(pool, TEXTS, 16, BRIEF, step, ResumeLog(None, {}))
        found = measure_on_cuda(pool, [(1, 16)], step)
        return timings, found, pool.names


def test_each_device_has_its_own_cases_and_reference(timed) -> None:
    timings, _, names = timed
    assert set(names) == {REFERENCE, CUDA_REFERENCE, ELSEWHERE}
    entries = timings.entries([REFERENCE, CUDA_REFERENCE, ELSEWHERE])
    cases = {name: [entry.case for entry in found] for name, found in entries.items()}
    assert cases[REFERENCE] == ["1x16", "8x16", "32x16", "1 text", "32 texts"]
    assert set(cases[ELSEWHERE]) - set(cases[REFERENCE]) == {
        "64x16",
        "256x16",
        "1024x16",
        CUDA_BATCH,
        CUDA_MODEL,
    }
    for name in (REFERENCE, CUDA_REFERENCE):
        assert {entry.speedup.verdict for entry in entries[name]} == {"reference"}
    for entry in entries[ELSEWHERE]:
        assert entry.speedup.verdict != "reference"
        assert tidied(entry)


@NO_GPU
def test_what_a_gpu_does_not_tell_is_left_empty_and_no_row_is_lost(timed) -> None:
    _, found, _ = timed
    nothing = {"memory": None, "energy": {"missing": "there is no GPU"}, "busy_ms": {"1x16": None}}
    assert found == {CUDA_REFERENCE: nothing, ELSEWHERE: nothing}


@GPU
def test_products_on_a_gpu_take_time_and_no_more_than_the_peak_allows() -> None:
    encoder = {"layers": 2, "width": 256, "feed_forward": 512}
    with open_worker(GEMM_BOUND, ours=False) as worker:
        worker.ask("load_gemms", encoder=encoder, threads=1, bf16=False)
        found = worker.ask("cuda_products", rows=2048, turn_ms=5)
    assert set(found) == {"square", "qkv", "up", "down"}
    assert all(len(times) >= 2 and min(times) > 0 for times in found.values())


@GPU
def test_a_gpu_is_at_work_for_less_than_the_call_takes() -> None:
    import torch

    values = torch.randn(2048, 2048, device="cuda")

    def call() -> None:
        (values @ values).sum().item()

    busy = gpu.busy_ms(call, 3)
    if busy is None:
        pytest.skip("torch's profiler may not look at this card")
    assert 0 < busy < 1000
    memory = gpu.peak_memory()
    assert memory is not None
    assert 16e6 < memory["allocated"] <= memory["reserved"]


@GPU
def test_a_gpu_tells_its_energy() -> None:
    import torch

    values = torch.randn(2048, 2048, device="cuda")
    try:
        taken_mj, calls = gpu.energy_mj(lambda: (values @ values).sum().item(), 1.0)
    except gpu.UntoldError as untold:
        pytest.skip(str(untold))
    assert calls > 0
    assert 1000 < taken_mj < 2_000_000, "a card takes between 1 and 2,000 W"


@GPU
def test_the_cards_have_names_capabilities_and_memory() -> None:
    for card in gpu.require_cards():
        assert card.name
        assert card.capability >= [5, 0]
        assert card.memory_gb > 0
    assert environment.fingerprint().versions.cuda
