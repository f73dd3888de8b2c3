"""One run: every variant measured side by side, and a report for each.

Start, scores, latency and memory in process come first, then one server after another; baselines and the GEMM
bound take part on request. An interrupted run is resumed where it stopped.
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

from benchmarks import environment, records
from benchmarks.baselines.in_process import BASELINES
from benchmarks.baselines.servers import serve_baselines
from benchmarks.ceilings.gemm_bound import GemmBound, add_multiples
from benchmarks.ceilings.roofline import add_rooflines, arithmetic
from benchmarks.in_process import latency, memory
from benchmarks.in_process.on_cuda import add_busy, add_peak_share, measure_on_cuda, resources_of
from benchmarks.in_process.pool import Failure, Pool, open_pool
from benchmarks.inputs import VALIDATION, Subject, is_for_cuda
from benchmarks.names import CUDA_SHAPES, GATE, GEMM_BOUND, REFERENCE, REFERENCES, SHAPES
from benchmarks.profiles import OBJECTIVE_P99_MS, Profile
from benchmarks.progress import Step, progress
from benchmarks.records import (
    Baseline,
    Data,
    Latency,
    Lengths,
    Parity,
    Report,
    Resources,
    Run,
    Serving,
    Variant,
    tidied,
)
from benchmarks.resume_log import ResumeLog
from benchmarks.rows import baseline_row, describe, failed
from benchmarks.sameness.gate import by_interval, judge_run
from benchmarks.sameness.parity import flipped, parity
from benchmarks.sameness.scores import (
    Asked,
    Scores,
    calibrated,
    in_lists,
    quality,
    refitted,
    score,
    spread,
    thresholds,
)
from benchmarks.selection import Objective, choose_served
from benchmarks.served.run import Served, measure_served, served_parity
from common.commands import say
from common.environment import commit
from handler.machine import cpu_features
from training.data.splits import Split
from training.measures.functional import evaluate_cases
from training.measures.noninferiority import FAIL, PASS

BF16 = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class InProcess:
    """What the workers brought, each by variant or baseline; `parity` is of their `scores`, by split, and
    `asked` what later stages were asked for these. `tokens` are the lengths of the timed texts and `lengths`
    those of the scored ones, by split; `others_cores` is what other processes took meanwhile."""

    resources: dict[str, Resources]
    scores: dict[str, Scores]
    asked: dict[str, Asked]
    parity: dict[str, dict[str, Parity]]
    lengths: dict[str, np.ndarray]
    latency: dict[str, list[Latency]]
    tokens: list[int]
    failures: dict[str, Failure]
    bound: records.GemmBound | None
    others_cores: float


def open_resume_log(
    folder: Path, subject: Subject, profile: Profile, threads: int | None, fresh: bool
) -> ResumeLog:
    """The resume log of this run, with what an interrupted run of the same subject left; prints if so."""
    same = subject.identity() | {"profile": asdict(profile), "threads": threads}
    resume_log = ResumeLog(folder, same, fresh)
    if len(resume_log):
        say(f"resuming an interrupted run ({len(resume_log)} measurements are done); to start over: --fresh")
    return resume_log


def measure(
    subject: Subject,
    profile: Profile,
    threads: int | None,
    objective: Objective | None = None,
    resume_log: ResumeLog | None = None,
    ledger: Path | None = None,
) -> Report:
    """Measure everything; the reference comes first, failures last. Verdicts spend what is left in the gate's
    `ledger` of looks (None: as if nobody had looked before)."""
    objective = objective or Objective()
    resume_log = ResumeLog(None, {}) if resume_log is None else resume_log
    limit_ms = objective.p99_ms or OBJECTIVE_P99_MS
    started = datetime.now(UTC)
    began = time.perf_counter()
    if environment.is_busy(load := subject.load_average):
        say(f"warning: the machine is busy (load {load}); the intervals of timings will be wide")
    with progress(_steps(subject, profile)) as step:
        inside = _measure_in_process(subject, profile, threads, objective.max_f1_drop, step, resume_log)
        variants = {
            name: _variant(name, subject, inside) for name in inside.latency if name in subject.artifacts
        }
        _judge(subject, list(variants.values()), objective.max_f1_drop, ledger)
        serving = _choose_served(subject, profile, variants)
        for name, outcome in _serve(subject, profile, serving, step, resume_log).items():
            _add_served(variants[name], subject, profile, inside, outcome, limit_ms)
        servers = _serve_baselines(subject, profile, step, limit_ms, resume_log)
    run = Run(
        id=f"{started:%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}",
        started_at=started.isoformat(timespec="seconds"),
        seconds=time.perf_counter() - began,
        profile=profile.name,
        threads=inside.resources[REFERENCE].threads or 1,
        load_average_before=load,
        others_cores=inside.others_cores,
        commit=commit(),
        objective_p99_ms=limit_ms,
        margin=objective.max_f1_drop,
        resumed=resume_log.resumed,
        serving=serving,
    )
    return tidied(
        Report(
            schema=1,
            run=run,
            machine=environment.fingerprint(),
            data=_data(subject, inside.tokens),
            variants=[*variants.values(), *_failed(subject, inside)],
            baselines=[*_baselines(subject, inside), *servers],
            bound=inside.bound,
        )
    )


def _serve(
    subject: Subject, profile: Profile, serving: Serving, step: Step, resume_log: ResumeLog
) -> dict[str, Served]:
    return measure_served(
        {name: subject.archives[name] for name in serving.names},
        subject.artifacts,
        subject.timed,
        {name: subject.splits[name] for name in profile.served_splits},
        profile,
        step,
        resume_log,
    )


def _data(subject: Subject, tokens: list[int]) -> Data:
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99]).tolist()
    lengths = Lengths(mean=float(np.mean(tokens)), p50=p50, p90=p90, p99=p99)
    return Data(**subject.data, tokens=lengths)


def _sizes(subject: Subject) -> dict[str, int]:
    """Bytes of each variant and baseline on the disk."""
    sizes = {name: artifact.bytes for name, artifact in subject.artifacts.items()}
    if subject.baselines:
        sizes |= {name: subject.baselines.bytes(name) for name in subject.places}
    return sizes


def _resources(
    taken: Mapping[str, Any], alone: Mapping[str, Any], timings: latency.Timings
) -> dict[str, Resources]:
    """What each row took on the CPU, on the GPU if it is there, and per text."""
    return {
        name: Resources(
            **found,
            **(resources_of(alone[name]) if name in alone else {}),
            cpu_s_per_1000_texts=timings.cpu_s_per_1000_texts(name),
        )
        for name, found in taken.items()
    }


def _measure_alone(pool: Pool, max_length: int, step: Step, resume_log: ResumeLog) -> dict[str, Any]:
    """What rows on a GPU say of themselves while it does nothing else."""
    shapes = latency.shapes_up_to(max_length, (*SHAPES, *CUDA_SHAPES))
    found: dict[str, Any] = resume_log.once("GPU alone", partial(measure_on_cuda, pool, shapes, step))
    return found


def _measure_in_process(
    subject: Subject,
    profile: Profile,
    threads: int | None,
    margin: float,
    step: Step,
    resume_log: ResumeLog,
) -> InProcess:
    artifacts = subject.artifacts
    max_length = artifacts[REFERENCE].max_length
    bound = _bound(subject, profile)
    extras = [*subject.places, *([GEMM_BOUND] if bound else [])]
    with open_pool(list(artifacts), extras, resume_log) as pool:
        pool.stage = "start"
        started = memory.start(pool, artifacts, subject.places, threads, subject.timed[0], step)
        if bound and GEMM_BOUND in pool.names:
            bound.start(pool, started[REFERENCE]["threads"], bool(BF16 & set(cpu_features())), step)
        pool.stage = "scoring"
        scores, asked, lengths = score(pool, subject.scored, subject.splits, step, resume_log)
        scores |= _calibrated(scores, subject)
        compared = {name: _parity(name, subject, scores, lengths) for name in scores if name in pool.names}
        # Before the blocks start the processes again: what they took is of all that they were asked.
        pool.stage = "memory"
        finish = partial(memory.finish, pool, started, _sizes(subject), subject.archives)
        taken = resume_log.once("resources", finish)  # workers that have nothing left to do have no peak
        pool.stage = "GPU alone"
        alone = _measure_alone(pool, max_length, step, resume_log) if pool.on_cuda else {}
        pool.stage = "latency"
        timings = latency.measure_latency(
            pool,
            subject.timed,
            max_length,
            profile,
            step,
            resume_log,
            bound,
            _standing(subject, compared, margin),
        )
        tokens = pool.ask(REFERENCE, "lengths")
        taken = {name: found for name, found in taken.items() if name in pool.names}  # the others have failed
    recorded = bound.record(pool.failures.get(GEMM_BOUND)) if bound else None
    entries = timings.entries(list(taken))
    for name, timed in entries.items():
        if name in alone:
            add_busy(timed, alone[name]["busy_ms"])
        _add_bounds(name, timed, subject, recorded)
    resources = _resources(taken, alone, timings)
    return InProcess(
        resources,
        scores,
        asked,
        compared,
        lengths,
        entries,
        tokens,
        pool.failures,
        recorded,
        timings.others_cores,
    )


def _calibrated(scores: Mapping[str, Scores], subject: Subject) -> dict[str, Scores]:
    """The baselines' scores, at the temperature of the classifier."""
    reference = subject.artifacts[REFERENCE]
    return {
        name: calibrated(scores[name], reference.meta.temperature, reference.multi_label)
        for name in subject.places
        if name in scores
    }


