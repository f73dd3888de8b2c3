"""How often a cascade's first stage keeps its promise, counted over draws from a known population of texts.

Validation and gate together are taken as all texts there are, with fp32's labels. Each rule is fitted to some
of them, drawn with replacement, as many as validation has or more, and judged on all of them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from benchmarks.sameness.first_stages import NAME, FirstStages, Kept, table
from common.atomic import write_json
from common.commands import emit, positive_int, run, say
from common.options import add_artifacts, add_checkpoint, add_results
from common.records import plain
from export.registry import REFERENCE
from export.variants.stages import STATIC, against_fp32, fit_first
from handler.artifact import Artifact
from handler.predictor import Predictor
from training.checkpoint import load_data, open_checkpoint

SHARES = (0.005, 0.01, 0.02)  # of labels that a first stage may turn
TRAFFIC = 10_000  # texts


@dataclass(frozen=True)
class Texts:
    """Of a split: the first stage's own logits and fp32's scores, both [texts, labels]."""

    logits: np.ndarray
    reference: np.ndarray

    def take(self, rows: np.ndarray) -> "Texts":
        return Texts(self.logits[rows], self.reference[rows])


def kept(artifact: Artifact, validation: Texts, gate: Texts, allowed: float, rules: int, texts: int) -> Kept:
    """Of rules that are each fitted to a draw of so many texts."""
    population = Texts(
        np.concatenate([validation.logits, gate.logits]),
        np.concatenate([validation.reference, gate.reference]),
    )
    rng = np.random.default_rng(0)
    broken = 0
    answered = 0.0
    for _ in tqdm(range(rules), f"{allowed:.1%}, {texts:,} texts", disable=None):
        drawn = population.take(rng.integers(len(population.logits), size=texts))
        share, turned = _outcome(artifact, drawn, population, allowed)
        broken += turned > allowed
        answered += share / rules
    found = Kept(allowed=allowed, texts=texts, rules=rules, broken=broken, answered=answered)
    if texts == len(validation.logits):
        found.answered_gate, found.turned_gate = _outcome(artifact, validation, gate, allowed)
    return found


def _outcome(artifact: Artifact, fitted: Texts, judged: Texts, allowed: float) -> tuple[float, float]:
    """A rule is fitted to some texts: the shares of others that it answers, and whose labels it turns."""
    scale, offsets, found = fit_first(artifact, fitted.logits, fitted.reference, allowed)
    margin, turned = against_fp32(artifact, scale * judged.logits + offsets, judged.reference)
    answered = margin > found["first_width"]
    return float(answered.mean()), float((answered & turned).mean())


def _texts(cascade: Predictor, fp32: Predictor, texts: Sequence[str]) -> Texts:
    first, *_ = cascade.models
    assert first.stage is not None
    on_scale = cascade.logits(cascade.encode(texts), [first])
    own = (on_scale - np.array(first.stage.offsets)) / first.stage.scale
    return Texts(own, np.array([answer.scores for answer in fp32.predict(texts)]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.first_stage", description=__doc__)
    add_artifacts(parser)
    add_checkpoint(parser)
    add_results(parser)
    parser.add_argument("variant", help="a cascade, such as openvino-int8-cascade")
    parser.add_argument("--rules", type=positive_int, default=200, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    cascade, fp32 = (Predictor.load(arguments.artifacts / name) for name in (arguments.variant, REFERENCE))
    if cascade.models[0].name != STATIC:
        parser.error(f"{arguments.variant} does not begin with word embeddings; name a cascade")
    splits = load_data(open_checkpoint(arguments.checkpoint)).splits
    validation, gate = (_texts(cascade, fp32, splits[name].texts) for name in ("validation", "gate"))
    found = [
        kept(cascade.artifact, validation, gate, allowed, arguments.rules, texts)
        for allowed in SHARES
        for texts in (len(validation.logits), TRAFFIC)
    ]
    document = FirstStages(variant=arguments.variant, rules=found)
    write_json(arguments.results / f"{NAME}.json", plain(document))
    say(table(document))
    emit(plain(document))
    return 0


if __name__ == "__main__":
    run(main)
