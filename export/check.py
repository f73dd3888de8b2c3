"""A screen before the gate: is the reloaded artifact about as good on validation, through the Predictor?

The reference is the fp32 artifact. fp32 itself is compared with transformers' own tokenizer and model, so
that an error of the Predictor cannot hide on both sides.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.shares import share_interval
from export.registry import REFERENCE
from export.source import Source
from handler.artifact import Artifact
from handler.batching import MicroBatch
from handler.description import Check, Lengths, Reference, Scores
from handler.predictor import Predictor, decide
from training.measures.noninferiority import Drop, drop_between
from training.measures.statistics import indicators, macro_f1, same_labels

# The check proves nothing: variants are rebuilt until they pass it, on texts that offsets and students were
# fitted to. It only spares the gate variants that would fail there. A bad check is recorded, not raised:
# selection and promotion refuse the variant.

# Uses the verdict's own estimator; the gate decides at the user's margin. Without labels, the margin bounds
# the share of texts whose label changes, and therefore the loss of accuracy.
MARGIN = 0.02
# Labels of random weights mean nothing, so their probabilities are compared instead.
RANDOM_MARGIN = 0.02
# fp32 itself is compared with transformers, from which it should not differ.
FP32_MARGIN = 0.001
# A text's score may move by this much with its batch mates; more is a runtime that computes something else.
COMPANY_MARGIN = 0.05
COMPANY_TEXTS = 256


@dataclass(frozen=True)
class Answers:
    """Of the validation texts: their lengths in tokens, what the model says of them, float32 [texts, labels],
    before its offsets and temperature, and how many each later stage was asked."""

    tokens: list[int]
    logits: np.ndarray
    asked: dict[str, int]


def ask(predictor: Predictor, source: Source) -> Answers:
    encodings = predictor.encode(source.dataset.splits["validation"].texts)
    before = dict(predictor.asked_again)
    logits = predictor.logits(encodings)
    asked = {stage: texts - before[stage] for stage, texts in predictor.asked_again.items()}
    return Answers([len(encoding.ids) for encoding in encodings], logits, asked)


def check(
    predictor: Predictor, source: Source, answers: Answers, reference: np.ndarray
) -> tuple[Check, Reference]:
    """Compare the variant's answers with the `reference` scores, float64 [texts, labels], of the same
    validation texts."""
    split = source.dataset.splits["validation"]
    artifact = predictor.artifact
    thresholds = artifact.meta.thresholds
    independent = artifact.multi_label
    scores = predictor.scores(answers.logits)
    difference = np.abs(scores - reference).max(axis=1)
    ours, theirs = (
        decide(values, artifact.labels, thresholds, independent) for values in (scores, reference)
    )
    # Texts without labels were given some that exclude each other: of them agreement alone is kept.
    truth = split.labels if split.multi_label == independent else np.zeros_like(ours)
    differing = int((~same_labels(ours, theirs)).sum())
    company = batch_mate_difference(predictor, split.texts[:COMPANY_TEXTS])
    judged = source.checkpoint.judged  # else labels mean nothing, and no figure of theirs is kept
    held_against_fp32 = partial(drop_between, truth, theirs, labels=len(artifact.labels), groups=split.groups)
    drop = held_against_fp32(ours) if judged else None
    few = drop is not None and drop.high > MARGIN and held_against_fp32(theirs).high > MARGIN
    rule, broken = _judge(source, drop, few, differing, float(difference.max()))
    if artifact.meta.parent is None:  # few texts could not prove that it is equal to itself
        beyond = difference.max() > FP32_MARGIN
        differs = f"it differs from transformers by {difference.max():.4f} ({FP32_MARGIN} is allowed)"
        rule = f"equal to transformers within {FP32_MARGIN}"
        broken = [differs] if beyond else []
    if company > COMPANY_MARGIN:
        broken.append(f"a score moved by {company:.2f} with its batch mates ({COMPANY_MARGIN} is allowed)")
    rule += f", and no score moves by over {COMPANY_MARGIN} with its batch mates"
    found = Check(
        split="validation",
        n=len(split.texts),
        max_prob_diff=_rounded(difference.max()),
        mean_prob_diff=_rounded(difference.mean()),
        label_agreement=_rounded(1 - differing / len(ours)),
        macro_f1=_rounded(_macro_f1(truth, ours, len(artifact.labels))) if judged else None,
        macro_f1_drop=[_rounded(drop.low), _rounded(drop.high)] if drop else None,
        batch_mate_diff=_rounded(company),
        equal=not broken,
        note=f"not equal: {'; '.join(broken)}" if broken else rule,
    )
    return found, distributions(artifact, scores, answers.tokens, answers.asked)


def _macro_f1(truth: np.ndarray, given: np.ndarray, labels: int) -> float:
    return macro_f1(indicators(truth, labels), indicators(given, labels))


def _judge(
    source: Source, drop: Drop | None, few: bool, differing: int, max_difference: float
) -> tuple[str, list[str]]:
    """The rule by which this source's variants pass the screen, and a sentence for each way it is broken. If
    texts have labels, the drop decides. `differing` texts have another label than with fp32. If texts are so
    `few` that not even fp32 itself could pass, only a measured drop counts."""
    n = len(source.dataset.splits["validation"].texts)
    if drop is not None:
        rule = f"screened: validation shows no macro-F1 drop of over {MARGIN}"
        if drop.high <= MARGIN:
            return rule, []
        if few and drop.drop <= MARGIN:
            return f"{rule}, as far as {n} texts can tell", []
        return rule, [f"its macro-F1 on validation may be {drop.high:.3f} below fp32's ({MARGIN} is allowed)"]
    if source.checkpoint.trained:
        rule = f"screened without labels: validation shows at most {MARGIN:.0%} of labels that differ"
        _, share = share_interval(differing, n)
        if share <= MARGIN:
            return rule, []
        if share_interval(0, n)[1] > MARGIN and differing <= MARGIN * n:
            return f"{rule}, as far as {n} texts can tell", []
        broken = f"{differing} of {n} labels differ from fp32's, so up to {share:.1%} may"
        return rule, [f"{broken} ({MARGIN:.0%} is allowed)"]
    rule = f"random weights, so labels mean nothing; no probability differs by over {RANDOM_MARGIN}"
    broken = f"a probability differs by {max_difference:.3f} ({RANDOM_MARGIN} is allowed)"
    return rule, [broken] if max_difference > RANDOM_MARGIN else []


def batch_mate_difference(predictor: Predictor, texts: Sequence[str]) -> float:
    """The largest change of a text's score between a request of its own and a full batch of any shape.

    Every shape of the grid is run by every model: a text may end up in any of them, depending on the other
    texts, and a kernel that is wrong for one shape only shows nowhere else.
    """
    encodings = predictor.encode(texts)
    largest = 0.0
    for model in predictor.models:
        alone = np.concatenate(
            [predictor.scores(predictor.logits([encoding], [model])) for encoding in encodings]
        )
        for batch, length in predictor.grid.shapes():
            fitting = [row for row, encoding in enumerate(encodings) if len(encoding.ids) <= length]
            if not fitting:
                continue
            rows = tuple(itertools.islice(itertools.cycle(fitting), batch + length, 2 * batch + length))
            logits = predictor.run(encodings, MicroBatch(rows, batch, length, batch * length), model)
            largest = max(largest, float(np.abs(predictor.scores(logits) - alone[list(rows)]).max()))
    return largest


_of_fp32: dict[tuple[str, Path, tuple[str, ...]], np.ndarray] = {}


def fp32_scores(source: Source, texts: Sequence[str] | None = None) -> np.ndarray:
    """Scores of the validation texts, or of other `texts`, by the fp32 artifact, float64 [texts, labels];
    once for each source."""
    chosen = tuple(source.dataset.splits["validation"].texts if texts is None else texts)
    key = source.sha256, source.artifacts, chosen
    if key not in _of_fp32:
        fp32 = Predictor.load(source.artifacts / REFERENCE)
        _of_fp32[key] = np.array([prediction.scores for prediction in fp32.predict(chosen)])
    return _of_fp32[key]


def reference_scores(source: Source, batch: int = 32) -> np.ndarray:
    """Scores of the validation texts by transformers alone, rounded as the Predictor's are."""
    import torch
    from transformers import AutoTokenizer

    meta = source.checkpoint.meta
    tokenizer = AutoTokenizer.from_pretrained(
        source.checkpoint.folder, local_files_only=True, trust_remote_code=False
    )
    model = source.model()
    texts = source.dataset.splits["validation"].texts
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            inputs = tokenizer(
                list(texts[start : start + batch]),
                padding=True,
                padding_side="right",
                truncation=True,
                max_length=meta.max_length,
                return_tensors="pt",
            )
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            scaled = logits.double() / meta.temperature
            scores = scaled.sigmoid() if source.checkpoint.multi_label else scaled.softmax(dim=-1)
            rows.append(scores.numpy())
    return np.round(np.concatenate(rows), 6)


