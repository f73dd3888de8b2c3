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
MOST_COLUMNS = 6
MAIN = (
    "variant",
    "equal",
    "labels agree",
    "1x32 p50",
    "32x32 p50",
    "real texts/s",
    "served requests",
    "artifact",
)
# Ours sleep (`handler` asks OpenMP for it); a peer is left as its user would have it.
SPINNING = (
    " WARNING: the machine was in use, and peers' threads spin while they wait, which is their default: "
    "beside others they lose more than on a quiet machine."
)
DECIDED = ("faster", "slower")
PRECISIONS = ("int8", "bf16", "fp32")


def side_by_side(document: Mapping[str, Any]) -> str:
    """The side-by-side page: the table, what failed, the floor, the proofs, what the figures rest on."""
    data = document["data"]
    title = f"# {data['base']} on {data['spec']}: variants side by side"
    parts = [title, table(document), "\n".join(f"- {line}" for line in failures(document))]
    if floor := floor_table(document):
        parts += ["## The floor: the matrix products alone", floor]
    if _has_builds(document):
        parts += ["## Proof and check", proof_table(document), proof_note(document)]
    return "\n\n".join([*filter(None, parts), provenance(document)]) + "\n"


def table(document: Mapping[str, Any]) -> str:
    """One row per variant, and below them one per peer, as GitHub shows it."""
    headers, rows = _cells(document)
    return tabulate(rows, headers, "github", disable_numparse=True)


def terminal_table(document: Mapping[str, Any]) -> str:
    """One column per variant while they fit into a terminal; of many, a row each with the main figures."""
    headers, rows = _cells(document)
    if len(rows) <= MOST_COLUMNS:
        columns = [list(column) for column in zip(headers, *rows, strict=True)]
        return tabulate(columns[1:], columns[0], "simple", disable_numparse=True)
    main = [place for place, header in enumerate(headers) if header.startswith(MAIN)]
    rows = [[row[place] for place in main] for row in rows]
    return tabulate(rows, [headers[place] for place in main], "simple", disable_numparse=True)


def floor_table(document: Mapping[str, Any]) -> str:
    """The encoder's matrix products alone by shape, time and rate; empty where they were not measured."""
    floor = document.get("floor")
    if not floor or not floor["cases"]:
        return ""
    precisions = [name for name in PRECISIONS if f"{name}_ms" in floor["cases"][0]]
    headers = ["texts x tokens"]
    for name in precisions:
        headers += [f"{name} ms", f"{name} TOPS"]
    rows = [
        [one["case"]]
        + [
            cell
            for name in precisions
            for cell in (_cell(one[f"{name}_ms"], ".2f"), _cell(one[f"{name}_tops"], ".2f"))
        ]
        for one in floor["cases"]
    ]
    return tabulate(rows, headers, "github", disable_numparse=True)


def proof_table(document: Mapping[str, Any]) -> str:
    """One row per variant: what it was made from, what proves it, and how the reloaded artifact compares
    with fp32 on the validation texts."""
    large = document["variants"][0]["latency"][2]["case"]
    found = [_proof_row(one, large) for one in document["variants"]]
    headers = [header for header in found[0] if any(row.get(header, NONE) != NONE for row in found)]
    rows = [[row.get(header, NONE) for header in headers] for row in found]
    return tabulate(rows, headers, "github", disable_numparse=True)


def proof_note(document: Mapping[str, Any]) -> str:
    """What the table of proofs rests on."""
    run, texts = document["run"], document["variants"][0]["artifact"]["check"].get("n")
    return (
        f"Each artifact was loaded anew and compared with fp32 on {texts or 'the'} validation texts. Faster "
        f"or slower: in process, {run['threads']} threads of {document['machine']['cpu']}, run {run['id']}."
    )


