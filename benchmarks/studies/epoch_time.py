"""`python -m benchmarks.studies.epoch_time`: the time of our epoch compared with a plain Trainer's.

The plain one uses the Trainer's defaults: fp32, texts in random order, each batch padded to its longest text.
Ours uses bf16 where the CPU or GPU supports it, batches of similar length, and keeps memory instead of
freeing it; all else is the same, and time is measured from the first step to the last.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from common.commands import emit, positive_int, run, say
from common.options import add_data_dir, add_threads
from common.records import plain
from training import data
from training.backbones import backbone
from training.checkpoint import describe_surroundings
from training.data import Dataset
from training.fit import fit, predict_logits
from training.measures.statistics import macro_f1_of_logits
from training.pipeline import keep_freed_memory, use_threads
from training.recipe import Recipe


class _Clock(TrainerCallback):
    """Seconds from the first step of an epoch to its last."""

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.began


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    data.load(options.data, options.data_dir)  # what is wrong with it is said here, not in a child
    rows = []
    for seed in range(options.pairs):
        pair: dict[str, float] = {"seed": seed}
        for name in ("plain", "ours"):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                trained = process.submit(_trained, name, options, seed).result()
            pair[f"{name}_s"], pair[f"{name}_macro_f1"] = trained
            say(f"seed {seed}, {name}: {pair[f'{name}_s']:.1f} s, macro-F1 {pair[f'{name}_macro_f1']:.3f}")
        rows.append({**pair, "ratio": pair["plain_s"] / pair["ours_s"]})
    ratios = [row["ratio"] for row in rows]
    say(tabulate(rows, headers="keys", floatfmt=".3f"))
    say(f"our epoch is {np.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})")
    emit(plain({"data": options.data, "base": options.base, "pairs": rows, **describe_surroundings()}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.epoch_time", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", default="tweeteval", help="default: tweeteval")
    add_data_dir(parser)
    parser.add_argument("--base", default="minilm", help="default: minilm")
    parser.add_argument("--pairs", type=positive_int, default=2, help="default: 2")
    add_threads(parser, "torch's own choice")
    return parser


def _trained(name: str, options: argparse.Namespace, seed: int) -> tuple[float, float]:
    use_threads(options.threads)
    dataset = data.load(options.data, options.data_dir)
    recipe = replace(Recipe(), epochs=1, seed=seed)
    return (_plain if name == "plain" else _ours)(dataset, options.base, recipe)


def _ours(dataset: Dataset, base: str, recipe: Recipe) -> tuple[float, float]:
    keep_freed_memory()
    model, tokenizer = backbone(base, dataset.labels, recipe.seed)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as state:
        fit(model, tokenizer, dataset, recipe, Path(state) / "state", callbacks=[clock])
    return clock.seconds, _quality(model, tokenizer, dataset, recipe)


def _plain(dataset: Dataset, base: str, recipe: Recipe) -> tuple[float, float]:
    model, tokenizer = backbone(base, dataset.labels, recipe.seed)
    train = dataset.splits["train"]
    encoded = tokenizer(list(train.texts), truncation=True, max_length=recipe.max_length)
    names = list(encoded)
    rows = [
        {name: encoded[name][row] for name in names} | {"labels": int(label)}
        for row, label in enumerate(train.labels)
    ]
    clock = _Clock()
    with tempfile.TemporaryDirectory() as state:
        arguments = TrainingArguments(
            output_dir=state,
            num_train_epochs=1,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            warmup_steps=round(-(-len(rows) // recipe.batch_size) * recipe.warmup_share),
            seed=recipe.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[clock],
        )
        trainer.train()
    return clock.seconds, _quality(model, tokenizer, dataset, recipe)


def _quality(model: Any, tokenizer: Any, dataset: Dataset, recipe: Recipe) -> float:
    split = dataset.splits["validation"]
    logits = predict_logits(model, tokenizer, split.texts, recipe.max_length)
    return macro_f1_of_logits(logits, split.labels)


if __name__ == "__main__":
    run(main)
