"""What the figures of a report rest on, in sentences: machine, versions, data, noise, and what failed.

Covers the list below every table. Leaves out the figures themselves (`markdown`, `variant_page`).
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.environment import BUSY_SHARE
from benchmarks.names import CUDA_REFERENCE
from benchmarks.records import REHEARSAL, Machine, Report, Run
from benchmarks.report.verdicts import noninferiority, today
from training.data.records import KEPT_APART, STATED, UNKNOWN

WHY_UNSEEN = {
    KEPT_APART: "The model was trained elsewhere; it is judged on texts of files that are not for training",
    STATED: "The model was trained elsewhere, and not on these texts, as its user states (--unseen)",
    UNKNOWN: "NOT PROVEN: the model was trained elsewhere, and may have seen these texts",
}
NOISY = 1.25  # intervals this wide, or fp32 so far from itself, deserve a warning
# Ours sleep (`handler` asks OpenMP for it); a baseline is left as its user would have it.
SPINNING = (
    " WARNING: the machine was in use, and baselines' threads spin while they wait, which is their default: "
    "among others they lose more than on a quiet machine."
)


def failures(document: Report) -> list[str]:
    """A sentence for everything that failed."""
    lines = []
    for variant in document.variants:
        if variant.error:
            lines.append(f"{variant.name} failed during {variant.error.stage}: {variant.error.message}")
        if variant.served_error:
            lines.append(f"{variant.name} could not be served: {variant.served_error}")
    for baseline in document.baselines:
        if baseline.served_error:
            lines.append(f"{baseline.name} could not be served to the end: {baseline.served_error}")
        if baseline.error and baseline.status == "left out":
            lines.append(f"{baseline.name} was left out: {baseline.error.message}")
        elif baseline.error:
            lines.append(f"{baseline.name} failed during {baseline.error.stage}: {baseline.error.message}")
    if document.bound and document.bound.error:
        lines.append(f"The GEMM lower bound could not be measured: {document.bound.error}")
    return lines


def provenance(document: Report) -> str:
    """Machine, versions, data, and how the figures are to be read, as a Markdown list."""
    return "\n".join(f"- {line}" for line in provenance_lines(document))


def provenance_in_short(document: Report) -> str:
    """Machine, run and noise in one paragraph."""
    run, machine = document.run, document.machine
    of_gpus = "".join(f", {card.name}" for card in machine.gpus)
    return (
        f"{machine.cpu}, {machine.cores} cores{of_gpus}; run {run.id}, profile {run.profile}, "
        f"{run.threads} threads, commit {run.commit or 'unknown'}. {_ratios_line(document)}"
    )


def provenance_lines(document: Report) -> list[str]:
    """The lines of that list; links are as in Markdown."""
    run, machine, data = document.run, document.machine, document.data
    software = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    features = ", ".join(machine.cpu_features) or "none that matters here"
    tokens = data.tokens
    lines = [
        f"Machine: {machine.cpu}, {machine.cores} cores, {machine.memory_gb} GB, "
        f"{machine.system}; instruction sets: {features}.",
        f"Software: {software}; commit {run.commit or 'unknown'}.",
        f"Run {run.id} of {run.seconds:.0f} s, profile {run.profile}, {run.threads} threads; "
        f"load average before it {run.load_average_before}"
        + (" (the machine was in use)." if _was_busy(run, machine) else "."),
        f"Data: {data.spec}; real texts are those of the split {data.timed_split}, "
        f"{tokens.mean:.0f} tokens on average, p90 {tokens.p90:.0f}, p99 {tokens.p99:.0f}.",
        "1x32: one text of 32 tokens. Memory is the peak of a process that holds this variant alone.",
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
    """What rows on a GPU rest on; empty without them."""
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
    apart = "" if noise is None else f"; a second {CUDA_REFERENCE} may lie up to {noise:.2f}x apart (95 %)"
    lines = [
        f"GPU: {cards}. Ratios of rows on it are to {CUDA_REFERENCE} and never to a row on the CPU"
        f"{apart}. Times are the host's: of shapes and of tokenised texts from token ids there to logits "
        "there, of real texts from the text to its answer.",
        "At work: the time in which the GPU computed or copied in such a call, by torch's profiler after the "
        "rounds; the rest is the host's. Energy is that of the whole card, its rest included, for texts of "
        "32 tokens in the largest batch.",
    ]
    if peak := document.bound and document.bound.cuda:
        promised = peak.datasheet_tflops
        lines.append(
            f"Its fp16 peak: the encoder's own matrix products alone, {peak.tflops:.0f} TFLOP/s at "
            f"{peak.case}"
            + (f"; the data sheet promises {promised:.0f}." if promised else "; its data sheet is not known.")
        )
    missing = {row.resources.gpu_energy_missing for row in rows if row.resources.gpu_energy_missing}
    return lines + [f"Energy of the GPU is not known: {reason}." for reason in sorted(missing)]


def _run_lines(document: Report) -> list[str]:
    """What newer reports know of the run."""
    run, machine, lines = document.run, document.machine, []
    if (others := run.others_cores) is not None:
        share = " WARNING: that is much." if others > BUSY_SHARE * machine.cores else ""
        lines.append(f"Other processes took {others:.2f} cores while latency was measured.{share}")
    if run.resumed:
        often = "once" if run.resumed == 1 else f"{run.resumed} times"
        lines.append(f"The run was interrupted and resumed {often}: its rounds are not all of one stretch.")
    if document.data.is_synthetic:
        lines.append(f"Every verdict is {REHEARSAL}: it is about the demo's grammar (docs/training.md).")
    if why := document.data.unseen:
        lines.append(f"{WHY_UNSEEN[why]}.")
    if run.margin is not None and document.data.labels_meaningful:
        lines.append(
            f"PASS: a macro-F1 drop of {run.margin:g} or more is ruled out on the gate texts, with 97.5 % "
            f"confidence over {_counted(document)}. FAIL: a larger drop is "
            "shown. INCONCLUSIVE: neither is. NOT EQUAL: refused by the check at export."
        )
    return lines


def _counted(document: Report) -> str:
    """The looks that share the error; an earlier version knew of its own run alone."""
    has_ledger = any(tested.run for row in document.rows if (tested := noninferiority(row)))
    return "every look at this gate (docs/claim.md)" if has_ledger else "all variants of the run (Holm)"


def _baseline_lines(document: Report) -> list[str]:
    """What the baselines are, and in which versions."""
    baselines = [baseline for baseline in document.baselines if not baseline.error]
    if not baselines:
        return []
    versions = {name: version for baseline in baselines for name, version in baseline.versions.items()}
    also = [f"{name} {versions[name]}" for name in versions if name not in document.machine.versions]
    told = "; ".join(
        f"{baseline.name}: [{baseline.summary}]({baseline.documentation})"
        + (f", prepared in {baseline.preparation_s:.0f} s" if baseline.preparation_s else "")
        for baseline in baselines
    )
    return [
        "Baselines are the same checkpoint, run as other projects' documentation shows, with as many "
        "threads: "
        + told
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
        f"Int8 lower bound: the {sizes.layers} layers' matrix products alone (width {sizes.width}, "
        f"feed-forward {sizes.feed_forward}) by oneDNN, percentile {bound.percentile} of each: "
        f"{rates}. A variant "
        "that computes less than all tokens in all layers may go below it."
    ]


def _was_busy(run: Run, machine: Machine) -> bool:
    load = run.load_average_before
    return load is not None and load > BUSY_SHARE * machine.cores


def _ratios_line(document: Report) -> str:
    """What ratios are to, what they are made of, and how well they are known."""
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
            known += " WARNING: that is much: few blocks, or a machine that was not quiet."
    blocks = [entry.rounds for entry in real]
    return (
        f"{to}: 10th percentiles of short turns, in {_range(blocks)} blocks, with every process started "
        f"again in each. An interval (95 %) is over blocks; equal is within 5 %.{known}"
    )


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _noise_line(document: Report) -> str:
    """Of a report of an earlier version."""
    factors = [entry.speedup.noise for entry in document.variants[0].latency]
    known = [factor for factor in factors if factor is not None]
    if not known:
        return "The noise of this run is unknown."
    line = f"A second fp32 may lie up to {max(known):.2f}x apart (95 %); less is called not different."
    if max(known) > NOISY:
        line += " WARNING: that is much: few rounds, or a machine that was not quiet."
    return line


def _served_lines(document: Report) -> list[str]:
    measured = document.measured
    levels = [level for variant in measured for level in variant.served]
    if not levels:
        return []
    serving = document.run.serving
    which = f" Which: {serving.rule}." if serving and len(serving.names) < len(measured) else ""
    passes, cores = levels[0].passes, max(level.load_generator_cores for level in levels)
    often = "one pass, so no interval" if passes == 1 else f"visited {passes} times"
    lines = [
        f"Served: TorchServe, closed loop, one text per request, {often}. The load generator ran on the "
        f"same cores and took up to {cores:.2f} of them.{which}"
    ]
    objective = document.run.objective_p99_ms
    if any(variant.open for variant in measured):
        good = f"; in time: within {objective:g} ms" if objective else ""
        late = ""
        if any(level.lateness for variant in measured for level in variant.open):
            late = (
                " A share that is late has its 95 % interval, which counts that requests of a burst are late "
                "together: a p99 is kept where the upper end is at most 1 %."
            )
        lines.append(
            "Open loop: requests arrive at random (Poisson) whether or not earlier ones were answered, and "
            f"latency counts from the moment at which a request was due{good}.{late}"
        )
    return lines
