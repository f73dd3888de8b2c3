"""The models of one process: each has its queue and its thread, and is found by name and version.

A model is replaced without a lost request: its successor loads beside it, new requests go to that, and the
old one answers what it has accepted before it is freed.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from deploy.app.batcher import LOADING, STOPPING, Batcher
from deploy.app.model import Model
from deploy.app.shadow import Shadow
from handler.errors import Rejection, UserError

LOOK_S = 0.05  # between two looks at a model that loads, or that is to be freed


class Served:
    """A model behind its queue, and its shadow, from the first `start` to `stop`."""

    def __init__(self, model: Model, batcher: Batcher, shadow: Shadow | None = None) -> None:
        self.model = model
        self.batcher = batcher
        self.shadow = shadow
        self._held = 0  # requests that arrive, wait, or are being answered
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if self._tasks:
            return
        workers = [self.batcher.work()] + ([self.shadow.work()] if self.shadow else [])
        self._tasks = [asyncio.create_task(work) for work in workers]

    @contextmanager
    def hold(self) -> Iterator[Batcher]:
        """Where to ask; it is not freed meanwhile."""
        self._held += 1
        try:
            yield self.batcher
        finally:
            self._held -= 1

    async def loaded(self) -> None:
        """Wait until it is; raises what went wrong."""
        while self.batcher.service is None:
            if self.batcher.failure is not None:
                raise self.batcher.failure
            await asyncio.sleep(LOOK_S)

    async def unheld(self) -> None:
        """Wait until all that it has accepted is answered."""
        while self._held:
            await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """Free it, and its last counts are in the sums."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self.batcher.service is not None:
            self.batcher.service.tally.emit()
        self.batcher.release()


class Models:
    """In the order given. `UserError` where two have one name and version."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.is_closing = False  # the server still answers, and should be asked no more
        self.reloads: Counter[tuple[str, str]] = Counter()  # by a model's name and how it ended
        self._served = list(served)
        self._alive = list(served)  # and those that load or are yet to be freed
        for place, each in enumerate(self._served):
            self._check(each.model, self._served[:place])

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served)

    @property
    def first(self) -> Served:
        return self._served[0]

    def find(self, name: str | None = None, version: str | None = None) -> Served | None:
        """That of this name, in its latest version unless one is named; the first where no name is."""
        if name is None:
            return self.first
        named = [each for each in self._served if each.model.name == name]
        if version is not None:
            named = [each for each in named if each.model.version == version]
        return max(named, key=lambda each: each.model.age, default=None)

    @property
    def failure(self) -> Exception | None:
        """What ended one of them."""
        return next((each.batcher.failure for each in self._served if each.batcher.failure), None)

    def refusal(self) -> Rejection | None:
        """Why the server should not be asked, if so."""
        if self.is_closing:
            return STOPPING
        return None if all(each.batcher.service for each in self._served) else LOADING

    def start(self) -> None:
        for each in self._served:
            each.start()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Load all, and answer to the block's end."""
        self.start()
        try:
            yield
        finally:
            for each in list(self._alive):
                await each.stop()

    async def replace(self, old: Served, new: Served) -> None:
        """`new` answers from when it is loaded; returns when `old` is freed. Raises `UserError`, and whatever
        keeps `new` from being loaded: then `old` goes on."""
        others = [each for each in self._served if each is not old]
        if new.model.name != old.model.name:
            seen = f"{new.model.name} in {new.model.url}"
            remedy = f"Package it with --name {old.model.name}"
            raise UserError("the model has another name", seen=seen, remedy=remedy)
        self._check(new.model, others)
        self._alive.append(new)
        new.start()
        try:
            await new.loaded()
        except Exception:
            await self._end(new)
            raise
        self._served[self._served.index(old)] = new
        await old.unheld()
        await self._end(old)

    async def _end(self, served: Served) -> None:
        await served.stop()
        self._alive.remove(served)

    @staticmethod
    def _check(model: Model, others: Sequence[Served]) -> None:
        for other in others:
            if (model.name, model.version) == (other.model.name, other.model.version):
                raise UserError(
                    "two models have one name and version",
                    seen=f"{model} in {other.model.url} and {model.url}",
                    remedy="Name artifacts by NAME=FOLDER, or package one with another name or version",
                )
