"""A checkpoint as a classifier: calibrated scores and labels of texts, in fp32, with progress."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common.commands import say
from handler.predictor import decide, positive_of_two
from training.checkpoint import Checkpoint, load_model
from training.fit import predict_logits
from training.measures.calibration import Calibration

CHUNK = 512  # texts between two steps of the bar; each chunk is sorted by length


@dataclass(frozen=True)
class Classifier:
    """Model, tokenizer and calibration of a checkpoint."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    multi_label: bool
    temperature: float
    thresholds: dict[str, float]
    max_length: int

    @property
    def positive(self) -> int | None:
        """The index of the positive one of two exclusive labels."""
        is_pair = len(self.labels) == 2 and not self.multi_label
        return positive_of_two(self.labels, self.thresholds) if is_pair else None

    def scores(self, texts: Sequence[str], doing: str) -> np.ndarray:
        """Calibrated probabilities, float64 [n, labels]; `doing` names the progress bar, or the line if
        stderr is a file."""
        found = [np.zeros((0, len(self.labels)))]
        is_watched = sys.stderr.isatty()
        if texts and not is_watched:
            say(f"{doing}: {len(texts):,} texts")
        with tqdm(total=len(texts), desc=doing, unit=" texts", disable=not is_watched, leave=False) as bar:
            for start in range(0, len(texts), CHUNK):
                chunk = texts[start : start + CHUNK]
                logits = predict_logits(self.model, self.tokenizer, chunk, self.max_length)
                found.append(Calibration(self.temperature, multi_label=self.multi_label).scores(logits))
                bar.update(len(chunk))
        return np.concatenate(found)

    def given(self, scores: np.ndarray) -> np.ndarray:
        """The labels given by scores [n, labels]: indices [n], or 0 and 1 [n, labels] where independent."""
        return decide(scores, self.labels, self.thresholds, self.multi_label)

    def indicators(self, labels: np.ndarray) -> np.ndarray:
        """Labels of either form as booleans [n, labels]."""
        held = labels if labels.ndim == 2 else labels[:, None] == np.arange(len(self.labels))
        return held.astype(bool)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """What the model sees of each text, before any cut."""
        backend = self.tokenizer.backend_tokenizer
        return [
            encoding.ids
            for start in range(0, len(texts), CHUNK)
            for encoding in backend.encode_batch_fast(list(texts[start : start + CHUNK]))
        ]


def load_classifier(checkpoint: Checkpoint) -> Classifier:
    """The model as it was saved, in fp32."""
    meta = checkpoint.meta
    return Classifier(
        *load_model(checkpoint),
        checkpoint.labels,
        meta.task == "multi-label",
        meta.temperature,
        meta.thresholds,
        meta.max_length,
    )
