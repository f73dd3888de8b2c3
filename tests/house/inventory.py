"""Every command and option, a line each: what a later release must still accept.

`python -m tests.house.inventory` prints them, and `tests/test_inventory.py` compares the stored list.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from unittest.mock import patch

# Every program's module, and the verbs that are not in the table of its `PROGRAM`.
PROGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "handler": ("handler.__main__", ()),
    "training": ("training.__main__", ()),
    "training.evaluation": ("training.evaluation.__main__", ()),
    "training.cross_validation": ("training.cross_validation", ()),
    "training.epoch_time": ("training.epoch_time", ()),
    "training.data": ("training.data.__main__", ("describe",)),
    "export": ("export.__main__", ()),
    "benchmarks": ("benchmarks.__main__", ("plan-check", "beside")),
    "benchmarks.studies.cached": ("benchmarks.studies.cached", ()),
    "benchmarks.studies.epoch_time": ("benchmarks.studies.epoch_time", ()),
    "benchmarks.studies.flip_coverage": ("benchmarks.studies.flip_coverage", ()),
    "benchmarks.studies.flips_needed": ("benchmarks.studies.flips_needed", ()),
    "benchmarks.studies.overhead": ("benchmarks.studies.overhead", ()),
    "benchmarks.studies.plan_check": ("benchmarks.studies.plan_check", ()),
    "benchmarks.studies.shadow": ("benchmarks.studies.shadow", ()),
    "benchmarks.studies.soak": ("benchmarks.studies.soak", ()),
    "benchmarks.studies.workers": ("benchmarks.studies.workers", ()),
    "deploy": ("deploy.__main__", ()),
    "deploy.container": ("deploy.torchserve.container", ()),
}


class _FoundError(Exception):
    """Carries the parser of a program out of its `main`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def commands() -> list[str]:
    """Lines such as `deploy rollout --canary`, and `training data` where there is a positional argument."""
    lines: set[str] = set()
    for program, (module, verbs) in PROGRAMS.items():
        lines |= set(_described(_parser(module, []), program))
        named = getattr(import_module(module), "PROGRAM", None)
        own = named.verbs if named and named.stage == program else ()
        for verb in [*verbs, *(verb.name for verb in own)]:
            lines |= set(_described(_parser(module, [verb]), f"{program} {verb}"))
        lines |= {f"{program} {verb.name} {option}" for verb in own for option in verb.renamed}
    return sorted(lines)


def _parser(module: str, arguments: list[str]) -> argparse.ArgumentParser:
    def carry(parser: argparse.ArgumentParser, *arguments: object) -> None:
        raise _FoundError(parser)

    with (
        patch.object(argparse.ArgumentParser, "parse_args", carry),
        patch.object(argparse.ArgumentParser, "parse_known_args", carry),
    ):
        try:
            import_module(module).main(arguments)
        except _FoundError as found:
            return found.parser
    raise AssertionError(f"{module} {arguments} parses nothing")


def _described(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    yield name
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                yield from _described(inner, f"{name} {verb}")
        elif action.help != argparse.SUPPRESS:
            for option in action.option_strings or [f"<{action.dest}>"]:
                yield f"{name} {option}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(commands()) + "\n")
