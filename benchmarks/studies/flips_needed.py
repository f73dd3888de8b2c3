"""How many labels of flips settle verdicts, against the forecast: on texts whose labels are known after all.

Needs a file written by `benchmarks flips --write` (with its key), the plan of `benchmarks power --texts`, and
a CSV of the unlabelled texts with their labels.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import to_builtins

from benchmarks.names import NEEDED
from benchmarks.sameness import flips_needed
from benchmarks.sameness.flips_key import read_key
from benchmarks.sameness.flips_needed import needed
from benchmarks.sameness.labels_needed import LabelPlan
from common.atomic import write_json
from common.commands import emit, run, say
from common.options import add_checkpoint, add_results
from common.records import read
from handler.errors import UserError
from training.checkpoint import load_data, open_checkpoint
from training.data.unlabelled import read_unlabelled


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.flips_needed", description=__doc__.split("\n")[0]
    )
    add_checkpoint(parser)
    add_results(parser)
    parser.add_argument("--texts", required=True, help="the unlabelled texts, as they were given to flips")
    parser.add_argument("--written", type=Path, required=True, help="the file that flips --write wrote")
    parser.add_argument(
        "--hidden", type=Path, required=True, help="a CSV of the same texts with their labels"
    )
    parser.add_argument("--plan", type=Path, required=True, help="what power --texts printed")
    parser.add_argument("--data", required=True, help="what the texts are called in the report")
    arguments = parser.parse_args(argv)
    checkpoint = open_checkpoint(arguments.checkpoint)
    dataset = load_data(checkpoint)
    gate = dataset.splits["gate"]
    texts = read_unlabelled(arguments.texts, dataset)
    key = read_key(arguments.written, checkpoint.labels, gate.texts, texts)
    found = needed(
        arguments.data,
        key.reference,
        key.variants,
        gate.labels,
        _hidden(arguments.hidden, texts, checkpoint.labels),
        len(checkpoint.labels),
        read(_json(arguments.plan), LabelPlan),
    )
    write_json(arguments.results / f"{NEEDED}.json", to_builtins(found))
    say(flips_needed.excerpt(found))
    emit(to_builtins(found))
    return 0


def _json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _hidden(path: Path, texts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """The place of each text's label, int [texts]."""
    with path.open(newline="", encoding="utf-8") as file:
        known = {row["text"]: row["label"] for row in csv.DictReader(file)}
    if unknown := [text for text in texts if known.get(text) not in labels]:
        raise UserError(
            "texts have no label of the classifier's in the file of hidden labels",
            seen=f"{path}: {len(unknown)} of {len(texts)}",
            remedy="Give a CSV with the columns text and label that has all of them",
        )
    return np.array([labels.index(known[text]) for text in texts])


if __name__ == "__main__":
    run(main)
