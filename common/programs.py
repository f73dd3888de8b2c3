"""The command line of every stage: a table of verbs, of which only the one that is called is imported.

python -m <stage> <verb> …          from a checkout
hate-speech-archive <stage> <verb> …  where the package is installed
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from common.commands import say
from handler.errors import UserError

PACKAGE = "hate-speech-archive"
STAGES = ("training", "export", "benchmarks", "deploy", "handler")
OWN = (*STAGES, "common", "scoring", "tests")
CHECKOUT = "python -m"  # what comes before the stage
Main = Callable[[Sequence[str] | None], int]


@dataclass(frozen=True)
class Verb:
    """What a user can ask a stage for.

    `call` is `module:function`. The function takes the parsed options and returns the exit status; its
    options are added by the function next to it whose name ends in `_arguments`, if it has any. `extras` are
    those of pyproject.toml with the packages that it needs, separated by commas; without, the stage's.
    """

    name: str
    help: str
    call: str
    extras: str = ""

    def function(self, suffix: str = "") -> Any:
        """The function, or the one next to it; None where there is none."""
        module, _, name = self.call.partition(":")
        return getattr(import_module(module), name + suffix, None)


@dataclass(frozen=True)
class Program:
    """The verbs of a stage. `extras` is as in `Verb`; `default` is the verb that is meant where options come
    first; `moved` has the modules whose `main` took over a verb."""

    stage: str
    about: str
    verbs: tuple[Verb, ...]
    extras: str = ""
    default: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)
    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser

    def main(self, argv: Sequence[str] | None = None, before: str = CHECKOUT) -> int:
        """Run the verb that `argv` names; its exit status."""
        given = list(sys.argv[1:] if argv is None else argv)
        first = given[0] if given else "-"
        if first in self.moved:
            return moved(f"{self.stage} {first}", self.moved[first], import_module(self.moved[first]).main)(
                given[1:]
            )
        verbs = {verb.name: verb for verb in self.verbs}
        if first in verbs:
            verb, given = verbs[first], given[1:]
        elif self.default and first.startswith("-"):
            verb = verbs[self.default]
        else:
            self._listing(f"{before} {self.stage}").parse_args(given)
            return 2
        with_list = verb.name == self.default and first != verb.name
        return self._run(verb, given, f"{before} {self.stage}", with_list)

    def parser(self, verb: Verb, prog: str) -> argparse.ArgumentParser:
        """The options of a verb."""
        parser = self.parser_class(prog=prog, description=_sentence(verb.help))
        if add_arguments := verb.function("_arguments"):
            add_arguments(parser)
        return parser

    def _run(self, verb: Verb, given: Sequence[str], program: str, with_list: bool) -> int:
        try:
            parser = self.parser(verb, program if with_list else f"{program} {verb.name}")
            if with_list:
                parser.description = self.about
                parser.epilog = f"Without a verb: {verb.name}."
                self._add_list(parser, required=False)
            options = parser.parse_args(given)
            if getattr(options, "verb", None):
                parser.error(f"{options.verb} has to come first")
            return int(verb.function()(options))
        except ImportError as error:
            if (error.name or "").partition(".")[0] in OWN:
                raise
            raise UserError(
                f"a package that {self.stage} {verb.name} needs cannot be imported",
                seen=error,
                remedy=f"Install it: {install(verb.extras or self.extras)}",
            ) from error

    def _listing(self, prog: str) -> argparse.ArgumentParser:
        listing = argparse.ArgumentParser(prog=prog, description=self.about)
        self._add_list(listing, required=True)
        return listing

    def _add_list(self, parser: argparse.ArgumentParser, *, required: bool) -> None:
        listed = parser.add_subparsers(
            title="verbs",
            metavar="verb",
            dest="verb",
            required=required,
            parser_class=argparse.ArgumentParser,
        )
        for verb in self.verbs:
            listed.add_parser(verb.name, help=verb.help)


def moved(old: str, new: str, main: Main) -> Main:
    """`main` of a command that has another name now; the old one is accepted for one release."""

    def forward(argv: Sequence[str] | None = None) -> int:
        say(f"{CHECKOUT} {old} is now {CHECKOUT} {new}; the old spelling will go with the next release")
        return main(sys.argv[1:] if argv is None else argv)

    return forward


def install(extras: str) -> str:
    """The command that installs what the extras name."""
    is_checkout = (Path(__file__).parents[1] / "pyproject.toml").is_file()
    wanted = f"[{extras}]" if extras else ""
    return f"pip install '{'.' if is_checkout else PACKAGE}{wanted}'"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
