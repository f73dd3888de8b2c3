"""Constructed reports: complete, valid, and with figures that a test sets as it needs them; a real server on
loopback that does what a test says; and, where loads are about time, a clock that no machine can hurry."""

import asyncio
import gc
import json
import random
import selectors
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from benchmarks.served import open_loop
from deploy.tuning import load
from training.checkpoint import load_data, open_checkpoint

SHARED = {
    "schema": 1,
    "run": {
        "id": "20260101T000000Z-abcdef",
        "started_at": "2026-01-01T00:00:00+00:00",
        "seconds": 60.0,
        "profile": "quick",
        "threads": 2,
        "load_average_before": 0.1,
        "commit": "0123456789ab",
    },
    "machine": {
        "id": "feedface0000",
        "cpu": "A processor",
        "cores": 2,
        "memory_gb": 16,
        "cpu_features": ["avx2"],
        "system": "Linux x86_64",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    },
    "data": {
        "spec": "demo",
        "sha256": "0" * 64,
        "base": "minilm",
        "labels": ["not-hate", "hate"],
        "labels_meaningful": True,
        "tokens": {"mean": 20.0, "p50": 19.0, "p90": 30.0, "p99": 40.0},
        "timed_split": "gate",
    },
}


def latency_entry(case: str, batch: int, tokens: int | None, ratio: float, reference: bool) -> dict[str, Any]:
    span = {"ratio": ratio, "low": ratio * 0.98, "high": ratio * 1.02, "noise": 1.05}
    verdict = "faster" if span["low"] > 1.05 else "slower" if span["high"] < 1 / 1.05 else "not different"
    if reference:
        span, verdict = span | {"ratio": 1.0, "low": 1.0, "high": 1.0}, "reference"
    time_ms = 20.0 * batch**0.8 / ratio
    return {
        "case": case,
        "batch": batch,
        "tokens": tokens,
        "samples": 100,
        "rounds": 10,
        "p50_ms": time_ms,
        "p90_ms": time_ms * 1.1,
        "p99_ms": time_ms * 1.3,
        "texts_per_second": 1000 * batch / time_ms,
        "speedup": span | {"verdict": verdict},
    }


def served_level(
    concurrency: int, rps: float, p99_ms: float, errors: dict[str, int] | None = None
) -> dict[str, Any]:
    return {
        "concurrency": concurrency,
        "passes": 1,
        "seconds": 5.0,
        "requests": 1000,
        "requests_per_second": rps,
        "requests_per_second_range": [rps, rps],
        "p50_ms": p99_ms / 2,
        "p90_ms": p99_ms / 1.5,
        "p99_ms": p99_ms,
        "errors": errors or {},
        "load_generator_cores": 0.2,
    }


def variant(
    name: str,
    *,
    speed: float = 1.0,
    drop: tuple[float, float] | None = (0.0, 0.0),
    levels: tuple[dict, ...] = (),
    equal: bool = True,
    mb: float = 90.0,
    error: str | None = None,
    served_as_measured: bool = True,
) -> dict[str, Any]:
    """One entry of a side-by-side document. `speed` is that in process, as a multiple of fp32's."""
    cases = (
        ("1x32", 1, 32),
        ("8x32", 8, 32),
        ("32x32", 32, 32),
        ("1x128", 1, 128),
        ("1 text", 1, None),
        ("32 texts", 32, None),
    )
    one: dict[str, Any] = {
        "name": name,
        "status": "failed" if error else "measured",
        "error": {"stage": "latency", "message": error} if error else None,
        "artifact_sha256": (name.encode().hex() * 64)[:64],
        "artifact": {
            "summary": f"the {name}",
            "runtime": "torch",
            "parent": None,
            "check": {
                "equal": equal,
                "n": 999,
                "label_agreement": 0.997,
                "max_prob_diff": 0.0123,
                "macro_f1_drop": [-0.002, 0.003],
                "batch_mate_diff": 0.0004,
            },
            "max_length": 128,
            "build_seconds": 12.3,
        },
        "latency": [] if error else [latency_entry(*case, speed, name == "fp32") for case in cases],
        "served": list(levels),
        "served_error": None,
        "quality": {},
        "quality_served": {},
        "parity": {},
        "parity_served": {},
        "resources": {},
        "proof": {"kernels": "int8"},
    }
    if error:
        return one
    interval = drop and {
        "drop": sum(drop) / 2,
        "low": drop[0],
        "high": drop[1],
        "confidence": 0.95,
        "mcnemar_p": 1.0,
    }
    one["quality"]["gate"] = {"n": 2000, "macro_f1": 0.75, "accuracy": 0.76, "auroc": 0.8}
    one["parity"]["gate"] = {
        "n": 2000,
        "label_agreement": 0.995,
        "flips": {"not-hate -> hate": 4, "hate -> not-hate": 6},
        "max_prob_diff": 0.01,
        "mean_prob_diff": 0.001,
        "macro_f1_drop": interval or None,
    }
    one["resources"] = {
        "load_s": 2.0,
        "warm_s": 1.0,
        "peak_rss_mb": 400.0,
        "artifact_mb": mb,
        "archive_mb": mb,
    }
    if levels:
        one["parity_served"]["gate"] = {
            "n": 256,
            "unanswered": 0,
            "max_prob_diff": 0.0 if served_as_measured else 0.3,
            "bound": 1e-6,
            "within_bound": served_as_measured,
        }
    return one


