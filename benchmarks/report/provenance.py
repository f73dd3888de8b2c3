"""How the figures of a report were measured, in sentences: machine, versions, data, noise and failures.

Covers the list below every table. Leaves out the figures themselves (`markdown`, `variant_page`).
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.environment import BUSY_SHARE
from benchmarks.names import CUDA_REFERENCE, TFIDF
from benchmarks.records import Machine, OpenLevel, Report, Run
from benchmarks.report.verdicts import today
from training.data.records import KEPT_APART, STATED, UNKNOWN
from training.measures.noninferiority import REHEARSAL

WHY_UNSEEN = {
    KEPT_APART: "The model was trained elsewhere; it is judged on files that are not meant for training",
    STATED: "The model was trained elsewhere; its user states that it has not seen these texts (--unseen)",
    UNKNOWN: "NOT PROVEN: the model was trained elsewhere and may have seen these texts",
}
NOISY = 1.25  # intervals this wide, or two runs of fp32 this far apart, deserve a warning
# Our own threads sleep (`handler` asks OpenMP for it); a baseline runs as its user would run it.
SPINNING = (
    " WARNING: the machine was in use. By default, the baselines' threads spin while they wait, which costs "
    "them more on a busy machine than on a quiet one."
)


def failures(document: Report) -> list[str]:
    """A sentence for everything that failed."""
    lines = []
    for variant in document.variants:
        if variant.error:
            said = first_line(variant.error.message)
            lines.append(f"{variant.name} failed during {variant.error.stage}: {said}")
        if variant.served_error:
            lines.append(f"{variant.name} could not be served: {first_line(variant.served_error)}")
    for baseline in document.baselines:
        if baseline.served_error:
            lines.append(f"{baseline.name} failed while it was served: {first_line(baseline.served_error)}")
        if baseline.error and baseline.status == "left out":
            lines.append(f"{baseline.name} was left out: {first_line(baseline.error.message)}")
        elif baseline.error:
            said = first_line(baseline.error.message)
            lines.append(f"{baseline.name} failed during {baseline.error.stage}: {said}")
    if document.bound and document.bound.error:
        lines.append(f"The GEMM lower bound could not be measured: {document.bound.error}")
    return lines


def first_line(message: str) -> str:
    """A library's message may go on for a page; the report's JSON holds all of it."""
    return message.strip().partition("\n")[0]


def provenance(document: Report) -> str:
    """Machine, versions, data, and how to read the figures, as a Markdown list."""
    return "\n".join(f"- {line}" for line in provenance_lines(document))


def provenance_in_short(document: Report) -> str:
    """Machine, run and noise in one paragraph."""
    return f"{machine_and_run(document)} {_ratios_line(document)}"


def machine_and_run(document: Report) -> str:
    """In one sentence."""
    run = document.run
    machine = document.machine
    of_gpus = "".join(f", {card.name}" for card in machine.gpus)
    return (
        f"{machine.cpu}, {machine.cores} cores{of_gpus}; run {run.id}, profile {run.profile}, "
        f"{run.threads} threads, commit {run.commit or 'unknown'}."
    )


def provenance_lines(document: Report) -> list[str]:
    """The lines of that list; links are as in Markdown."""
    run = document.run
    machine = document.machine
    data = document.data
    software = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    features = ", ".join(machine.cpu_features) or "none that matter here"
    tokens = data.tokens
    lines = [
        f"Machine: {machine.cpu}, {machine.cores} cores, {machine.memory_gb} GB, "
        f"{machine.system}; instruction sets: {features}.",
        f"Software: {software}; commit {run.commit or 'unknown'}.",
        f"Run {run.id} of {run.seconds:.0f} s, profile {run.profile}, {run.threads} threads; "
        f"load average before the run {run.load_average_before}"
        + (" (the machine was in use)." if _was_busy(run, machine) else "."),
        f"Data: {data.spec}; the real texts are those of the {data.timed_split} split, "
        f"{tokens.mean:.0f} tokens on average, p90 {tokens.p90:.0f}, p99 {tokens.p99:.0f}.",
        "1x32: one text of 32 tokens. Memory is the peak of a process that holds only this variant.",
        f"{_ratios_line(document)} They hold within this run only.",
        *_gpu_lines(document),
        *_run_lines(document),
        *_baseline_lines(document),
        *_bound_lines(document),
        *_served_lines(document),
    ]
    if not data.labels_meaningful:
        lines.append("Random weights, or texts without labels: labels mean nothing, so no quality is shown.")
    return lines


def _gpu_lines(document: Report) -> list[str]:
    """How rows on a GPU were measured; empty without them."""
    rows = document.on_cuda
    if not rows:
        return []
    cards = ", ".join(
        f"{card.name} (capability {card.capability[0]}.{card.capability[1]}, {card.memory_gb} GB)"
        for card in document.machine.gpus
    )
    noise = max(
        (entry.speedup.noise for row in rows for entry in row.latency if entry.speedup.noise),
        default=None,
    )
    apart = "" if noise is None else f"; a second {CUDA_REFERENCE} may differ by up to {noise:.2f}x (95 %)"
    lines = [
        f"GPU: {cards}. Ratios of rows on it are to {CUDA_REFERENCE} and never to a row on the CPU"
        f"{apart}. Times are measured on the host: for shapes and tokenised texts, from token ids on the "
        "host to logits on the host; for real texts, from the text to its answer.",
        "GPU busy: the time in which the GPU computed or copied during such a call, from torch's profiler, "
        "after the rounds; the rest is the host's. Energy is that of the whole card, idle power included, "
        "for texts of 32 tokens in the largest batch.",
    ]
    if peak := document.bound and document.bound.cuda:
        promised = peak.datasheet_tflops
        lines.append(
            f"The GPU's fp16 peak: only the encoder's own matrix products, {peak.tflops:.0f} TFLOP/s at "
            f"{peak.case}"
            + (f"; the data sheet promises {promised:.0f}." if promised else "; its data sheet is not known.")
        )
    missing = {row.resources.gpu_energy_missing for row in rows if row.resources.gpu_energy_missing}
    return lines + [f"Energy of the GPU is not known: {reason}." for reason in sorted(missing)]


def _run_lines(document: Report) -> list[str]:
    """What newer reports know of the run."""
    run = document.run
    machine = document.machine
    lines = []
    if (others := run.others_cores) is not None:
        share = " WARNING: that is a lot." if others > BUSY_SHARE * machine.cores else ""
        lines.append(f"Other processes used {others:.2f} cores while latency was measured.{share}")
    if run.resumed:
        often = "once" if run.resumed == 1 else f"{run.resumed} times"
        lines.append(f"The run was interrupted and resumed {often}; its rounds come from several sessions.")
    if document.data.is_synthetic:
        lines.append(f"Every verdict is {REHEARSAL}: it is about the demo's grammar (docs/training.md).")
    if why := document.data.unseen:
        lines.append(f"{WHY_UNSEEN[why]}.")
    if run.margin is not None and document.data.labels_meaningful:
        lines.append(
            f"PASS: a macro-F1 drop of {run.margin:g} or more is ruled out on the gate texts, with 97.5 % "
            "confidence across every look at this gate (docs/claim.md). FAIL: a larger drop is shown. "
            "INCONCLUSIVE: neither. NOT EQUAL: refused by the check at export."
        )
    return lines


def _baseline_lines(document: Report) -> list[str]:
    """What the baselines are, and in which versions."""
    baselines = [baseline for baseline in document.baselines if not baseline.error]
    if not baselines:
        return []
    versions = {name: version for baseline in baselines for name, version in baseline.versions.items()}
    also = [f"{name} {versions[name]}" for name in versions if name not in document.machine.versions]
    told = {
        baseline.name: f"{baseline.name}: [{baseline.summary}]({baseline.documentation})"
        + (f", prepared in {baseline.preparation_s:.0f} s" if baseline.preparation_s else "")
        for baseline in baselines
    }
    other = told.pop(TFIDF, None)
    return [
        "Baselines are the same checkpoint, run as other projects' documentation shows, with the same "
        "number of threads: "
        + "; ".join(told.values())
        + (f". Another classifier, fitted to the same training texts, is {other}" if other else "")
        + (f" ({', '.join(also)})." if also else ".")
        + (SPINNING if _was_busy(document.run, document.machine) else "")
    ]


def _bound_lines(document: Report) -> list[str]:
    bound = document.bound
    if not bound or not bound.cases:
        return []
    rates = ", ".join(
        f"{case.case} {case.int8_ms:.2f} ms ({case.int8_tops:.2f} TOPS)" for case in bound.cases
    )
    sizes = bound.encoder
    return [
        f"Int8 lower bound: only the matrix products of the {sizes.layers} layers (width {sizes.width}, "
        f"feed-forward {sizes.feed_forward}), computed by oneDNN, percentile {bound.percentile} of each: "
        f"{rates}. A variant that skips tokens or layers may go below it."
    ]


def _was_busy(run: Run, machine: Machine) -> bool:
    load = run.load_average_before
    return load is not None and load > BUSY_SHARE * machine.cores


def _ratios_line(document: Report) -> str:
    """What ratios are relative to, how they are computed, and how precise they are."""
    apart = f", on a GPU to {CUDA_REFERENCE}" if document.on_cuda else ""
    to = f"Ratios are to {today(document)} in the same run{apart}"
    real = [entry for row in document.rows for entry in row.latency if entry.turns and entry.tokens is None]
    if not real:
        return f"{to}: medians over interleaved rounds. {_noise_line(document)}"
    widths = [entry.against_today.width for entry in real if entry.against_today.verdict != "reference"]
    known = ""
    if widths:
        known = (
            f" On real texts an interval is {np.median(widths):.0%} wide at the median, {max(widths):.0%} at "
            "most."
        )
        if np.median(widths) > NOISY - 1:
            known += " WARNING: that is wide; there were few blocks, or the machine was not quiet."
    blocks = [entry.rounds for entry in real]
    return (
        f"{to}: 10th percentiles of short turns, in {_range(blocks)} blocks; every process is restarted for "
        f"each block. Intervals (95 %) are over blocks; equal means within 5 %.{known}"
    )


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _noise_line(document: Report) -> str:
    """For a report of an earlier version."""
    factors = [entry.speedup.noise for entry in document.variants[0].latency]
    known = [factor for factor in factors if factor is not None]
    if not known:
        return "The noise of this run is unknown."
    line = f"A second fp32 may differ by up to {max(known):.2f}x (95 %); less is called not different."
    if max(known) > NOISY:
        line += " WARNING: that is a lot; there were few rounds, or the machine was not quiet."
    return line


def _served_lines(document: Report) -> list[str]:
    measured = document.measured
    levels = [level for variant in measured for level in variant.served]
    if not levels:
        return []
    serving = document.run.serving
    which = f" Variants served: {serving.rule}." if serving and len(serving.names) < len(measured) else ""
    passes = levels[0].passes
    cores = max(level.load_generator_cores for level in levels)
    often = "one pass, so no interval" if passes == 1 else f"{passes} passes"
    lines = [
        f"Served: TorchServe, closed loop, one text per request, {often}. The load generator ran on the "
        f"same cores and used up to {cores:.2f} of them.{which}"
    ]
    offered = [level for variant in measured for level in variant.open]
    if offered:
        lines.append(_open_loop_line(offered, document.run.objective_p99_ms))
    return lines


def _open_loop_line(levels: Sequence[OpenLevel], objective_ms: float | None) -> str:
    good = f"; in time: within {objective_ms:g} ms" if objective_ms else ""
    late = ""
    if any(level.lateness for level in levels):
        late = (
            " The share of late requests has a 95 % interval, which allows for the requests of a burst "
            "being late together; a p99 is kept if the upper end is at most 1 %."
        )
    return (
        "Open loop: requests arrive at random (Poisson) whether or not earlier ones were answered, and "
        f"latency counts from the time at which a request was due{good}.{late}"
    )
