"""What each table of a report shows, defined once for Markdown, HTML and a variant's own page.

A new column is one line in its list. Leaves out how a table is made and rendered (`tables`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from benchmarks.lateness import share_late
from benchmarks.names import (
    BATCH,
    CUDA_BATCH,
    CUDA_BATCH_TEXTS,
    CUDA_MODEL,
    GATE,
    LARGE,
    REFERENCE,
    SINGLE,
    SMALL,
)
from benchmarks.records import (
    Data,
    Decided,
    Flipped,
    GemmCase,
    Interval,
    Latency,
    LengthBin,
    Level,
    Many,
    Noninferiority,
    OpenLevel,
    Parity,
    Quality,
    Rate,
    Ratio,
    Report,
    Resources,
    Row,
    ServedParity,
    Slice,
    TimeSplit,
    Variant,
)
from benchmarks.report.phrases import (
    DEVICES,
    GAPS,
    arrow,
    compared,
    errors,
    moved_score,
    plain,
    proof_words,
    rate,
    reason,
    small,
    span,
    three_digits,
    times,
)
from benchmarks.report.tables import SUMMARY, TERMINAL, Column
from benchmarks.report.verdicts import (
    BASELINE,
    IS_REFERENCE,
    NOT_EQUAL,
    is_tested,
    margin,
    row_of,
    served_today,
    today,
    verdict,
)
from benchmarks.sameness.decisions import words
from common.flips import one_way
from handler.answers import DECISIONS
from training.measures.records import Functional, Functionality, Group

T = TypeVar("T")
X = TypeVar("X")
Texts = Mapping[tuple[str, int], str]
PRECISIONS = ("int8", "bf16", "fp32")


def timed(name: str, pick: Callable[[Latency], X]) -> Callable[[Row], X | None]:
    """Picks from the case of that name in process."""

    def found(row: Row) -> X | None:
        entry = row.case(name)
        return None if entry is None else pick(entry)

    return found


def rate_of(name: str, title: str, shown: int = 0) -> Column[Row]:
    """Texts per second in process, with their ratio."""
    ratio = timed(name, lambda entry: entry.against_today)
    return Column(title, timed(name, lambda entry: entry.texts_per_second), ".0f", ratio, shown=shown)


def drop_of(figure: str, name: str, **shown: Any) -> Column[Row]:
    """fp32's figure on gate less the row's: where it lies at 95 %, sorted by the drop."""

    def found(row: Row) -> Interval | str | None:
        drop = getattr(row.gate, name) if row.gate else None
        return "reference" if drop and row.name == REFERENCE else drop

    def sort(row: Row) -> dict[str, Any]:
        drop = found(row)
        return {"sort": drop.drop} if isinstance(drop, Interval) else {}

    return Column(f"{figure} drop on gate, 95 %", found, _ends, extra=sort, **shown)


def times_of(name: str, title: str, report: Report, shown: int = 0) -> list[Column[Row]]:
    """Milliseconds with their ratio, and medians next to them; an earlier version has medians alone."""
    has_low = any(entry.low_ms for row in report.rows for entry in row.latency)
    ratio = timed(name, lambda entry: entry.against_today)
    medians = timed(name, lambda entry: entry.p50_ms)
    if not has_low:
        return [Column(f"{title} p50 ms", medians, ".1f", ratio, shown=shown)]
    quick = timed(name, lambda entry: entry.low_ms)
    return [
        Column(f"{title} ms", quick, ".1f", ratio, shown=shown),
        Column(f"{title} p50 ms", medians, ".1f"),
    ]


def main(report: Report) -> list[Column[Row]]:
    """Of every variant and baseline."""
    split = "test" if any("test" in row.parity for row in report.rows) else "gate"
    busiest = most_clients(report)
    texts = next((row.many.texts for row in report.rows if row.many), 0)
    return [
        Column("variant", lambda row: row.name, kind="name", shown=TERMINAL, in_brief=True),
        verdicts_of(report),
        *([Column("device", _device, kind="name", shown=TERMINAL)] if report.on_cuda else []),
        Column(f"labels agree ({split})", lambda row: _agreement(row, split), ".2%", shown=TERMINAL),
        Column("flips on gate", lambda row: (found := _flips(row)) and found.rate, ".2%"),
        Column("macro-F1 gate", lambda row: _macro_f1(row, "gate"), ".3f"),
        Column("macro-F1 test", lambda row: _macro_f1(row, "test"), ".3f"),
        drop_of("macro-F1", "macro_f1_drop", shown=SUMMARY, in_brief=True),
        drop_of("AUROC", "auroc_drop"),
        drop_of("average precision", "average_precision_drop"),
        ASKED,
        *times_of(SMALL, SMALL, report, TERMINAL),
        *times_of(LARGE, LARGE, report, TERMINAL),
        *times_of(SINGLE, "1 real text", report),
        Column(
            "1 real text p99 ms",
            timed(SINGLE, lambda entry: entry.p99_ms),
            ".1f",
            timed(SINGLE, lambda entry: entry.p99_speedup),
        ),
        rate_of(BATCH, "real texts/s", TERMINAL),
        real_texts_against(report),
        Column(f"{SMALL}, times int8 bound", timed(SMALL, lambda entry: entry.int8_bounds), _multiple),
        Column(f"{LARGE}, times int8 bound", timed(LARGE, lambda entry: entry.int8_bounds), _multiple),
        Column(
            f"{LARGE} roofline", timed(LARGE, lambda entry: entry.roofline and entry.roofline.share), ".0%"
        ),
        *ON_GPU,
        served_against(report),
        Column(f"served p99 ms at {busiest}", lambda row: row.busiest and row.busiest.p99_ms, ".0f"),
        Column("most answered in time/s", _goodput, three_digits, in_markdown=False),
        Column(
            f"served texts/s, {texts} per request",
            lambda row: row.many and row.many.texts_per_second,
            ",.0f",
        ),
        Column("artifact MB", lambda row: row.resources.artifact_mb, ".1f", shown=TERMINAL, in_brief=True),
        Column("peak memory MB", lambda row: row.resources.peak_rss_mb, ".0f", shown=SUMMARY),
        Column("CPU ms per text, batch of 32", lambda row: row.resources.cpu_s_per_1000_texts, ".2f"),
        Column("load s", lambda row: row.resources.load_s, ".1f"),
    ]


def stages(report: Report) -> list[Column[Row]]:
    """What variants of several stages are about: labels that differ, what is asked again, and speed."""
    return [
        Column("variant", lambda row: row.name, kind="name"),
        verdicts_of(report),
        Column(
            "flips on gate, 95 %", lambda row: None if row.name == REFERENCE else _flips(row), _rate_words
        ),
        ASKED,
        real_texts_against(report),
        served_against(report),
    ]


def most_clients(report: Report) -> int:
    """The largest number of clients at which something was served; 0 where nothing was."""
    return max((row.busiest.concurrency for row in report.rows if row.busiest), default=0)


def served_against(report: Report) -> Column[Row]:
    busiest = most_clients(report)
    return Column(
        f"served requests/s at {busiest} (times {served_today(report)})",
        lambda row: row.busiest and row.busiest.requests_per_second,
        ".0f",
        extra=lambda row: _served_ratio(row, report, busiest),
        shown=TERMINAL,
        in_brief=True,
    )


def real_texts_against(report: Report) -> Column[Row]:
    return Column(
        f"real texts/s against {today(report)}, 95 %",
        timed(BATCH, lambda entry: entry.against_today),
        compared,
        shown=TERMINAL,
        in_brief=True,
    )


def verdicts_of(report: Report) -> Column[Row]:
    """The verdict (in an older report, the check at export); in capitals in Markdown where it is one."""
    allowed, tested = margin(report), is_tested(report)

    def loud(row: Row) -> str:
        word = "left out" if row.status == "left out" else verdict(row, allowed)
        if word in (BASELINE, "left out", IS_REFERENCE) and (tested or not isinstance(row, Variant)):
            return word
        if tested or row.error:
            return word.upper()
        return "yes" if isinstance(row, Variant) and row.built.check.equal else "NO"

    def badge(row: Row) -> dict[str, str]:
        is_out = row.status == "left out"
        return {"loud": loud(row), "badge": "out" if is_out else verdict(row, allowed)}

    def word(row: Row) -> str:
        return "left out" if row.status == "left out" else verdict(row, allowed)

    return Column(
        "verdict" if tested else "equal to fp32",
        word,
        kind="name",
        extra=badge,
        shown=TERMINAL,
        in_brief=True,
    )


def _device(row: Row) -> str | None:
    return None if row.error else DEVICES[row.device]


def _agreement(row: Row, split: str) -> float | None:
    parity = row.parity.get(split)
    return parity.label_agreement if parity else None


def _flips(row: Row) -> Rate | None:
    return row.gate.flip_rates.get("any") if row.gate else None


def _rate_words(found: Rate) -> str:
    return f"{found.rate:.2%} ({found.low:.2%} to {found.high:.2%})"


def _macro_f1(row: Row, split: str) -> float | None:
    quality = row.quality.get(split)
    return quality.macro_f1 if quality else None


def _asked(row: Row) -> str | None:
    """Of a variant of several stages, the share of texts that each but the first was asked."""
    asked = row.asked.get(GATE, {}) if isinstance(row, Variant) else {}
    n = row.gate.n if row.gate else 0
    return ", ".join(f"{stage} {texts / n:.1%}" for stage, texts in asked.items()) or None


ASKED: Column[Row] = Column("texts that later stages are asked, gate", _asked, kind="name")


def _ends(drop: Interval | str) -> str:
    return drop if isinstance(drop, str) else span(drop)


def _multiple(value: float) -> str:
    return f"{value:.1f}x"


def _best(row: Row) -> Latency | None:
    """The shape with the most texts per second, on a GPU."""
    if row.device != "cuda":
        return None
    shapes = (entry for entry in row.latency if entry.tokens is not None)
    return max(shapes, key=lambda entry: entry.texts_per_second, default=None)


def _best_words(entry: Latency) -> str:
    return f"{entry.texts_per_second:,.0f} ({entry.case})"


def _peak_words(peak: Any) -> str:
    promised = f" ({peak.of_datasheet:.0%} of the data sheet's)" if peak.of_datasheet else ""
    return f"{peak.of_measured:.0%}{promised}"


def _served_ratio(row: Row, report: Report, concurrency: int) -> dict[str, str]:
    """Against what a user runs today at the same concurrency."""
    ours = row.busiest
    base = row_of(report, served_today(report, row))
    theirs = base.busiest if base else None
    if ours and ours.concurrency != concurrency:
        return {"short": f"at {ours.concurrency}", "note": f"at {ours.concurrency}"}
    if not ours or not theirs or base is row or theirs.concurrency != concurrency:
        return {}
    if not theirs.requests_per_second:
        return {}
    words = f"{ours.requests_per_second / theirs.requests_per_second:.1f}x"
    return {"short": words, "note": words}


def _goodput(row: Row) -> float | None:
    return max((level.goodput_rps for level in row.open), default=None)


ON_GPU: list[Column[Row]] = [
    rate_of(CUDA_BATCH, f"{CUDA_BATCH_TEXTS:,} real texts/s", TERMINAL),
    rate_of(CUDA_MODEL, f"{CUDA_BATCH_TEXTS:,} tokenised texts/s"),
    Column("best texts/s (texts x tokens)", _best, _best_words, shown=TERMINAL),
    Column("share of the fp16 peak there", lambda row: (best := _best(row)) and best.peak, _peak_words),
    Column(f"{SMALL} GPU busy ms", timed(SMALL, lambda entry: entry.gpu_busy_ms), ".3f"),
    Column("GPU memory MB", lambda row: row.resources.gpu_reserved_mb, ".0f", shown=SUMMARY),
    Column("GPU J per 1,000 texts", lambda row: row.resources.gpu_j_per_1000_texts, ".2f", shown=SUMMARY),
]


def percentiles(kinds: Sequence[str] = ("p50", "p90", "p99")) -> list[Column[Any]]:
    """Columns for anything that has percentiles."""
    return [Column(f"{kind} ms", _picked(f"{kind}_ms"), three_digits) for kind in kinds]


def _picked(name: str) -> Callable[[Any], Any]:
    return lambda item: getattr(item, name)


def _gap(name: str) -> Callable[[Functional], float | None]:
    return lambda found: getattr(found.gaps, name)


CLOSED: list[Column[Level]] = [
    Column("clients", lambda level: level.concurrency, "d"),
    Column("requests", lambda level: level.requests, "d"),
    Column("requests/s", lambda level: level.requests_per_second, ",.0f"),
    Column(
        "95 %",
        lambda level: level.requests_per_second_95,
        lambda ends: "{:,.0f} to {:,.0f}".format(*ends),
    ),
    Column(
        "range over passes",
        lambda level: level.requests_per_second_range if level.passes > 1 else None,
        lambda ends: "{:,.0f} to {:,.0f}".format(*ends),
    ),
    *percentiles(),
    Column("errors", errors, kind="name"),
]
MANY: list[Column[Many]] = [
    Column("texts per request", lambda many: many.texts, "d"),
    Column("clients", lambda many: many.concurrency, "d"),
    Column("requests", lambda many: many.requests, "d"),
    Column("texts/s", lambda many: many.texts_per_second, ",.0f"),
    *percentiles(("p50",)),
    Column("errors", errors, kind="name"),
]


def _bars(level: OpenLevel) -> dict[str, Any]:
    """Queue, handler and HTTP as parts of a whole."""
    split = level.split_ms
    if split is None:
        return {}
    named = {"Queue": split.queue, "Handler": split.handler, "HTTP": split.http}
    whole = sum(named.values()) or 1.0
    parts = [
        {"name": name, "share": max(0.0, ms) / whole, "words": f"{ms:.1f}"} for name, ms in named.items()
    ]
    return {"bars": parts}


def _split_words(split: TimeSplit) -> str:
    return f"{split.queue:.1f} + {split.handler:.1f} + {split.http:.1f}"


def open_loop(limit_ms: float | None) -> list[Column[OpenLevel]]:
    """`limit_ms` is the run's objective, if it has one."""
    return [
        Column("offered requests/s", lambda level: level.offered_rps, ",.0f"),
        Column("answered/s", lambda level: level.answered_rps, ",.0f"),
        Column("answered in time/s", lambda level: level.goodput_rps, ",.0f"),
        *percentiles(),
        Column(
            f"later than {limit_ms or 0:g} ms",
            lambda level: share_late(level, limit_ms) if limit_ms else None,
            lambda late: late.words,
            kind="name",
        ),
        Column("errors", errors, kind="name"),
        Column(
            "keeps up",
            lambda level: "NO" if level.saturated else "yes",
            kind="name",
            extra=lambda level: {"badge": "fail"} if level.saturated else {},
        ),
        Column(
            "queue + handler + HTTP ms", lambda level: level.split_ms, _split_words, kind="name", extra=_bars
        ),
    ]


