"""Which variant to ship: the fastest that is proven to be the same classifier and meets the objective.

"Proven" is the verdict on the gate at the given margin: variants that are shown to be worse and variants that
are not shown to be as good both lose, and the reasons tell them apart. An objective of latency or rate is
tested with open loops, since users do not wait for each other, from the lowest rate to the first that fails.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import inf

import numpy as np
from scipy.stats import norm

from benchmarks import records
from benchmarks.in_process.ratios import between, student
from benchmarks.lateness import LATE, LEAST, is_tested, share_late
from benchmarks.names import PLAIN_INT8, REFERENCE
from benchmarks.records import (
    ACCURACY,
    Interval,
    Latency,
    Noninferiority,
    OpenLevel,
    Parity,
    Report,
    Serving,
    Variant,
    Verdict,
)
from benchmarks.sameness.gate import verdicts_at
from common.programs import command
from common.records import Record
from handler.errors import UserError
from training.measures.certificate import Certificate
from training.measures.noninferiority import (
    ALPHA,
    FAIL,
    MARGIN,
    MAY_HAVE_SEEN,
    PASS,
    REHEARSAL,
    SHOW_UNSEEN,
    UNPROVEN,
    Drop,
)
from training.measures.operating_point import p_of_shift
from training.measures.outcomes import operating_point

SCHEMA = 1
MAX_ERROR_SHARE = 0.001  # of requests of clients that wait, at a level of load that is to count
LEAST_TURNS = 3  # of servers that took turns
NEARLY = 0.05  # where a report has no interval of a rate, so far to both sides


@dataclass(frozen=True)
class Objective:
    """What must hold; None is no demand. Latency in ms and requests per second are as served. On the gate
    texts: by how much macro-F1, any label's recall and AUROC may drop, the share of texts that a label is
    given may move up or down, and the share of labels that may differ from fp32's."""

    p99_ms: float | None = None
    rps: float | None = None
    max_f1_drop: float = MARGIN
    max_recall_drop: float | None = None
    max_rate_shift: float | None = None
    max_flip: float | None = None
    max_mb: float | None = None
    max_auroc_drop: float | None = None

    @property
    def asks_by_label(self) -> bool:
        return self.max_recall_drop is not None or self.max_rate_shift is not None

    @property
    def is_served(self) -> bool:
        return self.p99_ms is not None or self.rps is not None


def choose_served(candidates: Sequence[Variant], best: int | None) -> Serving:
    """The reference and the `best` others (None: all) among variants measured in process that have archives.

    A variant that the check at export found not equal can never be selected and is not served. Of the others,
    those that pass at the run's margin come first, then the fastest on batches of real texts, by the ratio
    that is paired with fp32's rounds: other load disturbs it less than a rate. If a GPU took part, by the
    rate: ratios are never between devices.
    """
    if best is None:
        return Serving(names=[variant.name for variant in candidates], rule="every archive")
    equal = [variant for variant in candidates if variant.name != REFERENCE and variant.built.check.equal]
    order = {PASS: 0, FAIL: 2}
    on_cuda = any(variant.device == "cuda" for variant in equal)

    def speed(variant: Variant) -> float:
        entry = _batch(variant)
        return float(entry.texts_per_second if on_cuda else entry.speedup.ratio)

    ranked = sorted(equal, key=lambda variant: (order.get(_verdict_of(variant), 1), -speed(variant)))
    names = [variant.name for variant in candidates if variant.name == REFERENCE]
    names += [variant.name for variant in ranked[:best]]
    if not names:
        return Serving(names=[], rule="nothing")
    rule = (
        f"{REFERENCE} and the {best} fastest on real texts in process, among those that the check at export "
        "found equal; those with the verdict pass come first"
    )
    return Serving(names=names, rule=rule)


