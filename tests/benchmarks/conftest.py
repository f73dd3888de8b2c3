"""What tests of benchmarks share: the builders of reports; a real server on loopback that does what a test
says; and, where loads are about time, a clock that no machine can hurry."""

import asyncio
import selectors
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from types import ModuleType, SimpleNamespace

import pytest
from aiohttp import web

from benchmarks.served import open_loop
from deploy.tuning import load
from tests.benchmarks import reports
from training.checkpoint import load_data, open_checkpoint


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """The builders: `make.variant`, `make.level`, `make.document`, `make.report` and so on."""
    return reports


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
    yield urls.get(timeout=60)
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
            raise RuntimeError("something waits, and nothing is due any more")
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
