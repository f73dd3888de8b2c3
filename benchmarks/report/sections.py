"""The sections of a report's page, one per thing that was measured; a report has no empty sections.

The tables' columns are in `columns`.
"""

import re
from collections.abc import Callable, Mapping

from benchmarks.names import CUDA_MODEL, GATE, LARGE, REFERENCE, SMALL
from benchmarks.records import Report, Slice
from benchmarks.report import columns
from benchmarks.report.functional import by_suite, functional
from benchmarks.report.phrases import (
    NONE,
    SUITES,
    arrow,
    bins,
    figure,
)
from benchmarks.report.tables import Cell, Header, Part, Section, Table, named, of_cells, table
from benchmarks.report.verdicts import margin

Texts = Mapping[tuple[str, int], str]


def _verdicts(document: Report, texts: Texts | None) -> Section | None:
    others = [variant for variant in document.measured if variant.name != REFERENCE]
    how = (
        "A p below the needed level rules out a drop of the margin or more (p of worse: a drop within the "
        "margin). The needed level depends on the runs on this gate, which share 2.5 % between them. The "
        "smallest margin is the one at which an equal variant would pass with this many texts."
    )
    return _section(
        "verdicts", "Verdicts", how, table("Verdicts", columns.verdicts(margin(document)), others)
    )


def _parity(document: Report, texts: Texts | None) -> Section | None:
    """Flip rates by direction, and the drops in ranking metrics, on gate."""
    ways = list(dict.fromkeys(way for variant in document.measured for way in variant.judged.flips))
    found = [
        (variant.name, variant.judged)
        for variant in document.measured
        if variant.name != REFERENCE and variant.judged.flip_rates
    ]
    how = "How often the label differs from fp32's on gate, by direction, with 95 % intervals."
    return _section(
        "sameness", "Flip rates", how, named("Flip rates", "variant", columns.parity(ways), found)
    )


def decisions(document: Report) -> Table:
    """What the bands decide on gate; empty where no artifact has any."""
    found = [(variant.name, decided) for variant in document.measured if (decided := variant.judged.decided)]
    return named("Decisions", "variant", columns.DECIDED, found)


def _decisions(document: Report, texts: Texts | None) -> Section | None:
    how = (
        "What the bands decide on gate: how often not as fp32 does, the share of texts in each band, and "
        "what is found of each promise, which was made on other texts."
    )
    return _section("decisions", "Decisions", how, decisions(document))


def _flips(document: Report, texts: Texts | None) -> Section | None:
    parts = []
    for variant in document.measured:
        found = variant.flipped
        if not found:
            continue
        counts = ", ".join(f"{count} {arrow(way)}" for way, count in variant.judged.flips.items())
        listed = table(f"Flips of {variant.name}", columns.flipped(document.data, texts), found)
        parts.append(Part(listed, variant.name, f"on gate: {counts}; {len(found)} rows shown", True))
    how = "Texts whose label differs from fp32's, largest change first, with their row in the split" + (
        ". The texts are shown: do not share this page." if texts else "; the texts themselves are left out."
    )
    return Section("flips", "Flipped labels", how, parts) if parts else None


def _calibration(document: Report, texts: Texts | None) -> Section | None:
    found = [
        (variant.name, quality)
        for variant in document.measured
        if (quality := variant.quality.get(GATE)) and (quality.refitted or quality.ece is not None)
    ]
    how = (
        "On gate. As shipped, a variant uses fp32's temperature and threshold; refitted, both are fitted to "
        "its own validation scores. Lower Brier and ECE are better. With this many texts, even a perfect "
        "model has some ECE, shown in its own column; only an ECE well above that means something."
    )
    listed = named("Calibration", "variant", columns.CALIBRATION, found)
    return _section("calibration", "Calibration", how, listed)


def _functional(document: Report, texts: Texts | None) -> Section | None:
    parts = []
    for suite, found in by_suite(document).items():
        cases, whole = functional(suite, found)
        parts.append(Part(cases, SUITES.get(suite, suite).removeprefix("Functional cases: ")))
        parts.append(Part(whole, "All cases, and gaps between groups"))
    how = (
        "Share of cases answered correctly, with the change from fp32 in points. Blue cells are better, red "
        "ones worse. A gap is the best group's AUC minus the worst's: smaller is fairer."
    )
    return Section("functional", "Functional cases", how, parts) if parts else None


def real_texts(document: Report) -> Table:
    """Times of real texts and how precise their ratios are; empty for a report of an earlier version."""
    found = [
        (row.name, entry)
        for row in document.rows
        for entry in row.latency
        if entry.turns and entry.tokens is None and entry.case != CUDA_MODEL
    ]
    return named("Real texts in process", "variant", columns.real_texts(document), found)


