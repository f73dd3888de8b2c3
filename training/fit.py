"""Fine-tuning with the Hugging Face Trainer, and the logits of what came out."""

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from common.atomic import sync_tree, write_text
from common.commands import say
from handler.errors import UserError, refusals
from training import processes
from training.backbones import add_lora, clear_limits, merge_lora
from training.data import Dataset, Split
from training.heads import Lesson, fit_head, fits_alone
from training.inference import computed, token_lengths, uses_bf16
from training.measures.statistics import macro_f1_of_logits
from training.objective import Objective, objective
from training.recipe import FITTED, Recipe

RUN_FILE = "run.json"
LOGGED = 100  # points of a loss curve
COMPLETE = "complete"  # lies in a saved epoch that is on the disk


class _Rows(TorchDataset[dict[str, Any]]):
    """A split row by row: text, target, weight, and the teacher's logits. Nothing is held twice, so that
    a file of many texts stays on disk."""

    def __init__(self, split: Split, targets: np.ndarray, teacher: np.ndarray | None = None) -> None:
        self.split = split
        self.targets = targets
        self.teacher = teacher

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> dict[str, Any]:
        found = {"text": self.split.texts[row], "labels": self.targets[row]}
        if self.split.weights is not None:
            found["weights"] = self.split.weights[row]
        if self.teacher is not None:
            found["teacher"] = self.teacher[row]
        return found


class _Collator:
    """Rows into a batch: tokenised on the way (20 us a text), padded to the longest; on a GPU in steps of 8
    tokens, which its matrix units ask for and a CPU does not."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.step = 8 if torch.cuda.is_available() else None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.tokenizer(
            [row["text"] for row in rows],
            truncation=True,
            max_length=self.max_length,
            padding=True,
            pad_to_multiple_of=self.step,
            return_tensors="pt",
        )
        others = [name for name in rows[0] if name != "text"]
        return dict(batch) | {
            name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in others
        }


class _ByLength(LengthGroupedSampler):
    """Batches of similar length, in an order that depends only on seed and epoch, so that a resumed run gets
    the batches that it would have had. The rows of each of `units` stay next to each other."""

    def __init__(self, batch_size: int, lengths: list[int], units: list[list[int]], seed: int) -> None:
        longest = [max(lengths[row] for row in unit) for unit in units]
        super().__init__(batch_size, lengths=longest, generator=torch.Generator())
        self.units, self.rows, self.seed = units, len(lengths), seed
        self.set_epoch(0)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        for unit in super().__iter__():  # type: ignore[no-untyped-call] # transformers'
            yield from self.units[unit]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.generator.manual_seed(self.seed * 1000 + epoch)


class _Trainer(Trainer):
    """The Trainer with our loss, and batches of like length."""

    def __init__(self, *args: Any, loss: Objective, pairs: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss = loss
        self.pairs = pairs
        self.model_accepts_loss_kwargs = (
            False  # ours is a mean: of accumulated batches, too, the mean is taken
        )

    def compute_loss(  # type: ignore[override] # what else it is given varies by version
        self, model: Any, inputs: Any, return_outputs: Any = False, **_: Any
    ) -> Any:
        targets, weights, teacher = (inputs.pop(name, None) for name in ("labels", "weights", "teacher"))
        outputs = model(**inputs)
        weights = weights if model.training else None
        loss = self.loss(outputs.logits, targets, weights, teacher if model.training else None)
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset
        collator: Any = self.data_collator
        lengths = token_lengths(collator.tokenizer, rows.split.texts, collator.max_length)
        units = units_of(rows.split) if self.pairs else [[row] for row in range(len(rows))]
        return _ByLength(self.args.per_device_train_batch_size, lengths, units, self.args.seed)


class _Progress(ProgressCallback):
    """The Trainer's progress bar on a terminal, and one line per epoch everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.perf_counter()

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Keep the Trainer's dictionaries off the terminal."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        super().on_evaluate(args, state, control, **kwargs)  # type: ignore[no-untyped-call] # transformers'
        if metrics:
            say(
                f"epoch {metrics['epoch']:g}: validation macro-F1 {metrics['eval_macro_f1']:.3f}, "
                f"loss {metrics['eval_loss']:.3f}, {time.perf_counter() - self.started:.0f} s"
            )