GEMM_BOUND: list[Column[GemmCase]] = [
    Column("texts x tokens", lambda case: case.case, kind="name"),
    *(
        Column(f"{precision} {unit}", _picked(f"{precision}_{unit.lower()}"), ".2f")
        for precision in PRECISIONS
        for unit in ("ms", "TOPS")
    ),
]
ROOFLINE: list[Column[Latency]] = [
    Column("case", lambda entry: entry.case, kind="name"),
    Column("GFLOP", lambda entry: entry.roofline and entry.roofline.gflop, ".3g"),
    Column("weights MB", lambda entry: entry.roofline and entry.roofline.weight_mb, ".1f"),
    Column("arithmetic ms", lambda entry: entry.roofline and entry.roofline.compute_ms, three_digits),
    Column("memory ms", lambda entry: entry.roofline and entry.roofline.memory_ms, three_digits),
    Column("bound ms", lambda entry: entry.roofline and entry.roofline.bound_ms, three_digits),
    *percentiles(("p50",)),
    Column("bound / p50", lambda entry: entry.roofline and entry.roofline.share, ".0%"),
]
GPU_SHAPES: list[Column[Latency]] = [
    Column("texts x tokens", lambda entry: entry.case, kind="name"),
    *percentiles(("p50",)),
    Column("GPU busy ms", lambda entry: entry.gpu_busy_ms, three_digits),
    Column("share busy", lambda entry: entry.gpu_busy_ms and entry.gpu_busy_ms / entry.p50_ms, ".0%"),
    Column("texts/s", lambda entry: entry.texts_per_second, ",.0f"),
    Column("TFLOP/s", lambda entry: entry.peak and entry.peak.tflops, ",.1f"),
    Column("share of this run's fp16 peak", lambda entry: entry.peak and entry.peak.of_measured, ".1%"),
    Column("share of the data sheet's peak", lambda entry: entry.peak and entry.peak.of_datasheet, ".1%"),
]
GPU_TAKEN: list[Column[Row]] = [
    Column("peak memory in use MB", lambda row: row.resources.gpu_allocated_mb, ",.0f"),
    Column("peak memory reserved MB", lambda row: row.resources.gpu_reserved_mb, ",.0f"),
    Column("J per 1,000 texts of 32 tokens", lambda row: row.resources.gpu_j_per_1000_texts, ".2f"),
]
CALIBRATION: list[Column[Quality]] = [
    Column("Brier", lambda found: found.brier, ".4f"),
    Column("Brier, refitted", lambda found: found.refitted and found.refitted.brier, ".4f"),
    Column("ECE", lambda found: found.ece, ".4f"),
    Column("ECE of a perfect model", lambda found: found.perfect_ece, ".4f"),
    Column("ECE, refitted", lambda found: found.refitted and found.refitted.ece, ".4f"),
    Column("macro-F1", lambda found: found.macro_f1, ".4f"),
    Column("macro-F1, refitted", lambda found: found.refitted and found.refitted.macro_f1, ".4f"),
    Column("temperature, refitted", lambda found: found.refitted and found.refitted.temperature, ".3f"),
    Column("threshold, refitted", lambda found: found.refitted and found.refitted.threshold, ".3f"),
]


