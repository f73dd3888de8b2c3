"""Constructed reports: complete, valid, and with figures that a test sets as it needs them; a real server on
loopback that does what a test says; and, where loads are about time, a clock that no machine can hurry."""

import asyncio
import gc
import random
import selectors
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from msgspec import structs

from benchmarks.records import (
    Baseline,
    Built,
    Card,
    Check,
    CudaPeak,
    Data,
    Drop,
    EncoderSizes,
    Failed,
    Flipped,
    Functional,
    Functionality,
    Gaps,
    GemmBound,
    GemmCase,
    Group,
    Interval,
    Latency,
    LengthBin,
    Lengths,
    Level,
    Machine,
    Many,
    Noninferiority,
    OpenLevel,
    Parity,
    Peak,
    Quality,
    Rate,
    Ratio,
    Refitted,
    Reliability,
    Report,
    Resources,
    Roofline,
    Run,
    Saturation,
    ServedParity,
    Slice,
    TimeSplit,
    Variant,
)
from benchmarks.served import open_loop
from deploy.tuning import load
from training.checkpoint import load_data, open_checkpoint

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


def latency_entry(case: str, batch: int, tokens: int | None, ratio: float, reference: bool) -> Latency:
    low, high = ratio * 0.98, ratio * 1.02
    verdict = "faster" if low > 1.05 else "slower" if high < 1 / 1.05 else "not different"
    speedup = Ratio(1.0, 1.0, 1.0, 1.05, "reference") if reference else Ratio(ratio, low, high, 1.05, verdict)
    time_ms = 20.0 * batch**0.8 / ratio
    percentiles = time_ms, time_ms * 1.1, time_ms * 1.3
    return Latency(case, batch, tokens, 100, 10, *percentiles, 1000 * batch / time_ms, speedup)


def served_level(concurrency: int, rps: float, p99_ms: float, errors: dict[str, int] | None = None) -> Level:
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
    one = variant(name, speed=speed)
    one.latency = [latency_entry(*case, speed, name == "cuda-fp32") for case in (*CASES, *CUDA_CASES)]
    for entry in one.latency:
        if entry.tokens is None:
            continue
        entry.gpu_busy_ms = entry.p50_ms * 0.4
        entry.peak = Peak(63.0, 0.09, 0.064) if bound else None
    one.resources.device = "cuda:0"
    one.resources.gpu_allocated_mb = 300.0
    one.resources.gpu_reserved_mb = 420.0
    one.resources.gpu_j_per_1000_texts = 5.25 if energy else None
    one.resources.gpu_energy_missing = None if energy else "nvidia-ml-py is not installed"
    return one


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
    nothing: dict[str, Any] = {"latency": [], "quality": {}, "parity": {}, "resources": Resources()}
    return structs.replace(baseline(name), served=[level], **nothing)


def bound() -> GemmBound:
    """The GEMM bound on two shapes."""
    cases = [GemmCase(f"{batch}x32", batch, 32, 50, 20.0, 2.0, 1.0, 10.0, 0.2) for batch in (1, 32)]
    return GemmBound(EncoderSizes(6, 384, 1536), 5, None, cases)


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
    """The report with every optional field filled with plausible figures, the same ones every time; what it
    has stays."""
    found = deepcopy(found)
    more = {"objective_p99_ms": 100.0, "margin": 0.01, "others_cores": 0.12, "resumed": 1}
    found.run = structs.replace(found.run, **more)
    for one in found.measured:
        _complete(one, found.data.labels_meaningful)
    for baseline in found.baselines:
        if baseline.parity:
            _complete_latency(baseline, 1.0)
    return found


def _complete(one: Variant, judged: bool) -> None:
    draw = random.Random(one.name)
    reference = one.name == "fp32"
    _complete_latency(one, 0.0 if reference else draw.uniform(0.9, 1.1))
    one.resources.cpu_s_per_1000_texts = 14.0 / one.latency[-1].speedup.ratio
    one.resources.server_ready_s = 4.2
    one.resources.first_answer_ms = 30.0
    for parity in one.parity.values():
        _complete_parity(parity, judged, reference, one.quality["gate"].macro_f1)
    for quality in one.quality.values():
        _complete_quality(quality, draw)
    if one.served:
        capacity = max(level.requests_per_second for level in one.served)
        one.open = [open_level(share * capacity, capacity) for share in (0.3, 0.5, 0.7, 0.85, 1.0, 1.2)]
        one.saturation = Saturation(capacity * 1.02, capacity * 0.85)
        one.many = Many(64, 4, 1, 40, 330.0, {}, capacity * 1.4, 0.87)
        one.quality_served = {"gate": one.quality["gate"]}
    if judged:
        suites = {"hatecheck": 0 if reference else 1, "templates": 0}
        one.functional = {name: functional_suite(draw, flips) for name, flips in suites.items()}
        one.flipped = [] if reference else [flipped_row(draw) for _ in range(8)]


