"""One run: every variant measured side by side, and a report for each.

Covers the order of things (start, quality, latency and memory in process; then one server after another),
what is refused before any time is spent, progress with the time left, and which variant dropped out where.
Peers and the floor take part where asked for. Leaves out how each thing is measured (`resources`, `quality`,
`latency`, `floor`, `served`) and how it is shown (`report`).
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks import latency, machine, resources
from benchmarks.floor import Floor, encoder_of, under
from benchmarks.peers import PEERS
from benchmarks.preparation import Prepared, prepare_peers
from benchmarks.products import Encoder
from benchmarks.profiles import OBJECTIVE_P99_MS, Profile
from benchmarks.progress import Step, progress
from benchmarks.quality import Scores, calibrated, in_lists, parity, quality, sample, score, spread
from benchmarks.report import SCHEMA, describe, failed, measured, peer_entry
from benchmarks.selection import Serving, choose_served
from benchmarks.served import Served, check_archive, measure_served, served_parity
from benchmarks.team import FLOOR, REFERENCE, TWIN, Failure, open_team
from handler.artifact import DESCRIPTION, Artifact, open_artifact
from handler.commands import say
from handler.errors import UserError
from handler.machine import cpu_features
from handler.torchserve import java_home
from training.checkpoint import Checkpoint
from training.data import Dataset
from training.splits import Split

LATENCY_SPLIT = "gate"  # the texts that are timed unless told otherwise
BF16 = {"avx512_bf16", "amx_bf16"}
UNTRAINED_TEXTS = 500  # where labels mean nothing, more texts would tell nothing more about parity


@dataclass(frozen=True)
class Subject:
    """What a run is about: the artifacts to measure, their archives (none: in process only), the splits to
    score, the texts to time, and what the report says of the data. `unusable` are variants that could not
    even be opened. All archives are served where variants were `named`, else the most promising. `peers`
    None: no peers and no floor; `encoder` None: an architecture whose floor is not known. `load_average` is
    that of others: taken before peers are prepared, which loads the machine as well."""

    artifacts: dict[str, Artifact]
    archives: dict[str, Path]
    unusable: dict[str, Failure]
    splits: dict[str, Split]
    timed: list[str]
    data: dict[str, Any]
    named: bool = False
    peers: Prepared | None = None
    encoder: Encoder | None = None
    load_average: float | None = None

    @property
    def places(self) -> dict[str, Path]:
        """Folders of the peers that are ready."""
        return self.peers.folders if self.peers else {}

    @property
    def has_floor(self) -> bool:
        return self.peers is not None and self.encoder is not None


@dataclass(frozen=True)
class InProcess:
    """What the workers brought, each by variant or peer; `tokens` are the lengths of the timed texts."""

    resources: dict[str, dict[str, Any]]
    scores: dict[str, Scores]
    latency: dict[str, list[dict[str, Any]]]
    tokens: list[int]
    failures: dict[str, Failure]
    floor: dict[str, Any] | None


def prepare(
    wanted: Sequence[str],
    folder: Path,
    store: Path | None,
    checkpoint: Checkpoint,
    dataset: Dataset,
    profile: Profile,
    timed_split: str = LATENCY_SPLIT,
    peers: Path | None = None,
    name: str = "hate",
) -> Subject:
    """Open and check everything that the run needs. `store` None: nothing is served. `peers` is the folder
    where they are kept between runs; None: none take part. `name` is that of the archives.

    Raises `UserError` for what would spoil the run: no reference, no such variant, stale archives, no Java.
    """
    load = machine.load_average()
    artifacts, unusable = find_artifacts(wanted, folder, dataset)
    archives = find_archives(artifacts, store, name) if store else {}
    if archives:
        java_home()
    most = profile.max_texts
    if not checkpoint.judged:
        most = min(most or UNTRAINED_TEXTS, UNTRAINED_TEXTS)
    splits = {name: sample(dataset.splits[name], most) for name in profile.splits}
    timed = sample(dataset.splits[timed_split], profile.max_texts)
    for name, split in {**splits, timed_split: timed}.items():
        if not len(split.texts):
            raise UserError(f"the split {name} holds no text", seen=dataset.spec, remedy="Train on more data")
    return Subject(
        artifacts,
        archives,
        unusable,
        splits,
        timed.texts,
        _describe_data(checkpoint, dataset) | {"timed_split": timed_split},
        bool(wanted),
        prepare_peers(checkpoint, dataset.splits["train"].texts, peers) if peers else None,
        encoder_of(json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))),
        load,
    )


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


def find_archives(artifacts: Mapping[str, Artifact], store: Path, model: str) -> dict[str, Path]:
    """The archive of every artifact that has one; `UserError` for one that holds something else."""
    archives = {}
    for name, artifact in artifacts.items():
        path = store / f"{model}-{name}.mar"
        if path.is_file():
            check_archive(path, artifact)
            archives[name] = path
        else:
            say(f"{name}: measured in process only, there is no archive {path} (make package makes it)")
    return archives


def measure(subject: Subject, profile: Profile, threads: int | None) -> list[dict[str, Any]]:
    """Measure everything; one report per variant, the reference first."""
    started, began = datetime.now(UTC), time.perf_counter()
    if machine.is_busy(load := subject.load_average):
        say(f"warning: the machine is busy (load {load}); timings will be noisy, see the noise floor")
    with progress(_steps(subject, profile)) as step:
        inside = _measure_in_process(subject, profile, threads, step)
        found = {name: _findings(name, subject, inside) for name in inside.latency}
        serving = _choose_served(subject, profile, found)
        served = measure_served(
            {name: subject.archives[name] for name in serving.names},
            subject.artifacts,
            subject.timed,
            {name: subject.splits[name] for name in profile.served_splits},
            profile,
            step,
        )
        for name, outcome in served.items():
            found[name] |= _served_findings(name, subject, profile, inside, outcome)
    run = {
        "id": f"{started:%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}",
        "started_at": started.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - began,
        "profile": profile.name,
        "threads": inside.resources[REFERENCE]["threads"],
        "load_average_before": load,
        "commit": machine.commit(),
        "objective_p99_ms": OBJECTIVE_P99_MS,
        "serving": {"names": serving.names, "rule": serving.rule},
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
        "data": subject.data | {"tokens": tokens},
    }
    if subject.peers:
        head |= {"peers": _peer_entries(subject, inside), "floor": inside.floor}
    reports = [
        measured(head, subject.artifacts[name], **found[name])
        for name in inside.latency
        if name in subject.artifacts
    ]
    return reports + [
        failed(head, name, subject.artifacts.get(name), failure)
        for name, failure in sorted((subject.unusable | inside.failures).items())
        if name != TWIN and name != FLOOR and name not in subject.places
    ]


def _measure_in_process(subject: Subject, profile: Profile, threads: int | None, step: Step) -> InProcess:
    artifacts = subject.artifacts | {TWIN: subject.artifacts[REFERENCE]}
    max_length = artifacts[REFERENCE].max_length
    floor = _floor(subject, profile)
    guests = [*subject.places, *([FLOOR] if floor else [])]
    with open_team(list(subject.artifacts), guests) as team:
        team.stage = "start"
        started = resources.start(team, artifacts, subject.places, threads, subject.timed[0], step)
        if floor:
            floor.start(team, started[REFERENCE]["threads"], bool(BF16 & set(cpu_features())), step)
        team.stage = "scoring"
        scores = score(team, subject.splits, step)
        team.stage = "latency"
        found = latency.measure_latency(team, subject.timed, max_length, profile, step, floor)
        tokens = team.ask(REFERENCE, "lengths")
        team.stage = "memory"
        sizes = {name: artifact.bytes for name, artifact in artifacts.items()}
        if subject.peers:
            sizes |= {name: subject.peers.bytes(name) for name in subject.places}
        taken = resources.finish(team, started, sizes, subject.archives)
    recorded = floor.record(team.failures.get(FLOOR)) if floor else None
    complete = {name: under(entries, recorded) for name, entries in found.items() if name in taken}
    return InProcess(taken, scores, complete, tokens, team.failures, recorded)


def _floor(subject: Subject, profile: Profile) -> Floor | None:
    """The floor on the shapes that are timed; None where it was not asked for or is not known."""
    if not subject.has_floor:
        return None
    assert subject.encoder is not None
    shapes = latency.shapes_up_to(subject.artifacts[REFERENCE].max_length)
    return Floor(subject.encoder, shapes, profile.turn_ms)


def _steps(subject: Subject, profile: Profile) -> dict[str, tuple[int, float]]:
    """How many steps of each kind, and about how many seconds one takes: as measured on 2 cores for 90 MB of
    fp32 weights, in proportion to the weights."""
    rows, splits = len(subject.artifacts) + len(subject.places), subject.splits.values()
    weight = max(0.1, subject.artifacts[REFERENCE].bytes / 90e6)
    texts = sum(len(split.texts) for split in splits) / len(splits)
    loads_s = 1.2 * profile.served_s * len(profile.concurrencies)
    loads_s += 1.3 * profile.open_s * (len(profile.open_shares) + len(profile.extra_rates))
    archives = len(subject.archives)
    if profile.served_best is not None and not subject.named:
        archives = min(archives, 1 + profile.served_best)
    return {
        "start": (rows + 1 + subject.has_floor, 4),
        "quality": (rows * len(splits), weight * texts / 700),
        "latency,": (profile.rounds, 0.4 * weight * (rows + 1 + subject.has_floor)),
        "serving": (archives * profile.passes, 7 + 2 * weight + loads_s),
    }


def _findings(name: str, subject: Subject, inside: InProcess) -> dict[str, Any]:
    """What was found in process of a variant or a peer, as `report.measured` takes it."""
    reference = subject.artifacts[REFERENCE]
    artifact, scores = subject.artifacts.get(name, reference), inside.scores[name]
    if name not in subject.artifacts:
        scores = calibrated(scores, reference.meta["temperature"])
    labelled = subject.splits if subject.data["labels_meaningful"] else None
    return {
        "latency": inside.latency[name],
        "resources": dict(inside.resources[name]),
        "quality": quality(artifact, scores, labelled) if labelled else {},
        "parity": parity(artifact, scores, reference, inside.scores[REFERENCE], labelled),
        "served": [],
        "served_error": None,
        "quality_served": {},
        "parity_served": {},
    }


def _served_findings(
    name: str, subject: Subject, profile: Profile, inside: InProcess, served: Served
) -> dict[str, Any]:
    """What was found of a variant behind the server, as `report.measured` takes it."""
    artifact, scored = subject.artifacts[name], inside.scores[name]
    labelled = subject.data["labels_meaningful"]
    found: dict[str, Any] = {
        "served": served.record(),
        "open": served.open_record(OBJECTIVE_P99_MS),
        "saturation": served.saturation(),
        "served_error": served.error,
        "resources": inside.resources[name] | {"server_ready_s": min(served.ready_s, default=None)},
        "quality_served": {},
        "parity_served": {},
    }
    for split, scores in served.scores.items():
        content = subject.splits[split]
        lists = spread(in_lists(content.texts), profile.served_texts)
        rows = np.concatenate([np.arange(part.start, part.stop) for part in lists])
        agreement = served_parity(artifact, scored[split][rows], scores)
        found["parity_served"][split] = agreement
        if labelled and not agreement["unanswered"]:
            part = Split([content.texts[row] for row in rows], content.labels[rows])
            found["quality_served"] |= quality(artifact, {split: scores}, {split: part})
    return found


def _choose_served(subject: Subject, profile: Profile, found: Mapping[str, dict[str, Any]]) -> Serving:
    """Which archives to serve, from what was found in process."""
    candidates = [
        {"name": name, "artifact": describe(subject.artifacts[name]), **found[name]}
        for name in subject.archives
        if name in found
    ]
    return choose_served(candidates, None if subject.named else profile.served_best)


def _peer_entries(subject: Subject, inside: InProcess) -> list[dict[str, Any]]:
    """The peers' rows: measured, failed, or left out with the reason."""
    assert subject.peers is not None
    failures = subject.peers.failures | inside.failures
    entries = []
    for name in PEERS:
        found = _findings(name, subject, inside) if name in inside.latency else None
        entries.append(
            peer_entry(
                PEERS[name],
                found,
                subject.peers.facts.get(name),
                subject.peers.left_out.get(name),
                failures.get(name),
            )
        )
    return entries


def _describe_data(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, Any]:
    """What the texts are, without where they lie: of a path only the file's name is kept."""
    kind, separator, place = dataset.spec.partition(":")
    base = checkpoint.meta["base"]
    return {
        "spec": kind + separator + Path(place).name,
        "sha256": dataset.sha256,
        "base": Path(base).name if Path(base).is_absolute() else base,
        "labels": list(dataset.labels),
        "labels_meaningful": checkpoint.judged,
    }
