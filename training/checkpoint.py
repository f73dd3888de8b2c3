"""The checkpoint: a trained classifier and everything that later stages need to know about it.

A folder in Hugging Face format plus `checkpoint.json` (schema: `checkpoint.schema.json`), which records
labels, calibration, the data and its fingerprints, figures, versions and machine. It appears whole or not at
all: written beside its place, `checkpoint.json` last, then renamed.
"""

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common.atomic import recover, replacing_folder, write_json
from common.environment import commit, machine, versions
from handler.artifact import read_json
from handler.errors import UserError
from handler.runtimes import refuse_code
from training import data
from training.backbones import clear_limits
from training.data import Dataset, Split
from training.data.sources import Columns

SCHEMA = 1
META_FILE = "checkpoint.json"
MOST_META_BYTES = 64 << 20
VERSIONED = ("torch", "transformers", "tokenizers", "accelerate", "scikit-learn", "scipy", "numpy")
MULTI_LABEL = "multi_label_classification"  # transformers' name of it
RETRAIN = "Run `python -m training train` again."


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; `meta` is the content of `checkpoint.json`."""

    folder: Path
    meta: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.meta["labels"])

    @property
    def positive_label(self) -> str | None:
        """The label that is looked for; where an older checkpoint does not say it, the second of two."""
        if "positive_label" in self.meta:
            return self.meta["positive_label"]
        return self.labels[1] if len(self.labels) == 2 and not self.multi_label else None

    @property
    def multi_label(self) -> bool:
        """Whether labels are independent: a text may have none, or several."""
        return self.meta["task"] == "multi-label"

    @property
    def truncation_side(self) -> str:
        """Where a text that is too long is cut: `right`, or `left` where its tokenizer says so."""
        return self.meta.get("truncation_side", "right")

    @property
    def trained(self) -> bool:
        """Whether the classifier was fitted to anything, here or elsewhere: False for random weights."""
        recipe = self.meta["recipe"]
        return bool(recipe["epochs"] or recipe.get("adopted"))

    @property
    def judged(self) -> bool:
        """Whether figures of quality mean anything: weights are not random, and the texts have labels."""
        return self.trained and not self.meta["data"]["spec"].startswith("texts:")


def check_place(folder: Path) -> None:
    """Refuse to replace what is not a checkpoint of ours: a wrong --output must not cost a folder."""
    if folder.is_dir() and not (folder / META_FILE).is_file() and any(folder.iterdir()):
        raise UserError(
            f"{folder} holds something that is not a checkpoint",
            remedy="Choose another --output, or empty the folder.",
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder", remedy="Choose another --output.")


def write_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    meta: dict[str, Any],
    confirm: Callable[[Checkpoint], dict[str, Any]] | None = None,
) -> Checkpoint:
    """Put a complete checkpoint in the place of `folder`, whose former content stays until then.

    `confirm` is given the checkpoint as it is written, before it takes that place, and returns what is to be
    added to `meta`; whatever it raises leaves all as it was.
    """
    check_place(folder)
    meta = {"schema": SCHEMA, **meta}
    if tokenizer.truncation_side != "right":
        meta["truncation_side"] = tokenizer.truncation_side
    if meta.get("task") == "multi-label":  # so that transformers' own pipeline takes sigmoids as well
        model.config.problem_type = MULTI_LABEL
    try:
        with replacing_folder(folder) as part:
            model.save_pretrained(part)
            clear_limits(tokenizer)
            tokenizer.save_pretrained(part)
            if confirm is not None:
                meta |= confirm(Checkpoint(part, meta))
            write_json(part / META_FILE, meta)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Cannot write to {folder}",
            seen=getattr(error, "strerror", None) or error,
            remedy="Make room, or choose another --output.",
        ) from error
    return Checkpoint(folder, meta)


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Read `checkpoint.json`; raises UserError where there is none or it is not what we wrote."""
    folder = Path(folder)
    recover(folder)
    file = folder / META_FILE
    if not file.is_file():
        raise UserError(
            f"There is no checkpoint in {folder}",
            remedy="Run `python -m training train` first, or name its folder.",
        )
    try:
        meta = read_json(file, MOST_META_BYTES)
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is damaged", seen=error, remedy=RETRAIN) from error
    schema = meta.get("schema")
    if schema != SCHEMA:
        raise UserError(f"{file} has a schema unknown here", seen=schema, remedy=RETRAIN)
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} is incomplete", seen="no model.safetensors", remedy=RETRAIN)
    refuse_code(folder)
    return Checkpoint(folder, meta)


def load_model(checkpoint: Checkpoint) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The classifier in fp32 and its tokenizer; nothing is downloaded, and nothing is unpickled."""
    folder = str(checkpoint.folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_data(checkpoint: Checkpoint, data_dir: str | Path | None = None) -> Dataset:
    """The data that the checkpoint was trained on; raises UserError where it is no longer the same.

    `data_dir`, and failing that the variable DATA_DIR, is for named sets that have moved since.
    """
    data_dir = data_dir or os.environ.get("DATA_DIR") or None
    recorded = checkpoint.meta["data"]
    # Older checkpoints record no encoding: theirs was that of `Columns`.
    columns = Columns(**{**recorded["columns"], "labels": tuple(recorded["columns"]["labels"])})
    dataset = data.load(recorded["spec"], data_dir or recorded["data_dir"], recorded["seed"], columns)
    if dataset.sha256 != recorded["sha256"]:
        splits = recorded["splits"].items()
        changed = [name for name, split in splits if dataset.split_sha256[name] != split["sha256"]]
        raise UserError(
            f"The data {recorded['spec']} has changed since the training",
            seen=f"{', '.join(changed) or 'labels'} differ in sha256",
            remedy="Restore the data, or run `python -m training train` again.",
        )
    return dataset


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """What `checkpoint.json` records of the data: how to load it again and how to know it."""
    columns = asdict(dataset.columns)
    return {
        "spec": dataset.spec,
        "data_dir": str(dataset.data_dir),
        "columns": {**columns, "labels": list(dataset.columns.labels)},
        "seed": dataset.seed,
        "sha256": dataset.sha256,
        "task": dataset.task,
        "splits": {
            name: _describe_split(split, dataset, dataset.split_sha256[name])
            for name, split in dataset.splits.items()
        },
        "others": {
            name: {
                part: _describe_split(split, dataset, data.fingerprint(split))
                for part, split in held_out.items()
            }
            for name, held_out in dataset.others.items()
        },
        "dropped": dataset.dropped,
        "leaks": dataset.leaks,
    }


def _describe_split(split: Split, dataset: Dataset, sha256: str) -> dict[str, Any]:
    return {"n": len(split), "sha256": sha256, "labels": data.count(split, dataset.labels)}


def portable(name: str) -> str:
    """The name of data or of a base model for the world: of each path only its last part, since archives
    travel. Takes what is made of such names as well, such as `test of csv:/home/me/table.csv`."""
    parts = []
    for part in re.split(r"\+(?=\w+(?:[:*+]|$))", name):  # a path may hold a plus sign
        kind, colon, place = part.rpartition(":")
        parts.append(kind + colon + Path(place).name if Path(place).is_absolute() else part)
    return "+".join(parts)


def describe_surroundings() -> dict[str, Any]:
    """Commit of this project (None outside git), versions, and the machine in brief."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit(),
        "versions": versions(VERSIONED),
        "machine": machine() | {"threads": torch.get_num_threads(), "gpu": gpu},
    }
