"""Do decisions keep their promises? Bands fitted to validation, judged on gate and test, for each variant.

Validation and gate together are also taken as all texts there are: bands are fitted to draws from them, and
judged on all of them, which counts how often a promise is broken.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.sameness.decisions import decided
from benchmarks.sameness.promises import NAME, Found, Goal, Promised, Promises, excerpt
from common.atomic import write_json
from common.commands import emit, positive_int, run, say
from common.options import add_artifacts, add_checkpoint, add_results
from common.records import plain, read
from export.registry import REFERENCE
from handler.artifact import Artifact, read_json
from handler.bands import decide_bands
from handler.description import Bands
from handler.errors import UserError
from handler.predictor import Predictor
from training.checkpoint import load_data, open_checkpoint
from training.data.splits import Split
from training.measures.bands import Goals, Judged, counted, fit, share_of

ASKED = {
    "precision 0.9": Goals(precision=0.9),
    "precision 0.8": Goals(precision=0.8),
    "recall 0.9": Goals(recall=0.9),
    "false-positive rate 0.05": Goals(false_positive_rate=0.05),
    "review share 0.1": Goals(review_share=0.1),
}


def draws_of(population: Judged, texts: int, goals: Goals, threshold: float, draws: int) -> tuple[int, int]:
    """Of so many fits to draws of so many `texts`, how many promise, and how many break their promise."""
    rng = np.random.default_rng(0)
    promised = 0
    broken = 0
    for _ in tqdm(range(draws), "draws", disable=None, leave=False):
        try:
            bands = fit(population.take(rng.integers(len(population), size=texts)), goals, threshold)
        except UserError:
            continue
        promised += 1
        ends = decide_bands(population.scores, bands.act, bands.review)
        (promise,) = bands.promises
        wrong, among = counted(promise.kind, ends, population.truth)
        broken += wrong > share_of(promise.kind, promise.promised) * among
    return promised, broken


class Scored(NamedTuple):
    """A variant, and its scores [texts, labels] by split."""

    name: str
    artifact: Artifact
    scores: dict[str, np.ndarray]

    def with_bands(self, bands: Bands) -> Artifact:
        return Artifact(self.artifact.folder, replace(self.artifact.meta, bands=bands))


def _scored(folder: Path, name: str, splits: Mapping[str, Split]) -> Scored:
    predictor = Predictor.load(folder)
    scores = {
        split: np.array([answer.scores for answer in predictor.predict(list(texts.texts))])
        for split, texts in splits.items()
    }
    say(f"{name}: scored")
    return Scored(name, predictor.artifact, scores)


def _found(goal: str, variant: Scored, fp32: Scored, bands: Bands, name: str, split: Split) -> Found:
    """What the variant decides by these bands, on the split of this name."""
    outcome = decided(
        variant.with_bands(bands),
        variant.scores[name],
        fp32.with_bands(bands),
        fp32.scores[name],
        split.labels,
        split.groups,
    )
    assert outcome is not None
    return Found(goal=goal, variant=variant.name, split=name, n=len(split), decided=outcome)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.decisions", description=__doc__)
    add_artifacts(parser)
    add_checkpoint(parser)
    add_results(parser)
    parser.add_argument("variants", nargs="*", help="other artifacts to judge besides fp32")
    parser.add_argument("--draws", type=positive_int, default=200, help="default: %(default)s")
    parser.add_argument("--test", action="store_true", help="judge on the test split too: once, at the end")
    arguments = parser.parse_args(argv)
    checkpoint = open_checkpoint(arguments.checkpoint)
    names = ["validation", "gate", *(["test"] if arguments.test else [])]
    splits = {name: load_data(checkpoint).splits[name] for name in names}
    variants = [
        _scored(arguments.artifacts / variant, variant, splits)
        for variant in (REFERENCE, *arguments.variants)
    ]
    fp32 = variants[0]
    reference = fp32.artifact
    place = reference.positive
    if place is None or reference.positive_label is None:
        parser.error("the classifier has no positive label")
    judged = {
        name: Judged(fp32.scores[name][:, place], split.labels == place) for name, split in splits.items()
    }
    both = [judged[name] for name in ("validation", "gate")]
    population = Judged(
        np.concatenate([texts.scores for texts in both]), np.concatenate([texts.truth for texts in both])
    )
    threshold = reference.meta.thresholds.get(reference.positive_label, 0.5)
    asked = []
    found = []
    for words, goals in ASKED.items():
        validation = judged["validation"]
        drawn = draws_of(population, len(validation), goals, threshold, arguments.draws)
        goal = Goal(goal=words, draws=arguments.draws, promised=drawn[0], broken=drawn[1])
        asked.append(goal)
        try:
            bands = fit(validation, goals, threshold)
        except UserError as error:
            goal.refused = f"{error.seen}"
            continue
        goal.act = bands.act
        goal.review = bands.review
        found += [
            _found(words, variant, fp32, bands, name, splits[name])
            for name in names[1:]
            for variant in variants
        ]
    own = Promised(
        data=checkpoint.meta.data.spec,
        label=reference.positive_label,
        fitted=len(splits["validation"]),
        goals=asked,
        found=found,
    )
    document = _with(arguments.results / f"{NAME}.json", own)
    say(excerpt(document))
    emit(plain(document))
    return 0


def _with(path: Path, own: Promised) -> Promises:
    """The file with these promises among those of other data."""
    document = read(read_json(path), Promises) if path.is_file() else Promises(classifiers=[])
    others = [promised for promised in document.classifiers if promised.data != own.data]
    document = Promises(classifiers=[*others, own])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plain(document))
    return document


if __name__ == "__main__":
    run(main)
