"""The page of one variant in Markdown: the verdict first, then speed, serving, sameness, calibration, cost.

Every figure of a report has its place in a table with units in the headers. Leaves out the side-by-side page
(`markdown`) and what figures rest on (`provenance`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.names import SINGLE
from benchmarks.records import (
    Functional,
    OpenLevel,
    Quality,
    Report,
    Variant,
)
from benchmarks.report.phrases import (
    GAPS,
    NONE,
    SUITES,
    arrow,
    bins,
    errors,
    figure,
    flatten,
    github,
    moved_score,
    plain,
    proof_words,
    rate,
    reason,
    sentence_case,
    span,
    three_digits,
    times,
)
from benchmarks.report.provenance import failures, provenance
from benchmarks.report.verdicts import margin, verdict

OPEN_HEADERS = [
    "offered requests/s",
    "answered/s",
    "in time/s",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "errors",
    "keeps up",
    "queue + handler + HTTP ms",
]
RESOURCES = {
    "artifact_mb": "artifact MB",
    "archive_mb": "archive MB",
    "peak_rss_mb": "peak memory MB",
    "peak_above_bare_mb": "of it above a bare interpreter MB",
    "bare_interpreter_mb": "bare interpreter MB",
    "load_s": "load s",
    "warm_s": "warm-up s",
    "warmed_shapes": "shapes warmed",
    "first_answer_ms": "first answer ms",
    "server_ready_s": "server ready s",
    "server_rss_mb": "server memory MB, worker and Java",
    "cpu_s_per_1000_texts": "CPU s per 1,000 texts",
    "device": "device",
    "gpu_allocated_mb": "GPU memory in use MB, at most",
    "gpu_reserved_mb": "GPU memory taken MB, at most",
    "gpu_j_per_1000_texts": "GPU J per 1,000 texts",
    "threads": "threads",
}


def report(document: Report) -> str:
    """The page of one variant."""
    one = document.only
    if one.error:
        return f"# {one.name}\n\n{failures(document)[0]}\n"
    allowed = margin(document)
    check = one.built.check
    note = f" {sentence_case(check.note)}." if check.note else ""
    parts = [
        f"# {one.name}: {one.built.summary}",
        f"**{verdict(one, allowed).upper()}.** {reason(one, allowed)}",
        f"The check at export, on validation: {'equal' if check.equal else 'NOT EQUAL'} to fp32.{note}",
    ]
    parts += ["\n".join(f"- {line}" for line in failures(document))]
    for heading, body in _sections(document).items():
        if body:
            parts += [f"## {heading}", body]
    parts += ["## What this rests on", provenance(document), f"Artifact sha256 `{one.artifact_sha256}`."]
    return "\n\n".join(filter(None, parts)) + "\n"


def _sections(document: Report) -> dict[str, str]:
    """Headings and bodies in their order; what a report lacks is empty."""
    one = document.only
    functional = {SUITES.get(suite, suite): _functional(found) for suite, found in one.functional.items()}
    return {
        "Speed in process": _speed(one),
        "One text, by its length": _by_length(one),
        "Against the arithmetic": _roofline(one),
        "Against the GPU's peak": _peak(one),
        "As served: clients that wait": _closed(one),
        "As served: arrivals that do not wait": _open(one),
        "As served: requests of many texts": _many(one),
        "Is it still fp32?": _parity(one),
        "Texts whose label changed": _flipped(document),
        "By length in tokens": _slices(one),
        "Quality": _quality(one.quality),
        "Quality through the server": _quality(one.quality_served),
        "Served scores against those in process": _served_parity(one),
        "Calibration": _calibration(one),
        **functional,
        "Resources": _pairs({RESOURCES[key]: getattr(one.resources, key) for key in RESOURCES}),
        "Proof": _proof(one),
    }


def _speed(one: Variant) -> str:
    rows = []
    for entry in one.latency:
        speedup = entry.speedup
        tokenise, model = entry.tokenise_p50_ms, entry.model_p50_ms
        rows.append(
            [
                entry.case,
                entry.samples,
                three_digits(entry.p50_ms),
                three_digits(entry.p90_ms),
                three_digits(entry.p99_ms),
                f"{entry.texts_per_second:,.0f}",
                NONE if speedup.verdict == "reference" else times(speedup),
                speedup.verdict,
                times(entry.p99_speedup),
                figure(tokenise, ".2f"),
                three_digits(model),
                times(entry.vs_pipeline),
                f"{entry.int8_floors:.2f}x" if entry.int8_floors else NONE,
                figure(entry.gpu_busy_ms, ".3f"),
            ]
        )
    headers = [
        "case",
        "samples",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "texts/s",
        f"times {one.yardstick}, 95 %",
        "",
        f"p99 times {one.yardstick}, 95 %",
        "tokenise p50 ms",
        "model p50 ms",
        "times hf-pipeline, 95 %",
        "by int8 floor",
        "GPU at work ms",
    ]
    return _table(rows, headers)


def _by_length(one: Variant) -> str:
    single = one.case(SINGLE)
    found = single.by_length if single else []
    names = bins([entry.up_to for entry in found])
    rows = [
        [name, entry.n, three_digits(entry.p50_ms), three_digits(entry.p99_ms)]
        for name, entry in zip(names, found, strict=True)
    ]
    return _table(rows, ["tokens", "texts", "p50 ms", "p99 ms"])


def _roofline(one: Variant) -> str:
    rows = [
        [
            entry.case,
            figure(roof.gflop, ".3g"),
            figure(roof.weight_mb, ".1f"),
            three_digits(roof.compute_ms),
            three_digits(roof.memory_ms),
            three_digits(roof.floor_ms),
            three_digits(entry.p50_ms),
            f"{roof.share:.0%}",
        ]
        for entry in one.latency
        if (roof := entry.roofline)
    ]
    headers = [
        "case",
        "GFLOP",
        "weights MB",
        "arithmetic ms",
        "memory ms",
        "floor ms",
        "p50 ms",
        "floor / p50",
    ]
    return _table(rows, headers)


def _peak(one: Variant) -> str:
    rows = [
        [
            entry.case,
            f"{peak.tflops:,.1f}",
            f"{peak.of_measured:.1%}",
            figure(peak.of_datasheet, ".1%"),
        ]
        for entry in one.latency
        if (peak := entry.peak)
    ]
    return _table(rows, ["case", "TFLOP/s", "of the fp16 products in this run", "of the data sheet's"])


def _many(one: Variant) -> str:
    if not (many := one.many):
        return ""
    cells = [
        many.texts,
        many.concurrency,
        many.requests,
        f"{many.texts_per_second:,.0f}",
        f"{many.share_of_in_process:.0%}",
        three_digits(many.p50_ms),
        errors(many),
    ]
    heads = ["texts a request", "clients", "requests", "texts/s", "of in process", "p50 ms", "errors"]
    return _table([cells], heads)


def _closed(one: Variant) -> str:
    rows = [
        [
            level.concurrency,
            level.requests,
            f"{level.requests_per_second:,.0f}",
            "{:,.0f} to {:,.0f}".format(*level.requests_per_second_range) if level.passes > 1 else NONE,
            *map(three_digits, (level.p50_ms, level.p90_ms, level.p99_ms)),
            errors(level),
        ]
        for level in one.served
    ]
    heads = ["clients", "requests", "requests/s", "range over passes", "p50 ms", "p90 ms", "p99 ms", "errors"]
    return _table(rows, heads)


def _open(one: Variant) -> str:
    body = _table([open_cells(level) for level in one.open], OPEN_HEADERS)
    saturation = one.saturation
    if not body or not saturation:
        return body
    knee = saturation.knee_rps
    kept = f"it kept up with {knee:,.0f}" if knee else "it kept up with none of these rates"
    return f"{body}\n\nAt most {saturation.capacity_rps:,.0f} answers a second were seen; {kept}."


def open_cells(level: OpenLevel) -> list[str]:
    """The cells of one offered rate, as `OPEN_HEADERS` names them."""
    split = level.split_ms
    return [
        f"{level.offered_rps:,.0f}",
        f"{level.answered_rps:,.0f}",
        f"{level.goodput_rps:,.0f}",
        *map(three_digits, (level.p50_ms, level.p90_ms, level.p99_ms)),
        errors(level),
        "NO" if level.saturated else "yes",
        f"{split.queue:.1f} + {split.handler:.1f} + {split.http:.1f}" if split else NONE,
    ]


def _parity(one: Variant) -> str:
    splits = one.parity
    directions = dict.fromkeys(name for found in splits.values() for name in found.flips)
    rates = {split: found.flip_rates for split, found in splits.items()}
    rows = {
        "texts": [f"{found.n:,}" for found in splits.values()],
        "labels that are fp32's": [f"{found.label_agreement:.2%}" for found in splits.values()],
        "flips, 95 %": [rate(rates[split].get("any")) for split in splits],
    }
    for name in directions:
        rows[f"flips {arrow(name)}"] = [str(found.flips.get(name, 0)) for found in splits.values()]
        rows[f"rate {arrow(name)}, 95 %"] = [rate(rates[split].get(name)) for split in splits]
    drops = [found.macro_f1_drop for found in splits.values()]
    rows |= {
        "largest score difference": [f"{found.max_prob_diff:.4f}" for found in splits.values()],
        "mean score difference": [f"{found.mean_prob_diff:.5f}" for found in splits.values()],
        "macro-F1 drop": [figure(drop and drop.drop, "+.4f") for drop in drops],
        "macro-F1 drop, 95 %": [span(drop, "+.4f") for drop in drops],
        "McNemar p": [figure(drop and drop.mcnemar_p, ".3g") for drop in drops],
    }
    for field, words in (("auroc_drop", "AUROC drop"), ("average_precision_drop", "average precision drop")):
        found_drops = [getattr(found, field) for found in splits.values()]
        rows[f"{words}, 95 %"] = [
            f"{drop.drop:+.4f} ({span(drop, '+.4f')})" if drop else NONE for drop in found_drops
        ]
    return _facts(rows, list(splits))


def _flipped(document: Report) -> str:
    rows = [
        [
            found.split,
            found.row,
            found.tokens,
            found.truth or NONE,
            f"{found.before} → {found.after}",
            f"{found.score_before:.3f} → {found.score_after:.3f}",
        ]
        for found in document.only.flipped
    ]
    return _table(rows, ["split", "row", "tokens", "truth", "label", moved_score(document.data)])


def _slices(one: Variant) -> str:
    rows = []
    for split, found in one.parity.items():
        parts = found.slices
        for name, part in zip(bins([part.up_to for part in parts]), parts, strict=True):
            rows.append(
                [
                    split,
                    name,
                    part.n,
                    f"{part.label_agreement:.2%}",
                    figure(part.macro_f1, ".3f"),
                    figure(part.reference_macro_f1, ".3f"),
                ]
            )
    return _table(rows, ["split", "tokens", "texts", "labels agree", "macro-F1", "fp32's macro-F1"])


def _quality(splits: Mapping[str, Quality]) -> str:
    """The splits side by side: the task's figures, then those of each label."""
    names = {
        "n": "texts",
        "macro_f1": "macro-F1",
        "micro_f1": "micro-F1",
        "accuracy": "accuracy",
        "auroc": "AUROC",
        "average_precision": "average precision",
    }
    rows = {words: [plain(getattr(found, key)) for found in splits.values()] for key, words in names.items()}
    labels = dict.fromkeys(label for found in splits.values() for label in found.labels)
    for label in labels:
        for field in ("precision", "recall", "f1"):
            values = [found.labels.get(label, {}).get(field) for found in splits.values()]
            rows[f"{label}: {field.replace('f1', 'F1')}"] = [plain(value) for value in values]
    return _facts(rows, list(splits)) if splits else ""


