"""The page of one variant in Markdown: the verdict first, then speed, serving, sameness, calibration, cost.

Every figure of a report has its place in a table with units in the headers. Leaves out the side-by-side page
(`markdown`) and how the figures were measured (`provenance`).
"""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from benchmarks.names import SINGLE
from benchmarks.records import Quality, Report, Variant
from benchmarks.report import columns
from benchmarks.report.phrases import (
    SUITES,
    bins,
    flatten,
    github,
    plain,
    proof_words,
    reason,
    sentence_case,
)
from benchmarks.report.provenance import failures, provenance
from benchmarks.report.tables import markdown, named, table, transposed
from benchmarks.report.verdicts import margin, verdict
from training.measures.records import Functional, Functionality, Group


def report(document: Report) -> str:
    """The page of one variant."""
    variant = document.only
    if variant.error:
        return f"# {variant.name}\n\n{failures(document)[0]}\n"
    allowed = margin(document)
    check = variant.built.check
    note = f" {sentence_case(check.note)}." if check.note else ""
    parts = [
        f"# {variant.name}: {variant.built.summary}",
        f"**{verdict(variant, allowed).upper()}.** {reason(variant, allowed)}",
        f"The check at export, on validation: {'equal' if check.equal else 'NOT EQUAL'} to fp32.{note}",
    ]
    if offsets := variant.built.logit_offsets:
        by_label = zip(document.data.labels, offsets, strict=True)
        moved = ", ".join(f"{label} {offset:+.3f}" for label, offset in by_label)
        parts.append(f"Added to its logits, so that each label comes as often as with fp32: {moved}.")
    parts += ["\n".join(f"- {line}" for line in failures(document))]
    for heading, body in _sections(document).items():
        if body:
            parts += [f"## {heading}", body]
    parts += ["## How this was measured", provenance(document)]
    parts += [f"Artifact sha256 `{variant.artifact_sha256}`."]
    return "\n\n".join(filter(None, parts)) + "\n"


def _sections(document: Report) -> dict[str, str]:
    """Headings and bodies in their order; what a report lacks is empty."""
    variant = document.only
    functional = {SUITES.get(suite, suite): _functional(found) for suite, found in variant.functional.items()}
    short = table("In short", columns.main(document), [variant])
    return {
        "In short": transposed(short),
        "Speed in process": _speed(variant),
        "One text, by its length": _by_length(variant),
        "Against the roofline": _roofline(variant),
        "Against the GPU's peak": _peak(variant),
        "As served: closed loop": _closed(variant),
        "As served: open loop": _open(variant, document.run.objective_p99_ms),
        "As served: requests of many texts": _many(variant),
        "Is it still fp32?": _parity(variant),
        "What it decides on gate": _decided(variant),
        "Texts whose label changed": _flipped(document),
        "By length in tokens": _slices(variant),
        "Quality": _quality(variant.quality),
        "Quality through the server": _quality(variant.quality_served),
        "Served scores compared with those in process": _served_parity(variant),
        "Calibration": _calibration(variant),
        **functional,
        "Resources": transposed(named("Resources", "", columns.RESOURCES, [("", variant.resources)])),
        "Proof": _proof(variant),
    }


def _speed(variant: Variant) -> str:
    return markdown(table("Speed", columns.speed(variant), variant.latency))


def _by_length(variant: Variant) -> str:
    single = variant.case(SINGLE)
    found = single.by_length if single else []
    names = bins([part.up_to for part in found])
    return markdown(named("Lengths", "tokens", columns.LENGTHS, zip(names, found, strict=True)))


def _roofline(variant: Variant) -> str:
    shapes = [entry for entry in variant.latency if entry.roofline]
    return markdown(table("Rooflines", columns.ROOFLINE, shapes))


def _peak(variant: Variant) -> str:
    shapes = [entry for entry in variant.latency if entry.peak]
    return markdown(table("Shapes on the GPU", columns.GPU_SHAPES, shapes))


def _many(variant: Variant) -> str:
    return markdown(table("Many texts", columns.MANY, [variant.many] if variant.many else []))


def _closed(variant: Variant) -> str:
    return markdown(table("Closed loop", columns.CLOSED, variant.served))


def _open(variant: Variant, limit_ms: float | None) -> str:
    body = markdown(table("Open loop", columns.open_loop(limit_ms), variant.open))
    saturation = variant.saturation
    if not body or not saturation:
        return body
    knee = saturation.knee_rps
    kept = f"it kept up with {knee:,.0f}" if knee else "it kept up with none of these rates"
    return f"{body}\n\nThe highest rate was {saturation.capacity_rps:,.0f} answers a second; {kept}."


def _parity(variant: Variant) -> str:
    ways = list(dict.fromkeys(way for found in variant.parity.values() for way in found.flips))
    return transposed(named("Sameness", "split", columns.parity(ways), variant.parity.items()))


def _flipped(document: Report) -> str:
    return markdown(table("Flips", columns.flipped(document.data), document.only.flipped))


def _slices(variant: Variant) -> str:
    found = [
        (split, words, part)
        for split, parity in variant.parity.items()
        for words, part in zip(bins([part.up_to for part in parity.slices]), parity.slices, strict=True)
    ]
    return markdown(table("Lengths", columns.SLICES, found))


def _quality(splits: Mapping[str, Quality]) -> str:
    return transposed(named("Quality", "split", columns.quality(splits.values()), splits.items()))


def _decided(variant: Variant) -> str:
    found = variant.judged.decided
    return transposed(named("Decisions", "", columns.DECIDED, [("", found)])) if found else ""


def _served_parity(variant: Variant) -> str:
    return markdown(named("Served scores", "split", columns.SERVED_PARITY, variant.parity_served.items()))


def _calibration(variant: Variant) -> str:
    told = {
        split: found for split, found in variant.quality.items() if found.refitted or found.ece is not None
    }
    return markdown(named("Calibration", "split", columns.CALIBRATION, told.items()))


def _functional(found: Functional) -> str:
    whole = Functionality("all", "", found.n, found.accuracy, found.reference_accuracy, found.flips)
    cases = markdown(table("Cases", columns.FUNCTIONAL, [*found.functionalities, whole]))
    if not found.groups:
        return cases
    gaps = Group(**structs.asdict(found.gaps), group="best minus worst", n=0)
    return f"{cases}\n\n{markdown(table('Groups', columns.GROUPS, [*found.groups, gaps]))}"


def _proof(variant: Variant) -> str:
    """The summary in a sentence; the rest of the evidence as a list that can be opened."""
    if not variant.proof:
        return ""
    evidence = _pairs({key: value for key, value in flatten(variant.proof) if key != "summary"})
    more = (
        f"\n\n<details><summary>All of the evidence</summary>\n\n{evidence}\n\n</details>" if evidence else ""
    )
    return f"{proof_words(variant.proof)}.{more}"


def _pairs(values: Mapping[str, Any]) -> str:
    rows = [[key, plain(value)] for key, value in values.items() if value is not None]
    return github(rows, ["", ""]) if rows else ""
