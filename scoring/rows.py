"""Reads rows of text, classifies them, and writes them back with the input's columns.

A row that cannot be read, classified or written gets a sentence in its `error` column; the others go on.
"""

import base64
import csv
import io
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

from common.tables import parquet
from common.tables.lines import MOST_LINE, is_valid
from common.tables.records import TOO_LONG, Layout, Run
from handler.answers import COLUMNS
from handler.errors import Rejection
from handler.predictor import WINDOW, Prediction, Predictor
from handler.requests import LONE_SURROGATE, Limits, read_text

RESULT = (*COLUMNS, "error")
WINDOW_BYTES = 8 << 20  # rows that are classified together are fewer where they are longer
BYTES = re.compile("[\udc80-\udcff]")  # as which bytes that are not of their encoding are read
UNWRITABLE = (*parquet.NO_FORM, RecursionError)


@dataclass
class Window:
    """Rows that are classified together: what each one's text column holds, why the row cannot be used (empty
    where it can), and all of its columns."""

    texts: list[Any]
    faults: list[str]
    rows: list[dict[str, Any]]


def windows(read: Iterable[Run], layout: Layout, text_column: str, line: int = 1) -> Iterator[Window]:
    """The records of a text file as rows, named as its header does; the first of them is in line `line`."""
    window = Window([], [], [])
    begin = -1
    before = 0
    for run in read:
        if begin < 0 and run.lines:
            begin, before = run.stops[0], line - run.lines[0]
        rows, faults = _rows(run, layout, text_column, before)
        texts = [row.get(text_column) for row in rows]
        place = 0
        while place < len(rows):
            full = bisect_left(run.stops, begin + WINDOW_BYTES, place) + 1
            after = min(len(rows), full, place + WINDOW - len(window.rows))
            window.texts += texts[place:after]
            window.faults += faults[place:after]
            window.rows += rows[place:after]
            stop, place = run.stops[after - 1], after
            if len(window.rows) == WINDOW or stop - begin >= WINDOW_BYTES:
                yield window
                window, begin = Window([], [], []), stop
    if window.rows:
        yield window


