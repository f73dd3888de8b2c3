"""The checkpoint: a trained classifier and everything that later stages need to know about it.

A folder in Hugging Face format plus `checkpoint.json`, which records labels, calibration, the data and its
fingerprints, figures, versions and machine. It is written to a temporary folder next to its place,
`checkpoint.json` last, and then renamed, so it appears complete or not at all.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec import UNSET, ValidationError
from msgspec.structs import replace
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common.atomic import recover, replacing_folder, write_json
from common.environment import commit, machine, versions
from common.records import plain, read
from handler.artifact import read_json
from handler.description import Adoption
from handler.errors import UserError
from handler.pooled_classifier import PooledClassifierConfig, read_classifier
from handler.runtimes import refuse_code
from training import data
from training.backbones import clear_limits
from training.data import Dataset, Split
from training.data.records import STATED, UNKNOWN
from training.description import SCHEMA, Data, Description, Machine, Texts

META_FILE = "checkpoint.json"
MOST_META_BYTES = 64 << 20
VERSIONED = ("torch", "transformers", "tokenizers", "accelerate", "scikit-learn", "scipy", "numpy")
MULTI_LABEL = "multi_label_classification"  # transformers' name of it
RETRAIN = "Run `python -m training train` again."


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; `meta` is the content of `checkpoint.json`."""

    folder: Path
    meta: Description

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.meta.labels)

    @property
    def has_own_head(self) -> bool:
        """Whether the head is this project's, which nothing but this project reads."""
        config = read_json(self.folder / "config.json")
        return config.get("model_type") == PooledClassifierConfig.model_type

    @property
    def positive_label(self) -> str | None:
        """The label that is looked for; where an older checkpoint does not say it, the second of two."""
        if self.meta.positive_label is not UNSET:
            return self.meta.positive_label
        return self.labels[1] if len(self.labels) == 2 and not self.multi_label else None

    @property
    def multi_label(self) -> bool:
        """Whether labels are independent: a text may have none, or several."""
        return self.meta.task == "multi-label"

    @property
    def truncation_side(self) -> str:
        """Where a text that is too long is cut: `right`, or `left` where its tokenizer says so."""
        return self.meta.truncation_side or "right"

    @property
    def trained(self) -> bool:
        """Whether the classifier was fitted to anything, here or elsewhere: False for random weights."""
        recipe = self.meta.recipe
        return bool(recipe["epochs"] or recipe.get("adopted"))

    @property
    def judged(self) -> bool:
        """Whether figures of quality mean anything: weights are not random, and the texts have labels."""
        return self.trained and not self.meta.data.spec.startswith("texts:")

    @property
    def may_have_seen(self) -> bool:
        """Whether the model may have been trained on the texts that it is judged on: one from elsewhere,
        unless its data say that it was not."""
        return bool(self.meta.recipe.get("adopted")) and self.meta.data.unseen in (None, UNKNOWN)


def load_again(recorded: Data, data_dir: str | Path | None = None) -> Dataset:
    """The data of a record as they are now."""
    return data.load(
        recorded.spec,
        data_dir or recorded.data_dir,
        recorded.seed,
        recorded.columns,
        elsewhere=recorded.unseen is not None,
        unseen=recorded.unseen == STATED,
    )


def check_place(folder: Path) -> None:
    """Refuse to replace anything but a checkpoint: a wrong --output must not delete a folder."""
    if folder.is_dir() and not (folder / META_FILE).is_file() and any(folder.iterdir()):
        raise UserError(
            f"{folder} contains files, but is not a checkpoint",
            remedy="Choose another --output, or empty the folder.",
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder", remedy="Choose another --output.")


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    meta: Description,
    confirm: Callable[[Checkpoint], Adoption | None] | None = None,
) -> Checkpoint:
    """Write a complete checkpoint to `folder`, whose former content stays until then.

    `confirm` gets the written checkpoint before it takes its place, and may return how it compared with
    transformers; if it raises, nothing changes.
    """
    check_place(folder)
    if tokenizer.truncation_side == "left":
        meta = replace(meta, truncation_side="left")
    if meta.task == "multi-label":  # so that transformers' own pipeline takes sigmoids as well
        model.config.problem_type = MULTI_LABEL
    try:
        with replacing_folder(folder) as part:
            model.save_pretrained(part)
            clear_limits(tokenizer)
            tokenizer.save_pretrained(part)
            if confirm is not None:
                meta = replace(meta, adoption=confirm(Checkpoint(part, meta)))
            meta = read(plain(meta), Description)  # what could not be read is not written
            write_json(part / META_FILE, plain(meta))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Cannot write to {folder}",
            seen=getattr(error, "strerror", None) or error,
            remedy="Make room, or choose another --output.",
        ) from error
    return Checkpoint(folder, meta)


