"""Which parts a job has: where each begins and ends in its file, so that any worker can read any part.

One pass over the input finds the boundaries: rows of a CSV (which may hold line breaks in quotes), lines of
JSON or text, row groups of Parquet. Files are local or in an object store, whatever fsspec opens.
"""

import base64
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence, Sized
from dataclasses import asdict, dataclass
from posixpath import basename
from typing import IO, Any

from common.storage import WEB, address, opened, told
from common.tables.layout import AS_FOUND, FORMATS, Reading, check_columns, file_format, look
from common.tables.parquet import Table
from common.tables.records import Layout, row_ends, runs
from handler.errors import UserError
from scoring.rows import Window, parquet_windows, windows

# The plan lies with the parts; a job is continued only by the same plan.

MOST_BYTES = 16 << 20  # of a part: long texts make parts of fewer rows
MOST_COLUMNS = 1000


@dataclass(frozen=True)
class Part:
    """`rows` rows of the file `path`: the bytes from `start` to `stop`, or Parquet's row groups. The first
    row stands in line `line`, and `layout` says how the lines are written; of Parquet,
    it has that number, and `fitting` rows are read at once."""

    number: int
    path: str
    start: int
    stop: int
    rows: int
    line: int = 1
    layout: Layout | None = None
    fitting: int = 0


@dataclass(frozen=True)
class Plan:
    """The input and how it is cut. `columns` are those of all files, in order of appearance; they are not
    collected if JSON is written as JSON."""

    form: str
    text_column: str
    files: tuple[dict[str, Any], ...]
    columns: tuple[str, ...]
    parts: tuple[Part, ...]
    types: str = ""  # of Parquet: Arrow's schema, in base 64

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return record


def plan(
    source: str, text_column: str, part_rows: int, written: str | None, reading: Reading = AS_FOUND
) -> Plan:
    """The parts of a file, a folder or a pattern (`in/*.csv`), which will be `written` in a format (None: not
    at all). Raises `UserError` where there is nothing to read, formats differ, or a file lacks
    `text_column`."""
    with told(source):
        return _plan(source, text_column, part_rows, written, reading)


def _plan(source: str, text_column: str, part_rows: int, written: str | None, reading: Reading) -> Plan:
    filesystem, paths = _files(source)
    form = file_format(paths[0])
    types: dict[str, Any] = {}
    columns: dict[str, None] = {}
    parts: list[Part] = []
    files = []
    for path in paths:
        name = address(filesystem, path)
        files.append(_identity(name, filesystem.info(path)))
        layout = None
        fitting = 0
        with filesystem.open(path, "rb") as file:
            if form == "parquet":
                table = Table(file, name)
                found, cut = _cut_parquet(table, part_rows, types)
                fitting = table.fitting(range(len(table.groups)))
            else:
                layout = look(file, name, form, text_column, reading)
                found, cut = _cut_text(file, layout, part_rows, text_column, written)
        if form in ("csv", "parquet"):
            names = layout.header if layout else found
            check_columns(name, (text_column, *names), names)
        columns |= dict.fromkeys(found)
        parts += [Part(len(parts) + place, name, *each, layout, fitting) for place, each in enumerate(cut)]
        _check_count(columns)
    return Plan(form, text_column, tuple(files), tuple(columns), tuple(parts), _packed(types))


def read_windows(part: Part, text_column: str) -> Iterator[Window]:
    """The rows of a part, some at a time. Raises `UserError` where they are not as many as were planned."""
    filesystem, path = opened(part.path)
    rows = 0
    with told(part.path), filesystem.open(path, "rb") as file:
        for window in _windows(file, part, text_column):
            rows += len(window.faults)
            yield window
    if rows != part.rows:
        raise UserError(
            f"{part.path} has changed since the job began",
            seen=f"{rows:,} rows where there were {part.rows:,}",
            remedy="Remove the parts, and run the same command again",
        )


def read_part(part: Part, text_column: str) -> Iterator[dict[str, Any]]:
    """The rows of a part, one dict each."""
    for window in read_windows(part, text_column):
        yield from window.rows


def _windows(file: IO[bytes], part: Part, text_column: str) -> Iterator[Window]:
    if part.layout:
        read = runs(file, part.layout, part.start, part.stop)
        return windows(read, part.layout, text_column, part.line)
    table = Table(file, part.path)
    return parquet_windows(table, range(part.start, part.stop), part.fitting, text_column, part.line)


def column_types(plan: Plan) -> dict[str, Any]:
    """The Arrow type of each column where the input is Parquet; None, which is text, elsewhere."""
    if not plan.types:
        return dict.fromkeys(plan.columns)
    import pyarrow

    schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(base64.b64decode(plan.types)))
    return {field.name: field.type for field in schema}


