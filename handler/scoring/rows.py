"""Rows of text read, classified, and written back with the input's columns kept.

Covers: CSV, JSONL, Parquet, and plain text with one text a line. A row that cannot be classified gets a
sentence in its `error` column and the others go on. Leaves out: where a part of a file begins (`plan`).
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any, TextIO

from handler.errors import Rejection, UserError
from handler.predictor import WINDOW, Predictor, clean
from handler.requests import Limits, read_text

RESULT = ("label", "score", "tokens", "truncated", "error")
FORMATS = ("csv", "jsonl", "parquet", "txt")
BROKEN = object()  # the key, which no column can have, of why a row is broken
MOST_TEXT = 1 << 30  # a text is judged by its own limit, not by the CSV reader's 128 KiB


def file_format(path: str) -> str:
    """The format that the file's name says, or `UserError`."""
    suffix = PurePosixPath(path).suffix.lstrip(".").lower()
    if suffix not in FORMATS:
        raise UserError(
            "the file's format is not known from its name",
            seen=path,
            remedy="Use a name that ends in ." + ", .".join(FORMATS),
        )
    return suffix


def read_csv(lines: Iterable[str], columns: Sequence[str]) -> Iterator[dict]:
    """One dict per record below the header; a record with more values than `columns` is broken."""
    csv.field_size_limit(MOST_TEXT)
    for record in csv.reader(lines):
        if not record:
            continue
        row: dict = dict.fromkeys(columns) | dict(zip(columns, record, strict=False))
        if len(record) > len(columns):
            row[BROKEN] = f"the row has {len(record)} values and the header {len(columns)}: quote the text"
        yield row


def read_lines(lines: Iterable[str], form: str, text_column: str) -> Iterator[dict]:
    """One dict per line of text or JSON; a line that holds no JSON object is broken."""
    for line in lines:
        line = line.rstrip("\n")
        yield {text_column: line} if form == "txt" else json_row(line, text_column)


def json_row(line: str, text_column: str) -> dict:
    """The object that a line of JSON holds, or a broken row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return {text_column: None, BROKEN: "the line is not a JSON object"}
    if "\\ud" in line.lower():  # half of a character that is written as two: no file can hold it
        row = json.loads(clean(json.dumps(row, ensure_ascii=False)))
    return row


def classify(predictor: Predictor, rows: Iterable[dict], text_column: str) -> Iterator[dict]:
    """Each row with `RESULT` added, in order, named as `result_columns` says."""
    rows = iter(rows)
    while window := list(islice(rows, WINDOW)):
        broken = [row.pop(BROKEN, None) for row in window]
        texts = [read_text(row.get(text_column), Limits()) for row in window]
        read = [None if why else text for text, why in zip(texts, broken, strict=True)]
        predictions = iter(predictor.predict([text for text in read if isinstance(text, str)]))
        for row, text, why in zip(window, texts, broken, strict=True):
            kept = {kept_name(name): value for name, value in row.items()}
            if why or isinstance(text, Rejection):
                sentence = why or text.message  # type: ignore[union-attr]
                yield kept | dict.fromkeys(RESULT) | {"error": sentence}
                continue
            answer = predictor.answer(next(predictions))
            if "labels" in answer:  # multi-label: all that reached their thresholds, and every score
                answer |= {"label": "|".join(answer["labels"]), "score": json.dumps(answer["scores"])}
            yield kept | {name: answer.get(name) for name in RESULT}


def kept_name(column: str) -> str:
    """What a column of the input is called in the output: a labelled set has a `label` of its own. What was
    scored before has `label` and `input_label`: they become `input_label` and `input_input_label`."""
    return f"input_{column}" if re.sub("^(input_)+", "", column) in RESULT else column


def table_columns(columns: Sequence[str]) -> list[str]:
    """The columns of an output whose input has `columns`."""
    return [*map(kept_name, columns), *RESULT]


class CsvWriter:
    """Rows as CSV, those of unlike columns too: what a row lacks stays empty."""

    def __init__(self, file: TextIO, columns: Sequence[str], header: bool = True) -> None:
        self.writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        if header:
            self.writer.writeheader()

    def write(self, rows: Sequence[dict]) -> None:
        self.writer.writerows(rows)


class JsonWriter:
    """Rows as JSON objects, one a line; what JSON has no form for (a date of Parquet's) as text."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, rows: Sequence[dict]) -> None:
        self.file.writelines(self.line(row) + "\n" for row in rows)

    @staticmethod
    def line(row: dict) -> str:
        """A row; numbers that JSON has no form for (not a number, infinite) become null."""
        try:
            return json.dumps(row, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:
            text = json.dumps(row, ensure_ascii=False, default=str)
            return json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=False)


class ParquetWriter:
    """Rows as Parquet of a schema that is known beforehand."""

    def __init__(self, file: IO[bytes], schema: Any) -> None:
        import pyarrow.parquet

        self.schema, self.writer = schema, pyarrow.parquet.ParquetWriter(file, schema)
        self.texts = [field.name for field in schema if pyarrow.types.is_string(field.type)]

    def write(self, rows: Sequence[dict]) -> None:
        import pyarrow

        # What JSON holds besides text (numbers, lists) has no one type over all rows: it is kept as JSON.
        for row in rows:
            for name in self.texts:
                value = row.get(name)
                if not (value is None or isinstance(value, str)):
                    row[name] = json.dumps(value, ensure_ascii=False)
        self.writer.write_table(pyarrow.Table.from_pylist(rows, self.schema))

    def close(self) -> None:
        self.writer.close()


def parquet_schema(columns: dict[str, Any], multi_label: bool) -> Any:
    """The Arrow schema of an output: the input's `columns` with their types (None: text), then `RESULT`."""
    import pyarrow

    kept = [(kept_name(name), kind or pyarrow.string()) for name, kind in columns.items()]
    score = pyarrow.string() if multi_label else pyarrow.float64()
    kinds = (pyarrow.string(), score, pyarrow.int32(), pyarrow.bool_(), pyarrow.string())
    return pyarrow.schema([*kept, *zip(RESULT, kinds, strict=True)])


def csv_header(columns: Sequence[str]) -> bytes:
    """A header as `CsvWriter` writes it."""
    text = io.StringIO(newline="")
    CsvWriter(text, columns)
    return text.getvalue().encode()
