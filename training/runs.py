"""`python -m training runs [folders]`: compare the checkpoints in these folders, best first.

Every run records its settings, the data's fingerprint, the commit and its figures in `checkpoint.json`.
Settings that differ between runs are columns; settings that all runs share are listed once.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import ValidationError
from tabulate import tabulate

from common.commands import emit, say
from common.programs import command
from common.records import read
from handler.errors import UserError
from training.description import Description
from training.evaluation.records import FILE, FOLDER, Evaluation

META_FILE = "checkpoint.json"
FIGURES = ("macro_f1", "accuracy", "auroc")


def runs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[Path("build")], help="folders to search; default: build"
    )


def runs(options: argparse.Namespace) -> int:
    folders = options.folders
    found = {
        path.parent: opened(path)
        for folder in folders
        for path in sorted(folder.rglob(META_FILE))
        if "mlflow" not in path.relative_to(folder).parts  # it keeps copies
    }
    if not found:
        raise UserError(
            "no runs were found",
            seen=", ".join(map(str, folders)),
            remedy="Train one: python -m training train; or name the folder that holds checkpoints",
        )
    rows = sorted((record(folder, meta) for folder, meta in found.items()), key=_rank)
    shared = shared_settings(rows)
    say(tabulate([_row(row, shared) for row in rows], headers="keys", floatfmt=".3f", missingval="–"))
    if len(rows) > 1:
        say(
            "\nthe same in all runs: "
            + ", ".join(f"{name} {value}" for name, value in shared.items() if value != "")
        )
    emit({"runs": rows})
    return 0


def opened(path: Path) -> Description:
    """The content of a `checkpoint.json`."""
    try:
        return read(json.loads(path.read_text(encoding="utf-8")), Description)
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(
            "this is not a valid record of a run",
            seen=f"{path}: {error}",
            remedy="Remove it, or train again",
        ) from error


def evaluated(checkpoint: Path, split: str) -> Evaluation:
    """What `python -m training evaluate` wrote of a checkpoint's split."""
    path = checkpoint / FOLDER / split / FILE
    try:
        return read(json.loads(path.read_text(encoding="utf-8")), Evaluation)
    except (OSError, ValueError, ValidationError) as error:
        evaluate = command(f"training evaluate --checkpoint {checkpoint} --split {split}")
        raise UserError(
            "A checkpoint has no valid evaluation", seen=f"{path}: {error}", remedy=f"Make it: {evaluate}"
        ) from error


def record(folder: Path, meta: Description) -> dict[str, Any]:
    """A run in one flat object: where it lies, what it was made with, how it does."""
    settings = {
        "data": meta.data.spec,
        "data_sha256": meta.data.sha256[:12],
        "base": meta.base,
        "commit": (meta.commit or "")[:12],
        **meta.recipe,
    }
    figures = {split: {name: getattr(own, name) for name in FIGURES} for split, own in meta.metrics.items()}
    return {"run": str(folder), "seconds": meta.seconds, "settings": settings, "figures": figures}


def shared_settings(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The settings that have the same value in all runs."""
    first = rows[0]["settings"]
    return {
        name: value
        for name, value in first.items()
        if all(row["settings"].get(name) == value for row in rows)
    }


def _row(row: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in row["settings"].items() if name not in shared}
    figures = {
        f"{split} {name.replace('_', '-')}": row["figures"].get(split, {}).get(name)
        for split, name in (("validation", "macro_f1"), ("validation", "auroc"), ("test", "macro_f1"))
    }
    return {"run": row["run"], **told, **figures, "s": f"{row['seconds']:.0f}"}


def _rank(row: dict[str, Any]) -> float:
    return -(row["figures"].get("validation", {}).get("macro_f1") or 0.0)
