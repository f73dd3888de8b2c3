"""Answers requests of many clients in batches, as TorchServe does: bounded queues before one model thread.

When the model is free, the waiting requests become one batch, up to a size; where there were more clients of
late, it waits a moment for them. Large requests come one at a time, in every other batch; explanations give
way to both.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from deploy.app.timing import CURRENT, Batch, Timing
from handler.errors import Rejection
from handler.replies import Arrival, Reply, refuse, reply
from handler.service import Service

# The model is loaded, warmed and asked in one thread, so that the event loop always answers.

AGAIN = "Try again in a moment"
LOADING = Rejection(503, "server", "the model is loading", AGAIN)
STOPPING = Rejection(503, "server", "the server is stopping", "Try another server")
FULL = Rejection(503, "queue", "too many requests are waiting", AGAIN)
EXPLAINING = Rejection(429, "queue", "too many explanations are waiting", AGAIN)

LARGE_BYTES = 4096  # of a body; a token takes a byte or more, so that this bounds what a request costs
MOST_EXPLANATIONS = 8  # that wait
STAND_BACK_S = 1.0  # how long a pass of an explanation waits for others, at most


@dataclass(frozen=True)
class Batching:
    """At most `size` requests are computed at once and `queue_size` wait; others join within `delay_s`."""

    size: int = 32
    delay_s: float = 0.001
    queue_size: int = 256


@dataclass(frozen=True)
class _Waiting:
    arrival: Arrival
    reply: asyncio.Future[Reply]
    timing: Timing | None


class Batcher:
    """`work` runs alongside the server from its start to its end; `ask` waits its turn. One event loop's."""

    def __init__(self, load: Callable[[], Service], batching: Batching) -> None:
        self.service: Service | None = None  # until it is loaded and warm
        self.failure: Exception | None = None  # what ended `work`
        self._load = load
        self._batching = batching
        self._small: deque[_Waiting] = deque()
        self._large: deque[_Waiting] = deque()
        self._explanations: deque[_Waiting] = deque()
        self._came = asyncio.Event()
        self._wanted = 1  # so many that wait set the event
        self._likely = 1  # so many clients asked at once when the last batch was answered
        self._large_was_last = False
        self._explained_last = False

    @property
    def is_ready(self) -> bool:
        return self.service is not None

    @property
    def waiting(self) -> int:
        """Requests in the queues, without those that are being computed."""
        return len(self._small) + len(self._large) + len(self._explanations)

    def refusal(self, explain: bool = False) -> Rejection | None:
        """Why nothing can be asked now, if so."""
        if self.service is None:
            return LOADING
        if explain and len(self._explanations) >= MOST_EXPLANATIONS:
            return self._refuse(EXPLAINING)
        return self._refuse(FULL) if self.waiting >= self._batching.queue_size else None

    async def ask(self, arrival: Arrival) -> Reply:
        """The reply, or at once a refusal."""
        if refused := self.refusal(arrival.explain):
            return refuse(refused)
        queue = self._small
        if arrival.explain:
            queue = self._explanations
        elif arrival.size > LARGE_BYTES:
            queue = self._large
            if 2 * len(queue) > self._batching.queue_size:  # half of the places are for small ones
                return refuse(self._refuse(FULL))
        assert self.service is not None
        if timing := CURRENT.get():
            timing.ask(self.service.model, arrival.explain)
        waiting = _Waiting(arrival, asyncio.get_running_loop().create_future(), timing)
        queue.append(waiting)
        if self.waiting >= self._wanted:
            self._came.set()
        return await waiting.reply

    async def work(self) -> None:
        """Load the model, then answer batch after batch until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="model") as thread:
            try:
                self.service = await loop.run_in_executor(thread, self._load)
                self.service.stand_back = lambda: self._answer_others(loop)
                while True:
                    batch = await self._batch()
                    replies = await loop.run_in_executor(thread, self._answer, batch)
                    self._likely = len(batch) + self.waiting
                    _give(batch, replies)
            except Exception as error:
                self.failure = error

    def release(self) -> None:
        """Let go of the model, when `work` has ended: it holds this batcher, too."""
        self.service = None

    def _refuse(self, rejection: Rejection) -> Rejection:
        assert self.service is not None
        self.service.tally.add({("classifier_rejected", str(rejection.code), rejection.field): 1})
        return rejection

    def _answer(self, batch: Sequence[_Waiting]) -> list[Reply]:
        assert self.service is not None
        begun = time.perf_counter()
        replies = reply(self.service, [waiting.arrival for waiting in batch])
        rows = self.service.rows
        if self.service.moments[0] >= begun and len(rows) == len(batch):  # else it failed
            spans = [waiting.timing.span for waiting in batch if waiting.timing and waiting.timing.span]
            together = Batch(begun, *self.service.moments, len(batch), spans)
            for waiting, texts in zip(batch, rows, strict=True):
                if waiting.timing:
                    waiting.timing.batch, waiting.timing.texts = together, texts
        return replies

    def _answer_others(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the model thread, between two passes of an explanation: what waits to be classified."""
        until = time.monotonic() + STAND_BACK_S
        while time.monotonic() < until and (batch := self._fill([])):
            loop.call_soon_threadsafe(_give, batch, self._answer(batch))

    async def _batch(self) -> list[_Waiting]:
        """What waits, one request at least."""
        while not self.waiting:
            await self._come(1)
        others_wait = bool(self._small or self._large)
        self._explained_last = bool(self._explanations) and not (others_wait and self._explained_last)
        if self._explained_last:
            return [self._explanations.popleft()]
        batch = self._fill([])
        lacking = min(self._likely, self._batching.size) - len(batch)
        if lacking > 0 and self._batching.delay_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._batching.delay_s):
                    await self._come(lacking)
            self._fill(batch)
        return batch

    async def _come(self, wanted: int) -> None:
        """Wait until so many wait."""
        self._wanted = wanted
        self._came.clear()
        await self._came.wait()

    def _fill(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Add what waits to be classified."""
        if not batch:
            takes_large = bool(self._large) and not (self._small and self._large_was_last)
            self._large_was_last = takes_large
            if takes_large:
                batch.append(self._large.popleft())
        while self._small and len(batch) < self._batching.size:
            batch.append(self._small.popleft())
        return batch


def _give(batch: Sequence[_Waiting], replies: Sequence[Reply]) -> None:
    for waiting, made in zip(batch, replies, strict=True):
        if not waiting.reply.done():  # cancelled where the server's patience was over
            waiting.reply.set_result(made)
