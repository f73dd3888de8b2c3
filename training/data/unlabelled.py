"""Texts whose labels are unknown or not asked for: of a file, or of data sets by their names."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.tables.texts import REMEDY, read_texts
from handler.errors import UserError
from training.data import Dataset
from training.data.sources import SOURCES, Part, Request, parse
from training.data.splits import Split, concatenate, digests

NO_LABEL = -1


def unlabelled_texts(given: str | Path, data_dir: Path) -> Split:
    """The texts of a file, one a line, or of named sets (`tweeteval-sentiment+davidson`), with the label -1.

    Of a set they are those of train, since its other splits are for figures. A set without train has no
    figures here, and gives all its texts. Raises UserError where there is no such file or set, or no text.
    """
    path = Path(given)
    if path.is_dir() or not path.exists():  # a pipe is no file, and can be read
        if parts := _parts(str(given)):
            return _without_empty(concatenate([_of_set(part, data_dir) for part in parts], [1] * len(parts)))
        if not path.exists():
            raise UserError(
                "The texts cannot be read: there is no such file or data set",
                seen=given,
                remedy=f"{REMEDY}, or name one of {_known()}",
            )
    return _bare(read_texts(path))


def read_unlabelled(given: str | Path, dataset: Dataset) -> tuple[str, ...]:
    """The texts of a file (one per line) or of named sets, each once, without those in a split of `dataset`
    or held out of a joined set, and those of a group that a split other than train has.

    Raises `UserError` if there is no such file or set, or no text is left.
    """
    found = unlabelled_texts(given, dataset.data_dir)
    held = [*dataset.splits.items(), *(named for own in dataset.others.values() for named in own.items())]
    known = np.isin(digests(found.texts), np.concatenate([digests(split.texts) for _, split in held]))
    judging = [split.groups for name, split in held if name != "train" and split.groups is not None]
    if found.groups is not None and judging:
        known |= np.isin(found.groups, np.concatenate(judging))
    texts = tuple(dict.fromkeys(itertools.compress(found.texts, ~known)))
    if not texts:
        raise UserError(
            "no unlabelled text is left: all are in the data already",
            seen=f"{len(found)} texts in {given}",
            remedy="Give other texts",
        )
    return texts


def _parts(given: str) -> list[Part]:
    """The sets that are named; none where it does not begin with the name of one."""
    if re.split(r"[:*+]", given)[0] not in SOURCES:
        return []
    parts = parse(given)
    for part in parts:
        if not SOURCES[part.name].is_named or part.weight != 1:
            raise UserError(
                "Unlabelled texts come from a file, or from named sets without a weight",
                seen=part,
                remedy=f"{REMEDY}, or name one of {_known()}",
            )
    return parts


def _known() -> str:
    return ", ".join(source.form for source in SOURCES.values() if source.is_named)


def _of_set(part: Part, data_dir: Path) -> Split:
    splits = SOURCES[part.name].read(Request(part.argument, data_dir)).splits
    chosen = [splits["train"]] if "train" in splits else list(splits.values())
    bare = [_bare([text.strip() for text in split.texts], split.groups) for split in chosen]
    return concatenate(bare, [1] * len(bare))


def _bare(texts: Sequence[str], groups: np.ndarray | None = None) -> Split:
    return Split(texts, np.full(len(texts), NO_LABEL), groups=groups)


def _without_empty(split: Split) -> Split:
    return split.take([row for row, text in enumerate(split.texts) if text])
