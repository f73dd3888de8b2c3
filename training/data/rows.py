"""Read tables row by row, so that a broken row costs only itself and no file has to fit in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from common.tables import parquet
from common.tables.layout import Reading, check_columns, look
from common.tables.records import Record, records
from handler.errors import UserError, first_line, refusals
from training.data.texts import ROWS

USUAL = "utf-8"  # unless the first bytes of a file say other
MOST_NAMES = 100  # of the keys of JSON objects, that are named where the right one is missing


class Row(NamedTuple):
    """`line` is where the row begins, from 1 (the row's number where there are no lines); `values` are those
    of the columns asked for; `fault` says why there are none."""

    line: int
    values: tuple[Any, ...]
    fault: str = ""


def csv_rows(file: Path, wanted: Sequence[str], encoding: str) -> Iterator[Row]:
    """Rows of a CSV file with a header. A quote that is opened and never closes breaks the row that it
    stands in, and not those after it."""
    with opened(file) as stream:
        layout = look(stream, str(file), "csv", wanted[0], _asked(encoding))
        check_columns(str(file), wanted, layout.header)
        places = [layout.header.index(name) for name in wanted]
        for record in records(stream, layout):
            if record.fault:
                yield Row(record.line, (), record.fault)
            elif len(record.values) != len(layout.header):
                yield Row(record.line, (), "wrong number of columns")
            else:
                yield Row(record.line, tuple(record.values[place] for place in places))


def jsonl_rows(file: Path, wanted: Sequence[str], encoding: str) -> Iterator[Row]:
    """Rows of a file of one JSON object per line; what an object lacks is None."""
    names: dict[str, None] = {}
    with opened(file) as stream:
        for record in records(stream, look(stream, str(file), "jsonl", wanted[0], _asked(encoding))):
            if record.fault:
                yield Row(record.line, (), record.fault)
                continue
            if len(names) < MOST_NAMES:
                names.update(dict.fromkeys(record.values))
            yield Row(record.line, tuple(record.values.get(name) for name in wanted))
    if names:
        check_columns(str(file), wanted, list(names))


def text_rows(file: Path, encoding: str) -> Iterator[Record]:
    """The lines of a text file."""
    with opened(file) as stream:
        yield from records(stream, look(stream, str(file), "txt", "", _asked(encoding)))


def parquet_rows(file: Path, wanted: Sequence[str], encoding: str) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch."""
    with opened(file) as stream:
        table = parquet.Table(stream, str(file))
        check_columns(str(file), wanted, table.schema.names)
        groups = range(len(table.groups))
        columns = list(dict.fromkeys(wanted))
        fitting = table.fitting(groups, columns)
        batches = table.batches(groups, fitting, ROWS, parquet.BATCH_BYTES, columns)
        columns_of = ([parquet.texts(batch.column(name)) for name in wanted] for batch in batches)
        read = chain.from_iterable(zip(*found, strict=True) for found in columns_of)
        for number, values in enumerate(read, 1):
            yield Row(number, tuple(None if value is parquet.UNREADABLE else value for value in values))


def _asked(encoding: str) -> Reading:
    return Reading(None if encoding == USUAL else encoding)


def hub_splits(name: str, config: str | None) -> dict[str, Any]:
    """The splits of a Hugging Face data set, streamed where it can be: a name on the hub, or a folder.

    Raises UserError where there is none, or none can be reached.
    """
    import datasets

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
            f"The data set {name!r} was not found here and could not be reached on the hub",
            seen=first_line(error),
            remedy="Check the name and the network, or give a folder that holds it: hub:PATH.",
        ) from error
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"The data set {name!r} could not be read",
            seen=first_line(error),
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
                yield Row(number, tuple(map(_named, values, names)))
    except (ConnectionError, OSError, ValueError) as error:
        raise UserError(
            f"{what} could not be read beyond row {number}",
            seen=type(error).__name__,
            remedy="Check the network and try again.",
        ) from error


def _named(value: Any, classes: Sequence[str]) -> Any:
    """The class that an id stands for; the value itself where the column has no classes."""
    if not classes:
        return value
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else None


def class_names(dataset: Any, column: str) -> tuple[str, ...]:
    """The names of a column of classes in the order of their ids; none for other columns."""
    return tuple(getattr((dataset.features or {}).get(column), "names", None) or ())


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """An open file, or a sentence that says why it cannot be read."""
    with refusals("The file cannot be read", file, "Check its permissions."), file.open("rb") as stream:
        yield stream
