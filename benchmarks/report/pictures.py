"""Which pictures a side-by-side report has the data for, and the figures that each one shows.

Covers picking figures out of a document and one sentence per picture on how to read it. Leaves out drawing
(`charts`), so that listing the pictures needs no plotting library.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.names import CUDA_SHAPES, GATE, REFERENCE, SHAPES, SINGLE, runs_no_transformer
from benchmarks.records import LengthBin, OpenLevel, Parity, Report, Row, Variant
from benchmarks.report.phrases import SUITES, bins, positive_label
from benchmarks.report.verdicts import batch_rate, in_brief, margin, reference, served_rate, shown, verdict
from training.measures.records import Reliability

MOST_CASES = 30  # rows of a dot plot


@dataclass(frozen=True)
class Picture:
    """`name` is that of the file; `find` returns what is to be drawn, empty where the report lacks it."""

    name: str
    title: str
    reading: str
    find: Callable[[Report], Any]


@dataclass(frozen=True)
class Point:
    """A variant or a baseline by speed; `change` is of macro-F1 (or the label agreement), with its ends."""

    name: str
    speed: float
    change: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Bar:
    """A row of the front page: real texts per second, and how many times what is run today, where decided."""

    name: str
    speed: float
    times: float | None
    verdict: str


@dataclass(frozen=True)
class Series:
    """A line of a picture; `is_shown` ones are told apart, the others are the grey rest."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    is_shown: bool = True


@dataclass(frozen=True)
class Load:
    """A variant under arrivals that do not wait; `closed_rps` is the most that waiting clients reached."""

    name: str
    levels: Sequence[OpenLevel]
    closed_rps: float | None


def available(document: Report) -> list[Picture]:
    """The pictures that can be drawn, in the order of a page."""
    return [picture for picture in PICTURES if picture.find(document)]


def in_process(document: Report) -> list[Point]:
    return _points(document, batch_rate)


def as_served(document: Report) -> list[Point]:
    return _points(document, served_rate)


def is_judged(document: Report) -> bool:
    """Whether speed stands against macro-F1; else against the agreement of labels."""
    return any(variant.judged.macro_f1_drop for variant in document.measured)


def _points(document: Report, speed: Callable[[Row], float | None]) -> list[Point]:
    """Two rows at least, or nothing: one point compares with nothing."""
    allowed = margin(document)
    judged = is_judged(document)
    points = []
    for row in document.rows:
        rate = None if row.error else speed(row)
        if row.gate is None or rate is None or runs_no_transformer(row.name):
            continue
        if ends := _change(row.gate, judged, row.name == REFERENCE):
            points.append(Point(row.name, rate, *ends, verdict(row, allowed)))
    return points if len(points) > 1 else []


def _change(gate: Parity, judged: bool, is_reference: bool) -> tuple[float, float, float] | None:
    """Of macro-F1, or else the label agreement, with its ends; None where it is not known."""
    if not judged:
        return (gate.label_agreement,) * 3
    if is_reference:
        return 0.0, 0.0, 0.0
    drop = gate.macro_f1_drop
    return (-drop.drop, -drop.high, -drop.low) if drop else None


def bars(document: Report) -> list[Bar]:
    """The rows of the chart of gains, slowest first."""
    allowed = margin(document)
    found = []
    for row in in_brief(document):
        if entry := row.batch:
            ratio = entry.against_today
            times = ratio.ratio if ratio.is_decided else None
            found.append(Bar(row.name, entry.texts_per_second, times, verdict(row, allowed)))
    return found if len(found) > 1 else []


def by_length(document: Report) -> tuple[list[str], list[Series]]:
    """Names of the bins of tokens, and each variant's p50 in ms by bin; empty without bins."""
    chosen = shown(document)
    found = []
    ends = sorted({part.up_to for variant in document.variants for part in _lengths(variant)})
    for variant in document.variants:
        parts = {part.up_to: part.p50_ms for part in _lengths(variant)}
        places = [place for place, end in enumerate(ends) if end in parts]
        if places:
            ys = [parts[ends[place]] for place in places]
            found.append(Series(variant.name, places, ys, variant.name in chosen))
    return (bins(ends), found) if len(ends) > 1 else ([], [])


def _lengths(row: Row) -> list[LengthBin]:
    single = row.case(SINGLE)
    return single.by_length if single else []


def by_batch(document: Report) -> list[Series]:
    """Each variant's p50 in ms per text by the number of texts of 32 tokens in a call."""
    chosen = shown(document)
    found = []
    sizes = [batch for batch, tokens in (*SHAPES, *CUDA_SHAPES) if tokens == 32]
    for variant in document.variants:
        timed = {size: entry for size in sizes if (entry := variant.case(f"{size}x32"))}
        if len(timed) > 1:
            ys = [entry.p50_ms / size for size, entry in timed.items()]
            found.append(Series(variant.name, list(timed), ys, variant.name in chosen))
    return found


@dataclass(frozen=True)
class Flips:
    """Shares of the gate texts that a variant moved from and to the positive label, each with its ends."""

    name: str
    lost: tuple[float, float, float]
    gained: tuple[float, float, float]
    verdict: str


