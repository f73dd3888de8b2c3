"""How reports look: Markdown pages, and the table for a terminal.

A speed never stands without accuracy, memory, versions and machine; a difference within the noise is
called one; every number has its unit. Leaves out what stands in a report (`report`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.machine import BUSY_SHARE
from benchmarks.report import Report, busiest, case
from benchmarks.team import REFERENCE

NOISY = 1.25  # above this factor between fp32 and itself, the run deserves a warning
NONE = "–"


def side_by_side(document: Mapping[str, Any]) -> str:
    """The side-by-side page: the table, what failed, what the figures rest on."""
    data = document["data"]
    title = f"# {data['base']} on {data['spec']}: variants side by side"
    parts = [title, table(document), "\n".join(f"- {line}" for line in failures(document))]
    return "\n\n".join([*filter(None, parts), provenance(document)]) + "\n"


def table(document: Mapping[str, Any]) -> str:
    """One row per variant, as GitHub shows it."""
    headers, rows = _cells(document)
    return tabulate(rows, headers, "github", disable_numparse=True)


def terminal_table(document: Mapping[str, Any]) -> str:
    """One column per variant, which fits into a terminal."""
    headers, rows = _cells(document)
    columns = [list(column) for column in zip(headers, *rows, strict=True)]
    return tabulate(columns[1:], columns[0], "simple", disable_numparse=True)


def failures(document: Mapping[str, Any]) -> list[str]:
    """A sentence for everything that failed."""
    lines = []
    for one in document["variants"]:
        if one["error"]:
            lines.append(f"{one['name']} failed during {one['error']['stage']}: {one['error']['message']}")
        if one["served_error"]:
            lines.append(f"{one['name']} could not be served: {one['served_error']}")
    return lines


def _cells(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows; a column in which nobody has a figure is left out."""
    variants = document["variants"]
    found = [_row(variant, variants[0]) for variant in variants]
    headers = list(dict.fromkeys(header for row in found for header in row))
    headers = [header for header in headers if any(row.get(header, NONE) != NONE for row in found)]
    return headers, [[row.get(header, NONE) for header in headers] for row in found]


def _row(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, str]:
    """The cells of one variant by header."""
    if variant["error"]:
        return {"variant": variant["name"], "equal to fp32": "FAILED"}
    small, _, large = [entry["case"] for entry in reference["latency"]][:3]
    split = "test" if "test" in variant["parity"] else "gate"
    resources = variant["resources"]
    return {
        "variant": variant["name"],
        "equal to fp32": "yes" if variant["artifact"]["check"]["equal"] else "NO",
        f"labels agree ({split})": _cell(variant["parity"][split]["label_agreement"], ".2%"),
        "macro-F1 gate": _cell(_f1(variant, "gate"), ".3f"),
        "macro-F1 test": _cell(_f1(variant, "test"), ".3f"),
        "macro-F1 drop on gate, 95 %": _drop_cell(variant),
        f"{small} p50 ms": _timing(variant, small, "p50_ms"),
        f"{large} p50 ms": _timing(variant, large, "p50_ms"),
        "1 real text p50 ms": _timing(variant, "1 text", "p50_ms"),
        "real texts/s": _timing(variant, "32 texts", "texts_per_second"),
        **_served_cells(variant, reference),
        "artifact MB": _cell(resources["artifact_mb"], ".1f"),
        "peak memory MB": _cell(resources["peak_rss_mb"], ".0f"),
        "load s": _cell(resources["load_s"], ".1f"),
    }


def _served_cells(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, str]:
    ours, theirs = busiest(variant), busiest(reference)
    if ours is None:
        return {}
    rate, level, ratio = ours["requests_per_second"], ours["concurrency"], ""
    if theirs and variant is not reference and theirs["requests_per_second"]:
        ratio = f" ({rate / theirs['requests_per_second']:.1f}x)"
    return {
        f"served requests/s at {level}": _cell(rate, ".0f") + ratio,
        f"served p99 ms at {level}": _cell(ours["p99_ms"], ".0f"),
    }


def _timing(variant: Mapping[str, Any], name: str, field: str) -> str:
    """The figure, and how many times as fast as fp32 that is or that it is no different."""
    entry = case(variant, name)
    if entry is None:
        return NONE
    speedup = entry["speedup"]
    figure = _cell(entry[field], ".0f" if field == "texts_per_second" else ".1f")
    if speedup["verdict"] in ("faster", "slower"):
        return f"{figure} ({speedup['ratio']:.1f}x)"
    return figure if speedup["verdict"] == "reference" else f"{figure} ({speedup['verdict']})"


def _f1(variant: Mapping[str, Any], split: str) -> float | None:
    return variant["quality"].get(split, {}).get("macro_f1")


def _drop_cell(variant: Mapping[str, Any]) -> str:
    drop = variant["parity"].get("gate", {}).get("macro_f1_drop")
    if drop is None:
        return NONE
    return "reference" if variant["name"] == REFERENCE else f"{drop['low']:+.3f} to {drop['high']:+.3f}"


