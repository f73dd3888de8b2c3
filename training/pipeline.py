"""The order of a training: base model, fine-tuning, calibration, final figures, checkpoint.

Each step has its own module; this one is for callers in Python, and `python -m training` is its command
line. The test split is read once, after everything is decided.
"""

import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from handler.commands import say
from handler.errors import UserError
from training.backbones import backbone
from training.calibration import Calibration, calibrate, uncalibrated
from training.checkpoint import (
    Checkpoint,
    check_place,
    describe_data,
    describe_surroundings,
    write_checkpoint,
)
from training.data import Dataset
from training.fit import fit, predict_logits
from training.metrics import evaluate
from training.recipe import Recipe


def train(
    dataset: Dataset,
    base: str,
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Train `base` on `dataset` and put the checkpoint in the place of `output`.

    What resuming needs lies beside it in `<output>-state` until the checkpoint is complete. With no epochs
    the head stays random: scores are left uncalibrated. A base with code of its own is refused unless
    `trust_remote_code`.
    """
    started = time.perf_counter()
    check_place(output)
    state = output.with_name(f"{output.name}-state")
    model, tokenizer = backbone(
        base,
        dataset.labels,
        recipe.seed,
        pooling=recipe.pooling,
        head=recipe.head,
        trust_remote_code=trust_remote_code,
    )
    _check_length(model, tokenizer, recipe.max_length)
    calibration = uncalibrated(dataset.labels)
    if recipe.epochs:
        say(f"fine-tuning {base} on {len(dataset.splits['train']):,} texts")
        fit(model, tokenizer, dataset, recipe, state, base=base, resume=resume)
        split = dataset.splits["validation"]
        logits = predict_logits(model, tokenizer, split.texts, recipe.max_length)
        calibration = calibrate(logits, split.labels, dataset.labels)
    meta = {
        "base": base,
        "task": dataset.task,
        "labels": list(dataset.labels),
        "temperature": calibration.temperature,
        "thresholds": calibration.thresholds,
        "max_length": recipe.max_length,
        "data": describe_data(dataset),
        "seed": recipe.seed,
        "recipe": asdict(recipe),
        "metrics": _figures(model, tokenizer, dataset, calibration, recipe.max_length),
        "seconds": round(time.perf_counter() - started, 1),
        **describe_surroundings(),
    }
    checkpoint = write_checkpoint(output, model, tokenizer, meta)
    shutil.rmtree(state, ignore_errors=True)
    return checkpoint


def _figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    calibration: Calibration,
    max_length: int,
) -> dict[str, dict]:
    figures = {}
    for name in ("validation", "test"):
        split = dataset.splits[name]
        scores = calibration.scores(predict_logits(model, tokenizer, split.texts, max_length))
        figures[name] = evaluate(scores, split.labels, calibration.thresholds, dataset.labels)
    return figures


def _check_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    positions = getattr(model.config, "max_position_embeddings", None) or max_length
    longest = min(tokenizer.model_max_length, positions)
    if max_length > longest:
        raise UserError(
            "The base model cannot read texts that long",
            seen=f"--max-length {max_length}",
            remedy=f"Give {longest} tokens or fewer.",
        )


def use_threads(count: int | None) -> None:
    """Set how many threads torch computes with; None leaves its own choice."""
    if count:
        torch.set_num_threads(count)