class _Saves(TrainerCallback):
    """Saves the state every so many minutes, not only at the end of an epoch."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.since = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        # Several processes would have to agree on the time: they save at the ends of epochs.
        # What is saved after an epoch's last step, before its evaluation, would be resumed without one.
        ends = state.global_step == state.max_steps or abs(state.epoch - round(state.epoch)) < 1e-9
        if processes.count() == 1 and not ends and time.monotonic() - self.since >= 60 * self.minutes:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.since = time.monotonic()
        if not state.is_world_process_zero:  # of several processes one writes, or they take each other's file
            return
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sync_tree(saved)
        write_text(saved / COMPLETE, "")


class _Lines(_Progress):
    """One line per epoch and no bar: if stderr is a file, bars are noise."""

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
    teacher: Lesson | None = None,
    save_minutes: float = 10.0,
) -> float:
    """Fine-tune `model` in place on train, keep its best epoch by validation macro-F1, and return that.

    `state` holds what resuming needs; the caller removes it once the model is saved. With `resume`, training
    continues from the last saved step, provided that base, data and recipe are unchanged. The phase that
    trains only the head is repeated unless a step of the next phase is saved. Under torchrun, every process
    calls this.
    """
    processes.check_batch(recipe.batch_size)
    _check_able(model, dataset, recipe)
    last = _last_step(state, {"base": base, "data": dataset.sha256, **asdict(recipe)}, resume)
    split = dataset.splits["train"]
    targets = targets_of(dataset, recipe)
    if fits_alone(model, recipe, teacher):
        to_device(model)
        best = fit_head(model, tokenizer, dataset, recipe, targets, teacher)
        clear_limits(tokenizer)
        return best
    rows = _Rows(split, targets, teacher.logits if teacher else None)
    loss = objective(recipe, targets, dataset.multi_label, split.weights)
    _set_dropout(model, recipe.dropout)
    pretrained = _weights(model) if recipe.pretrained_share else {}
    adapters = add_lora(model, recipe)
    best = 0.0
    for phase in phases(recipe):
        if phase.freeze != recipe.freeze and last is not None:
            continue  # the head was done when it was interrupted
        place = state / phase.freeze
        trainer = _trainer(
            model, tokenizer, dataset, phase, place, rows, loss, [_Saves(save_minutes), *callbacks]
        )
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        # The Trainer leaves bf16 autocast on `forward`, which would fit the calibration to 8-bit mantissas.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        best = float(trainer.state.best_metric or 0)
    merge_lora(adapters)
    model.requires_grad_(True)
    _average(model, pretrained, recipe.pretrained_share)
    clear_limits(tokenizer)
    return best


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of the encoder's."""
    return {name: value.detach().clone() for name, value in model.base_model.named_parameters()}


@torch.no_grad()
def _average(model: PreTrainedModel, pretrained: Mapping[str, torch.Tensor], share: float) -> None:
    """Move the encoder's weights this share of the way back to the pretrained ones, in place: less of what
    fits train alone is left (WiSE-FT, Wortsman et al., 2022, https://arxiv.org/abs/2109.01903)."""
    for name, value in model.base_model.named_parameters() if share else ():
        value.lerp_(pretrained[name].to(value.device), share)


def units_of(split: Split) -> list[list[int]]:
    """The rows of each group; a row without a group is alone."""
    if split.groups is None:
        return [[row] for row in range(len(split))]
    order = np.argsort(split.groups, kind="stable")
    edges = np.flatnonzero(np.diff(split.groups[order])) + 1
    return [rows.tolist() for rows in np.split(order, edges)]


def targets_of(dataset: Dataset, recipe: Recipe) -> np.ndarray:
    """What train is to be given, float32 [texts, labels]: the votes' shares if the recipe takes them."""
    split = dataset.splits["train"]
    return (split if recipe.soft_targets else replace(split, soft=None)).targets(len(dataset.labels))