def _verdict_of(variant: Variant) -> str:
    """The verdict of the run; without labels to judge by, the check at export has passed it."""
    if variant.judged.may_have_seen:
        return UNPROVEN
    found = variant.judged.noninferiority
    return str(found.verdict) if found else PASS


def _batch(variant: Variant) -> Latency:
    """The latency entry of the largest batches of real texts."""
    entry = variant.batch
    assert entry is not None
    return entry


@dataclass(frozen=True)
class Speed:
    """How fast a variant is for the objective: a rate per second, the same in words, and the least and the
    most that it may be at 97.5 % each."""

    value: float
    words: str
    low: float
    high: float


class Selection(Record):
    """`selected` is None when no variant qualifies; `runners_up` qualify but are slower, or not shown to
    differ in speed, the fastest first; a reason is a sentence. The `certificate` is that of the selected
    variant, for its archive."""

    schema: int
    selected: str | None
    artifact_sha256: str | None
    objective: Objective
    run: str
    runners_up: list[str]
    reasons: dict[str, str]
    certificate: Certificate | None = None


def select(document: Report, objective: Objective) -> Selection:
    """The fastest variant of the report that qualifies; of those that are not shown to differ from it in
    speed, the one that takes the least CPU time per text.

    Raises `UserError` when the objective is about serving and nothing was measured as served, or the report
    is from an earlier version that did not record how many requests were late.
    """
    variants = document.variants
    served = any(variant.served for variant in variants)
    if objective.is_served and not served:
        raise UserError(
            "the objective is about serving, but nothing was measured as served",
            seen=f"run {document.run.id}",
            remedy=f"Package first, then measure: {command('export package', 'package benchmark')}",
        )
    verdicts = verdicts_at(variants, objective.max_f1_drop, len(document.data.labels))
    lacking = {
        variant.name: _lacks(variant, objective, verdicts.get(variant.name), document.data.labels, served)
        for variant in variants
    }
    qualified = {variant.name: variant for variant in variants if not lacking[variant.name]}
    speeds = {name: _speed(variant, objective, served) for name, variant in qualified.items()}
    ranked = sorted(speeds, key=lambda name: -speeds[name].value)
    fastest = _fastest(ranked, qualified, objective)
    equals = [name for name in ranked if fastest and _alike(name, fastest, speeds, qualified, objective)]
    selected = min(equals, key=lambda name: _cpu_s(qualified[name]), default=None)
    rehearsal = f" ({REHEARSAL})" if document.data.is_synthetic else ""
    reasons = {name: f"not chosen: {'; '.join(lost)}" for name, lost in lacking.items() if lost}
    if selected:
        others = [name for name in qualified if name != selected]
        reasons |= {
            name: _why_not(qualified[name], qualified[selected], speeds, equals, objective) for name in others
        }
        alike = [name for name in equals if name != selected]
        gain = over_int8(qualified[selected], document)
        verdict = verdicts.get(selected)
        reasons[selected] = _why_chosen(qualified[selected], speeds, alike, objective, verdict, gain)
    return Selection(
        schema=SCHEMA,
        selected=selected,
        artifact_sha256=qualified[selected].artifact_sha256 if selected else None,
        objective=objective,
        run=document.run.id,
        runners_up=[name for name in ranked if name != selected],
        reasons={variant.name: reasons[variant.name] + rehearsal for variant in variants},
    )


def _alike(
    name: str,
    fastest: str,
    speeds: Mapping[str, Speed],
    variants: Mapping[str, Variant],
    objective: Objective,
) -> bool:
    """Whether the variant is not shown to be slower than the fastest: by servers that took turns, where there
    were any and no latency is asked for; otherwise by its speed for the objective and in process. There all
    rows take turns; as served each has its own few minutes, and two visits alone could hardly tell fp32 from
    a variant of three times its speed."""
    if name == fastest:
        return True
    if not objective.is_served and (gained := _in_turns(variants[name], variants[fastest])):
        return gained[1] >= 1
    ours, theirs = (_batch(variants[variant]).speedup for variant in (name, fastest))
    return speeds[name].high >= speeds[fastest].low and ours.high >= theirs.low


