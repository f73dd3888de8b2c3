"""Does a cache of answers save what `benchmarks cache` forecasts? Of each size, an app gets the same texts.

They come as in a file, or are drawn from it so that some come often: the one of rank r by 1 / r^skew.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
from tqdm import tqdm

from benchmarks.capacity.cache import Forecast, costs, forecast
from benchmarks.served.caches import NAME, CacheFound, CacheRound, excerpt
from benchmarks.served.run import Running, as_bodies
from benchmarks.served.torchserve_metrics import read_counters
from benchmarks.studies.workers import app
from common.atomic import write_json
from common.commands import emit, not_negative_float, not_negative_int, positive_int, run, say
from common.environment import machine
from common.options import add_results
from common.records import plain
from common.tables.texts import read_texts
from deploy.tuning.load import JSON, ask
from handler.artifact import open_artifact
from handler.errors import UserError

COUNTED = ("classifier_texts", "classifier_cached")
SECONDS = ("classifier_tokenise_seconds", "classifier_model_seconds")
WARM = 64  # requests, of no text that comes later


def drawn(texts: Sequence[str], many: int, skew: float) -> list[str]:
    """So many of them, in the order in which they come."""
    rng = np.random.default_rng(0)
    shares = 1.0 / np.arange(1, len(texts) + 1) ** skew
    ranked = rng.permutation(len(texts))
    return [texts[ranked[rank]] for rank in rng.choice(len(texts), many, p=shares / shares.sum())]


async def in_order(url: str, bodies: Sequence[bytes], clients: int) -> list[float]:
    """Milliseconds of each; `UserError` where one was not answered."""
    latencies: list[float] = []
    waiting = iter(bodies)

    async def client(session: aiohttp.ClientSession, given: Iterator[bytes]) -> None:
        for body in given:
            begun = time.perf_counter()
            if (outcome := await ask(session, url, body)) != "200":
                raise UserError("a request failed", seen=outcome, remedy="Look at the app's messages")
            latencies.append(1000 * (time.perf_counter() - begun))

    async with aiohttp.ClientSession(headers=JSON) as session:
        await asyncio.gather(*(client(session, waiting) for _ in range(clients)))
    return latencies


def measure(running: Running, bodies: Sequence[bytes], clients: int) -> dict[str, float]:
    """What was seen, by the fields of `CacheRound`."""
    url = running.predictions
    counters = url.replace("/predict", "/metrics")
    asyncio.run(in_order(url, as_bodies([f"warm {number}" for number in range(WARM)]), clients))
    before = read_counters(counters)
    begun = time.perf_counter()
    latencies = asyncio.run(in_order(url, bodies, clients))
    seconds = time.perf_counter() - begun
    after = read_counters(counters)
    texts, cached, *spent_s = (after.get(name, 0.0) - before.get(name, 0.0) for name in (*COUNTED, *SECONDS))
    p50_ms, p99_ms = np.percentile(latencies, [50, 99]).tolist()
    return {
        "share": cached / texts,
        "ms": 1000 * sum(spent_s) / texts,
        "requests_per_second": len(bodies) / seconds,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
    }


def in_turns(texts: Sequence[str], expected: Forecast, options: argparse.Namespace) -> list[CacheRound]:
    """Without a cache and with each size, there and back."""
    sizes = {size.entries: size for size in expected.sizes if size.entries in options.entries}
    rounds = []
    for turn in tqdm(range(options.turns), unit=" turns", disable=None):
        for entries in [0, *sizes][:: 1 if turn % 2 == 0 else -1]:
            size = sizes.get(entries)
            costed = expected.time(size)
            assert costed is not None
            with app("--artifact", options.artifact, "--cache", entries) as running:
                seen = measure(running, as_bodies(texts), options.clients)
            share = size.found / len(texts) if size else 0.0
            rounds.append(CacheRound(entries=entries, forecast_share=share, forecast_ms=costed.ms, **seen))
    return sorted(rounds, key=lambda each: each.entries)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    texts = read_texts(options.texts)
    if options.drawn:
        texts = drawn(texts, options.drawn, options.skew)
    expected = forecast(texts, options.entries)
    expected = replace(expected, costs=costs(options.artifact, texts, None))
    found = CacheFound(
        machine=machine(),
        variant=open_artifact(options.artifact).name,
        texts=len(texts),
        distinct=expected.distinct,
        clients=options.clients,
        rounds=in_turns(texts, expected, options),
    )
    write_json(options.results / f"{NAME}.json", plain(found))
    say(excerpt(found))
    emit(plain(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.cached", description=__doc__.split("\n")[0]
    )
    add_results(parser)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="one per line, as they came")
    parser.add_argument(
        "--drawn", type=not_negative_int, default=0, help="so many of the texts; 0: all, in order"
    )
    parser.add_argument("--skew", type=not_negative_float, default=0.9, help="of what is drawn (%(default)s)")
    parser.add_argument("--entries", type=positive_int, nargs="+", default=[1000, 10_000], help="%(default)s")
    parser.add_argument("--clients", type=positive_int, default=16, help="%(default)s")
    parser.add_argument("--turns", type=positive_int, default=2, help="%(default)s")
    return parser


if __name__ == "__main__":
    run(main)
