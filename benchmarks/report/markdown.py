"""The side-by-side report as people read it: a Markdown page, and the table for a terminal.

A speed never stands without accuracy, memory, versions and machine; a difference within the noise is
called one; every number has its unit. Leaves out the page of one variant (`variant_page`), what figures rest
on (`provenance`) and the page for a browser (`html`).
"""

from msgspec import UNSET
from tabulate import tabulate

from benchmarks.names import BATCH, CUDA_BATCH, CUDA_BATCH_TEXTS, CUDA_MODEL, LARGE, REFERENCE, SINGLE, SMALL
from benchmarks.records import Peer, Ratio, Report, Variant
from benchmarks.records import Row as Entry
from benchmarks.report.phrases import (
    DEVICES,
    GAPS,
    NONE,
    SUITES,
    figure,
    github,
    proof_words,
    reason,
    small,
    span,
    times,
)
from benchmarks.report.pictures import available
from benchmarks.report.provenance import failures, provenance, provenance_in_short
from benchmarks.report.variant_page import OPEN_HEADERS, open_cells, report
from benchmarks.report.verdicts import is_tested, margin, noninferiority, verdict

__all__ = [
    "failures",
    "floor_table",
    "proof_note",
    "proof_table",
    "proof_words",
    "provenance",
    "report",
    "side_by_side",
    "summary",
    "table",
    "terminal_table",
]

MOST_COLUMNS = 6
MAIN = (
    "variant",
    "equal",
    "verdict",
    "labels agree",
    "device",
    "1x32 p50",
    "32x32 p50",
    "real texts/s",
    f"{CUDA_BATCH_TEXTS:,} real texts/s",
    "best texts/s",
    "served requests",
    "artifact",
)
SUMMARY = (*MAIN, "macro-F1 drop", "peak memory", "GPU memory", "GPU J per 1,000")
PRECISIONS = ("int8", "bf16", "fp32")


def side_by_side(document: Report, pictures: str | None = None) -> str:
    """The side-by-side page: the table, what failed, pictures, verdicts, load, functional cases, the floor,
    the proofs, what the figures rest on. `pictures` is the folder beside the page that holds them; None:
    there is none."""
    data = document.data
    title = f"# {data.base} on {data.spec}: variants side by side"
    parts = [title, table(document), "\n".join(f"- {line}" for line in failures(document))]
    if pictures:
        parts += [
            f"![{one.title}]({pictures}/{one.name}.svg)\n\n{one.reading}" for one in available(document)
        ]
    sections = {
        "Verdicts": verdict_table(document),
        "Arrivals that do not wait": open_table(document),
        **functional_tables(document),
        "The floor: the matrix products alone": floor_table(document),
        "Proof and check": proof_table(document) if _has_builds(document) else "",
    }
    for heading, body in sections.items():
        if body:
            parts += [f"## {heading}", body]
    if sections["Proof and check"]:
        parts.append(proof_note(document))
    return "\n\n".join([*filter(None, parts), provenance(document)]) + "\n"


def table(document: Report) -> str:
    """One row per variant, and below them one per peer, as GitHub shows it."""
    headers, rows = _cells(document)
    return github(rows, headers)


def terminal_table(document: Report) -> str:
    """One column per variant while they fit into a terminal; of many, a row each with the main figures."""
    headers, rows = _cells(document)
    if len(rows) <= MOST_COLUMNS:
        columns = [list(column) for column in zip(headers, *rows, strict=True)]
        return tabulate(columns[1:], columns[0], "simple", disable_numparse=True)
    return tabulate(*_only(MAIN, headers, rows), "simple", disable_numparse=True)


def summary(document: Report) -> str:
    """The main figures of every variant and peer, and what they rest on in short: for a document that links
    to the whole page."""
    rows, headers = _only(SUMMARY, *_cells(document))
    return f"{github(rows, headers)}\n\n{provenance_in_short(document)}"


def _only(
    wanted: tuple[str, ...], headers: list[str], rows: list[list[str]]
) -> tuple[list[list[str]], list[str]]:
    """Rows and headers of the columns that begin with one of the `wanted` words."""
    kept = [place for place, header in enumerate(headers) if header.startswith(wanted)]
    return [[row[place] for place in kept] for row in rows], [headers[place] for place in kept]


