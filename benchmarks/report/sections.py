"""The sections of a report's page, one per thing that was measured; what a report lacks has no section.

Covers the tables below the pictures. Leaves out the head of the page and the table of variants (`html`), and
how a cell is made (`cells`).
"""

from collections.abc import Callable, Mapping

from benchmarks.names import CUDA_MODEL, GATE, LARGE, REFERENCE, SMALL
from benchmarks.records import (
    Functional,
    Report,
    Slice,
)
from benchmarks.report.cells import (
    Cell,
    Header,
    Part,
    Row,
    Section,
    Table,
    badge,
    bars,
    heat,
    number,
    rate,
    section,
    table,
)
from benchmarks.report.phrases import (
    GAPS,
    NONE,
    SUITES,
    arrow,
    bins,
    errors,
    moved_score,
    proof_words,
    reason,
    span,
    three_digits,
    times,
)
from benchmarks.report.verdicts import NOT_EQUAL, margin, noninferiority

Texts = Mapping[tuple[str, int], str]


def _verdicts(document: Report, texts: Texts | None) -> Section | None:
    rows = []
    allowed = margin(document)
    for one in document.measured:
        if one.name == REFERENCE:
            continue
        tested = noninferiority(one)
        drop = one.judged.macro_f1_drop
        rows.append(
            [
                Cell(one.name, "name"),
                badge(one, allowed),
                Cell(reason(one, allowed), "words"),
                number(drop and drop.drop, "+.4f", span(drop, "+.4f") if drop else ""),
                number(tested and tested.p_adjusted, ".3f"),
                number(tested and tested.p_worse_adjusted, ".3f"),
                number(tested and tested.smallest_margin, ".4f"),
                number(tested and tested.texts_to_settle, ",d"),
            ]
        )
    headers = [
        Header("variant", "name"),
        Header("verdict", "name"),
        Header("why", "words"),
        Header("macro-F1 drop, 95 %"),
        Header(f"p of a drop of {allowed:g} (Holm)"),
        Header("p of less (Holm)"),
        Header("smallest margin to show"),
        Header("texts to settle it"),
    ]
    how = (
        "A small p rules out a drop of at least the margin (p of less: a drop within it), adjusted by Holm "
        "for the number of variants. The smallest margin is what so many texts let an equal variant pass."
    )
    return section("verdicts", "Verdicts", how, "Verdicts", headers, rows)


def _parity(document: Report, texts: Texts | None) -> Section | None:
    """Flip rates by direction, and the drops of ranking figures, on gate."""
    ways = dict.fromkeys(way for one in document.measured for way in one.judged.flips)
    rows = []
    for one in document.measured:
        found = one.judged
        rates = found.flip_rates
        if one.name == REFERENCE or not rates:
            continue
        cells = [Cell(one.name, "name"), rate(rates.get("any"))]
        cells += [rate(rates.get(way), found.flips.get(way, 0)) for way in ways]
        for drop in (found.auroc_drop, found.average_precision_drop):
            cells.append(number(drop and drop.drop, "+.4f", span(drop, "+.4f") if drop else ""))
        cells.append(number(found.max_prob_diff, ".4f"))
        rows.append(cells)
    headers = [Header("variant", "name"), Header("flips"), *(Header(arrow(way)) for way in ways)]
    headers += [Header("AUROC drop"), Header("average precision drop"), Header("largest score difference")]
    how = "How often the label is not fp32's, on gate, by direction, each with its 95 % interval."
    return section("sameness", "Flip rates", how, "Flip rates", headers, rows)


