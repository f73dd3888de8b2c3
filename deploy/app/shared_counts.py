"""The counts of several workers as one page: each writes its own to a file, and who is asked adds them up.

What a worker that has ended had counted stays in the sums: no counter ever goes back.
"""

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

WRITE_S = 0.5
ENDED = "ended"  # the file of all that have ended
LIVE = ".live"
GAUGE = "gauge"
PROMISE = "# TYPE classifier_promised_"  # the same in each worker


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


class SharedCounts:
    """Pages in Prometheus' text format, in a folder that all workers have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = folder / "lock"

    def write(self, name: str, page: str) -> None:
        """The page of a live worker."""
        new = self._folder / f"{name}.new"
        new.write_text(page)
        new.replace(self._folder / f"{name}{LIVE}")

    def read(self) -> str:
        """The sum of all."""
        with _locked(self._lock, fcntl.LOCK_SH):
            return add_up([self._ended(), *(path.read_text() for path in self._folder.glob(f"*{LIVE}"))])

    def retire(self, name: str) -> None:
        """It has ended: its gauges are gone, its counts stay."""
        live = self._folder / f"{name}{LIVE}"
        with _locked(self._lock, fcntl.LOCK_EX):
            if live.exists():
                kept = add_up([self._ended(), add_up([live.read_text()], gauges=False)])
                (self._folder / ENDED).write_text(kept)
                live.unlink()

    def _ended(self) -> str:
        path = self._folder / ENDED
        return path.read_text() if path.exists() else ""


def add_up(pages: Iterable[str], *, gauges: bool = True) -> str:
    """Samples of one name and labels become their sum, promises stay what they are. Counters and histograms
    alone without `gauges`."""
    families: dict[str, dict[str, float]] = {}
    for page in pages:
        family: dict[str, float] = {}
        is_promise = False
        for line in page.splitlines():
            if line.startswith("# TYPE "):
                family, is_promise = families.setdefault(line, {}), line.startswith(PROMISE)
            elif line and not line.startswith("#"):
                sample, _, value = line.rpartition(" ")
                others = 0.0 if is_promise else family.get(sample, 0.0)
                family[sample] = others + float(value)
    lines = []
    for head, samples in families.items():
        if gauges or not head.endswith(f" {GAUGE}"):
            lines += [head, *(f"{sample} {value!r}" for sample, value in samples.items())]
    return "\n".join([*lines, ""])