def verdict_table(document: Report) -> str:
    """Per variant what the check and the test say, and why; empty where the report has no test."""
    if not is_tested(document):
        return ""
    allowed = margin(document)
    rows = []
    for one in document.variants:
        if one.error or one.name == REFERENCE:
            continue
        gate = one.judged
        tested = noninferiority(one)
        rows.append(
            [
                one.name,
                "equal" if one.built.check.equal else "NOT EQUAL",
                tested.verdict.upper() if tested else NONE,
                f"{gate.macro_f1_drop.drop:+.4f}" if gate.macro_f1_drop else NONE,
                span(gate.macro_f1_drop, "+.4f"),
                small(tested and tested.p_adjusted),
                small(tested and tested.p_worse_adjusted),
                figure(tested and tested.smallest_margin, ".4f"),
                figure(tested and tested.texts_to_settle, ",d"),
            ]
        )
    headers = [
        "variant",
        "check at export",
        f"drop below {allowed:g}",
        "macro-F1 drop",
        "95 % interval",
        "p (Holm)",
        "p of worse (Holm)",
        "smallest margin to show",
        "texts to settle it",
    ]
    reasons = [
        f"- {one.name}: {reason(one, allowed)}"
        for one in document.variants
        if not one.error and one.name != REFERENCE
    ]
    return github(rows, headers) + "\n\n" + "\n".join(reasons) if rows else ""


def open_table(document: Report) -> str:
    """Per variant and offered rate: what was answered, in time, how fast, and where the time went."""
    rows = [[one.name, *open_cells(level)] for one in document.rows for level in one.open]
    return github(rows, ["served", *OPEN_HEADERS]) if rows else ""


def functional_tables(document: Report) -> dict[str, str]:
    """By heading, per suite of cases: the accuracy of each variant on each functionality, and the gaps
    between groups."""
    measured = [one for one in document.variants if one.functional]
    tables = {}
    for suite in dict.fromkeys(name for one in measured for name in one.functional):
        found = {one.name: one.functional[suite] for one in measured if suite in one.functional}
        names = dict.fromkeys(
            (case.functionality, case.label, case.n) for one in found.values() for case in one.functionalities
        )
        accuracy = {
            (name, case.functionality): case.accuracy
            for name, one in found.items()
            for case in one.functionalities
        }
        rows = [
            [words, label, n, *(figure(accuracy.get((name, words)), ".0%") for name in found)]
            for words, label, n in names
        ]
        rows.append(["all", "", "", *(f"{one.accuracy:.1%}" for one in found.values())])
        rows.append(["flips from fp32", "", "", *(one.flips for one in found.values())])
        for gap, words in GAPS.items():
            if any(getattr(one.gaps, gap) is not None for one in found.values()):
                cells = [figure(getattr(one.gaps, gap), ".3f") for one in found.values()]
                rows.append([f"{words}, best minus worst group", "", "", *cells])
        tables[SUITES.get(suite, suite)] = github(rows, ["functionality", "right answer", "n", *found])
    return tables


def floor_table(document: Report) -> str:
    """The encoder's matrix products alone by shape, time and rate; empty where they were not measured."""
    floor = document.floor
    if not floor or not floor.cases:
        return ""
    precisions = [name for name in PRECISIONS if getattr(floor.cases[0], f"{name}_ms")]
    headers = ["texts x tokens"]
    for name in precisions:
        headers += [f"{name} ms", f"{name} TOPS"]
    rows = [
        [one.case]
        + [
            cell
            for name in precisions
            for cell in (
                figure(getattr(one, f"{name}_ms"), ".2f"),
                figure(getattr(one, f"{name}_tops"), ".2f"),
            )
        ]
        for one in floor.cases
    ]
    return github(rows, headers)


def proof_table(document: Report) -> str:
    """One row per variant: what it was made from, what proves it, and how the reloaded artifact compares
    with fp32 on the validation texts."""
    found = [_proof_row(one, LARGE) for one in document.variants]
    headers = [header for header in found[0] if any(row.get(header, NONE) != NONE for row in found)]
    rows = [[row.get(header, NONE) for header in headers] for row in found]
    return github(rows, headers)


def proof_note(document: Report) -> str:
    """What the table of proofs rests on."""
    run, first = document.run, document.variants[0].artifact
    texts = first and first.check.n
    return (
        f"Each artifact was loaded anew and compared with fp32 on {texts or 'the'} validation texts. Faster "
        f"or slower: in process, {run.threads} threads of {document.machine.cpu}, run {run.id}."
    )


