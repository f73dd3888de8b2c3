"""One candidate, built and measured on validation texts: its speed, and what a gate would show of it."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.compression.candidates import Candidate
from benchmarks.compression.records import Measured, Tried
from benchmarks.in_process.ratios import student
from benchmarks.sameness.labels_needed import population
from common.commands import say
from export.build import build
from export.registry import REFERENCE, RefusedError, choose
from export.source import Source
from handler.artifact import Artifact
from handler.errors import UnsupportedError
from handler.predictor import Predictor, decide
from training.measures.gate_ledger import share_of

BATCH = 32
TURNS = 5
UNPRUNED = (REFERENCE, "static", "static-openvino-fp32")  # what other candidates are made of too


@dataclass(frozen=True)
class Bench:
    """What candidates are built from and measured with; artifacts of one `keep` share a folder."""

    source: Source

    def of(self, candidate: Candidate) -> Source:
        folder = self.source.artifacts / f"keep-{candidate.keep:g}"
        may_turn = candidate.may_turn or self.source.may_turn
        return replace(self.source, artifacts=folder, keep=candidate.keep, may_turn=may_turn)

    def build(self, candidate: Candidate) -> Artifact:
        """The candidate, and before it what it is made of. Raises `RefusedError` and `UnsupportedError`."""
        source = self.of(candidate)
        self._share(source.artifacts)
        chosen, left_out = choose([candidate.variant])
        if left_out:
            raise UnsupportedError(
                f"{candidate.variant} cannot be built here",
                seen="; ".join(left_out[candidate.variant]),
                remedy="Install what it needs",
            )
        return [build(variant, source, say) for variant in chosen][-1]

    def _share(self, folder: Path) -> None:
        """What pruning does not change is built once."""
        first = self.of(Candidate()).artifacts
        for name in UNPRUNED:
            if (first / name).is_dir() and not (folder / name).exists():
                shutil.copytree(first / name, folder / name)

    def try_out(self, candidate: Candidate) -> Tried:
        tried = Tried(**candidate.params, variant=candidate.variant)
        try:
            artifact = self.build(candidate)
        except (RefusedError, UnsupportedError) as error:
            tried.refused = f"{error.what}: {error.seen}"
            return tried
        tried.measured = self._measured(Predictor(artifact))
        return tried

    def _measured(self, predictor: Predictor) -> Measured:
        int8 = Predictor(self.build(Candidate()))
        reference = Predictor.load(self.of(Candidate()).artifacts / REFERENCE)
        split = self.source.dataset.splits["validation"]
        texts = list(split.texts)
        logs = _log_ratios(int8, predictor, texts)
        low, high = student(logs)
        given, theirs = (_labels(each, texts) for each in (predictor, reference))
        labels = len(predictor.artifact.labels)
        found = population(_counts(theirs, given, labels), _counts(np.asarray(split.labels), theirs, labels))
        gate = len(self.source.dataset.splits["gate"])
        return Measured(
            faster=float(np.exp(logs.mean())),
            low=low,
            high=high,
            agreement=float((given == theirs).mean()),
            margin=found.by_gate(gate, share_of(1)),
            equal=predictor.artifact.meta.check.equal,
        )


def _log_ratios(base: Predictor, other: Predictor, texts: Sequence[str]) -> np.ndarray:
    """By turn, the logarithm of how many times as fast the other is. Both take turns."""
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]

    def seconds(predictor: Predictor) -> float:
        began = time.perf_counter()
        for batch in batches:
            predictor.predict(batch)
        return time.perf_counter() - began

    for predictor in (base, other):  # the first pass is slower
        seconds(predictor)
    turns = [(seconds(base), seconds(other)) for _ in range(TURNS)]
    return np.log([before / after for before, after in turns])


def _labels(predictor: Predictor, texts: Sequence[str]) -> np.ndarray:
    meta = predictor.artifact.meta
    scores = np.array([each.scores for each in predictor.predict(texts)])
    return decide(scores, predictor.artifact.labels, meta.thresholds, predictor.artifact.multi_label)


def _counts(rows: np.ndarray, columns: np.ndarray, labels: int) -> np.ndarray:
    """How many texts have each pair, int64 [labels, labels]."""
    counted = np.zeros((labels, labels), np.int64)
    np.add.at(counted, (rows, columns), 1)
    return counted
