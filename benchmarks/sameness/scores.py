"""How good a variant is by itself: its scores of the texts, compared with their labels.

Covers scoring, and macro-F1, accuracy, AUROC and calibration of each split, at the checkpoint's temperature
and threshold, and with both refitted to the variant's own validation scores. Leaves out differences from fp32
(`parity`) and the metrics themselves (`training`).
"""

import json
from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit, logit

from benchmarks.in_process.pool import Pool
from benchmarks.names import REFERENCE
from benchmarks.progress import Step
from benchmarks.records import Quality, Refitted
from benchmarks.resume_log import ResumeLog
from common.records import plain
from handler.artifact import Artifact
from training.data.splits import Split
from training.measures.calibration import calibrate
from training.measures.metrics import evaluate, perfect_calibration_error, reliability

# Texts are scored in the same lists here and through the server: the other texts of a list decide how a text
# is padded and, with dynamic quantisation, on what scale, so only the scores of equal lists can be compared.
LIST_TEXTS = 64
LIST_BYTES = 500_000  # as JSON; the server takes bodies of up to 2 MiB

Scores = dict[str, np.ndarray]
"""By split: calibrated scores, float64 [texts, labels]."""
Asked = dict[str, dict[str, int]]
"""By split and later stage of an artifact: how many texts that stage was asked."""


def score(
    pool: Pool,
    texts: Mapping[str, Sequence[str]],
    of_baselines: Container[str],
    step: Step,
    resume_log: ResumeLog,
) -> tuple[dict[str, Scores], dict[str, Asked], dict[str, np.ndarray]]:
    """Every variant's scores of all texts, every baseline's of those `of_baselines`, by name and split; what
    stages were asked, of variants that have some; and the lengths of the texts in tokens, int [texts], by
    split."""
    scores: dict[str, Scores] = {}
    asked: dict[str, Asked] = {}
    lengths = {}
    for split, content in texts.items():
        for name in [*pool.variants, *(pool.baselines if split in of_baselines else [])]:
            with step(f"quality of {name} on {split}"):
                found = resume_log.once(f"scores of {name} on {split}", partial(_score, pool, name, content))
            if found is not None:
                scores.setdefault(name, {})[split] = np.array(found["scores"])
                if found["asked"]:
                    asked.setdefault(name, {})[split] = found["asked"]
        pool.ask(REFERENCE, "hold", texts=list(content))
        lengths[split] = np.array(pool.ask(REFERENCE, "lengths"))
    return scores, asked, lengths


def _score(pool: Pool, name: str, texts: Sequence[str]) -> dict[str, Any] | None:
    """One variant's `scores`, and how many texts its later stages were `asked`; None when it drops out."""
    pool.ask(name, "hold", texts=list(texts))
    rows: list[list[float]] = []
    for part in in_lists(texts):
        if name not in pool.names:
            return None
        rows += pool.ask(name, "score", start=part.start, stop=part.stop) or []
    asked = pool.ask(name, "asked") if name in pool.names else None
    return {"scores": rows, "asked": asked} if name in pool.names else None


def calibrated(scores: Scores, temperature: float, multi_label: bool = False) -> Scores:
    """A baseline's softmax (or sigmoids) as it would be with the checkpoint's temperature, so that it is
    judged as fp32 is."""
    if multi_label:
        return {split: expit(logit(values) / temperature) for split, values in scores.items()}
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
    return split.take(rows)


def quality(artifact: Artifact, scores: Scores, labelled: Mapping[str, Split]) -> dict[str, Quality]:
    """By labelled split: every figure of `metrics.evaluate`, and the reliability diagram's bins."""
    found = {}
    for name, values in scores.items():
        if name in labelled:
            truth = labelled[name].labels
            figures = evaluate(values, truth, thresholds(artifact), artifact.labels)
            found[name] = Quality(
                **plain(figures),
                perfect_ece=perfect_calibration_error(values, truth),
                reliability=reliability(values, truth, artifact.positive),
            )
    return found


def refitted(
    artifact: Artifact, scores: Scores, validation: np.ndarray, labelled: Mapping[str, Split]
) -> dict[str, Refitted]:
    """By labelled split but validation: the figures with temperature and threshold fitted anew to the
    variant's own scores of `validation`, as one would before shipping it."""
    logits = partial(_logits, artifact)
    truth = labelled["validation"].labels
    fitted = calibrate(logits(validation), truth, tuple(artifact.labels), artifact.positive_label)
    found = {}
    for name, values in scores.items():
        if name in labelled and name != "validation":
            scored = fitted.scores(logits(values))
            figures = evaluate(scored, labelled[name].labels, fitted.thresholds, artifact.labels)
            found[name] = Refitted(
                temperature=fitted.temperature,
                threshold=None if artifact.multi_label else next(iter(fitted.thresholds.values()), None),
                macro_f1=figures.macro_f1,
                brier=figures.brier,
                ece=figures.ece,
            )
    return found


def _logits(artifact: Artifact, scores: np.ndarray) -> np.ndarray:
    """Logits, up to a constant, of calibrated scores; of a score of 0, those of half its last decimal."""
    temperature = artifact.meta.temperature
    if artifact.multi_label:
        return np.asarray(temperature * logit(np.clip(scores, 5e-7, 1 - 5e-7)))
    return np.asarray(temperature * np.log(np.maximum(scores, 5e-7)))


def thresholds(artifact: Artifact) -> dict[str, float]:
    """As `evaluate` wants them: that of the positive one of two labels, none where the highest score decides,
    those of all independent labels."""
    if artifact.multi_label:
        return dict(artifact.meta.thresholds)
    found = artifact.positive_label
    return {found: artifact.meta.thresholds[found]} if found and len(artifact.labels) == 2 else {}
