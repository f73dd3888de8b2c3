"""`python -m training.data describe`, as `python -m training data` was called."""

import sys
from collections.abc import Sequence

from common.commands import run
from training.__main__ import PROGRAM

_data = PROGRAM.moved_from("training.data describe", "data")


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    return _data(given[1:] if given[:1] == ["describe"] else given)


if __name__ == "__main__":
    run(main)
