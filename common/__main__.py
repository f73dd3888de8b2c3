"""`hate-speech-archive <stage> <verb> …`: the installed form of a checkout's `python -m <stage>`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from common.commands import run
from common.programs import PACKAGE, STAGES


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] and given[0] in STAGES:
        return int(import_module(f"{given[0]}.__main__").PROGRAM.main(given[1:], before=PACKAGE))
    parser = argparse.ArgumentParser(prog=PACKAGE, description="Paths are relative to the current folder.")
    stages = parser.add_subparsers(title="stages", metavar="stage", required=True)
    for name, about in STAGES.items():
        stages.add_parser(name, help=about)
    parser.parse_args(given)
    return 2


def program() -> None:
    run(main)


if __name__ == "__main__":
    program()
