"""One candidate, built and measured on validation texts: its speed, and what a gate would show of it."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.compression.candidates import INT8, Candidate
from benchmarks.compression.records import Measured, Tried
from benchmarks.in_process.ratios import student
from benchmarks.names import REFERENCE
from benchmarks.sameness.labels_needed import population
from handler.artifact import Artifact, open_artifact
from handler.predictor import Predictor, decide
from training.checkpoint import Checkpoint
from training.data import Dataset
from training.measures.gate_ledger import share_of

BATCH = 32
TURNS = 5
UNPRUNED = (REFERENCE, "static", "static-openvino-fp32")  # what other candidates are made of too


@dataclass(frozen=True)
class Bench:
    """What candidates are built from and measured with; artifacts of one `keep` share a folder below
    `artifacts`. `unlabelled` is what students also learn on, and `traffic` what rules are also fitted to, as
    `export build` takes them."""

    checkpoint: Checkpoint
    dataset: Dataset
    artifacts: Path
    unlabelled: str | None = None
    traffic: str | None = None

    def folder(self, candidate: Candidate) -> Path:
        return self.artifacts / f"keep-{candidate.keep:g}"

    def build(self, candidate: Candidate) -> Artifact | str:
        """The candidate, by `python -m export build`, or why it could not be built."""
        folder = self.folder(candidate)
        self._share(folder)
        command = [sys.executable, "-m", "export", "build", candidate.variant, "--artifacts", folder]
        command += ["--checkpoint", self.checkpoint.folder, "--keep", candidate.keep]
        if candidate.may_turn:
            command += ["--may-turn", candidate.may_turn]
        if self.unlabelled is not None:
            command += ["--unlabelled", self.unlabelled]
        if self.traffic is not None:
            command += ["--traffic", self.traffic]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            said = lines[-1] if lines else f"exit status {done.returncode}"
            return said.removeprefix("error: ").removeprefix(f"{candidate.variant} failed: ")
        return open_artifact(folder / candidate.variant)

    def _share(self, folder: Path) -> None:
        """What pruning does not change is built once."""
        first = self.folder(Candidate())
        for name in UNPRUNED:
            if (first / name).is_dir() and not (folder / name).exists():
                shutil.copytree(first / name, folder / name)

    def try_out(self, candidate: Candidate) -> Tried:
        tried = Tried(**candidate.params, variant=candidate.variant)
        built = self.build(candidate)
        if isinstance(built, str):
            tried.refused = built
        else:
            tried.measured = self._measured(Predictor(built))
        return tried

    def _measured(self, predictor: Predictor) -> Measured:
        first = self.folder(Candidate())
        int8, reference = (Predictor.load(first / name) for name in (INT8, REFERENCE))
        split = self.dataset.splits["validation"]
        texts = list(split.texts)
        logs = _log_ratios(int8, predictor, texts)
        low, high = student(logs)
        given, theirs = (_labels(each, texts) for each in (predictor, reference))
        labels = len(predictor.artifact.labels)
        found = population(_counts(theirs, given, labels), _counts(np.asarray(split.labels), theirs, labels))
        gate = len(self.dataset.splits["gate"])
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