def to_device(model: PreTrainedModel) -> None:
    """Move the model to a GPU, if there is one."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type] # transformers' `to` is mistyped


def _last_step(state: Path, run: dict[str, Any], resume: bool) -> Path | None:
    """The saved step to go on from, the same in all processes: the first of them prepares the folder."""
    if processes.is_first():
        last = _prepare_state(state, run, resume)
        processes.meet()
        return last
    processes.meet()
    return _last_complete(state / run["freeze"]) if resume else None


def _set_dropout(model: PreTrainedModel, share: float) -> None:
    """The same share in all layers; below 0, what the base model has."""
    for module in model.modules() if share >= 0 else ():
        if isinstance(module, torch.nn.Dropout):
            module.p = share


def _check_able(model: PreTrainedModel, dataset: Dataset, recipe: Recipe) -> None:
    """Refuse what this model or machine cannot do, before anything is written."""
    if recipe.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(
            "this model does not support gradient checkpointing",
            seen=type(model).__name__,
            remedy="Leave out --gradient-checkpointing; --accumulation also saves memory",
        )
    if recipe.pairs and dataset.splits["train"].groups is None:
        raise UserError(
            "The data has no groups whose texts could be kept together",
            seen="--pairs",
            remedy="Name the column of groups (--group-column), or leave out --pairs.",
        )
    if recipe.pairs and recipe.head in FITTED:
        raise UserError(
            "A fitted head reads all texts at once, not in batches",
            seen=f"--pairs --head {recipe.head}",
            remedy="Leave out --pairs, or choose --head linear.",
        )
    if recipe.precision == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        seen = torch.cuda.get_device_name()
        raise UserError("this GPU does not support bf16", seen=seen, remedy="Leave out --precision")


def phases(recipe: Recipe) -> list[Recipe]:
    """The trainings that a recipe asks for, one after the other: the head alone, then what is not frozen."""
    whole = [replace(recipe, head_epochs=0)]
    if recipe.freeze == "encoder":  # the head alone, at its own rate
        return [replace(whole[0], learning_rate=recipe.head_learning_rate)]
    if not recipe.head_epochs:
        return whole
    head = replace(
        recipe,
        epochs=recipe.head_epochs,
        learning_rate=recipe.head_learning_rate,
        freeze="encoder",
        layer_decay=1.0,
        head_epochs=0,
    )
    return [head, *whole]


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    recipe: Recipe,
    state: Path,
    rows: _Rows,
    loss: Objective,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    validation = dataset.splits["validation"]
    by_length = np.argsort(token_lengths(tokenizer, validation.texts, recipe.max_length), kind="stable")
    validation = validation.take(by_length)
    freeze(model, recipe.freeze)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), lr=recipe.learning_rate, fused=True)
    trainer = _Trainer(
        model=model,
        args=_arguments(recipe, state, len(rows)),
        train_dataset=rows,
        eval_dataset=_Rows(validation, replace(validation, soft=None).targets(len(dataset.labels))),
        data_collator=_Collator(tokenizer, recipe.max_length),
        processing_class=tokenizer,
        compute_metrics=partial(_macro_f1, multi_label=dataset.multi_label),
        optimizers=(optimizer, None),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=recipe.patience), *callbacks],
        loss=loss,
        pairs=recipe.pairs,
    )
    untyped: Any = trainer
    untyped.remove_callback(PrinterCallback)  # it prints to stdout, which is for JSON
    untyped.remove_callback(ProgressCallback)
    untyped.add_callback(_Progress if sys.stderr.isatty() else _Lines)
    return trainer


def freeze(model: PreTrainedModel, what: str) -> None:
    """Keep the weights of `embeddings` or of the whole `encoder` as they are; `none` trains everything."""
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    embeddings = embedding_parameters(model)
    low_rank = any("lora_" in name for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        kept = what == "encoder" or (low_rank and "lora_" not in name)
        frozen = kept and id(parameter) in encoder
        parameter.requires_grad_(not (frozen or (what == "embeddings" and id(parameter) in embeddings)))


def embedding_parameters(model: PreTrainedModel) -> set[int]:
    """The ids of what turns tokens and places into vectors, whatever the model calls it."""
    found = {id(parameter) for name, parameter in model.named_parameters() if "embeddings." in name}
    found |= {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    return found | {id(parameter) for name, parameter in model.named_parameters() if ".wpe." in name}


def parameter_groups(model: PreTrainedModel, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: learning rates fall by `layer_decay` from a layer to the one below it, down to the
    embeddings (Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146); vectors are not decayed."""
    names = [name for name, _ in model.named_parameters()]
    layers = max((_layer(name, 0) for name in names), default=-1) + 1
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    embeddings = embedding_parameters(model)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = -1 if id(parameter) in embeddings else _layer(name, layers)
        above = layers - 1 - layer if id(parameter) in encoder else 0
        rate = recipe.learning_rate * recipe.layer_decay**above
        decay = recipe.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def _layer(name: str, layers: int) -> int:
    """The layer that a parameter belongs to, from 0; what has no number stands above all `layers`."""
    found = re.search(r"\.(?:layer|layers|h|blocks)\.(\d+)\.", name)
    return int(found[1]) if found else layers - 1


