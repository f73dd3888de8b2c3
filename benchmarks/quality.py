"""Is a variant still the same classifier? Its scores of the labelled texts, held against fp32's.

Covers quality (macro-F1, accuracy, AUROC, calibration) and parity (agreement, flips by direction, score
differences, the interval of the macro-F1 drop) of each split, for single-label tasks. Where the base has
random weights the labels mean nothing: quality is left out and parity is that of scores alone. Leaves out
the statistics themselves (`training`) and the verdict on them (`selection`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.progress import Step
from benchmarks.team import Team
from handler.artifact import Artifact
from handler.predictor import decide
from training.metrics import evaluate
from training.splits import Split
from training.statistics import compare

# Texts are scored in the same lists here and through the server. Which texts stand beside it decides how a
# text is padded and, with dynamic quantisation, on what scale: the same company makes the scores comparable.
LIST_TEXTS = 64
LIST_BYTES = 500_000  # as JSON; the server takes bodies of up to 2 MiB

Scores = dict[str, np.ndarray]
"""By split: calibrated scores, float64 [texts, labels]."""


def score(team: Team, splits: Mapping[str, Split], step: Step) -> dict[str, Scores]:
    """Every variant's and every peer's scores of every split."""
    scores: dict[str, Scores] = {}
    for split, content in splits.items():
        for name in [*team.variants, *team.peers]:
            with step(f"quality of {name} on {split}"):
                rows = _score(team, name, content.texts)
            if rows is not None:
                scores.setdefault(name, {})[split] = np.array(rows)
    return scores


def _score(team: Team, name: str, texts: Sequence[str]) -> list[list[float]] | None:
    """One variant's scores, or None when it drops out."""
    team.ask(name, "hold", texts=list(texts))
    rows: list[list[float]] = []
    for part in in_lists(texts):
        if name not in team.names:
            return None
        rows += team.ask(name, "score", start=part.start, stop=part.stop) or []
    return rows if name in team.names else None


def calibrated(scores: Scores, temperature: float) -> Scores:
    """A peer's softmax as it would be with the checkpoint's temperature, so that it is judged as fp32 is."""
    warmer = {split: values ** (1 / temperature) for split, values in scores.items()}
    return {split: values / values.sum(axis=1, keepdims=True) for split, values in warmer.items()}


def in_lists(texts: Sequence[str]) -> list[range]:
    """Cut `texts` into lists of at most `LIST_TEXTS`, each of which fits into one request to a server."""
    lists, start, size = [], 0, 0
    for place, text in enumerate(texts):
        length = len(json.dumps(text))
        if place > start and (place - start == LIST_TEXTS or size + length > LIST_BYTES):
            lists.append(range(start, place))
            start, size = place, 0
        size += length
    return [*lists, range(start, len(texts))] if len(texts) else []


def spread(lists: Sequence[range], most: int | None) -> list[range]:
    """So many of the lists, evenly spaced, that they hold about `most` texts; all of them for None."""
    count = len(lists) if most is None else min(len(lists), -(-most // LIST_TEXTS))
    return [lists[place * len(lists) // count] for place in range(count)]


def sample(split: Split, most: int | None) -> Split:
    """At most `most` texts, drawn with a fixed seed so that every run takes the same ones."""
    if most is None or len(split.texts) <= most:
        return split
    rows = np.sort(np.random.default_rng(0).choice(len(split.texts), most, replace=False))
    return Split([split.texts[row] for row in rows], split.labels[rows])


def quality(artifact: Artifact, scores: Scores, splits: Mapping[str, Split]) -> dict[str, dict[str, Any]]:
    """By split: every figure of `training.metrics.evaluate`."""
    return {
        name: evaluate(values, splits[name].labels, thresholds(artifact), artifact.labels)
        for name, values in scores.items()
    }


def parity(
    artifact: Artifact,
    scores: Scores,
    reference: Artifact,
    reference_scores: Scores,
    splits: Mapping[str, Split] | None,
) -> dict[str, dict[str, Any]]:
    """By split: how `scores` differ from fp32's; the macro-F1 drop only where `splits` has labels that mean
    something."""
    by_split = {}
    for name, values in scores.items():
        theirs = reference_scores[name]
        difference = np.abs(values - theirs).max(axis=1)
        given = decide(values, artifact.labels, artifact.meta["thresholds"])
        wanted = decide(theirs, reference.labels, reference.meta["thresholds"])
        by_split[name] = {
            "n": len(values),
            "label_agreement": float((given == wanted).mean()),
            "flips": flips(wanted, given, artifact.labels),
            "max_prob_diff": float(difference.max()),
            "mean_prob_diff": float(difference.mean()),
            "macro_f1_drop": drop(splits[name].labels, wanted, given, len(artifact.labels))
            if splits
            else None,
        }
    return by_split


def flips(reference: np.ndarray, candidate: np.ndarray, labels: list[str]) -> dict[str, int]:
    """Texts by direction, such as `{"hate -> not-hate": 3, "not-hate -> hate": 1}`."""
    return {
        f"{before} -> {after}": int(((reference == row) & (candidate == column)).sum())
        for row, before in enumerate(labels)
        for column, after in enumerate(labels)
        if row != column
    }


def drop(truth: np.ndarray, reference: np.ndarray, candidate: np.ndarray, labels: int) -> dict[str, float]:
    """fp32's macro-F1 minus the variant's on the same texts, with the paired bootstrap interval."""
    found = compare(truth, reference, candidate, labels)
    return {
        "drop": found.drop,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "mcnemar_p": found.p_value,
    }


def thresholds(artifact: Artifact) -> dict[str, float]:
    """As `evaluate` wants them: that of the second of two labels, or none where the highest score decides."""
    labels = artifact.labels
    return {labels[1]: artifact.meta["thresholds"][labels[1]]} if len(labels) == 2 else {}
