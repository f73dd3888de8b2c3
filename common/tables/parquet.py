"""Rows of a Parquet file as Arrow batches, in bounded memory, however large the file unpacks.

Texts stay in their stored dictionaries, pages are measured before they are unpacked, and a batch has as many
rows as fit. Columns become Python values only on request.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np

from handler.errors import UnsupportedError, UserError, first_line

MOST_PAGE = 128 << 20  # bytes of all columns' largest pages, unpacked
BATCH_BYTES = 32 << 20  # read at once
BATCH_ROWS = 8192
STREAM = 1 << 20  # bytes of a column that are read at once
HEADER = 1 << 12  # bytes in which the header of a page mostly fits
LONGEST_HEADER = 1 << 24
NESTED_VALUE = 8  # bytes of a value in a list, however it is packed
MANY = 1 << 62
NO_FORM = (ValueError, OverflowError, TypeError, NotImplementedError)  # in Python


class Unreadable:
    """What stands for a value that has no form in Python: it cannot be written as text."""

    def __str__(self) -> str:
        raise ValueError("the value has no form as text")


UNREADABLE = Unreadable()


def arrow() -> Any:
    """The module pyarrow."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UnsupportedError(
            "Parquet files need pyarrow, which is not installed", remedy="Run `pip install 'pyarrow>=21'`."
        ) from error
    return pyarrow


@contextmanager
def reading(name: str) -> Iterator[None]:
    """What goes wrong with a Parquet file as a sentence."""
    pyarrow = arrow()
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        seen = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{name} is not Parquet", seen=seen, remedy="Check the file") from error


class Table:
    """A Parquet file. `schema` is Arrow's, `groups` the rows of each row group.

    Raises `UserError` where it is none, or has pages that do not fit in memory.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        parquet = arrow().parquet
        self.file = file
        self.name = name
        with reading(name):
            found = parquet.ParquetFile(file)
            self.schema, self.metadata = found.schema_arrow, found.metadata
            leaves = [found.schema.column(place) for place in range(len(found.schema))]
            self.leaves = {leaf.path: leaf for leaf in leaves}
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            self.table = parquet.ParquetFile(file, read_dictionary=texts, buffer_size=STREAM)
        self.groups = [
            self.metadata.row_group(place).num_rows for place in range(self.metadata.num_row_groups)
        ]

    def fitting(self, groups: Iterable[int], columns: Sequence[str] | None = None) -> int:
        """How many rows of these row groups can be read at once, of some columns or of all."""
        read = [
            place
            for place, path in enumerate(self.leaves)
            if columns is None or any(path == name or path.startswith(f"{name}.") for name in columns)
        ]
        return min((self._fitting(group, read) for group in groups), default=BATCH_ROWS)

    def _fitting(self, group: int, read: Iterable[int]) -> int:
        largest = row = 0
        for place in read:
            column = self.metadata.row_group(group).column(place)
            leaf = self.leaves[column.path_in_schema]
            pages = [
                (max(size, count * NESTED_VALUE) if leaf.max_repetition_level else size, count)
                for size, count in _pages(self.file, column, self.name)
            ]
            largest += max((size for size, _ in pages), default=0)
            if leaf.max_repetition_level:
                row += sum(size for size, _ in pages) // max(1, self.groups[group])
            else:
                row += max((size // max(1, count) for size, count in pages if count), default=0)
        if largest > MOST_PAGE:
            raise UserError(
                f"row group {group} of {self.name} has pages larger than {MOST_PAGE >> 20} MiB",
                seen=f"{largest >> 20:,} MiB",
                remedy="Write it with smaller pages (pyarrow: data_page_size and write_batch_size)",
            )
        return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row)))

    def batches(
        self,
        groups: Iterable[int],
        fitting: int,
        most_rows: int,
        most_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Any]:
        """Record batches of these groups, texts as dictionaries. `fitting` rows are read at once; a batch has
        `most_rows` and, as they are written out, `most_bytes`, or one row."""
        with reading(self.name):
            for batch in self.table.iter_batches(fitting, row_groups=list(groups), columns=columns):
                start = 0
                ends = np.cumsum(sum(map(_row_bytes, batch.columns), np.zeros(len(batch), np.int64)))
                while start < len(batch):
                    before = ends[start - 1] if start else 0
                    stop = max(start + 1, int(np.searchsorted(ends, before + most_bytes, "right")))
                    stop = min(stop, start + most_rows)
                    yield batch.slice(start, stop - start)
                    start = stop


def row_bytes(batch: Any) -> int:
    """The bytes of a batch when it is written out."""
    return int(sum(_row_bytes(column).sum() for column in batch.columns))


def as_type(column: Any, kind: Any) -> Any:
    """A column with its file's type: texts were read as dictionaries."""
    pyarrow = arrow()
    if column.type.equals(kind):
        return column
    if pyarrow.types.is_string_view(kind) or pyarrow.types.is_binary_view(kind):
        column = column.dictionary_decode()
    return column.cast(kind)


def values(column: Any) -> list[Any]:
    """The values of a column as Python's. Texts are `str`, with lone surrogates for bytes that are not UTF-8;
    bytes are base64; times of nanoseconds are text. What has no form in Python is `UNREADABLE`."""
    types = arrow().types
    kind = column.type
    if types.is_dictionary(kind):
        return values(column.dictionary_decode())
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            kept = column.cast(_bytes_of(kind)).to_pylist()
            return [value if value is None else value.decode("utf-8", "surrogateescape") for value in kept]
    if _is_bytes(kind):
        return [value if value is None else base64.b64encode(value).decode() for value in column.to_pylist()]
    if getattr(kind, "unit", "") == "ns":  # Python's have microseconds
        return [_known(value) for value in column.cast(arrow().string()).to_pylist()]
    try:
        return list(column.to_pylist())
    except NO_FORM:
        return [_alone(column.slice(place, 1)) for place in range(len(column))]


