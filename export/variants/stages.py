"""Variants of several stages: a cheap model answers the easy texts, int8 the rest, and more bits the close
ones.

They are put together from artifacts that were built before. Every rule comes from validation texts, and from
traffic where it is given.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_expit, log_softmax

from common.shares import kept_in_sequence, share_interval
from export.check import fp32_scores
from export.operating_point import fit_offsets
from export.registry import TRACED, Built, RefusedError, variant
from export.source import Source
from export.variants.onnx import onnx_fp32
from export.variants.openvino import openvino_bf16, openvino_fp32
from handler.artifact import DESCRIPTION, SIGNATURE, TOKENIZER, Artifact, open_artifact
from handler.bands import decisions
from handler.description import Description
from handler.machine import cpu_features
from handler.predictor import Predictor, decide
from handler.records import plain
from handler.self_check import FILE
from handler.stages import BANDS, OPTION, Stage, ends_of, margins, stages_of
from training.measures.calibration import Calibration
from training.measures.statistics import same_labels

INT8, EXACT, STATIC = "int8", "exact", "static"  # names of stages
# Shares of the texts that the rule is fitted to.
MOST_ASKED = 0.2  # beyond, more bits for all of them would be as fast
LEAST_ANSWERED = 0.1  # below, the first stage costs more than it saves
CONFIDENCE = 0.95  # of the bound on labels that a first stage turns
# Widths, in logits, that are tried from strict to loose: set before any text is seen.
WIDTHS = np.arange(400, -1, -1) / 20

rechecked = partial(variant, "rechecked", kinds=TRACED, options=("traffic",), tried=True)
cascade = partial(variant, "cascade", kinds=TRACED, options=("may_turn", "traffic"), tried=True)


@rechecked(
    runtime="openvino",
    parents=("openvino-int8", "pruned-openvino-int8"),
    requires=("openvino", "nncf"),
    summary="OpenVINO in int8; texts near another label are asked again in bf16, or fp32 without AVX-512",
)
def openvino_int8_rechecked(source: Source, folder: Path) -> Built:
    return _rechecked(source, folder, openvino_bf16 if _has_bf16(source) else openvino_fp32)


@rechecked(
    runtime="onnx",
    parents=("onnx-int8",),
    requires=("onnx", "onnxruntime", "optimum-onnx"),
    summary="ONNX Runtime in int8; texts near another label are asked again in fp32",
)
def onnx_int8_rechecked(source: Source, folder: Path) -> Built:
    return _rechecked(source, folder, onnx_fp32)


@cascade(
    runtime="openvino",
    parents=(
        "openvino-int8",
        "openvino-int8-rechecked",
        "pruned-openvino-int8",
        "pruned-openvino-int8-rechecked",
    ),
    also=("static-openvino-fp32",),
    requires=("openvino", "nncf"),
    summary="word embeddings answer the easy texts, OpenVINO in int8 the rest",
)
def openvino_cascade(source: Source, folder: Path) -> Built:
    faster = {"INFERENCE_PRECISION_HINT": "bf16"} if _has_bf16(source) else {}
    return _cascade(source, folder, "static-openvino-fp32", faster)


@cascade(
    runtime="onnx",
    parents=("onnx-int8", "onnx-int8-rechecked"),
    also=("static-onnx-fp32",),
    requires=("onnx", "onnxruntime", "optimum-onnx"),
    summary="word embeddings answer the easy texts, ONNX Runtime in int8 the rest",
)
def onnx_cascade(source: Source, folder: Path) -> Built:
    return _cascade(source, folder, "static-onnx-fp32", {})


def _has_bf16(source: Source) -> bool:
    """Whether OpenVINO is to compute in bf16 what is not int8."""
    return "avx512_bf16" in cpu_features() and not source.portable


def _rechecked(source: Source, folder: Path, build_exact: Callable[[Source, Path], Built]) -> Built:
    """The int8 artifact, and behind it a model in more bits."""
    int8 = open_artifact(source.weights)
    whole = replace(source, weights_from=None)  # the reference's own weights, not those of int8
    (folder / EXACT).mkdir()
    exact = build_exact(whole, folder / EXACT)
    first, *_ = _copied(int8, folder, INT8)
    stages = [first, Stage(EXACT, [0.0] * len(int8.labels), options=exact.runtime_options)]
    reference = fp32_scores(source, source.rule_texts)
    (margin, turned), (_, still_turned) = (
        against_fp32(int8, logits, reference) for logits in _ask(source, folder, int8, stages)
    )
    found = recheck_rule(margin, turned, ~still_turned)
    asked, seen = found["asked_again"], found["rule_texts"]
    if asked > MOST_ASKED * seen:
        raise RefusedError(
            "a re-check would ask too many texts again to save time",
            seen=f"{asked} of {seen} texts; at most {MOST_ASKED:.0%} may be",
            remedy=f"Serve {int8.name}, or a variant in more bits",
        )
    facts = int8.meta.proof | {"second": exact.proof} | found  # most products are int8's
    facts["summary"] = f"{asked / seen:.1%} of texts asked again; {int8.meta.proof['summary']}"
    return _built(int8, facts, [replace(first, width=found["width"]), stages[1]])


def recheck_rule(margin: np.ndarray, turned: np.ndarray, righted: np.ndarray) -> dict[str, Any]:
    """The least width beyond which int8 turns no label of a text that the exact model would right, and what
    follows: from each text's margin [texts], whether int8 turned its label, and whether the exact model gives
    fp32's."""
    largest = float(margin[turned & righted].max(initial=0.0))
    width = math.ceil(largest * 1000) / 1000  # logits of another batch differ in their last digits
    return {
        "width": width,
        "rule_texts": len(margin),
        "asked_again": int((margin <= width).sum()),
        "labels_turned_by_int8": int(turned.sum()),
        # Of all texts, with 97.5 % confidence: a tolerance limit (Wilks, 1941) of the margins at which int8
        # turns a label, from as many texts. Nothing is assumed of their distribution.
        "turned_beyond_at_most": round(share_interval(0, len(margin))[1], 6),
    }


