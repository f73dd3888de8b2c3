"""Files scored by a classifier that answers each text with the text itself: what was read is seen."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common.tables.layout import Reading
from scoring.job import here, open_job, run_job


class Echo:
    """A `Predictor` whose label is the text that it was given."""

    artifact: Any = SimpleNamespace(sha256="0", multi_label=False)

    def predict(self, texts: list[str]) -> list[str]:
        return texts

    def answer(self, text: str) -> dict:
        return {"label": text, "score": 0.5, "tokens": len(text), "truncated": False}


def score(source: Path, output: Path, part_rows: int = 1000, **reading: str) -> dict:
    """The job from one file to another."""
    predictor: Any = Echo()
    job = open_job(str(source), str(output), Echo.artifact, "text", None, part_rows, Reading(**reading))
    return run_job(job, here(predictor))


def scored(
    content: bytes, folder: Path, name: str = "in.csv", written: str = "csv", **reading: Any
) -> list[dict]:
    """The rows of the output for a file of this content, bytes that are not UTF-8 as lone surrogates."""
    source, output = folder / name, folder / f"out.{written}"
    source.write_bytes(content)
    score(source, output, **reading)
    return rows_of(output)


def rows_of(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [*map(json.loads, file)] if path.suffix == ".jsonl" else list(csv.DictReader(file))