def _packed(types: dict[str, Any]) -> str:
    if not types:
        return ""
    import pyarrow

    return base64.b64encode(pyarrow.schema(types.items()).serialize()).decode()


def _files(source: str) -> tuple[Any, list[str]]:
    """The file that `source` names, or those in its folder or of its pattern, sorted."""
    filesystem, path = opened(source)
    with told(source):
        if path.startswith(WEB):  # which has no folders
            found = [path] if filesystem.exists(path) else []
        elif not filesystem.exists(path) and any(sign in path for sign in "*?["):
            found = _of_a_format(filesystem.glob(path))
        elif filesystem.isdir(path):
            found = _of_a_format(filesystem.find(path))
        else:
            file_format(path)
            found = [path] if filesystem.exists(path) else []
    forms = {file_format(name) for name in found}
    if not found:
        raise UserError("there is no such file", seen=source, remedy="Check --file")
    if len(forms) > 1:
        raise UserError("the files have several formats", seen=", ".join(sorted(forms)), remedy="Choose one")
    return filesystem, sorted(found)


def _of_a_format(paths: list[str]) -> list[str]:
    """Those that look like data: tools put what is theirs under names that begin with . or _."""
    names = {path: basename(path) for path in paths}
    return [
        path
        for path, name in names.items()
        if name.rpartition(".")[2].lower() in FORMATS and not name.startswith((".", "_"))
    ]


def _identity(path: str, info: dict[str, Any]) -> dict[str, Any]:
    """What tells a file from another one of its name: its size, and when or as what it was written."""
    stamp = next((info[name] for name in ("ETag", "etag", "md5Hash", "mtime") if name in info), None)
    return {"path": path, "bytes": info["size"], "stamp": str(stamp)}


def _check_count(columns: Sized) -> None:
    if len(columns) > MOST_COLUMNS:
        raise UserError(
            "the rows have too many columns for a table",
            seen=f"over {MOST_COLUMNS:,}",
            remedy="Use .jsonl for the output",
        )


class _Cuts:
    """Boundaries as they are found: [start, stop, rows, line] of every part."""

    def __init__(self, start: int, part_rows: int) -> None:
        self.start = start
        self.part_rows = part_rows
        self.rows = 0
        self.stop = start
        self.line = 1
        self.found: list[tuple[int, int, int, int]] = []

    def run(self, lines: Sequence[int], stops: list[int]) -> None:
        """Rows that begin in `lines` end at `stops`."""
        place = 0
        while place < len(stops):
            if not self.rows:
                self.line = lines[place]
            full = bisect_left(stops, self.start + MOST_BYTES, place) + 1
            after = min(len(stops), full, place + self.part_rows - self.rows)
            self.rows, self.stop = self.rows + after - place, stops[after - 1]
            place = after
            if self.rows == self.part_rows or self.stop - self.start >= MOST_BYTES:
                self.close()

    def close(self) -> list[tuple[int, int, int, int]]:
        if self.rows:
            self.found.append((self.start, self.stop, self.rows, self.line))
            self.start, self.rows = self.stop, 0
        return self.found


def _cut_text(
    file: IO[bytes], layout: Layout, part_rows: int, text_column: str, written: str | None
) -> tuple[tuple[str, ...], list[tuple[int, int, int, int]]]:
    cuts = _Cuts(layout.start, part_rows)
    columns = dict.fromkeys(layout.header)
    if layout.form == "jsonl" and written not in (None, "jsonl"):  # a table's columns are those of all rows
        for run in runs(file, layout):
            for row in run.values:
                columns.update(dict.fromkeys(row))
                _check_count(columns)
            cuts.run(run.lines, run.stops)
    elif layout.form == "csv":
        for run in runs(file, layout):
            cuts.run(run.lines, run.stops)
    else:
        for lines, stops in row_ends(file, layout):
            cuts.run(lines, stops)
    if layout.form == "txt":
        columns[text_column] = None
    return tuple(columns), cuts.close()


def _cut_parquet(
    table: Table, part_rows: int, types: dict[str, Any]
) -> tuple[tuple[str, ...], list[tuple[int, int, int, int]]]:
    for field in table.schema:
        if types.setdefault(field.name, field.type) != field.type:
            raise UserError(
                f"the files disagree on the type of {field.name}",
                seen=f"{types[field.name]} and {field.type}",
                remedy="Score them one by one",
            )
    found = []
    start = 0
    rows = 0
    before = 0
    for group, count in enumerate(table.groups):
        rows += count
        if rows >= part_rows or group == len(table.groups) - 1:
            if rows:
                found.append((start, group + 1, rows, before + 1))
            start, before, rows = group + 1, before + rows, 0
    return tuple(table.schema.names), found
