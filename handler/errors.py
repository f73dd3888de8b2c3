"""Errors, in words for the person who can fix them.

`UserError` is the one exception meant for people: every command prints it as one sentence and exits with
status 2. `Rejection` is its counterpart for one row of a request: a value, not an exception, because the
other rows of the batch are still answered.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any


class UserError(Exception):
    """Something that the user can fix: what happened, the value seen, the remedy."""

    def __init__(self, what: str, *, remedy: str, seen: object = None) -> None:
        self.what = what
        self.seen = seen
        self.remedy = remedy
        super().__init__(what)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the finished sentence, for other processes."""
        seen = None if self.seen is None else str(self.seen)
        return partial(type(self), remedy=self.remedy, seen=seen), (self.what,)

    def __str__(self) -> str:
        seen = "" if self.seen is None else f": {self.seen}"
        return f"{self.what}{seen}. {self.remedy.rstrip('.')}"  # often ends in a command to copy


class UnsupportedError(UserError):
    """This machine cannot do it (CPU feature, compiler, package); the input is fine."""


def first_line(error: BaseException) -> str:
    """The first line of a library's error message; the error's type if it has no message."""
    return str(error).strip().partition("\n")[0][:300].rstrip(".") or type(error).__name__


@contextmanager
def refusals(what: str, place: object, remedy: str) -> Iterator[None]:
    """Turns an `OSError` raised inside into a `UserError` that says `what`, where, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(what, seen=f"{place}: {error.strerror or error}", remedy=remedy) from error


@dataclass(frozen=True)
class Rejection:
    """Why one row gets no answer; `code` is an HTTP status. Never contains text of the row."""

    code: int
    field: str
    message: str
    remedy: str

    def answer(self) -> dict[str, Any]:
        return {"error": asdict(self)}