def predict_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    batch_size: int = 32,
) -> np.ndarray:
    """Logits `[n, labels]` in fp32, the reference that every variant is held to; texts sorted by length."""
    logits = computed(
        model,
        tokenizer,
        texts,
        max_length,
        lambda inputs: model(**inputs).logits,
        model.config.num_labels,
        batch_size,
    )
    clear_limits(tokenizer)
    return logits


def _arguments(recipe: Recipe, state: Path, texts: int) -> TrainingArguments:
    steps = math.ceil(math.ceil(texts / recipe.batch_size / recipe.accumulation) * recipe.epochs)
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(state),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        accelerator_config={"split_batches": True},  # of all processes together it is one batch
        gradient_accumulation_steps=recipe.accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        ddp_backend="gloo" if processes.count() > 1 and not cuda else None,
        ddp_find_unused_parameters=False,
        per_device_eval_batch_size=2 * recipe.batch_size,
        learning_rate=recipe.learning_rate,
        warmup_steps=round(steps * recipe.warmup_share),
        remove_unused_columns=False,  # the collator reads them
        restore_callback_states_from_checkpoint=True,  # patience goes on where it was
        label_names=["labels"],  # else it looks for them among the arguments of the model's forward
        bf16=uses_bf16(recipe),
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="steps",
        logging_steps=max(1, steps // LOGGED),
        save_total_limit=2,  # the last but one stays until the last is marked complete
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,  # the progress callback is ours
    )


def _macro_f1(prediction: EvalPrediction, multi_label: bool) -> dict[str, float]:
    """At the highest score, of independent labels each at one half: thresholds are fitted later, and must not
    hide a model that leans."""
    logits, targets = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"macro_f1": macro_f1_of_logits(logits, targets >= 0.5 if multi_label else targets.argmax(axis=1))}


def _prepare_state(state: Path, run: dict[str, Any], resume: bool) -> Path | None:
    """The saved epoch to continue from; without `resume`, or with nothing saved, an empty folder."""
    if resume:
        last = _last_complete(state / run["freeze"])
        if last is not None:
            _check_same_run(state, run)
            say(f"resuming after step {last.name.rpartition('-')[2]}")
            return last
        say("nothing to resume, starting from the beginning")
    if state.is_dir() and any(state.iterdir()) and not (state / RUN_FILE).is_file():
        raise UserError(
            f"{state} contains files that are not the state of a training",
            remedy="Choose another --output, or move that folder.",
        )
    with refusals("The training state cannot be written", state, "Choose another --output."):
        remove_state(state)
        state.mkdir(parents=True)
        (state / RUN_FILE).write_text(json.dumps(run, indent=2))
    return None


def remove_state(state: Path) -> None:
    """Remove what a training kept for resuming. `run.json` goes last, so that the next training recognises
    the folder as its own if something could not be removed."""
    if not state.exists():
        return
    for path in state.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(state)


def _last_complete(state: Path) -> Path | None:
    """The newest saved epoch; those that an interruption left incomplete are removed."""
    saved = sorted(state.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    for folder in reversed(saved):
        if (folder / COMPLETE).is_file():
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
            "The interrupted run cannot be resumed with different settings",
            seen="; ".join(differing),
            remedy="Give the settings it was started with, or leave out --resume to start afresh.",
        )
