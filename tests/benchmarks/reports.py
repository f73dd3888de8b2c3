"""Constructed reports: complete, valid, and with figures that a test sets as it needs them."""

from copy import deepcopy
from typing import Any

from msgspec import inspect, structs

from benchmarks.in_process.ratios import verdict
from benchmarks.records import (
    Baseline,
    Built,
    Card,
    Check,
    CudaPeak,
    Data,
    Drop,
    Failed,
    Flipped,
    GemmBound,
    GemmCase,
    Latency,
    LengthBin,
    Lengths,
    Level,
    Machine,
    Noninferiority,
    OpenLevel,
    Parity,
    Peak,
    Quality,
    Rate,
    Ratio,
    Report,
    Resources,
    Run,
    ServedParity,
    Slice,
    Variant,
)
from training.measures.records import Functional, Functionality, Reliability

RUN = Run("20260101T000000Z-abcdef", "2026-01-01T00:00:00+00:00", 60.0, "quick", 2, 0.1, "0123456789ab")
VERSIONS = {"python": "3.11.7", "torch": "2.13.0"}
MACHINE = Machine("feedface0000", "A processor", 2, 16, ["avx2"], "Linux x86_64", VERSIONS)
DATA = Data("demo", "0" * 64, "minilm", ["not-hate", "hate"], True, Lengths(20.0, 19.0, 30.0, 40.0), "gate")
CASES = (
    ("1x32", 1, 32),
    ("8x32", 8, 32),
    ("32x32", 32, 32),
    ("1x128", 1, 128),
    ("1 text", 1, None),
    ("32 texts", 32, None),
)
CUDA_CASES = (("64x32", 64, 32), ("256x32", 256, 32), ("1024x32", 1024, 32), ("1024 texts", 1024, None))
CARD = Card("NVIDIA H200", [9, 0], 141)

# Of fields by name, where not any value of the type will do for a page or a picture.
SAID = {
    "device": "cpu",
    "margin": 0.01,
    "measure": "macro-F1",
    "objective_p99_ms": 100.0,
    "others_cores": 0.12,
    "resumed": 1,
    "turns": ["20 21; 20 22", "21 22; 20.5 21"],
}
# What only some reports have: of a GPU, of a choice, of independent labels, and what earlier ones lack.
RARE = (
    "cells",
    "gpu",
    "group",
    "kinds",
    "labels",
    "may_have_seen",
    "peak",
    "serving",
    "unseen",
    "vs_pipeline",
)


def value(kind: inspect.Type) -> Any:
    """One that a field of that type may have."""
    match kind:
        case inspect.UnionType(types=(first, *_)):
            return value(first)
        case inspect.StructType(cls=record):
            return filled(record)
        case inspect.ListType(item_type=item):
            return [value(item), value(item)]
        case inspect.LiteralType(values=(first, *_)):
            return first
        case inspect.FloatType(le=1):
            return 0.75
    return {inspect.FloatType: 2.0, inspect.IntType: 2, inspect.StrType: "words"}.get(type(kind), {})


def filled(kind: Any, **given: Any) -> Any:
    """A record of that type with a value in every field, optional ones too; those `given` as they are."""
    fields = inspect.type_info(kind).fields
    return kind(**{field.name: SAID.get(field.name, value(field.type)) for field in fields} | given)


def fill(record: Any, **given: Any) -> None:
    """Give every optional field that the record lacks a value, those `given` theirs."""
    for field in inspect.type_info(type(record)).fields:
        name = field.name
        if not field.required and not getattr(record, name) and not name.startswith(RARE):
            setattr(record, name, given.get(name, SAID.get(name, value(field.type))))


def latency_entry(case: str, batch: int, tokens: int | None, ratio: float, reference: bool) -> Latency:
    low, high = ratio * 0.98, ratio * 1.02
    speedup = Ratio(1.0, 1.0, 1.0, "reference") if reference else Ratio(ratio, low, high, verdict(low, high))
    time_ms = 20.0 * batch**0.8 / ratio
    percentiles = time_ms, time_ms * 1.1, time_ms * 1.3
    return Latency(case, batch, tokens, 100, 10, *percentiles, 1000 * batch / time_ms, speedup)


