"""The data of a run: labelled texts in four splits, with a fingerprint that later stages check.

Covers: loading what a spec names (`demo`, `tweeteval`, `csv:PATH`, `jsonl:PATH`), the split rules, and
fingerprints. Leaves out: each set's own format (`sources`) and the rules themselves (`splits`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training import sources
from training.sources import Columns
from training.splits import SPLITS, Split, prepare

__all__ = ["SPLITS", "Columns", "Dataset", "Split", "load"]


@dataclass(frozen=True)
class Dataset:
    """Splits `train`, `validation`, `gate` and `test`, and all that is needed to load them again.

    `dropped[split][reason]` counts rows left out; `leaks[split]` counts the texts of a split that train
    held too, before they were dropped there. `sha256` covers labels, task and the texts of all splits.
    """

    spec: str
    data_dir: Path
    columns: Columns
    seed: int
    labels: tuple[str, ...]
    task: str
    splits: dict[str, Split]
    dropped: dict[str, dict[str, int]]
    leaks: dict[str, dict[str, int]]
    split_sha256: dict[str, str]
    sha256: str

    def counts(self) -> dict[str, dict[str, int]]:
        """Texts of each label in each split."""
        return {
            name: {label: int((split.labels == index).sum()) for index, label in enumerate(self.labels)}
            for name, split in self.splits.items()
        }


def load(spec: str, data_dir: str | Path = "data", seed: int = 0, columns: Columns | None = None) -> Dataset:
    """Read, clean and split the data that `spec` names; `seed` decides what is carved, not the training.

    Raises UserError where the spec is unknown, a file is missing or is not what it should be.
    """
    found, argument = sources.find(spec)
    columns = columns or Columns()
    folder = Path(data_dir).expanduser().absolute()
    raw = found.read(sources.Request(argument, folder, columns, seed))
    prepared = prepare(raw.splits, seed)
    split_sha256 = {name: _fingerprint(split) for name, split in prepared.splits.items()}
    return Dataset(
        spec=f"{spec.partition(':')[0]}:{raw.argument}" if raw.argument else spec,
        data_dir=folder,
        columns=columns,
        seed=seed,
        labels=raw.labels,
        task="single-label",
        splits=prepared.splits,
        dropped=_add(raw.dropped, prepared.dropped),
        leaks=prepared.leaks,
        split_sha256=split_sha256,
        sha256=hashlib.sha256(repr(("single-label", raw.labels, split_sha256)).encode()).hexdigest(),
    )


def _fingerprint(split: Split) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(split.labels, dtype="<i8").tobytes())
    for text in split.texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)  # so that no two lists read the same
    return digest.hexdigest()


def _add(*counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for count in counts:
        for split, reasons in count.items():
            for reason, number in reasons.items():
                into = total.setdefault(split, {})
                into[reason] = into.get(reason, 0) + number
    return total
