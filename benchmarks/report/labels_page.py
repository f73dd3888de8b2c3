"""How many labels a verdict takes, and what labelled flips showed, for people: tables and one picture."""

from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.sameness.flips import UNLIKE, Found
from benchmarks.sameness.labels_needed import ASSUMED, LabelPlan
from common.drawing import AMBER, BLUE, DASHED, MUTED, Label, canvas, label_ends, svg
from training.measures.noninferiority import INCONCLUSIVE


def plan_table(plan: LabelPlan) -> str:
    """What each variant needs, by either way, and what is assumed."""
    rows = [
        (
            need.variant,
            f"{need.rate:.2%} ({need.low:.2%} to {need.high:.2%})",
            _count(need.gate),
            _count(need.unlabelled),
            _count(need.labels),
        )
        for need in plan.needs
    ]
    heads = ("variant", "texts that flip", "a new gate: labels", "or: unlabelled texts", "labels of flips")
    asked = (
        f"margin {plan.margin:g}; {plan.texts:,} texts were looked at. A new gate is asked at a level of "
        f"{plan.level:.2%} for each variant; the present one, of {plan.gate:,} texts, at "
        f"{plan.level_now:.2%} in its run {plan.run}. Labels of flips are those of "
        f"all variants, {plan.checks} check texts among them."
    )
    assumed = "\n".join(f"- {line}" for line in ASSUMED)
    return f"{_table(rows, heads)}\n\n{asked}\n\nAssumed:\n{assumed}"


def picture(plan: LabelPlan) -> str:
    """The margin that can be shown, by the number of labels and the way they are spent, as SVG."""
    labels = [point.labels for point in plan.curve]
    ways = {
        "a new gate": ([point.by_gate for point in plan.curve], AMBER),
        "flips alone": ([point.by_flips for point in plan.curve], BLUE),
    }
    with canvas(3.6) as (figure, (axes,)):
        for margins, colour in ways.values():
            axes.plot(labels, margins, color=colour)
        axes.axhline(plan.margin, color=MUTED, linewidth=1, linestyle=DASHED)
        axes.annotate(
            f"margin {plan.margin:g}",
            (0, plan.margin),
            (2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="bottom",
            color=MUTED,
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(0, 4 * plan.margin)
        axes.set_xlabel(f"labels, for {plan.drawn}")
        axes.set_ylabel("margin shown in 4 of 5 cases")
        ends = [
            Label(labels[-1], min(margins[-1], 4 * plan.margin), name, colour)
            for name, (margins, colour) in ways.items()
        ]
        label_ends(axes, ends)
        need = next(need for need in plan.needs if need.variant == plan.drawn)
        sentence = (
            f"To show that {plan.drawn} loses less than {plan.margin:g}, a new gate needs "
            f"{_count(need.gate)} labels; flips alone need {_count(need.labels)}, of "
            f"{_count(need.unlabelled)} unlabelled texts."
        )
        return svg(figure, "labels", "The margin that labels can show", sentence)


def verdict_table(found: Found) -> str:
    """The verdicts from labelled flips, what they rest on, and what would settle those that are open."""
    rows = []
    for name, tested in found.verdicts.items():
        judged = tested.judged
        more = "" if judged.verdict != INCONCLUSIVE else _count(tested.unlabelled_to_settle)
        rows.append(
            (
                name,
                f"{tested.flips:,}",
                f"{tested.labelled:,}",
                f"{tested.drop:+.4f} ({tested.low:+.4f} to {tested.high:+.4f})",
                judged.verdict.upper(),
                f"{judged.p:.2g} ({judged.level:.2g})",
                more,
            )
        )
    heads = (
        "variant",
        "flips",
        "labelled",
        "drop of macro-F1 (95 % interval)",
        "verdict",
        "p (level)",
        "texts to settle it",
    )
    checked = found.checked
    likeness = found.likeness
    lines = [
        f"{found.unlabelled:,} unlabelled texts. Of {checked.texts} check texts, {checked.wrong} got another "
        "label than the known one; the intervals allow for as many wrong ones among the flips."
    ]
    if likeness.p < UNLIKE:
        shares = "; ".join(
            f"{label}: {of_gate / max(1, sum(likeness.gate.values())):.1%} of the gate, "
            f"{likeness.unlabelled[label] / max(1, found.unlabelled):.1%} of these texts"
            for label, of_gate in likeness.gate.items()
        )
        lines.append(
            f"WARNING: these texts do not look like the gate's (p = {likeness.p:.2g}; fp32 says {shares}). "
            "The verdict needs both to be of one population."
        )
    return f"{_table(rows, heads)}\n\n" + "\n".join(lines)


def _count(count: int | None) -> str:
    return "none will do" if count is None else f"{count:,}"


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