def _flips(document: Report, texts: Texts | None) -> Section | None:
    parts = []
    for one in document.measured:
        found = one.flipped
        if not found:
            continue
        counts = ", ".join(f"{count} {arrow(way)}" for way, count in one.judged.flips.items())
        headers = [
            Header("split and row", "name"),
            Header("tokens"),
            Header("truth", "name"),
            Header("label", "name"),
            Header(moved_score(document.data)),
        ]
        rows = [
            Row(
                [
                    Cell(
                        f"{flip.split} {flip.row}",
                        "name",
                        hidden=(texts or {}).get((flip.split, flip.row), ""),
                    ),
                    number(flip.tokens, "d"),
                    Cell(flip.truth or NONE, "name"),
                    Cell(f"{flip.before} → {flip.after}", "name"),
                    Cell(f"{flip.score_before:.3f} → {flip.score_after:.3f}", "num"),
                ]
            )
            for flip in found
        ]
        listed = Table(f"Flips of {one.name}", headers, rows)
        parts.append(Part(listed, one.name, f"on gate: {counts}; {len(found)} rows shown", True))
    how = "Texts whose label is not fp32's, those that moved farthest first, by their row in the split" + (
        ". The texts are shown: this page is not for others." if texts else "; the texts themselves stay out."
    )
    return Section("flips", "Flipped labels", how, parts) if parts else None


def _calibration(document: Report, texts: Texts | None) -> Section | None:
    rows = []
    for one in document.measured:
        quality = one.quality.get(GATE)
        if quality is None or (quality.refitted is None and quality.ece is None):
            continue
        anew = quality.refitted
        rows.append(
            [
                Cell(one.name, "name"),
                number(quality.brier, ".4f"),
                number(anew and anew.brier, ".4f"),
                number(quality.ece, ".4f"),
                number(anew and anew.ece, ".4f"),
                number(quality.macro_f1, ".4f"),
                number(anew and anew.macro_f1, ".4f"),
                number(anew and anew.temperature, ".3f"),
                number(anew and anew.threshold, ".3f"),
            ]
        )
    names = ("Brier", "Brier, refitted", "ECE", "ECE, refitted", "macro-F1", "macro-F1, refitted")
    headers = [Header("variant", "name"), *map(Header, names), Header("temperature"), Header("threshold")]
    how = (
        "As shipped, with fp32's temperature and threshold; refitted, with both fitted anew to the variant's "
        "own scores of validation. Lower Brier and ECE are better; on gate."
    )
    return section("calibration", "Calibration", how, "Calibration", headers, rows)


def _functional(document: Report, texts: Texts | None) -> Section | None:
    measured = [one for one in document.measured if one.functional]
    parts = []
    for suite in dict.fromkeys(name for one in measured for name in one.functional):
        found = {one.name: one.functional[suite] for one in measured if suite in one.functional}
        parts.append(Part(_kinds(found, suite), SUITES.get(suite, suite).removeprefix("Functional cases: ")))
        gaps = [
            [
                Cell(name, "name"),
                number(one.accuracy, ".1%"),
                number(one.flips, "d"),
                *(number(getattr(one.gaps, gap), ".3f") for gap in GAPS),
            ]
            for name, one in found.items()
        ]
        headers = [Header("variant", "name"), Header("accuracy"), Header("flips from fp32")]
        headers += [Header(f"gap of {words}") for words in GAPS.values()]
        parts.append(Part(table("Gaps between groups", headers, gaps), "All cases, and gaps between groups"))
    how = (
        "Share of cases answered rightly, with the change from fp32 in points. Blue cells are better, red "
        "ones worse. A gap is the best group's AUC minus the worst's: smaller is fairer."
    )
    return Section("functional", "Functional cases", how, parts) if parts else None


def _kinds(found: Mapping[str, Functional], suite: str) -> Table:
    """A row per functionality, a column per variant."""
    by_name = {
        name: {kind.functionality: kind for kind in one.functionalities} for name, one in found.items()
    }
    order = {kind: one for kinds in by_name.values() for kind, one in kinds.items()}
    rows = [
        Row(
            [
                Cell(words, "kind", note=f"{one.label}, {one.n} cases"),
                *(heat(kinds.get(words)) for kinds in by_name.values()),
            ]
        )
        for words, one in order.items()
    ]
    return Table(
        f"Accuracy by functionality, {suite}", [Header("functionality", "kind"), *map(Header, by_name)], rows
    )


