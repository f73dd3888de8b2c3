"""Files read row by row, so that a broken row costs itself alone and no file has to fit in memory.

Covers: CSV (its quotes and lines), JSONL, Parquet and Hugging Face data sets, each as rows of the columns
that are asked for, with the line that they begin at and what is wrong with them. Leaves out: what texts and
labels mean (`tables`, `labels`).
"""

import codecs
import csv
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from handler.errors import UnsupportedError, UserError
from training.data.texts import ROWS, require_pyarrow

MOST_LINES = 1000  # of one CSV row: a quote that stays open longer was never meant to open


class Row(NamedTuple):
    """`line` is where the row begins, from 1 (the row's number where there are no lines); `values` are those
    of the columns asked for; `fault` says why there are none."""

    line: int
    values: tuple[Any, ...]
    fault: str = ""


def csv_rows(file: Path, wanted: Sequence[str], encoding: str) -> Iterator[Row]:
    """Rows of a CSV file with a header. A quote that is opened and never closed breaks the row that it
    stands in, and not those after it."""
    csv.field_size_limit(sys.maxsize)
    with opened(file, encoding) as lines:
        records = _records(lines)
        _, header = next(records, (1, []))
        where = {name: place for place, name in enumerate(header or [])}
        check_columns(str(file), wanted, list(where))
        places = [where[name] for name in wanted]
        for line, cells in records:
            if cells is None:
                yield Row(line, (), "quotes that do not close")
            elif len(cells) != len(header or []):
                yield Row(line, (), "wrong number of columns")
            else:
                yield Row(line, tuple(cells[place] for place in places))


def _records(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | None]]:
    """The cells of each row with its line, None where its quotes do not close; empty lines are no rows."""
    again: deque[str] = deque()  # lines that a row took which were not its own
    begin = 1
    while line := again.popleft() if again else next(lines, ""):
        cells, taken = _record(line, again, lines)
        if cells is None or cells:
            yield begin, cells
        begin += taken


def _record(line: str, again: deque[str], lines: Iterator[str]) -> tuple[list[str] | None, int]:
    """The cells of the row that `line` begins, and how many lines it has."""
    try:
        return next(csv.reader([line], strict=True)), 1
    except csv.Error:
        pass
    taken: list[str] = []
    ended = False  # there were no more lines, or too many

    def following() -> Iterator[str]:
        nonlocal ended
        after = line
        while after and len(taken) < MOST_LINES:
            taken.append(after)
            yield after
            after = again.popleft() if again else next(lines, "")
        if after:
            again.appendleft(after)
        ended = True

    try:
        cells = next(csv.reader(following()))
        if len(taken) == 1 and not ended:
            return cells, 1  # a stray quote, in a row that is whole
        # Over several lines nothing but well-formed quotes will do: else they would join unlike rows.
        return next(csv.reader(taken, strict=True)), len(taken)
    except csv.Error:
        again.extendleft(reversed(taken[1:]))
        return None, 1


def jsonl_rows(file: Path, wanted: Sequence[str], encoding: str) -> Iterator[Row]:
    """Rows of a file of one JSON object per line; what an object lacks is None."""
    names: dict[str, None] = {}
    with opened(file, encoding) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                yield Row(number, (), "not JSON")
                continue
            if not isinstance(row, dict):
                yield Row(number, (), "not a JSON object")
                continue
            if len(names) < 100:
                names.update(dict.fromkeys(row))
            yield Row(number, tuple(row.get(name) for name in wanted))
    if names:
        check_columns(str(file), wanted, list(names))


