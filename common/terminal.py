"""Makes the standard streams safe: closed ones, a pipe without a reader, a terminal with another encoding.

Tables and progress go to stderr, whose failure never ends a job; output for machines goes to stdout in UTF-8.
"""

import codecs
import io
import os
import select
import sys
from contextlib import suppress
from typing import IO

PLAIN = str.maketrans(
    {"✓": "+", "✗": "x", "×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">=", "±": "+-"}
    | {"µ": "u", "“": '"', "”": '"', "‘": "'", "’": "'", "·": "-"}
)  # fmt: skip


def prepare_streams() -> None:
    """Make the process' own streams safe to use; those that somebody put in their place are left alone."""
    codecs.register_error("plain", _plain)
    for fd, mode in enumerate("rww"):
        with suppress(OSError):
            os.fstat(fd)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: no other file may become 0, 1 or 2
        _replace(fd, open(fd, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="plain")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.flush()
        binary = open(sys.stderr.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115
        sys.stderr = _Lasting(binary, sys.stderr.encoding, "plain", write_through=True)


def _replace(fd: int, stream: IO[str]) -> None:
    name = ("stdin", "stdout", "stderr")[fd]
    if getattr(sys, name) is None:
        setattr(sys, name, stream)


class _Lasting(io.TextIOWrapper):
    """A stderr that may vanish, with its terminal or its reader: what is written then goes nowhere."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            discard(self.fileno())
            return len(text)


def discard(fd: int) -> None:
    """From now on, what is written to `fd` goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)


def lost_reader() -> bool:
    """Whether stdout is a pipe whose reader (head, less) has gone."""
    with suppress(OSError, ValueError, AttributeError):
        looking = select.poll()
        looking.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in looking.poll(0))
    return False


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: signs that have a plain form take it, others are escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    plain = lost.translate(PLAIN)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end
