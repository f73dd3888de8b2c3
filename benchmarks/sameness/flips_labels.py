"""Reads a file whose flips were labelled: every row must be as it was written, and have a label."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.sameness.flips_key import COLUMNS, GATE_CHECK, UNLABELLED, Key
from common.commands import did_you_mean
from common.tables.layout import Reading, look
from common.tables.records import records
from handler.errors import UserError, refusals

MOST_TOLD = 10  # rows that are wrong
NO_LABEL = -1
REMEDY_ROWS = "Correct these rows, then read the file again"


def read_labels(path: Path, key: Key, gate: Sequence[str], unlabelled: Sequence[str]) -> np.ndarray:
    """The place of each row's label in the order of ids, int [rows].

    Raises `UserError` where a label is missing or unknown, an id is unknown, missing or there twice, or a
    text is not the one that was written; rows that are wrong are named by their lines.
    """
    found = np.full(len(key.rows), NO_LABEL)
    faults: list[str] = []
    unlabelled_lines: list[int] = []
    texts = {GATE_CHECK: gate, UNLABELLED: unlabelled}
    with refusals("the labelled file cannot be read", path, "Give the CSV file that was labelled"):
        file = path.open("rb")
    with file:
        layout = look(file, str(path), "csv", "label", Reading(escape=""))
        if absent := [name for name in COLUMNS if name not in layout.header]:
            raise UserError(
                f"the labelled file has no column {' and no column '.join(absent)}",
                seen=", ".join(layout.header) or "no header",
                remedy=f"Keep the columns {', '.join(COLUMNS)}",
            )
        columns = [layout.header.index(name) for name in COLUMNS]
        for record in records(file, layout):
            if record.fault or len(record.values) <= max(columns):
                faults.append(f"line {record.line}: {record.fault or 'too few cells'}")
                continue
            number, text, label = (record.values[column].strip() for column in columns)
            if fault := _fault(number, text, key, texts, found):
                faults.append(f"line {record.line}: {fault}")
            elif not label:
                unlabelled_lines.append(record.line)
            elif label not in key.labels:
                close = did_you_mean(label, key.labels).strip().replace("Did", "did")
                hint = f" ({close})" if close else ""
                faults.append(f"line {record.line}: unknown label {label!r}{hint}")
            else:
                found[int(number) - 1] = key.labels.index(label)
    _require_labelled(path, key, found, faults, unlabelled_lines)
    return found


def _require_labelled(
    path: Path, key: Key, found: np.ndarray, faults: Sequence[str], unlabelled_lines: Sequence[int]
) -> None:
    """Raises `UserError` unless every row is as it was written and has a label."""
    if faults:
        more = f"; and {len(faults) - MOST_TOLD} more" if len(faults) > MOST_TOLD else ""
        raise UserError(
            f"rows of the labelled file are wrong (labels: {', '.join(key.labels)})",
            seen=f"{path}: {'; '.join(faults[:MOST_TOLD])}{more}",
            remedy=REMEDY_ROWS,
        )
    if unlabelled_lines:
        raise UserError(
            "rows of the labelled file have no label",
            seen=f"{path}: {len(unlabelled_lines)}, the first on line {unlabelled_lines[0]}",
            remedy="Label every row: a verdict from the easy ones would be wrong",
        )
    if gone := np.flatnonzero(found == NO_LABEL).tolist():
        raise UserError(
            "rows of the labelled file are missing",
            seen=f"{path}: {len(gone)}, the first has the id {gone[0] + 1}",
            remedy="Put them back: a verdict without them would be wrong",
        )


def _fault(number: str, text: str, key: Key, texts: Mapping[str, Sequence[str]], found: np.ndarray) -> str:
    """What is wrong with a row's id and text; empty where nothing is."""
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= len(key.rows)):
        return f"unknown id {number!r}"
    if found[int(number) - 1] != NO_LABEL:
        return f"id {number} is there twice"
    row = key.rows[int(number) - 1]
    # A spreadsheet may write the line ends of a cell in its own way.
    if text.split() != texts[row.source][row.row].split():
        return f"the text is not that of id {number}"
    return ""
