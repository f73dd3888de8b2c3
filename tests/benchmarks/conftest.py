"""Constructed reports: complete, valid, and with figures that a test sets as it needs them; and a real server
on loopback that does what a test says."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from aiohttp import web

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


def document(*variants: dict[str, Any]) -> dict[str, Any]:
    return {**SHARED, "variants": list(variants)}


def report(one: dict[str, Any], **shared: Any) -> dict[str, Any]:
    """The report of one variant, with parts of what reports share replaced."""
    return {**SHARED, **{key: {**SHARED[key], **value} for key, value in shared.items()}, **one}


@pytest.fixture
def make():
    """The builders above: `make.variant`, `make.level`, `make.document`, `make.report` and so on."""
    from types import SimpleNamespace

    return SimpleNamespace(
        variant=variant, level=served_level, document=document, report=report, peer=peer, floor=floor
    )


@pytest.fixture(scope="session")
def peers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's peers are kept: prepared by the first test that needs them."""
    return tmp_path_factory.mktemp("peers")


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