def _cell(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def provenance(document: Mapping[str, Any]) -> str:
    """Machine, versions, data, and how the figures are to be read, as a list."""
    run, machine, data = document["run"], document["machine"], document["data"]
    software = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    features = ", ".join(machine["cpu_features"]) or "none of ours"
    tokens = data["tokens"]
    lines = [
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}; instruction sets: {features}.",
        f"Software: {software}; commit {run['commit'] or 'unknown'}.",
        f"Run {run['id']} of {run['seconds']:.0f} s, profile {run['profile']}, {run['threads']} threads; "
        f"load average before it {run['load_average_before']}"
        + (" (the machine was in use: see the noise)." if _was_busy(run, machine) else "."),
        f"Data: {data['spec']}; real texts are those of the split {data['timed_split']}, "
        f"{tokens['mean']:.0f} tokens on average, p90 {tokens['p90']:.0f}, p99 {tokens['p99']:.0f}.",
        "1x32: one text of 32 tokens. Memory is the peak of a process that holds this variant alone.",
        "Ratios (fp32 is 1.0x) hold within this run only: medians over interleaved rounds. "
        + _noise_line(document),
        *_served_lines(document),
    ]
    if not data["labels_meaningful"]:
        lines.append("The base has random weights: labels mean nothing, so no quality is shown.")
    return "\n".join(f"- {line}" for line in lines)


def _was_busy(run: Mapping[str, Any], machine: Mapping[str, Any]) -> bool:
    load = run["load_average_before"]
    return load is not None and load > BUSY_SHARE * machine["cores"]


def _noise_line(document: Mapping[str, Any]) -> str:
    factors = [entry["speedup"]["noise"] for entry in document["variants"][0]["latency"]]
    known = [factor for factor in factors if factor is not None]
    if not known:
        return "The noise of this run is unknown."
    line = f"A second fp32 may lie up to {max(known):.2f}x apart (95 %); less is called not different."
    if max(known) > NOISY:
        line += " WARNING: that is much, the machine was not quiet; measure again."
    return line


def _served_lines(document: Mapping[str, Any]) -> list[str]:
    levels = [level for one in document["variants"] for level in one["served"]]
    if not levels:
        return []
    passes, cores = levels[0]["passes"], max(level["load_generator_cores"] for level in levels)
    often = "one pass, so no interval" if passes == 1 else f"{passes} passes"
    return [
        f"Served: TorchServe, closed loop, one text per request, {often}. The load generator ran on the "
        f"same cores and took up to {cores:.2f} of them."
    ]


LATENCY_FIELDS = ("case", "samples", "p50_ms", "p90_ms", "p99_ms", "texts_per_second")
SERVED_FIELDS = ("concurrency", "requests", "requests_per_second", "p50_ms", "p90_ms", "p99_ms")
SECTIONS = {
    "quality": "Quality in process",
    "quality_served": "Quality through the server",
    "parity": "Parity with fp32",
    "parity_served": "Served scores against those in process",
}


def report(one: Report) -> str:
    """The page of one variant: every figure that its JSON has."""
    document = {**one, "variants": [one]}
    if one["error"]:
        return f"# {one['name']}\n\n{failures(document)[0]}\n"
    check = one["artifact"]["check"]
    verdict = f"Equal to fp32 by the check at export: {'yes' if check['equal'] else 'NO'}."
    parts = [f"# {one['name']}: {one['artifact']['summary']}", f"{verdict} {check.get('note', '')}".strip()]
    parts += ["## In process", _records(one["latency"], LATENCY_FIELDS, _speedup_cells)]
    if one["served"]:
        parts += ["## As served", _records(one["served"], SERVED_FIELDS, _error_cells)]
    parts += failures(document)
    for field, heading in SECTIONS.items():
        if one[field]:
            parts += [f"## {heading}", _by_split(one[field])]
    parts += ["## Resources", _pairs(one["resources"]), "## Proof", _pairs(one["proof"])]
    parts += ["## What this rests on", provenance(document), f"Artifact sha256 {one['artifact_sha256']}."]
    return "\n\n".join(parts) + "\n"


def _speedup_cells(entry: Mapping[str, Any]) -> dict[str, str]:
    speedup = entry["speedup"]
    span = f"{speedup['ratio']:.2f}x ({speedup['low']:.2f} to {speedup['high']:.2f})"
    return {"speed-up, 95 %": NONE if speedup["verdict"] == "reference" else span, "": speedup["verdict"]}


def _error_cells(entry: Mapping[str, Any]) -> dict[str, str]:
    errors = ", ".join(f"{count} x {status}" for status, count in entry["errors"].items())
    return {"errors": errors or "none"}


def _records(
    entries: Sequence[Mapping[str, Any]],
    fields: Sequence[str],
    more: Callable[[Mapping[str, Any]], dict[str, str]],
) -> str:
    """A row per entry; units are the ends of the fields' names."""
    rows = [[_figure(entry[field]) for field in fields] + list(more(entry).values()) for entry in entries]
    headers = [field.replace("_", " ") for field in fields] + list(more(entries[0]))
    return tabulate(rows, headers, "github", disable_numparse=True)


def _by_split(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Splits side by side."""
    flat = {name: dict(_flatten(figures)) for name, figures in splits.items()}
    keys = list(dict.fromkeys(key for figures in flat.values() for key in figures))
    rows = [[key, *(_figure(flat[name].get(key)) for name in flat)] for key in keys]
    return tabulate(rows, ["", *flat], "github", disable_numparse=True)


def _pairs(values: Mapping[str, Any]) -> str:
    rows = [[key, _figure(value)] for key, value in _flatten(values)]
    return tabulate(rows, ["", ""], "github", disable_numparse=True)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Pairs of a name and a figure; what is nested is named after all that it is in."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = prefix + key.replace("_", " ")
        pairs += _flatten(value, f"{name}: ") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def _figure(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
