"""Sources of texts: one function for each data set or file format, found by its name.

To add one, write a function under `@source` in `public` or `tables`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from numpy import format_float_positional

from common.commands import did_you_mean
from handler.errors import UserError
from training.data.splits import Split

HATE_LABELS = ("not-hate", "hate")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold text and label; `labels` fixes the order of the label names, and
    `positive_label` says which of them is looked for (`positive`).

    Several label columns parted by commas are independent labels, each 0, 1 or a probability. `encoding` is
    that of CSV and JSONL files, by Python's name. `gate` is a table with the gate's texts, of the format that
    its name ends with. Rows with the same value of `group` (an author, a thread, a template) stay in one
    split and are weighed as one. `verbatim` labels such as 0 and 1 stay what they are, where they would be
    read as not-hate and hate.
    """

    text: str = "text"
    label: str = "label"
    labels: tuple[str, ...] = ()
    encoding: str = "utf-8"
    positive_label: str = ""
    gate: str = ""
    group: str = ""
    verbatim: bool = False


@dataclass(frozen=True)
class Request:
    """What a source is asked for: `argument` is what follows the colon of the spec."""

    argument: str
    data_dir: Path
    columns: Columns = Columns()
    seed: int = 0


@dataclass(frozen=True)
class Raw:
    """What a source brought, before any rule; `argument` is the request's, made independent of the
    working folder; `dropped[split][reason]` counts rows that could not be read as text and label, and
    `lines[split][reason]` names the first of them by their line in the file, from 1; `positive_label` is what
    the user named for this set alone. `made_up` texts are the project's own: no model elsewhere saw them."""

    labels: tuple[str, ...]
    splits: dict[str, Split]
    argument: str = ""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    positive_label: str = ""
    made_up: bool = False


@dataclass(frozen=True)
class Source:
    """`form` is how its spec is written: `NAME`, `NAME:ARGUMENT`, or `NAME[:word]` with a word to choose;
    `hub` its name on the Hugging Face hub, and its configuration there, where it has them."""

    form: str
    summary: str
    read: Callable[[Request], Raw]
    hub: tuple[str, str | None] | None = None

    @property
    def is_named(self) -> bool:
        """Whether its name says which texts they are, without a path or the name of another set."""
        return re.fullmatch(r"[\w-]+(\[:.*\])?", self.form) is not None

    def takes(self, argument: str) -> bool:
        choices = re.fullmatch(r"[\w-]+\[:(.*)\]", self.form)
        if choices:
            return argument in ("", *choices[1].split("|"))
        return (":" in self.form) == bool(argument)


@dataclass(frozen=True)
class Part:
    """One set of a spec: where its texts come from, and how much each counts in the loss."""

    name: str
    argument: str
    weight: float = 1.0

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.argument}" if self.argument else self.name

    def __str__(self) -> str:
        weight = format_float_positional(self.weight, trim="-")
        return self.spec if self.weight == 1 else f"{self.spec}*{weight}"


SOURCES: dict[str, Source] = {}


def source(
    form: str, summary: str, hub: tuple[str, str | None] | None = None
) -> Callable[[Callable[[Request], Raw]], Callable[[Request], Raw]]:
    """Register a source under the name before the colon of `form` (`tweeteval`, `csv:PATH`)."""

    def register(read: Callable[[Request], Raw]) -> Callable[[Request], Raw]:
        SOURCES[re.split(r"[:\[]", form)[0]] = Source(form, summary, read, hub)
        return read

    return register


def own_columns(request: Request) -> tuple[str, str, Columns]:
    """The path of a table, the question mark with what follows it, and the table's columns.

    `PATH?text=Content&label=Label` names columns for this table alone, as joined tables need; the settings
    are the fields of `Columns`. A file whose own name has a question mark is that file.
    """
    path, mark, query = request.argument.rpartition("?")
    if not mark or Path(request.argument).expanduser().exists():
        return request.argument, "", request.columns
    known = [option.name for option in fields(Columns) if option.name != "gate"]
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name in given:
        if name not in known:
            remedy = f"Known: {', '.join(known)}.{did_you_mean(name, known)}"
            raise UserError(f"Unknown setting of {path}", seen=name or query, remedy=remedy)
    if not given:
        raise UserError(
            f"Settings of {path} cannot be parsed", seen=query, remedy="Write ?text=Content&label=Label."
        )
    named: dict[str, Any] = {**given}
    if "labels" in given:
        named["labels"] = tuple(label.strip() for label in given["labels"].split(",") if label.strip())
    return path, mark + query, replace(request.columns, **named)


def parse(spec: str) -> list[Part]:
    """The sets that a spec joins by `+`, each with its weight after `*` (1 where none is given).

    A plus sign separates sets only if the name of a source follows it, so paths may contain one.
    """
    names = "|".join(map(re.escape, SOURCES))
    found = []
    for text in re.split(rf"\+(?=(?:{names})(?:[:*+]|$))", spec):
        weighted = re.fullmatch(r"(.*)\*(\d+(?:\.\d+)?|\.\d+)", text)
        name, _, argument = (weighted[1] if weighted else text).partition(":")
        weight = float(weighted[2]) if weighted else 1.0
        if not weight:
            raise UserError("A set with weight 0 has no effect", seen=text, remedy="Leave it out.")
        _check(name, argument, text)
        found.append(Part(name, argument, weight))
    return found


def _check(name: str, argument: str, text: str) -> None:
    if name not in SOURCES:
        known = ", ".join(source.form for source in SOURCES.values())
        remedy = f"Known: {known}.{did_you_mean(name, SOURCES)}"
        raise UserError("Unknown data", seen=repr(text), remedy=remedy)
    if not SOURCES[name].takes(argument):
        # TweetEval's tasks are sets of their own here, under its name on the hub they are configurations.
        meant = f" Did you mean {name}-{argument}?" if f"{name}-{argument}" in SOURCES else ""
        remedy = f"Write it as {SOURCES[name].form}.{meant}"
        raise UserError("The name of the data is not valid", seen=repr(text), remedy=remedy)
