"""Requests of many clients answered together, as TorchServe does it: a bounded queue before one model thread.

What waits when the model is free is one batch, up to a size; a batch that is not full gives others a moment
to join it. What the queue cannot hold is refused at once. The model is loaded, warmed and asked in the same
thread, so that the event loop always answers. Leaves out HTTP (`app`) and what becomes of a batch
(`handler.replies`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from handler.errors import Rejection
from handler.replies import Arrival, Reply, refuse, reply
from handler.service import Service

AGAIN = "Ask again in a moment"
LOADING = Rejection(503, "server", "the model is being loaded", AGAIN)
STOPPING = Rejection(503, "server", "the server is about to stop", "Ask another")
FULL = Rejection(503, "queue", "too many requests wait", AGAIN)


@dataclass(frozen=True)
class Batching:
    """At most `size` requests are computed at once and `queue_size` wait; `delay_s` is for others to join."""

    size: int = 32
    delay_s: float = 0.001
    queue_size: int = 256


@dataclass(frozen=True)
class _Waiting:
    arrival: Arrival
    reply: asyncio.Future[Reply]


class Batcher:
    """`work` runs beside the server from its start to its end; `ask` waits its turn. One event loop's."""

    def __init__(self, load: Callable[[], Service], batching: Batching) -> None:
        self.service: Service | None = None  # until it is loaded and warm
        self.failure: Exception | None = None  # what ended `work`
        self.is_closing = False  # the server still answers, and nobody should come anew
        self._load, self._batching = load, batching
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(batching.queue_size)

    @property
    def is_ready(self) -> bool:
        return self.service is not None and not self.is_closing

    @property
    def waiting(self) -> int:
        """Requests in the queue, without those that are being computed."""
        return self._queue.qsize()

    def refusal(self) -> Rejection | None:
        """Why nothing can be asked now, if so."""
        if self.service is None:
            return LOADING
        if self._queue.full():
            self.service.tally.add({("classifier_rejected", "503", "queue"): 1})
            return FULL
        return None

    async def ask(self, arrival: Arrival) -> Reply:
        """The reply, or at once a refusal."""
        if refused := self.refusal():
            return refuse(refused)
        waiting = _Waiting(arrival, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.reply

    async def work(self) -> None:
        """Load the model, then answer batch after batch until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="model") as thread:
            try:
                self.service = await loop.run_in_executor(thread, self._load)
                while True:
                    batch = await self._batch()
                    arrivals = [one.arrival for one in batch]
                    replies = await loop.run_in_executor(thread, reply, self.service, arrivals)
                    for one, made in zip(batch, replies, strict=True):
                        if not one.reply.done():  # cancelled where the server's patience was over
                            one.reply.set_result(made)
            except Exception as error:
                self.failure = error

    async def _batch(self) -> list[_Waiting]:
        """What waits, one request at least."""
        batch = [await self._queue.get()]
        self._fill(batch)
        if len(batch) < self._batching.size and self._batching.delay_s:
            await asyncio.sleep(self._batching.delay_s)
            self._fill(batch)
        return batch

    def _fill(self, batch: list[_Waiting]) -> None:
        while len(batch) < self._batching.size and not self._queue.empty():
            batch.append(self._queue.get_nowait())
