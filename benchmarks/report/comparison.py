"""Two variants of one run, with ratios.

Covers speed, size, memory, load time and quality. Ratios of speeds from two machines, devices or runs are
refused, because they would compare machines or moments (`compare-machines` puts figures of several machines
into one table).
"""

from tabulate import tabulate

from benchmarks.in_process.ratios import between
from benchmarks.records import Latency, Report, Variant
from common.programs import command
from common.records import Record
from handler.errors import UserError

HIGHER, LOWER = "higher is better", "lower is better"


class Figure(Record, omit_defaults=False):
    """`ratio` says how many times as good `b` is as `a`, so that above 1 is always better."""

    figure: str
    unit: str
    a: float | None
    b: float | None
    ratio: float | None = None
    better: str | None = None
    note: str = ""


class Comparison(Record):
    a: str
    b: str
    run: str
    figures: list[Figure]


def compare(first: Report, second: Report) -> Comparison:
    """Every figure that the variants of two reports of one variant both have.

    Raises `UserError` for a failed variant and for reports of different machines or runs.
    """
    _check(first, second)
    a, b = first.only, second.only
    figures = [*_latency(a, b), *_served(a, b), *_resources(a, b), *_quality(a, b)]
    return Comparison(a=a.name, b=b.name, run=first.run.id, figures=figures)


def _check(first: Report, second: Report) -> None:
    variants = [first.only, second.only]
    for variant in variants:
        if variant.error:
            message = f"{variant.name} failed during {variant.error.stage}"
            again = command("benchmarks run", "benchmark")
            raise UserError(message, seen=variant.error.message, remedy=f"Fix it, then: {again}")
    if variants[0].device != variants[1].device:
        raise UserError(
            "the two ran on different devices, and their speeds have no ratio",
            seen=" and ".join(f"{variant.name} on {variant.device}" for variant in variants),
            remedy=f"Put them into one table: {command('benchmarks compare-machines')}",
        )
    names = " ".join(variant.name for variant in variants)
    measure = command(f"benchmarks run {names}", f'benchmark VARIANTS="{names}"')
    again = f"Measure both in one run: {measure}"
    if first.machine.id != second.machine.id:
        machines = " and ".join(report.machine.cpu for report in (first, second))
        raise UserError("the two reports are from different machines", seen=machines, remedy=again)
    if first.run.id != second.run.id:
        runs = " and ".join(report.run.id for report in (first, second))
        raise UserError("the two reports are from different runs", seen=runs, remedy=again)


def _latency(a: Variant, b: Variant) -> list[Figure]:
    figures = []
    for entry in a.latency:
        other = b.case(entry.case)
        if other is None:
            continue
        real = entry.tokens is None
        what = f"{entry.case}, {'text to answer' if real else 'texts x tokens'}"
        ratio, note = _paired(entry, other)
        figures += [
            Figure(f"{what}: time", "ms", entry.time_ms, other.time_ms, ratio, LOWER, note),
            _figure(f"{what}: p50", "ms", entry.p50_ms, other.p50_ms, LOWER),
            _figure(f"{what}: p99", "ms", entry.p99_ms, other.p99_ms, LOWER),
        ]
        if real:
            rates = entry.texts_per_second, other.texts_per_second
            figures.append(Figure(f"{what}: throughput", "texts/s", *rates, ratio, HIGHER, note))
    return figures


def _paired(entry: Latency, other: Latency) -> tuple[float, str]:
    """The ratio of turns in the same blocks, and its interval, or the verdict where it is not decided."""
    found = between(entry, other)
    ends = f"{found.low:.2f} to {found.high:.2f}"
    return float(f"{found.ratio:.4g}"), ends if found.is_decided else f"{found.verdict}, {ends}"


def _served(a: Variant, b: Variant) -> list[Figure]:
    others = {level.concurrency: level for level in b.served}
    figures = []
    for level in a.served:
        if other := others.get(level.concurrency):
            what = f"served, {level.concurrency} at once"
            rates = level.requests_per_second, other.requests_per_second
            figures += [
                _figure(f"{what}: throughput", "requests/s", *rates, HIGHER),
                _figure(f"{what}: p50", "ms", level.p50_ms, other.p50_ms, LOWER),
                _figure(f"{what}: p99", "ms", level.p99_ms, other.p99_ms, LOWER),
            ]
    return figures


def _resources(a: Variant, b: Variant) -> list[Figure]:
    ours, theirs = a.resources, b.resources
    return [
        _figure("artifact", "MB", ours.artifact_mb, theirs.artifact_mb, LOWER),
        _figure("archive", "MB", ours.archive_mb, theirs.archive_mb, LOWER),
        _figure("peak memory", "MB", ours.peak_rss_mb, theirs.peak_rss_mb, LOWER),
        _figure("load", "s", ours.load_s, theirs.load_s, LOWER),
        _figure("warm-up", "s", ours.warm_s, theirs.warm_s, LOWER),
        _figure("first answer", "ms", ours.first_answer_ms, theirs.first_answer_ms, LOWER),
    ]


def _quality(a: Variant, b: Variant) -> list[Figure]:
    """Quality is shown without a ratio: nobody asks for 0.98 times a macro-F1."""
    figures = []
    for split in (split for split in a.parity if split in b.parity):
        scored = [variant.quality.get(split) for variant in (a, b)]
        for field in ("macro_f1", "accuracy", "auroc"):
            ours, theirs = (getattr(quality, field, None) for quality in scored)
            figures.append(_figure(f"{field.replace('_', '-')} on {split}", "", ours, theirs))
        same = [variant.parity[split] for variant in (a, b)]
        ours, theirs = (parity.label_agreement for parity in same)
        figures.append(_figure(f"labels that agree with fp32 on {split}", "", ours, theirs))
        for end in ("low", "high"):
            ours, theirs = (getattr(parity.macro_f1_drop, end, None) for parity in same)
            words = f"macro-F1 drop from fp32 on {split}, 95 % interval: {end}"
            figures.append(_figure(words, "", ours, theirs))
    return [figure for figure in figures if figure.a is not None or figure.b is not None]


def _figure(name: str, unit: str, a: float | None, b: float | None, better: str | None = None) -> Figure:
    found = Figure(name, unit, a, b, None, better)
    if better and a and b:
        found.ratio = float(f"{b / a if better == HIGHER else a / b:.4g}")
    return found


def markdown(comparison: Comparison) -> str:
    """The comparison as a GitHub table."""
    a, b = comparison.a, comparison.b
    rows = [
        [f"{figure.figure} {figure.unit}".strip(), _number(figure.a), _number(figure.b), _ratio(figure)]
        for figure in comparison.figures
        if figure.a is not None or figure.b is not None
    ]
    foot = (
        f"Above 1x, {b} is faster or smaller. Ratios with a 95 % interval come from turns in the same "
        f"blocks. All hold within this run only: {comparison.run}."
    )
    table = tabulate(rows, ["", a, b, f"{b} is better by"], "github", disable_numparse=True)
    return f"{table}\n\n{foot}"


def _ratio(figure: Figure) -> str:
    if figure.ratio is None:
        return ""
    return f"{figure.ratio:.2f}x" + (f" ({figure.note})" if figure.note else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