def parquet_rows(file: Path, wanted: Sequence[str], encoding: str) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch."""
    pyarrow = require_pyarrow("Parquet files")
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            check_columns(str(file), wanted, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(batch_size=ROWS, columns=list(dict.fromkeys(wanted))):
                columns = [_values(batch.column(name), pyarrow) for name in wanted]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield Row(number, values)
    except (pyarrow.ArrowException, OSError) as error:
        seen = getattr(error, "strerror", None) or str(error).split("\n")[0].rstrip(".")
        raise UserError(f"{file} is not Parquet", seen=seen, remedy="Check the file.") from error


def _values(column: Any, pyarrow: Any) -> list[Any]:
    """Values of an Arrow column; strings are decoded here, so that a broken one breaks its row alone."""
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        column = column.cast(pyarrow.large_binary())
    return [
        value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        for value in column.to_pylist()
    ]


def hub_splits(name: str, config: str | None) -> dict[str, Any]:
    """The splits of a Hugging Face data set, streamed where it can be: a name on the hub, or a folder.

    Raises UserError where there is none, or none can be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise UnsupportedError(
            "datasets is not installed, and hub: needs it", remedy="Run `pip install 'datasets>=4'`."
        ) from error
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    folder = Path(name).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found = datasets.load_from_disk(str(folder))
        else:
            place = str(folder) if folder.is_dir() else name
            try:
                found = datasets.load_dataset(place, config, streaming=True)
            except (ConnectionError, NotImplementedError):  # the cache of an earlier download may have it
                found = datasets.load_dataset(place, config)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise UserError(
            f"The data set {name!r} is not at hand and could not be reached on the hub",
            seen=str(error).strip().split("\n")[0].rstrip("."),
            remedy="Check the name and the network, or give a folder that holds it: hub:PATH.",
        ) from error
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"The data set {name!r} could not be read",
            seen=str(error).strip().split("\n")[0].rstrip("."),
            remedy="Check its name, and the configuration after a second colon.",
        ) from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def hub_rows(what: str, dataset: Any, wanted: Sequence[str]) -> Iterator[Row]:
    """Rows of one split; the ids of a column of classes become their names, none where an id is negative."""
    if dataset.column_names:
        check_columns(what, wanted, dataset.column_names)
    names = [class_names(dataset, column) for column in wanted]
    number = 0
    try:
        for batch in dataset.iter(batch_size=1000):
            check_columns(what, wanted, list(batch))
            for values in zip(*(batch[column] for column in wanted), strict=True):
                number += 1
                yield Row(
                    number,
                    tuple(
                        (known[value] if isinstance(value, int) and 0 <= value < len(known) else None)
                        if known
                        else value
                        for value, known in zip(values, names, strict=True)
                    ),
                )
    except (ConnectionError, OSError, ValueError) as error:
        raise UserError(
            f"{what} could not be read beyond row {number}",
            seen=type(error).__name__,
            remedy="Check the network and try again.",
        ) from error


def class_names(dataset: Any, column: str) -> tuple[str, ...]:
    """The names of a column of classes in the order of their ids; none for other columns."""
    return tuple(getattr((dataset.features or {}).get(column), "names", None) or ())


def check_columns(what: str, wanted: Sequence[str], columns: Sequence[str]) -> None:
    """Raise UserError where a column is missing; the first wanted is the text's."""
    for place, column in enumerate(wanted):
        if column not in columns:
            option = "--label-column" if place else "--text-column"
            raise UserError(
                f"{what} has no column {column!r}",
                seen=", ".join(str(name) for name in columns if name) or "no header",
                remedy=f"Name one of these with {option}.",
            )


@contextmanager
def opened(file: Path, encoding: str = "utf-8") -> Iterator[TextIO]:
    """A text file, with or without a byte order mark. Bytes that are not of the encoding become lone
    surrogates, which `is_valid` finds: they break their row and not the file."""
    try:
        plain = codecs.lookup(encoding).name
        with file.open(
            encoding="utf-8-sig" if plain == "utf-8" else plain, errors="surrogateescape", newline=""
        ) as stream:
            yield stream
    except LookupError as error:
        raise UserError("Unknown encoding", seen=encoding, remedy="Try utf-8, cp1252 or utf-16.") from error
    except UnicodeError as error:
        raise UserError(
            f"{file} is not {encoding}", seen=type(error).__name__, remedy="Name another with --encoding."
        ) from error
    except OSError as error:
        remedy = "Check the path and its rights."
        raise UserError(f"Cannot read {file}", seen=error.strerror, remedy=remedy) from error


def is_valid(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no half of a surrogate pair, which bad bytes become."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