def distributions(
    artifact: Artifact, scores: np.ndarray, tokens: Sequence[int], asked: dict[str, int] | None = None
) -> Reference:
    """Histograms (ten bins) of the score of the positive one of two labels, else of every label's, and of the
    lengths in tokens (by bucket); how many texts were given each label, and how many each later stage was
    asked."""
    lengths = artifact.grid.lengths
    counts = [np.histogram(column, bins=10, range=(0, 1))[0].tolist() for column in scores.T]
    of_lengths, _ = np.histogram(tokens, bins=[0, *(top + 1 for top in lengths)])
    place = artifact.positive if len(counts) == 2 else None
    of_scores = Scores(
        edges=[round(edge / 10, 1) for edge in range(11)],
        counts=counts[-1 if place is None else place],
        labels=dict(zip(artifact.labels, counts, strict=True)) if place is None else None,
    )
    decisions = decide(scores, artifact.labels, artifact.meta.thresholds, artifact.multi_label)
    given = indicators(decisions, len(artifact.labels)).sum(axis=0).tolist()
    of_labels = dict(zip(artifact.labels, given, strict=True))
    return Reference(of_scores, Lengths(list(lengths), of_lengths.tolist()), of_labels, asked or None)


def _rounded(value: float) -> float:
    return round(float(value), 6)