def _proof_row(variant: Mapping[str, Any], large: str) -> dict[str, str]:
    if not variant["artifact"]:
        return {"variant": variant["name"], "equal to fp32": "FAILED"}
    artifact, check, entry = variant["artifact"], variant["artifact"]["check"], case(variant, large)
    is_reference = variant["name"] == REFERENCE
    drop = check.get("macro_f1_drop")
    return {
        "variant": variant["name"],
        "parent": artifact["parent"] or NONE,
        "proof": proof_words(variant["proof"]),
        "equal to fp32": ("yes" if check["equal"] else "NO") if not variant["error"] else "FAILED",
        "labels agree": _cell(check.get("label_agreement"), ".2%"),
        "largest score difference": _cell(check.get("max_prob_diff"), ".4f"),
        "macro-F1 drop, 95 %": "reference"
        if is_reference
        else f"{drop[0]:+.3f} to {drop[1]:+.3f}"
        if drop
        else NONE,
        "largest move with batch mates": _cell(check.get("batch_mate_diff"), ".4f"),
        "artifact MB": _cell(variant["resources"].get("artifact_mb"), ".1f"),
        "built in s": _cell(artifact.get("build_seconds"), ".0f"),
        f"{large} against fp32": entry["speedup"]["verdict"] if entry else NONE,
    }


def proof_words(proof: Mapping[str, Any]) -> str:
    """The artifact's own summary of its proof; else its first figures."""
    if summary := proof.get("summary"):
        return str(summary)
    pairs = [f"{name} {_figure(value)}" for name, value in _flatten(proof) if not isinstance(value, list)]
    return ", ".join(pairs[:3]).replace("|", "/") or NONE


def _has_builds(document: Mapping[str, Any]) -> bool:
    """Whether the report is of a version that carries what the table of proofs shows."""
    return any("build_seconds" in (one["artifact"] or {}) for one in document["variants"])


def failures(document: Mapping[str, Any]) -> list[str]:
    """A sentence for everything that failed."""
    lines = []
    for one in document["variants"]:
        if one["error"]:
            lines.append(f"{one['name']} failed during {one['error']['stage']}: {one['error']['message']}")
        if one["served_error"]:
            lines.append(f"{one['name']} could not be served: {one['served_error']}")
    for peer in document.get("peers", []):
        if peer["status"] == "left out":
            lines.append(f"{peer['name']} was left out: {peer['error']['message']}")
        elif peer["error"]:
            lines.append(f"{peer['name']} failed during {peer['error']['stage']}: {peer['error']['message']}")
    if (document.get("floor") or {}).get("error"):
        lines.append(f"The floor could not be measured: {document['floor']['error']}")
    return lines


def _cells(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows; a column in which nobody has a figure is left out."""
    variants = document["variants"]
    found = [_row(variant, variants[0]) for variant in variants]
    found += [_peer_row(peer, variants[0]) for peer in document.get("peers", [])]
    headers = list(dict.fromkeys(header for row in found for header in row))
    headers = [header for header in headers if any(row.get(header, NONE) != NONE for row in found)]
    return headers, [[row.get(header, NONE) for header in headers] for row in found]


def _row(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, str]:
    """The cells of one variant by header."""
    if variant["error"]:
        return {"variant": variant["name"], "equal to fp32": "FAILED"}
    return {
        "variant": variant["name"],
        "equal to fp32": "yes" if variant["artifact"]["check"]["equal"] else "NO",
        **_quality_cells(variant),
        **_timing_cells(variant, reference),
        **_served_cells(variant, reference),
        **_resource_cells(variant),
    }


def _peer_row(peer: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a peer: those of a variant, as far as a peer has them."""
    words = {"measured": "peer", "left out": "left out", "failed": "FAILED"}
    head = {"variant": peer["name"], "equal to fp32": words[peer["status"]]}
    if peer["error"]:
        return head
    return head | _quality_cells(peer) | _timing_cells(peer, reference) | _resource_cells(peer)


def _quality_cells(row: Mapping[str, Any]) -> dict[str, str]:
    split = "test" if "test" in row["parity"] else "gate"
    return {
        f"labels agree ({split})": _cell(row["parity"][split]["label_agreement"], ".2%"),
        "macro-F1 gate": _cell(_f1(row, "gate"), ".3f"),
        "macro-F1 test": _cell(_f1(row, "test"), ".3f"),
        "macro-F1 drop on gate, 95 %": _drop_cell(row),
    }


def _timing_cells(row: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, str]:
    small, _, large = [entry["case"] for entry in reference["latency"]][:3]
    return {
        f"{small} p50 ms": _timing(row, small, "p50_ms"),
        f"{large} p50 ms": _timing(row, large, "p50_ms"),
        "1 real text p50 ms": _timing(row, "1 text", "p50_ms"),
        "real texts/s": _timing(row, "32 texts", "texts_per_second"),
        "real texts/s against hf-pipeline, 95 %": _against_pipeline(row),
        f"{small} by int8 floor": _floors(row, small),
        f"{large} by int8 floor": _floors(row, large),
    }


def _resource_cells(row: Mapping[str, Any]) -> dict[str, str]:
    resources = row["resources"]
    return {
        "artifact MB": _cell(resources["artifact_mb"], ".1f"),
        "peak memory MB": _cell(resources["peak_rss_mb"], ".0f"),
        "load s": _cell(resources["load_s"], ".1f"),
    }


def _against_pipeline(row: Mapping[str, Any]) -> str:
    """How many times as fast as the pipeline on batches of real texts, paired by round."""
    found = (case(row, "32 texts") or {}).get("vs_pipeline")
    if found is None:
        return NONE
    return _pipeline_cell({"vs_pipeline": found}) if found["verdict"] in DECIDED else found["verdict"]


def _floors(row: Mapping[str, Any], name: str) -> str:
    multiple = (case(row, name) or {}).get("int8_floors")
    return NONE if multiple is None else f"{multiple:.1f}x"


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
    if speedup["verdict"] in DECIDED:
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
        *_peer_lines(document),
        *_floor_lines(document),
        *_served_lines(document),
    ]
    if not data["labels_meaningful"]:
        lines.append("Random weights, or texts without labels: labels mean nothing, so no quality is shown.")
    return "\n".join(f"- {line}" for line in lines)


