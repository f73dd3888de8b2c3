"""`python -m training cross-validate`: measure a recipe on a data set that is too small for a test split.

Every text is tested once, by a model that was trained on the other folds (stratified, shuffled by the split
seed). A tenth of each training part is validation, which stops the training and sets temperature and
threshold: choose recipes by it, so that the tested fold decides nothing.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from common.atomic import write_json
from common.commands import emit, positive_int, run, say
from common.records import plain
from handler.artifact import file_sha256
from handler.errors import UserError
from training import data
from training.__main__ import PROGRAM
from training.data import Dataset, Split
from training.data.splits import SHARE_OF_TRAIN, carve, codes, concatenate
from training.measures.records import Figures
from training.options import add_options, load, prepare
from training.options import recipe as recipe_of
from training.recipe import Recipe
from training.summary import table

JUDGED = ("validation", "test")
SHOWN = ("macro_f1", "accuracy", "auroc", "average_precision")


def cross_validate_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser)
    parser.add_argument("--folds", type=positive_int, default=10, help="number of folds (default: 10)")
    parser.add_argument(
        "--folder",
        type=Path,
        default="build/cross-validation",
        help="where the figures of finished folds are kept (default: %(default)s)",
    )


def cross_validate(options: argparse.Namespace) -> int:
    dataset = load(options)
    say(table(dataset))
    prepare(options)
    recipe = recipe_of(options)
    place = options.folder / key(dataset, options.base, recipe, options.folds)
    figures: dict[str, list[dict[str, Any]]] = {split: [] for split in JUDGED}
    from training.heads import embeddings_kept  # takes seconds, which --help has not

    with embeddings_kept():
        for number, fold in enumerate(folds(dataset, options.folds), start=1):
            kept = place / f"fold-{number}.json"
            if not kept.is_file():
                write_json(kept, plain(judge(fold, options.base, recipe, options.trust_remote_code)))
            found = json.loads(kept.read_text())
            for split in JUDGED:
                figures[split].append(found[split])
            said = ", ".join(f"{split} {found[split]['macro_f1']:.3f}" for split in JUDGED)
            say(f"fold {number} of {options.folds}: macro-F1 {said}")
    result = {split: summarise(figures[split]) for split in JUDGED}
    rows = [
        [name, result["validation"].get(name, {}).get("mean"), tested["mean"], tested["standard_deviation"]]
        for name, tested in result["test"].items()
        if name in SHOWN
    ]
    headers = ["mean of folds", "validation", "test", "standard deviation of test"]
    say(tabulate(rows, headers, floatfmt=".3f", missingval="–"))
    emit({"data": dataset.spec, "base": options.base, "folds": options.folds, **result})
    return 0


def key(dataset: Dataset, base: str, recipe: Recipe, judged: int | str) -> str:
    """A name for all that the figures depend on: data, base weights, recipe, and what is `judged`: the number
    of folds, or the sum of a split."""
    weights = [file_sha256(path) for path in sorted(Path(base).glob("*.safetensors"))]
    settings = [dataset.sha256, dataset.seed, base, weights, asdict(recipe), judged]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def folds(dataset: Dataset, count: int) -> Iterator[Dataset]:
    """The data once per fold, each time with another part as test."""
    if dataset.others:
        raise UserError(
            "Cross-validation works on one data set",
            seen=dataset.spec,
            remedy="Train on the other sets first, and give that checkpoint as --base.",
        )
    if "test" in dataset.published:
        raise UserError(
            "The data set has its own test split, which folds would mix with train",
            seen=dataset.spec,
            remedy="Train on it directly: python -m training.",
        )
    parts = list(dataset.splits.values())
    whole = replace(concatenate(parts, [1] * len(parts)), weights=None)
    smallest = int(np.bincount(codes(whole.labels)).min())
    if not 2 <= count <= len(whole):
        raise UserError("That number of folds is not possible", seen=count, remedy=f"Give 2 to {len(whole)}.")
    if smallest < count and not whole.multi_label:
        raise UserError(
            f"A label has fewer texts than there are folds ({count})", seen=smallest, remedy="Give fewer."
        )
    # Takes seconds, which --help has not.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if whole.groups is None else StratifiedGroupKFold
    splitter = kind(count, shuffle=True, random_state=dataset.seed)
    for rest, fold in splitter.split(whole.labels, _classes(whole, count), whole.groups):
        kept = round(len(rest) * SHARE_OF_TRAIN["validation"])
        train, validation = carve(whole.take(rest), kept, dataset.seed)
        splits = {"train": train, "validation": validation, "gate": validation, "test": whole.take(fold)}
        yield replace(dataset, splits=splits)


def _classes(whole: data.Split, count: int) -> np.ndarray:
    """What folds are stratified by: the label, or the combination of labels where it is not too rare."""
    found = codes(whole.labels)
    return np.where(np.bincount(found)[found] >= count, found, -1)


def judge(fold: Dataset, base: str, recipe: Recipe, trust_remote_code: bool = False) -> dict[str, Figures]:
    """The figures of a fold's validation and test parts."""
    judged = {split: fold.splits[split] for split in JUDGED}
    return judge_with(fold, judged, base, recipe, trust_remote_code)


def judge_with(
    dataset: Dataset, judged: Mapping[str, Split], base: str, recipe: Recipe, trust_remote_code: bool = False
) -> dict[str, Figures]:
    """The figures, on each split of `judged`, of a model that is trained on the data and not kept."""
    from training import pipeline

    with tempfile.TemporaryDirectory() as state:
        place = Path(state) / "state"
        trained = pipeline.fitted(dataset, base, recipe, place, trust_remote_code=trust_remote_code)
    return {
        name: trained.figures(trained.scores(split.texts), split.labels) for name, split in judged.items()
    }


def summarise(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over folds, and each fold's own."""
    names = [name for name in figures[0] if any(isinstance(fold[name], float) for fold in figures)]
    table = {name: [fold[name] for fold in figures if fold[name] is not None] for name in names}
    return {
        name: {
            "mean": float(np.mean(values)),
            "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "folds": values,
        }
        for name, values in table.items()
    }


main = PROGRAM.moved_from("training.cross_validation", "cross-validate")

if __name__ == "__main__":
    run(main)