def _in_turns(one: Variant, other: Variant) -> tuple[float, float] | None:
    """Where the ratio of their served rates lies at 95 %, by Student's t of the turns; None where they took
    none together."""
    ours, theirs = one.served_turns, other.served_turns
    if len(ours) < LEAST_TURNS or len(ours) != len(theirs):
        return None
    return student(np.log(ours) - np.log(theirs))


def _fastest(ranked: Sequence[str], variants: Mapping[str, Variant], objective: Objective) -> str | None:
    """The fastest of those that qualify: by turns if all but the reference took them and no latency is asked
    for."""
    took = [name for name in ranked if variants[name].served_turns]
    if objective.is_served or set(ranked) - set(took) - {REFERENCE} or not took:
        return ranked[0] if ranked else None
    return max(took, key=lambda name: float(np.mean(np.log(variants[name].served_turns))))


def _lacks(
    variant: Variant, objective: Objective, verdict: Verdict | None, labels: Sequence[str], served: bool
) -> list[str]:
    """Everything that rules the variant out, in words; empty when it qualifies."""
    if variant.error:
        return [f"it failed during {variant.error.stage}: {variant.error.message}"]
    reasons = _unlike(variant, objective, verdict, labels)
    megabytes = variant.resources.artifact_mb
    if objective.max_mb is not None and megabytes and megabytes > objective.max_mb:
        reasons.append(f"it takes {megabytes:.0f} MB, but at most {objective.max_mb:g} MB are allowed")
    if served:
        reasons += _unfit_to_serve(variant, objective)
    return reasons


def _unlike(
    variant: Variant, objective: Objective, verdict: Verdict | None, labels: Sequence[str]
) -> list[str]:
    """Why it is not proven to be the same classifier; the reference is itself."""
    if variant.name == REFERENCE:
        return []
    reasons = []
    if not variant.built.check.equal:
        reasons.append(f"the check at export found it {variant.built.check.note or 'not equal'}")
    if verdict and verdict.verdict == UNPROVEN:
        reasons.append(f"{UNPROVEN}: {MAY_HAVE_SEEN}; {SHOW_UNSEEN}")
    elif verdict and verdict.verdict != PASS:
        reasons.append(_not_proven(variant.judged, verdict, objective.max_f1_drop))
    if objective.asks_by_label:
        reasons += _moved(variant.judged, objective, verdict, labels)
    if objective.max_auroc_drop is not None:
        reasons += _ranks_worse(variant.judged, objective.max_auroc_drop, verdict)
    if objective.max_flip is not None:
        reasons += _too_many_flips(variant.judged, objective.max_flip)
    return reasons


def _moved(parity: Parity, objective: Objective, verdict: Verdict | None, labels: Sequence[str]) -> list[str]:
    """Which label's recall, or share of texts, is not shown to have stayed within the allowed limit.

    All demands must hold, so each is tested at the same level: the variant's own part of what the gate may
    spend, since the level that was passed on to it was earned by macro-F1 alone.
    """
    point = operating_point(parity, len(labels))
    if point is None or not isinstance(verdict, Noninferiority):
        return ["recall and rates cannot be judged: the report has no counts of labelled gate texts"]
    asked = []
    if (most := objective.max_recall_drop) is not None:
        asked += [
            (f"the recall of {label}", drop, drop.p(most), f"a drop of at most {most:g}")
            for label, drop in zip(labels, point.recall, strict=True)
        ]
    if (most := objective.max_rate_shift) is not None:
        asked += [
            (
                f"the share of texts called {label}",
                drop,
                p_of_shift(drop, most),
                f"a shift of at most {most:g} either way",
            )
            for label, drop in zip(labels, point.rate, strict=True)
        ]
    return [
        f"{what} lies {_span(drop)} fp32's (95 % interval), and {allowed} is allowed "
        f"({chance(p)}, {verdict.share:.2g} needed)"
        for what, drop, p, allowed in asked
        if p > verdict.share
    ]