def _real_texts(document: Report, texts: Texts | None) -> Section | None:
    how = (
        "Times for real texts: the 10th percentile of short turns, the median, and the CPU time of all "
        "threads. Intervals are over blocks, and every process is restarted for each block; equal means "
        "within 5 %."
    )
    return _section("speed", "Speed in process", how, real_texts(document))


def _load(document: Report, texts: Texts | None) -> Section | None:
    opened = [(row.name, level) for row in document.rows for level in row.open]
    closed = [(row.name, level) for row in document.rows for level in row.served]
    parts = [
        Part(found, title)
        for found, title in (
            (
                named("Open loop", "served", columns.open_loop(document.run.objective_p99_ms), opened),
                "Open loop: random arrivals",
            ),
            (named("Closed loop", "served", columns.CLOSED, closed), "Closed loop: clients that wait"),
        )
        if found
    ]
    how = "TorchServe with one text per request; the load generator runs on the same cores."
    key = ("Queue", "Handler", "HTTP") if any(level.split_ms for _, level in opened) else ()
    return Section("load", "As served", how, parts, key) if parts else None


def _lengths(document: Report, texts: Texts | None) -> Section | None:
    """Labels and macro-F1 on gate, a column per slice of lengths."""
    sliced = {
        variant.name: found
        for variant in document.measured
        if variant.name != REFERENCE and (found := variant.judged.slices)
    }
    ends = sorted({part.up_to for found in sliced.values() for part in found})
    rows = []
    for name, found in sliced.items():
        by_end = {part.up_to: part for part in found}
        rows.append([Cell(name, "name"), *(_slice(by_end.get(end)) for end in ends)])
    headers = [Header("variant", "name"), *(Header(f"{tokens} tokens") for tokens in bins(ends))]
    how = (
        "Whether longer texts suffer more: the share of gate labels that match fp32's, by length, and below "
        "it the change in macro-F1 from fp32."
    )
    return _section("lengths", "By length", how, of_cells("Sameness by length", headers, rows))


def _slice(part: Slice | None) -> Cell:
    if part is None:
        return Cell(NONE, "num")
    ours, theirs = part.macro_f1, part.reference_macro_f1
    change = "" if ours is None or theirs is None else f"{ours - theirs:+.3f}, "
    return _number(part.label_agreement, ".2%", f"{change}{part.n:,} texts")


def _rooflines(document: Report, texts: Texts | None) -> Section | None:
    found = [
        (variant.name, entry)
        for variant in document.measured
        for entry in variant.latency
        if entry.case in (SMALL, LARGE) and entry.roofline
    ]
    cases = document.bound.cases if document.bound else []
    rooflines = named("Rooflines", "variant", columns.ROOFLINE, found)
    parts = [
        Part(listed, title)
        for listed, title in (
            (rooflines, "Each variant's own arithmetic and bytes"),
            (table("GEMM lower bound", columns.GEMM_BOUND, cases), "Only the encoder's matrix products"),
        )
        if listed
    ]
    how = "How close each comes to this machine's limits; a share of 100 % would leave nothing to gain."
    return Section("bound", "Against the machine's limits", how, parts) if parts else None


def _gpu(document: Report, texts: Texts | None) -> Section | None:
    """What only rows on a GPU have: by shape, and the card's memory and energy."""
    rows = [row for row in document.on_cuda if not row.error]
    shapes = [
        (row.name, entry)
        for row in rows
        for entry in row.latency
        if entry.tokens is not None or entry.case == CUDA_MODEL
    ]
    if not shapes:
        return None
    how = (
        "Measured by the host's clock, from token ids on the host to logits on the host. While the GPU is "
        "not busy, the host launches, copies and waits."
    )
    taken = named("Memory and energy", "on a GPU", columns.GPU_TAKEN, [(row.name, row) for row in rows])
    parts = [
        Part(named("Shapes on the GPU", "on a GPU", columns.GPU_SHAPES, shapes), "By shape"),
        Part(taken, "Memory and energy of the card"),
    ]
    return Section("gpu", "On the GPU", how, parts)


def _proofs(document: Report, texts: Texts | None) -> Section | None:
    how = "What the runtime itself reports, and how the reloaded artifact compares with fp32."
    listed = table("Proof and check", columns.proofs(), document.measured)
    return _section("proof", "Proof and check", how, listed)


def _section(id: str, title: str, how: str, found: Table) -> Section | None:
    """A section of one table; None without rows."""
    return Section(id, title, how, [Part(found)]) if found else None


def _number(value: float | None, form: str, note: str = "") -> Cell:
    return Cell(_minus(figure(value, form)), "num", value, _minus(note))


def _minus(words: str) -> str:
    """With a minus as wide as a plus."""
    return re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", words)


SECTIONS: tuple[Callable[[Report, Texts | None], Section | None], ...] = (
    _verdicts,
    _parity,
    _decisions,
    _flips,
    _calibration,
    _functional,
    _lengths,
    _real_texts,
    _load,
    _rooflines,
    _gpu,
    _proofs,
)
