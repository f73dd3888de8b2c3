"""Texts of a split: a list if they are few, a memory-mapped file if they are many.

A million texts as Python strings take over 100 MB, and ten million do not fit. Arrow's columns on disk are
mapped into memory instead, and the operating system keeps of them what it has room for.
"""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from handler.errors import UserError

IN_MEMORY = 50_000  # texts that stay a list
ROWS = 10_000  # written and read at once


class StoredTexts(Sequence[str]):
    """Rows of an Arrow column of strings (`pyarrow.ChunkedArray`)."""

    def __init__(self, column: Any, rows: np.ndarray | None = None) -> None:
        self.column = column
        self.rows = np.arange(len(column)) if rows is None else rows
        self._chunks = column.chunks
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "StoredTexts": ...
    def __getitem__(self, row: int | slice) -> "str | StoredTexts":
        if isinstance(row, slice):
            return StoredTexts(self.column, self.rows[row])
        return str(self.column[int(self.rows[row])].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROWS):
            yield from self._read(self.rows[start : start + ROWS])

    def _read(self, rows: np.ndarray) -> list[str]:
        """The texts of some rows, chunk by chunk: `take` on the whole column may copy all of it first."""
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        bounds = np.searchsorted(ascending, self._starts)
        found: list[str] = []
        for chunk, start, low, high in zip(self._chunks, self._starts, bounds, bounds[1:], strict=False):
            if low < high:
                found += chunk.take(_arrow(ascending[low:high] - start)).to_pylist()
        texts = [""] * len(rows)
        for place, text in zip(order.tolist(), found, strict=True):
            texts[place] = text
        return texts


class TextWriter:
    """Takes texts one by one; `finish` gives them back, as a list or from a file that has no name and ends
    with the process (in the folder that TMPDIR names).

    Raises UserError where that folder is full.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self.in_memory = in_memory
        self._waiting: list[str] = []
        self._file: Any = None

    def append(self, text: str) -> None:
        self._waiting.append(text)
        if len(self._waiting) >= (ROWS if self._file else self.in_memory):
            self._write()

    def finish(self) -> Sequence[str]:
        if self._file is None:
            return self._waiting
        import pyarrow

        self._write()
        try:
            self._writer.close()
            self._file.flush()
        except OSError as error:
            raise _full(error) from error
        mapped = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
        return StoredTexts(pyarrow.ipc.open_file(pyarrow.py_buffer(mapped)).read_all().column(0))

    def _write(self) -> None:
        import pyarrow  # which small CSV and JSONL files do without

        schema = pyarrow.schema([("text", pyarrow.large_string())])
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the texts
                self._writer = pyarrow.ipc.new_file(self._file, schema)
            for start in range(0, len(self._waiting), ROWS):
                column = pyarrow.array(self._waiting[start : start + ROWS], pyarrow.large_string())
                self._writer.write_batch(pyarrow.record_batch([column], schema=schema))
        except OSError as error:
            raise _full(error) from error
        self._waiting.clear()


def pick(texts: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    """The texts of the given rows, in the given order, of the kind that they are."""
    if isinstance(texts, StoredTexts):
        return StoredTexts(texts.column, texts.rows[rows])
    return [texts[row] for row in rows]


def join(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """All texts after each other; a list if all are lists."""
    if not any(isinstance(part, StoredTexts) for part in parts):
        return [text for part in parts for text in part]
    import pyarrow

    chunks = []
    rows = []
    before = 0
    for part in parts:
        stored = part if isinstance(part, StoredTexts) else _as_stored(part)
        chunks += stored.column.chunks
        rows.append(stored.rows + before)
        before += len(stored.column)
    return StoredTexts(pyarrow.chunked_array(chunks, pyarrow.large_string()), np.concatenate(rows))


def _as_stored(texts: Sequence[str]) -> StoredTexts:
    import pyarrow

    return StoredTexts(pyarrow.chunked_array([pyarrow.array(list(texts), pyarrow.large_string())]))


def _arrow(rows: np.ndarray) -> Any:
    import pyarrow

    return pyarrow.array(rows)


def _full(error: OSError) -> UserError:
    return UserError(
        f"The temporary file that holds the texts could not be written to {tempfile.gettempdir()}",
        seen=error.strerror,
        remedy="Make room there, or name another folder in TMPDIR.",
    )
