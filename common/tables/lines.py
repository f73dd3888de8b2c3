"""Lines of a text file in any encoding, each with the place where it ends, in bounded memory.

A line ends in \\n, \\r\\n or \\r and nowhere else. `records` parses the lines.
"""

import codecs
import io
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from handler.errors import UserError

MOST_LINE = 8 << 20  # bytes of a line, and of a row; a longer line is skipped and named
BLOCK = 1 << 15  # bytes that are read at once: of rows that live together, more cost the collector time
MARKS = {  # UTF-32's begins as UTF-16's does
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
UNITS = {"utf-16-le": "<u2", "utf-16-be": ">u2", "utf-32-le": "<u4", "utf-32-be": ">u4"}
UNMARKED = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
# Where these mean themselves, a line end is a byte. Japanese and Korean sets may have a coin for \ and ~.
ASCII = bytes(set(range(128)) - set(b"\\~\x1a\x1b"))
LINE_FEED, RETURN = b"\n\r"
LOST = "\udcff"  # for what is not of the encoding and cannot be kept


@dataclass(frozen=True)
class Block:
    """Whole lines that follow each other, with their ends: the line `first + n`, from 1, ends at byte
    `stops[n]` of its file; the first begins at `start`. A line that is `too_long` is empty and alone."""

    first: int
    start: int
    stops: list[int]
    content: bytes
    encoding: str
    too_long: bool = False

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.stops))

    def decoded(self) -> tuple[list[str], bool]:
        """The lines, and whether some of their bytes are not of the encoding: lone surrogates stand for
        these, as `surrogateescape` writes."""
        text, damaged = _text(self.content, self.encoding)
        lines = list(io.StringIO(text, newline=""))
        if len(lines) != len(self.stops):
            ends = [stop - self.start for stop in self.stops]
            parts = zip([0, *ends], ends, strict=False)
            lines = [_text(self.content[begin:end], self.encoding)[0] for begin, end in parts]
        return lines, damaged


def codec(encoding: str) -> str:
    """Python's name of an encoding in which lines can be found; raises `UserError` for others."""
    try:
        name = codecs.lookup(encoding).name
        if name in UNITS or name in UNMARKED or ASCII.decode(name) == ASCII.decode():
            return name
    except (LookupError, UnicodeError, AttributeError, ValueError):
        pass
    raise UserError(
        "Unknown encoding", seen=encoding, remedy="Try utf-8, cp1252 or utf-16, or convert the file"
    )


def marked(head: bytes, encoding: str | None = None) -> tuple[str, int]:
    """The codec of a file that begins with `head`, and the bytes of its byte order mark. `encoding` is what
    was asked for: a mark of another encoding is none."""
    asked = codec(encoding or "utf-8")
    for mark, name in MARKS.items():
        if head.startswith(mark) and (encoding is None or UNMARKED.get(asked, asked)[:6] == name[:6]):
            return name, len(mark)
    return UNMARKED.get(asked, asked), 0


def blocks(
    file: Any, encoding: str, start: int = 0, stop: int | None = None, first: int = 1
) -> Iterator[Block]:
    """The lines between two bytes of a file, `start` being where the line `first` begins (and where it
    stands, if it is a pipe)."""
    read_some = file.read
    if file.seekable():
        file.seek(start)
    else:
        read_some = file.read1  # of a pipe, what is there
    unit = UNITS.get(encoding, "u1")
    width = int(unit[-1])
    waiting, at = b"", start  # what was read and is not a whole line yet, and where it begins
    skipping = False
    while True:
        size = max(BLOCK, len(waiting))
        if stop is not None:
            size = min(size, stop - at - len(waiting))
        read = read_some(size)
        content = waiting + read
        stops = _line_ends(content, unit, width, last=not read)
        if not stops:
            if not read:
                return
            if len(content) > MOST_LINE:
                kept = width + len(content) % width  # it may be half of a line end
                skipping, at, content = True, at + len(content) - kept, content[-kept:]
            waiting = content
            continue
        begin = place = 0
        while place < len(stops):  # more than once behind a long line, where much was read
            too_long = skipping or stops[place] - begin > MOST_LINE
            after = place + 1 if too_long else max(place + 1, bisect_right(stops, begin + 2 * BLOCK, place))
            ends = [at + stop for stop in stops[place:after]]
            lines = b"" if too_long else content[begin : stops[after - 1]]
            yield Block(first + place, at + begin, ends, lines, encoding, too_long)
            begin, place, skipping = stops[after - 1], after, False
        waiting, at, first = content[begin:], at + begin, first + place


def _line_ends(content: bytes, unit: str, width: int, last: bool) -> list[int]:
    """Where the lines in `content` end, in bytes; a part of a line is one if it is the `last`."""
    units = np.frombuffer(content, unit, len(content) // width)
    returns = units == RETURN
    ends = returns | (units == LINE_FEED)
    ends[:-1] &= ~(returns[:-1] & (units[1:] == LINE_FEED))
    if len(ends) and returns[-1]:
        ends[-1] = last  # else a line feed may follow
    stops = ((np.flatnonzero(ends) + 1) * width).tolist()
    if last and len(content) > (stops[-1] if stops else 0):
        stops.append(len(content))
    return stops


def _text(content: bytes, encoding: str) -> tuple[str, bool]:
    try:
        return content.decode(encoding), False
    except UnicodeDecodeError:
        pass
    try:
        errors = "surrogatepass" if encoding in UNITS else "surrogateescape"
        return content.decode(encoding, errors), True
    except UnicodeDecodeError:
        return content.decode(encoding, "replace").replace("\ufffd", LOST), True


def is_valid(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no half of a surrogate pair, which bad bytes become."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
