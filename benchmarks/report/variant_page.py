"""The page of one variant in Markdown: the verdict first, then speed, serving, sameness, calibration, cost.

Every figure of a report has its place in a table with units in the headers. Leaves out the side-by-side page
(`markdown`) and what figures rest on (`provenance`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.names import SINGLE
from benchmarks.records import Functional, Quality, Report, Variant
from benchmarks.report import columns
from benchmarks.report.phrases import (
    GAPS,
    NONE,
    SUITES,
    bins,
    figure,
    flatten,
    github,
    plain,
    proof_words,
    reason,
    sentence_case,
    three_digits,
    times,
)
from benchmarks.report.provenance import failures, provenance
from benchmarks.report.tables import markdown, named, table, transposed
from benchmarks.report.verdicts import margin, verdict

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
    shapes = [entry for entry in one.latency if entry.roofline]
    return markdown(table("Rooflines", columns.ROOFLINE, shapes))


def _peak(one: Variant) -> str:
    shapes = [entry for entry in one.latency if entry.peak]
    return markdown(table("Shapes on the GPU", columns.GPU_SHAPES, shapes))


def _many(one: Variant) -> str:
    return markdown(table("Many texts", columns.MANY, [one.many] if one.many else []))


def _closed(one: Variant) -> str:
    return markdown(table("Closed loop", columns.CLOSED, one.served))


def _open(one: Variant) -> str:
    body = markdown(table("Open loop", columns.OPEN, one.open))
    saturation = one.saturation
    if not body or not saturation:
        return body
    knee = saturation.knee_rps
    kept = f"it kept up with {knee:,.0f}" if knee else "it kept up with none of these rates"
    return f"{body}\n\nAt most {saturation.capacity_rps:,.0f} answers a second were seen; {kept}."


def _parity(one: Variant) -> str:
    ways = list(dict.fromkeys(way for found in one.parity.values() for way in found.flips))
    return transposed(named("Sameness", "split", columns.parity(ways), one.parity.items()))


def _flipped(document: Report) -> str:
    return markdown(table("Flips", columns.flipped(document.data), document.only.flipped))


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
    told = {split: found for split, found in one.quality.items() if found.refitted or found.ece is not None}
    return markdown(named("Calibration", "split", columns.CALIBRATION, told.items()))


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
