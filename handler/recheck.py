"""Re-check: a text that the first model nearly gave another label is asked of a second, more exact one.

Both models lie in one artifact, in folders of their own, and run on one runtime.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from handler.artifact import Artifact
from handler.batching import Forward
from handler.description import Description, Offset
from handler.records import Bounds, read

OPTION = "recheck"  # of `Description.runtime_options`
FIRST, SECOND = "first", "second"  # folders of the artifact
LEAST_SCORE = 5e-7  # scores have six decimals


@dataclass(frozen=True)
class Recheck:
    """Texts whose logits, moved by `offsets`, lie within `width` of another label go to the second model;
    `first` and `second` are the runtime options of both."""

    width: Annotated[float, Bounds(minimum=0)]
    offsets: list[Offset]
    first: dict[str, Any]
    second: dict[str, Any]


class Rechecked:
    """A `Forward` of two, which lie in one artifact; `load` is that of their runtime."""

    def __init__(self, artifact: Artifact, load: Callable[[Artifact], Forward]) -> None:
        rule = read(Recheck, artifact.meta.runtime_options[OPTION])
        if len(rule.offsets) != len(artifact.labels):
            raise ValueError(f"it has {len(artifact.labels)} labels but {len(rule.offsets)} offsets")
        self._meta, self._grid, self._width = artifact.meta, artifact.grid, rule.width
        self._offsets = np.array(rule.offsets, np.float32)
        self.stages = [
            load(Artifact(artifact.folder / name, replace(artifact.meta, runtime_options=options)))
            for name, options in ((FIRST, rule.first), (SECOND, rule.second))
        ]
        self.asked_again = np.zeros(0, np.int64)  # rows of the last call

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        first, second = self.stages
        logits = np.asarray(first(ids, mask) + self._offsets)
        near = np.flatnonzero(margins(self._meta, logits) <= self._width)
        if len(near):
            sizes = self._grid.batches_at(ids.shape[1])
            size = next((size for size in sizes if size >= len(near)), len(ids))
            rows = np.resize(near, size)  # a shape that was warmed; what is repeated is thrown away
            logits[near] = second(ids[rows], mask[rows])[: len(near)]
        self.asked_again = near
        return logits


def margins(meta: Description, logits: np.ndarray) -> np.ndarray:
    """How far each text is from another label, in logits: float64 [texts] from [texts, labels]."""
    above = logits - limits(meta)
    if meta.task == "multi-label":
        return np.asarray(np.abs(above).min(axis=1))
    second, first = np.sort(above, axis=1)[:, -2:].T
    return np.asarray(first - second)


def limits(meta: Description) -> np.ndarray:
    """For each label, the logit from which it is given; 0 for labels that are given if they score highest."""
    thresholds = np.array([meta.thresholds.get(label, 0.5) for label in meta.labels])
    inside = np.clip(thresholds, LEAST_SCORE, 1 - LEAST_SCORE)
    return np.asarray(meta.temperature * np.log(inside / (1 - inside)))