def _peer_lines(document: Mapping[str, Any]) -> list[str]:
    """What the peers are, and in which versions."""
    peers = [peer for peer in document.get("peers", []) if not peer["error"]]
    if not peers:
        return []
    versions = {name: version for peer in peers for name, version in peer["versions"].items()}
    also = [f"{name} {versions[name]}" for name in versions if name not in document["machine"]["versions"]]
    told = "; ".join(
        f"{peer['name']}: [{peer['summary']}]({peer['documentation']})"
        + (f", prepared in {peer['preparation_s']:.0f} s" if peer["preparation_s"] else "")
        for peer in peers
    )
    return [
        "Peers are the same checkpoint as others' documentation tells to run it, with as many threads: "
        + told
        + (f" ({', '.join(also)})." if also else ".")
        + (SPINNING if _was_busy(document["run"], document["machine"]) else "")
    ]


def _floor_lines(document: Mapping[str, Any]) -> list[str]:
    floor = document.get("floor")
    if not floor or not floor["cases"]:
        return []
    rates = ", ".join(
        f"{one['case']} {one['int8_ms']:.2f} ms ({one['int8_tops']:.2f} TOPS)" for one in floor["cases"]
    )
    sizes = floor["encoder"]
    return [
        f"Int8 floor: the {sizes['layers']} layers' matrix products alone (width {sizes['width']}, "
        f"feed-forward {sizes['feed_forward']}) by oneDNN, percentile {floor['percentile']} of each: "
        f"{rates}. A variant "
        "that computes less than all tokens in all layers may go below it."
    ]


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
    measured = [one for one in document["variants"] if not one["error"]]
    levels = [level for one in measured for level in one["served"]]
    if not levels:
        return []
    serving = document["run"].get("serving")
    which = f" Which: {serving['rule']}." if serving and len(serving["names"]) < len(measured) else ""
    passes, cores = levels[0]["passes"], max(level["load_generator_cores"] for level in levels)
    often = "one pass, so no interval" if passes == 1 else f"{passes} passes"
    return [
        f"Served: TorchServe, closed loop, one text per request, {often}. The load generator ran on the "
        f"same cores and took up to {cores:.2f} of them.{which}"
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
    cells = {"speed-up, 95 %": NONE if speedup["verdict"] == "reference" else span, "": speedup["verdict"]}
    cells["over hf-pipeline, 95 %"] = _pipeline_cell(entry)
    cells["by int8 floor"] = f"{entry['int8_floors']:.2f}x" if "int8_floors" in entry else NONE
    return cells


def _pipeline_cell(entry: Mapping[str, Any]) -> str:
    found = entry.get("vs_pipeline")
    return f"{found['ratio']:.2f}x ({found['low']:.2f} to {found['high']:.2f})" if found else NONE


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
    kept = [place for place in range(len(headers)) if any(row[place] != NONE for row in rows)]
    rows = [[row[place] for place in kept] for row in rows]
    return tabulate(rows, [headers[place] for place in kept], "github", disable_numparse=True)


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
