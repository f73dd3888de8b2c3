"""Shared by all command lines of the project: a user's mistake ends in one sentence and exit status 2.

Tables and progress go to stderr, JSON for machines to stdout, so that `… | jq` always works.
"""

import argparse
import errno
import json
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from types import FrameType
from typing import Any

from common.proxies import spare_loopback
from common.terminal import discard, lost_reader, prepare_streams
from handler.errors import UserError, first_line
from handler.records import plain

# The end of a terminal, of a session, and Ctrl-\ on one.
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SHORTAGES = {
    errno.ENOSPC: ("the disk is full", "Free some space, or use a folder on another disk"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or use a folder on another disk"),
    errno.EROFS: ("the file system is read-only", "Use a folder that is writable"),
    errno.EACCES: ("this user lacks permission", "Change the permissions (ls -l), or run as the owner"),
    errno.EPERM: ("this user lacks permission", "Change the permissions (ls -l), or run as the owner"),
    errno.EMFILE: ("this process cannot open more files", "Raise the limit: ulimit -n 4096"),
    errno.ENFILE: ("the system cannot open more files", "Close some programs, or raise fs.file-max"),
    errno.ENOMEM: ("there is not enough memory", "Free some, or raise the limit (ulimit -v)"),
    errno.EFBIG: ("the file would exceed the size limit", "Raise the limit: ulimit -f unlimited"),
    errno.EIO: ("the disk has read or write errors", "Look for them in dmesg, or use another disk"),
    errno.ESTALE: ("the network drive was changed or remounted", "Mount it again"),
    errno.ENOTCONN: ("the network drive is disconnected", "Mount it again"),
    errno.ETIMEDOUT: ("the network drive does not respond", "Wait for it, or mount it again"),
}
# Sockets give the others as well: they mean a drive only where a file is named.
UNNAMED = SHORTAGES.keys() - {errno.ENOTCONN, errno.ETIMEDOUT}
TORCH_CANNOT_WRITE = re.compile(r"PytorchStreamWriter failed writing|inline_container.*unexpected pos")
SAME_END_S = 5.0  # a terminal and make both pass on one end: its echo must not cut off the tidying up


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run `main(argv)` as a program and leave the process with its exit status. SIGTERM, SIGHUP and SIGQUIT
    end it as Ctrl-C does: what it started is stopped. In Python's development mode (PYTHONDEVMODE=1) what the
    machine lacks has its traceback, too."""
    prepare_streams()
    spare_loopback()
    _heed_ends()
    before = threading.excepthook
    threading.excepthook = _of_a_thread
    try:
        status = main(None) or 0
        sys.stdout.flush()
    except UserError as error:
        say(f"error: {error}")
        status = 2
    except KeyboardInterrupt:
        say("interrupted")
        status = 130
    except BrokenPipeError:
        if not lost_reader():
            raise
        discard(sys.stdout.fileno())
        status = 0
    except Exception as error:
        if (told := of_this_moment(error)) is None:
            raise
        if sys.flags.dev_mode:
            traceback.print_exc()
        say(f"error: {told}")
        with suppress(OSError):  # there is no such stream
            discard(sys.stdout.fileno())  # what could not be written is not tried once more
        status = 2
    finally:
        threading.excepthook = before
    sys.exit(status)


def _of_a_thread(ended: threading.ExceptHookArgs) -> None:
    """What the machine lacks is a sentence in other threads, too, such as that of a library that writes."""
    told = ended.exc_value and of_this_moment(ended.exc_value)
    if told is None or sys.flags.dev_mode:
        threading.__excepthook__(ended)
    if told:
        say(f"warning: {told}")


def of_this_moment(error: BaseException) -> UserError | None:
    """The error as a sentence where the machine lacks something (space, memory, rights); None for others."""
    if isinstance(error, MemoryError):
        return UserError("there is not enough memory", remedy="Free some, or raise the limit (ulimit -v)")
    if (number := _system_number(error)) is not None:
        what, remedy = SHORTAGES[number]
        return UserError(what, seen=getattr(error, "filename", None) or os.strerror(number), remedy=remedy)
    if isinstance(error, RuntimeError) and TORCH_CANNOT_WRITE.search(str(error)):  # it does not say why
        return UserError(
            "torch could not write a file",
            seen=first_line(error),
            remedy="Usually the disk is full: free some space. Otherwise look for disk errors (dmesg)",
        )
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        seen = f"TMPDIR={os.environ.get('TMPDIR', '')}"
        return UserError("no temporary folder is writable", seen=seen, remedy="Set TMPDIR to one that is")
    return None


def _system_number(error: BaseException | None) -> int | None:
    """The number, one of `SHORTAGES`, that the system gave for what led to `error`."""
    while error is not None:
        of_a_file = isinstance(error, OSError) and error.filename
        if isinstance(error, OSError) and error.errno in (SHORTAGES if of_a_file else UNNAMED):
            return error.errno
        if not isinstance(error, OSError):  # libraries of Rust and C++ pass it on as text
            text = str(error)
            for number in UNNAMED:
                if f"(os error {number})" in text or os.strerror(number) in text:
                    return number
        error = error.__cause__
    return None


def _heed_ends() -> None:
    """Raise `SystemExit(128 + number)` where a signal asks the process to end, once for each end. What the
    parent ignores (nohup) stays ignored."""
    ended_at = float("-inf")

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended_at
        before, ended_at = ended_at, time.monotonic()
        if ended_at - before > SAME_END_S:
            raise SystemExit(128 + number)

    with suppress(ValueError):  # another thread than the first may not say so
        for number in ENDS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, end)


def say(message: str = "") -> None:
    """Tell the person at the terminal (stderr)."""
    print(message, file=sys.stderr, flush=True)


def emit(value: object) -> None:
    """Give the machine its JSON (stdout), in UTF-8, or in ASCII on a terminal of another encoding."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    print(json.dumps(plain(value), indent=2, ensure_ascii=not encoding.startswith("utf")), flush=True)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question after the known name that is closest, for the end of a remedy; empty where none is close."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _number(kind: type, fits: Callable[[float], bool], words: str) -> Callable[[str], Any]:
    """An argparse type of numbers that `fits`, which `words` say."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not fits(value):
            raise argparse.ArgumentTypeError(f"must be {words}, not {text}")
        return value

    convert.__name__ = kind.__name__  # what argparse calls it
    return convert


positive_int = _number(int, lambda value: value >= 1, "1 or more")
not_negative_int = _number(int, lambda value: value >= 0, "0 or more")
positive_float = _number(float, lambda value: 0 < value < math.inf, "above 0")
not_negative_float = _number(float, lambda value: 0 <= value < math.inf, "0 or more")
share = _number(float, lambda value: 0 <= value <= 1, "from 0 to 1")
positive_share = _number(float, lambda value: 0 < value <= 1, "above 0 and at most 1")
