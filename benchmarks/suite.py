"""One run: every variant measured side by side, and a report for each.

Covers the order of things (start, scores, latency and memory in process; then one server after another),
progress with the time left, going on where an interrupted run ended, and which variant dropped out where.
Peers and the floor take part where asked for. Leaves out what a run is about and what is refused beforehand
(`subject`), how each thing is measured (`resources`, `quality`, `parity`, `latency`, `floor`, `served`), what
it proves (`noninferiority`) and how it is shown (`report`).
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks import environment
from benchmarks.baselines.in_process import PEERS
from benchmarks.baselines.servers import RIVALS, serve_rivals
from benchmarks.ceilings.gemm_bound import Floor, under
from benchmarks.ceilings.roofline import arithmetic, with_rooflines
from benchmarks.in_process import latency, memory
from benchmarks.in_process.on_cuda import measure_on_cuda, resources_of, with_busy, with_peak_share
from benchmarks.in_process.pool import Failure, open_pool
from benchmarks.inputs import VALIDATION, Subject, is_for_cuda
from benchmarks.names import CONTROLS, FLOOR, REFERENCE
from benchmarks.profiles import OBJECTIVE_P99_MS, Profile
from benchmarks.progress import Step, progress
from benchmarks.records import SCHEMA, Report, describe, failed, measured, peer_entry, real_batch
from benchmarks.resume_log import ResumeLog
from benchmarks.sameness.noninferiority import GATE
from benchmarks.sameness.parity import flipped, parity
from benchmarks.sameness.scores import (
    Scores,
    calibrated,
    in_lists,
    quality,
    refitted,
    score,
    spread,
    thresholds,
)
from benchmarks.selection import Objective, Serving, choose_served, verdicts_at
from benchmarks.served.run import Served, measure_served, served_parity
from common.commands import say
from common.environment import commit
from handler.machine import cpu_features
from training.data.splits import Split
from training.measures.functional import evaluate_cases

BF16 = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class InProcess:
    """What the workers brought, each by variant or peer. `tokens` are the lengths of the timed texts and
    `lengths` those of the scored ones, by split; `others_cores` is what other processes took meanwhile."""

    resources: dict[str, dict[str, Any]]
    scores: dict[str, Scores]
    lengths: dict[str, np.ndarray]
    latency: dict[str, list[dict[str, Any]]]
    tokens: list[int]
    failures: dict[str, Failure]
    floor: dict[str, Any] | None
    others_cores: float


def open_resume_log(
    folder: Path, subject: Subject, profile: Profile, threads: int | None, fresh: bool
) -> ResumeLog:
    """The resume log of this run, with what an interrupted one of the same subject left; said, if so."""
    same = subject.identity() | {"profile": asdict(profile), "threads": threads}
    resume_log = ResumeLog(folder, same, fresh)
    if len(resume_log):
        say(
            f"going on where an earlier run ended ({len(resume_log)} pieces are done); to begin anew: --fresh"
        )
    return resume_log


def measure(
    subject: Subject,
    profile: Profile,
    threads: int | None,
    objective: Objective | None = None,
    resume_log: ResumeLog | None = None,
) -> list[Report]:
    """Measure everything; one report per variant, the reference first."""
    objective = objective or Objective()
    resume_log = ResumeLog(None, {}) if resume_log is None else resume_log
    limit_ms = objective.p99_ms or OBJECTIVE_P99_MS
    started, began = datetime.now(UTC), time.perf_counter()
    if environment.is_busy(load := subject.load_average):
        say(f"warning: the machine is busy (load {load}); timings will be noisy, see the noise floor")
    with progress(_steps(subject, profile)) as step:
        inside = _measure_in_process(subject, profile, threads, step, resume_log)
        found = {name: _findings(name, subject, inside) for name in inside.latency}
        _judge(subject, found, objective.max_f1_drop)
        serving = _choose_served(subject, profile, found)
        served = measure_served(
            {name: subject.archives[name] for name in serving.names},
            subject.artifacts,
            subject.timed,
            {name: subject.splits[name] for name in profile.served_splits},
            profile,
            step,
            resume_log,
        )
        for name, outcome in served.items():
            found[name] |= _served_findings(name, subject, profile, inside, outcome, limit_ms)
            in_process = real_batch({"latency": inside.latency[name]})
            if in_process and (many := outcome.many_record(in_process["texts_per_second"])):
                found[name]["many"] = many
        rivals = _serve_rivals(subject, profile, step, limit_ms, resume_log)
    run = {
        "id": f"{started:%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}",
        "started_at": started.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - began,
        "profile": profile.name,
        "threads": inside.resources[REFERENCE]["threads"],
        "load_average_before": load,
        "others_cores": inside.others_cores,
        "commit": commit(),
        "objective_p99_ms": limit_ms,
        "margin": objective.max_f1_drop,
        "resumed": resume_log.resumed,
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
        "machine": environment.fingerprint(),
        "data": subject.data | {"tokens": tokens},
    }
    if subject.peers:
        head["peers"] = _peer_entries(subject, inside) + rivals
    if subject.peers or inside.floor:
        head["floor"] = inside.floor
    reports = [
        measured(head, subject.artifacts[name], **found[name])
        for name in inside.latency
        if name in subject.artifacts
    ]
    return reports + [
        failed(head, name, subject.artifacts.get(name), failure)
        for name, failure in sorted((subject.unusable | inside.failures).items())
        if name != FLOOR and name not in (*CONTROLS.values(), *subject.places)
    ]


def _measure_in_process(
    subject: Subject, profile: Profile, threads: int | None, step: Step, resume_log: ResumeLog
) -> InProcess:
    artifacts = dict(subject.artifacts)
    artifacts |= {control: artifacts[name] for name, control in CONTROLS.items() if name in artifacts}
    max_length = artifacts[REFERENCE].max_length
    floor = _floor(subject, profile)
    guests = [*subject.places, *([FLOOR] if floor else [])]
    with open_pool(list(subject.artifacts), guests, resume_log) as pool:
        pool.stage = "start"
        started = memory.start(pool, artifacts, subject.places, threads, subject.timed[0], step)
        if floor and FLOOR in pool.names:
            floor.start(pool, started[REFERENCE]["threads"], bool(BF16 & set(cpu_features())), step)
        pool.stage = "scoring"
        scores, lengths = score(pool, subject.scored, subject.splits, step, resume_log)
        pool.stage = "latency"
        timings = latency.measure_latency(pool, subject.timed, max_length, profile, step, resume_log, floor)
        tokens = pool.ask(REFERENCE, "lengths")
        pool.stage = "memory"
        sizes = {name: artifact.bytes for name, artifact in artifacts.items()}
        if subject.peers:
            sizes |= {name: subject.peers.bytes(name) for name in subject.places}
        finish = partial(memory.finish, pool, started, sizes, subject.archives)
        taken = resume_log.once("resources", finish)  # workers that have nothing left to do have no peak
        pool.stage = "GPU alone"
        shapes = latency.shapes_up_to(max_length, (*latency.SHAPES, *latency.CUDA_SHAPES))
        ask = partial(measure_on_cuda, pool, shapes, step)
        alone = resume_log.once("GPU alone", ask) if pool.on_cuda else {}
        taken = {name: one for name, one in taken.items() if name in pool.names}  # the others have failed
    recorded = floor.record(pool.failures.get(FLOOR)) if floor else None
    taken = {
        name: one
        | {"cpu_s_per_1000_texts": timings.cpu_s_per_1000_texts(name)}
        | (resources_of(alone[name]) if name in alone else {})
        for name, one in taken.items()
    }
    entries = timings.entries(list(taken))
    entries |= {name: with_busy(entries[name], alone[name]["busy_ms"]) for name in alone if name in entries}
    complete = {name: _with_floors(name, found, subject, recorded) for name, found in entries.items()}
    return InProcess(taken, scores, lengths, complete, tokens, pool.failures, recorded, timings.others_cores)


def _floor(subject: Subject, profile: Profile) -> Floor | None:
    """The floor on the shapes that are timed; None where it was not asked for or is not known."""
    if not subject.has_floor:
        return None
    assert subject.encoder is not None
    max_length = subject.artifacts[REFERENCE].max_length
    on_cuda = latency.shapes_up_to(max_length, latency.CUDA_SHAPES) if subject.on_cuda else ()
    return Floor(subject.encoder, latency.shapes_up_to(max_length), profile.turn_ms, on_cuda)


def _with_floors(
    name: str, entries: list[dict[str, Any]], subject: Subject, floor: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The `latency` list with the int8 floor of all products, and with a variant's own roofline; on a GPU,
    with the share of its peak in their place."""
    if name in subject.artifacts and is_for_cuda(subject.artifacts[name]):
        work = subject.encoder and arithmetic(subject.artifacts[name], subject.artifacts, subject.encoder)
        peak = (floor or {}).get("cuda")
        return with_peak_share(entries, work, peak) if work and peak else entries
    if name in subject.places and PEERS[name].on_cuda:
        return entries
    entries = under(entries, floor)
    if not floor or name not in subject.artifacts or subject.encoder is None:
        return entries
    work = arithmetic(subject.artifacts[name], subject.artifacts, subject.encoder)
    return with_rooflines(entries, work, floor["peaks"]) if work else entries


