"""`--workers`: several processes behind one port; each serves all models, and one that ends is started again.

Each has a listening socket of its own at the port, from when its models are loaded: the kernel gives no
connection to a worker that is away.
"""

import asyncio
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from common.commands import say
from deploy.app.counters import family
from deploy.app.model import Source
from deploy.app.notify import notify
from deploy.app.reload import heed_hang_ups
from deploy.app.role import Worker, family_of, shared_socket
from deploy.app.server import Settings
from deploy.app.shared_counts import SharedCounts
from handler.errors import refusals

WORKER = (sys.executable, "-m", "deploy.app.worker")
PARENT = "parent"  # whose counts these are
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # before a worker is started again; the pause doubles
STEADY_S = 60.0  # who has worked for so long is started again at once


@dataclass(frozen=True)
class Task:
    """What a worker is to do, as a line of JSON that it reads first."""

    sources: tuple[Source, ...]
    trusted_key: Path | None
    settings: Settings
    worker: Worker


TASK = TypeAdapter(Task)


class Workers:
    """As many as `task` says; it is that of the first."""

    def __init__(self, task: Task) -> None:
        self.status = 0
        self._task = task
        self._counts = SharedCounts(task.worker.folder)
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._ready: set[int] = set()
        self._to_reload: set[int] = set()  # as soon as they are ready
        self._restarts = 0
        self._has_begun = asyncio.Event()  # one was ready, or none is to be
        self._is_ending = asyncio.Event()

    async def work(self) -> int:
        """The exit status, once all have ended: that of the first worker where it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        soon = loop.call_soon_threadsafe  # the loop does not notice what handlers of signals do
        heed_hang_ups(partial(soon, self._reload), partial(soon, self._end, signal.SIGHUP))
        self._count()
        kept = [asyncio.create_task(self._keep(1))]
        await self._has_begun.wait()
        if not self._is_ending.is_set():
            others = range(2, self._task.worker.workers + 1)
            kept += [asyncio.create_task(self._keep(place)) for place in others]
        await asyncio.gather(*kept)
        return self.status

    def _end(self, number: int) -> None:
        """Each answers what it has accepted. Ctrl-C twice is passed on twice: then they end at once."""
        self._is_ending.set()
        self._has_begun.set()
        if number == signal.SIGHUP:
            self.status, number = 128 + signal.SIGHUP, signal.SIGTERM
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _reload(self) -> None:
        self._to_reload |= self._running.keys()
        for place in list(self._ready):
            self._hang_up(place)

    def _hang_up(self, place: int) -> None:
        if place in self._to_reload:
            self._to_reload.remove(place)
            with suppress(ProcessLookupError):
                self._running[place].send_signal(signal.SIGHUP)

    async def _keep(self, place: int) -> None:
        """One worker after the other in this place."""
        pause = 0.0
        while not self._is_ending.is_set():
            begun = time.monotonic()
            code = await self._run(place)
            if self._is_ending.is_set():
                return
            if not self._has_begun.is_set():  # what keeps the first from starting keeps the others, too
                self.status = code if code > 0 else 1
                say(f"worker {place} could not start: {_how(code)}")
                self._end(signal.SIGTERM)
                return
            is_steady = time.monotonic() - begun > STEADY_S
            pause = 0.0 if is_steady else min(max(2 * pause, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._restarts += 1
            self._count()
            when = f"in {pause:g} s" if pause else "now"
            say(f"worker {place} has ended: {_how(code)}. It is started again {when}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_ending.wait(), pause)

    async def _run(self, place: int) -> int:
        """Its exit status, negative where a signal ended it."""
        process = await self._start(place)
        assert process.stdout is not None
        if await process.stdout.readline():
            self._ready.add(place)
            if not self._has_begun.is_set():
                notify("READY=1")
                self._has_begun.set()
            say(f"worker {place} of {self._task.worker.workers} is ready: process {process.pid}")
            self._count()
            self._hang_up(place)
        code = await process.wait()
        self._ready.discard(place)
        self._to_reload.discard(place)
        del self._running[place]
        self._counts.retire(str(place))
        self._count()
        return code

    async def _start(self, place: int) -> asyncio.subprocess.Process:
        """Its standard input ends when this process does, which ends it; on its output it says that it is
        ready. Ctrl-C on a terminal reaches this process alone."""
        scratch = self._task.worker.folder / str(place)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        worker = replace(self._task.worker, place=place, is_first=not self._has_begun.is_set())
        pipe = asyncio.subprocess.PIPE
        process = self._running[place] = await asyncio.create_subprocess_exec(
            *WORKER, stdin=pipe, stdout=pipe, start_new_session=True
        )
        assert process.stdin is not None
        process.stdin.write(TASK.dump_json(replace(self._task, worker=worker)) + b"\n")
        with suppress(ConnectionError):
            await process.stdin.drain()
        if self._is_ending.is_set():  # since it was asked for
            process.terminate()
        return process

    def _count(self) -> None:
        """For those who ask a worker for its metrics."""
        page = family("classifier_workers", "gauge", [({}, len(self._ready))])
        page += family("classifier_worker_restarts", "counter", [({}, self._restarts)])
        self._counts.write(PARENT, page)


def serve_by_workers(
    sources: Sequence[Source], trusted_key: Path | None, settings: Settings, count: int, folder: Path
) -> int:
    """Answer until SIGTERM or Ctrl-C; the exit status. `folder` is theirs alone."""

    async def work() -> int:
        return await Workers(Task(tuple(sources), trusted_key, settings, worker)).work()

    with _reserved(settings.host, settings.port, "--port") as port, ExitStack() as held:
        if settings.grpc_port is not None:
            grpc_port = held.enter_context(_reserved(settings.host, settings.grpc_port, "--grpc-port"))
            settings = replace(settings, grpc_port=grpc_port)
        worker = Worker(1, settings.host, port, folder, is_first=True, workers=count)
        return asyncio.run(work())


@contextmanager
def _reserved(host: str, port: int, option: str) -> Iterator[int]:
    """A port that all workers may listen at, and nobody does yet; it stays theirs while none is there."""
    with refusals("cannot listen on this address", f"{host}:{port}", f"Choose another {option}"):
        with socket.create_server((host, port), family=family_of(host)) as probe:
            port = probe.getsockname()[1]
        reserved = shared_socket(host, port)
    with reserved:
        yield port


def _how(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name
