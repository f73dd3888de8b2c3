"""One row of a side-by-side report, step by step, for engineers who are not statisticians.

Every figure comes from the report; the words are in `explained.md.j2`. Leaves out the definitions
(docs/measuring.md) and the claim (docs/claim.md).
"""

import re
from dataclasses import dataclass

import numpy as np

from benchmarks.lateness import Late, is_tested, share_late
from benchmarks.names import GATE
from benchmarks.profiles import TEST
from benchmarks.records import Parity, Report, Variant
from benchmarks.report.phrases import arrow, three_digits, uneven
from benchmarks.report.templates import render
from benchmarks.report.verdicts import fastest_passing, reference
from benchmarks.selection import chance
from training.measures.noninferiority import ALPHA

LEAST_P = 0.0001  # below, digits say more than was drawn


@dataclass(frozen=True)
class Changed:
    """Of the changed labels those that only the variant gets right, and those that only fp32 does."""

    gained: int
    lost: int


@dataclass(frozen=True)
class Load:
    """Requests a second, how many of them were late, and whether the server is shown to keep the limit."""

    rps: float
    late: Late
    holds: bool


def explained(document: Report) -> str:
    """The fastest variant that passes, as a numbered list in Markdown; a sentence where none does."""
    variant = fastest_passing(document)
    fp32 = reference(document)
    if variant is None or fp32 is None:
        return "No variant of this report passes."
    gate = variant.judged
    entry = variant.batch
    base = next(row for row in document.rows if row.batch and row.batch.against_today.verdict == "reference")
    drop = gate.macro_f1_drop
    tested = gate.noninferiority
    held, following = _loads(variant, document.run.objective_p99_ms)
    one_sided = uneven(gate)
    text = render(
        "explained.md.j2",
        document=document,
        variant=variant,
        gate=gate,
        flips=gate.flip_rates.get("any"),
        ways=[f"{count} {arrow(way)}" for way, count in gate.flips.items() if count and way != "any"],
        cells=_changed(gate, len(document.data.labels)),
        drop=drop,
        before=drop and fp32.quality[GATE].macro_f1,
        after=drop and variant.quality[GATE].macro_f1,
        test=fp32.quality[TEST].macro_f1 if TEST in fp32.quality else None,
        uneven=one_sided and chance(one_sided.p),
        tested=tested,
        p=tested and (f"{tested.p:.2g}" if tested.p >= LEAST_P else f"less than {LEAST_P:g}"),
        alpha=ALPHA,
        entry=entry,
        ratio=entry and entry.against_today,
        base=base,
        ms=lambda entry: three_digits(entry.time_ms),
        limit_ms=document.run.objective_p99_ms,
        held=held,
        next=following,
    )
    return re.sub(r"\n+(?=1\. )", "\n", text).replace("\nFrom run", "\n\nFrom run").strip()


def _changed(gate: Parity, labels: int) -> Changed | None:
    """Of labels that exclude each other; None where a report has no such counts."""
    if gate.cells is None:
        return None
    texts = np.array(gate.cells).reshape(labels, labels, labels)  # by truth, fp32's label, the variant's
    both = np.einsum("ttt->", texts)
    gained, lost = np.einsum("tft->", texts) - both, np.einsum("ttv->", texts) - both
    return Changed(int(gained), int(lost))


def _loads(variant: Variant, limit_ms: float | None) -> tuple[Load | None, Load | None]:
    """The highest rate that is shown to keep the limit, with all below it, and the one after it. As in a
    selection, those with too few requests to show anything are passed over."""
    levels = sorted(filter(is_tested, variant.open), key=lambda level: level.offered_rps)
    found = [
        Load(level.offered_rps, late, late.holds and not level.saturated)
        for level in levels
        if (late := share_late(level, limit_ms))
    ]
    place = next((place for place, load in enumerate(found) if not load.holds), len(found))
    return found[place - 1] if place else None, found[place] if place < len(found) else None