def _load(document: Report, texts: Texts | None) -> Section | None:
    served = [one for one in document.rows if not one.error]
    closed = [
        [
            Cell(one.name, "name"),
            number(level.concurrency, "d"),
            Cell(three_digits(level.requests_per_second), "num", level.requests_per_second),
            *(Cell(three_digits(ms), "num") for ms in (level.p50_ms, level.p90_ms, level.p99_ms)),
            Cell(errors(level), "name"),
        ]
        for one in served
        for level in one.served
    ]
    opened = [
        [
            Cell(one.name, "name"),
            Cell(three_digits(level.offered_rps), "num"),
            Cell(three_digits(level.answered_rps), "num"),
            Cell(three_digits(level.goodput_rps), "num"),
            *(Cell(three_digits(ms), "num") for ms in (level.p50_ms, level.p90_ms, level.p99_ms)),
            Cell("no" if level.saturated else "yes", "name", badge="fail" if level.saturated else ""),
            Cell(errors(level), "name"),
            bars(level.split_ms),
        ]
        for one in served
        for level in one.open
    ]
    times_ms = [Header("p50 ms"), Header("p90 ms"), Header("p99 ms")]
    parts = []
    if opened:
        headers = [
            Header("served", "name"),
            Header("offered/s"),
            Header("answered/s"),
            Header("in time/s"),
            *times_ms,
        ]
        headers += [
            Header("keeps up", "name"),
            Header("errors", "name"),
            Header("where the time goes, mean ms", "name"),
        ]
        parts.append(Part(table("Open loop", headers, opened), "Arrivals that do not wait"))
    if closed:
        headers = [
            Header("served", "name"),
            Header("clients"),
            Header("requests/s"),
            *times_ms,
            Header("errors", "name"),
        ]
        parts.append(Part(table("Closed loop", headers, closed), "Clients that wait"))
    how = "TorchServe with one text a request, the load generator on the same cores."
    key = ("Queue", "Handler", "HTTP") if any(row[-1].bars for row in opened) else ()
    return Section("load", "As served", how, parts, key) if parts else None


def _lengths(document: Report, texts: Texts | None) -> Section | None:
    """Labels and macro-F1 on gate, a column per slice of lengths."""
    sliced = {
        one.name: found for one in document.measured if one.name != REFERENCE and (found := one.judged.slices)
    }
    ends = sorted({part.up_to for found in sliced.values() for part in found})
    rows = []
    for name, found in sliced.items():
        by_end = {part.up_to: part for part in found}
        rows.append([Cell(name, "name"), *(_slice(by_end.get(end)) for end in ends)])
    headers = [Header("variant", "name"), *(Header(f"{tokens} tokens") for tokens in bins(ends))]
    how = (
        "Whether longer texts suffer more: the share of gate labels that are fp32's by length, and below "
        "it the change of macro-F1 from fp32."
    )
    return section("lengths", "By length", how, "Sameness by length", headers, rows)


def _slice(part: Slice | None) -> Cell:
    if part is None:
        return Cell(NONE, "num")
    ours, theirs = part.macro_f1, part.reference_macro_f1
    change = "" if ours is None or theirs is None else f"{ours - theirs:+.3f}, "
    return number(part.label_agreement, ".2%", f"{change}{part.n:,} texts")


def _rooflines(document: Report, texts: Texts | None) -> Section | None:
    rows = [
        [
            Cell(one.name, "name"),
            Cell(entry.case, "name"),
            Cell(three_digits(entry.p50_ms), "num"),
            Cell(three_digits(roof.floor_ms), "num"),
            number(roof.share, ".0%"),
            Cell(three_digits(roof.compute_ms), "num"),
            Cell(three_digits(roof.memory_ms), "num"),
            number(roof.gflop, ".3g"),
            number(roof.weight_mb, ".1f"),
        ]
        for one in document.measured
        for entry in one.latency
        if entry.case in (SMALL, LARGE) and (roof := entry.roofline)
    ]
    names = ("p50 ms", "floor ms", "floor / p50", "arithmetic ms", "memory ms", "GFLOP", "weights MB")
    headers = [Header("variant", "name"), Header("case", "name"), *map(Header, names)]
    parts = (
        [Part(table("Rooflines", headers, rows), "Each variant's own arithmetic and bytes")] if rows else []
    )
    floor = document.floor
    if floor and floor.cases:
        kinds = [kind for kind in ("int8", "bf16", "fp32") if getattr(floor.cases[0], f"{kind}_ms")]
        cells = [
            [Cell(one.case, "name")]
            + [number(getattr(one, f"{kind}_{unit}"), ".2f") for kind in kinds for unit in ("ms", "tops")]
            for one in floor.cases
        ]
        heads = [Header("texts x tokens", "name")]
        heads += [Header(f"{kind} {unit}") for kind in kinds for unit in ("ms", "TOPS")]
        parts.append(Part(table("Floor", heads, cells), "The encoder's matrix products alone"))
    how = "How close each comes to what this machine can do: a share of 100 % would leave nothing to gain."
    return Section("floor", "Against the machine", how, parts) if parts else None


