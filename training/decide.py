"""`python -m training decide`: the scores from which on to act and to review, kept in the checkpoint."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from common.atomic import write_json
from common.commands import emit, not_negative_float, say
from common.options import add_checkpoint, add_threads
from common.records import plain
from handler.bands import ACT, PASS, REVIEW, decide_bands
from handler.description import Bands
from handler.errors import UserError, refusals
from training.measures.bands import Costs, Goals, Judged, fit, sentence

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint
    from training.data.splits import Split

PICTURE = "bands"
VALIDATION = "validation"


def _goal(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1, such as 0.95")
    return value


def _costs(text: str) -> Costs:
    """`fp=1,fn=5` or `fp=1,fn=5,review=0.2`."""
    try:
        pairs = dict(part.strip().split("=") for part in text.split(","))
        costs = Costs(**{name: not_negative_float(value) for name, value in pairs.items()})
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text} is not like fp=1,fn=5 or fp=1,fn=5,review=0.2") from error
    if not (costs.fp and costs.fn):
        raise argparse.ArgumentTypeError("fp and fn must cost something")
    return costs


def decide_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "--precision", type=_goal, help="at least this share of what is acted on has the label"
    )
    parser.add_argument("--recall", type=_goal, help="at most the rest of the texts with the label passes")
    parser.add_argument(
        "--false-positive-rate",
        type=_goal,
        help="at most this share of the texts without the label is acted on",
    )
    parser.add_argument("--review-share", type=_goal, help="at most this share of all texts is reviewed")
    parser.add_argument(
        "--cost",
        type=_costs,
        metavar="fp=1,fn=5[,review=0.2]",
        help="of a text that is acted on wrongly, that passes wrongly, and that is reviewed",
    )
    parser.add_argument(
        "--confidence", type=_goal, default=0.95, help="of all promises at once; default: %(default)s"
    )
    parser.add_argument(
        "--data",
        metavar="SET",
        help="labelled texts that training has not seen, such as csv:labelled.csv; default: the validation "
        "texts of the training",
    )
    parser.add_argument(
        "--data-dir", type=Path, help="folder of named data sets; default: DATA_DIR, or as recorded"
    )
    parser.add_argument("--remove", action="store_true", help="take the bands out of the checkpoint again")
    add_threads(parser, "torch's own choice")


def decide(options: argparse.Namespace) -> int:
    # Here, after the options were checked: torch and transformers take seconds.
    from training.checkpoint import open_checkpoint

    if options.remove:
        checkpoint = open_checkpoint(options.checkpoint)
        _write(checkpoint, None)
        say(f"took the bands out of {checkpoint.folder}")
        return 0
    goals = Goals(
        options.precision, options.recall, options.false_positive_rate, options.review_share, options.cost
    )
    from training.evaluation.classifier import load_classifier
    from training.options import quieten
    from training.pipeline import use_threads

    checkpoint = open_checkpoint(options.checkpoint)
    place = positive_place(checkpoint)
    use_threads(options.threads)
    split, where = labelled(checkpoint, options.data, options.data_dir)
    quieten()
    scores = load_classifier(checkpoint).scores(list(split.texts), "scoring")
    texts = Judged(np.round(scores[:, place], 6), split.labels == place)
    label = checkpoint.labels[place]
    threshold = checkpoint.meta.thresholds.get(label, 0.5)
    bands = fit(texts, goals, threshold, options.confidence, where)
    _write(checkpoint, bands)
    from training.evaluation.pictures import bands as draw

    with refusals("The picture cannot be written", checkpoint.folder, "Make room, or change its rights."):
        draw(checkpoint.folder, PICTURE, label, texts.scores, texts.truth, bands)
    say(_told(bands, label, texts))
    say(f"wrote them to {checkpoint.folder}, with {PICTURE}.svg; python -m export build takes them over")
    emit(plain(bands))
    return 0


def positive_place(checkpoint: "Checkpoint") -> int:
    """The place of the label that decisions are about; UserError where there is none."""
    if not checkpoint.judged:
        raise UserError(
            "Decisions need a classifier that was trained, and texts with labels",
            seen=checkpoint.meta.data.spec if checkpoint.trained else "random weights",
            remedy="Train it, or give labelled data when you adopt it: python -m export build --data …",
        )
    if checkpoint.multi_label:
        raise UserError(
            "Decisions are about one positive label, and these labels are independent",
            seen=", ".join(checkpoint.labels),
            remedy="Train a classifier of the label that you act on",
        )
    if checkpoint.positive_label is None:
        raise UserError(
            "Decisions are about a positive label, and none of these is",
            seen=", ".join(checkpoint.labels),
            remedy="Train or adopt the model again with --positive-label",
        )
    return checkpoint.labels.index(checkpoint.positive_label)


def labelled(checkpoint: "Checkpoint", spec: str | None, data_dir: Path | None) -> tuple["Split", str]:
    """The texts to fit to, of each group one, and their name: validation, or a set that is given."""
    from training.checkpoint import load_data, portable

    dataset = load_data(checkpoint, data_dir)
    if spec is None:
        name = VALIDATION
        split = dataset.splits[VALIDATION]
    else:
        name = portable(spec)
        split = _unseen(checkpoint, spec, data_dir, dataset.splits)
    if split.groups is None:
        return split, name
    # The texts of a group are no independent evidence; which of them stands for it is drawn.
    shuffled = np.random.default_rng(0).permutation(len(split))
    first = np.unique(split.groups[shuffled], return_index=True)[1]
    say(f"{len(first):,} groups of texts: one text of each is taken")
    return split.take(np.sort(shuffled[first])), name


def _unseen(
    checkpoint: "Checkpoint", spec: str, data_dir: Path | None, splits: Mapping[str, "Split"]
) -> "Split":
    """The texts of a table, once each, without those of the checkpoint's own splits."""
    from training.data import sources
    from training.data.sources import SOURCES, Columns, Request
    from training.data.splits import digests

    parts = sources.parse(spec)
    folder = Path(data_dir or os.environ.get("DATA_DIR") or "data").expanduser().absolute()
    columns = Columns(labels=checkpoint.labels, positive_label=checkpoint.positive_label or "")
    raw = SOURCES[parts[0].name].read(Request(parts[0].argument, folder, columns))
    if len(parts) > 1 or raw.splits.keys() != {"train"} or tuple(raw.labels) != checkpoint.labels:
        raise UserError(
            "Decisions are fitted to one table of texts with the checkpoint's labels",
            seen=f"{spec}: {', '.join(raw.splits)}, with the labels {', '.join(raw.labels)}",
            remedy=f"Give one file with the labels {', '.join(checkpoint.labels)}, such as csv:labelled.csv",
        )
    split = raw.splits["train"]
    keys = digests(split.texts)
    known = np.concatenate([digests(other.texts) for other in splits.values()])
    first = np.sort(np.unique(keys, return_index=True)[1])
    rows = first[~np.isin(keys[first], known)]
    if left := len(split) - len(rows):
        say(f"{left:,} texts are left out: they stand there twice, or in the checkpoint's own data")
    return split.take(rows)


def _write(checkpoint: "Checkpoint", bands: Bands | None) -> None:
    from training.checkpoint import META_FILE

    with refusals("The checkpoint cannot be written", checkpoint.folder, "Make room, or change its rights."):
        write_json(checkpoint.folder / META_FILE, plain(replace(checkpoint.meta, bands=bands)))


def _told(bands: Bands, label: str, texts: Judged) -> str:
    """The bands and what they promise, for people."""
    decided = decide_bands(texts.scores, bands.act, bands.review)
    shares = {place: float((decided == place).mean()) for place in (ACT, REVIEW, PASS)}
    lines = [
        f"act from a score of {bands.act:g} on ({shares[ACT]:.1%} of these texts), "
        f"review from {bands.review:g} on ({shares[REVIEW]:.1%}), pass below ({shares[PASS]:.1%})",
        f"With {bands.confidence:.4g} confidence, on texts like these {bands.texts:,} ({bands.fitted_on}):",
        *(f"- {sentence(promise, label)}" for promise in bands.promises),
    ]
    if bands.fitted_on == VALIDATION:
        lines.append(
            "The training chose its epoch, temperature and threshold on these texts too. Texts that it has "
            "not seen (--data) promise without that reservation."
        )
    return "\n".join(lines)
