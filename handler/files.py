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
    """One dict per row; a broken JSONL line becomes a row without a text."""
    if form == "csv":
        reader = csv.DictReader(file)
        if text_column not in (reader.fieldnames or ()):
            raise UserError(
                f"the CSV has no column {text_column}",
                seen=", ".join(reader.fieldnames or ()) or "no header",
                remedy="Name the column that holds the texts: --text-column NAME",
            )
        yield from reader
        return
    for line in file:
        line = line.rstrip("\n")
        if form == "txt":
            yield {text_column: line}
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        yield row if isinstance(row, dict) else {text_column: None}


def classify(predictor: Predictor, rows: Iterable[dict], text_column: str) -> Iterator[dict]:
    """Each row with `RESULT` added, in order."""
    rows = iter(rows)
    while window := list(islice(rows, WINDOW)):
        texts = [read_text(row.get(text_column), Limits()) for row in window]
        predictions = iter(predictor.predict([text for text in texts if isinstance(text, str)]))
        for row, text in zip(window, texts, strict=True):
            if isinstance(text, Rejection):
                yield row | dict.fromkeys(RESULT) | {"error": f"{text.message}. {text.remedy}"}
                continue
            answer = predictor.answer(next(predictions))
            if "labels" in answer:  # multi-label: all that reached their thresholds, and every score
                answer |= {"label": "|".join(answer["labels"]), "score": json.dumps(answer["scores"])}
            yield row | {name: answer.get(name) for name in RESULT}


def write_rows(file: TextIO, form: str, rows: Iterable[dict]) -> int:
    """Write CSV or JSONL; how many rows were written."""
    count = 0
    writer = None
    for row in rows:
        if form == "jsonl":
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
        count += 1
    return count
