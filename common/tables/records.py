"""Records of a text file: the rows of a CSV, the objects of JSONL, the lines of a text.

Each has the line where it begins, the byte where it ends, and what is wrong with it. A quote that is never
closed only spoils its own line.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import IO, Any, NamedTuple

from common.tables.lines import MOST_LINE, Block, blocks, is_valid

MOST_LINES = 1000  # of one CSV row: a quote that stays open longer was never meant to open
BLANK = " \t\r\n"

TOO_LONG = f"row larger than {MOST_LINE >> 20} MiB"
OPEN_QUOTE = "unclosed quote"
NOT_JSON = "not JSON"
NOT_AN_OBJECT = "not a JSON object"
BAD_NAME = "key that is not valid text"
KEY_TWICE = "duplicate key"


_decode = json.JSONDecoder().raw_decode


class Record(NamedTuple):
    """`line` is where it begins, from 1, and `stop` the byte of its file where it ends. `values` are the
    cells of a CSV row, a JSON object or the text of a line: what could be read of them where there is a
    `fault`. A record may hold lone surrogates for bytes that are not of the encoding where it is
    `damaged`."""

    line: int
    stop: int
    values: Any
    fault: str = ""
    damaged: bool = False


class Run(NamedTuple):
    """Records that follow each other, as lists of what `Record` has of one: an object for each would take
    longer than its parsing."""

    lines: Sequence[int]
    stops: list[int]
    values: list[Any]
    faults: list[str]
    damaged: bool = False


@dataclass(frozen=True)
class Layout:
    """How a text file is written: its `form` (csv, jsonl or txt), its encoding as `lines.marked` names it,
    and of a CSV what parts cells, what goes before a quote that ends none (nothing: a second quote), and the
    names of its columns. Rows begin at byte `start`, with the line `first`."""

    form: str
    encoding: str = "utf-8"
    delimiter: str = ","
    escape: str = ""
    header: tuple[str, ...] = ()
    start: int = 0
    first: int = 1


def records(
    file: IO[bytes], layout: Layout, start: int | None = None, stop: int | None = None
) -> Iterator[Record]:
    """The records of a file below its header; or those between two bytes at which records end, with lines
    counted from there. Empty lines are records of a text alone."""
    for run in runs(file, layout, start, stop):
        yield from map(Record, run.lines, run.stops, run.values, run.faults, repeat(run.damaged))


def runs(file: IO[bytes], layout: Layout, start: int | None = None, stop: int | None = None) -> Iterator[Run]:
    """The same records, many at a time."""
    if start is None:
        read = blocks(file, layout.encoding, layout.start, first=layout.first)
    else:
        read = blocks(file, layout.encoding, start, stop)
    if layout.form == "csv":
        return iter(CsvRecords(read, layout.delimiter, layout.escape))
    return (_json_runs if layout.form == "jsonl" else _text_runs)(read)


def row_ends(file: IO[bytes], layout: Layout) -> Iterator[tuple[Sequence[int], list[int]]]:
    """The lines and the stops of the rows of a text or of JSONL, which is not parsed."""
    for block in blocks(file, layout.encoding, layout.start, first=layout.first):
        lines = [] if layout.form == "txt" or block.too_long else block.decoded()[0]
        if all(map(str.strip, lines)):
            yield block.numbers, block.stops
            continue
        places = [place for place, text in enumerate(lines) if text.strip(BLANK)]
        yield [block.first + place for place in places], [block.stops[place] for place in places]


def _text_runs(read: Iterable[Block]) -> Iterator[Run]:
    for block in read:
        lines, damaged = block.decoded()
        texts = [text.rstrip("\r\n") for text in lines]
        faults = [TOO_LONG if block.too_long else ""] * len(texts)
        yield Run(block.numbers, block.stops, texts, faults, damaged)


def _json_runs(read: Iterable[Block]) -> Iterator[Run]:
    for block in read:
        if block.too_long:
            yield Run([block.first], block.stops, [{}], [TOO_LONG])
            continue
        lines, damaged = block.decoded()
        numbers, stops, values, faults = [], [], [], []
        for line, text, stop in zip(block.numbers, lines, block.stops, strict=True):
            if text := text.strip(BLANK):
                found, why = json_object(text)
                numbers.append(line)
                stops.append(stop)
                values.append(found)
                faults.append(why)
        yield Run(numbers, stops, values, faults, damaged)


def json_object(text: str) -> tuple[dict[str, Any], str]:
    """The object that a line holds, which begins and ends with it, and why it holds none."""
    try:
        found, end = _decode(text)
    except (ValueError, RecursionError):
        return {}, NOT_JSON
    if end < len(text):
        return {}, NOT_JSON
    if not isinstance(found, dict):
        return {}, NOT_AN_OBJECT
    if not ("\\u" not in text and text.isascii()) and not all(map(is_valid, found)):
        return {name: value for name, value in found.items() if is_valid(name)}, BAD_NAME
    # As many keys as the object has: none is nested, in a text, or there twice.
    if text.count('":') == len(found) and '" ' not in text and '"\t' not in text:
        return found, ""
    try:
        json.loads(text, object_pairs_hook=_once)
    except _TwiceError:
        return found, KEY_TWICE
    return found, ""


class _TwiceError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        raise _TwiceError


class CsvRecords:
    """The rows of a CSV.

    Blocks of lines go through a strict reader. Where it finds a fault, the row is looked at alone: over
    several lines nothing but well-formed quotes will do, else they would join unlike rows. `strays` counts
    the rows that are whole in spite of quotes that are not well-formed."""

    def __init__(self, read: Iterable[Block], delimiter: str = ",", escape: str = "") -> None:
        csv.field_size_limit(2 * MOST_LINE)  # of this process; a row of several lines is bounded here
        self.style: dict[str, Any] = {"delimiter": delimiter, "escapechar": escape or None}
        self.read = iter(read)
        self.following: Block | None = None
        self.first, self.at = 1, 0  # the number of the first line that waits, and the byte that it begins at
        self.lines: list[str] = []
        self.stops: list[int] = []
        self.damaged = False
        self.unclosed = 0  # a quote that was opened before is known to stay open up to this line
        self.strays = 0

    def __iter__(self) -> Iterator[Run]:
        while self.lines or self._load():
            if not self.lines:  # the one that was loaded is too long
                yield Run([self.first], [self.at], [[]], [TOO_LONG])
                self.first += 1
                continue
            done = 0
            if self.first > self.unclosed:
                lines, stops, values = [], [], []
                reader = csv.reader(iter(self.lines), strict=True, **self.style)
                with suppress(csv.Error):
                    for cells in reader:
                        after = reader.line_num
                        if after > done + 1 and not self._is_short(done, after):
                            break
                        if cells:
                            lines.append(self.first + done)
                            stops.append(self.stops[after - 1])
                            values.append(cells)
                        done = after
                if values:
                    yield Run(lines, stops, values, [""] * len(values), self.damaged)
                self._drop(done)
            if self.lines:
                cells, taken, fault = self._odd()
                if cells:
                    yield Run([self.first], [self.stops[taken - 1]], [cells], [fault], self.damaged)
                self._drop(taken)

    def _odd(self) -> tuple[list[str], int, str]:
        """The cells of the row that the first line begins, how many lines it has, and what is wrong with
        it."""
        taken = 0
        is_open = False

        def following() -> Iterator[str]:
            nonlocal taken, is_open
            while taken < len(self.lines) or self._extend():
                if not self._is_short(0, taken + 1) or (taken and self.first <= self.unclosed):
                    return
                taken += 1
                yield self.lines[taken - 1]
                is_open = True  # a reader that asks for more is within quotes

        try:
            return next(csv.reader(following(), strict=True, **self.style)), taken, ""
        except csv.Error:
            pass
        if is_open:
            # What opens a quote in one of these lines, and is within one at its end, fails as this did.
            self.unclosed = max(self.unclosed, self.first + taken - 2)
            return self._leniently()[0], 1, OPEN_QUOTE
        cells, is_open = self._leniently()
        self.strays += not is_open
        return cells, 1, OPEN_QUOTE if is_open else ""

    def _leniently(self) -> tuple[list[str], bool]:
        """What the first line holds by any reading, and whether a quote is open at its end."""
        is_open = False

        def alone() -> Iterator[str]:
            nonlocal is_open
            yield self.lines[0]
            is_open = True

        return next(csv.reader(alone(), **self.style)), is_open

    def _is_short(self, start: int, stop: int) -> bool:
        begin = self.stops[start - 1] if start else self.at
        return stop - start <= MOST_LINES and self.stops[stop - 1] - begin <= MOST_LINE

    def _load(self) -> bool:
        """Take the next block, whose lines wait then."""
        block = self.following or next(self.read, None)
        self.following = None
        if block is None:
            return False
        self.first, self.at, self.stops = block.first, block.start, block.stops
        self.lines, self.damaged = block.decoded()
        if block.too_long:
            self.at, self.lines, self.stops = block.stops[0], [], []
        return True

    def _extend(self) -> bool:
        """Put the next block's lines behind those that wait, unless there is none or it is too long."""
        block = self.following = self.following or next(self.read, None)
        if block is None or block.too_long:
            return False
        lines, damaged = block.decoded()
        self.lines, self.stops = self.lines + lines, self.stops + block.stops
        self.damaged |= damaged
        self.following = None
        return True

    def _drop(self, count: int) -> None:
        """Leave out the first lines that wait."""
        if count:
            self.first, self.at = self.first + count, self.stops[count - 1]
            self.lines, self.stops = self.lines[count:], self.stops[count:]
