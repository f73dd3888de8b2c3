"""Stages: an artifact of several models, in which a text goes on to the next until one is sure of its label.

A first stage may be cheap and answer the easy texts, a last one exact and settle those near a threshold. Each
lies in a folder of its own; all run on one runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np

from handler.artifact import Artifact
from handler.batching import Forward
from handler.description import Description, Offset
from handler.records import Bounds, read

OPTION = "stages"  # of `Description.runtime_options`
BANDS = "bands"  # another: the ends of the bands that the stages' widths were fitted for
LEAST_SCORE = 5e-7  # scores have six decimals


@dataclass(frozen=True)
class Stage:
    """One model: `name` is its folder in the artifact, `options` are its runtime's.

    Its logits, times `scale` and moved by `offsets`, are on fp32's scale. A text goes on where they lie
    within `width` of another label; the last stage answers all that it is asked. `windows` says whether it
    may answer parts of texts that are longer than the model reads.
    """

    name: Annotated[str, Bounds(pattern=r"\A[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")]
    offsets: list[Offset]
    width: Annotated[float, Bounds(minimum=0)] = 0.0
    scale: Annotated[float, Bounds(exclusiveMinimum=0, maximum=1000)] = 1.0
    windows: bool = True
    options: dict[str, Any] = field(default_factory=dict)


class Model:
    """A loaded stage, or the one model of an artifact without stages. `forward` computes one call with all
    threads; `streams`, if there are any, share the threads, and each computes a call while the others do."""

    def __init__(
        self, meta: Description, forward: Forward, stage: Stage | None = None, streams: Sequence[Forward] = ()
    ) -> None:
        self.forward, self.stage, self.streams = forward, stage, tuple(streams)
        self.name = stage.name if stage else ""
        self.windows = stage is None or stage.windows
        self._meta = meta
        self._offsets = np.array(stage.offsets if stage else 0.0, np.float32)

    def __call__(self, ids: np.ndarray, mask: np.ndarray, forward: Forward | None = None) -> np.ndarray:
        """int64 [batch, length], twice -> logits on fp32's scale, float32 [batch, labels], by `forward` or by
        one of the streams."""
        logits = (forward or self.forward)(ids, mask)
        if self.stage is not None:
            logits = np.float32(self.stage.scale) * logits + self._offsets
        return logits

    def unsure(self, logits: np.ndarray) -> np.ndarray:
        """Of each text, bool [texts], whether the next stage is to be asked."""
        width = self.stage.width if self.stage else 0.0
        return np.asarray(margins(self._meta, logits) <= width)


def stages_of(meta: Description) -> list[Stage]:
    """The stages of an artifact, none where it has one model. ValueError says what is wrong with them."""
    given = meta.runtime_options.get(OPTION, [])
    if not isinstance(given, list) or (OPTION in meta.runtime_options and not given):
        raise ValueError(f"its {OPTION} are not a list of models")
    stages = [read(Stage, stage) for stage in given]
    for stage in stages:
        if len(stage.offsets) != len(meta.labels):
            raise ValueError(f"it has {len(meta.labels)} labels but {len(stage.offsets)} offsets")
        if OPTION in stage.options:
            raise ValueError("a stage has stages of its own")
    if len({stage.name for stage in stages}) < len(stages):
        raise ValueError("two of its stages have one name")
    if stages and meta.runtime_options.get(BANDS) != ends_of(meta):
        raise ValueError("its stages were fitted for other bands: build it again, which fits them anew")
    return stages


def ends_of(meta: Description) -> list[float] | None:
    """The scores from which on to act and to review; None where nothing is decided."""
    return None if meta.bands is None else [meta.bands.act, meta.bands.review]


def artifact_of(artifact: Artifact, stage: Stage) -> Artifact:
    """The part of the artifact that the stage's runtime loads."""
    return Artifact(artifact.folder / stage.name, replace(artifact.meta, runtime_options=stage.options))


def margins(meta: Description, logits: np.ndarray) -> np.ndarray:
    """How far each text is from another label or decision, in logits: float64 [texts] from
    [texts, labels]."""
    above = logits - limits(meta)
    if meta.task == "multi-label":
        return np.asarray(np.abs(above).min(axis=1))
    second, first = np.sort(above, axis=1)[:, -2:].T
    apart = np.asarray(first - second)
    return apart if meta.bands is None else np.minimum(apart, np.abs(above_bands(meta, logits)).min(axis=1))


def above_bands(meta: Description, logits: np.ndarray) -> np.ndarray:
    """How far each text is above the ends of the bands, [texts, 2], negative below: the log-odds of the
    positive label's score move by no more than the logits do, one against the others."""
    assert meta.positive_label
    assert meta.bands is not None
    place = meta.labels.index(meta.positive_label)
    scaled = logits.astype(np.float64) / meta.temperature
    odds = scaled[:, place] - np.logaddexp.reduce(np.delete(scaled, place, axis=1), axis=1)
    ends = np.clip([meta.bands.act, meta.bands.review], LEAST_SCORE, 1 - LEAST_SCORE)
    return np.asarray(meta.temperature * (odds[:, None] - np.log(ends / (1 - ends))))


def limits(meta: Description) -> np.ndarray:
    """For each label, the logit from which it is given; 0 for labels that are given if they score highest."""
    thresholds = np.array([meta.thresholds.get(label, 0.5) for label in meta.labels])
    inside = np.clip(thresholds, LEAST_SCORE, 1 - LEAST_SCORE)
    return np.asarray(meta.temperature * np.log(inside / (1 - inside)))
