"""Small real data for the tests of training: rows of the embedded corpus, written as JSONL."""

import json
from pathlib import Path

import pytest

from training.data import demo


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 texts of the embedded corpus with string labels."""
    examples = demo.corpus(sizes={"train": 300})["train"]
    rows = [{"text": example.text, "label": ("not-hate", "hate")[example.label]} for example in examples]
    return write_jsonl(tmp_path_factory.mktemp("data") / "small.jsonl", rows)