def _cascade(source: Source, folder: Path, student: str, faster: dict[str, Any]) -> Built:
    """A student before the models of the parent, run with options that make it `faster`."""
    parent, cheap = open_artifact(source.weights), open_artifact(source.artifacts / student)
    first, *_ = _copied(cheap, folder, STATIC)
    first = replace(first, options=first.options | faster)
    rest = _copied(parent, folder, INT8)
    (raw,) = _ask(source, folder, parent, [replace(first, offsets=[0.0] * len(parent.labels))])
    reference = fp32_scores(source, source.rule_texts)
    scale, offsets, found = fit_first(parent, raw, reference, source.may_turn)
    first = replace(first, scale=scale, offsets=offsets, windows=False)
    answered, seen = found["answered_first"], found["rule_texts"]
    if answered < LEAST_ANSWERED * seen:
        raise RefusedError(
            "word embeddings answer too few texts for a cascade to help",
            seen=f"{answered} of {seen} texts, if at most {source.may_turn:.1%} of all may get another label "
            "than from fp32",
            remedy=f"Serve {parent.name}. More texts to learn from (--unlabelled) or to fit the rule to "
            "(--traffic), or a larger --may-turn, may help",
        )
    facts = parent.meta.proof | found
    facts["summary"] = f"{answered / seen:.0%} of texts answered first; {parent.meta.proof['summary']}"
    return _built(parent, facts, [replace(first, width=found["first_width"]), *rest])


def fit_first(
    artifact: Artifact, logits: np.ndarray, reference: np.ndarray, most: float
) -> tuple[float, list[float], dict[str, Any]]:
    """Scale, offsets and rule of a first stage, from its logits and fp32's scores of the same texts, both
    [texts, labels]."""
    scale = fit_scale(logits, reference, artifact)
    offsets = fit_offsets(artifact, scale * logits, reference)
    margin, turned = against_fp32(artifact, scale * logits + offsets, reference)
    return scale, offsets, cascade_rule(margin, turned, most)


