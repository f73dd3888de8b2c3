"""Rows of text from files and standard input, classified, and written back with the input's columns kept.

CSV, JSONL and plain text with one text a line. Rows stream in windows, so memory stays flat. A row that
cannot be classified gets a sentence in its `error` column and the others go on. Not in the archive.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from handler.errors import Rejection, UserError
from handler.predictor import WINDOW, Predictor
from handler.requests import Limits, read_text

RESULT = ("label", "score", "tokens", "truncated", "error")
FORMATS = ("csv", "jsonl", "txt")


def file_format(path: Path) -> str:
    """The format that the file's name says, or `UserError`."""
    suffix = path.suffix.lstrip(".").lower()
    if suffix not in FORMATS:
        raise UserError(
            "the file's format is not known from its name",
            seen=path,
            remedy="Use a name that ends in ." + ", .".join(FORMATS),
        )
    return suffix


def read_rows(file: TextIO, form: str, text_column: str) -> Iterator[dict]:
    """One dict per row; what cannot be read as a row becomes one without a text.

    Raises `UserError` when the CSV lacks the column, or when a column would be taken for our result.
    """
    if form == "csv":
        yield from _read_csv(file, text_column)
        return
    for line in file:
        line = line.rstrip("\n")
        yield {text_column: line} if form == "txt" else _json_row(line, text_column)


def _read_csv(file: TextIO, text_column: str) -> Iterator[dict]:
    csv.field_size_limit(1 << 30)  # a text is judged by its own limit, not by the reader's 128 KiB
    reader = csv.DictReader(file)
    columns = reader.fieldnames or ()
    if text_column not in columns:
        raise UserError(
            f"the CSV has no column {text_column}",
            seen=", ".join(columns) or "no header",
            remedy="Name the column that holds the texts: --text-column NAME",
        )
    for row in reader:
        row.pop(None, None)  # type: ignore[call-overload]  # values beyond the header have no name to keep
        yield row


def _json_row(line: str, text_column: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {text_column: None}


def classify(predictor: Predictor, rows: Iterable[dict], text_column: str) -> Iterator[dict]:
    """Each row with `RESULT` added, in order; a column of the input that bears such a name keeps its values
    as `input_<name>`, since a labelled set has a column `label`."""
    rows = iter(rows)
    while window := list(islice(rows, WINDOW)):
        texts = [read_text(row.get(text_column), Limits()) for row in window]
        predictions = iter(predictor.predict([text for text in texts if isinstance(text, str)]))
        for row, text in zip(window, texts, strict=True):
            kept = {f"input_{name}" if name in RESULT else name: value for name, value in row.items()}
            if isinstance(text, Rejection):
                yield kept | dict.fromkeys(RESULT) | {"error": f"{text.message}. {text.remedy}"}
                continue
            answer = predictor.answer(next(predictions))
            if "labels" in answer:  # multi-label: all that reached their thresholds, and every score
                answer |= {"label": "|".join(answer["labels"]), "score": json.dumps(answer["scores"])}
            yield kept | {name: answer.get(name) for name in RESULT}


def write_rows(file: TextIO, form: str, rows: Iterable[dict]) -> int:
    """Write CSV or JSONL; how many rows were written.

    A CSV has the columns of its first row; what a later row has beyond them (JSONL may) is left out.
    """
    count = 0
    writer = None
    for row in rows:
        if form == "jsonl":
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            if writer is None:
                writer = csv.DictWriter(file, list(row), restval="", extrasaction="ignore")
                writer.writeheader()
            writer.writerow(row)
        count += 1
    return count
