"""The two clients, each a process of its own: the honest one, which counts, and the attacker.

Nothing heavy is imported here, so that both start at once.
"""

import asyncio
import multiprocessing
import queue
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from multiprocessing.synchronize import Event
from typing import NamedTuple

import aiohttp
import numpy as np

from benchmarks.served.attack.attacks import Target, run_attack
from deploy.tuning.load import JSON, ask

RATE = 20.0  # honest requests a second
GIVE_UP_S = 10.0  # of an honest client
SLOW_MS = 1000.0  # an honest answer that takes longer counts against recovery
PATIENCE_S = 60.0  # for an attacker that starts late on a busy machine
FILES = 4096  # connections of an attack

processes = multiprocessing.get_context("spawn")


class Honest(NamedTuple):
    """A request of the honest client: when it was sent (`time.monotonic`), its status or the name of what
    went wrong, and the milliseconds until then."""

    sent_s: float
    outcome: str
    took_ms: float

    @property
    def is_well(self) -> bool:
        return self.outcome == "200" and self.took_ms <= SLOW_MS


class Answers:
    """What the honest client has seen so far."""

    def __init__(self, told: "multiprocessing.Queue[Honest]") -> None:
        self._told = told
        self._seen = list[Honest]()

    def all(self) -> list[Honest]:
        with suppress(queue.Empty):
            while True:
                self._seen.append(Honest(*self._told.get_nowait()))
        return self._seen


@contextmanager
def honest_client(url: str, bodies: Sequence[bytes]) -> Iterator[Answers]:
    """A process that asks `url` `RATE` times a second until the block is left and all answers are in."""
    stop = processes.Event()
    told = processes.Queue()
    client = processes.Process(target=_ask_until, args=(url, list(bodies), stop, told), daemon=True)
    client.start()
    answers = Answers(told)
    try:
        while not answers.all():
            time.sleep(0.1)
        yield answers
    finally:
        stop.set()
        deadline = time.monotonic() + GIVE_UP_S + 5
        while client.is_alive() and time.monotonic() < deadline:
            answers.all()  # a full queue would keep the process from ending
            client.join(0.1)
        client.kill()


def _ask_until(url: str, bodies: list[bytes], stop: Event, told: "multiprocessing.Queue[Honest]") -> None:
    asyncio.run(_open_loop(url, bodies, stop, told))


async def _open_loop(
    url: str, bodies: list[bytes], stop: Event, told: "multiprocessing.Queue[Honest]"
) -> None:
    gaps = np.random.default_rng(0)
    bodies_in_turn = cycle(bodies)
    timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
    asking: set[asyncio.Task[None]] = set()

    async def request() -> None:
        sent_s = time.monotonic()
        outcome = await ask(session, url, next(bodies_in_turn))
        told.put(Honest(sent_s, outcome, 1000 * (time.monotonic() - sent_s)))

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=JSON
    ) as session:
        due_s = time.monotonic()
        while not stop.is_set():
            task = asyncio.create_task(request())
            asking.add(task)
            task.add_done_callback(asking.discard)
            due_s += gaps.exponential(1 / RATE)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await asyncio.gather(*asking)


class Attacked(NamedTuple):
    """When an attack began and ended (`time.monotonic`), and how often each outcome was seen."""

    begin_s: float
    end_s: float
    saw: Counter[str]


def attacked(name: str, target: Target, seconds: float) -> Attacked:
    """Attack `target` for `seconds` from a process of its own."""
    told: multiprocessing.Queue[Attacked] = processes.Queue()
    attacker = processes.Process(target=_attack, args=(name, target, seconds, told), daemon=True)
    begin_s = time.monotonic()
    attacker.start()
    try:
        return Attacked(*told.get(timeout=seconds + PATIENCE_S))
    except queue.Empty:
        return Attacked(begin_s, time.monotonic(), Counter({"the attacker did not end": 1}))
    finally:
        attacker.kill()
        attacker.join()


def _attack(name: str, target: Target, seconds: float, told: "multiprocessing.Queue[Attacked]") -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    begin_s = time.monotonic()
    saw = run_attack(name, target, seconds)
    told.put(Attacked(begin_s, time.monotonic(), saw))