def _parity(
    name: str, subject: Subject, scores: Mapping[str, Scores], lengths: Mapping[str, np.ndarray]
) -> dict[str, Parity]:
    """How a variant's or a baseline's scores differ from fp32's, by split."""
    reference = subject.artifacts[REFERENCE]
    artifact = subject.artifacts.get(name, reference)
    on_splits = {split: scores[name][split] for split in subject.splits}
    theirs, is_reference = scores[REFERENCE], name == REFERENCE
    found = parity(artifact, on_splits, reference, theirs, subject.labelled, lengths, is_reference)
    for on_split in found.values():
        on_split.may_have_seen = subject.may_have_seen
    return found


def _standing(
    subject: Subject, compared: Mapping[str, Mapping[str, Parity]], margin: float
) -> dict[str, int]:
    """Which variants may still be chosen, by what is seen of their drop on gate: 0 where the interval
    keeps the margin, 1 where it does not; none that is beyond it, or that the check at export refused. The
    verdict itself is the gate ledger's."""
    found = {}
    for name, artifact in subject.artifacts.items():
        if name in REFERENCES or name not in compared or not artifact.meta.check.equal:
            continue
        seen = compared[name].get(GATE)
        drop = seen and seen.macro_f1_drop
        word = by_interval(drop, margin) if drop else PASS
        if word != FAIL:
            found[name] = 0 if word == PASS else 1
    return found


