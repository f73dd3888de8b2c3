"""The steps of a training: base model, fine-tuning, calibration, final figures, checkpoint, card.

Call `train` from Python, or run `python -m training train`. The test split is read once, after everything is
decided.
"""

import ctypes
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from common.commands import say
from handler.errors import UserError
from handler.machine import available_cpus
from handler.pooled_classifier import PooledClassifier
from training import processes
from training.backbones import LEAST_OWN, backbone, readable_tokens
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
from training.data.unlabelled import read_unlabelled
from training.description import SCHEMA, Description
from training.evaluation.card import write_card
from training.fit import fit, predict_logits, remove_state, targets_of, to_device
from training.heads import Lesson, frozen_logits
from training.measures.calibration import Calibration, calibrate, uncalibrated
from training.measures.metrics import evaluate
from training.measures.records import Figures
from training.recipe import Recipe

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


@dataclass(frozen=True)
class Trained:
    """A fitted classifier with its calibration, and how it does."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    calibration: Calibration
    labels: tuple[str, ...]
    max_length: int

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Calibrated probabilities `[n, labels]`."""
        return self.calibration.scores(self.logits(texts))

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """As the model gives them, float32 `[n, labels]`."""
        return predict_logits(self.model, self.tokenizer, texts, self.max_length)

    def figures(self, scores: np.ndarray, truth: np.ndarray) -> Figures:
        """What `metrics.evaluate` makes of scores, at this classifier's thresholds."""
        return evaluate(scores, truth, self.calibration.thresholds, self.labels)


def train(
    dataset: Dataset,
    base: str,
    recipe: Recipe,
    output: Path,
    *,
    resume: bool = False,
    trust_remote_code: bool = False,
    test: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
    save_minutes: float = 10.0,
) -> Checkpoint | None:
    """Train `base` on `dataset` and write the checkpoint to `output`.

    What resuming needs lies next to it in `<output>-state` until the checkpoint is complete. With no epochs
    the head stays random: scores are left uncalibrated. A base with code of its own is refused unless
    `trust_remote_code`. Without `test` no test split is read: for choosing between recipes. Of several
    processes, the first alone has a checkpoint to return.
    """
    started = time.perf_counter()
    check_place(output)
    state = output.with_name(f"{output.name}-state")
    trained = fitted(
        dataset,
        base,
        recipe,
        state,
        resume=resume,
        trust_remote_code=trust_remote_code,
        callbacks=callbacks,
        save_minutes=save_minutes,
    )
    if not processes.is_first():
        return None
    meta = Description(
        schema=SCHEMA,
        base=base,
        task=dataset.task,
        labels=list(dataset.labels),
        positive_label=dataset.positive.label,
        temperature=trained.calibration.temperature,
        thresholds=trained.calibration.thresholds,
        max_length=recipe.max_length,
        data=describe_data(dataset),
        seed=recipe.seed,
        recipe=asdict(recipe),
        metrics=_figures(trained, dataset, test),
        seconds=round(time.perf_counter() - started, 1),
        **describe_surroundings(),
    )
    checkpoint = write_checkpoint(output, trained.model, trained.tokenizer, meta, _with_card)
    with suppress(OSError):  # the next training removes it
        remove_state(state)
    return checkpoint


def _with_card(checkpoint: Checkpoint) -> None:
    write_card(checkpoint)


def fitted(
    dataset: Dataset,
    base: str,
    recipe: Recipe,
    state: Path,
    *,
    resume: bool = False,
    trust_remote_code: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    save_minutes: float = 10.0,
) -> Trained:
    """Fit `base` to train and its calibration to validation; no other split is read.

    `state` is where resuming finds what it needs.
    """
    model, tokenizer = backbone(
        base,
        dataset.labels,
        recipe.seed,
        pooling=recipe.pooling,
        head=recipe.head,
        emoji=recipe.emoji,
        trust_remote_code=trust_remote_code,
    )
    _check_length(model, tokenizer, recipe.max_length)
    calibration = uncalibrated(dataset.labels, dataset.multi_label, dataset.positive.label)
    if recipe.epochs:
        _check_lesson(recipe)
        say(f"fine-tuning {base} on {len(dataset.splits['train']):,} texts")
        teacher = lesson_of(recipe, dataset) if recipe.teacher else None
        fit(
            model,
            tokenizer,
            dataset,
            recipe,
            state,
            base=base,
            resume=resume,
            callbacks=callbacks,
            teacher=teacher,
            save_minutes=save_minutes,
        )
        split = dataset.splits["validation"]
        logits = predict_logits(model, tokenizer, split.texts, recipe.max_length)
        calibration = calibrate(logits, split.labels, dataset.labels, dataset.positive.label)
    return Trained(model, tokenizer, calibration, dataset.labels, recipe.max_length)


