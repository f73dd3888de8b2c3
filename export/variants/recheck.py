"""Int8 with its labels back: texts that int8 nearly gave another label are asked again in more bits."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.shares import share_interval
from export import proof
from export.registry import REFERENCE, TRACED, Built, variant
from export.source import Source
from export.variants.onnx import onnx_fp32
from export.variants.openvino import openvino_bf16, openvino_fp32
from handler.artifact import DESCRIPTION, SIGNATURE, TOKENIZER, Artifact, open_artifact
from handler.machine import cpu_features
from handler.predictor import Predictor, decide
from handler.recheck import FIRST, OPTION, SECOND, margins
from training.measures.statistics import same_labels

ALWAYS = 1e9  # logits: a width that every text is within
MOST_ASKED = 0.2  # of the validation texts: beyond, more bits for all of them would be as fast

rechecked = partial(variant, "rechecked", kinds=TRACED)


@rechecked(
    runtime="openvino",
    parents=("openvino-int8",),
    requires=("openvino", "nncf"),
    summary="OpenVINO in int8; texts near another label are asked again in bf16, or fp32 without AVX-512",
)
def openvino_int8_rechecked(source: Source, folder: Path) -> Built:
    more = openvino_bf16 if "avx512_bf16" in cpu_features() else openvino_fp32
    return _rechecked(source, folder, more)


@rechecked(
    runtime="onnx",
    parents=("onnx-int8",),
    requires=("onnx", "onnxruntime", "optimum-onnx"),
    summary="ONNX Runtime in int8; texts near another label are asked again in fp32",
)
def onnx_int8_rechecked(source: Source, folder: Path) -> Built:
    return _rechecked(source, folder, onnx_fp32)


def _rechecked(source: Source, folder: Path, build_second: Callable[[Source, Path], Built]) -> Built:
    """Copy the int8 artifact that was built before as the first model, and build the second."""
    whole = replace(source, weights_from=None)  # the reference's own weights, not those of int8
    int8 = open_artifact(source.weights)
    others = shutil.ignore_patterns(DESCRIPTION, SIGNATURE, TOKENIZER)
    shutil.copytree(int8.folder, folder / FIRST, ignore=others)
    (folder / SECOND).mkdir()
    second = build_second(whole, folder / SECOND)
    found = _fit(whole, folder, int8, second)
    asked, seen = found["asked_again"], found["validation_texts"]
    proof.require(asked <= MOST_ASKED * seen, f"at most {MOST_ASKED:.0%} of texts asked again", found)
    facts = int8.meta.proof | {"second": second.proof} | found  # most products are int8's
    facts["summary"] = f"{asked / seen:.1%} of texts asked again; {int8.meta.proof['summary']}"
    options = {OPTION: _options(int8, second, found["width"])}
    return Built(facts, options, tuple(int8.meta.cpu_features), needs_offsets=False)


def _options(int8: Artifact, second: Built, width: float) -> dict[str, Any]:
    return {
        "width": width,
        "offsets": int8.meta.logit_offsets or [0.0] * len(int8.labels),
        "first": int8.meta.runtime_options,
        "second": second.runtime_options,
    }


def _fit(source: Source, folder: Path, int8: Artifact, second: Built) -> dict[str, Any]:
    """The least width beyond which int8 turns no label of a validation text that the second model would
    right, and what follows for other texts."""
    texts = source.dataset.splits["validation"].texts
    shutil.copy(int8.folder / TOKENIZER, folder / TOKENIZER)
    always = {OPTION: _options(int8, second, ALWAYS)}
    meta = replace(int8.meta, runtime_options=always, logit_offsets=None)
    wanted, _ = _asked(Predictor.load(source.artifacts / REFERENCE), texts)
    given, logits = _asked(Predictor(int8), texts)
    again, _ = _asked(Predictor(Artifact(folder, meta)), texts)
    margin = margins(int8.meta, logits + np.array(int8.meta.logit_offsets or 0.0))
    return rule(margin, ~same_labels(given, wanted), same_labels(again, wanted))


def rule(margin: np.ndarray, turned: np.ndarray, righted: np.ndarray) -> dict[str, Any]:
    """The width from each text's margin [texts], whether int8 turned its label, and whether the second model
    gives fp32's; and what follows."""
    largest = float(margin[turned & righted].max(initial=0.0))
    width = math.ceil(largest * 1000) / 1000  # logits of another batch differ in their last digits
    return {
        "width": width,
        "validation_texts": len(margin),
        "asked_again": int((margin <= width).sum()),
        "labels_turned_by_int8": int(turned.sum()),
        # Of all texts, with 97.5 % confidence: a tolerance limit (Wilks, 1941) of the margins at which int8
        # turns a label, from as many texts. Nothing is assumed of their distribution.
        "turned_beyond_at_most": round(share_interval(0, len(margin))[1], 6),
    }


def _asked(predictor: Predictor, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels, as `decide` gives them, and the model's own logits."""
    logits = predictor.logits(predictor.encode(texts))
    artifact = predictor.artifact
    scores = predictor.scores(logits)
    return decide(scores, artifact.labels, artifact.meta.thresholds, artifact.multi_label), logits