def level(concurrency: int, rps: float, p99_ms: float, errors: dict[str, int] | None = None) -> Level:
    percentiles = p99_ms / 2, p99_ms / 1.5, p99_ms
    return Level(concurrency, 1, 5.0, 1000, rps, (rps, rps), *percentiles, errors or {}, 0.2)


def variant(
    name: str,
    *,
    speed: float = 1.0,
    drop: tuple[float, float] | None = (0.0, 0.0),
    levels: tuple[Level, ...] = (),
    equal: bool = True,
    mb: float = 90.0,
    error: str | None = None,
    served_as_measured: bool = True,
) -> Variant:
    """One entry of a report. `speed` is that in process, as a multiple of fp32's."""
    check = Check(
        equal=equal,
        n=999,
        label_agreement=0.997,
        max_prob_diff=0.0123,
        macro_f1_drop=(-0.002, 0.003),
        batch_mate_diff=0.0004,
    )
    found = Variant(
        name=name,
        status="failed",
        error=Failed("latency", error or ""),
        artifact_sha256=(name.encode().hex() * 64)[:64],
        artifact=Built(f"the {name}", "torch", None, check, 128, 12.3),
        latency=[],
        quality={},
        parity={},
        resources=Resources(),
        served=list(levels),
        served_error=None,
        quality_served={},
        parity_served={},
        proof={"kernels": "int8"},
    )
    if error:
        return found
    measured_drop = drop and Drop(sum(drop) / 2, *drop, confidence=0.95, mcnemar_p=1.0)
    flips = {"not-hate -> hate": 4, "hate -> not-hate": 6}
    off = 0.0 if served_as_measured else 0.3
    return structs.replace(
        found,
        status="measured",
        error=None,
        latency=[latency_entry(*case, speed, name == "fp32") for case in CASES],
        quality={"gate": Quality(2000, 0.75, 0.76, 0.8)},
        parity={"gate": Parity(2000, 0.995, flips, 0.01, 0.001, measured_drop or None)},
        resources=Resources(load_s=2.0, warm_s=1.0, peak_rss_mb=400.0, artifact_mb=mb, archive_mb=mb),
        parity_served={"gate": ServedParity(256, 0, off, 1e-6, served_as_measured)} if levels else {},
    )


def on_cuda(name: str, *, speed: float = 1.0, bound: bool = True, energy: bool = True) -> Variant:
    """One entry of a report as of a variant on a GPU; `speed` is a multiple of cuda-fp32's."""
    found = variant(name, speed=speed)
    found.latency = [latency_entry(*case, speed, name == "cuda-fp32") for case in (*CASES, *CUDA_CASES)]
    for entry in found.latency:
        if entry.tokens is None:
            continue
        entry.gpu_busy_ms = entry.p50_ms * 0.4
        entry.peak = Peak(63.0, 0.09, 0.064) if bound else None
    found.resources.device = "cuda:0"
    found.resources.gpu_allocated_mb = 300.0
    found.resources.gpu_reserved_mb = 420.0
    found.resources.gpu_j_per_1000_texts = 5.25 if energy else None
    found.resources.gpu_energy_missing = None if energy else "nvidia-ml-py is not installed"
    return found


def with_card(found: Report) -> Report:
    """The report as of a machine with a GPU, its GEMM bound included."""
    cuda = CudaPeak(CARD.name, "1024x32", 700.0, 989.0)
    machine = structs.replace(found.machine, gpus=[CARD])
    return structs.replace(found, machine=machine, bound=structs.replace(bound(), cuda=cuda))


def baseline(name: str, *, speed: float = 1.0, error: str | None = None, left_out: bool = False) -> Baseline:
    """One entry of a report's `baselines`."""
    like = variant(name, speed=speed, error=error)
    return Baseline(
        name=name,
        summary=f"the {name}",
        documentation="https://example.org/docs",
        status="left out" if left_out else like.status,
        error=like.error,
        preparation_s=None if error else 12.0,
        versions={} if error else {"optimum": "2.1.0"},
        latency=like.latency,
        quality=like.quality,
        parity=like.parity,
        resources=like.resources,
    )


def served_baseline(name: str, level: Level) -> Baseline:
    """A baseline that is a server: nothing was measured of it in process."""
    return structs.replace(
        baseline(name), served=[level], latency=[], quality={}, parity={}, resources=Resources()
    )


