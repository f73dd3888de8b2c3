"""Rows of a report: of an artifact, of what dropped out, and of a baseline."""

from collections.abc import Mapping
from typing import Any, Protocol

from benchmarks.in_process.pool import Failure
from benchmarks.records import Baseline, Built, Check, Failed, Resources, Variant
from common.records import read
from handler.artifact import Artifact
from handler.records import plain


def describe(artifact: Artifact) -> Built:
    """What the artifact says of itself."""
    meta = artifact.meta
    return Built(
        summary=meta.summary,
        runtime=meta.runtime,
        parent=meta.parent,
        check=read(plain(meta.check), Check),
        max_length=artifact.max_length,
        build_seconds=meta.build.seconds,
        logit_offsets=meta.logit_offsets,
    )


def failed(name: str, artifact: Artifact | None, failure: Failure) -> Variant:
    """A variant that dropped out: nothing measured, and why."""
    return Variant(
        name=name,
        status="failed",
        error=Failed(stage=failure.stage, message=failure.message),
        artifact_sha256=artifact.sha256 if artifact else None,
        artifact=describe(artifact) if artifact else None,
        latency=[],
        quality={},
        parity={},
        resources=Resources(),
        served=[],
        served_error=None,
        quality_served={},
        parity_served={},
        proof={},
    )


class Documented(Protocol):
    """What a row says of a baseline, in process or as served."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    @property
    def documentation(self) -> str: ...


def baseline_row(
    baseline: Documented,
    found: Mapping[str, Any] | None,
    facts: Mapping[str, Any] | None,
    left_out: str | None,
    failure: Failure | None,
) -> Baseline:
    """The row of a baseline with the fields that were found, or why nothing was."""
    if found is None:
        failure = failure or Failure("preparation", left_out or "unknown")
        error = Failed(stage=failure.stage, message=failure.message)
        found = {"status": "left out" if left_out else "failed", "error": error}
    nothing: dict[str, Any] = {"latency": [], "quality": {}, "parity": {}, "resources": Resources()}
    return Baseline(
        name=baseline.name,
        summary=baseline.summary,
        documentation=baseline.documentation,
        preparation_s=facts["seconds"] if facts else None,
        versions=facts["versions"] if facts else {},
        **(nothing | dict(found)),
    )