def texts(column: Any) -> list[Any]:
    """The values of a column that should hold texts, bytes as the texts that they hold; what else it holds as
    it is."""
    types = arrow().types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_binary(kind) or types.is_large_binary(kind):
        if not types.is_dictionary(column.type):
            return values(_as_text(column))
        words = _as_text(column.dictionary)
        return values(arrow().DictionaryArray.from_arrays(column.indices, words, safe=False))
    return values(column)


def _as_text(column: Any) -> Any:
    """A column of bytes that is said to be of text, whether its bytes are or not."""
    pyarrow = arrow()
    kind = pyarrow.large_string() if pyarrow.types.is_large_binary(column.type) else pyarrow.string()
    return pyarrow.Array.from_buffers(kind, len(column), column.buffers(), offset=column.offset)


def _alone(column: Any) -> Any:
    """The value of a column of one row."""
    with suppress(*NO_FORM):
        return column.to_pylist()[0]
    with suppress(*NO_FORM):
        return _known(column.cast(arrow().string()).to_pylist()[0])
    return UNREADABLE


def _known(text: str | None) -> Any:
    return UNREADABLE if text is not None and text.startswith("<") else text  # "<value out of range: …>"


def _bytes_of(kind: Any) -> Any:
    pyarrow = arrow()
    return pyarrow.large_binary() if pyarrow.types.is_large_string(kind) else pyarrow.binary()


def _is_bytes(kind: Any) -> bool:
    types = arrow().types
    tests = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _row_bytes(column: Any) -> np.ndarray:
    """Bytes of each value of a column when it is written out: int64 [rows]."""
    from pyarrow import compute

    types = arrow().types
    kind = column.type
    rows = len(column)
    if types.is_dictionary(kind):
        if not len(column.dictionary):
            return np.zeros(rows, np.int64)
        return np.asarray(
            _row_bytes(column.dictionary)[column.indices.fill_null(0).to_numpy(zero_copy_only=False)]
        )
    if types.is_struct(kind):
        fields = [_row_bytes(column.field(place)) for place in range(kind.num_fields)]
        return sum(fields, np.zeros(rows, np.int64))
    if types.is_fixed_size_list(kind):
        inner = column.values.slice(column.offset * kind.list_size, rows * kind.list_size)
        return np.asarray(_row_bytes(inner).reshape(rows, kind.list_size).sum(axis=1))
    if types.is_map(kind):
        return _sums(_row_bytes(column.keys) + _row_bytes(column.items), column.offsets)
    if types.is_list(kind) or types.is_large_list(kind):
        return _sums(_row_bytes(column.values), column.offsets)
    if types.is_fixed_size_binary(kind):
        return np.full(rows, kind.byte_width, np.int64)
    if _is_bytes(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        if types.is_string_view(kind) or types.is_binary_view(kind):
            column = column.cast(arrow().large_binary())
        return np.asarray(
            compute.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        )
    return np.full(rows, 8, np.int64)


def _sums(each: np.ndarray, offsets: Any) -> np.ndarray:
    ends = np.concatenate([[0], np.cumsum(each)])
    places = offsets.to_numpy(zero_copy_only=False)
    return np.asarray(ends[places[1:]] - ends[places[:-1]])


def _pages(file: IO[bytes], column: Any, name: str) -> Iterator[tuple[int, int]]:
    """The bytes of each page of a column, unpacked, and how many values it has (0: it is a dictionary)."""
    starts = [column.data_page_offset]
    if column.has_dictionary_page and column.dictionary_page_offset:
        starts.append(column.dictionary_page_offset)
    at = min(starts)
    stop = at + column.total_compressed_size
    while at < stop:
        header, length = _page_header(file, at, name)
        data = header.get(5) or header.get(8) or {}
        yield header.get(2, MANY), data.get(1, 0)
        at += length + max(0, header.get(3, MANY))


def _page_header(file: IO[bytes], at: int, name: str) -> tuple[dict[int, Any], int]:
    """The header of a page, by Thrift's numbers, and how many bytes it takes."""
    size = HEADER
    while size <= LONGEST_HEADER:
        file.seek(at)
        with suppress(IndexError):  # it is longer
            return _struct(file.read(size), 0)
        size <<= 4
    raise UserError(f"{name} is not Parquet", seen="a page header without an end", remedy="Check the file")


def _struct(raw: bytes, at: int) -> tuple[dict[int, Any], int]:
    """The numbers of a structure of Thrift's compact protocol by their fields' ids, and where it ends.
    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md"""
    found: dict[int, Any] = {}
    number = 0
    while raw[at]:
        kind, step = raw[at] & 15, raw[at] >> 4
        at += 1
        if step:
            number += step
        else:
            number, at = _integer(raw, at)
        if kind in (1, 2):  # true and false lie in the kind
            found[number] = kind == 1
        else:
            found[number], at = _value(raw, at, kind)
    return found, at + 1


def _value(raw: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2, 3):
        return raw[at], at + 1
    if kind in (4, 5, 6):
        return _integer(raw, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(raw, at)
        raw[at + size]  # else the bytes end here
        return None, at + size
    if kind in (9, 10):
        count, inner = raw[at] >> 4, raw[at] & 15
        at += 1
        if count == 15:
            count, at = _varint(raw, at)
        for _ in range(count):
            _, at = _value(raw, at, inner)
        return None, at
    if kind == 12:
        return _struct(raw, at)
    raise IndexError


def _integer(raw: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(raw, at)
    return value >> 1 ^ -(value & 1), at


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
