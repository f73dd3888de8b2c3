"""What artifacts say of themselves, whole and valid, where a test is about a few fields of it."""

from typing import Any

from common import records
from handler.artifact import Artifact
from handler.description import Description
from handler.records import plain, read
from handler.self_check import FILE
from training.description import Description as CheckpointDescription

EXAMPLE: dict[str, Any] = {
    "schema": 1,
    "name": "fp32",
    "summary": "an example",
    "runtime": "torch",
    "runtime_options": {"dtype": "float32"},
    "devices": ["cpu"],
    "parent": None,
    "requires": [],
    "cpu_features": [],
    "files": {"model.safetensors": {"sha256": "0" * 64, "bytes": 1}},
    "inputs": {
        "names": ["input_ids", "attention_mask"],
        "max_length": 16,
        "pad_id": 0,
        "buckets": {"lengths": [16], "batches": [1, 8], "max_tokens": 128},
    },
    "task": "single-label",
    "labels": ["not-hate", "hate"],
    "temperature": 1.0,
    "thresholds": {"hate": 0.5},
    "training": {
        "base": "tiny",
        "trained": True,
        "data": "demo",
        "data_sha256": "0" * 64,
        "seed": 0,
        "commit": None,
        "metrics": {},
    },
    "build": {"inputs_sha256": "", "checkpoint_sha256": "", "versions": {}, "machine": {}, "seconds": 1},
    "proof": {"summary": "none"},
    "check": {
        "split": "validation",
        "n": 10,
        "max_prob_diff": 0,
        "mean_prob_diff": 0,
        "label_agreement": 1,
        "macro_f1": None,
        "macro_f1_drop": None,
        "batch_mate_diff": 0,
        "equal": True,
        "note": "equal",
    },
    "reference": {
        "scores": {"edges": [0, 0.5, 1], "counts": [5, 5]},
        "lengths": {"up_to": [16], "counts": [10]},
    },
}


def description(**fields: Any) -> Description:
    """The example with these fields, as JSON has them."""
    return read(Description, EXAMPLE | fields)


def changed(artifact: Artifact, **fields: Any) -> Artifact:
    """The artifact with these fields, as JSON has them, in what it says of itself."""
    known = plain(artifact.meta)
    if {"labels", "task"} & fields.keys():  # the self-check is of other logits
        known["files"].pop(FILE, None)
    return Artifact(artifact.folder, read(Description, known | plain(fields)))


def checkpoint_description(**fields: Any) -> CheckpointDescription:
    """A whole description of a checkpoint with these fields, as JSON has them."""
    split = {"n": 1, "sha256": "0" * 64, "labels": {"not-hate": 1}}
    columns = {"text": "text", "label": "label", "labels": []}
    data = {
        "spec": "demo",
        "data_dir": "/data",
        "columns": columns,
        "seed": 0,
        "sha256": "0" * 64,
        "splits": dict.fromkeys(("train", "validation", "gate", "test"), split),
        "dropped": {},
        "leaks": {},
    }
    document = {
        "schema": 1,
        "base": "random:tiny",
        "task": "single-label",
        "labels": ["not-hate", "hate"],
        "temperature": 1.0,
        "thresholds": {"hate": 0.5},
        "max_length": 32,
        "data": data,
        "seed": 0,
        "recipe": {"epochs": 0},
        "metrics": {},
        "seconds": 1.0,
        "commit": None,
        "versions": {},
        "machine": {"system": "Linux", "cpu": "a processor", "cores": 2, "threads": 2, "gpu": None},
    }
    return records.read(document | records.plain(fields), CheckpointDescription)
