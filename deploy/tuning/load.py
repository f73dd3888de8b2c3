"""The load generator: a closed loop of N clients, each of which sends a request as soon as it has its answer.

A closed loop slows down with the server, so its latencies are those of N patient clients, not of arrivals
that do not wait (the benchmarks' `arrivals`). It shares the cores with the server; its CPU time is measured
and reported.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import aiohttp

JSON = {"Content-Type": "application/json"}
GIVE_UP_S = 60
MOST_STRETCH = 4
PAUSE_AFTER_ERROR_S = 0.01  # a server that refuses at once must not be hammered


@dataclass(frozen=True)
class Load:
    """One level of load. `latencies_ms` are of answers with status 200; `errors` counts the rest by status,
    or by the name of the exception where there was no answer. `cpu_s` is what the clients took."""

    concurrency: int
    seconds: float
    latencies_ms: list[float]
    errors: Mapping[str, int] = field(default_factory=dict)
    cpu_s: float = 0.0

    @property
    def requests_per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds


def closed_loop(
    url: str, bodies: Sequence[bytes], concurrency: int, seconds: float, warm_s: float, least: int = 0
) -> Load:
    """Ask `url` for `seconds` with `concurrency` clients, one JSON body per request, `bodies` over and over.

    It goes on, up to `MOST_STRETCH` times as long, until `least` requests are answered. `warm_s` of the same
    come first and are not counted. What is in flight at the end is waited for, and
    counted with the time that it took.
    """
    return asyncio.run(_closed_loop(url, bodies, concurrency, seconds, warm_s, least))


async def _closed_loop(
    url: str, bodies: Sequence[bytes], concurrency: int, seconds: float, warm_s: float, least: int
) -> Load:
    connector = aiohttp.TCPConnector(limit=concurrency)
    timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=JSON) as session:
        await _drive(session, url, bodies, concurrency, warm_s, 0)
        return await _drive(session, url, bodies, concurrency, seconds, least)


async def _drive(
    session: aiohttp.ClientSession,
    url: str,
    bodies: Sequence[bytes],
    concurrency: int,
    seconds: float,
    least: int,
) -> Load:
    """`concurrency` clients until the time is over and every answer is in."""
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    turns = count()
    begin, cpu = time.perf_counter(), time.process_time()

    def is_over(now: float) -> bool:
        enough = len(latencies) + sum(errors.values()) >= least
        return now - begin >= (seconds if enough else MOST_STRETCH * seconds)

    async def client() -> None:
        while not is_over(started := time.perf_counter()):
            outcome = await ask(session, url, bodies[next(turns) % len(bodies)])
            if outcome == "200":
                latencies.append(1000 * (time.perf_counter() - started))
            else:
                errors[outcome] += 1
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    taken = time.perf_counter() - begin
    return Load(concurrency, taken, latencies, dict(errors), time.process_time() - cpu)


async def ask(session: aiohttp.ClientSession, url: str, body: bytes) -> str:
    """The status of one request as text, or the exception's name where there was no answer."""
    try:
        async with session.post(url, data=body) as response:
            await response.read()
            return str(response.status)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return type(error).__name__
