"""What an unfinished run has measured so far, so that the next run can resume it.

A file of JSON lines next to the reports, named after its inputs (artifacts, archives, texts, profile,
machine, commit), so other runs do not touch it. Each line is a finished piece of work; one that was cut short
is measured again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from common.atomic import write_text
from common.records import plain, read
from handler.errors import refusals

FILE = ".unfinished-{key}.jsonl"
RESUMED = "resumed"
T = TypeVar("T")


class ResumeLog:
    """Pieces of work by name; `resumed` counts how often the run was resumed."""

    def __init__(self, folder: Path | None, subject: Mapping[str, Any], fresh: bool = False) -> None:
        """`subject` is what must be the same for pieces to be of use. `folder` None: nothing is kept."""
        key = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()
        self._path = folder / FILE.format(key=key[:12]) if folder else None
        self._pieces: dict[str, Any] = {}
        self.resumed = 0
        if self._path is None:
            return
        kept = list(_lines(self._path)) if self._path.is_file() and not fresh else []
        self._pieces = {name: value for name, value in kept if name != RESUMED}
        if self._pieces:
            self.resumed = 1 + sum(name == RESUMED for name, _ in kept)
            kept.append([RESUMED, None])
        _rewrite(self._path, kept)

    def __len__(self) -> int:
        return len(self._pieces)

    def once(self, name: str, work: Callable[[], T], kind: type[T] | None = None) -> T:
        """What `work` returned, be it now or in the run that was interrupted: plain JSON, or a record of
        `kind`."""
        if name not in self._pieces:
            self.put(name, plain(work()))
        piece: T = self._pieces[name]
        return read(piece, kind) if kind else piece

    def put(self, name: str, value: Any) -> None:
        """Keep a finished piece."""
        self._pieces[name] = value
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, value]) + "\n")

    def under(self, prefix: str) -> dict[str, Any]:
        """The pieces whose names begin so, by the rest of their names."""
        return {
            name.removeprefix(prefix): value
            for name, value in self._pieces.items()
            if name.startswith(prefix)
        }

    def finish(self) -> None:
        """The run is over and its reports are written."""
        if self._path:
            self._path.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[list[Any]]:
    """Whole lines; what follows a broken one was written after a crash and is not to be trusted."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            name, value = json.loads(line)
        except ValueError:
            return
        yield [name, value]


def _rewrite(path: Path, lines: list[list[Any]]) -> None:
    with refusals("the results cannot be written", path.parent, "Name another folder: --results"):
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