def _ranks_worse(parity: Parity, most: float, verdict: Verdict | None) -> list[str]:
    """Why it is not shown to order the gate's texts as well, tested at the same level as recall. The report
    has the ends of the drop's interval and no draws of it, so its upper half is taken for a normal one."""
    drop = parity.auroc_drop
    if drop is None or not isinstance(verdict, Noninferiority):
        again = command("benchmarks run", "benchmark")
        return [
            "AUROC cannot be judged: the report does not say by how much it drops. Gate texts without labels "
            f"tell nothing of it, and neither did an earlier version (measure again: {again})"
        ]
    error = (drop.high - drop.drop) / norm.isf(ALPHA)
    p = float(norm.sf((most - drop.drop) / error)) if error else float(drop.drop >= most)
    if p <= verdict.share:
        return []
    return [
        f"its AUROC lies {_span(drop)} fp32's (95 % interval), and a drop of at most {most:g} is allowed "
        f"({chance(p)}, {verdict.share:.2g} needed)"
    ]


def _not_proven(parity: Parity, verdict: Verdict, margin: float) -> str:
    """Why the verdict is not pass."""
    drop = parity.macro_f1_drop
    if drop is None:
        assert isinstance(verdict, Noninferiority)
        found = f"{differing(parity)}, and a share of at most {margin:g} is allowed"
        return f"it is not proven to be as good: {found}, but {level_words(verdict)}; {settled_by(verdict)}"
    found = f"its macro-F1 lies {_span(drop)} fp32's (95 % interval, {parity.n:,} gate texts)"
    allowed = f"and a drop of at most {margin:g} is allowed"
    if verdict.verdict == FAIL:
        return f"it is worse: {found}, {allowed}"
    more = settled_by(verdict)
    if drop.high <= margin and isinstance(verdict, Noninferiority):
        return f"it is not proven to be as good: {found}, {allowed}, but {level_words(verdict)}; {more}"
    if drop.low > 0:
        return f"it is worse, and not proven to be within the margin: {found}, {allowed}; {more}"
    return f"it is not proven to be as good, nor shown to be worse: {found}, {allowed}; {more}"


def differing(parity: Parity) -> str:
    """For texts without labels: on how many the variant's label differs from fp32's."""
    label = "the label" if parity.unlabelled_flips == parity.flip_rates["any"].n else "one label"
    return f"{label} differs from fp32's on {parity.unlabelled_flips} of {parity.n:,} gate texts"


def level_words(tested: Noninferiority, worse: bool = False) -> str:
    """The p-value (for a drop within the margin if `worse`), the level that it had to reach, and where that
    level comes from."""
    p, level = (tested.p_worse, tested.level_worse) if worse else (tested.p, tested.level)
    look = "first look on this machine" if tested.run == 1 else f"run {tested.run} on this gate"
    words = f"{chance(p)}, {level:.2g} needed, {look}"
    if tested.margin == tested.first_margin:
        return words
    return f"{words}, margin changed from {tested.first_margin:g} after the first look"


def chance(p: float) -> str:
    """A p-value in a sentence, with no-break spaces."""
    words = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def settled_by(verdict: Verdict) -> str:
    """How many texts would be enough, in words, to two digits: more would be false precision."""
    by_flips = isinstance(verdict, Noninferiority) and verdict.measure == ACCURACY
    labelled = "" if by_flips else "labelled "
    seen = f"if the {'share of flips' if by_flips else 'drop'} stays as measured"
    if texts := verdict.texts_to_settle:
        about = f"{int(float(f'{texts:.2g}')):,}"
        return f"a new gate of about {about} {labelled}texts would settle it, {seen}"
    return f"no number of texts would settle it, {seen}"


