"""Fine-tuning with the Hugging Face Trainer, and the logits of what came out.

Covers: bf16 where the machine has it, batches of like length padded to their longest text, early stopping
on validation macro-F1 with the best epoch kept, resuming after an interruption, and seeds. Leaves out:
calibration, final figures, and writing the checkpoint (`checkpoint`); other losses and two-phase recipes.
"""

import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from handler.commands import say
from handler.errors import UserError
from training.backbones import clear_limits
from training.data import Dataset
from training.recipe import Recipe
from training.splits import Split
from training.statistics import macro_f1

RUN_FILE = "run.json"
STATE_FILE = "trainer_state.json"  # the Trainer writes it last: without it a saved epoch is incomplete


class _Encoded(TorchDataset):
    """Token ids of a split, unpadded: the collator pads each batch to its own longest text."""

    def __init__(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.encoded = tokenizer(split.texts, truncation=True, max_length=max_length)
        self.labels = split.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**{name: values[row] for name, values in self.encoded.items()}, "labels": self.labels[row]}


class _Progress(ProgressCallback):
    """The Trainer's bar where a person watches, and one line an epoch everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.perf_counter()

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Keep the Trainer's dictionaries off the terminal."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super().on_evaluate(args, state, control, **kwargs)
        if metrics:
            say(
                f"epoch {metrics['epoch']:g}: validation macro-F1 {metrics['eval_macro_f1']:.3f}, "
                f"loss {metrics['eval_loss']:.3f}, {time.perf_counter() - self.started:.0f} s"
            )


class _Lines(_Progress):
    """One line an epoch, no bar: where stderr is a file, bars are noise."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None: ...
    def on_step_end(self, *args: Any, **kwargs: Any) -> None: ...
    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None: ...
    def on_train_end(self, *args: Any, **kwargs: Any) -> None: ...


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    recipe: Recipe,
    state: Path,
    *,
    base: str = "",
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> float:
    """Fine-tune `model` in place on train, keep its best epoch by validation macro-F1, and return that.

    `state` holds what resuming needs and is the caller's to remove once the model is saved. With `resume`
    the last saved epoch is continued from, provided base, data and recipe are those it was started with.
    """
    run = {"base": base, "data": dataset.sha256, **asdict(recipe)}
    last = _prepare_state(state, run, resume)
    trainer = Trainer(
        model=model,
        args=_arguments(recipe, state, len(dataset.splits["train"])),
        train_dataset=_Encoded(dataset.splits["train"], tokenizer, recipe.max_length),
        eval_dataset=_Encoded(dataset.splits["validation"], tokenizer, recipe.max_length),
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        processing_class=tokenizer,
        compute_metrics=_macro_f1,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=recipe.patience), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for JSON
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_Progress if sys.stderr.isatty() else _Lines)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    # The Trainer leaves its bf16 autocast on `forward`: calibration would be fitted to 8-bit mantissas.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    clear_limits(tokenizer)
    return float(trainer.state.best_metric)


def has_bf16() -> bool:
    """Whether the Trainer's device computes bf16 itself: where it is emulated, fp32 is faster."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    batch_size: int = 32,
) -> np.ndarray:
    """Logits `[n, labels]` in fp32, the reference that every variant is held to; texts sorted by length."""
    model.eval()
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    logits = np.zeros((len(texts), model.config.num_labels), dtype=np.float32)
    pad = DataCollatorWithPadding(tokenizer)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = pad([{name: values[row] for name, values in encoded.items()} for row in rows])
            inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
            logits[rows] = model(**inputs).logits.float().cpu().numpy()
    clear_limits(tokenizer)
    return logits


def _arguments(recipe: Recipe, state: Path, texts: int) -> TrainingArguments:
    steps = math.ceil(math.ceil(texts / recipe.batch_size) * recipe.epochs)
    cuda = torch.cuda.is_available()
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    by_length: dict[str, Any] = {"group_by_length": True}
    if "train_sampling_strategy" in names:  # transformers 5
        by_length = {"train_sampling_strategy": "group_by_length"}
    return TrainingArguments(
        output_dir=str(state),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=2 * recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup_steps=round(steps * recipe.warmup_share),
        optim="adamw_torch_fused",
        bf16=has_bf16(),
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,  # the progress callback is ours
        **by_length,
    )


def _macro_f1(prediction: EvalPrediction) -> dict[str, float]:
    """At the highest score: the threshold is fitted later, and must not hide a model that leans."""
    logits, truth = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    labels = logits.shape[1]
    counts = np.bincount(truth * labels + logits.argmax(axis=1), minlength=labels**2)
    return {"macro_f1": float(macro_f1(counts.reshape(1, labels, labels))[0])}


def _prepare_state(state: Path, run: dict[str, Any], resume: bool) -> Path | None:
    """The saved epoch to continue from; without `resume`, or with nothing saved, an empty folder."""
    if resume:
        last = _last_complete(state)
        if last is not None:
            _check_same_run(state, run)
            say(f"resuming after step {last.name.rpartition('-')[2]}")
            return last
        say("nothing to resume, starting from the beginning")
    shutil.rmtree(state, ignore_errors=True)
    try:
        state.mkdir(parents=True)
        (state / RUN_FILE).write_text(json.dumps(run, indent=2))
    except OSError as error:
        raise UserError(
            f"Cannot write to {state}", seen=error.strerror, remedy="Choose another --output."
        ) from error
    return None


def _last_complete(state: Path) -> Path | None:
    """The newest saved epoch; those that an interruption left incomplete are removed."""
    saved = sorted(state.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    for folder in reversed(saved):
        if (folder / STATE_FILE).is_file():
            return folder
        shutil.rmtree(folder)
    return None


def _check_same_run(state: Path, run: dict[str, Any]) -> None:
    try:
        started = json.loads((state / RUN_FILE).read_text())
    except (OSError, ValueError):
        started = {}
    differing = [
        f"{name} {started.get(name)} then, {run[name]} now" for name in run if started.get(name) != run[name]
    ]
    if differing:
        raise UserError(
            "The interrupted run cannot be resumed with other settings",
            seen="; ".join(differing),
            remedy="Give the settings it was started with, or leave out --resume to start afresh.",
        )