def quality(splits: Iterable[Quality]) -> list[Column[Quality]]:
    """The task's figures, then those of each label."""
    found: list[Column[Quality]] = [
        Column("texts", lambda split: split.n, plain),
        Column("macro-F1", lambda split: split.macro_f1, plain),
        Column("micro-F1", lambda split: split.micro_f1, plain),
        Column("accuracy", lambda split: split.accuracy, plain),
        Column("AUROC", lambda split: split.auroc, plain),
        Column("average precision", lambda split: split.average_precision, plain),
    ]
    for label in dict.fromkeys(label for split in splits for label in split.labels):
        for field in ("precision", "recall", "f1"):
            words = field.replace("f1", "F1")
            found.append(Column(f"{label}: {words}", _of_label(label, field), plain))
    return found


def _of_label(label: str, field: str) -> Callable[[Quality], Any]:
    return lambda split: split.labels.get(label, {}).get(field)


def flipped(data: Data, texts: Texts | None = None) -> list[Column[Flipped]]:
    """`texts` by split and row, for a page that is not published."""
    return [
        Column("split", lambda flip: flip.split, kind="name"),
        Column(
            "row",
            lambda flip: flip.row,
            "d",
            extra=lambda flip: {"hidden": (texts or {}).get((flip.split, flip.row), "")},
        ),
        Column("tokens", lambda flip: flip.tokens, "d"),
        Column("truth", lambda flip: flip.truth, kind="name"),
        Column("label", lambda flip: f"{flip.before} → {flip.after}", kind="name"),
        Column(moved_score(data), lambda flip: f"{flip.score_before:.3f} → {flip.score_after:.3f}"),
    ]


