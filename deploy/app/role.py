"""What a process of the app does by itself, and what it shares with others: the port, counts, reloads."""

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from deploy.app.notify import notify
from deploy.app.shared_counts import WRITE_S, SharedCounts

LOOK_S = 0.1  # between two looks at whether it is one's turn
Page = Callable[[], str]


class Alone:
    """The only process."""

    workers = 1
    waits = False  # until the models are loaded, before it takes requests
    talks = True  # to the person at the terminal, about models and addresses

    def socket(self) -> socket.socket | None:
        """One that is bound to a port that others share, if there are others."""
        return None

    def ready(self) -> None:
        """All models are loaded."""
        notify("READY=1")

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Held while a model is reloaded."""
        return nullcontext()

    def counts(self, page: str) -> str:
        """Those of all processes, given one's own."""
        return page

    async def share(self, page: Page) -> None:
        """Until it is cancelled, let others read the page."""


@dataclass(frozen=True)
class Worker(Alone):
    """The `place`th of `workers`, which share a port and a folder."""

    place: int
    host: str
    port: int
    folder: Path
    is_first: bool  # of all that were started
    workers: int = 1
    told: int = 1  # a descriptor to tell the parent by

    @property
    def waits(self) -> bool:  # type: ignore[override]
        """The first answers that it is loading; those that come later are not to be noticed."""
        return not self.is_first

    @property
    def talks(self) -> bool:  # type: ignore[override]
        return self.is_first

    @property
    def name(self) -> str:
        return str(self.place)

    def socket(self) -> socket.socket:
        return shared_socket(self.host, self.port)

    def ready(self) -> None:
        os.write(self.told, b"ready\n")

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One worker after the other, so that no more than one model is there twice."""
        with (self.folder / "turn").open("a") as file:
            while not _is_mine(file.fileno()):
                await asyncio.sleep(LOOK_S)
            yield

    def counts(self, page: str) -> str:
        shared = SharedCounts(self.folder)
        shared.write(self.name, page)
        return shared.read()

    async def share(self, page: Page) -> None:
        while True:
            SharedCounts(self.folder).write(self.name, page())
            await asyncio.sleep(WRITE_S)


def shared_socket(host: str, port: int) -> socket.socket:
    """Bound, and not listening yet. The kernel spreads connections evenly over those that listen at the port:
    on one socket for all, the worker that wakes up first would take what comes at once."""
    made = socket.socket(family_of(host))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    return made


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_mine(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