def against_fp32(
    artifact: Artifact, logits: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of logits on fp32's scale and fp32's scores, both [texts, labels]: margins, and whether the label or
    the decision is another than fp32's, both [texts]."""
    meta, independent = artifact.meta, artifact.multi_label
    scores = Calibration(meta.temperature, meta.thresholds, independent).scores(logits)
    served = (np.round(scores, 6), reference)
    ours, theirs = (decide(values, artifact.labels, meta.thresholds, independent) for values in served)
    turned = ~same_labels(ours, theirs)
    if meta.bands is not None:
        assert artifact.positive is not None
        ours, theirs = (decisions(values, artifact.positive, meta.bands) for values in served)
        turned |= ours != theirs
    return margins(meta, logits), turned


def cascade_rule(margin: np.ndarray, turned: np.ndarray, most: float) -> dict[str, Any]:
    """The least width beyond which a first stage may answer, and what follows: from each text's margin
    [texts] and whether it gives it another label than fp32.

    Widths are tried from strict to loose (`kept_in_sequence`), as long as the share of all texts that are
    answered with another label is at most `most`.
    """
    counts = ((int(turned[margin > tried].sum()), len(margin)) for tried in WIDTHS)
    kept, bound = kept_in_sequence(counts, most, CONFIDENCE)
    width = float(WIDTHS[kept - 1]) if kept else math.inf
    answered = margin > width
    return {
        "first_width": width,
        "rule_texts": len(margin),
        "answered_first": int(answered.sum()),
        "turned_first": int((answered & turned).sum()),
        "turned_first_at_most": round(bound, 6),  # with 95 % confidence, of all texts
    }


def least_texts(most: float) -> int:
    """So many texts without a single label turned prove that at most the share `most` is."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-most))


def fit_scale(logits: np.ndarray, reference: np.ndarray, artifact: Artifact) -> float:
    """By what to multiply logits [texts, labels] so that their scores are closest to fp32's [texts, labels]
    (cross-entropy, with free offsets)."""
    labels, temperature = logits.shape[1], artifact.meta.temperature

    def distance(values: np.ndarray) -> float:
        moved = (np.exp(values[0]) * logits + values[1:]) / temperature
        if artifact.multi_label:
            gained = reference * log_expit(moved) + (1 - reference) * log_expit(-moved)
        else:
            gained = reference * log_softmax(moved, axis=1)
        return -float(gained.sum(axis=1).mean())

    bounds = [(math.log(0.01), math.log(100.0)), *[(-100.0, 100.0)] * labels]
    found = minimize(distance, np.zeros(1 + labels), method="L-BFGS-B", bounds=bounds)
    return round(float(np.exp(found.x[0])), 6)


def _copied(artifact: Artifact, folder: Path, name: str) -> list[Stage]:
    """The models of an artifact, copied into `folder`: under its stages' names, or `name` if it is one."""
    others = shutil.ignore_patterns(DESCRIPTION, SIGNATURE, TOKENIZER, FILE)
    stages = stages_of(artifact.meta)
    if stages:
        for stage in stages:
            shutil.copytree(artifact.folder / stage.name, folder / stage.name, ignore=others)
        return stages
    shutil.copytree(artifact.folder, folder / name, ignore=others)
    offsets = artifact.meta.logit_offsets or [0.0] * len(artifact.labels)
    return [Stage(name, offsets, options=artifact.meta.runtime_options)]


def _ask(source: Source, folder: Path, parent: Artifact, stages: Sequence[Stage]) -> list[np.ndarray]:
    """What each stage alone says of the source's `rule_texts`: logits on fp32's scale [texts, labels]."""
    shutil.copy(parent.folder / TOKENIZER, folder / TOKENIZER)
    options = _options(parent.meta, stages)
    # What is put together has no self-check yet, though its parent does.
    meta = replace(parent.meta, files={}, runtime_options=options, logit_offsets=None)
    predictor = Predictor(Artifact(folder, meta))
    encodings = predictor.encode(source.rule_texts)
    return [predictor.logits(encodings, [model]) for model in predictor.models]


def _built(parent: Artifact, facts: dict[str, Any], stages: Sequence[Stage]) -> Built:
    options = _options(parent.meta, stages)
    return Built(facts, options, tuple(parent.meta.cpu_features), needs_offsets=False)


def _options(meta: Description, stages: Sequence[Stage]) -> dict[str, Any]:
    """Of a runtime: the stages, and the bands that their widths are fitted for."""
    bands = {} if meta.bands is None else {BANDS: ends_of(meta)}
    return {OPTION: [plain(stage) for stage in stages]} | bands
