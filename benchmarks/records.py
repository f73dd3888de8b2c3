"""Reports: the document of one variant, and that of all variants of a run side by side.

Covers what stands in them, their schema (`report.schema.json`), and finding things in them. Leaves out
measuring (`suite`), files (`results`) and how they look (`pages`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import jsonschema

from benchmarks.in_process.pool import Failure
from benchmarks.names import CUDA_REFERENCE, REFERENCE
from handler.artifact import Artifact

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
DIGITS = 5  # significant: more than any of the measurements has, fewer than hide what is the same
AS_PEER = ("latency", "quality", "parity", "resources", "served", "open", "saturation")  # what a peer shows

Report = dict[str, Any]


def measured(head: Mapping[str, Any], artifact: Artifact, **findings: Any) -> Report:
    """The report of a variant that got through; `findings` are the fields that were measured."""
    return tidy(
        {
            **head,
            "name": artifact.name,
            "status": "measured",
            "error": None,
            "artifact_sha256": artifact.sha256,
            "artifact": describe(artifact),
            **findings,
            "proof": artifact.meta.get("proof", {}),
        }
    )


def failed(head: Mapping[str, Any], name: str, artifact: Artifact | None, failure: Failure) -> Report:
    """The report of a variant that dropped out: nothing measured, and why."""
    empty: Report = {
        field: {} for field in ("quality", "quality_served", "parity", "parity_served", "resources")
    }
    return tidy(
        {
            **head,
            "name": name,
            "status": "failed",
            "error": {"stage": failure.stage, "message": failure.message},
            "artifact_sha256": artifact.sha256 if artifact else None,
            "artifact": describe(artifact) if artifact else None,
            **empty,
            "latency": [],
            "served": [],
            "served_error": None,
            "proof": {},
        }
    )


def describe(artifact: Artifact) -> dict[str, Any]:
    meta = artifact.meta
    return {key: meta.get(key) for key in ("summary", "runtime", "parent", "check")} | {
        "max_length": artifact.max_length,
        "build_seconds": meta["build"].get("seconds"),
    }


class Documented(Protocol):
    """What a row says of somebody else's way, `peers.Peer` and `rival_servers.Rival` alike."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def documentation(self) -> str: ...


def peer_entry(
    peer: Documented,
    findings: Mapping[str, Any] | None,
    facts: Mapping[str, Any] | None,
    left_out: str | None,
    failure: Failure | None,
) -> dict[str, Any]:
    """The row of a peer: what was found in process, or of a rival as served; or why nothing was."""
    error = None
    if findings is None:
        failure = failure or Failure("preparation", left_out or "unknown")
        error = {"stage": failure.stage, "message": failure.message}
    empty: dict[str, Any] = {"latency": [], "quality": {}, "parity": {}, "resources": {}}
    return tidy(
        {
            "name": peer.name,
            "summary": peer.summary,
            "documentation": peer.documentation,
            "status": "measured" if findings else "left out" if left_out else "failed",
            "error": error,
            "preparation_s": facts["seconds"] if facts else None,
            "versions": facts["versions"] if facts else {},
            **empty,
            **{field: findings[field] for field in AS_PEER if findings and findings.get(field)},
        }
    )


def tidy(value: Any) -> Any:
    """Floats to `DIGITS` significant digits, what is not a finite number to None, tuples to lists."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): tidy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(item) for item in value]
    return value


def side_by_side(reports: Sequence[Report]) -> dict[str, Any]:
    """One document of all reports of a run; what they share stands once."""
    shared = ("schema", "run", "machine", "data", "peers", "floor")
    return {
        **{key: reports[0][key] for key in shared if key in reports[0]},
        "variants": [
            {key: value for key, value in report.items() if key not in shared} for report in reports
        ],
    }


def validate(document: Mapping[str, Any], kind: str) -> None:
    """Raises `jsonschema.ValidationError` unless `document` is a `report` or a `sideBySide`."""
    _validator(kind).validate(document)


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]})


def device(row: Mapping[str, Any]) -> str:
    """`cpu` or `cuda`: what a variant or peer computed on; earlier reports know of CPUs alone."""
    return row["resources"].get("device", "cpu").partition(":")[0]


def on_cuda(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The variants and peers of a side-by-side that were measured on a GPU."""
    rows = [*document["variants"], *document.get("peers", [])]
    return [row for row in rows if device(row) == "cuda"]


def yardstick(row: Mapping[str, Any]) -> str:
    """The variant that the ratios of a row are to."""
    return CUDA_REFERENCE if device(row) == "cuda" else REFERENCE


def real_batch(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of `latency` for the largest batch of real texts: 32 on a CPU, 1,024 on a GPU."""
    real = (entry for entry in row["latency"] if entry["tokens"] is None and entry["batch"] > 1)
    return max(real, key=lambda entry: entry["batch"], default=None)


def case(variant: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The entry of `latency` with that name."""
    return next((entry for entry in variant["latency"] if entry["case"] == name), None)


def busiest(variant: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of `served` at the highest concurrency."""
    return max(variant["served"], key=lambda entry: entry["concurrency"], default=None)