def _gpu(document: Report, texts: Texts | None) -> Section | None:
    """What only rows on a GPU have: by shape, and the card's memory and energy."""
    found = [one for one in [*document.measured, *document.peers] if one.device == "cuda"]
    shapes = [
        [
            Cell(one.name, "name"),
            Cell(entry.case, "name"),
            Cell(three_digits(entry.p50_ms), "num", entry.p50_ms),
            Cell(three_digits(busy) if busy else NONE, "num", busy),
            number(busy and busy / entry.p50_ms, ".0%"),
            number(entry.texts_per_second, ",.0f"),
            number(peak and peak.tflops, ",.1f"),
            number(peak and peak.of_measured, ".1%"),
            number(peak and peak.of_datasheet, ".1%"),
        ]
        for one in found
        for entry in one.latency
        if entry.tokens is not None or entry.case == CUDA_MODEL
        for busy, peak in [(entry.gpu_busy_ms, entry.peak)]
    ]
    if not shapes:
        return None
    names = ("p50 ms", "GPU at work ms", "of the time", "texts/s")
    peaks = ("TFLOP/s", "of this run's fp16 products", "of the data sheet's")
    headers = [Header("on a GPU", "name"), Header("texts x tokens", "name"), *map(Header, (*names, *peaks))]
    taken = [
        [
            Cell(one.name, "name"),
            number(one.resources.gpu_allocated_mb, ",.0f"),
            number(one.resources.gpu_reserved_mb, ",.0f"),
            number(one.resources.gpu_j_per_1000_texts, ".2f"),
        ]
        for one in found
    ]
    heads = [Header("on a GPU", "name")]
    heads += map(
        Header, ("memory in use MB, at most", "memory taken MB, at most", "J per 1,000 texts of 32 tokens")
    )
    how = (
        "By the host's clock, from token ids there to logits there; what the GPU does not work of it is "
        "launching, copying and waiting."
    )
    parts = [
        Part(table("Shapes on the GPU", headers, shapes), "By shape"),
        Part(table("Memory and energy", heads, taken), "Memory and energy of the card"),
    ]
    return Section("gpu", "On the GPU", how, parts)


def _proofs(document: Report, texts: Texts | None) -> Section | None:
    rows = []
    for one in document.measured:
        check = one.built.check
        rows.append(
            [
                Cell(one.name, "name"),
                Cell(proof_words(one.proof), "words"),
                Cell(
                    "equal" if check.equal else "not equal",
                    "name",
                    badge="pass" if check.equal else NOT_EQUAL,
                ),
                number(check.label_agreement, ".2%"),
                number(check.max_prob_diff, ".4f"),
                number(check.batch_mate_diff, ".4f"),
                number(one.built.build_seconds or None, ",.0f"),
                Cell(times(getattr(one.case(LARGE), "vs_pipeline", None)), "num"),
            ]
        )
    headers = [Header("variant", "name"), Header("proof", "words"), Header("check at export", "name")]
    names = ("labels agree", "largest score difference", "largest move with batch mates", "built in s")
    headers += [*map(Header, names), Header(f"{LARGE} against hf-pipeline")]
    how = "What the runtime itself says was done, and how the reloaded artifact compared with fp32."
    return section("proof", "Proof and check", how, "Proof and check", headers, rows)


SECTIONS: tuple[Callable[[Report, Texts | None], Section | None], ...] = (
    _verdicts,
    _parity,
    _flips,
    _calibration,
    _functional,
    _lengths,
    _load,
    _rooflines,
    _gpu,
    _proofs,
)
