"""The variants: one decorated function each, and everything else sees them from here.

    @variant("openvino-int8", runtime="openvino", summary="…", requires=("openvino", "nncf"))
    def openvino_int8(source: Source, folder: Path) -> Built:
        ...write the model into folder...
        return Built(proof={...})

The command line, the tests, the benchmarks and the report need no further word. What a variant requires
is named here; what this machine lacks of it is found here, before anything is built.
"""

import difflib
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from export.source import Source
from handler.errors import UnsupportedError, UserError
from handler.machine import cpu_features

COMMANDS = {"g++": "a C++ compiler (on Debian: apt-get install g++), and no space in the checkout's path"}


@dataclass(frozen=True)
class Built:
    """What a variant's function reports: evidence from the runtime, and how the artifact is to be run."""

    proof: dict
    runtime_options: dict = field(default_factory=dict)
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """One way to make the classifier smaller or faster. `requires` names packages, commands, CPU features."""

    name: str
    summary: str
    runtime: str
    build: Callable[[Source, Path], Built]
    parent: str | None = "fp32"
    devices: tuple[str, ...] = ("cpu",)
    requires: tuple[str, ...] = ()

    def lacks(self) -> list[str]:
        """What of `requires` this machine has not, in words; empty when it can be built."""
        return [_describe(need) for need in self.requires if not _present(need)]


VARIANTS: dict[str, Variant] = {}


def variant(name: str, **properties) -> Callable:
    """Register the decorated function as the variant `name`; `properties` are those of `Variant`."""

    def register(build: Callable[[Source, Path], Built]) -> Callable[[Source, Path], Built]:
        if name in VARIANTS:
            raise ValueError(f"two variants are called {name}")
        VARIANTS[name] = Variant(name=name, build=build, **properties)
        return build

    return register


def choose(names: Sequence[str]) -> tuple[list[Variant], dict[str, list[str]]]:
    """The variants to build, parents before children, and those left out with what they lack.

    No names, `all` or `cpu`: every variant that this machine can build. A variant asked for by name
    that the machine cannot build raises `UnsupportedError`; a name that nobody has, `UserError`.
    """
    left_out: dict[str, list[str]] = {}
    chosen: dict[str, Variant] = {}
    default = not names or set(names) <= {"all", "cpu"}
    for name in VARIANTS if default else names:
        found = _find(name)
        if lacking := found.lacks():
            if not default:
                raise UnsupportedError(
                    f"{name} cannot be built here, it needs", seen="; ".join(lacking), remedy="Install it"
                )
            left_out[name] = lacking
            continue
        for ancestor in _lineage(found):
            chosen.setdefault(ancestor.name, ancestor)
    return list(chosen.values()), left_out


def _find(name: str) -> Variant:
    if name not in VARIANTS:
        close = difflib.get_close_matches(name, VARIANTS, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UserError(
            "there is no such variant", seen=name, remedy=f"{hint}Known are {', '.join(VARIANTS)}"
        )
    return VARIANTS[name]


def _lineage(one: Variant) -> list[Variant]:
    """The variant and its ancestors, eldest first; fp32, the reference of every check, among them."""
    above = [] if one.parent is None else _lineage(_find(one.parent))
    return [*above, one]


def _present(need: str) -> bool:
    if need in COMMANDS:
        # torch hands the compiler its own folders unquoted: a space in their path breaks the command
        return shutil.which(need) is not None and " " not in sys.prefix
    if need.startswith("cpu:"):
        return need.removeprefix("cpu:") in cpu_features()
    try:
        return bool(importlib.metadata.version(need))
    except importlib.metadata.PackageNotFoundError:
        return False


def _describe(need: str) -> str:
    if need.startswith("cpu:"):
        return f"a CPU with {need.removeprefix('cpu:')}"
    return COMMANDS.get(need, f"the Python package {need}")
