"""A capacity plan, and the check of one, as people read them: tables for a terminal, and one picture."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from benchmarks.report.drawing import BLUE, MUTED, PAPER, canvas, svg

Document = Mapping[str, Any]
QUIET_CORES = 0.1  # taken by others; with more, calibration and load need not have met the same machine


def plan_table(document: Document) -> str:
    """The plan's figures, what was measured beside the model, and what is assumed."""
    demand, replica, machine = document["demand"], document["replica"], document["machine"]
    rows = [
        ("demand", f"{demand['rps']:,g} texts/s, p99 at most {demand['p99_ms']:g} ms"),
        ("variant", document["variant"]),
        ("one replica", f"{replica['cores']} cores of {machine['cpu']}, {replica['memory_mb']:,.0f} MB"),
        ("it bears", f"{replica['rps']:.0f} texts/s with a p99 of {replica['p99_ms']:.1f} ms"),
        ("it is full at", f"{replica['saturation_rps']:.0f} texts/s"),
        ("replicas", f"{document['replicas']:,}, {document['rps_of_each']:.0f} texts/s each"),
        ("in all", f"{document['cores']:,} cores, {document['memory_gb']:,.1f} GB"),
    ]
    if cost := document["cost"]:
        rows.append(
            ("cost", f"{cost['per_million_texts']:.3g} a million texts, {cost['per_hour']:.4g} an hour")
        )
    parts = [tabulate(rows, tablefmt="plain"), _loads(document)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in document["assumptions"])])


def _loads(document: Document) -> str:
    """The loads of the report beside the same in the model."""
    rows = []
    for one in document["fitted"]:
        seen, model = one["measured"], one["modelled"]
        load = f"{one['clients']} clients that wait"
        rows.append((load, f"{seen['rps']:.0f}", f"{model['rps']:.0f}", _ms(seen), _ms(model), "fitted"))
    for one in document["compared"]:
        seen, model = one["measured"], one["modelled"]
        span = f"{_ms(model)} ({model['p99_low_ms']:.1f} to {model['p99_high_ms']:.1f})"
        rows.append((f"{one['rps']:g} texts/s at random", "", "", _ms(seen), span, "foretold"))
    heads = ["load", "texts/s", "model", "p99 ms", "model (90 % of such loads)", ""]
    return _table(rows, heads)


def check_table(document: Document) -> str:
    """What was forecast beside what was measured."""
    full = document["saturation"]
    rows = [
        (
            "saturation, texts/s",
            *(f"{full[key]:.1f}" for key in ("forecast_rps", "measured_rps")),
            "",
            full["ratio"],
        )
    ]
    for one in document["rates"]:
        forecast, seen = one["forecast"], one["measured"]
        at = f"at {one['rps']:g} texts/s ({one['share']:.0%})"
        span = f"{forecast['p99_low_ms']:.1f} to {forecast['p99_high_ms']:.1f}"
        rows.append(
            (f"p50 ms {at}", f"{forecast['p50_ms']:.1f}", f"{seen['p50_ms']:.1f}", "", one["p50_ratio"])
        )
        rows.append(
            (f"p99 ms {at}", f"{forecast['p99_ms']:.1f}", f"{seen['p99_ms']:.1f}", span, one["p99_ratio"])
        )
    heads = ["", "forecast", "measured", "90 % of such loads", "ratio"]
    return _table([(*row[:-1], f"{row[-1]:.2f}") for row in rows], heads)


def check_note(document: Document) -> str:
    """How the forecast did, and what else ran meanwhile."""
    taken = document["others_cores"]
    verdict = "within" if document["within"] else "NOT within"
    return (
        f"Saturation and p99 are {verdict} {document['tolerance']:.0%} of what was measured. Client and "
        f"server shared {document['machine']['cores']} cores, in the calibration as in the loads; other "
        f"processes took {taken:.2f} of them{': too much for a verdict' if taken > QUIET_CORES else ''}."
    )


def picture(document: Document) -> str:
    """p99 by the rate of one replica, with the objective and the rate that was chosen, as SVG."""
    objective, chosen = document["demand"]["p99_ms"], document["replica"]
    shown = [one for one in document["curve"] if one["p99_ms"] <= 4 * objective]
    with canvas(3.6) as (figure, (axes,)):
        curve = [[one[key] for one in shown] for key in ("rps", "p99_ms")]
        axes.plot(*curve, color=BLUE.stand_in, label="model")
        axes.axhline(objective, color=MUTED.stand_in, linewidth=1, linestyle=(0, (4, 3)))
        axes.axvline(chosen["rps"], color=MUTED.stand_in, linewidth=1, linestyle=(0, (1, 2)))
        axes.plot(
            chosen["rps"],
            chosen["p99_ms"],
            "o",
            color=BLUE.stand_in,
            markersize=8,
            markeredgecolor=PAPER.stand_in,
            zorder=3,
        )
        measured = [(one["rps"], one["measured"]["p99_ms"]) for one in document["compared"]]
        if within := [point for point in measured if point[1] <= 4 * objective]:
            axes.plot(*zip(*within, strict=True), "D", color=MUTED.stand_in, markersize=6, label="measured")
        axes.legend(loc="upper left")
        axes.annotate(
            f"objective {objective:g} ms",
            (0, objective),
            (2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="bottom",
            color=MUTED.stand_in,
        )
        axes.annotate(
            f"{chosen['rps']:.0f} texts/s",
            (chosen["rps"], 0),
            (-4, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=MUTED.stand_in,
        )
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.set_xlabel("texts/s to one replica, arriving at random")
        axes.set_ylabel("p99, ms")
        sentence = (
            f"A replica of {document['variant']} bears {chosen['rps']:.0f} texts/s with a p99 of "
            f"{chosen['p99_ms']:.1f} ms; diamonds were measured."
        )
        return svg(figure, "plan", "p99 by the rate of one replica", sentence)


def _ms(found: Mapping[str, float | None]) -> str:
    return "too few" if found["p99_ms"] is None else f"{found['p99_ms']:.1f}"


def _table(rows: list[Any], heads: list[str]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