def _steps(subject: Subject, profile: Profile) -> dict[str, tuple[int, float]]:
    """How many steps of each kind, and about how many seconds one takes: as measured on 2 cores for 90 MB of
    fp32 weights, in proportion to the weights."""
    rows = len(subject.artifacts) + len(subject.places)
    weight = max(0.1, subject.artifacts[REFERENCE].bytes / 90e6)
    texts = sum(len(texts) for texts in subject.scored.values()) / len(subject.scored)
    round_s = 1.8 * weight * (rows + 1 + subject.has_floor)
    rounds = max(profile.least_rounds, min(profile.rounds, round(profile.latency_s / round_s)))
    on_cuda = sum(map(is_for_cuda, subject.artifacts.values())) + sum(
        PEERS[name].on_cuda for name in subject.places
    )
    loads_s = 1.2 * profile.served_s * (len(profile.concurrencies) + 1)
    loads_s += 1.3 * profile.open_s * (len(profile.open_shares) + len(profile.extra_rates))
    rivals = len(RIVALS) if subject.serves_rivals else 0
    archives = len(subject.archives)
    if profile.served_best is not None and not subject.named:
        archives = min(archives, 1 + profile.served_best)
    return {
        "start": (rows + 1 + subject.on_cuda + subject.has_floor, 4),
        "quality": (rows * len(subject.scored), weight * texts / 200),
        "latency,": (rounds, round_s),
        "GPU": (on_cuda, 5),
        "serving": ((archives + rivals) * profile.passes, 7 + 2 * weight + loads_s),
    }


