"""The pictures of a side-by-side report, each as SVG text, empty where the report lacks its data.

Covers what is drawn and how: few colours, names at the points and lines themselves, units on every axis.
Leaves out which figures those are (`pictures`) and the frame, colours and labels (`drawing`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.names import REFERENCE
from benchmarks.records import OpenLevel, Report
from benchmarks.report import pictures
from benchmarks.report.verdicts import (
    BASELINE,
    EQUAL,
    IS_REFERENCE,
    NOT_EQUAL,
    SHIPPABLE,
    front,
    margin,
    today,
)
from common.drawing import (
    AMBER,
    BLUE,
    DASHED,
    DOTTED,
    FONT,
    GREEN,
    INK,
    LINES,
    MUTED,
    PAPER,
    RED,
    REST,
    Label,
    canvas,
    diagonal,
    in_percent,
    interval,
    label_ends,
    label_points,
    name_rows,
    svg,
)
from training.measures.noninferiority import FAIL, INCONCLUSIVE, PASS, UNPROVEN

MARKS: dict[str, tuple[str, str, str]] = {
    IS_REFERENCE: ("s", INK, "fp32"),
    PASS: ("o", BLUE, "passes"),
    EQUAL: ("o", BLUE, "equal (check)"),
    INCONCLUSIVE: ("D", AMBER, "inconclusive"),
    UNPROVEN: ("D", AMBER, "not proven: the texts may have been seen"),
    FAIL: ("v", RED, "fails"),
    NOT_EQUAL: ("X", RED, "not equal (check)"),
    BASELINE: ("o", MUTED, "baseline"),
}


def draw(document: Report) -> dict[str, str]:
    """Every picture that the report has the data for, by the name of its file."""
    return {picture.name: CHARTS[picture.name](document) for picture in pictures.available(document)}


def bars(document: Report) -> str:
    """Real texts per second of the few rows of a front page, each with its verdict."""
    found = pictures.bars(document)
    if not found:
        return ""
    with canvas(0.75 + 0.34 * len(found)) as (figure, (axes,)):
        for place, bar in enumerate(found):
            is_baseline = bar.verdict == BASELINE
            _, colour, words = MARKS[bar.verdict]
            axes.barh(place, bar.speed, height=0.66, color=REST if is_baseline else colour, linewidth=0)
            if is_baseline or bar.name == REFERENCE:
                words = "what you run today" if bar.name == today(document) else ""
            words = words.removesuffix(" (check)")
            gain = f"{bar.times:.1f}x" if bar.times else ""
            axes.annotate(
                " \N{MIDDLE DOT} ".join(filter(None, (f"{bar.speed:,.0f}", gain, words))),
                (bar.speed, place),
                (5, 0),
                textcoords="offset points",
                va="center_baseline",
                color=INK,
            )
        name_rows(axes, [bar.name for bar in found])
        axes.set_xlim(0, 1.8 * max(bar.speed for bar in found))  # room for words
        axes.set_xlabel("real texts/s in batches of 32, in process")
        sentence = "; ".join(f"{bar.name} {bar.speed:.0f} ({bar.verdict})" for bar in found)
        return svg(figure, "bars", _title("bars"), sentence)


def pareto(document: Report) -> str:
    """Real texts per second in process against the change of macro-F1, or the agreement of labels."""
    return _pareto(
        document, pictures.in_process(document), "pareto", "real texts/s in batches of 32, in process"
    )


def pareto_served(document: Report) -> str:
    """Requests per second as served against the same."""
    return _pareto(document, pictures.as_served(document), "pareto-served", "requests/s, closed loop")


def _pareto(document: Report, points: Sequence[pictures.Point], name: str, speed: str) -> str:
    if not points:
        return ""
    judged = pictures.is_judged(document)
    allowed = margin(document)
    best = [point for wanted in front(document) for point in points if point.name == wanted]
    with canvas(4.4 + 0.1 * max(0, len(points) - 8)) as (figure, (axes,)):
        for point in points:
            _draw_point(axes, point)
        ends = [(point.speed, point.low) for point in sorted(best, key=lambda point: point.speed)]
        if len(ends) > 1:
            axes.plot(*zip(*ends, strict=True), color=BLUE, linewidth=1.4, alpha=0.8, zorder=2)
        _scale(axes, points, allowed if judged else None)
        axes.set_xlabel(f"{speed}  (faster →)")
        _legend(axes, dict.fromkeys(point.verdict for point in points))
        label_points(axes, [_label(point, point in best) for point in points])
        if judged:
            axes.annotate(
                f"margin {allowed:g}",
                (0, -allowed),
                (2, -2),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="top",
                color=MUTED,
                size=FONT,
            )
        sentence = "; ".join(f"{point.name} {point.speed:.0f} at {point.change:+.4f}" for point in points)
        return svg(figure, name, _title(name), sentence)


def _label(point: pictures.Point, is_best: bool) -> Label:
    colour = INK if point.verdict in SHIPPABLE else MUTED
    return Label(point.speed, point.change, point.name, colour, is_best)


def _scale(axes: Axes, points: Sequence[pictures.Point], allowed: float | None) -> None:
    """Axes of speed and of the change of macro-F1, with the margin; without one, of the agreement of
    labels."""
    speeds = [point.speed for point in points]
    _log_axis(axes.xaxis, speeds, room=(0.82, 1.3))
    axes.set_xlim(min(speeds) * 0.8, max(speeds) * 1.3)
    low, high = min(point.low for point in points), max(point.high for point in points)
    if allowed is None:
        above = 0.02
        axes.set_ylabel("labels that match fp32's, gate")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2%}" if value <= 1 else ""))
    else:
        above = 0.1
        low = min(low, -1.15 * allowed)
        axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
        axes.axhline(-allowed, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
        axes.set_ylabel("change in macro-F1 from fp32, gate")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(value)))
    reach = (high - low) or 0.01
    axes.set_ylim(low - 0.07 * reach, high + above * reach)
    axes.grid(axis="x", visible=False)


def _draw_point(axes: Axes, point: pictures.Point) -> None:
    """Its mark, hollow of a baseline, with its whiskers."""
    mark, colour, _ = MARKS[point.verdict]
    hollow = point.verdict == BASELINE
    if point.low != point.high:
        axes.plot(
            [point.speed] * 2,
            [point.low, point.high],
            color=colour,
            linewidth=1,
            alpha=0.25 if point.verdict in (NOT_EQUAL, BASELINE) else 0.5,
        )
    axes.plot(
        point.speed,
        point.change,
        mark,
        color=colour,
        markersize=7.5 if mark != "o" else 8,
        markerfacecolor=PAPER if hollow else colour,
        markeredgecolor=colour if hollow else PAPER,
        markeredgewidth=1.3 if hollow else 0.8,
        zorder=3,
    )


def latency_by_length(document: Report) -> str:
    """The p50 of single texts by their own length."""
    names, series = pictures.by_length(document)
    if not series:
        return ""
    with canvas(4.2) as (figure, (axes,)):
        axes.set_xlabel("tokens of the text")
        axes.set_ylabel("p50 of one text, ms")
        _latency_lines(axes, series, names)
        return svg(figure, "length", _title("length"), _sentence(series, "ms"))


def latency_by_batch(document: Report) -> str:
    """Milliseconds per text by the size of the batch."""
    series = pictures.by_batch(document)
    if not series:
        return ""
    sizes = sorted({int(size) for line in series for size in line.xs})
    places = {size: place for place, size in enumerate(sizes)}
    moved = [
        pictures.Series(line.name, [places[int(x)] for x in line.xs], line.ys, line.is_shown)
        for line in series
    ]
    with canvas(4.2) as (figure, (axes,)):
        axes.set_xlabel("texts x tokens in one call")
        axes.set_ylabel("p50 per text, ms")
        _latency_lines(axes, moved, [f"{size} x 32" for size in sizes])
        return svg(figure, "batch", _title("batch"), _sentence(moved, "ms per text"))


def _latency_lines(axes: Any, series: Sequence[pictures.Series], ticks: Sequence[str]) -> None:
    """A labelled line for each series over `ticks`, with milliseconds on a logarithmic axis."""
    _lines(axes, series)
    axes.set_xticks(range(len(ticks)), ticks)
    _log_axis(axes.yaxis, [value for line in series for value in line.ys])
    _label_lines(axes, series)


def flips(document: Report) -> str:
    """Shares of the gate texts by direction of the flip, per variant."""
    found = pictures.flips(document)
    if not found:
        return ""
    positive, other = pictures.positive_and_other(document) or ("", "")
    with canvas(1.35 + 0.25 * len(found)) as (figure, (axes,)):
        for place, flips in enumerate(reversed(found)):
            colour = MARKS[flips.verdict][1]
            for sign, (share, low, high) in ((-1, flips.lost), (1, flips.gained)):
                axes.barh(place, sign * share, height=0.62, color=colour, linewidth=0)
                if low != high:
                    interval(axes, sign * low, sign * high, place, alpha=0.7)
                axes.annotate(
                    f"{share:.2%}",
                    (sign * max(share, high), place),
                    (sign * 4, 0),
                    textcoords="offset points",
                    ha="left" if sign > 0 else "right",
                    va="center_baseline",
                    color=MUTED,
                )
        axes.axvline(0, color=INK, linewidth=1)
        name_rows(axes, [flips.name for flips in reversed(found)])
        most = max(max(*flips.lost, *flips.gained) for flips in found) or 0.001
        axes.set_xlim(-1.45 * most, 1.45 * most)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):.1%}"))
        axes.xaxis.set_major_locator(FixedLocator(_round_ticks(most)))
        axes.set_xlabel("share of gate texts")
        axes.set_title(f"← {positive} to {other}", loc="left", color=MUTED, size=FONT)
        axes.set_title(f"{other} to {positive} →", loc="right", color=MUTED, size=FONT)
        _legend(axes, dict.fromkeys(flips.verdict for flips in found), below=True)
        sentence = "; ".join(f"{flips.name} {flips.lost[0]:.2%} and {flips.gained[0]:.2%}" for flips in found)
        return svg(figure, "flips", _title("flips"), sentence)


def reliability(document: Report) -> str:
    """Scores by how often they were right, on gate."""
    found = pictures.reliability(document)
    if not found:
        return ""
    pair = pictures.positive_and_other(document)
    what = pair[0] if pair else "the top label"
    if document.data.multi_label:
        what = "any label"
    with canvas(4.4) as (figure, (axes,)):
        diagonal(axes)
        for (name, ece, parts), (colour, mark) in zip(
            found, _styles([name for name, *_ in found]), strict=True
        ):
            note = name if ece is None else f"{name}, ECE {ece:.3f}"
            axes.plot(
                [part.score for part in parts],
                [part.rate for part in parts],
                mark,
                linestyle="-",
                color=colour,
                markersize=6,
                markeredgecolor=PAPER,
                markeredgewidth=0.8,
                label=note,
            )
        whole = (-0.025, 1.025)  # a mark at 0 or 1 stands whole in the picture
        axes.set(xlim=whole, ylim=whole, xlabel=f"mean score of {what}", ylabel=f"share that is {what}")
        axes.legend(loc="upper left", borderaxespad=0.2, handlelength=1.6)
        sentence = "; ".join(name if ece is None else f"{name}: ECE {ece:.4f}" for name, ece, _ in found)
        return svg(figure, "reliability", _title("reliability"), sentence)


def load_curves(document: Report) -> str:
    """p99 and answers in time by the offered rate."""
    found = pictures.loads(document)
    if not found:
        return ""
    objective = document.run.objective_p99_ms
    with canvas(5.8, rows=2, sharex=True) as (figure, (above, below)):
        most = max(level.offered_rps for served in found for level in served.levels)
        times = [level.p99_ms for served in found for level in served.levels if level.p99_ms]
        ends = [
            end
            for served, style in zip(found, _styles([served.name for served in found]), strict=True)
            if (end := _load_line(above, below, served, *style))
        ]
        below.plot([0, most], [0, most], color=REST, linewidth=1, zorder=1)
        below.set_xlim(0, most * 1.02)
        below.set_ylim(0, most * 1.04)
        below.set_xlabel("offered requests/s")
        below.set_ylabel("answers in time/s")
        above.set_ylabel("p99, ms")
        _log_axis(above.yaxis, [*times, *([objective] if objective else [])], room=(0.7, 1.6))
        if objective:
            _draw_objective(above, objective)
        if ends:
            label_ends(above, ends)
        sentence = "; ".join(
            f"{served.name} up to {served.levels[-1].offered_rps:.0f} requests/s" for served in found
        )
        return svg(figure, "load", _title("load"), sentence)


def _draw_objective(axes: Axes, objective_ms: float) -> None:
    axes.axhline(objective_ms, color=MUTED, linewidth=1, linestyle=DASHED)
    axes.annotate(
        f"objective {objective_ms:g} ms",
        (1, objective_ms),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=MUTED,
    )


def _load_line(above: Axes, below: Axes, served: pictures.Load, colour: str, mark: str) -> Label | None:
    """p99 and answers in time of a server; its name where p99 ends."""
    offered = [level.offered_rps for level in served.levels]
    timed = [(level.offered_rps, level.p99_ms) for level in served.levels if level.p99_ms]
    if timed:
        above.plot(*zip(*timed, strict=True), color=colour)
    below.plot(offered, [level.goodput_rps for level in served.levels], color=colour)
    for level in served.levels:
        _draw_level(below, level, level.goodput_rps, colour, mark)
        if level.p99_ms:
            _draw_level(above, level, level.p99_ms, colour, mark)
    if served.closed_rps:
        for axes in (above, below):
            axes.axvline(served.closed_rps, color=colour, linewidth=1, linestyle=DOTTED)
    return Label(*timed[-1], served.name, colour) if timed else None


def _draw_level(axes: Axes, level: OpenLevel, height: float, colour: str, mark: str) -> None:
    """Its own mark, or a cross where the server was saturated."""
    axes.plot(
        level.offered_rps,
        height,
        "X" if level.saturated else mark,
        color=colour,
        markersize=8.0 if level.saturated else 6.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.8,
    )


def functional(document: Report) -> str:
    """Accuracy by kind of case, as dots on one line per kind."""
    _, names, found = pictures.functional(document)
    if not found:
        return ""
    with canvas(1.25 + 0.27 * len(names)) as (figure, (axes,)):
        for variant, (colour, mark) in reversed(
            list(zip(found, _styles([variant.name for variant in found]), strict=True))
        ):
            rows = [len(names) - 1 - place for place in variant.ys]
            axes.plot(
                variant.xs,
                rows,
                mark,
                color=colour,
                markersize=9 if variant.name == REFERENCE else 7,
                markerfacecolor="none" if variant.name == REFERENCE else colour,
                markeredgewidth=1.4,
                markeredgecolor=colour if variant.name == REFERENCE else PAPER,
                label=variant.name,
            )
        axes.set_yticks(range(len(names)), list(reversed(names)))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xlim(-0.03, 1.03)
        in_percent(axes.xaxis)
        axes.set_xlabel("share of cases answered correctly")
        handles, words = axes.get_legend_handles_labels()
        figure.legend(
            handles[::-1],
            words[::-1],
            loc="outside upper left",
            ncols=len(words),
            handletextpad=0.1,
            columnspacing=1.2,
            borderaxespad=0.2,
        )
        sentence = "; ".join(f"{variant.name} on {len(variant.xs)} kinds of cases" for variant in found)
        return svg(figure, "functional", _title("functional"), sentence)


CHARTS: dict[str, Callable[[Report], str]] = {
    "bars": bars,
    "pareto": pareto,
    "pareto-served": pareto_served,
    "length": latency_by_length,
    "batch": latency_by_batch,
    "flips": flips,
    "reliability": reliability,
    "load": load_curves,
    "functional": functional,
}


def _title(name: str) -> str:
    return next(picture.title for picture in pictures.PICTURES if picture.name == name)


def _sentence(series: Sequence[pictures.Series], unit: str) -> str:
    return "; ".join(
        f"{line.name} {line.ys[0]:.2f} to {line.ys[-1]:.2f} {unit}" for line in series if line.is_shown
    )


def _styles(names: Sequence[str]) -> list[tuple[str, str]]:
    """fp32 in ink with squares; the others in the order of the palette, each with its own mark."""
    others = iter(zip(LINES, ("o", "D", "^", "P"), strict=True))
    return [(INK, "s") if name == REFERENCE else next(others, (GREEN, "o")) for name in names]


def _lines(axes: Axes, series: Sequence[pictures.Series]) -> None:
    """The grey rest below, those that are told apart above."""
    for line in series:
        if not line.is_shown:
            axes.plot(line.xs, line.ys, color=REST, linewidth=1.2, zorder=1.5)
    chosen = [line for line in series if line.is_shown]
    for line, (colour, mark) in zip(chosen, _styles([line.name for line in chosen]), strict=True):
        axes.plot(
            line.xs,
            line.ys,
            mark,
            linestyle="-",
            color=colour,
            markersize=6.5,
            markeredgecolor=PAPER,
            markeredgewidth=0.8,
            zorder=3,
        )
    axes.grid(axis="x", visible=False)


def _label_lines(axes: Axes, series: Sequence[pictures.Series]) -> None:
    chosen = [line for line in series if line.is_shown]
    styles = _styles([line.name for line in chosen])
    label_ends(
        axes,
        [
            Label(line.xs[-1], line.ys[-1], line.name, colour)
            for line, (colour, _) in zip(chosen, styles, strict=True)
        ],
    )


def _log_axis(axis: Any, values: Sequence[float], room: tuple[float, float] = (0.85, 1.18)) -> None:
    """A logarithmic axis with round numbers, not powers, at its ticks."""
    low, high = min(values) * room[0], max(values) * room[1]
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    steps = (1, 2, 5) if high / low > 3 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8)
    ticks = [step * 10.0**power for power in range(-4, 7) for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    if axis.axis_name == "y":
        axis.axes.set_ylim(low, high)


def _signed(value: float) -> str:
    """A change with its sign and no more digits than it has."""
    return "0" if abs(value) < 1e-9 else f"{value:+.4f}".rstrip("0").replace("-", "\N{MINUS SIGN}")


def _round_ticks(most: float) -> list[float]:
    """Both sides of zero, three at most on each."""
    for step in (step * 10.0**power for power in range(-5, 1) for step in (1, 2, 5)):
        if most / step <= 3.2:
            count = int(1.2 * most / step)
            return [step * place for place in range(-count, count + 1)]
    return [0.0]


def _legend(axes: Axes, verdicts: Mapping[str, None], below: bool = False) -> None:
    """What the marks mean, above the frame (or below it), in the order of `MARKS`."""
    handles = []
    for word, (mark, colour, words) in MARKS.items():
        if word not in verdicts or (word == IS_REFERENCE and below):
            continue
        hollow = word == BASELINE
        handles.append(
            Line2D(
                [],
                [],
                marker="s" if below else mark,
                linestyle="none",
                markersize=8,
                label=words,
                color=colour,
                markeredgecolor=colour if hollow else PAPER,
                markerfacecolor=PAPER if hollow else colour,
            )
        )
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.legend(
        handles=handles,
        loc="outside lower left" if below else "outside upper left",
        ncols=len(handles),
        handletextpad=0.1,
        columnspacing=1.0,
        borderaxespad=0.2,
    )