def _proof_row(variant: Variant, large: str) -> dict[str, str]:
    if not variant.artifact:
        return {"variant": variant.name, "equal to fp32": "FAILED"}
    artifact, check, entry = variant.artifact, variant.built.check, variant.case(large)
    is_reference = variant.name == REFERENCE
    drop = check.macro_f1_drop
    return {
        "variant": variant.name,
        "parent": artifact.parent or NONE,
        "proof": proof_words(variant.proof),
        "equal to fp32": ("yes" if check.equal else "NO") if not variant.error else "FAILED",
        "labels agree": figure(check.label_agreement, ".2%"),
        "largest score difference": figure(check.max_prob_diff, ".4f"),
        "macro-F1 drop, 95 %": "reference"
        if is_reference
        else f"{drop[0]:+.3f} to {drop[1]:+.3f}"
        if drop
        else NONE,
        "largest move with batch mates": figure(check.batch_mate_diff, ".4f"),
        "artifact MB": figure(variant.resources.artifact_mb, ".1f"),
        "built in s": figure(artifact.build_seconds or None, ".0f"),
        f"{large} against fp32": entry.speedup.verdict if entry else NONE,
    }


def _has_builds(document: Report) -> bool:
    """Whether the report is of a version that carries what the table of proofs shows."""
    return any(one.artifact and one.artifact.build_seconds is not UNSET for one in document.variants)


def _cells(document: Report) -> tuple[list[str], list[list[str]]]:
    """Headers and rows; a column in which nobody has a figure is left out."""
    variants = document.variants
    found = [_row(variant, document) for variant in variants]
    found += [_peer_row(peer, document) for peer in document.peers]
    headers = list(dict.fromkeys(header for row in found for header in row))
    headers = [header for header in headers if any(row.get(header, NONE) != NONE for row in found)]
    return headers, [[row.get(header, NONE) for header in headers] for row in found]


def _row(variant: Variant, document: Report) -> dict[str, str]:
    """The cells of one variant by header."""
    header = "verdict" if is_tested(document) else "equal to fp32"
    if variant.error:
        return {"variant": variant.name, header: "FAILED"}
    equal = "yes" if variant.built.check.equal else "NO"
    return {
        "variant": variant.name,
        header: _word(variant, document) if is_tested(document) else equal,
        **_device_cells(variant, document),
        **_quality_cells(variant),
        **_timing_cells(variant),
        **_gpu_cells(variant),
        **_served_cells(variant, document),
        **_resource_cells(variant),
    }


def _word(variant: Variant, document: Report) -> str:
    """The verdict, loud where it is one."""
    word = verdict(variant, margin(document))
    return word if variant.name == REFERENCE else word.upper()


def _peer_row(peer: Peer, document: Report) -> dict[str, str]:
    """The cells of a peer: those of a variant, as far as a peer has them."""
    words = {"measured": "peer", "left out": "left out", "failed": "FAILED"}
    header = "verdict" if is_tested(document) else "equal to fp32"
    head = {"variant": peer.name, header: words[peer.status]}
    if peer.error:
        return head
    found = head | _device_cells(peer, document) | _quality_cells(peer) | _timing_cells(peer)
    return found | _gpu_cells(peer) | _served_cells(peer, document) | _resource_cells(peer)


def _device_cells(row: Entry, document: Report) -> dict[str, str]:
    """On what it computed; where all is on a CPU nobody asks."""
    return {"device": DEVICES[row.device]} if document.on_cuda else {}


def _quality_cells(row: Entry) -> dict[str, str]:
    split = "test" if "test" in row.parity else "gate"
    parity = row.parity.get(split)
    flipped = row.gate and row.gate.flip_rates.get("any")
    return {
        f"labels agree ({split})": figure(parity and parity.label_agreement, ".2%"),
        "flips on gate": figure(flipped and flipped.rate, ".2%"),
        "macro-F1 gate": figure(_f1(row, "gate"), ".3f"),
        "macro-F1 test": figure(_f1(row, "test"), ".3f"),
        "macro-F1 drop on gate, 95 %": _drop_cell(row),
    }


def _timing_cells(row: Entry) -> dict[str, str]:
    return {
        f"{SMALL} p50 ms": _timing(row, SMALL, "p50_ms"),
        f"{LARGE} p50 ms": _timing(row, LARGE, "p50_ms"),
        "1 real text p50 ms": _timing(row, SINGLE, "p50_ms"),
        "1 real text p99 ms": _p99(row),
        "real texts/s": _timing(row, BATCH, "texts_per_second"),
        "real texts/s against hf-pipeline, 95 %": _against_pipeline(row),
        f"{SMALL} by int8 floor": _floors(row, SMALL),
        f"{LARGE} by int8 floor": _floors(row, LARGE),
        f"{LARGE} roofline": _roofline(row, LARGE),
    }