def parity(directions: Sequence[str]) -> list[Column[Parity]]:
    """How labels and scores differ from fp32's, flips in each of `directions`."""
    flips: list[Column[Parity]] = []
    for way in directions:
        flips += [
            Column(f"flips {arrow(way)}", _count_of(way), "d"),
            Column(f"rate {arrow(way)}, 95 %", _rate_of(way), rate),
        ]
    return [
        Column("texts", lambda found: found.n, ",d"),
        Column("labels that match fp32's", lambda found: found.label_agreement, ".2%"),
        Column("flips, 95 %", _rate_of("any"), rate),
        *flips,
        Column(
            "flips one way, p",
            lambda found: (uneven := one_way(found.flips, found.group_flips)) and uneven.p,
            small,
        ),
        Column("largest score difference", lambda found: found.max_prob_diff, ".4f"),
        Column("mean score difference", lambda found: found.mean_prob_diff, ".5f"),
        Column("macro-F1 drop", lambda found: found.macro_f1_drop and found.macro_f1_drop.drop, "+.4f"),
        Column("macro-F1 drop, 95 %", lambda found: found.macro_f1_drop, lambda drop: span(drop, "+.4f")),
        Column("McNemar p", lambda found: found.macro_f1_drop and found.macro_f1_drop.mcnemar_p, ".3g"),
        Column("AUROC drop, 95 %", lambda found: found.auroc_drop, _drop_words),
        Column("average precision drop, 95 %", lambda found: found.average_precision_drop, _drop_words),
        Column("Brier, fp32's minus this variant's, 95 %", lambda found: found.brier_drop, _drop_words),
    ]


