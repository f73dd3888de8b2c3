"""What a file is and how it is written: found from its name, its first bytes and its header.

A message reports every finding other than commas and UTF-8.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import IO, Any

from common.commands import say
from common.tables.lines import blocks, is_valid, marked
from common.tables.records import CsvRecords, Layout
from handler.errors import UserError

FORMATS = ("csv", "tsv", "jsonl", "ndjson", "parquet", "txt")
OUTPUTS = ("csv", "jsonl", "parquet")
FORMS = {"tsv": "csv", "ndjson": "jsonl"}  # what is read as another
DELIMITERS = ",;\t|"
HEAD = 1 << 16  # bytes that say what a file is
SAMPLE = 1 << 20  # bytes that say what goes before a quote
MOST_NULS = 0.2  # of the first bytes: with more it is text of wide characters, or no text
PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip (as .xlsx files are)",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PAR1": "Parquet",
    b"\xd0\xcf\x11\xe0": "Excel",
}


@dataclass(frozen=True)
class Reading:
    """The user's settings for reading text files; None means: detect it from the file. `encoding` is Python's
    name; `delimiter` and `escape` are characters of CSV files (`escape` may be empty)."""

    encoding: str | None = None
    delimiter: str | None = None
    escape: str | None = None


AS_FOUND = Reading()


def file_format(path: str, known: Sequence[str] = FORMATS) -> str:
    """The format that the file's name says (one of csv, jsonl, parquet, txt), or `UserError`."""
    name = path.partition("?")[0] if path.startswith(("http://", "https://")) else path
    suffix = PurePosixPath(name).suffix.lstrip(".").lower()
    if suffix not in known:
        raise UserError(
            "the file's name does not show its format",
            seen=path,
            remedy="Use a name that ends in ." + ", .".join(known),
        )
    return FORMS.get(suffix, suffix)


def look(file: IO[bytes], name: str, form: str, column: str, reading: Reading = AS_FOUND) -> Layout:
    """How the text file `name` of this `form` is written; what parts the cells of a CSV is found by its
    having `column`. Raises `UserError` where it is no such file, or a CSV's header cannot be read."""
    file.seek(0)
    head = file.read(HEAD)
    for sign, packing in PACKED.items():
        if head.startswith(sign):
            raise UserError(f"{name} is not .{form} but {packing}", remedy="Unpack or convert it first")
    found, mark = marked(head, reading.encoding)
    if not mark and reading.encoding is None and head.count(0) > MOST_NULS * len(head):
        wide = "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
        raise UserError(f"{name} is not UTF-8", seen="many zero bytes", remedy=f"Try --encoding {wide}")
    if mark and found != "utf-8":
        say(f"reading {name} as {found}, because of its first bytes")
    layout = Layout(form, found, start=mark)
    if form == "jsonl":
        _check_lines_of_json(file, name, head[mark:].decode(found, "replace"))
    return _csv(file, name, layout, column, reading) if form == "csv" else layout


def check_columns(what: str, wanted: Sequence[str], columns: Sequence[str]) -> None:
    """Raise UserError where a column is missing, or there twice; the first wanted is the text's."""
    for place, column in enumerate(wanted):
        if column not in columns:
            option = "--label-column" if place else "--text-column"
            raise UserError(
                f"{what} has no column {column!r}",
                seen=", ".join(str(name) for name in columns if name) or "no header",
                remedy=f"Choose one of these with {option}.",
            )
        if list(columns).count(column) > 1:
            raise UserError(f"{what} has two columns with the same name", seen=column, remedy="Rename one.")


def piped(file: Any, reading: Reading) -> Layout:
    """How the lines of a pipe are written: one text each."""
    encoding, mark = marked(file.peek(HEAD)[:HEAD], reading.encoding)
    file.read(mark)
    return Layout("txt", encoding, start=mark)


def _check_lines_of_json(file: IO[bytes], name: str, head: str) -> None:
    """Refuse a file that is one JSON value over all of its lines."""
    file.seek(max(0, file.seek(0, 2) - HEAD))
    end = file.read().rstrip(b"\0\r\n\t ")
    is_list = re.match(r"\s*\[\s*\{", head) and end.endswith(b"]")
    if is_list or (re.match(r"\s*\{\s*[\r\n]\s*\"", head) and end.endswith(b"}")):
        raise UserError(
            f"{name} is a single JSON value, not one object per line",
            remedy="Convert it: jq -c '.[]' in.json > out.jsonl"
            if is_list
            else "Convert it: jq -c . in.json",
        )


def _csv(file: IO[bytes], name: str, layout: Layout, column: str, reading: Reading) -> Layout:
    layout, usual = _hinted(file, layout, "\t" if name.lower().endswith(".tsv") else ",")
    signs = (
        [reading.delimiter] if reading.delimiter else [usual, *(sign for sign in DELIMITERS if sign != usual)]
    )
    read = [_headed(file, replace(layout, delimiter=sign)) for sign in signs]
    found = next((run for run in read if column in run.header), read[0])
    if not all(map(is_valid, found.header)):
        raise UserError(
            f"the header of {name} is not valid {layout.encoding.upper()}",
            seen=", ".join(found.header).encode("ascii", "backslashreplace").decode(),
            remedy="Give its encoding, such as --encoding cp1252",
        )
    if found.delimiter != signs[0]:
        say(f"reading {name} with {found.delimiter!r} as the delimiter, because of its header")
    if reading.escape is not None:
        return replace(found, escape=reading.escape)
    escaped = replace(found, escape="\\")
    file.seek(found.start)
    if b'\\"' in file.read(SAMPLE) and _odd_rows(file, escaped) < _odd_rows(file, found):
        say(f"reading {name} with a backslash as the escape before quotes, because of its first rows")
        return escaped
    return found


def _hinted(file: IO[bytes], layout: Layout, usual: str) -> tuple[Layout, str]:
    """The layout below a first line `sep=;`, which is Excel's, and the sign that it names."""
    block = next(blocks(file, layout.encoding, layout.start), None)
    hint = re.fullmatch(r'"?sep=(.)"?\s*', block.decoded()[0][0]) if block else None
    if not (block and hint):
        return layout, usual
    return replace(layout, start=block.stops[0], first=2), hint[1]


def _headed(file: IO[bytes], layout: Layout) -> Layout:
    """The layout with the names of its columns, and its rows beginning below them."""
    rows = CsvRecords(blocks(file, layout.encoding, layout.start, first=layout.first), layout.delimiter)
    run = next(iter(rows), None)
    if run is None:
        return layout
    names = run.values[0]
    stop = run.stops[0]
    if names.count("") > 1:  # one is the index of pandas
        names = [name or f"column_{place}" for place, name in enumerate(names, 1)]
    first = rows.first + bisect_right(rows.stops, stop)
    return replace(layout, header=tuple(names), start=stop, first=first)


def _odd_rows(file: IO[bytes], layout: Layout) -> int:
    """How many of the first rows are not well-formed, or unlike the header."""
    read = blocks(file, layout.encoding, layout.start, layout.start + SAMPLE)
    rows = CsvRecords(read, layout.delimiter, layout.escape)
    unlike = sum(
        bool(fault) or len(cells) != len(layout.header)
        for run in rows
        for cells, fault in zip(run.values, run.faults, strict=True)
    )
    return unlike + rows.strays