def on_cuda(name: str, *, speed: float = 1.0, floor: bool = True, energy: bool = True) -> dict[str, Any]:
    """One entry of a document as of a variant on a GPU; `speed` is a multiple of cuda-fp32's."""
    one = variant(name, speed=speed)
    cases = [(entry["case"], entry["batch"], entry["tokens"]) for entry in one["latency"]]
    cases += [("64x32", 64, 32), ("256x32", 256, 32), ("1024x32", 1024, 32), ("1024 texts", 1024, None)]
    one["latency"] = [latency_entry(*case, speed, name == "cuda-fp32") for case in cases]
    for entry in one["latency"]:
        if entry["tokens"] is None:
            continue
        entry["gpu_busy_ms"] = entry["p50_ms"] * 0.4
        if floor:
            entry["peak"] = {"tflops": 63.0, "of_measured": 0.09, "of_datasheet": 0.064}
    one["resources"] |= {"device": "cuda:0", "gpu_allocated_mb": 300.0, "gpu_reserved_mb": 420.0}
    one["resources"]["gpu_j_per_1000_texts"] = 5.25 if energy else None
    if not energy:
        one["resources"]["gpu_energy_missing"] = "nvidia-ml-py is not installed"
    return one


CARD = {"name": "NVIDIA H200", "capability": [9, 0], "memory_gb": 141}


def with_card(found: dict[str, Any]) -> dict[str, Any]:
    """The document as of a machine with a GPU, its floor included."""
    cuda = {"card": CARD["name"], "case": "1024x32", "tflops": 700.0, "datasheet_tflops": 989.0}
    return found | {"machine": found["machine"] | {"gpus": [CARD]}, "floor": floor() | {"cuda": cuda}}


def peer(
    name: str, *, speed: float = 1.0, error: str | None = None, left_out: bool = False
) -> dict[str, Any]:
    """One entry of a document's `peers`."""
    like = variant(name, speed=speed, error=error)
    return {
        "name": name,
        "summary": f"the {name}",
        "documentation": "https://example.org/docs",
        "status": "left out" if left_out else like["status"],
        "error": like["error"],
        "preparation_s": None if error else 12.0,
        "versions": {} if error else {"optimum": "2.1.0"},
        **{key: like[key] for key in ("latency", "quality", "parity", "resources")},
    }


def floor() -> dict[str, Any]:
    """The floor on two shapes."""
    times = {"int8_ms": 2.0, "int8_tops": 1.0, "fp32_ms": 10.0, "fp32_tops": 0.2}
    return {
        "encoder": {"layers": 6, "width": 384, "feed_forward": 1536},
        "percentile": 5,
        "error": None,
        "cases": [
            {"case": f"{batch}x32", "batch": batch, "tokens": 32, "samples": 50, "call_us": 20.0, **times}
            for batch in (1, 32)
        ],
    }


def document(*variants: dict[str, Any], complete: bool = False) -> dict[str, Any]:
    """A side-by-side document; `complete`: with every optional field of the schema filled."""
    found = {**SHARED, "variants": list(variants)}
    return completed(found) if complete else found