def _complete_latency(one: Variant | Baseline, jitter: float) -> None:
    for entry in one.latency:
        ratio, time_ms = entry.speedup.ratio, entry.p50_ms
        entry.model_p50_ms = time_ms * 0.93
        gflop, weight_mb = 0.7 * entry.batch, 86.0 / min(ratio, 4)
        entry.roofline = Roofline(gflop, weight_mb, time_ms * 0.55, time_ms * 0.2, time_ms * 0.55, 0.55)
        if entry.case != "1 text":
            continue
        entry.tokenise_p50_ms = 0.06
        if jitter:
            worse = {"ratio": ratio * 0.9, "low": ratio * 0.8, "high": ratio * 0.97}
            entry.p99_speedup = structs.replace(entry.speedup, **worse)
        bins = ((16, 80), (32, 140), (64, 90), (128, 10))
        entry.by_length = [
            LengthBin(end, n, time_ms * (0.5 + end / 64), time_ms * (0.7 + end / 50)) for end, n in bins
        ]


def _complete_parity(parity: Parity, judged: bool, reference: bool, f1: float) -> None:
    n = parity.n
    counts = {"any": sum(parity.flips.values()), **parity.flips}
    parity.flip_rates = {
        name: Rate(count, count / n, max(0.0, count / n - 0.003), count / n + 0.004)
        for name, count in counts.items()
    }
    drop = parity.macro_f1_drop
    if not judged or drop is None:
        return
    parity.auroc_drop = parity.average_precision_drop = Interval(0.0004, -0.001, 0.002)
    parity.slices = [Slice(end, n // 4, 0.99, f1, f1 + 0.001) for end in (16, 32, 64, 128)]
    if not reference:
        parity.noninferiority = tested(drop)


def tested(drop: Drop) -> Noninferiority:
    """The verdict at the usual margin, with p-values that go with it."""
    verdict = "pass" if drop.high <= 0.01 else "fail" if drop.low > 0.01 else "inconclusive"
    passed, failed = verdict == "pass", verdict == "fail"
    return Noninferiority(
        verdict=verdict,
        variants=18,
        texts_to_settle=5200 if verdict == "inconclusive" else None,
        margin=0.01,
        p=0.0002 if passed else 0.12,
        p_adjusted=0.004 if passed else 0.31,
        p_worse=0.001 if failed else 0.9,
        p_worse_adjusted=0.01 if failed else 1.0,
        confidence=0.95,
        smallest_margin=0.0123,
    )


def _complete_quality(quality: Quality, draw: random.Random) -> None:
    quality.brier, quality.ece, quality.average_precision = 0.145, 0.0185, 0.82
    for place in range(10):
        score = (place + 0.5) / 10
        rate = min(1.0, max(0.0, score + draw.uniform(-0.05, 0.05)))
        quality.reliability.append(Reliability(score, rate, 200 - 10 * place))
    quality.refitted = Refitted(1.1, 0.47, 0.751, 0.144, 0.0121)


def open_level(offered: float, capacity: float) -> OpenLevel:
    """Arrivals that do not wait, at a server that can answer `capacity` a second."""
    busy = offered / capacity
    kept = busy < 0.95
    p99 = 12 / (1 - busy) if kept else 2500 * busy
    return OpenLevel(
        offered_rps=offered,
        seconds=10.0,
        arrivals=max(1, int(10 * offered)),
        answered_rps=min(offered, capacity),
        goodput_rps=offered * 0.995 if kept else 0.35 * capacity / busy,
        p50_ms=p99 / 3,
        p90_ms=p99 / 1.6,
        p99_ms=p99,
        errors={} if busy <= 1 else {"503": int(10 * (offered - capacity)) or 1},
        saturated=not kept,
        late_p99_ms=0.8,
        split_ms=TimeSplit(p99 / 6, 5.5, 2.5),
    )


def functional_suite(draw: random.Random, flips: int) -> Functional:
    """Five kinds of cases and two groups."""
    kinds = (
        ("slur", "hate"),
        ("negation of hate", "not-hate"),
        ("identity term, neutral", "not-hate"),
        ("implicit hate", "hate"),
        ("counter speech", "not-hate"),
    )
    cases = []
    for place, (words, label) in enumerate(kinds):
        base = 0.9 - 0.15 * place
        ours = base - flips * draw.uniform(-0.03, 0.05)
        cases.append(
            Functionality(words, label, 100, round(ours, 3), round(base, 3), flips * draw.randrange(4))
        )
    mean, base = sum(one.accuracy for one in cases) / 5, sum(one.reference_accuracy for one in cases) / 5
    groups = [
        Group(0.81, 0.77, 0.84, group="women", n=80),
        Group(0.74, None, 0.8, group="disabled people", n=80),
    ]
    moved = sum(one.flips for one in cases)
    return Functional(500, mean, base, moved, cases, groups, Gaps(0.07, None, 0.04))


def flipped_row(draw: random.Random) -> Flipped:
    before, after = draw.sample(("not-hate", "hate"), 2)
    row, tokens, truth = draw.randrange(1500), draw.randrange(5, 60), draw.choice(("hate", "not-hate", None))
    scores = (0.46, 0.52) if before == "not-hate" else (0.55, 0.44)
    return Flipped("gate", row, tokens, truth, before, after, *scores)


@pytest.fixture(scope="session", autouse=True)
def what_is_imported_stays() -> None:
    """statsmodels collects garbage at every call, which would look at all that torch has brought."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make():
    """The builders above: `make.variant`, `make.level`, `make.document`, `make.report` and so on."""
    return SimpleNamespace(
        variant=variant,
        level=served_level,
        document=document,
        completed=completed,
        report=report,
        baseline=baseline,
        bound=bound,
        on_cuda=on_cuda,
        with_card=with_card,
        served_baseline=served_baseline,
        tested=tested,
    )


@pytest.fixture(scope="session")
def baselines_folder(shared: Path) -> Path:
    """Where the run's baselines are kept: prepared by the first test that needs them."""
    return shared / "baselines"


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return open_checkpoint(checkpoint_folder)


@pytest.fixture(scope="module")
def dataset(checkpoint):
    return load_data(checkpoint)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """The URL at which `handler` answers, in a thread and an event loop of its own."""
    urls: Queue[str] = Queue()
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/predictions/hate", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.put(f"http://127.0.0.1:{runner.addresses[0][1]}/predictions/hate")
        await over.wait()
        await runner.cleanup()

    def run() -> None:
        # A runner ends what is still being answered: left to the collector it would raise there.
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield urls.get(timeout=10)
    loop.call_soon_threadsafe(over.set)
    thread.join(10)


@pytest.fixture
def loopback() -> Iterator[Callable[[Handler], str]]:
    """Serve an aiohttp handler on loopback until the test is over; its URL."""
    with ExitStack() as stack:
        yield lambda handler: stack.enter_context(serving(handler))


class Clock(selectors.DefaultSelector):
    """What an event loop waits with: it does not, and its time leaps to what is due next."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list:
        if timeout is None:
            raise RuntimeError("nothing is due any more, and somebody waits")
        Clock.now_s += max(timeout, 0)
        return super().select(0)


class OnClock(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(Clock())
        loop.time = lambda: Clock.now_s  # type: ignore[method-assign]
        return loop


@pytest.fixture
def given_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Awaitable[int]]], None]]:
    """Ask a coroutine function for the statuses of all loads, on a clock that goes on only while everybody
    waits: what a load finds is then the same on every machine. That loads do speak HTTP is for `loopback`."""
    seconds = SimpleNamespace(perf_counter=lambda: Clock.now_s, process_time=lambda: 0.0)
    for module in (open_loop, load):
        monkeypatch.setattr(module, "time", seconds)
    asyncio.set_event_loop_policy(OnClock())

    def answered_by(answer: Callable[[], Awaitable[int]]) -> None:
        async def ask(session: object, url: str, body: bytes) -> str:
            return str(await answer())

        for module in (open_loop, load):
            monkeypatch.setattr(module, "ask", ask)

    yield answered_by
    asyncio.set_event_loop_policy(None)
