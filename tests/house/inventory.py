"""Every command and option, a line each: what a later release must still accept.

`python -m tests.house.inventory` prints them, and `tests/test_inventory.py` compares the stored list.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from unittest.mock import patch

# The programs; where verbs have modules of their own they are looked at one by one.
PROGRAMS = {
    "handler": [[]],
    "training": [[], ["search"], ["runs"]],
    "training.evaluation": [[]],
    "training.cross_validation": [[]],
    "training.epoch_time": [[]],
    "training.data": [[]],
    "export": [[]],
    "benchmarks": [[]],
    "deploy": [[], ["drift"], ["app"], ["tune"], ["rollout"]],
    "deploy.container": [[]],
}


class _FoundError(Exception):
    """Carries the parser of a program out of its `main`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def commands() -> list[str]:
    """Lines such as `deploy rollout --canary`, and `training data` where there is a positional argument."""
    lines: set[str] = set()
    for program, verbs in PROGRAMS.items():
        for verb in verbs:
            parser = _parser(program, verb)
            lines |= set(_described(parser, " ".join([program, *verb])))
    return sorted(lines)


def _parser(program: str, verb: list[str]) -> argparse.ArgumentParser:
    def carry(parser: argparse.ArgumentParser, *arguments: object) -> None:
        raise _FoundError(parser)

    try:
        module = import_module(f"{program}.__main__")
    except ImportError:
        module = import_module(program)
    with (
        patch.object(argparse.ArgumentParser, "parse_args", carry),
        patch.object(argparse.ArgumentParser, "parse_known_args", carry),
    ):
        try:
            module.main(verb)
        except _FoundError as found:
            return found.parser
    raise AssertionError(f"{program} {verb} parses nothing")


def _described(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    yield name
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                yield from _described(inner, f"{name} {verb}")
        else:
            for option in action.option_strings or [f"<{action.dest}>"]:
                yield f"{name} {option}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(commands()) + "\n")
