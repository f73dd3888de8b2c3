"""A report's verdict on each variant in one word, and which variants deserve a reader's attention.

Covers the verdict (by the non-inferiority test if the report has one, otherwise by the interval and the
margin, as `selection` decides), the front of speed against the drop that cannot be ruled out, and the fastest
variant that passes. Leaves out objectives of latency and load (`selection`) and sentences (`phrases`).
"""

from benchmarks.names import FASTAPI, PIPELINE, REFERENCE, runs_no_transformer
from benchmarks.records import Noninferiority, Report, Row, Variant
from benchmarks.sameness.gate import by_interval
from training.measures.noninferiority import INCONCLUSIVE, MARGIN, PASS, UNPROVEN

NOT_EQUAL, FAILED, IS_REFERENCE, BASELINE = "not equal", "failed", "reference", "baseline"
EQUAL = "equal"  # by the check at export alone: there are no labels that mean anything
SHIPPABLE = (IS_REFERENCE, PASS, EQUAL)
MOST_SHOWN = 5  # lines in one picture that an eye can follow
MOST_IN_BRIEF = 8  # rows of the table and the picture on a front page


def margin(document: Report) -> float:
    """The macro-F1 drop that is allowed."""
    return MARGIN if document.run.margin is None else document.run.margin


def verdict(row: Row, allowed: float) -> str:
    """One word for a variant or a baseline; a variant that the check at export refused stays refused."""
    if row.error:
        return FAILED
    if not isinstance(row, Variant):
        return BASELINE
    if row.name == REFERENCE:
        return IS_REFERENCE
    if not row.built.check.equal:
        return NOT_EQUAL
    if row.judged.may_have_seen:
        return UNPROVEN
    if tested := noninferiority(row):
        return str(tested.verdict)
    drop = row.judged.macro_f1_drop
    if drop is None:
        return EQUAL
    return by_interval(drop, allowed)


def noninferiority(row: Row) -> Noninferiority | None:
    """The test on the gate texts, where the report has one."""
    return row.gate.noninferiority if row.gate else None


def is_tested(document: Report) -> bool:
    """Whether any variant of the report was tested for non-inferiority."""
    return any(noninferiority(variant) for variant in document.variants)


def reference(document: Report, name: str = REFERENCE) -> Variant | None:
    """fp32, or the reference of that name, unless it is missing or failed."""
    return next((variant for variant in document.measured if variant.name == name), None)


def row_of(document: Report, name: str) -> Row | None:
    """The variant or baseline of that name, unless it is missing or failed."""
    return next((row for row in document.rows if row.name == name and not row.error), None)


def today(document: Report) -> str:
    """What ratios in process are relative to: what a user runs today if that was measured, otherwise fp32."""
    return PIPELINE if any(row.today == PIPELINE for row in document.rows) else REFERENCE


def served_today(document: Report, row: Row | None = None) -> str:
    """The same as served: a row on a GPU is compared with the reference there."""
    on_gpu = row is not None and row.device == "cuda"
    pipeline = None if on_gpu else row_of(document, FASTAPI)
    if pipeline and pipeline.busiest:
        return FASTAPI
    return row.yardstick if row else REFERENCE


def batch_rate(row: Row) -> float | None:
    """Real texts per second in batches, in process; on a GPU in large ones."""
    return row.batch.texts_per_second if row.batch else None


def served_rate(row: Row) -> float | None:
    """Requests per second at the highest concurrency, closed loop."""
    level = row.busiest
    return (level and level.requests_per_second) or None


def worst(row: Row) -> float | None:
    """The worst possible loss: the upper end of the macro-F1 drop or, without one, the share of labels that
    differ from fp32's."""
    if row.name == REFERENCE:
        return 0.0
    gate = row.gate
    if gate is None:
        return None
    drop = gate.macro_f1_drop
    return 1 - gate.label_agreement if drop is None else drop.high


def front(document: Report) -> list[str]:
    """Variants that may be shipped and that no other such one beats in speed and `worst`; slowest first."""
    allowed = margin(document)
    points = [
        (rate, lost, variant.name)
        for variant in document.variants
        if verdict(variant, allowed) in SHIPPABLE
        and (rate := batch_rate(variant)) is not None
        and (lost := worst(variant)) is not None
    ]
    return [
        name
        for rate, lost, name in sorted(points)
        if not any(
            other_rate >= rate and other_lost <= lost and (other_rate, other_lost) != (rate, lost)
            for other_rate, other_lost, _ in points
        )
    ]


def shown(document: Report, most: int = MOST_SHOWN) -> list[str]:
    """fp32 and the front's fastest: those that pictures tell apart; the one there is, where it is alone."""
    if len(document.variants) == 1:
        return [variant.name for variant in document.variants if not variant.error]
    fastest = [name for name in front(document) if name != REFERENCE][-(most - 1) :]
    return ([REFERENCE] if reference(document) else []) + fastest


def in_brief(document: Report) -> list[Row]:
    """The few rows that say what there is to gain, slowest first: what users run today, the fastest other
    baseline of the same checkpoint, fp32, the fastest variants that may be shipped (where there are none,
    the fastest that are undecided), and the fastest that may not."""
    allowed = margin(document)
    timed = sorted(
        (rate, row.name)
        for row in document.rows
        if not row.error and (rate := batch_rate(row)) and not runs_no_transformer(row.name)
    )
    verdicts = {row.name: verdict(row, allowed) for row in document.rows}
    baselines = [name for _, name in timed if verdicts[name] == BASELINE]
    passing = [name for _, name in timed if verdicts[name] in (PASS, EQUAL)]
    undecided = [name for _, name in timed if verdicts[name] in (INCONCLUSIVE, UNPROVEN)]
    refused = [name for _, name in timed if verdicts[name] not in (BASELINE, *SHIPPABLE)]
    kept = {REFERENCE, today(document), *baselines[-1:], *refused[-1:]}
    kept.update((passing or undecided)[-(MOST_IN_BRIEF - len(kept)) :])
    rows = {row.name: row for row in document.rows}
    return [rows[name] for _, name in timed if name in kept]


def fastest_passing(document: Report) -> Variant | None:
    """The fastest variant besides fp32 that is proven equal, is faster than fp32 (on a GPU, than cuda-fp32),
    and had no failure behind the server. Fastest as served if several were served; otherwise on batches of
    real texts in process, by the ratio that is paired with fp32's rounds or, if a GPU took part and there is
    no single such ratio, by the rate."""
    allowed = margin(document)
    passing = [
        variant
        for variant in document.variants
        if verdict(variant, allowed) in (PASS, EQUAL)
        and not variant.served_error
        and all(parity.within_bound for parity in variant.parity_served.values())
        and (entry := variant.batch)
        and entry.speedup.verdict == "faster"
    ]
    served = [variant for variant in passing if served_rate(variant)]
    if served:
        return max(served, key=lambda variant: served_rate(variant) or 0.0)
    if any(variant.device == "cuda" for variant in passing):
        return max(passing, key=lambda variant: batch_rate(variant) or 0.0)
    timed = [(entry.speedup.ratio, variant) for variant in passing if (entry := variant.batch)]
    return max(timed, key=lambda pair: pair[0])[1] if timed else None
