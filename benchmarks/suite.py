"""One run: every variant measured side by side, and a report for each.

Covers the order of things (start, quality, latency and memory in process; then one server after another),
what is refused before any time is spent, progress with the time left, and which variant dropped out where.
Leaves out how each thing is measured (`resources`, `quality`, `latency`, `served`) and how it is shown
(`report`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks import latency, machine, resources
from benchmarks.profiles import Profile
from benchmarks.progress import Step, progress
from benchmarks.quality import Scores, in_lists, parity, quality, sample, score, spread
from benchmarks.report import SCHEMA, failed, measured
from benchmarks.served import Served, check_archive, measure_served, served_parity
from benchmarks.team import REFERENCE, TWIN, Failure, open_team
from deploy.server import java_home
from handler.artifact import DESCRIPTION, Artifact, open_artifact
from handler.commands import say
from handler.errors import UserError
from training.checkpoint import Checkpoint
from training.data import Dataset
from training.splits import Split

LATENCY_SPLIT = "gate"  # the texts that are timed: their lengths are those of the data


@dataclass(frozen=True)
class Subject:
    """What a run is about: the artifacts to measure, their archives (none: in process only), the splits to
    score, and what the report says of the data. `unusable` are variants that could not even be opened."""

    artifacts: dict[str, Artifact]
    archives: dict[str, Path]
    unusable: dict[str, Failure]
    splits: dict[str, Split]
    data: dict[str, Any]


@dataclass(frozen=True)
class InProcess:
    """What the workers brought, each by variant; `tokens` are the lengths of the timed split's texts."""

    resources: dict[str, dict[str, Any]]
    scores: dict[str, Scores]
    latency: dict[str, list[dict[str, Any]]]
    tokens: list[int]
    failures: dict[str, Failure]


def prepare(
    wanted: Sequence[str],
    folder: Path,
    store: Path | None,
    checkpoint: Checkpoint,
    dataset: Dataset,
    profile: Profile,
) -> Subject:
    """Open and check everything that the run needs. `store` None: nothing is served.

    Raises `UserError` for what would spoil the run: no reference, no such variant, stale archives, no Java.
    """
    artifacts, unusable = find_artifacts(wanted, folder, dataset)
    archives = find_archives(artifacts, store) if store else {}
    if archives:
        java_home()
    splits = {name: sample(dataset.splits[name], profile.max_texts) for name in profile.splits}
    for name, split in splits.items():
        if not len(split.texts):
            raise UserError(f"the split {name} holds no text", seen=dataset.spec, remedy="Train on more data")
    return Subject(artifacts, archives, unusable, splits, _describe_data(checkpoint, dataset))


def find_artifacts(
    wanted: Sequence[str], folder: Path, dataset: Dataset
) -> tuple[dict[str, Artifact], dict[str, Failure]]:
    """The reference first, then the wanted variants (all built ones if none is named), verified; and those
    that cannot be used here."""
    built = sorted(path.parent.name for path in folder.glob(f"[!.]*/{DESCRIPTION}"))
    for name in (REFERENCE, *wanted):
        if name not in built:
            known = ", ".join(built) or "none"
            raise UserError(
                f"there is no artifact {name} in {folder} (there: {known})",
                remedy=f"Build it: make export VARIANTS={name}",
            )
    artifacts: dict[str, Artifact] = {}
    unusable: dict[str, Failure] = {}
    for name in dict.fromkeys((REFERENCE, *(wanted or built))):
        try:
            artifact = open_artifact(folder / name)
            _check_data(artifact, dataset)
            _check_checkpoint(artifact, artifacts.get(REFERENCE, artifact))
            artifacts[name] = artifact
        except UserError as error:
            if name == REFERENCE:
                raise
            unusable[name] = Failure("opening the artifact", str(error))
    return artifacts, unusable


def _check_data(artifact: Artifact, dataset: Dataset) -> None:
    trained_on = artifact.meta.get("training", {}).get("data_sha256", dataset.sha256)
    if trained_on != dataset.sha256 or list(artifact.labels) != list(dataset.labels):
        raise UserError(
            f"the artifact {artifact.name} was built from a checkpoint of other data",
            seen=f"data {trained_on[:12]}, the checkpoint's is {dataset.sha256[:12]}",
            remedy=f"Build it again: make export VARIANTS={artifact.name}",
        )


def _check_checkpoint(artifact: Artifact, reference: Artifact) -> None:
    ours, theirs = (one.meta["build"]["checkpoint_sha256"] for one in (artifact, reference))
    if ours != theirs:
        raise UserError(
            f"the artifact {artifact.name} was built from another checkpoint than {REFERENCE}",
            seen=f"checkpoint {ours[:12]}, {REFERENCE}'s is {theirs[:12]}",
            remedy=f"Build it again: make export VARIANTS={artifact.name}",
        )


def find_archives(artifacts: Mapping[str, Artifact], store: Path) -> dict[str, Path]:
    """The archive of every artifact that has one; `UserError` for one that holds something else."""
    archives = {}
    for name, artifact in artifacts.items():
        path = store / f"hate-{name}.mar"
        if path.is_file():
            check_archive(path, artifact)
            archives[name] = path
        else:
            say(f"{name}: measured in process only, there is no archive {path} (make package makes it)")
    return archives