def _gpu_cells(row: Entry) -> dict[str, str]:
    """What only rows on a GPU have."""
    if row.device != "cuda":
        return {}
    shapes = [entry for entry in row.latency if entry.tokens is not None]
    best = max(shapes, key=lambda entry: entry.texts_per_second)
    share, smallest = best.peak, row.case(SMALL)
    promised = f" ({share.of_datasheet:.0%} of the data sheet's)" if share and share.of_datasheet else ""
    return {
        f"{CUDA_BATCH_TEXTS:,} real texts/s": _timing(row, CUDA_BATCH, "texts_per_second"),
        f"{CUDA_BATCH_TEXTS:,} tokenised texts/s": _timing(row, CUDA_MODEL, "texts_per_second"),
        "best texts/s (texts x tokens)": f"{best.texts_per_second:,.0f} ({best.case})",
        "there of the fp16 peak": f"{share.of_measured:.0%}{promised}" if share else NONE,
        f"{SMALL} GPU at work ms": figure(smallest and smallest.gpu_busy_ms, ".3f"),
        "GPU memory MB": figure(row.resources.gpu_reserved_mb, ".0f"),
        "GPU J per 1,000 texts": figure(row.resources.gpu_j_per_1000_texts, ".2f"),
    }


def _p99(row: Entry) -> str:
    """The slowest hundredth of single texts and its own ratio; only where the report compared p99s."""
    entry = row.case(SINGLE)
    return _ratio_cell(entry.p99_ms, ".1f", entry.p99_speedup) if entry and entry.p99_speedup else NONE


def _roofline(row: Entry, name: str) -> str:
    roof = getattr(row.case(name), "roofline", None)
    return NONE if roof is None else f"{roof.share:.0%}"


def _resource_cells(row: Entry) -> dict[str, str]:
    resources = row.resources
    return {
        "artifact MB": figure(resources.artifact_mb, ".1f"),
        "peak memory MB": figure(resources.peak_rss_mb, ".0f"),
        "CPU s per 1,000 texts": figure(resources.cpu_s_per_1000_texts, ".2f"),
        "load s": figure(resources.load_s, ".1f"),
    }


def _against_pipeline(row: Entry) -> str:
    """How many times as fast as the pipeline on batches of real texts, paired by round."""
    found = getattr(row.case(BATCH), "vs_pipeline", None)
    if found is None:
        return NONE
    return times(found) if found.is_decided else found.verdict


def _floors(row: Entry, name: str) -> str:
    multiple = getattr(row.case(name), "int8_floors", None)
    return NONE if multiple is None else f"{multiple:.1f}x"


def _served_cells(row: Entry, document: Report) -> dict[str, str]:
    ours = row.busiest if row.served else None
    if ours is None:
        return {}
    reference = next((one for one in document.variants if one.name == row.yardstick), None)
    theirs = reference.busiest if reference else None
    rate, level, ratio = ours.requests_per_second, ours.concurrency, ""
    alike = theirs and theirs.concurrency == level and theirs.requests_per_second
    if theirs and alike and row is not reference:
        ratio = f" ({rate / theirs.requests_per_second:.1f}x)"
    return {
        f"served requests/s at {level}": figure(rate, ".0f") + ratio,
        f"served p99 ms at {level}": figure(ours.p99_ms, ".0f"),
        **_many_cells(row),
    }


def _many_cells(row: Entry) -> dict[str, str]:
    """Requests of many texts: how much of the throughput in process is left."""
    many = row.many
    if many is None:
        return {}
    kept = f"{many.texts_per_second:,.0f} ({many.share_of_in_process:.0%})"
    return {f"served texts/s, {many.texts} a request (of in process)": kept}


def _timing(row: Entry, name: str, field: str) -> str:
    """The figure, and how many times as fast as fp32 that is or that it is no different."""
    entry = row.case(name)
    if entry is None:
        return NONE
    return _ratio_cell(getattr(entry, field), ".0f" if field == "texts_per_second" else ".1f", entry.speedup)


def _ratio_cell(value: float | None, form: str, speedup: Ratio) -> str:
    if speedup.is_decided:
        return f"{figure(value, form)} ({speedup.ratio:.1f}x)"
    return figure(value, form) + ("" if speedup.verdict == "reference" else f" ({speedup.verdict})")


def _f1(variant: Entry, split: str) -> float | None:
    return getattr(variant.quality.get(split), "macro_f1", None)


def _drop_cell(variant: Entry) -> str:
    drop = variant.gate and variant.gate.macro_f1_drop
    if drop is None:
        return NONE
    return "reference" if variant.name == REFERENCE else f"{drop.low:+.3f} to {drop.high:+.3f}"
