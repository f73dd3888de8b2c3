"""What becomes of a cascade's promise on other texts: other data, texts rewritten to evade, functional cases.

The rule stays as it was fitted to validation. For each kind of text the study counts how often later stages
are asked, which labels differ from fp32's, and whether the drift alarm says so.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.sameness.shift import NAME, Asked, Shift, Shifted, excerpt
from common.atomic import write_json
from common.commands import emit, positive_int, run, say
from common.options import add_artifacts, add_checkpoint, add_data_dir, add_results
from common.records import plain
from deploy.drift.judge import GIVEN, LENGTHS, Counts, Rule, references
from deploy.drift.shares import look, shares_of
from export.registry import REFERENCE
from handler.errors import UserError
from handler.metrics import dimension
from handler.predictor import Predictor, decide
from training import data
from training.checkpoint import load_data, open_checkpoint
from training.data import Dataset
from training.data.splits import digests
from training.evaluation.perturbations import PERTURBATIONS, perturb
from training.measures import functional
from training.measures.statistics import same_labels

PROMISED = "turned_first_at_most"  # in the proof of an artifact whose first stage is word embeddings
HARMLESS = " Thank you, and have a lovely weekend with music, coffee and friends."


@dataclass(frozen=True)
class Pair:
    """A cascade and fp32 of the same model."""

    cascade: Predictor
    fp32: Predictor

    def row(self, name: str, texts: Sequence[str], found: np.ndarray | None = None) -> Shifted:
        """Of `texts`; of rewritten ones, `found` says which fp32 called positive as they were, bool
        [texts]."""
        say(f"{name}: {len(texts):,} texts")
        counted = dict(self.cascade.asked_again)
        given = _labels(self.cascade, texts)
        asked = {stage: now - counted[stage] for stage, now in self.cascade.asked_again.items()}
        reference = _labels(self.fp32, texts)
        row = Shifted(
            texts=name,
            n=len(texts),
            asked=self._asked(asked, len(texts)),
            turned=int((~same_labels(given, reference)).sum()),
        )
        if found is not None:
            positive = self.fp32.artifact.positive
            row.found = int(found.sum())
            row.lost_fp32 = int((found & (reference != positive)).sum())
            row.lost = int((found & (given != positive)).sum())
        return row

    def found(self, texts: Sequence[str]) -> np.ndarray | None:
        """Which of the texts fp32 calls positive; None where no one label is looked for."""
        positive = self.fp32.artifact.positive
        return None if positive is None else _labels(self.fp32, texts) == positive

    def _asked(self, asked: dict[str, int], texts: int) -> list[Asked]:
        """With what one look at each share says."""
        artifact, rule = self.cascade.artifact, Rule()
        counts: Counts = Counter({(LENGTHS, "inf"): texts})
        for stage, count in asked.items():
            counts[f"asked:{dimension(stage)}", GIVEN] = count
        shares = {share.name: share for share in shares_of(references(artifact), rule)}
        return [
            Asked(
                stage=stage,
                texts=count,
                drift=look(shares[f"asked:{dimension(stage)}"], counts, rule).verdict,
            )
            for stage, count in asked.items()
        ]


def _labels(predictor: Predictor, texts: Sequence[str]) -> np.ndarray:
    meta = predictor.artifact.meta
    scores = np.array([each.scores for each in predictor.predict(texts)])
    return decide(scores, predictor.artifact.labels, meta.thresholds, predictor.artifact.multi_label)


def _others(spec: str, options: argparse.Namespace, own: Dataset) -> list[str]:
    """Texts of other data, of no test split and of no split of the model's own data."""
    splits = data.load(spec, options.data_dir).splits
    texts = [text for name, split in splits.items() if name != "test" for text in split.texts]
    known = np.concatenate([digests(split.texts) for split in own.splits.values()])
    unknown = np.flatnonzero(~np.isin(digests(texts), known))[: options.texts]
    if not len(unknown):
        raise UserError(
            f"{spec} has no texts that the model does not know",
            seen=f"{len(texts):,} texts, all of {own.spec}",
            remedy="Name data that it was not trained on",
        )
    return [texts[row] for row in unknown]


def _rewritten(texts: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """As somebody would who does not want the label."""
    yield "harmless words added", [text + HARMLESS for text in texts]
    for name in PERTURBATIONS:
        yield name, perturb(name, texts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.cascade_shift", description=__doc__)
    add_artifacts(parser)
    add_checkpoint(parser)
    add_results(parser)
    add_data_dir(parser)
    parser.add_argument("variant", help="a cascade, such as openvino-int8-rechecked-cascade")
    parser.add_argument(
        "--on", action="append", default=[], metavar="DATA", help="other data; repeat it for several"
    )
    parser.add_argument(
        "--texts", type=positive_int, default=2000, help="of other data, at most; default: %(default)s"
    )
    options = parser.parse_args(argv)
    pair = Pair(*(Predictor.load(options.artifacts / name) for name in (options.variant, REFERENCE)))
    if len(pair.cascade.models) < 2:
        parser.error(f"{options.variant} has one stage; name a cascade")
    dataset = load_data(open_checkpoint(options.checkpoint))
    gate = list(dataset.splits["gate"].texts)
    rows = [pair.row("gate", gate)]
    rows += [pair.row(spec, _others(spec, options, dataset)) for spec in options.on]
    if functional.applies_to(dataset.labels):
        rows.append(pair.row("functional cases", functional.templates().texts))
    found = pair.found(gate)
    rows += [pair.row(f"gate, {name}", texts, found) for name, texts in _rewritten(gate)]
    document = Shift(
        variant=options.variant,
        data=dataset.spec,
        promised=pair.cascade.artifact.meta.proof.get(PROMISED),
        rows=rows,
    )
    write_json(options.results / f"{NAME}.json", plain(document))
    say(excerpt(document))
    emit(plain(document))
    return 0


if __name__ == "__main__":
    run(main)
