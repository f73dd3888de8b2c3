"""Reads models' paths again while the server answers: on SIGHUP, or where a file there has changed.

What cannot be opened, loaded or trusted is told in a sentence and counted, and the old model goes on.
"""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType

from common.commands import of_this_moment, say
from deploy.app.model import Model, Opened, Opener
from deploy.app.models import Models, Served
from handler.errors import UserError, first_line

LOOK_S = 0.5
REPLACED, REFUSED = "replaced", "refused"  # how a reload ends


@dataclass
class Place:
    """What was opened last, the model that answers, and the stamp that was seen last."""

    opened: Opened
    served: Served
    stamp: tuple[int, ...]
    tried: tuple[int, ...]


class Reloader:
    """`opened` are those of `models`, in the same order; `serve` puts a model behind a queue. With `watches`
    paths are looked at all the time, and read again when a change is complete. A model is reloaded within
    its `turn`, for which it may have to wait."""

    def __init__(
        self,
        models: Models,
        opened: Sequence[Opened],
        opener: Opener,
        serve: Callable[[Model], Served],
        *,
        watches: bool = False,
        turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        pairs = zip(opened, models, strict=True)
        self._places = [Place(each, served, each.stamp, each.stamp) for each, served in pairs]
        self._models = models
        self._opener = opener
        self._serve = serve
        self._watches = watches
        self._turn = turn
        self._is_asked = False

    def ask(self) -> None:
        """Read all paths again, soon; for signal handlers."""
        self._is_asked = True

    async def work(self) -> None:
        """Until it is cancelled. One model is reloaded at a time: no more than one of them is there twice."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._models.refusal():  # they load, or the server stops
                continue
            is_asked, self._is_asked = self._is_asked, False
            for place in self._places:
                if is_asked or (self._watches and self._has_changed(place)):
                    async with self._turn():
                        await self._reload(place, is_asked)
                    await asyncio.to_thread(give_back_memory)

    @staticmethod
    def _has_changed(place: Place) -> bool:
        """Whether there is another file, which is no longer being written."""
        before, place.stamp = place.stamp, place.opened.source.stamp()
        return place.stamp == before and place.stamp not in ((), place.tried)

    async def _reload(self, place: Place, is_asked: bool) -> None:
        name, source = place.served.model.name, place.opened.source
        place.tried = source.stamp()
        try:
            if await asyncio.to_thread(source.digest) == place.opened.digest:
                if is_asked:
                    say(f"{place.served.model} is unchanged")
                return
            opened = await asyncio.to_thread(self._opener.open, source)
            await self._replace(place, opened)
            self._models.reloads[name, REPLACED] += 1
        except Exception as error:
            known = error if isinstance(error, UserError) else of_this_moment(error)
            told = known or f"{type(error).__name__}: {first_line(error)}"
            say(f"{place.served.model} goes on, and {source.path} is not served: {told}")
            self._models.reloads[name, REFUSED] += 1

    async def _replace(self, place: Place, opened: Opened) -> None:
        old = place.served
        try:
            new = self._serve(opened.model)
            await self._models.replace(old, new)
        except Exception:
            opened.forget()
            raise
        place.opened.forget()
        place.opened, place.served = opened, new
        variant, digest = opened.model.artifact.name, opened.model.artifact.sha256[:12]
        say(f"{opened.model} ({variant}, {digest}) has replaced {old.model}")


def give_back_memory() -> None:
    """To the system, what was freed: the C library would keep some of it for later."""
    with suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def heed_hang_ups(reload: Callable[[], object], end: Callable[[], object]) -> None:
    """On SIGHUP, `reload`; where the terminal has gone, `end`, or nothing under nohup."""
    is_to_end = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    had_terminal = _has_terminal()

    def heed(number: int, frame: FrameType | None) -> None:
        nonlocal had_terminal
        if not had_terminal or _has_terminal():
            reload()
            return
        had_terminal = False
        if is_to_end:
            end()

    signal.signal(signal.SIGHUP, heed)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