def _findings(name: str, subject: Subject, inside: InProcess) -> dict[str, Any]:
    """What was found in process of a variant or a peer, as `report.measured` takes it."""
    reference = subject.artifacts[REFERENCE]
    artifact, scores = subject.artifacts.get(name, reference), inside.scores[name]
    if name not in subject.artifacts:
        scores = calibrated(scores, reference.meta["temperature"], reference.multi_label)
    labelled, theirs = subject.labelled, inside.scores[REFERENCE]
    on_splits = {split: scores[split] for split in subject.splits}
    found: dict[str, Any] = {
        "latency": inside.latency[name],
        "resources": dict(inside.resources[name]),
        "quality": quality(artifact, on_splits, labelled),
        "parity": parity(artifact, on_splits, reference, theirs, labelled, inside.lengths, name == REFERENCE),
        "served": [],
        "served_error": None,
        "quality_served": {},
        "parity_served": {},
        "functional": {},
        "flipped": [],
    }
    if name not in subject.artifacts:
        return found
    if subject.validation and labelled:
        known = labelled | {VALIDATION: subject.validation}
        again = refitted(artifact, on_splits, scores[VALIDATION], known)
        for split, figures in again.items():
            found["quality"][split]["refitted"] = figures
    for suite, cases in subject.suites.items():
        cuts = thresholds(artifact), thresholds(reference)
        found["functional"][suite] = evaluate_cases(cases, scores[suite], theirs[suite], *cuts)
    found["flipped"] = flipped(artifact, on_splits, reference, theirs, labelled, inside.lengths)
    return found


def _judge(subject: Subject, found: Mapping[str, dict[str, Any]], margin: float) -> None:
    """Write each variant's verdict into its parity on the gate texts."""
    variants = [
        {"name": name, "error": None, "artifact": describe(subject.artifacts[name]), **one}
        for name, one in found.items()
        if name in subject.artifacts
    ]
    for name, verdict in verdicts_at(variants, margin, len(subject.data["labels"])).items():
        found[name]["parity"][GATE]["noninferiority"] = verdict


def _served_findings(
    name: str,
    subject: Subject,
    profile: Profile,
    inside: InProcess,
    served: Served,
    limit_ms: float,
) -> dict[str, Any]:
    """What was found of a variant behind the server, as `report.measured` takes it."""
    artifact, scored = subject.artifacts[name], inside.scores[name]
    found: dict[str, Any] = {
        "served": served.record(),
        "open": served.open_record(limit_ms),
        "saturation": served.saturation(),
        "served_error": served.error,
        "resources": inside.resources[name]
        | {
            "server_ready_s": min(served.ready_s, default=None),
            "server_rss_mb": max(served.rss_mb, default=None),
        },
        "quality_served": {},
        "parity_served": {},
    }
    for split, scores in served.scores.items():
        content = subject.splits[split]
        lists = spread(in_lists(content.texts), profile.served_texts)
        rows = np.concatenate([np.arange(part.start, part.stop) for part in lists])
        agreement = served_parity(artifact, scored[split][rows], scores)
        found["parity_served"][split] = agreement
        if split in subject.labelled and not agreement["unanswered"]:
            part = Split([content.texts[row] for row in rows], content.labels[rows])
            found["quality_served"] |= quality(artifact, {split: scores}, {split: part})
    return found


def _serve_rivals(
    subject: Subject, profile: Profile, step: Step, limit_ms: float, resume_log: ResumeLog
) -> list[dict[str, Any]]:
    """The rows of what others would serve; none where peers do not take part or nothing is served."""
    if not subject.serves_rivals:
        return []
    return serve_rivals(subject.checkpoint, subject.timed, profile, step, resume_log, limit_ms)


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
    for name in [name for name in PEERS if name in subject.peers.names]:
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