def checkpoint_in(folder: Path) -> Path:
    """The folder itself, or the one checkpoint in it if it is not a checkpoint itself."""
    if (folder / META_FILE).is_file() or not folder.is_dir():
        return folder
    inside = sorted(file.parent for file in folder.glob(f"[!.]*/{META_FILE}"))
    if len(inside) > 1:
        raise UserError(
            f"There are {len(inside)} checkpoints in {folder}",
            seen=", ".join(place.name for place in inside),
            remedy="Name the folder of one of them.",
        )
    return inside[0] if inside else folder


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Read `checkpoint.json` of a folder, or of the one checkpoint in it: `build/adopted` has each by its
    name. Raises UserError if there is none, if there are several, or if it is not what we wrote."""
    folder = checkpoint_in(Path(folder))
    recover(folder)
    file = folder / META_FILE
    if not file.is_file():
        raise UserError(
            f"There is no checkpoint in {folder}",
            remedy="Run `python -m training train` first, or name its folder.",
        )
    try:
        document = read_json(file, MOST_META_BYTES)
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is damaged", seen=error, remedy=RETRAIN) from error
    schema = document.get("schema")
    if schema != SCHEMA:
        raise UserError(f"{file} has an unknown schema", seen=schema, remedy=RETRAIN)
    try:
        meta = read(document, Description)
    except ValidationError as error:
        what = f"{file} is damaged, or of another version of this project"
        raise UserError(what, seen=error, remedy=RETRAIN) from error
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} is incomplete", seen="no model.safetensors", remedy=RETRAIN)
    refuse_code(folder)
    return Checkpoint(folder, meta)


def load_model(checkpoint: Checkpoint) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The classifier in fp32 and its tokenizer; nothing is downloaded, and nothing is unpickled."""
    model = read_classifier(checkpoint.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.folder, local_files_only=True, trust_remote_code=False
    )
    return model, tokenizer


def load_data(checkpoint: Checkpoint, data_dir: str | Path | None = None) -> Dataset:
    """The data that the checkpoint was trained on; raises UserError if it has changed.

    `data_dir`, or else the variable DATA_DIR, is for named sets that have moved since.
    """
    data_dir = data_dir or os.environ.get("DATA_DIR") or None
    recorded = checkpoint.meta.data
    dataset = load_again(recorded, data_dir)
    if dataset.sha256 != recorded.sha256:
        splits = recorded.splits.items()
        changed = [name for name, split in splits if dataset.split_sha256[name] != split.sha256]
        raise UserError(
            f"The data {recorded.spec} has changed since the training",
            seen=f"{', '.join(changed) or 'labels'} differ in sha256",
            remedy="Restore the data, or run `python -m training train` again.",
        )
    return dataset


def describe_data(dataset: Dataset) -> Data:
    """How to load the data again and how to know it."""

    def described(split: Split, sha256: str) -> Texts:
        return Texts(n=len(split), sha256=sha256, labels=data.count(split, dataset.labels))

    return Data(
        spec=dataset.spec,
        data_dir=str(dataset.data_dir),
        columns=dataset.columns,
        seed=dataset.seed,
        sha256=dataset.sha256,
        task=dataset.task,
        splits={name: described(split, dataset.split_sha256[name]) for name, split in dataset.splits.items()},
        others={
            name: {part: described(split, data.fingerprint(split)) for part, split in held_out.items()}
            for name, held_out in dataset.others.items()
        },
        dropped=dataset.dropped,
        leaks=dataset.leaks,
        unseen=dataset.unseen,
    )


def portable(name: str) -> str:
    """The name of data or of a base model without folders of this machine, since archives travel. Also takes
    names made from such names, such as `test of csv:/home/me/table.csv`."""
    parts = []
    for part in re.split(r"\+(?=\w+(?:[:*+]|$))", name):  # a path may hold a plus sign
        kind, colon, place = part.rpartition(":")
        parts.append(kind + colon + Path(place).name if Path(place).is_absolute() else part)
    return "+".join(parts)


def describe_surroundings() -> dict[str, Any]:
    """The fields of `Made`, here and now."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit(),
        "versions": versions(VERSIONED),
        "machine": Machine(**machine(), threads=torch.get_num_threads(), gpu=gpu),
    }
