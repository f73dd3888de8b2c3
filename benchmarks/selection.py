"""Which variant to ship: the fastest that is proven to be the same classifier and keeps the objective.

Covers the decision and its reasons in plain words. "Proven" means that the whole 95 % interval of the
macro-F1 drop on the gate texts stays within the margin; an interval that reaches across the margin has
shown nothing, which is said and is a reason to lose. Leaves out measuring (`suite`) and making the choice
the served archive (`export promote`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.latency import BATCH
from benchmarks.report import case
from benchmarks.team import REFERENCE
from handler.errors import UserError

SCHEMA = 1
MAX_ERROR_SHARE = 0.001  # of requests, at a level of load that is to count
NEARLY = 0.05  # served once, two variants this close may well trade places next time


@dataclass(frozen=True)
class Objective:
    """What must hold; None is no demand. Latency in ms and requests per second are as served."""

    p99_ms: float | None = None
    rps: float | None = None
    max_f1_drop: float = 0.01
    max_mb: float | None = None

    @property
    def is_served(self) -> bool:
        return self.p99_ms is not None or self.rps is not None


@dataclass(frozen=True)
class Serving:
    """Which variants are worth a server, and by which rule they were taken."""

    names: list[str]
    rule: str


def choose_served(candidates: Sequence[Mapping[str, Any]], best: int | None) -> Serving:
    """The reference and the `best` others (None: all) among variants measured in process that have archives.

    What is not equal by its check at export can never be selected and is not served. Of the others those
    whose drop is proven to be within the default margin come first, then the quickest on batches of real
    texts, by the ratio that is paired with fp32's rounds: a neighbour disturbs it less than a rate.
    """
    if best is None:
        return Serving([one["name"] for one in candidates], "every archive")
    equal = [one for one in candidates if one["name"] != REFERENCE and one["artifact"]["check"]["equal"]]
    margin = Objective().max_f1_drop
    ranked = sorted(equal, key=lambda one: (bool(_unlike(one, margin)), -_batch(one)["speedup"]["ratio"]))
    names = [one["name"] for one in candidates if one["name"] == REFERENCE]
    names += [one["name"] for one in ranked[:best]]
    if not names:
        return Serving([], "nothing")
    rule = (
        f"{REFERENCE} and the {best} fastest on real texts in process, among those equal to it by their "
        f"check; a macro-F1 drop proven to be within {margin:g} goes first"
    )
    return Serving(names, rule)


def _batch(variant: Mapping[str, Any]) -> Mapping[str, Any]:
    """The latency entry of batches of real texts."""
    entry = case(variant, BATCH)
    assert entry is not None
    return entry


@dataclass(frozen=True)
class Speed:
    """How fast a variant is for the objective: a rate per second, and the same in words."""

    value: float
    words: str


def select(document: Mapping[str, Any], objective: Objective) -> dict[str, Any]:
    """`{schema, selected, artifact_sha256, objective, run, reasons: {variant: sentence}}` for a side-by-side
    document; `selected` is None when no variant qualifies.

    Raises `UserError` when the objective is about serving and nothing was measured as served.
    """
    variants = document["variants"]
    served = any(one["served"] for one in variants)
    if objective.is_served and not served:
        raise UserError(
            "the objective is about serving, and nothing was measured as served",
            seen=f"run {document['run']['id']}",
            remedy="Package first, then measure: make package benchmark",
        )
    lacking = {one["name"]: _lacks(one, objective, served) for one in variants}
    qualified = {one["name"]: one for one in variants if not lacking[one["name"]]}
    speeds = {name: _speed(one, objective, served) for name, one in qualified.items()}
    selected = max(speeds, key=lambda name: speeds[name].value, default=None)
    reasons = {name: f"not chosen: {'; '.join(lost)}" for name, lost in lacking.items() if lost}
    if selected:
        reasons |= {name: _why_slower(name, selected, speeds) for name in qualified if name != selected}
        reasons[selected] = _why_chosen(qualified[selected], speeds, objective)
    return {
        "schema": SCHEMA,
        "selected": selected,
        "artifact_sha256": qualified[selected]["artifact_sha256"] if selected else None,
        "objective": asdict(objective),
        "run": document["run"]["id"],
        "reasons": {one["name"]: reasons[one["name"]] for one in variants},
    }


def _lacks(variant: Mapping[str, Any], objective: Objective, served: bool) -> list[str]:
    """Everything that rules the variant out, in words; empty when it qualifies."""
    if variant["error"]:
        return [f"it failed during {variant['error']['stage']}: {variant['error']['message']}"]
    reasons = _unlike(variant, objective.max_f1_drop)
    megabytes = variant["resources"]["artifact_mb"]
    if objective.max_mb is not None and megabytes > objective.max_mb:
        reasons.append(f"it takes {megabytes:.0f} MB, and {objective.max_mb:g} MB are allowed")
    if served:
        reasons += _unfit_to_serve(variant, objective)
    return reasons


def _unlike(variant: Mapping[str, Any], margin: float) -> list[str]:
    """Why it is not proven to be the same classifier; the reference is itself."""
    if variant["name"] == REFERENCE:
        return []
    reasons = []
    if not variant["artifact"]["check"]["equal"]:
        reasons.append(f"by its check at export it is {_verdict(variant)}")
    drop = variant["parity"]["gate"]["macro_f1_drop"]
    if drop is None or drop["high"] <= margin:  # None: no labels that count, the check is all there is
        return reasons
    texts = f"{variant['parity']['gate']['n']:,} gate texts"
    found = f"its macro-F1 lies {_span(drop)} fp32's (95 % interval, {texts})"
    allowed = f"and a drop of {margin:g} is allowed"
    if drop["low"] > margin:
        reasons.append(f"it is worse: {found}, {allowed}")
    elif drop["low"] > 0:
        reasons.append(f"it is worse, and not proven to be within the margin: {found}, {allowed}")
    else:
        reasons.append(
            f"it is not proven to be as good, nor shown to be worse: {found}, {allowed}; "
            "more labelled texts would settle it"
        )
    return reasons


def _verdict(variant: Mapping[str, Any]) -> str:
    return variant["artifact"]["check"].get("note", "not equal")


def _span(drop: Mapping[str, float]) -> str:
    """The interval in words, such as `from 0.004 above to 0.013 below`."""
    ends = [f"{abs(drop[end]):.3f} {'below' if drop[end] >= 0 else 'above'}" for end in ("low", "high")]
    return f"from {ends[0]} to {ends[1]}"


def _unfit_to_serve(variant: Mapping[str, Any], objective: Objective) -> list[str]:
    if variant["served_error"]:
        return [f"it could not be served: {variant['served_error']}"]
    if not variant["served"]:
        if variant["resources"].get("archive_mb") is None:
            return ["it was not measured as served (no archive)"]
        return [
            "it was not measured as served, since the run served the fastest equal ones alone; to have it "
            f"served, name it: make benchmark VARIANTS={variant['name']}"
        ]
    reasons = []
    strayed = [split for split, parity in variant["parity_served"].items() if not parity["within_bound"]]
    if strayed:
        reasons.append(f"its answers through the server are not those in process (on {', '.join(strayed)})")
    if not _levels(variant, objective):
        reasons.append(_missed(variant, objective))
    return reasons


def _levels(variant: Mapping[str, Any], objective: Objective) -> list[Mapping[str, Any]]:
    """The levels of load at which the variant keeps the objective, without refusing requests."""
    return [
        level
        for level in variant["served"]
        if sum(level["errors"].values()) <= MAX_ERROR_SHARE * level["requests"]
        and (
            objective.p99_ms is None or (level["p99_ms"] is not None and level["p99_ms"] <= objective.p99_ms)
        )
        and (objective.rps is None or level["requests_per_second"] >= objective.rps)
    ]


def _missed(variant: Mapping[str, Any], objective: Objective) -> str:
    """Which part of the objective no level of load keeps, and what was seen instead."""
    demands = []
    if objective.rps is not None:
        demands.append(f"{objective.rps:g} requests a second")
    if objective.p99_ms is not None:
        demands.append(f"a p99 of at most {objective.p99_ms:g} ms")
    wanted = " with ".join(demands) or "answers without errors"
    return f"it does not reach {wanted} as served; seen: {'; '.join(map(_seen, variant['served']))}"


def _seen(level: Mapping[str, Any]) -> str:
    errors = sum(level["errors"].values())
    if level["requests_per_second"] == 0:
        return f"no answers to {_clients(level)}, {errors} failures"
    return (
        f"{level['requests_per_second']:.0f} requests a second with a p99 of {_ms(level['p99_ms'])} "
        f"to {_clients(level)}" + (f", {errors} requests failed" if errors else "")
    )


def _clients(level: Mapping[str, Any]) -> str:
    return "1 client" if level["concurrency"] == 1 else f"{level['concurrency']} clients"


def _speed(variant: Mapping[str, Any], objective: Objective, served: bool) -> Speed:
    """With an objective, the most requests per second that keep it; else those at the highest concurrency;
    in process, texts per second, when nothing was served."""
    if served:
        best = max(
            _levels(variant, objective),
            key=lambda level: level["requests_per_second" if objective.is_served else "concurrency"],
        )
        rate, p99 = best["requests_per_second"], _ms(best["p99_ms"])
        return Speed(rate, f"{rate:.0f} requests a second as served to {_clients(best)} (p99 {p99})")
    rate = _batch(variant)["texts_per_second"]
    return Speed(rate, f"{rate:.0f} texts a second in process")


def _ms(value: float | None) -> str:
    return "unknown, too few requests" if value is None else f"{value:.0f} ms"


def _why_chosen(variant: Mapping[str, Any], speeds: Mapping[str, Speed], objective: Objective) -> str:
    speed = speeds[variant["name"]]
    return (
        f"chosen: the fastest that qualifies, {speed.words}{_times(speed, speeds, objective)}; "
        f"{_sameness(variant, objective)}"
    )


def _why_slower(name: str, selected: str, speeds: Mapping[str, Speed]) -> str:
    speed, best = speeds[name], speeds[selected]
    near = speed.value >= (1 - NEARLY) * best.value
    return (
        f"not chosen: it qualifies but is slower than {selected}: {speed.words}, against {best.value:.0f}"
        + ("; that is so close that another run may order them differently" if near else "")
    )


def _times(speed: Speed, speeds: Mapping[str, Speed], objective: Objective) -> str:
    reference = speeds.get(REFERENCE)
    if reference is None or reference is speed:
        return ""
    times = f", {speed.value / reference.value:.1f} times "
    return times + ("what fp32 reaches under the same objective" if objective.is_served else "fp32")


def _sameness(variant: Mapping[str, Any], objective: Objective) -> str:
    if variant["name"] == REFERENCE:
        return "it is the reference itself"
    parity = variant["parity"]["gate"]
    agreement = f"{parity['label_agreement']:.2%} of the labels of {parity['n']:,} gate texts are fp32's"
    drop = parity["macro_f1_drop"]
    if drop is None:
        return f"{agreement}; weights are random or texts unlabelled, so quality cannot be judged"
    return (
        f"{agreement}, and its macro-F1 lies {_span(drop)} fp32's (95 % interval), "
        f"within the drop of {objective.max_f1_drop:g} that is allowed"
    )