def _check_lesson(recipe: Recipe) -> None:
    if recipe.unlabelled and not (recipe.teacher and recipe.head == "fourier"):
        raise UserError(
            "Only a fourier head with a teacher learns from texts without labels",
            seen=f"--head {recipe.head} --teacher {recipe.teacher or 'none'}",
            remedy="Leave out --unlabelled, or give --head fourier and --teacher.",
        )


def lesson_of(recipe: Recipe, dataset: Dataset) -> Lesson:
    """What the recipe's teachers say, on average, of the training texts and of its unlabelled ones.

    It is computed once: a teacher has no dropout, and a text is the same in every epoch.
    """
    more = read_unlabelled(recipe.unlabelled, dataset) if recipe.unlabelled else ()
    names = [name.strip() for name in recipe.teacher.split(",") if name.strip()]
    logits = np.mean([_logits_of(name, recipe, dataset, more) for name in names], axis=0)
    texts = len(dataset.splits["train"])
    return Lesson(logits[:texts], more, logits[texts:] if len(more) else None)


def _logits_of(teacher: str, recipe: Recipe, dataset: Dataset, more: Sequence[str]) -> np.ndarray:
    """Logits `[texts of train, then more; labels]` by a checkpoint, or by the sentence encoder `mpnet` under
    a head that is fitted here."""
    texts = [*dataset.splits["train"].texts, *more]
    say(f"computing the teacher's scores ({teacher}) of {len(texts):,} texts")
    if teacher == "mpnet":
        encoder, tokenizer = backbone(teacher, dataset.labels, recipe.seed, head="linear", emoji=recipe.emoji)
        assert isinstance(encoder, PooledClassifier)
        to_device(encoder)
        return frozen_logits(encoder, tokenizer, dataset, recipe, targets_of(dataset, recipe), more)
    checkpoint = open_checkpoint(teacher)
    if checkpoint.labels != dataset.labels or checkpoint.meta.task != dataset.task:
        raise UserError(
            f"The teacher {teacher} has other labels than the data",
            seen=f"{', '.join(checkpoint.labels)} in the teacher, {', '.join(dataset.labels)} in the data",
            remedy="Name a checkpoint that was trained for the same labels.",
        )
    model, tokenizer = load_model(checkpoint)
    to_device(model)
    return predict_logits(model, tokenizer, texts, checkpoint.meta.max_length)


def _figures(trained: Trained, dataset: Dataset, test: bool) -> dict[str, Figures]:
    """Figures of validation and test, of test without the texts that also stood in train, and of the
    held-out parts of joined sets, such as `test of davidson:binary`."""
    names = ("validation", "test") if test else ("validation",)
    judged = {name: dataset.splits[name] for name in names}
    judged |= {
        f"{name} of {own}": split
        for own, held_out in dataset.others.items()
        for name, split in held_out.items()
        if name in names and len(split)
    }
    figures = {}
    for name, split in judged.items():
        scores = trained.scores(split.texts)
        figures[name] = trained.figures(scores, split.labels)
        if name == "test" and (kept := dataset.unleaked(name)) is not None:
            figures["test_without_leaks"] = trained.figures(scores[kept], split.labels[kept])
    return figures


def _check_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    longest = readable_tokens(model, tokenizer)
    if max_length > longest:
        raise UserError(
            "The base model cannot read texts that long",
            seen=f"--max-length {max_length}",
            remedy=f"Give {longest} tokens or fewer.",
        )
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if max_length < special + LEAST_OWN:
        raise UserError(
            "--max-length leaves no room for a text",
            seen=f"{max_length} tokens, {special} of them special ones",
            remedy=f"Give {special + LEAST_OWN} or more.",
        )


def use_threads(count: int | None) -> None:
    """Set the number of torch's threads. None keeps torch's own choice, which ignores CPU quotas, but never
    more threads than the quota allows."""
    chosen = torch.get_num_threads()
    if (wanted := count or min(chosen, available_cpus())) != chosen:
        torch.set_num_threads(wanted)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning large blocks to the system: every step asks for them
    again, and a fifth of its time went to clearing their pages. Other allocators are not affected."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
