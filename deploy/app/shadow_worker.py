"""The shadow's own process: reads batches of served texts, a line each, and writes a `Report` after each.

It has the lowest priority, so that it takes only what the server leaves of the CPUs, and it is the first to
go where memory runs out. It ends when the server does.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.commands import run
from common.flips import ways
from deploy.app.shadow import Kind, Offered, Report
from deploy.drift.judge import Counts, Rule
from deploy.drift.shares import COMPARED, FLIPPED, FLIPS, count_flips, flip_shares
from deploy.drift.watch import Detectors
from handler.answers import DECISIONS
from handler.predictor import Predictor
from handler.records import read
from handler.replies import report

OF_DECISIONS = f"{FLIPS}:decision"


class Comparison:
    """`predictor`'s labels against those served; with `decides`, decisions too."""

    def __init__(self, predictor: Predictor, max_flip: float, decides: bool) -> None:
        artifact = predictor.artifact
        kinds = {FLIPS: ways(artifact.labels, artifact.multi_label)}
        if decides:
            kinds[OF_DECISIONS] = ways(DECISIONS, independent=False)
        self._predictor = predictor
        self._ways = {name: [way for pair in pairs for way in pair] for name, pairs in kinds.items()}
        self._counts = Counts()
        self._detectors = Detectors(flip_shares(kinds, Rule(max_flip=max_flip)), Rule(max_flip=max_flip))

    def add(self, batch: Sequence[Offered]) -> None:
        aggregates = [each.aggregate for each in batch]
        encodings = self._predictor.encode(
            [each.text for each in batch], [each is not None for each in aggregates]
        )
        counts = Counts()
        for each, prediction in zip(batch, self._predictor.classify(encodings, aggregates), strict=True):
            answer: Mapping[str, Any] = {**self._predictor.answer(prediction)}
            ours = answer["labels"] if "labels" in answer else answer["label"]
            count_flips(counts, FLIPS, each.served, ours)
            if OF_DECISIONS in self._ways and each.decision and "decision" in answer:
                count_flips(counts, OF_DECISIONS, each.decision, answer["decision"])
        self._detectors.add(counts)
        self._counts.update(counts)

    def report(self) -> Report:
        return Report(self._counts[FLIPS, COMPARED], {name: self._kind(name) for name in self._ways})

    def _kind(self, name: str) -> Kind:
        alarmed = self._detectors.alarmed()
        return Kind(
            self._counts[name, FLIPPED],
            {way: self._counts[name, way] for way in self._ways[name]},
            max(detector.progress for detector in self._detectors.of(name)),
            [
                share.name
                for share in self._detectors.shares
                if share.distribution == name and share.name in alarmed
            ],
        )


def step_back() -> None:
    """Leave CPUs and memory to others; threads that are started later do, too."""
    os.nice(19)
    with suppress(OSError):  # of Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="shadow", description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("max_flip", type=float)
    parser.add_argument("decisions", nargs="?", help="compare decisions, too")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's
    step_back()
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a runtime prints is no report
    predictor = Predictor.load(options.artifact, threads=1)
    predictor.warm()
    comparison = Comparison(predictor, options.max_flip, bool(options.decisions))
    print(json.dumps(asdict(comparison.report())), file=reports, flush=True)
    for line in sys.stdin:
        try:
            comparison.add([read(Offered, each) for each in json.loads(line)])
        except Exception as error:  # its message may quote a text
            report(error)
            return 1
        print(json.dumps(asdict(comparison.report())), file=reports, flush=True)
    return 0


if __name__ == "__main__":
    run(main)