def _bound(subject: Subject, profile: Profile) -> GemmBound | None:
    """The GEMM bound on the shapes that are timed; None where it was not asked for or is not known."""
    if not subject.has_bound:
        return None
    assert subject.encoder is not None
    max_length = subject.artifacts[REFERENCE].max_length
    on_cuda = latency.shapes_up_to(max_length, CUDA_SHAPES) if subject.on_cuda else ()
    return GemmBound(subject.encoder, latency.shapes_up_to(max_length), profile.turn_ms, on_cuda)


def _add_bounds(name: str, entries: list[Latency], subject: Subject, bound: records.GemmBound | None) -> None:
    """The int8 bound of all products and a variant's own roofline; on a GPU, the share of its peak."""
    artifact = subject.artifacts.get(name)
    work = artifact and subject.encoder and arithmetic(artifact, subject.artifacts, subject.encoder)
    if artifact and is_for_cuda(artifact):
        if work and bound and bound.cuda:
            add_peak_share(entries, work, bound.cuda)
        return
    if name in subject.places and (BASELINES[name].on_cuda or BASELINES[name].fitted):
        return
    add_multiples(entries, bound)
    if work and bound:
        add_rooflines(entries, work, bound.peaks)


def _steps(subject: Subject, profile: Profile) -> dict[str, tuple[int, float]]:
    """How many steps of each kind, and about how many seconds one takes: as measured on 2 cores for 90 MB of
    fp32 weights, in proportion to the weights."""
    rows = len(subject.artifacts) + len(subject.places)
    weight = max(0.1, subject.artifacts[REFERENCE].bytes / 90e6)
    texts = sum(len(texts) for texts in subject.scored.values()) / len(subject.scored)
    on_cuda = sum(map(is_for_cuda, subject.artifacts.values())) + sum(
        BASELINES[name].on_cuda for name in subject.places
    )
    loads_s = 1.2 * profile.served_s * (len(profile.concurrencies) + 1)
    loads_s += 1.7 * profile.open_s * (len(profile.open_shares) + len(profile.extra_rates))
    servers = sum(not server.lacks() for server in subject.baseline_servers().values())
    archives = len(subject.archives)
    if profile.served_best is not None and not subject.named:
        archives = min(archives, 1 + profile.served_best)
    return {
        "start": (rows + subject.has_bound, 4),
        "quality": (rows * len(subject.scored), weight * texts / 200),
        "latency,": (profile.most_blocks, profile.latency_s / profile.most_blocks),
        "GPU": (on_cuda, 5),
        "serving": ((archives + servers) * profile.passes + 1, 7 + 2 * weight + loads_s),
    }


