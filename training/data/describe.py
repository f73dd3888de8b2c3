"""`python -m training data`: show what training would read, before you train.

For each split and each held-out part of a joined set: texts, labels, lengths in tokens, copies, leaks, and
every row left out with its reason and first lines.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import astuple
from tabulate import tabulate
from tqdm import tqdm

from common.commands import emit, say
from common.records import plain
from training import data
from training.command import train_arguments
from training.data import splits
from training.data.records import Contents, Dropped, Texts, Tokens
from training.data.splits import Split
from training.options import columns
from training.recipe import Recipe, is_random
from training.summary import places

OPTIONS = (
    *("data", "data_dir", "text_column", "label_column", "group_column", "labels", "positive_label"),
    "encoding",
    *("split_seed", "config", "base", "max_length", "help"),
)
AT_ONCE = 1000  # texts tokenised together


def describe_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of training, so that its command line and YAML work here unchanged."""
    train_arguments(parser)
    for action in parser._actions:
        if action.dest not in OPTIONS:
            action.help = argparse.SUPPRESS


def describe_data(options: argparse.Namespace) -> int:
    tokenizer = length_tokenizer(options.base)
    dataset = data.load(options.data, options.data_dir, options.split_seed, columns(options))
    report = describe(dataset, tokenizer, options.base, options.max_length or Recipe.max_length)
    say(page(report))
    say("\n".join([str(dataset.positive), *dataset.warnings()]))
    emit(plain(report))
    return 0


def length_tokenizer(base: str) -> Any:
    """The Rust tokenizer of a base model, which cuts and pads nothing."""
    from tokenizers import Tokenizer

    from training.backbones import minilm_folder, tokenizer_of

    if base == "minilm" or is_random(base):
        found = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    else:
        found = tokenizer_of(base, str(Path(base).expanduser())).backend_tokenizer
    found.no_truncation()
    found.no_padding()
    return found


def describe(dataset: data.Dataset, tokenizer: Any, base: str, max_length: int) -> Contents:
    """The report: counts, lengths in tokens, and what was dropped, with lines where there are any."""

    def of(name: str, split: Split) -> Texts:
        keys = splits.digests(split.texts)
        return Texts(
            texts=len(split),
            labels=data.count(split, dataset.labels),
            probabilities=split.soft is not None,
            copies=len(keys) - len(np.unique(keys)),
            tokens=token_lengths(split.texts, tokenizer, max_length, name),
        )

    return Contents(
        spec=dataset.spec,
        sha256=dataset.sha256,
        base=base,
        task=dataset.task,
        labels=list(dataset.labels),
        positive_label=dataset.positive.label,
        warnings=dataset.warnings(),
        max_length=max_length,
        parts=list(dataset.parts),
        splits={name: of(name, split) for name, split in dataset.splits.items()},
        others={
            name: {held: of(f"{held} of {name}", split) for held, split in own.items()}
            for name, own in dataset.others.items()
        },
        leaks=dataset.leaks,
        dropped={
            name: {
                reason: Dropped(rows=count, lines=dataset.lines.get(name, {}).get(reason, []))
                for reason, count in reasons.items()
            }
            for name, reasons in dataset.dropped.items()
        },
    )


def token_lengths(texts: Sequence[str], tokenizer: Any, max_length: int, name: str) -> Tokens:
    """Mean, percentiles and maximum of the lengths in tokens, and the share of texts above `max_length`.

    Lengths are counted, not kept, so that a million texts take the memory of a thousand.
    """
    found: Counter[int] = Counter()  # texts by their number of tokens
    with tqdm(total=len(texts), desc=name, unit=" texts", unit_scale=True, delay=2, disable=None) as bar:
        waiting: list[str] = []
        for text in texts:
            waiting.append(text)
            if len(waiting) == AT_ONCE:
                found.update(map(len, tokenizer.encode_batch_fast(waiting)))
                bar.update(AT_ONCE)
                waiting.clear()
        found.update(map(len, tokenizer.encode_batch_fast(waiting)))
    total = found.total()
    if not total:
        return Tokens(mean=None, p50=None, p90=None, p99=None, max=None, over_max_length=0)
    lengths = sorted(found)
    below = np.cumsum([found[length] for length in lengths])
    p50, p90, p99 = (lengths[np.searchsorted(below, total * p / 100)] for p in (50, 90, 99))
    longer = sum(found[length] for length in lengths if length > max_length)
    return Tokens(
        mean=round(sum(length * count for length, count in found.items()) / total, 2),
        p50=p50,
        p90=p90,
        p99=p99,
        max=lengths[-1],
        over_max_length=round(longer / total, 5),
    )


def page(report: Contents) -> str:
    """The report for people."""
    lines = [f"{report.spec}: {report.task}, {len(report.labels)} labels", ""]
    lines += [_counts_table(report), "", _lengths_table(report)]
    if len(report.parts) > 1:
        parts = [[part.spec, f"{part.weight:g}", part.texts] for part in report.parts]
        lines += ["", tabulate(parts, ["train is joined from", "weight", "texts"], intfmt=",")]
    lines.append("")
    if any(part.probabilities for part in report.all_texts.values()):
        lines.append("training learns from probabilities; a label applies from one half")
    lines += [f"leaks: {leak.of(name)}" for name, leak in report.leaks.items()]
    for name, part in report.all_texts.items():
        if part.copies:
            lines.append(f"copies: {part.copies:,} texts of {name} repeat others")
    lines += [
        f"dropped from {name}: {found.rows:,} {reason}{places(found.rows, found.lines)}"
        for name, reasons in report.dropped.items()
        for reason, found in reasons.items()
    ]
    if not report.dropped:
        lines.append("nothing was dropped")
    return "\n".join(lines)


def _counts_table(report: Contents) -> str:
    """Texts of each label in each split."""
    rows = [
        [name, part.texts, *(_share(part, label) for label in report.labels)]
        for name, part in report.all_texts.items()
    ]
    return tabulate(rows, ["texts of", "texts", *report.labels], intfmt=",")


def _lengths_table(report: Contents) -> str:
    """Tokens a text in each split."""
    rows = [
        [name, *astuple(part.tokens)[:-1], f"{part.tokens.over_max_length:.2%}"]
        for name, part in report.all_texts.items()
    ]
    headers = ["tokens of", "mean", "p50", "p90", "p99", "max", f"over {report.max_length}"]
    return tabulate(rows, headers, floatfmt=".1f", intfmt=",", missingval="–")


def _share(part: Texts, label: str) -> str:
    return f"{part.labels[label]:,} ({part.labels[label] / max(part.texts, 1):.1%})"