def positive_and_other(document: Report) -> tuple[str, str] | None:
    """The positive label and the other one; None where there are not two that exclude each other."""
    found = positive_label(document.data)
    labels = document.data.labels
    if found is None or len(labels) != 2:
        return None
    return found, labels[1 - labels.index(found)]


def flips(document: Report) -> list[Flips]:
    """By variant, fewest flips first; of two labels only, for more have no two directions."""
    pair = positive_and_other(document)
    if pair is None:
        return []
    directions = (f"{pair[0]} -> {pair[1]}", f"{pair[1]} -> {pair[0]}")
    found = []
    for variant in document.variants:
        gate = variant.gate
        if variant.name == REFERENCE or not gate or not set(directions) <= gate.flips.keys():
            continue
        shares = []
        for direction in directions:
            rate = gate.flip_rates.get(direction)
            share = gate.flips[direction] / gate.n
            shares.append((rate.rate, rate.low, rate.high) if rate else (share, share, share))
        found.append(Flips(variant.name, shares[0], shares[1], verdict(variant, margin(document))))
    moved = any(flips.lost[2] or flips.gained[2] for flips in found)
    return sorted(found, key=lambda flips: (flips.lost[0] + flips.gained[0], flips.name)) if moved else []


def reliability(document: Report) -> list[tuple[str, float | None, list[Reliability]]]:
    """fp32's and the front's fastest's name, calibration error and bins, on gate."""
    return [
        (name, gate.ece, gate.reliability)
        for name in shown(document, 3)
        if (gate := _row(document, name).quality.get(GATE)) and gate.reliability
    ]


def loads(document: Report) -> list[Load]:
    """Those that met arrivals that do not wait: those on the front, or all that did."""
    tried = [variant for variant in document.variants if variant.open]
    chosen = [variant for variant in tried if variant.name in shown(document)] or tried[:4]
    found = []
    for variant in chosen:
        levels = sorted(variant.open, key=lambda level: level.offered_rps)
        found.append(
            Load(
                variant.name,
                levels,
                max((level.requests_per_second for level in variant.served), default=None),
            )
        )
    return found


def functional(document: Report) -> tuple[str, list[str], list[Series]]:
    """The suite with the most cases: its title, its functionalities (fp32's worst first), and the accuracy of
    fp32 and the front's fastest on each."""
    base = reference(document)
    suites = base.functional if base else {}
    if base is None or not suites:
        return "", [], []
    suite = max(suites, key=lambda name: suites[name].n)
    worst_first = sorted(suites[suite].functionalities, key=lambda kind: kind.accuracy)[:MOST_CASES]
    names = [kind.functionality for kind in worst_first]
    found = []
    for name in shown(document, 4):
        found_suite = _row(document, name).functional.get(suite)
        cases = found_suite.functionalities if found_suite else []
        accuracy = {kind.functionality: kind.accuracy for kind in cases}
        places = [place for place, case_name in enumerate(names) if case_name in accuracy]
        found.append(Series(name, [accuracy[names[place]] for place in places], places))
    return SUITES.get(suite, suite), names, [line for line in found if line.xs]


def _row(document: Report, name: str) -> Variant:
    return next(variant for variant in document.variants if variant.name == name)


PICTURES = (
    Picture(
        "bars",
        "What you can gain",
        "Real texts per second in batches of 32, in process. Blue variants may be shipped; red ones may not, "
        "because they are no longer the same classifier. Grey bars are baselines, run as other projects' "
        "documentation shows.",
        bars,
    ),
    Picture(
        "pareto",
        "Speed against sameness, in process",
        "Further right is faster, higher is better; whiskers are 95 % intervals. The line joins the variants "
        "that may be shipped and that no other beats on both speed and the loss that the data cannot rule "
        "out.",
        in_process,
    ),
    Picture(
        "pareto-served",
        "Speed against sameness, as served",
        "The same, with the requests per second that TorchServe answered in a closed loop.",
        as_served,
    ),
    Picture(
        "length",
        "One text, by its length",
        "Median time for a single real text, by its number of tokens; grey lines are the other variants.",
        lambda document: by_length(document)[1],
    ),
    Picture(
        "batch",
        "Time per text, by batch",
        "Time per text of 32 tokens when 1, 8 or 32 are computed together; a falling line means that "
        "batching helps.",
        by_batch,
    ),
    Picture(
        "flips",
        "Labels that differ from fp32's",
        "Bars to the left are texts that the variant no longer flags, bars to the right texts that it newly "
        "flags, as shares with 95 % intervals.",
        flips,
    ),
    Picture(
        "reliability",
        "Does a score mean what it says?",
        "On the diagonal, seven in ten of the texts scored 0.7 have that label; below it, scores are too "
        "high.",
        reliability,
    ),
    Picture(
        "load",
        "Under random arrivals (open loop)",
        "Top: p99 latency as the offered rate grows. Bottom: answers that came in time. Crosses: the server "
        "could not keep up. Dotted: the highest rate that the closed loop reached.",
        loads,
    ),
    Picture(
        "functional",
        "Which cases it gets right",
        "Each row is a kind of case; a dot away from fp32's mark is a kind that the variant gets right more "
        "or less often.",
        lambda document: functional(document)[2],
    ),
)
