"""Baselines made ready before any clock runs: exported and quantised once per checkpoint, then kept.

A folder `CACHE/<baseline>/<key>` holds what its preparation wrote, with `baseline.json` last; the key covers
the weights, the tokenizer, the calibration texts, the recipe and the versions of what it needs.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.baselines import bag_of_words, in_process
from benchmarks.baselines.in_process import BASELINES, CALIBRATION_TEXTS, Baseline
from benchmarks.in_process.pool import Failure
from benchmarks.in_process.worker import WorkerError, open_worker
from common.atomic import replacing_folder, write_json
from common.commands import say
from common.environment import installed, missing
from handler.artifact import file_sha256

if TYPE_CHECKING:  # it imports transformers, which comparing and selecting reports need not wait for
    from training.checkpoint import Checkpoint
    from training.data import Dataset

MADE_OF = ("model.safetensors", "config.json", "tokenizer.json")
PREPARED = "baseline.json"
PATIENCE_S = 3600


@dataclass(frozen=True)
class Prepared:
    """Baselines that are ready, by name: their folders, those `below` one, and what `baseline.json` says; why
    others are not."""

    below: Path
    folders: dict[str, Path] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Of all that were thought of."""
        return {*self.facts, *self.left_out, *self.failures}

    def bytes(self, name: str) -> int:
        """Size of the file with which the baseline computes."""
        return (self.folders[name] / BASELINES[name].file).stat().st_size


def prepare_baselines(
    checkpoint: "Checkpoint",
    texts: Sequence[str],
    cache: Path,
    on_cuda: bool = False,
    dataset: "Dataset | None" = None,
) -> Prepared:
    """Every baseline that can be had here, those for GPUs only where variants for them take part; `texts` are
    training texts, of which the first calibrate, and `dataset` is what others are fitted to."""
    prepared = Prepared(cache)
    calibration = list(texts[:CALIBRATION_TEXTS])
    for name, baseline in BASELINES.items():
        if baseline.on_cuda and not on_cuda:
            continue
        if why := _why_not(baseline, checkpoint, dataset):
            prepared.left_out[name] = why
            say(f"{name} is left out: {prepared.left_out[name]}")
            continue
        try:
            versions = installed(baseline.requires)
            if baseline.fitted:
                assert dataset is not None
                folder, facts = _fit(baseline, checkpoint, dataset, cache, versions)
            else:
                folder, facts = _prepare(baseline, checkpoint, calibration, cache, versions)
        except (WorkerError, OSError, ValueError) as error:  # too few texts to fit to are a ValueError
            prepared.failures[name] = Failure("preparation", str(error))
            say(f"{name} could not be prepared: {error}")
            continue
        prepared.folders[name], prepared.facts[name] = folder, facts
    return prepared


def why_left_out(names: Sequence[str]) -> str:
    """Why something is left out."""
    return f"{', '.join(names)} not installed: pip install {' '.join(names)}"


def _why_not(baseline: Baseline, checkpoint: "Checkpoint", dataset: "Dataset | None") -> str | None:
    """Why a baseline is left out; None where it can be had."""
    if absent := missing(baseline.requires):
        return why_left_out(absent)
    if "optimum" in baseline.requires and checkpoint.has_own_head:
        return "optimum exports models of transformers, and this one has a head of this project"
    if not baseline.fitted:
        return None
    if dataset is None:
        return "there are no training texts to fit it to"
    return bag_of_words.lacks(checkpoint, dataset)


def _fit(
    baseline: Baseline, checkpoint: "Checkpoint", dataset: "Dataset", cache: Path, versions: dict[str, str]
) -> tuple[Path, dict[str, Any]]:
    """As `_prepare`, of a baseline that is fitted to the checkpoint's training texts."""
    key = _key(baseline, checkpoint, [dataset.sha256], versions, bag_of_words)
    return _made(
        baseline,
        key,
        cache,
        versions,
        "fitting",
        lambda folder: bag_of_words.fit(checkpoint, dataset, folder),
    )


def _prepare(
    baseline: Baseline, checkpoint: "Checkpoint", texts: list[str], cache: Path, versions: dict[str, str]
) -> tuple[Path, dict[str, Any]]:
    """The baseline's folder, fresh or as it was kept, and the facts that stand in its `baseline.json`."""
    if baseline.prepare is None:
        return checkpoint.folder, {"seconds": 0.0, "versions": versions}

    def prepare(folder: Path) -> None:
        with open_worker(baseline.name, ours=False) as worker:
            worker.ask(
                "prepare_baseline",
                PATIENCE_S,
                baseline=baseline.name,
                checkpoint=str(checkpoint.folder.resolve()),
                folder=str(folder.resolve()),
                texts=texts,
                max_length=checkpoint.meta.max_length,
            )

    key = _key(baseline, checkpoint, texts, versions)
    return _made(baseline, key, cache, versions, "preparing", prepare)


def _made(
    baseline: Baseline,
    key: str,
    cache: Path,
    versions: dict[str, str],
    doing: str,
    make: Callable[[Path], None],
) -> tuple[Path, dict[str, Any]]:
    """The folder that `make` fills, or the one kept under this key, and the facts in its `baseline.json`."""
    folder = cache / baseline.name / key[:12]
    if kept := _kept(folder, key):
        return folder, kept
    say(f"{baseline.name}: {doing} ({baseline.summary})")
    began = time.perf_counter()
    with replacing_folder(folder) as scratch:
        make(scratch)
        facts = {"key": key, "seconds": round(time.perf_counter() - began, 1), "versions": versions}
        write_json(scratch / PREPARED, facts)
    return folder, facts


def _key(
    baseline: Baseline,
    checkpoint: "Checkpoint",
    texts: list[str],
    versions: dict[str, str],
    recipe: ModuleType = in_process,
) -> str:
    sums = [file_sha256(checkpoint.folder / name) for name in MADE_OF if (checkpoint.folder / name).is_file()]
    parts = [baseline.name, *sums, json.dumps([versions, texts, checkpoint.meta.max_length])]
    parts.append(Path(str(recipe.__file__)).read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _kept(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        facts = json.loads((folder / PREPARED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if facts.get("key") == key else None
