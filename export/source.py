"""What a variant is made from: its parent's model, and real texts to calibrate and check it with."""

import hashlib
import json
import random
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from export.registry import REFERENCE
from handler.artifact import TOKENIZER, file_sha256
from handler.batching import Grid, fit_grid
from handler.description import Inputs
from handler.errors import UserError
from handler.records import plain
from training.checkpoint import Checkpoint
from training.data import Dataset

# Calibration ranges settle after a few hundred texts (Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.3).
CALIBRATION_TEXTS = 300
# Fewer than this leave out words and lengths that will come: static scales would be those of a handful.
LEAST_CALIBRATION_TEXTS = 50
# A GPU of the largest kind is idle below thousands of tokens a call; more than it needs would be one call,
# where several have their inputs laid out side by side. Reckoned, not measured: 8,192 tokens are ten
# rounds of its multiprocessors in a layer's product; at 150,000 texts of 32 tokens a second, what 0.2 ms of
# starting kernels cost is 1,000 tokens.
GPU_BATCHES = tuple(2**power for power in range(11))
GPU_TOKENS, GPU_CALL_TOKENS = 8_192, 1_024
# Packed, as many texts as fit if all were as long as can be; most are a quarter of that.
PACKED_TOKENS = 32_768


@dataclass(frozen=True)
class Source:
    """A checkpoint, its data, and the folder in which its artifacts stand.

    `weights` is the transformers folder that `model()` reads: the checkpoint's, or that of a parent variant.
    `keep` is the share of the encoder's arithmetic that pruning leaves; `unlabelled` are texts of no split,
    on which students learn from fp32 as well; `traffic` are texts of no split on which nothing learns: the
    rules of stages are fitted to them too. `may_turn` is the share of labels that a cascade's first stage may
    turn. With `portable`, int8 weights have seven bits, whose products no kernel cuts off, and
    what is not int8 is fp32 on every CPU.
    """

    checkpoint: Checkpoint
    dataset: Dataset
    artifacts: Path
    keep: float = 0.5
    unlabelled: tuple[str, ...] = ()
    traffic: tuple[str, ...] = ()
    may_turn: float = 0.01
    portable: bool = False
    weights_from: Path | None = None

    @property
    def weights(self) -> Path:
        return self.weights_from or self.checkpoint.folder

    def below(self, parent: str | None) -> "Source":
        """The source of a variant whose parent is `parent`: the reference has the checkpoint's own model."""
        inherited = parent not in (None, REFERENCE)
        return replace(self, weights_from=self.artifacts / str(parent)) if inherited else self

    @cached_property
    def sha256(self) -> str:
        """Identity of the checkpoint: its weights, tokenizer, calibration and data."""
        folder = self.checkpoint.folder
        parts: dict[str, Any] = {
            name: file_sha256(folder / name) for name in ("config.json", "model.safetensors", TOKENIZER)
        }
        parts |= {
            key: getattr(self.checkpoint.meta, key)
            for key in ("temperature", "thresholds", "max_length", "labels")
        }
        if self.checkpoint.truncation_side != "right":
            parts["truncation_side"] = self.checkpoint.truncation_side
        parts["positive_label"] = self.checkpoint.positive_label
        if self.checkpoint.meta.bands is not None:
            parts["bands"] = plain(self.checkpoint.meta.bands)
        parts["data"] = self.checkpoint.meta.data.sha256
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def pad_id(self) -> int:
        return int(json.loads((self.checkpoint.folder / "config.json").read_text())["pad_token_id"])

    def model(self) -> Any:
        """A fresh fp32 `PreTrainedModel` in eval mode, which the caller may change."""
        from handler.pooled_classifier import read_classifier

        model = read_classifier(self.weights)
        model.config.use_cache = False  # of keys and values: a classifier answers in one pass
        return model.float()

    @cached_property
    def tokenizer(self) -> Any:
        """The Rust tokenizer, as the Predictor will use it."""
        from tokenizers import Tokenizer

        path = self.checkpoint.folder / TOKENIZER
        if not path.is_file():
            raise UserError(
                "the checkpoint has no tokenizer.json",
                seen=path,
                remedy="Save its fast tokenizer there (save_pretrained)",
            )
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(
            self.checkpoint.meta.max_length, direction=self.checkpoint.truncation_side
        )
        return tokenizer

    @property
    def rule_texts(self) -> tuple[str, ...]:
        """What the rules of stages are fitted to: validation texts and traffic."""
        return (*self.dataset.splits["validation"].texts, *self.traffic)

    @cached_property
    def grid(self) -> Grid:
        """The (batch, length) grid that pads the validation texts the least."""
        texts = self.dataset.splits["validation"].texts
        lengths = [len(encoding.ids) for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        return fit_grid(lengths, self.checkpoint.meta.max_length)

    def inputs(self, grid: Grid) -> Inputs:
        """What `artifact.json` says of the inputs of an artifact with that grid."""
        return Inputs(
            names=["input_ids", "attention_mask"],
            max_length=self.checkpoint.meta.max_length,
            pad_id=self.pad_id,
            buckets=grid,
            truncation_side="left" if self.checkpoint.truncation_side == "left" else None,
        )

    @property
    def gpu_grid(self) -> Grid:
        """The same lengths, with batches for a GPU."""
        return replace(self.grid, batches=GPU_BATCHES, max_tokens=GPU_TOKENS, call_tokens=GPU_CALL_TOKENS)

    @property
    def packed_grid(self) -> Grid:
        """One length, the longest, and no padding."""
        return Grid(self.grid.lengths[-1:], GPU_BATCHES, PACKED_TOKENS, GPU_CALL_TOKENS, packed=True)

    def calibration(self) -> list[dict[str, np.ndarray]]:
        """Model inputs of the data's calibration texts at their real lengths: int64 [1, length] each, seeded.

        Raises `UserError` where there are too few to calibrate with.
        """
        texts = self.dataset.calibration.texts
        if len(texts) < LEAST_CALIBRATION_TEXTS:
            raise UserError(
                "there are too few texts to calibrate int8 with",
                seen=f"{len(texts)} texts",
                remedy=f"Give {LEAST_CALIBRATION_TEXTS} or more, or build variants without static int8",
            )
        sample = random.Random(0).sample(list(texts), min(CALIBRATION_TEXTS, len(texts)))
        return [
            {
                "input_ids": np.array([encoding.ids]),
                "attention_mask": np.ones((1, len(encoding.ids)), np.int64),
            }
            for encoding in self.tokenizer.encode_batch_fast(sample)
        ]