def _too_many_flips(parity: Parity, most: float) -> list[str]:
    rate = parity.flip_rates.get("any")
    if rate is None:
        raise UserError(
            "the report does not say how many labels flip",
            seen="a report from an earlier version",
            remedy=f"Measure again: {command('benchmarks run', 'benchmark')}",
        )
    if rate.high <= most:
        return []
    seen = f"{rate.n} of {parity.n:,} gate texts do"
    return [f"up to {rate.high:.1%} of labels may differ from fp32's ({seen}); {most:.1%} are allowed"]


def _span(drop: Interval | Drop) -> str:
    """The interval in words, such as `from 0.004 above to 0.013 below`."""
    low, high = (f"{abs(end):.3f} {'below' if end >= 0 else 'above'}" for end in (drop.low, drop.high))
    return f"from {low} to {high}"


def _unfit_to_serve(variant: Variant, objective: Objective) -> list[str]:
    if variant.served_error:
        return [f"it could not be served: {variant.served_error}"]
    if not variant.served:
        if variant.resources.archive_mb is None:
            return ["it was not measured as served (no archive)"]
        name_it = command(f"benchmarks run {variant.name}", f"benchmark VARIANTS={variant.name}")
        return [
            "it was not measured as served, because it was not among the fastest (those that pass come "
            f"first); to have it served, name it: {name_it}"
        ]
    reasons = []
    strayed = [split for split, parity in variant.parity_served.items() if not parity.within_bound]
    if strayed:
        reasons.append(f"its answers through the server differ from those in process ({', '.join(strayed)})")
    if not _kept(variant, objective):
        reasons.append(_missed(variant, objective))
    return reasons


@dataclass(frozen=True)
class Level:
    """A level of load: the rate that is offered or reached, its range, what happened in words, whether it is
    shown to meet the objective's latency with all requests answered and none piling up, whether it is shown
    not to, and whether there are enough requests to show anything."""

    rps: float
    range: tuple[float, float]
    words: str
    holds: bool
    fails: bool
    is_tested: bool = True


def _levels(variant: Variant, objective: Objective) -> list[Level]:
    """The levels that the objective is about, from the lowest up: open loops for a latency or a rate,
    otherwise closed loops."""
    if objective.is_served:
        opened = sorted(variant.open, key=lambda level: level.offered_rps)
        return [_open_level(level, objective.p99_ms) for level in opened]
    closed = sorted(variant.served, key=lambda level: level.concurrency)
    return [_closed_level(level) for level in closed]


def _open_level(level: OpenLevel, p99_ms: float | None) -> Level:
    late = share_late(level, p99_ms)
    if late is None:
        raise UserError(
            "the report does not say how many requests were late",
            seen="a report from an earlier version",
            remedy=f"Measure again: {command('benchmarks run', 'benchmark')}",
        )
    rps = level.offered_rps
    said = late.words if p99_ms is not None else late.words.replace("late", "not answered")
    words = f"{rps:.0f} requests a second arriving at random, {said}"
    if level.saturated:
        words += ", more than it can keep up with"
    elif late.share <= LATE and late.worth < LEAST:
        words += f", worth only {int(late.worth)} independent requests, and at least {LEAST} are needed"
    is_sound = not level.saturated
    return Level(
        rps, (rps, rps), words, late.holds and is_sound, late.fails or not is_sound, is_tested(level)
    )


def _closed_level(level: records.Level) -> Level:
    rate, failed = level.requests_per_second, sum(level.errors.values())
    to = f"{level.concurrency} client{'s' if level.concurrency != 1 else ''} that wait for their answers"
    words = f"{rate:.0f} requests a second to {to} with a p99 of {_ms(level.p99_ms)}"
    if failed:
        words = f"{words}, {failed} requests failed"
    ends = level.requests_per_second_95 or ((1 - NEARLY) * rate, (1 + NEARLY) * rate)
    holds = rate > 0 and failed <= MAX_ERROR_SHARE * level.requests
    return Level(rate, ends, words, holds, not holds)


