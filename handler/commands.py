"""What every command line of the project shares: one sentence and exit status 2 for a user's mistake.

Tables and progress go to stderr, JSON for machines to stdout, so that `… | jq` always works.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from handler.errors import UserError


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run `main(argv)` as a program and leave the process with its exit status. SIGTERM ends it as Ctrl-C
    does: what it started is stopped."""
    with suppress(ValueError):  # another thread than the first may not say so
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        status = main(None) or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def say(message: str = "") -> None:
    """Tell the person at the terminal (stderr)."""
    print(message, file=sys.stderr, flush=True)


def emit(value: object) -> None:
    """Give the machine its JSON (stdout)."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


def positive_int(text: str) -> int:
    """argparse type for counts."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def not_negative_int(text: str) -> int:
    """argparse type for seeds, and for counts where zero means none."""
    return 0 if int(text) == 0 else positive_int(text)


def positive_float(text: str) -> float:
    """argparse type for sizes and durations."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def share(text: str) -> float:
    """An argument from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return number


def not_negative_float(text: str) -> float:
    """argparse type where zero means none."""
    return 0.0 if float(text) == 0 else positive_float(text)