DECIDED: list[Column[Decided]] = [
    Column("decisions that differ from fp32's, 95 %", lambda found: found.differ, rate),
    *(
        Column(f"{word}", lambda found, word=word: found.shares.get(word), ".1%")  # type: ignore[misc]
        for word in reversed(DECISIONS)
    ),
    Column("which way", lambda found: _ways(found.ways), kind="words"),
    Column("promises on gate, 95 %", lambda found: words(found.kept), kind="words"),
]


def _ways(ways: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {arrow(way)}" for way, count in sorted(ways.items()))


def _count_of(way: str) -> Callable[[Parity], int]:
    return lambda found: found.flips.get(way, 0)


def _rate_of(way: str) -> Callable[[Parity], Rate | None]:
    return lambda found: found.flip_rates.get(way)


def _drop_words(drop: Interval) -> str:
    return f"{drop.drop:+.4f} ({span(drop, '+.4f')})"


def verdicts(allowed: float) -> list[Column[Variant]]:
    """What the check at export and the test say of a variant."""

    def said(pick: Callable[[Noninferiority], Any]) -> Callable[[Variant], Any]:
        def found(variant: Variant) -> Any:
            test = variant.judged.noninferiority
            return None if test is None else pick(test)

        return found

    return [
        Column("variant", lambda variant: variant.name, kind="name"),
        _check_at_export("check at export", "equal", "NOT EQUAL"),
        Column(
            f"drop below {allowed:g}",
            said(lambda test: test.verdict.upper()),
            kind="name",
            extra=lambda variant: {"badge": verdict(variant, allowed)},
        ),
        Column("why", lambda variant: reason(variant, allowed), kind="words", in_markdown=False),
        Column(
            "macro-F1 drop",
            lambda variant: variant.judged.macro_f1_drop and variant.judged.macro_f1_drop.drop,
            "+.4f",
        ),
        Column(
            "95 % interval", lambda variant: variant.judged.macro_f1_drop, lambda drop: span(drop, "+.4f")
        ),
        *_tests(said),
        Column("smallest margin", said(lambda test: test.smallest_margin), ".4f"),
        Column("texts needed to settle it", said(lambda test: test.texts_to_settle), ",d"),
    ]


def _tests(said: Callable[..., Callable[[Variant], Any]]) -> list[Column[Variant]]:
    """Both p-values, and the levels that the gate's ledger gave them."""
    return [
        Column("p", said(lambda test: test.p), small),
        Column("needed", said(lambda test: test.level), small),
        Column("p of worse", said(lambda test: test.p_worse), small),
        Column("needed for worse", said(lambda test: test.level_worse), small),
        Column("run on this gate", said(lambda test: test.run), "d"),
    ]


def _check_at_export(title: str, equal: str, unequal: str) -> Column[Variant]:
    """Equal to fp32 or not; a variant that failed says so."""

    def word(variant: Variant) -> str:
        if variant.error:
            return "FAILED"
        return equal if variant.built.check.equal else unequal

    def badge(variant: Variant) -> dict[str, str]:
        if variant.error:
            return {"badge": "failed"}
        return {"badge": "pass" if variant.built.check.equal else NOT_EQUAL}

    return Column(title, word, kind="name", extra=badge)


def proofs() -> list[Column[Variant]]:
    """What a variant was made from, what proves it, and how the reloaded artifact compares with fp32."""

    def told(pick: Callable[[Variant], X]) -> Callable[[Variant], X | None]:
        return lambda variant: pick(variant) if variant.artifact else None

    def drop(variant: Variant) -> str | None:
        ends = variant.built.check.macro_f1_drop
        if variant.name == REFERENCE:
            return "reference"
        return f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else None

    return [
        Column("variant", lambda variant: variant.name, kind="name"),
        Column("parent", told(lambda variant: variant.built.parent), kind="name"),
        Column("proof", told(lambda variant: proof_words(variant.proof)), kind="words"),
        _check_at_export("equal to fp32", "yes", "NO"),
        Column("labels agree", told(lambda variant: variant.built.check.label_agreement), ".2%"),
        Column("largest score difference", told(lambda variant: variant.built.check.max_prob_diff), ".4f"),
        Column("macro-F1 drop, 95 %", told(drop)),
        Column(
            "largest change by batch mates", told(lambda variant: variant.built.check.batch_mate_diff), ".4f"
        ),
        Column("artifact MB", told(lambda variant: variant.resources.artifact_mb), ".1f"),
        Column("build time s", told(lambda variant: variant.built.build_seconds or None), ".0f"),
        Column(f"{LARGE} against fp32", told(timed(LARGE, lambda entry: entry.speedup.verdict)), kind="name"),
    ]


def speed(row: Row) -> list[Column[Latency]]:
    """In process, case by case."""
    return [
        Column("case", lambda entry: entry.case, kind="name"),
        *_timed_columns(row.today),
        Column(
            f"times {row.yardstick}, 95 %",
            lambda entry: (
                entry.speedup if entry.vs_pipeline and entry.speedup.verdict != "reference" else None
            ),
            times,
        ),
        Column("p99 times fp32, 95 %", lambda entry: entry.p99_speedup, times),
        Column("p90 ms", lambda entry: entry.p90_ms, three_digits),
        Column("p99 ms", lambda entry: entry.p99_ms, three_digits),
        Column("tokenise p50 ms", lambda entry: entry.tokenise_p50_ms, ".2f"),
        Column("model p50 ms", lambda entry: entry.model_p50_ms, three_digits),
        Column("times int8 bound", lambda entry: entry.int8_bounds, lambda bounds: f"{bounds:.2f}x"),
        Column("GPU busy ms", lambda entry: entry.gpu_busy_ms, ".3f"),
    ]


def real_texts(report: Report) -> list[Column[Latency]]:
    """In process, for all rows: how precise the ratios on real texts are."""
    return [Column("case", lambda entry: entry.case, kind="name"), *_timed_columns(today(report))]


def _timed_columns(yardstick: str) -> list[Column[Latency]]:
    def ratio(entry: Latency) -> Ratio | None:
        found = entry.against_today
        return None if found.verdict == "reference" else found

    def of_ratio(pick: Callable[[Ratio], X]) -> Callable[[Latency], X | None]:
        return lambda entry: pick(found) if (found := ratio(entry)) else None

    return [
        Column("ms", lambda entry: entry.low_ms, three_digits),
        Column("p50 ms", lambda entry: entry.p50_ms, three_digits),
        Column("CPU ms", lambda entry: entry.cpu_ms, three_digits),
        Column("texts/s", lambda entry: entry.texts_per_second, ",.0f"),
        Column(f"times {yardstick}, 95 %", ratio, times),
        Column("width", lambda entry: _width(entry), ".0%"),
        Column("", lambda entry: entry.against_today.verdict, kind="name"),
        Column("by medians", of_ratio(lambda found: found.of_medians), ".2f"),
        Column("blocks", lambda entry: entry.rounds if entry.turns else None, "d"),
        Column("samples", lambda entry: entry.samples, "d"),
    ]


def _width(entry: Latency) -> float | None:
    """Of an interval, where it is one over blocks."""
    found = entry.against_today
    return found.width if entry.turns and found.verdict != "reference" else None


LENGTHS: list[Column[LengthBin]] = [
    Column("texts", lambda part: part.n, "d"),
    *percentiles(("p50", "p99")),
]
SLICES: list[Column[tuple[str, str, Slice]]] = [
    Column("split", lambda item: item[0], kind="name"),
    Column("tokens", lambda item: item[1], kind="name"),
    Column("texts", lambda item: item[2].n, "d"),
    Column("labels agree", lambda item: item[2].label_agreement, ".2%"),
    Column("macro-F1", lambda item: item[2].macro_f1, ".3f"),
    Column("fp32's macro-F1", lambda item: item[2].reference_macro_f1, ".3f"),
]
SERVED_PARITY: list[Column[ServedParity]] = [
    Column("texts", lambda found: found.n, ",d"),
    Column("unanswered", lambda found: found.unanswered, "d"),
    Column("largest score difference", lambda found: found.max_prob_diff, ".2g"),
    Column("bound", lambda found: found.bound, ".2g"),
    Column("within the bound", lambda found: "yes" if found.within_bound else "NO", kind="name"),
]
FUNCTIONAL: list[Column[Functionality]] = [
    Column("functionality", lambda kind: kind.functionality, kind="kind"),
    Column("correct answer", lambda kind: kind.label, kind="name"),
    Column("n", lambda kind: kind.n, "d"),
    Column("accuracy", lambda kind: kind.accuracy, ".1%"),
    Column("fp32's accuracy", lambda kind: kind.reference_accuracy, ".1%"),
    Column("flips", lambda kind: kind.flips, "d"),
]
SUITE: list[Column[Functional]] = [
    Column("all", lambda found: found.accuracy, ".1%"),
    Column("flips from fp32", lambda found: found.flips, "d"),
    *(Column(f"{words}, best minus worst group", _gap(gap), ".3f") for gap, words in GAPS.items()),
]
FULL_HEAT = 0.15  # a change of accuracy by this much has the full colour


def kinds(found: Mapping[str, Functional]) -> list[Column[Functionality]]:
    """Of each kind of case in a suite: what it is, and a column for each variant, by name."""
    return [
        *FUNCTIONAL[:3],
        *(
            Column(name, _of_kind(cases, lambda kind: kind.accuracy), ".0%", extra=_of_kind(cases, _heat))
            for name, cases in found.items()
        ),
    ]


def _of_kind(cases: Functional, pick: Callable[[Functionality], X]) -> Callable[[Functionality], X | None]:
    by_kind = {kind.functionality: kind for kind in cases.functionalities}
    return lambda kind: pick(by_kind[kind.functionality]) if kind.functionality in by_kind else None


def _heat(kind: Functionality) -> dict[str, Any]:
    """How accuracy differs from fp32's, in points and as a colour."""
    change = kind.accuracy - kind.reference_accuracy
    if not change:
        return {"note": f"{kind.flips} flips" if kind.flips else ""}
    return {
        "kind": f"num {'gain' if change > 0 else 'loss'}",
        "share": min(1.0, abs(change) / FULL_HEAT),
        "note": f"{change * 100:+.1f}".replace("-", "\N{MINUS SIGN}"),
    }


GROUPS: list[Column[Group]] = [
    Column("group", lambda group: group.group, kind="name"),
    Column("n", lambda group: group.n, lambda n: str(n or "")),
    *(Column(words, _picked(gap), ".3f") for gap, words in GAPS.items()),
]
RESOURCES: list[Column[Resources]] = [
    Column("artifact MB", lambda taken: taken.artifact_mb, plain),
    Column("archive MB", lambda taken: taken.archive_mb, plain),
    Column("peak memory MB", lambda taken: taken.peak_rss_mb, plain),
    Column("peak memory above a bare interpreter MB", lambda taken: taken.peak_above_bare_mb, plain),
    Column("bare interpreter MB", lambda taken: taken.bare_interpreter_mb, plain),
    Column("load s", lambda taken: taken.load_s, plain),
    Column("warm-up s", lambda taken: taken.warm_s, plain),
    Column("shapes warmed", lambda taken: taken.warmed_shapes, plain),
    Column("first answer ms", lambda taken: taken.first_answer_ms, plain),
    Column("server ready s", lambda taken: taken.server_ready_s, plain),
    Column("server memory MB, worker and Java", lambda taken: taken.server_rss_mb, plain),
    Column("CPU s per 1,000 texts", lambda taken: taken.cpu_s_per_1000_texts, plain),
    Column("device", lambda taken: taken.device),
    Column("peak GPU memory in use MB", lambda taken: taken.gpu_allocated_mb, plain),
    Column("peak GPU memory reserved MB", lambda taken: taken.gpu_reserved_mb, plain),
    Column("GPU J per 1,000 texts", lambda taken: taken.gpu_j_per_1000_texts, plain),
    Column("threads", lambda taken: taken.threads, plain),
]