def _served_parity(one: Variant) -> str:
    rows = [
        [
            split,
            f"{found.n:,}",
            found.unanswered,
            f"{found.max_prob_diff:.2g}",
            f"{found.bound:.2g}",
            "yes" if found.within_bound else "NO",
        ]
        for split, found in one.parity_served.items()
    ]
    heads = ["split", "texts", "unanswered", "largest score difference", "bound", "within the bound"]
    return _table(rows, heads)


def _calibration(one: Variant) -> str:
    rows = []
    for split, found in one.quality.items():
        anew = found.refitted
        rows.append(
            [
                split,
                figure(found.brier, ".4f"),
                figure(anew and anew.brier, ".4f"),
                figure(found.ece, ".4f"),
                figure(anew and anew.ece, ".4f"),
                figure(anew and anew.macro_f1, ".4f"),
                figure(anew and anew.temperature, ".3f"),
                figure(anew and anew.threshold, ".3f"),
            ]
        )
    if all(cell == NONE for row in rows for cell in row[1:]):
        return ""
    return _table(
        rows,
        [
            "split",
            "Brier",
            "Brier, refitted",
            "ECE",
            "ECE, refitted",
            "macro-F1, refitted",
            "temperature, refitted",
            "threshold, refitted",
        ],
    )


def _functional(found: Functional) -> str:
    rows = [
        [
            one.functionality,
            one.label,
            one.n,
            f"{one.accuracy:.1%}",
            f"{one.reference_accuracy:.1%}",
            one.flips,
        ]
        for one in found.functionalities
    ]
    rows.append(
        [
            "all",
            "",
            found.n,
            f"{found.accuracy:.1%}",
            f"{found.reference_accuracy:.1%}",
            found.flips,
        ]
    )
    parts = [_table(rows, ["functionality", "right answer", "n", "accuracy", "fp32's accuracy", "flips"])]
    if found.groups:
        groups = [
            [one.group, one.n, *(figure(getattr(one, field), ".3f") for field in GAPS)]
            for one in found.groups
        ]
        gaps = [figure(getattr(found.gaps, field), ".3f") for field in GAPS]
        groups.append(["best minus worst", "", *gaps])
        parts.append(_table(groups, ["group", "n", *GAPS.values()]))
    return "\n\n".join(parts)


def _proof(one: Variant) -> str:
    """The summary in a sentence; the rest of the evidence as a list that can be opened."""
    if not one.proof:
        return ""
    evidence = _pairs({key: value for key, value in flatten(one.proof) if key != "summary"})
    more = (
        f"\n\n<details><summary>All of the evidence</summary>\n\n{evidence}\n\n</details>" if evidence else ""
    )
    return f"{proof_words(one.proof)}.{more}"


def _pairs(values: Mapping[str, Any]) -> str:
    return _table([[key, plain(value)] for key, value in values.items() if value is not None], ["", ""])


def _facts(rows: Mapping[str, Sequence[str]], splits: list[str]) -> str:
    """A row per fact, a column per split; facts that nobody has are left out."""
    kept = [[fact, *cells] for fact, cells in rows.items() if any(cell != NONE for cell in cells)]
    return _table(kept, ["", *splits])


def _table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """As GitHub shows it, without the columns in which nobody has a figure; empty without rows."""
    if not rows:
        return ""
    kept = [place for place in range(len(headers)) if any(row[place] != NONE for row in rows)]
    cells = [[row[place] for place in kept] for row in rows]
    return github(cells, [headers[place] for place in kept])
