"""Tables of your own: CSV, JSONL, and plain texts without labels.

Covers: named columns, files and folders of splits, and what cannot be read.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from handler.errors import UserError
from training.data import demo
from training.data.sources import HATE_LABELS, Columns, Raw, Request, source
from training.data.splits import Split

MOST_LABELS = 30  # more distinct values than this are ids or texts, not labels
NOT_HATE = {"0", "0.0", "false", "no", "not-hate", "nothate", "no-hate", "nohate", "non-hate", "normal"}
HATE = {"1", "1.0", "true", "yes", "hate", "hateful"}
UNLABELLED = "texts:embedded"  # what stands in for the data of a model that came without any
FILE_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}


@source("csv:PATH", "a CSV file with a text and a label column, or a folder of train.csv, test.csv …")
def read_csv(request: Request) -> Raw:
    return _read_tables(request, ".csv", _csv_rows)


@source("jsonl:PATH", "a file of one JSON object per line, or a folder of train.jsonl, test.jsonl …")
def read_jsonl(request: Request) -> Raw:
    return _read_tables(request, ".jsonl", _jsonl_rows)


@source("texts:PATH", "a text file, one text a line, without labels (PATH embedded: the demo's texts)")
def read_texts(request: Request) -> Raw:
    """Texts without labels, for a model that was trained elsewhere: `--labels` are the model's. Every text is
    given some label, so that the splits hold them all; none of them means anything."""
    if not request.columns.labels:
        raise UserError(
            "There is nothing to learn from texts without labels",
            seen=request.argument,
            remedy="Give csv: or jsonl:",
        )
    if request.argument == "embedded":
        texts = [example.text for split in demo.corpus(request.seed).values() for example in split]
        argument = request.argument
    else:
        path = Path(request.argument).expanduser().absolute()
        with _opened(path) as lines:
            texts, argument = [line.rstrip("\r\n") for line in lines], str(path)
    texts = list(dict.fromkeys(texts))  # copies would be given labels that disagree
    labels = np.arange(len(texts)) % len(request.columns.labels)
    return Raw(request.columns.labels, {"train": Split(texts, labels)}, argument)


def _read_tables(request: Request, suffix: str, rows: Callable[[Path], Iterator[dict]]) -> Raw:
    path = Path(request.argument).expanduser().absolute()
    texts: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    dropped: dict[str, Counter] = {}
    for split, file in _files(path, suffix).items():
        dropped[split] = Counter()
        texts[split], names[split] = _pairs(rows(file), file, request.columns, dropped[split])
    canonical = _canonical_labels(names, request.columns)
    labels = request.columns.labels or tuple(dict.fromkeys(canonical.values()))
    index = {name: labels.index(label) for name, label in canonical.items()}
    splits = {
        split: Split(texts[split], np.array([index[name] for name in names[split]], dtype=np.int64))
        for split in texts
    }
    return Raw(labels, splits, str(path), {split: dict(counts) for split, counts in dropped.items()})


def _files(path: Path, suffix: str) -> dict[str, Path]:
    if path.is_file():
        return {"train": path}
    if not path.exists():
        raise UserError("There is no such data file", seen=path, remedy="Check the path after the colon.")
    found = {
        split: path / f"{stem}{suffix}"
        for split, stems in FILE_NAMES.items()
        for stem in stems
        if (path / f"{stem}{suffix}").is_file()
    }
    if "train" not in found:
        raise UserError(
            f"The folder holds no train{suffix}", seen=path, remedy=f"Name a file, or add train{suffix}."
        )
    return found


def _pairs(rows: Iterator[dict], file: Path, columns: Columns, dropped: Counter) -> tuple[list, list]:
    texts: list[str] = []
    names: list[str] = []
    for row in rows:
        for option, column in (("--text-column", columns.text), ("--label-column", columns.label)):
            if column not in row:
                seen = ", ".join(str(name) for name in row if name)
                raise UserError(
                    f"{file} has no column {column!r}", seen=seen, remedy=f"Name one of these with {option}."
                )
        text, label = row[columns.text], row[columns.label]
        name = "" if label is None else str(label).strip()
        if not isinstance(text, str):
            dropped["no text"] += 1
        elif not name:
            dropped["no label"] += 1
        elif columns.labels and name not in columns.labels:
            dropped["label not asked for"] += 1
        else:
            texts.append(text)
            names.append(name)
    return texts, names


def _canonical_labels(names: Mapping[str, list[str]], columns: Columns) -> dict[str, str]:
    """Map the file's label values to label names, in the order that the labels are to have."""
    seen = sorted({name for split in names.values() for name in split}, key=_label_order)
    if columns.labels:
        return {name: name for name in columns.labels}
    if not 2 <= len(seen) <= MOST_LABELS:
        raise UserError(
            f"Column {columns.label!r} must hold between 2 and {MOST_LABELS} different labels",
            seen=f"{len(seen)} different values",
            remedy="Name the right one with --label-column.",
        )
    lowered = {name: name.lower().replace("_", "-").replace(" ", "-") for name in seen}
    if all(name in NOT_HATE | HATE for name in lowered.values()):
        return {name: HATE_LABELS[lowered[name] in HATE] for name in seen}
    return {name: name for name in seen}


def _label_order(name: str) -> tuple:
    number = int(name) if name.isdecimal() else sys.maxsize
    return name.lower().replace("_", "-").replace(" ", "-") not in NOT_HATE, number, name


def _csv_rows(file: Path) -> Iterator[dict]:
    csv.field_size_limit(sys.maxsize)
    with _opened(file) as lines:
        try:
            yield from csv.DictReader(lines)
        except csv.Error as error:
            raise UserError(f"{file} is not CSV", seen=error, remedy="Save it as CSV in UTF-8.") from error


def _jsonl_rows(file: Path) -> Iterator[dict]:
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"Line {number} of {file} is not JSON", seen=error.msg, remedy="Mend or remove it."
                ) from error
            if not isinstance(row, dict):
                raise UserError(
                    f"Line {number} of {file} is not a JSON object",
                    seen=type(row).__name__,
                    remedy='Write one object per line, such as {"text": "…", "label": "hate"}.',
                )
            yield row


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """A text file in UTF-8, with or without a byte order mark; bad bytes are the user's to mend."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as error:
        seen = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(f"{file} is not UTF-8", seen=seen, remedy="Save it in UTF-8.") from error
    except OSError as error:
        remedy = "Check the path and its rights."
        raise UserError(f"Cannot read {file}", seen=error.strerror, remedy=remedy) from error
