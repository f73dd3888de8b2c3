"""Two reports of one run beside each other, with ratios.

Covers speed, size, memory, load time and quality of any two variants. A ratio of speeds from two machines,
two devices or two runs would be a comparison of machines or moments: it is refused (`beside` puts figures of
two machines into one table). Leaves out which of the two to take (`selection`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.in_process.latency import Ratio
from benchmarks.records import Report, case, device
from handler.errors import UserError

HIGHER, LOWER = "higher is better", "lower is better"


def compare(first: Report, second: Report) -> dict[str, Any]:
    """Every figure that both have: `{a, b, run, figures: [{figure, unit, a, b, ratio, better, note}]}`.

    `ratio` says how many times as good `b` is as `a`, so that above 1 is always better. Raises `UserError`
    for a failed variant and for reports of different machines or runs.
    """
    _check(first, second)
    figures = [
        *_latency(first, second),
        *_served(first, second),
        *_resources(first, second),
        *_quality(first, second),
    ]
    return {"a": first["name"], "b": second["name"], "run": first["run"]["id"], "figures": figures}


def _check(first: Report, second: Report) -> None:
    names = f"{first['name']} {second['name']}"
    for report in (first, second):
        if report["error"]:
            message = f"{report['name']} failed during {report['error']['stage']}"
            raise UserError(message, seen=report["error"]["message"], remedy="Mend it, then: make benchmark")
    if device(first) != device(second):
        seen = " and ".join(f"{report['name']} on {device(report)}" for report in (first, second))
        raise UserError(
            "the two are of different devices, and no ratio is between devices",
            seen=seen,
            remedy="Put them beside each other: python -m benchmarks beside",
        )
    again = f'Measure both in one run: make benchmark VARIANTS="{names}"'
    if first["machine"]["id"] != second["machine"]["id"]:
        machines = " and ".join(report["machine"]["cpu"] for report in (first, second))
        raise UserError("the two reports are from different machines", seen=machines, remedy=again)
    if first["run"]["id"] != second["run"]["id"]:
        runs = " and ".join(report["run"]["id"] for report in (first, second))
        raise UserError("the two reports are from different runs", seen=runs, remedy=again)


def _latency(first: Report, second: Report) -> list[dict[str, Any]]:
    figures = []
    for entry in first["latency"]:
        other = case(second, entry["case"])
        if other is None:
            continue
        real = entry["tokens"] is None
        what = f"{entry['case']}, {'text to answer' if real else 'texts x tokens'}"
        paired = _paired(entry, other)
        figures.append(_figure(f"{what}: p50", "ms", (entry["p50_ms"], other["p50_ms"]), LOWER) | paired)
        figures.append(_figure(f"{what}: p99", "ms", (entry["p99_ms"], other["p99_ms"]), LOWER))
        if real:
            rates = entry["texts_per_second"], other["texts_per_second"]
            figures.append(_figure(f"{what}: throughput", "texts/s", rates, HIGHER) | paired)
    return figures


def _paired(entry: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The ratio from the interleaved rounds, which a drift of the machine does not touch, and its verdict.

    Both entries hold a ratio to fp32 in the same rounds; the ends of the quotient's interval are at worst
    the quotients of their ends.
    """
    ours, theirs, noise = entry["speedup"], other["speedup"], entry["speedup"]["noise"]
    ratio, low, high = (
        theirs[a] / ours[b] for a, b in (("ratio", "ratio"), ("low", "high"), ("high", "low"))
    )
    verdict = Ratio(ratio, low, high).verdict(noise) if noise is not None else "noise unknown"
    span = f"{low:.2f} to {high:.2f}"
    return {
        "ratio": float(f"{ratio:.4g}"),
        "note": verdict if verdict in ("not different", "noise unknown") else span,
    }


def _served(first: Report, second: Report) -> list[dict[str, Any]]:
    others = {entry["concurrency"]: entry for entry in second["served"]}
    figures = []
    for entry in first["served"]:
        if other := others.get(entry["concurrency"]):
            what = f"served, {entry['concurrency']} at once"
            rates = entry["requests_per_second"], other["requests_per_second"]
            figures.append(_figure(f"{what}: throughput", "requests/s", rates, HIGHER))
            figures += [
                _figure(f"{what}: {percent[:-3]}", "ms", (entry[percent], other[percent]), LOWER)
                for percent in ("p50_ms", "p99_ms")
            ]
    return figures


def _resources(first: Report, second: Report) -> list[dict[str, Any]]:
    fields = (
        ("artifact_mb", "artifact", "MB"),
        ("archive_mb", "archive", "MB"),
        ("peak_rss_mb", "peak memory", "MB"),
        ("load_s", "load", "s"),
        ("warm_s", "warm-up", "s"),
        ("first_answer_ms", "first answer", "ms"),
    )
    return [
        _figure(name, unit, (first["resources"].get(field), second["resources"].get(field)), LOWER)
        for field, name, unit in fields
    ]


def _quality(first: Report, second: Report) -> list[dict[str, Any]]:
    """Quality is shown without a ratio: 0.98 times a macro-F1 is nothing that anybody asks for."""
    figures = []
    for split, parity in first["parity"].items():
        other = second["parity"].get(split)
        if other is None:
            continue
        for field in ("macro_f1", "accuracy", "auroc"):
            values = [report["quality"].get(split, {}).get(field) for report in (first, second)]
            figures.append(_figure(f"{field.replace('_', '-')} on {split}", "", values))
        agreements = parity["label_agreement"], other["label_agreement"]
        figures.append(_figure(f"labels that agree with fp32 on {split}", "", agreements))
        for end in ("low", "high"):
            drops = [(one["macro_f1_drop"] or {}).get(end) for one in (parity, other)]
            figures.append(_figure(f"macro-F1 drop from fp32 on {split}, 95 % interval: {end}", "", drops))
    return [figure for figure in figures if figure["a"] is not None or figure["b"] is not None]


def _figure(
    name: str, unit: str, values: Sequence[float | None], better: str | None = None
) -> dict[str, Any]:
    a, b = values
    ratio = None
    if better and a and b:
        ratio = float(f"{b / a if better == HIGHER else a / b:.4g}")
    return {"figure": name, "unit": unit, "a": a, "b": b, "ratio": ratio, "better": better, "note": ""}


def markdown(comparison: Mapping[str, Any]) -> str:
    """The comparison as a GitHub table."""
    a, b = comparison["a"], comparison["b"]
    rows = [
        [f"{one['figure']} {one['unit']}".strip(), _number(one["a"]), _number(one["b"]), _ratio(one)]
        for one in comparison["figures"]
        if one["a"] is not None or one["b"] is not None
    ]
    foot = (
        f"Above 1x, {b} is the faster or the smaller. Those with a 95 % interval are medians over "
        f"interleaved rounds; all hold within this run only: {comparison['run']}."
    )
    table = tabulate(rows, ["", a, b, f"{b} is better by"], "github", disable_numparse=True)
    return f"{table}\n\n{foot}"


def _ratio(figure: Mapping[str, Any]) -> str:
    if figure["ratio"] is None:
        return ""
    if figure["note"] == "not different":
        return "not different"
    return f"{figure['ratio']:.2f}x" + (f" ({figure['note']})" if figure["note"] else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