def _row(name: str, subject: Subject, inside: InProcess) -> dict[str, Any]:
    """The fields of a variant's or a baseline's row that are found in process."""
    reference = subject.artifacts[REFERENCE]
    artifact = subject.artifacts.get(name, reference)
    on_splits = {split: inside.scores[name][split] for split in subject.splits}
    return {
        "status": "measured",
        "error": None,
        "latency": inside.latency[name],
        "resources": inside.resources[name],
        "quality": quality(artifact, on_splits, subject.labelled),
        "parity": inside.parity[name],
    }


def _variant(name: str, subject: Subject, inside: InProcess) -> Variant:
    """What was found of a variant in process."""
    artifact, reference = subject.artifacts[name], subject.artifacts[REFERENCE]
    scores, theirs = inside.scores[name], inside.scores[REFERENCE]
    on_splits = {split: scores[split] for split in subject.splits}
    labelled = subject.labelled
    found = Variant(
        name=name,
        artifact_sha256=artifact.sha256,
        artifact=describe(artifact),
        served=[],
        served_error=None,
        quality_served={},
        parity_served={},
        proof=artifact.meta.proof,
        asked={split: inside.asked[name][split] for split in on_splits if name in inside.asked},
        flipped=flipped(artifact, on_splits, reference, theirs, labelled, inside.lengths),
        **_row(name, subject, inside),
    )
    if subject.validation and labelled:
        known = labelled | {VALIDATION: subject.validation}
        for split, figures in refitted(artifact, on_splits, scores[VALIDATION], known).items():
            found.quality[split].refitted = figures
    for suite, cases in subject.suites.items():
        cuts = thresholds(artifact), thresholds(reference)
        found.functional[suite] = evaluate_cases(cases, scores[suite], theirs[suite], *cuts)
    return found


def _judge(subject: Subject, variants: list[Variant], margin: float, ledger: Path | None) -> None:
    if GATE in subject.splits:
        texts = subject.splits[GATE].texts
        judge_run(ledger, texts, variants, margin, len(subject.data["labels"]))


def _add_served(
    variant: Variant,
    subject: Subject,
    profile: Profile,
    inside: InProcess,
    served: Served,
    limit_ms: float,
) -> None:
    """What was found of a variant behind the server."""
    artifact, scored = subject.artifacts[variant.name], inside.scores[variant.name]
    variant.served = served.record()
    variant.open = served.open_record(limit_ms)
    variant.saturation = served.saturation()
    variant.served_error = served.error
    variant.resources.server_ready_s = min(served.ready_s, default=None)
    variant.resources.server_rss_mb = max(served.rss_mb, default=None)
    variant.many = served.many_record()
    variant.served_turns = served.turns
    for split, scores in served.scores.items():
        content = subject.splits[split]
        lists = spread(in_lists(content.texts), profile.served_texts)
        rows = np.concatenate([np.arange(part.start, part.stop) for part in lists])
        agreement = served_parity(artifact, scored[split][rows], scores)
        variant.parity_served[split] = agreement
        if split in subject.labelled and not agreement.unanswered:
            part = Split([content.texts[row] for row in rows], content.labels[rows])
            variant.quality_served |= quality(artifact, {split: scores}, {split: part})


def _serve_baselines(
    subject: Subject, profile: Profile, step: Step, limit_ms: float, resume_log: ResumeLog
) -> list[Baseline]:
    """The rows of what others would serve; none where baselines do not take part or nothing is served."""
    if not (servers := subject.baseline_servers()):
        return []
    return serve_baselines(servers, subject.checkpoint, subject.timed, profile, step, resume_log, limit_ms)


def _choose_served(subject: Subject, profile: Profile, variants: Mapping[str, Variant]) -> Serving:
    """Which archives to serve, from what was found in process."""
    candidates = [variants[name] for name in subject.archives if name in variants]
    return choose_served(candidates, None if subject.named else profile.served_best)


def _failed(subject: Subject, inside: InProcess) -> list[Variant]:
    """The variants that dropped out."""
    not_variants = {GEMM_BOUND, *subject.places}
    return [
        failed(name, subject.artifacts.get(name), failure)
        for name, failure in sorted((subject.unusable | inside.failures).items())
        if name not in not_variants
    ]


def _baselines(subject: Subject, inside: InProcess) -> list[Baseline]:
    """The baselines' rows: measured, failed, or left out with the reason."""
    if not subject.baselines:
        return []
    failures = subject.baselines.failures | inside.failures
    return [
        baseline_row(
            BASELINES[name],
            _row(name, subject, inside) if name in inside.latency else None,
            subject.baselines.facts.get(name),
            subject.baselines.left_out.get(name),
            failures.get(name),
        )
        for name in BASELINES
        if name in subject.baselines.names
    ]
