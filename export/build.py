"""Build variants: only what is stale, one after the other, never half.

A build happens in a hidden folder beside its place and is renamed when its description has been written:
a kill at any moment leaves no half artifact. Freshness is decided by content: weights,
data, the variant's source, the versions of what it requires.
"""

import contextlib
import hashlib
import importlib.metadata
import inspect
import json
import logging
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import jsonschema
import numpy as np
import psutil

from export import check as checking
from export import proof
from export.package import SHIPPED
from export.registry import VARIANTS, Built, Variant
from export.source import Source
from handler import artifact as artifacts
from handler.artifact import DESCRIPTION, SCHEMA, TOKENIZER, Artifact
from handler.atomic import replace_folder, write_json
from handler.errors import UserError
from handler.machine import cpu_features
from handler.predictor import Predictor
from handler.runtimes import RUNTIMES

# What every variant is made and judged with: a change of these makes artifacts stale.
ROOT = Path(__file__).parents[1]
MADE_BY = (
    *(f"export/{name}.py" for name in ("build", "check", "graph", "proof", "source")),
    *(f"handler/{name}" for name in SHIPPED),
    "training/statistics.py",
)
SCHEMA_FILE = Path(artifacts.__file__).with_name("artifact.schema.json")


def build(variant: Variant, source: Source, say: Callable[[str], None]) -> Artifact:
    """The artifact of `variant`: the fresh one that stands there, or a new one, proven and checked."""
    place = source.artifacts / variant.name
    inputs = fingerprint(variant, source)
    if existing := _fresh(place, inputs):
        say(f"{variant.name}: fresh")
        return existing
    say(f"{variant.name}: building ({variant.summary})")
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    partial = place.with_name(f".{variant.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        _build_into(partial, variant, source, inputs)
        replace_folder(place, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    built = artifacts.open_artifact(place)
    check = built.meta["check"]
    verdict = "equal" if check["equal"] else "NOT EQUAL"
    say(
        f"{variant.name}: {verdict} to fp32, {check['label_agreement']:.2%} of {check['n']} labels agree, "
        f"{built.bytes / 1e6:.1f} MB, {built.meta['build']['seconds']:.0f} s"
    )
    return built


def _build_into(folder: Path, variant: Variant, source: Source, inputs: str) -> None:
    started = time.perf_counter()
    with _quiet():
        built = variant.build(source, folder)
    shutil.copy(source.checkpoint.folder / TOKENIZER, folder / TOKENIZER)
    seconds = time.perf_counter() - started
    artifact = Artifact(folder, _describe(variant, source, folder, built, inputs, seconds))
    predictor = Predictor(artifact)
    measured = checking.check(predictor, source, _reference(variant, source))
    artifact.meta["check"] = measured.check
    artifact.meta["reference"] = measured.reference
    jsonschema.validate(artifact.meta, json.loads(SCHEMA_FILE.read_text()))
    write_json(folder / DESCRIPTION, artifact.meta)


def _describe(
    variant: Variant, source: Source, folder: Path, built: Built, inputs: str, seconds: float
) -> dict:
    meta = source.checkpoint.meta
    buckets = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(source.grid).items()
    }
    proof.require(bool(built.proof), "evidence of the optimisation", built.proof)
    return {
        "schema": SCHEMA,
        "name": variant.name,
        "summary": variant.summary,
        "runtime": variant.runtime,
        "runtime_options": built.runtime_options,
        "devices": list(variant.devices),
        "parent": variant.parent,
        "requires": list(RUNTIMES[variant.runtime].packages),
        "cpu_features": list(built.cpu_features),
        "files": artifacts.describe_files(folder),
        "inputs": {
            "names": ["input_ids", "attention_mask"],
            "max_length": meta["max_length"],
            "pad_id": source.pad_id,
            "buckets": buckets,
        },
        "task": meta["task"],
        "labels": list(meta["labels"]),
        "temperature": meta["temperature"],
        "thresholds": meta["thresholds"],
        "training": {
            "base": _without_place(meta["base"]),
            "trained": source.checkpoint.trained,
            "data": _without_place(meta["data"]["spec"]),
            "data_sha256": meta["data"]["sha256"],
            "seed": meta["seed"],
            "commit": meta["commit"],
            "metrics": meta["metrics"],
        },
        "build": {
            "inputs_sha256": inputs,
            "checkpoint_sha256": source.sha256,
            "seconds": round(seconds, 1),
            "versions": _versions(variant),
            "machine": {"platform": platform.platform(), "cpu_features": list(cpu_features())},
        },
        "proof": built.proof,
    }


def _without_place(spec: str) -> str:
    """A base or data spec for the world: of a path only its last part, since archives travel."""
    kind, separator, place = spec.rpartition(":")
    return kind + separator + Path(place).name if Path(place).is_absolute() else spec


_references: dict[str, np.ndarray] = {}


def _reference(variant: Variant, source: Source) -> np.ndarray:
    """fp32's scores of the validation texts; for fp32 itself, those of transformers. Once per source."""
    key = f"{source.sha256}:{'transformers' if variant.parent is None else 'fp32'}"
    if key not in _references:
        if variant.parent is None:
            _references[key] = checking.reference_scores(source)
        else:
            fp32 = Predictor.load(source.artifacts / "fp32")
            predictions = fp32.predict(source.dataset.splits["validation"].texts)
            _references[key] = np.array([prediction.scores for prediction in predictions])
    return _references[key]


def fingerprint(variant: Variant, source: Source) -> str:
    """sha256 over everything that the artifact is made of."""
    parts = [source.sha256, variant.name, str(SCHEMA), json.dumps(asdict(source.grid))]
    parts += [json.dumps(_versions(variant)), ",".join(cpu_features())]
    parts += [inspect.getsource(sys.modules[variant.build.__module__])]
    parts += [(ROOT / name).read_text() for name in MADE_BY]
    if variant.parent is not None:
        parts += [fingerprint(VARIANTS[variant.parent], source)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _versions(variant: Variant) -> dict[str, str]:
    packages = {"tokenizers", *variant.requires, *RUNTIMES[variant.runtime].packages}
    found = {}
    for package in sorted(packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a command or a CPU feature
            found[package] = importlib.metadata.version(package)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters' progress goes to stderr (our stdout is JSON); their advice to developers is left out."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _fresh(place: Path, inputs: str) -> Artifact | None:
    if not (place / DESCRIPTION).is_file():
        return None
    try:
        existing = artifacts.open_artifact(place)
    except UserError:  # damaged, of another schema or machine: built anew
        return None
    return existing if existing.meta["build"]["inputs_sha256"] == inputs else None


def _sweep(place: Path) -> None:
    """Remove what killed builds of this variant left; those of living processes are theirs."""
    for leaving in place.parent.glob(f".{place.name}.*"):
        pid = leaving.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(leaving, ignore_errors=True)
