"""The command line of every stage: a table of verbs; only the verb that is called is imported.

python -m <stage> <verb> …          from a checkout
hate-speech-archive <stage> <verb> …  where the package is installed
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from common.commands import say
from common.environment import is_checkout
from handler.errors import UserError

PACKAGE = "hate-speech-archive"
STAGES = {
    "training": "train a text classifier and evaluate it",
    "export": "build faster variants, check that they are equal to fp32, and package them",
    "benchmarks": "check that a variant is still the same classifier, and measure how fast it is",
    "deploy": "serve an archive, tune it, roll out new versions, and watch for drift",
    "handler": "classify without a server, and check whether a server would work",
}
OWN = (*STAGES, "common", "scoring", "tests")
CHECKOUT = "python -m"  # what comes before the stage
Main = Callable[[Sequence[str] | None], int]


@dataclass(frozen=True)
class Verb:
    """What a user can ask a stage for.

    `call` is `module:function`. The function takes the parsed options and returns the exit status; its
    options are added by the function next to it whose name ends in `_arguments`, if it has any. `extras` are
    those of pyproject.toml with the packages that it needs, separated by commas; without, the stage's.
    `renamed` has earlier names of options, which are accepted for one release.
    """

    name: str
    help: str
    call: str
    extras: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)

    def function(self, suffix: str = "") -> Any:
        """The function, or the one next to it; None where there is none."""
        module, _, name = self.call.partition(":")
        return getattr(import_module(module), name + suffix, None)

    def by_new_names(self, given: Sequence[str]) -> list[str]:
        """The words of a command line with the new names of renamed options; prints a line for each."""
        words = []
        for word in given:
            option, equals, value = word.partition("=")
            if new := self.renamed.get(option):
                say(f"{option} is now {new}; the next release removes the old name")
                word = f"{new}{equals}{value}"
            words.append(word)
        return words


@dataclass(frozen=True)
class Program:
    """The verbs of a stage. `extras` is as in `Verb`; `default` is the verb that is meant where options come
    first; `moved` has the verbs, or modules with a `main`, that took over from a verb."""

    stage: str
    verbs: tuple[Verb, ...]
    extras: str = ""
    default: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)
    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser

    def main(self, argv: Sequence[str] | None = None, before: str = CHECKOUT) -> int:
        """Run the verb that `argv` names; its exit status."""
        given = list(sys.argv[1:] if argv is None else argv)
        first = given[0] if given else "-"
        if first in self._verbs:
            return self._run(first, given[1:], lambda: self.parser(first, before))
        if first in self.moved:
            new = self.moved[first]
            if new in self._verbs:
                return self.moved_from(f"{self.stage} {first}", new)(given[1:])
            return moved(f"{self.stage} {first}", new, import_module(new).main)(given[1:])
        if self.default and first.startswith("-"):
            return self._run(self.default, given, lambda: self._default_parser(before))
        self._with_list(argparse.ArgumentParser(), before, required=True).parse_args(given)
        return 2

    def moved_from(self, old: str, verb: str) -> Main:
        """`main` of the module that was called `old` before it became a verb."""
        return moved(old, f"{self.stage} {verb}", lambda given: self.main([verb, *(given or ())]))

    def parser(self, name: str, before: str = CHECKOUT) -> argparse.ArgumentParser:
        """The options of a verb."""
        verb = self._verbs[name]
        prog = f"{before} {self.stage} {name}"
        parser = self.parser_class(prog=prog, description=_sentence(verb.help))
        if add_arguments := verb.function("_arguments"):
            add_arguments(parser)
        return parser

    @property
    def _verbs(self) -> dict[str, Verb]:
        return {verb.name: verb for verb in self.verbs}

    def _run(self, name: str, given: Sequence[str], parser: Callable[[], argparse.ArgumentParser]) -> int:
        verb = self._verbs[name]
        try:
            options = parser().parse_args(verb.by_new_names(given))
            return int(verb.function()(options))
        except ImportError as error:
            if (error.name or "").partition(".")[0] in OWN:
                raise
            raise UserError(
                f"a package that {self.stage} {name} needs cannot be imported",
                seen=error,
                remedy=f"Install it: {install(verb.extras or self.extras)}",
            ) from error

    def _default_parser(self, before: str) -> argparse.ArgumentParser:
        """The options of the default verb, and the list of verbs."""
        parser = self._with_list(self.parser(self.default, before), before, required=False)
        parser.epilog = f"The default verb is {self.default}."
        return parser

    def _with_list(
        self, parser: argparse.ArgumentParser, before: str, *, required: bool
    ) -> argparse.ArgumentParser:
        parser.prog = f"{before} {self.stage}"
        parser.description = _sentence(STAGES[self.stage])
        listed = parser.add_subparsers(
            title="verbs", metavar="verb", required=required, parser_class=_Misplaced
        )
        for verb in self.verbs:
            listed.add_parser(verb.name, help=verb.help)
        return parser


class _Misplaced(argparse.ArgumentParser):
    """A verb behind options, where none is looked for."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.error("the verb must come before the options")


def moved(old: str, new: str, main: Main) -> Main:
    """`main` of a command that has another name now; the old one is accepted for one release."""

    def forward(argv: Sequence[str] | None = None) -> int:
        say(f"{CHECKOUT} {old} is now {CHECKOUT} {new}; the next release removes the old name")
        return main(sys.argv[1:] if argv is None else argv)

    return forward


def command(words: str, target: str = "") -> str:
    """What a user types for a stage and its verb: in a checkout the Makefile's target where there is one."""
    if not is_checkout():
        return f"{PACKAGE} {words}"
    return f"make {target}" if target else f"{CHECKOUT} {words}"


def install(extras: str) -> str:
    """The command that installs what the extras name."""
    wanted = f"[{extras}]" if extras else ""
    return f"pip install '{'.' if is_checkout() else PACKAGE}{wanted}'"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