def _kept(variant: Variant, objective: Objective) -> list[Level]:
    """Levels that hold and reach the requested rate. Open loops above one that does not hold do not count:
    tested in this order, each at 97.5 %, a rate that is too high is credited in 2.5 % of runs. Levels below
    the requested rate are not tested, so they only must not fail. Levels with too few requests to show
    anything are skipped."""
    least = objective.rps or 0

    def counts(level: Level) -> bool:
        return level.holds or (level.rps < least and not level.fails)

    tested = [level for level in _levels(variant, objective) if level.is_tested]
    walked = takewhile(counts, tested) if objective.is_served else tested
    return [level for level in walked if level.holds and level.rps >= least]


def kept_rates(variant: Variant, objective: Objective) -> list[float]:
    """Requests a second, from the lowest up, at which the objective is shown to be kept."""
    return [level.rps for level in _kept(variant, objective)]


def _missed(variant: Variant, objective: Objective) -> str:
    """Which part of the objective no level of load meets, and what was measured instead."""
    demands = []
    if objective.rps is not None:
        demands.append(f"{objective.rps:g} requests a second")
    if objective.p99_ms is not None:
        demands.append(f"a p99 of at most {objective.p99_ms:g} ms")
    wanted = " with ".join(demands) or "answers without errors"
    levels = _levels(variant, objective)
    seen = "; ".join(level.words for level in levels) or "nothing"
    kept = [level.rps for level in _kept(variant, replace(objective, rps=None))]
    tried = [level.rps for level in levels if objective.rps and level.rps >= objective.rps]
    if kept and tried and objective.rps and min(tried) > 1.02 * objective.rps:
        rate = f"{objective.rps:g}"
        try_it = command(f"benchmarks run --rps {rate}", f"benchmark RPS={rate}")
        return (
            f"it was not tried at {rate} requests a second: {try_it}; "
            f"at the rates that were tried, it is not shown to reach {wanted}: {seen}"
        )
    return f"it is not shown to reach {wanted} as served; measured: {seen}"


def _speed(variant: Variant, objective: Objective, served: bool) -> Speed:
    """With an objective, the highest rate that is shown to meet it; the true one may be higher, up to the
    first rate that is shown not to. Without one, the rate at the highest concurrency. If nothing was served,
    texts per second in process."""
    if not served:
        entry = _batch(variant)
        rate, ratio = entry.texts_per_second, entry.speedup
        low, high = (rate * end / ratio.ratio for end in (ratio.low, ratio.high))
        return Speed(rate, f"{rate:.0f} texts a second in process", low, high)
    best = _kept(variant, objective)[-1]
    if not objective.is_served:
        return Speed(best.rps, f"{best.words}, as served", *best.range)
    levels = _levels(variant, objective)
    failing = next((level for level in levels if level.rps > best.rps and level.fails), None)
    beyond = next((level for level in levels if level.rps > best.rps), None)
    words = f"{best.words}; {beyond.words}" if beyond else best.words
    most = failing.rps if failing else inf
    return Speed(best.rps, f"{best.rps:.0f} requests a second, as served ({words})", best.rps, most)


def _cpu_s(variant: Variant) -> float:
    """CPU seconds per 1,000 texts; infinite where unknown, so that it is not preferred."""
    return variant.resources.cpu_s_per_1000_texts or inf


def _ms(value: float | None) -> str:
    return "unknown (too few requests)" if value is None else f"{value:.0f} ms"