def bound() -> GemmBound:
    """The GEMM bound on two shapes."""
    cases = [filled(GemmCase, case=f"{batch}x32", batch=batch, tokens=32) for batch in (1, 32)]
    return filled(GemmBound, error=None, cases=cases, cuda=None)


def document(*variants: Variant, complete: bool = False, **more: Any) -> Report:
    """All of them side by side; `complete`: with every optional field filled."""
    shared = {"schema": 1, "run": RUN, "machine": MACHINE, "data": DATA}
    found = deepcopy(Report(variants=list(variants), **(shared | more)))
    return completed(found) if complete else found


def report(one: Variant, **shared: Any) -> Report:
    """The report of one variant, with fields of what reports share replaced."""
    parts = {"run": RUN, "machine": MACHINE, "data": DATA}
    return document(one, **{key: structs.replace(parts[key], **values) for key, values in shared.items()})


def completed(found: Report) -> Report:
    """The report with every optional field filled, of what a CPU has; what it has stays."""
    found = deepcopy(found)
    fill(found.run)
    for row in found.rows:
        for entry in row.latency:
            _complete_latency(entry)
    for variant in found.measured:
        _complete(variant, found.data.labels_meaningful)
    return found


def _complete_latency(entry: Latency) -> None:
    bins = [filled(LengthBin, up_to=end) for end in (16, 32, 64)]
    of_one = {} if entry.case == "1 text" else {"by_length": [], "tokenise_p50_ms": None, "p99_speedup": None}
    fill(entry, **{"by_length": bins, "int8_bounds": None} | of_one)


def _complete(variant: Variant, judged: bool) -> None:
    fill(variant.resources)
    flips = 0 if variant.name == "fp32" else 1
    for parity in variant.parity.values():
        drop = parity.macro_f1_drop
        parity.flip_rates = {way: filled(Rate, n=count) for way, count in parity.flips.items()}
        parity.flip_rates["any"] = filled(Rate, n=sum(parity.flips.values()))
        if judged and drop:
            slices = [filled(Slice, up_to=end) for end in (16, 32, 64)]
            fill(parity, slices=slices, noninferiority=tested(drop) if flips else None)
    for quality in variant.quality.values():
        fill(quality, reliability=[Reliability(place / 10, place / 10, 100) for place in range(10)])
    given = {"open": [], "saturation": None, "many": None, "functional": {}, "flipped": []}
    if variant.served:
        capacity = max(level.requests_per_second for level in variant.served)
        variant.quality_served = variant.quality
        given["open"] = [open_level(share * capacity, capacity) for share in (0.3, 0.5, 0.7, 0.85, 1.0, 1.2)]
        del given["saturation"], given["many"]
    if judged:
        given["functional"] = {name: suite(flips) for name in ("hatecheck", "templates")}
        flipped = Flipped("gate", 7, 9, "hate", "not-hate", "hate", 0.46, 0.52)
        given["flipped"] = [structs.replace(flipped, row=row) for row in range(8 * flips)]
    fill(variant, **given)


def suite(flips: int) -> Functional:
    kinds = "slur", "negation of hate", "identity term, neutral", "implicit hate", "counter speech"
    cases = [filled(Functionality, functionality=words, flips=flips) for words in kinds]
    return filled(Functional, functionalities=cases, flips=5 * flips)


def open_level(offered: float, capacity: float) -> OpenLevel:
    """Arrivals that do not wait, at a server that can answer `capacity` a second."""
    kept = offered < 0.95 * capacity
    p99_ms = 12 / (1 - offered / capacity) if kept else 2500.0
    goodput = offered if kept else 0.35 * capacity
    told = {"offered_rps": offered, "goodput_rps": goodput, "p99_ms": p99_ms, "saturated": not kept}
    return filled(OpenLevel, answered_rps=min(offered, capacity), errors={} if kept else {"503": 7}, **told)


def tested(drop: Drop) -> Noninferiority:
    """The verdict at the usual margin."""
    word = "pass" if drop.high <= 0.01 else "fail" if drop.low > 0.01 else "inconclusive"
    open_ = word == "inconclusive"
    return filled(Noninferiority, verdict=word, texts_to_settle=5200 if open_ else None)
