"""A capacity plan, and the check of one, for people: tables for a terminal, and one chart."""

from typing import Any

from tabulate import tabulate

from benchmarks.capacity.plan import Plan
from benchmarks.capacity.replica import Seen, Tail, Window
from common.drawing import BLUE, DASHED, DOTTED, MUTED, PAPER, canvas, svg


def plan_table(document: Plan) -> str:
    """The plan's figures, what was measured and modelled, and what is assumed."""
    demand = document.demand
    replica = document.replica
    machine = document.machine
    rows = [
        ("demand", f"{demand.rps:,g} texts/s, p99 at most {demand.p99_ms:g} ms"),
        ("variant", document.variant),
        ("one replica", f"{replica.cores} cores of {machine.cpu}, {replica.memory_mb:,.0f} MB"),
        ("its capacity", f"{replica.rps:.0f} texts/s with a p99 of {replica.p99_ms:.1f} ms"),
        ("its saturation", f"{replica.saturation_rps:.0f} texts/s"),
        ("replicas", f"{document.replicas:,}, {document.rps_of_each:.0f} texts/s each"),
        ("in total", f"{document.cores:,} cores, {document.memory_gb:,.1f} GB"),
    ]
    if cost := document.cost:
        rows.append(("cost", f"{cost.per_million_texts:.3g} per million texts, {cost.per_hour:.4g} per hour"))
    parts = [tabulate(rows, tablefmt="plain"), _loads(document)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in document.assumptions)])


def _loads(document: Plan) -> str:
    """The loads of the report, measured and modelled."""
    rows = []
    for level in document.fitted:
        seen, model = level.measured, level.modelled
        load = f"closed loop, {level.clients} clients"
        rows.append((load, f"{seen.rps:.0f}", f"{model.rps:.0f}", _ms(seen), _ms(model), "fitted"))
    for other in document.compared:
        tail = other.modelled
        span = f"{_ms(tail)} ({tail.p99_low_ms:.1f} to {tail.p99_high_ms:.1f})"
        rows.append((f"open loop, {other.rps:g} texts/s", "", "", _ms(other.measured), span, "predicted"))
    heads = ["load", "texts/s", "model", "p99 ms", "model (90 % of such loads)", ""]
    return _table(rows, heads)


def picture(document: Plan) -> str:
    """p99 by the rate of one replica, with the objective and the rate that was chosen, as SVG."""
    objective = document.demand.p99_ms
    chosen = document.replica
    shown = [point for point in document.curve if point.p99_ms <= 4 * objective]
    with canvas(3.6) as (figure, (axes,)):
        curve = [point.rps for point in shown], [point.p99_ms for point in shown]
        axes.plot(*curve, color=BLUE, label="model")
        axes.axhline(objective, color=MUTED, linewidth=1, linestyle=DASHED)
        axes.axvline(chosen.rps, color=MUTED, linewidth=1, linestyle=DOTTED)
        axes.plot(
            chosen.rps,
            chosen.p99_ms,
            "o",
            color=BLUE,
            markersize=8,
            markeredgecolor=PAPER,
            zorder=3,
        )
        measured = [(level.rps, level.measured.p99_ms) for level in document.compared]
        if within := [point for point in measured if point[1] <= 4 * objective]:
            axes.plot(*zip(*within, strict=True), "D", color=MUTED, markersize=6, label="measured")
        axes.legend(loc="upper left")
        axes.annotate(
            f"objective {objective:g} ms",
            (0, objective),
            (2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="bottom",
            color=MUTED,
        )
        axes.annotate(
            f"{chosen.rps:.0f} texts/s",
            (chosen.rps, 0),
            (-4, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=MUTED,
        )
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.set_xlabel("texts/s to one replica, arriving at random")
        axes.set_ylabel("p99, ms")
        sentence = (
            f"A replica of {document.variant} bears {chosen.rps:.0f} texts/s with a p99 of "
            f"{chosen.p99_ms:.1f} ms; diamonds were measured."
        )
        return svg(figure, "plan", "p99 by the rate of one replica", sentence)


def _ms(found: Tail | Seen | Window) -> str:
    return "too few" if found.p99_ms is None else f"{found.p99_ms:.1f}"


def _table(rows: list[Any], heads: list[str]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