def completed(found: dict[str, Any]) -> dict[str, Any]:
    """The document with every optional field filled with plausible figures, the same ones every time; what
    it has stays."""
    found = json.loads(json.dumps(found))
    found["run"] |= {"objective_p99_ms": 100.0, "margin": 0.01, "others_cores": 0.12, "resumed": 1}
    for one in found["variants"]:
        if not one["error"]:
            _complete(one, found["data"]["labels_meaningful"])
    for one in found.get("peers", []):
        if not one["error"] and one["parity"]:
            _complete_latency(one, 1.0)
    return found


def _complete(one: dict[str, Any], judged: bool) -> None:
    draw = random.Random(one["name"])
    reference = one["name"] == "fp32"
    ratio = one["latency"][-1]["speedup"]["ratio"]
    _complete_latency(one, 0.0 if reference else draw.uniform(0.9, 1.1))
    one["resources"] |= {"cpu_s_per_1000_texts": 14.0 / ratio, "server_ready_s": 4.2, "first_answer_ms": 30.0}
    for split, parity in one["parity"].items():
        _complete_parity(parity, judged, reference, one["quality"].get(split, {}).get("macro_f1", 0.7))
    for quality in one["quality"].values():
        _complete_quality(quality, draw)
    if one["served"]:
        capacity = max(level["requests_per_second"] for level in one["served"])
        shares = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2)
        one["open"] = [open_level(share * capacity, capacity) for share in shares]
        one["saturation"] = {"capacity_rps": capacity * 1.02, "knee_rps": capacity * 0.85}
        one["many"] = {
            "texts": 64,
            "concurrency": 4,
            "passes": 1,
            "requests": 40,
            "p50_ms": 330.0,
            "errors": {},
            "texts_per_second": capacity * 1.4,
            "share_of_in_process": 0.87,
        }
        one["quality_served"] = one["quality_served"] or {"gate": dict(one["quality"].get("gate", {}))}
        if not one["quality_served"]["gate"]:
            one["quality_served"] = {}
    if not judged:
        return
    one["functional"] = {
        "hatecheck": functional_suite(draw, 0 if reference else 1),
        "templates": functional_suite(draw, 0),
    }
    one["flipped"] = [] if reference else [flipped_row(draw) for _ in range(8)]


def _complete_latency(one: dict[str, Any], jitter: float) -> None:
    for entry in one["latency"]:
        ratio, time_ms = entry["speedup"]["ratio"], entry["p50_ms"]
        entry["model_p50_ms"] = time_ms * 0.93
        entry["roofline"] = {
            "gflop": 0.7 * entry["batch"],
            "weight_mb": 86.0 / min(ratio, 4),
            "compute_ms": time_ms * 0.55,
            "memory_ms": time_ms * 0.2,
            "floor_ms": time_ms * 0.55,
            "share": 0.55,
        }
        if entry["case"] != "1 text":
            continue
        entry["tokenise_p50_ms"] = 0.06
        if jitter:
            entry["p99_speedup"] = entry["speedup"] | {
                "ratio": ratio * 0.9,
                "low": ratio * 0.8,
                "high": ratio * 0.97,
            }
        entry["by_length"] = [
            {"up_to": end, "n": n, "p50_ms": time_ms * (0.5 + end / 64), "p99_ms": time_ms * (0.7 + end / 50)}
            for end, n in ((16, 80), (32, 140), (64, 90), (128, 10))
        ]


