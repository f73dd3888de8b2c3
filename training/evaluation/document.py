"""Measure a checkpoint on one split and write the results to `evaluation.json`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_json
from common.records import plain
from handler.artifact import file_sha256
from training.checkpoint import Checkpoint, describe_surroundings
from training.data import Dataset, Split
from training.evaluation import figures, pictures
from training.evaluation.classifier import Classifier
from training.evaluation.records import FILE, SCHEMA, Evaluation, Judged, SplitName
from training.evaluation.robustness import robustness
from training.evaluation.suite import functional_suites
from training.measures.records import Figures

SPLITS = ("validation", "gate", "test")
PICTURES = ("confusion", "precision-recall", "reliability", "robustness")  # and functional-SUITE


@dataclass(frozen=True)
class Evaluated:
    """`document` is the content of `evaluation.json`; `scores` [n, labels] are those of the split."""

    document: Evaluation
    scores: np.ndarray


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    dataset: Dataset,
    classifier: Classifier,
    split_name: SplitName,
    folder: Path,
    *,
    sample: int,
    seed: int = 0,
    copies: Mapping[str, Path] | None = None,
) -> Evaluated:
    """Measure the checkpoint on a split and write `evaluation.json` and the pictures into `folder`.

    `sample` limits the texts that are perturbed; 0 leaves robustness out. `copies` are the user's copies of
    published suites, by name. Joined sets are measured on their held-out part of the same name, and on
    validation for `gate`, which they do not have.
    """
    started = time.perf_counter()
    split = dataset.splits[split_name]
    scores = classifier.scores(split.texts, split_name)
    truth, given = np.asarray(split.labels), classifier.given(scores)
    own = "test" if split_name == "test" else "validation"
    others = {
        name: figures.split_figures(classifier, part, classifier.scores(part.texts, f"{own} of {name}"))
        for name, parts in dataset.others.items()
        if _is_usable(part := parts[own])
    }
    meta = checkpoint.meta
    document = Evaluation(
        schema=SCHEMA,
        checkpoint=Judged(
            weights_sha256=weights_sha256(checkpoint),
            base=meta.base,
            trained=checkpoint.trained,
            data=meta.data.spec,
            data_sha256=meta.data.sha256,
            task=meta.task,
            labels=list(classifier.labels),
            temperature=classifier.temperature,
            thresholds=classifier.thresholds,
        ),
        split=split_name,
        figures=figures.split_figures(classifier, split, scores),
        without_leaks=_without_leaks(classifier, dataset, split_name, scores),
        others=others,
        by_length=figures.by_length(classifier, split, scores),
        confusion=figures.confusion(classifier, truth, given),
        reliability=figures.calibration_points(classifier, truth, scores),
        functional=functional_suites(classifier, copies),
        robustness=robustness(classifier, split, scores, sample, seed) if sample else None,
        seconds=round(time.perf_counter() - started, 1),
        **describe_surroundings(),
    )
    _remove_former(folder)
    write_json(folder / FILE, plain(document))
    _draw(folder, document, figures.precision_recall(classifier, truth, scores))
    return Evaluated(document, scores)


def _without_leaks(
    classifier: Classifier, dataset: Dataset, split_name: SplitName, scores: np.ndarray
) -> Figures | None:
    kept = dataset.unleaked(split_name)
    if kept is None:
        return None
    return figures.split_figures(classifier, dataset.splits[split_name].take(kept), scores[kept])


def _is_usable(part: Split) -> bool:
    """Joined sets may be left without held-out texts where they repeat the first set's."""
    return len(part) > 0


def _draw(folder: Path, document: Evaluation, curves: list[dict[str, Any]]) -> None:
    pictures.confusion(folder, "confusion", document.checkpoint.labels, document.confusion)
    if curves:
        pictures.precision_recall(folder, "precision-recall", curves)
    pictures.reliability(folder, "reliability", plain(document.reliability))
    perturbed = document.robustness.perturbations if document.robustness else []
    if any(way.changed >= pictures.FEWEST_TEXTS for way in perturbed):
        pictures.robustness(folder, "robustness", plain(perturbed))
    for suite, found in document.functional.items():
        pictures.functional(folder, f"functional-{suite}", plain(found.functionalities))


def _remove_former(folder: Path) -> None:
    """Pictures of an earlier evaluation: this one may lack some of them."""
    for name in (*PICTURES, "functional-*"):
        for file in [*folder.glob(f"{name}.svg"), *folder.glob(f"{name}.png")]:
            file.unlink()


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Identifies the results of this checkpoint."""
    return file_sha256(checkpoint.folder / "model.safetensors")