def _why_chosen(
    variant: Variant,
    speeds: Mapping[str, Speed],
    alike: Sequence[str],
    objective: Objective,
    verdict: Verdict | None,
    gain: str,
) -> str:
    """`alike` are the others that are not shown to differ from it in speed."""
    speed = speeds[variant.name]
    why = "the fastest that qualifies"
    if alike:
        why = f"not shown to differ in speed from {', '.join(alike)}, and of these it {_preferred(variant)}"
    return (
        f"chosen: {why}, {speed.words}{_times(variant, speeds, objective)}; {gain and f'{gain}; '}"
        f"{_sameness(variant, objective)}{_changed_margin(verdict)}"
    )


def _changed_margin(verdict: Verdict | None) -> str:
    """A warning if the margin was chosen after a look at the gate."""
    if not isinstance(verdict, Noninferiority) or verdict.first_margin == verdict.margin:
        return ""
    first = f"{verdict.first_margin:g}"
    return (
        f"; WARNING: the margin was {first} at the first look at this gate and has been changed since, so "
        "the proof does not hold at 97.5 %"
    )


def _preferred(variant: Variant) -> str:
    """Why it was chosen among those that are not shown to differ in speed."""
    return "takes the least CPU time per text" if _cpu_s(variant) < inf else "was the fastest as measured"


def _why_not(
    variant: Variant,
    chosen: Variant,
    speeds: Mapping[str, Speed],
    equals: Sequence[str],
    objective: Objective,
) -> str:
    """Why a variant that qualifies was not chosen."""
    found = f"{speeds[variant.name].words}, against {speeds[chosen.name].value:.0f}"
    if not objective.is_served and (gained := _in_turns(variant, chosen)):
        found += " (in turns, {:.2f} to {:.2f} times as many)".format(*gained)
    if variant.name in equals:
        return (
            f"not chosen: it qualifies but is not shown to differ in speed from {chosen.name}, which "
            f"{_preferred(chosen)}: {found}"
        )
    return f"not chosen: it qualifies but is slower than {chosen.name}: {found}"


def _times(variant: Variant, speeds: Mapping[str, Speed], objective: Objective) -> str:
    name, speed = variant.yardstick, speeds[variant.name]
    reference = speeds.get(name)
    if reference is None or reference is speed:
        return ""
    times = f", {speed.value / reference.value:.1f} times "
    return times + (f"what {name} reaches under the same objective" if objective.is_served else name)


def over_int8(variant: Variant, document: Report) -> str:
    """How many times as fast as the fastest plain int8 it is: on batches of real texts in process, and as
    served where both took turns. Words, empty for that itself and where none was measured."""
    plain = [other for other in document.measured if other.name in PLAIN_INT8]
    if variant.name in PLAIN_INT8 or variant.device != "cpu" or not plain:
        return ""
    fastest = max(plain, key=lambda other: _batch(other).speedup.ratio)
    ratio = between(_batch(fastest), _batch(variant))
    found = f"{ratio.ratio:.2f} times {fastest.name} in process (95 %: {ratio.low:.2f} to {ratio.high:.2f})"
    if not ratio.is_decided:
        found += f", {ratio.verdict}"
    served = _in_turns(variant, fastest)
    return "{}, {:.2f} to {:.2f} times as served".format(found, *served) if served else found


def _sameness(variant: Variant, objective: Objective) -> str:
    if variant.name == REFERENCE:
        return "it is the reference itself"
    parity = variant.judged
    agreement = f"{parity.label_agreement:.2%} of the labels on {parity.n:,} gate texts match fp32's"
    drop = parity.macro_f1_drop
    if drop is None:
        if parity.unlabelled_flips is None:
            return f"{agreement}; the weights are random or the texts unlabelled, so quality cannot be judged"
        ruled_out = f"an accuracy drop of {objective.max_f1_drop:g} is ruled out"
        return f"{agreement}, so {ruled_out}; without labels, macro-F1 cannot be judged"
    return (
        f"{agreement}, and its macro-F1 lies {_span(drop)} fp32's (95 % interval), "
        f"within the allowed drop of {objective.max_f1_drop:g}"
    )