class ArrowWindow(Window):
    """Rows of Parquet. Their columns become Python's values only where `rows` is asked for."""

    def __init__(self, batch: Any, texts: list[Any], faults: list[str]) -> None:
        self.batch = batch
        self.texts = texts
        self.faults = faults

    @property
    def rows(self) -> list[dict[str, Any]]:  # type: ignore[override] # made when asked for
        if len(self.faults) == 1 and self.faults[0].startswith(TOO_LONG):
            return [dict.fromkeys(self.batch.schema.names)]
        columns = map(parquet.values, self.batch.columns)
        return [dict(zip(self.batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def parquet_windows(table: Any, groups: range, fitting: int, text_column: str, row: int) -> Iterator[Window]:
    """The rows of some row groups of a `parquet.Table`, the first of which has the number `row`."""
    for batch in table.batches(groups, fitting, WINDOW, WINDOW_BYTES):
        column = batch.column(text_column)
        if parquet.row_bytes(batch) > MOST_LINE and len(batch) == 1:
            yield ArrowWindow(batch, [None], [f"{TOO_LONG} (row {row:,})"])
        else:
            read = parquet.texts(column)
            faults = [
                f"the text is not valid UTF-8 (row {row + place:,})"
                if isinstance(text, str) and not is_valid(text)
                else ""
                for place, text in enumerate(read)
            ]
            yield ArrowWindow(batch, read, faults)
        row += len(batch)


def _rows(run: Run, layout: Layout, text_column: str, before: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a run, and why each cannot be used; `before` is how many lines of the file are not
    counted in it."""
    header, rows = layout.header, run.values
    if layout.form == "txt":
        rows = [{text_column: text} for text in run.values]
    elif layout.form == "csv":
        rows = [dict(zip(header, cells, strict=False)) for cells in run.values]
    unlike = layout.form == "csv" and set(map(len, run.values)) != {len(header)}
    if not (unlike or run.damaged or any(run.faults)):
        return rows, run.faults
    faults = []
    for number, row, values, fault in zip(run.lines, rows, run.values, run.faults, strict=True):
        if layout.form == "csv" and len(values) != len(header):
            fault = fault or _unlike_its_header(values, header, text_column)
            row |= dict.fromkeys(header[len(values) :])
        if run.damaged and not fault and isinstance(text := row.get(text_column), str) and not is_valid(text):
            fault = f"the text is not valid {layout.encoding.upper()}: set its encoding with --encoding"
        faults.append(f"{fault} (line {before + number:,})" if fault else "")
    return rows, faults


def _unlike_its_header(values: Sequence[str], header: Sequence[str], text_column: str) -> str:
    """Spreadsheets leave out empty cells at the end of a row: only a text has to be there."""
    if len(values) < len(header) and text_column in header[: len(values)]:
        return ""
    remedy = ": quote the text" if len(values) > len(header) else ""
    return f"the row has {len(values)} values, but the header has {len(header)}{remedy}"


def classify(predictor: Predictor, read: Iterable[Window]) -> Iterator[tuple[Window, list[dict[str, Any]]]]:
    """Each window with the `RESULT` of its rows, in order."""
    limits = Limits()
    for window in read:
        texts = [
            Rejection(422, "text", fault, "") if fault else read_text(text, limits)
            for text, fault in zip(window.texts, window.faults, strict=True)
        ]
        predictions = iter(predictor.predict([text for text in texts if isinstance(text, str)]))
        yield (
            window,
            [
                _result(predictor, next(predictions)) if isinstance(text, str) else rejected(text.message)
                for text in texts
            ],
        )


def _result(predictor: Predictor, prediction: Prediction) -> dict[str, Any]:
    answer: dict[str, Any] = {**predictor.answer(prediction)}
    if predictor.artifact.multi_label:  # all that reached their thresholds, and every score
        answer |= {"label": "|".join(answer["labels"]), "score": json.dumps(answer["scores"])}
    return {name: answer.get(name) for name in RESULT}


def rejected(sentence: str) -> dict[str, Any]:
    """The `RESULT` of a row without an answer."""
    return dict.fromkeys(RESULT) | {"error": sentence}


@cache
def kept_name(column: str) -> str:
    """The output's name of an input column. A labelled data set has a `label` of its own, which becomes
    `input_label`; in a file that was scored before, `input_label` becomes `input_input_label`."""
    return f"input_{column}" if re.sub("^(input_)+", "", column) in RESULT else column


def table_columns(columns: Sequence[str]) -> list[str]:
    """The columns of an output whose input has `columns`."""
    return [*map(kept_name, columns), *RESULT]


class Writer:
    """Writes windows to a file, a row that it cannot hold as one that is bad."""

    form = ""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, window: Window, results: list[dict[str, Any]]) -> int:
        """Write the rows with their results; how many of them have no answer."""
        try:
            encoded = [self.encoded(window.rows, results)]
        except UNWRITABLE:
            encoded = [self._alone(*pair) for pair in zip(window.rows, results, strict=True)]
        for row in encoded:
            self.append(row)
        return _unanswered(results)

    def _alone(self, row: dict[str, Any], result: dict[str, Any]) -> Any:
        """One row; where that fails, without the values at fault and with the reason for its result."""
        with suppress(*UNWRITABLE):
            return self.encoded([row], [result])
        kept = {name: value for name, value in row.items() if self._holds(name, value)}
        names = ", ".join(name for name in row if name not in kept)
        why = f"the value of {names} cannot be written as .{self.form}"
        result |= rejected(result["error"] or why)
        return self.encoded([dict.fromkeys(row) | kept], [result])

    def _holds(self, name: str, value: Any) -> bool:
        try:
            self.encoded([{name: value}], [rejected("")])
        except UNWRITABLE:
            return False
        return True

    def encoded(self, rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> Any:
        """What `append` takes; raises one of `UNWRITABLE`."""
        raise NotImplementedError

    def append(self, encoded: Any) -> None:
        self.file.write(encoded)

    def close(self) -> None:
        pass


class CsvWriter(Writer):
    """Rows as CSV, those of unlike columns too: what a row lacks stays empty. Bytes that are not of the
    input's encoding are written as they were."""

    form = "csv"

    def __init__(self, file: IO[bytes], columns: Sequence[str], header: bool = True) -> None:
        super().__init__(file)
        self.columns = columns
        if header:
            self.append(csv_header(columns))

    def encoded(self, rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> bytes:
        return _csv(
            [*map(row.get, self.columns), *map(result.get, RESULT)]
            for row, result in zip(rows, results, strict=True)
        )


class JsonWriter(Writer):
    """Rows as JSON objects, one a line; what JSON has no form for (a date of Parquet's) as text."""

    form = "jsonl"

    def encoded(self, rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> bytes:
        text = "".join(map(_json, _joined(rows, results)))
        try:
            return text.encode()
        except UnicodeEncodeError:
            if BYTES.search(text):
                raise
        # Half of a character is written as two in JSON, as it came.
        return LONE_SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text).encode()


class ParquetWriter(Writer):
    """Rows as Parquet of a schema that is known beforehand."""

    form = "parquet"

    def __init__(self, file: IO[bytes], schema: Any) -> None:
        import pyarrow.parquet

        super().__init__(file)
        self.schema = schema
        self.writer = pyarrow.parquet.ParquetWriter(file, schema)
        self.texts = [field.name for field in schema if pyarrow.types.is_string(field.type)]

    def write(self, window: Window, results: list[dict[str, Any]]) -> int:
        if not isinstance(window, ArrowWindow):
            return super().write(window, results)
        import pyarrow

        names = map(kept_name, window.batch.schema.names)
        kept = dict(zip(names, window.batch.columns, strict=True))
        columns = []
        for field in self.schema:
            if field.name in RESULT:
                column = pyarrow.array([result[field.name] for result in results], field.type)
            elif field.name in kept:
                column = parquet.as_type(kept[field.name], field.type)
            else:
                column = pyarrow.nulls(len(results), field.type)
            columns.append(column)
        self.append(pyarrow.table(columns, schema=self.schema))
        return _unanswered(results)

    def encoded(self, rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> Any:
        import pyarrow

        whole = _joined(rows, results)
        # What JSON holds besides text (numbers, lists) has no one type over all rows: it is kept as JSON.
        for row in whole:
            for name in self.texts:
                value = row.get(name)
                if not (value is None or isinstance(value, str)):
                    row[name] = json.dumps(value, ensure_ascii=False)
        return pyarrow.Table.from_pylist(whole, self.schema)

    def append(self, encoded: Any) -> None:
        self.writer.write_table(encoded)

    def close(self) -> None:
        self.writer.close()


def _joined(rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row under its columns' names in the output, with its result."""
    return [
        {kept_name(name): value for name, value in row.items()} | result
        for row, result in zip(rows, results, strict=True)
    ]


def _unanswered(results: Sequence[dict[str, Any]]) -> int:
    return sum(result["error"] is not None for result in results)


def _json(row: dict[str, Any]) -> str:
    """A row as a line; numbers that JSON has no form for (not a number, infinite) become null."""
    try:
        return json.dumps(row, ensure_ascii=False, default=_as_text, allow_nan=False) + "\n"
    except ValueError:
        text = json.dumps(row, ensure_ascii=False, default=_as_text)
        return json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=False) + "\n"


def _as_text(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def csv_header(columns: Sequence[str]) -> bytes:
    """The header of a CSV whose input has `columns`."""
    return _csv([table_columns(columns)])


def parquet_schema(columns: dict[str, Any], multi_label: bool) -> Any:
    """The Arrow schema of an output: the input's `columns` with their types (None: text), then `RESULT`."""
    import pyarrow

    kept = [(kept_name(name), kind or pyarrow.string()) for name, kind in columns.items()]
    kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int32(), bool: pyarrow.bool_()}
    types = COLUMNS | {"error": str} | ({"score": str} if multi_label else {})
    return pyarrow.schema([*kept, *((name, kinds[types[name]]) for name in RESULT)])
