"""The order of a training: base model, fine-tuning, calibration, final figures, checkpoint, card.

Each step has its own module; this one is for callers in Python, and `python -m training` is its command
line. The test split is read once, after everything is decided.
"""

import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
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
    load_model,
    open_checkpoint,
    write_checkpoint,
)
from training.data import Dataset
from training.evaluation.card import write_card
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
    calibration = uncalibrated(dataset.labels, dataset.multi_label)
    if recipe.epochs:
        say(f"fine-tuning {base} on {len(dataset.splits['train']):,} texts")
        teacher = teacher_logits(recipe, dataset) if recipe.teacher else None
        fit(model, tokenizer, dataset, recipe, state, base=base, resume=resume, teacher=teacher)
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
    write_card(checkpoint)
    shutil.rmtree(state, ignore_errors=True)
    return checkpoint


def teacher_logits(recipe: Recipe, dataset: Dataset) -> np.ndarray:
    """Logits `[n, labels]` of the training texts by the checkpoint that the recipe names as teacher.

    They are computed once: the teacher has no dropout, and a text is the same in every epoch.
    """
    checkpoint = open_checkpoint(recipe.teacher)
    if checkpoint.labels != dataset.labels or checkpoint.meta["task"] != dataset.task:
        raise UserError(
            f"The teacher {recipe.teacher} knows other labels than the data",
            seen=f"{', '.join(checkpoint.labels)} beside {', '.join(dataset.labels)}",
            remedy="Name a checkpoint that was trained for the same labels.",
        )
    model, tokenizer = load_model(checkpoint)
    texts = dataset.splits["train"].texts
    say(f"asking the teacher {recipe.teacher} about {len(texts):,} texts")
    return predict_logits(model, tokenizer, texts, checkpoint.meta["max_length"])


def _figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    calibration: Calibration,
    max_length: int,
) -> dict[str, dict]:
    """Figures of validation and test, of test without the texts that also stood in train, and of the
    held-out parts of joined sets, such as `test of davidson:binary`."""
    judged = {name: dataset.splits[name] for name in ("validation", "test")}
    judged |= {
        f"{name} of {own}": split
        for own, held_out in dataset.others.items()
        for name, split in held_out.items()
        if len(split)
    }
    figures = {}
    for name, split in judged.items():
        scores = calibration.scores(predict_logits(model, tokenizer, split.texts, max_length))
        figures[name] = evaluate(scores, split.labels, calibration.thresholds, dataset.labels)
        leaked = dataset.leaked.get(name, ())
        if name == "test" and 0 < len(leaked) < len(split):
            kept = np.setdiff1d(np.arange(len(split)), leaked)
            figures["test_without_leaks"] = evaluate(
                scores[kept], split.labels[kept], calibration.thresholds, dataset.labels
            )
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