def measure(subject: Subject, profile: Profile, threads: int | None) -> list[dict[str, Any]]:
    """Measure everything; one report per variant, the reference first."""
    started, began = datetime.now(UTC), time.perf_counter()
    load = machine.load_average()
    if machine.is_busy(load):
        say(f"warning: the machine is busy (load {load}); timings will be noisy, see the noise floor")
    with progress(_steps(subject, profile)) as step:
        inside = _measure_in_process(subject, profile, threads, step)
        archives = {name: path for name, path in subject.archives.items() if name in inside.latency}
        served = measure_served(
            archives,
            subject.artifacts,
            subject.splits[LATENCY_SPLIT].texts,
            {name: subject.splits[name] for name in profile.served_splits},
            profile,
            step,
        )
    run = {
        "id": f"{started:%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}",
        "started_at": started.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - began,
        "profile": profile.name,
        "threads": inside.resources[REFERENCE]["threads"],
        "load_average_before": load,
        "commit": machine.commit(),
    }
    lengths = np.percentile(inside.tokens, [50, 90, 99])
    tokens = {
        "mean": float(np.mean(inside.tokens)),
        **dict(zip(("p50", "p90", "p99"), lengths.tolist(), strict=True)),
    }
    head = {
        "schema": SCHEMA,
        "run": run,
        "machine": machine.fingerprint(),
        "data": subject.data | {"tokens": tokens, "timed_split": LATENCY_SPLIT},
    }
    reports = [
        measured(head, subject.artifacts[name], **_findings(name, subject, profile, inside, served.get(name)))
        for name in inside.latency
    ]
    return reports + [
        failed(head, name, subject.artifacts.get(name), failure)
        for name, failure in sorted((subject.unusable | inside.failures).items())
        if name != TWIN
    ]


def _measure_in_process(subject: Subject, profile: Profile, threads: int | None, step: Step) -> InProcess:
    texts = subject.splits[LATENCY_SPLIT].texts
    artifacts = subject.artifacts | {TWIN: subject.artifacts[REFERENCE]}
    with open_team(list(subject.artifacts)) as team:
        team.stage = "start"
        started = resources.start(team, artifacts, threads, texts[0], step)
        team.stage = "scoring"
        scores = score(team, subject.splits, step)
        team.stage = "latency"
        max_length = artifacts[REFERENCE].max_length
        found = latency.measure_latency(team, texts, max_length, profile, step)
        tokens = team.ask(REFERENCE, "lengths")
        team.stage = "memory"
        taken = resources.finish(team, started, artifacts, subject.archives)
    complete = {name: entries for name, entries in found.items() if name in taken}
    return InProcess(taken, scores, complete, tokens, team.failures)


def _steps(subject: Subject, profile: Profile) -> dict[str, tuple[int, float]]:
    """How many steps of each kind, and about how many seconds one takes: as measured on 2 cores for 90 MB of
    fp32 weights, in proportion to the weights."""
    variants, splits = len(subject.artifacts), subject.splits.values()
    weight = max(0.1, subject.artifacts[REFERENCE].bytes / 90e6)
    texts = sum(len(split.texts) for split in splits) / len(splits)
    loads_s = 1.2 * profile.served_s * len(profile.concurrencies)
    return {
        "start": (variants + 1, 4),
        "quality": (variants * len(splits), weight * texts / 700),
        "latency,": (profile.rounds, 0.4 * weight * (variants + 1)),
        "serving": (len(subject.archives) * profile.passes, 7 + 2 * weight + loads_s),
    }


def _findings(
    name: str, subject: Subject, profile: Profile, inside: InProcess, served: Served | None
) -> dict[str, Any]:
    """The measured parts of one report, as `report.measured` takes them."""
    artifact, reference = subject.artifacts[name], subject.artifacts[REFERENCE]
    labelled = subject.splits if subject.data["labels_meaningful"] else None
    found: dict[str, Any] = {
        "latency": inside.latency[name],
        "resources": dict(inside.resources[name]),
        "quality": quality(artifact, inside.scores[name], labelled) if labelled else {},
        "parity": parity(artifact, inside.scores[name], reference, inside.scores[REFERENCE], labelled),
        "served": served.record() if served else [],
        "served_error": served.error if served else None,
        "quality_served": {},
        "parity_served": {},
    }
    if not served:
        return found
    found["resources"]["server_ready_s"] = min(served.ready_s, default=None)
    for split, scores in served.scores.items():
        content = subject.splits[split]
        lists = spread(in_lists(content.texts), profile.served_texts)
        rows = np.concatenate([np.arange(part.start, part.stop) for part in lists])
        agreement = served_parity(artifact, inside.scores[name][split][rows], scores)
        found["parity_served"][split] = agreement
        if labelled and not agreement["unanswered"]:
            part = Split([content.texts[row] for row in rows], content.labels[rows])
            found["quality_served"] |= quality(artifact, {split: scores}, {split: part})
    return found


def _describe_data(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, Any]:
    """What the texts are, without where they lie: of a path only the file's name is kept."""
    kind, separator, place = dataset.spec.partition(":")
    base = checkpoint.meta["base"]
    return {
        "spec": kind + separator + Path(place).name,
        "sha256": dataset.sha256,
        "base": Path(base).name if Path(base).is_absolute() else base,
        "labels": list(dataset.labels),
        "labels_meaningful": checkpoint.trained,
    }