def _complete_parity(parity: dict[str, Any], judged: bool, reference: bool, f1: float) -> None:
    n = parity["n"]
    counts = parity["flips"]
    parity["flip_rates"] = {
        name: {"n": n, "rate": count / n, "low": max(0.0, count / n - 0.003), "high": count / n + 0.004}
        for name, count in {"any": sum(counts.values()), **counts}.items()
    }
    drop = parity["macro_f1_drop"]
    if not judged or drop is None:
        return
    parity["auroc_drop"] = parity["average_precision_drop"] = {"drop": 0.0004, "low": -0.001, "high": 0.002}
    parity["slices"] = [
        {"up_to": end, "n": n // 4, "label_agreement": 0.99, "macro_f1": f1, "reference_macro_f1": f1 + 0.001}
        for end in (16, 32, 64, 128)
    ]
    verdict = "pass" if drop["high"] <= 0.01 else "fail" if drop["low"] > 0.01 else "inconclusive"
    parity["noninferiority"] = (
        None
        if reference
        else {
            "margin": 0.01,
            "verdict": verdict,
            "p": 0.0002 if verdict == "pass" else 0.12,
            "p_adjusted": 0.004 if verdict == "pass" else 0.31,
            "p_worse": 0.001 if verdict == "fail" else 0.9,
            "p_worse_adjusted": 0.01 if verdict == "fail" else 1.0,
            "variants": 18,
            "confidence": 0.95,
            "smallest_margin": 0.0123,
            "texts_to_settle": 5200 if verdict == "inconclusive" else None,
        }
    )


def _complete_quality(quality: dict[str, Any], draw: random.Random) -> None:
    quality |= {"brier": 0.145, "ece": 0.0185, "average_precision": 0.82}
    quality["reliability"] = [
        {
            "score": (place + 0.5) / 10,
            "rate": min(1.0, max(0.0, (place + 0.5) / 10 + draw.uniform(-0.05, 0.05))),
            "n": 200 - 10 * place,
        }
        for place in range(10)
    ]
    quality["refitted"] = {
        "temperature": 1.1,
        "threshold": 0.47,
        "macro_f1": 0.751,
        "brier": 0.144,
        "ece": 0.0121,
    }


def open_level(offered: float, capacity: float) -> dict[str, Any]:
    """Arrivals that do not wait, at a server that can answer `capacity` a second."""
    busy = offered / capacity
    kept = busy < 0.95
    p99 = 12 / (1 - busy) if kept else 2500 * busy
    return {
        "offered_rps": offered,
        "seconds": 10.0,
        "arrivals": max(1, int(10 * offered)),
        "answered_rps": min(offered, capacity),
        "goodput_rps": offered * 0.995 if kept else 0.35 * capacity / busy,
        "p50_ms": p99 / 3,
        "p90_ms": p99 / 1.6,
        "p99_ms": p99,
        "errors": {} if busy <= 1 else {"503": int(10 * (offered - capacity)) or 1},
        "saturated": not kept,
        "late_p99_ms": 0.8,
        "split_ms": {"queue": p99 / 6, "handler": 5.5, "http": 2.5},
    }


def functional_suite(draw: random.Random, flips: int) -> dict[str, Any]:
    """Five kinds of cases and two groups."""
    kinds = (
        ("slur", "hate"),
        ("negation of hate", "not-hate"),
        ("identity term, neutral", "not-hate"),
        ("implicit hate", "hate"),
        ("counter speech", "not-hate"),
    )
    cases = [
        {
            "functionality": words,
            "label": label,
            "n": 100,
            "accuracy": round(0.9 - 0.15 * place - flips * draw.uniform(-0.03, 0.05), 3),
            "reference_accuracy": round(0.9 - 0.15 * place, 3),
            "flips": flips * draw.randrange(4),
        }
        for place, (words, label) in enumerate(kinds)
    ]
    mean, base = (sum(one[key] for one in cases) / len(cases) for key in ("accuracy", "reference_accuracy"))
    groups = [
        {"group": "women", "n": 80, "subgroup_auc": 0.81, "bpsn_auc": 0.77, "bnsp_auc": 0.84},
        {"group": "disabled people", "n": 80, "subgroup_auc": 0.74, "bpsn_auc": None, "bnsp_auc": 0.8},
    ]
    return {
        "n": 500,
        "accuracy": mean,
        "reference_accuracy": base,
        "flips": sum(one["flips"] for one in cases),
        "functionalities": cases,
        "groups": groups,
        "gaps": {"subgroup_auc": 0.07, "bpsn_auc": None, "bnsp_auc": 0.04},
    }


def flipped_row(draw: random.Random) -> dict[str, Any]:
    before, after = draw.sample(("not-hate", "hate"), 2)
    return {
        "split": "gate",
        "row": draw.randrange(1500),
        "tokens": draw.randrange(5, 60),
        "truth": draw.choice(("hate", "not-hate", None)),
        "before": before,
        "after": after,
        "score_before": 0.46 if before == "not-hate" else 0.55,
        "score_after": 0.52 if before == "not-hate" else 0.44,
    }


def report(one: dict[str, Any], **shared: Any) -> dict[str, Any]:
    """The report of one variant, with parts of what reports share replaced."""
    return {**SHARED, **{key: {**SHARED[key], **value} for key, value in shared.items()}, **one}


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
        peer=peer,
        floor=floor,
        on_cuda=on_cuda,
        with_card=with_card,
    )


@pytest.fixture(scope="session")
def peers_folder(shared: Path) -> Path:
    """Where the run's peers are kept: prepared by the first test that needs them."""
    return shared / "peers"


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
