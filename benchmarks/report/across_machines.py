"""Runs of several machines in one table: a CPU server beside a GPU server.

Covers of each variant and peer its verdict, its speed as a multiple of its own reference in its own run,
texts per second at full load in process, and what a million of them cost at given prices. Rates and costs of
two machines may be read beside each other; no ratio is made across runs or devices. Leaves out figures of two
variants of one run (`comparison`) and replicas for a load (`capacity`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.capacity.plan import Prices, cost, cost_on_gpu
from benchmarks.names import CUDA_REFERENCE, REFERENCE, SMALL
from benchmarks.records import case, device, real_batch, tidy, yardstick
from benchmarks.report.phrases import DECIDED, DEVICES, NONE, figure
from benchmarks.report.verdicts import margin, verdict
from handler.errors import UserError

SAME = ("spec", "sha256", "base", "timed_split")  # of the data, where rates are of the same work

Document = Mapping[str, Any]


def beside(documents: Sequence[Document], prices: Prices) -> dict[str, Any]:
    """`{data, prices, machines: [{id, name, run, commit, profile}], rows: […]}` in plain JSON: a row for each
    variant and peer that was measured in process, `cost_per_million_texts` None where its price was not told.

    Raises `UserError` for runs on other texts or of another model.
    """
    told = [{key: one["data"][key] for key in SAME} for one in documents]
    if any(one != told[0] for one in told):
        words = dict.fromkeys(f"{one['base']} on {one['spec']} ({one['timed_split']})" for one in told)
        raise UserError(
            "the reports are of other models or other texts, whose rates are of other work",
            seen=" and ".join(words),
            remedy="Measure the same checkpoint and data on each machine",
        )
    return tidy(
        {
            "data": told[0],
            "prices": vars(prices),
            "machines": [_machine(one) for one in documents],
            "rows": [
                _row(row, document, prices)
                for document in documents
                for row in [*document["variants"], *document.get("peers", [])]
                if not row["error"] and row["latency"]
            ],
        }
    )


def _machine(document: Document) -> dict[str, Any]:
    machine, run = document["machine"], document["run"]
    cards = [card["name"] for card in machine.get("gpus", [])]
    return {
        "id": machine["id"],
        "name": ", ".join([machine["cpu"], f"{machine['cores']} cores", *cards]),
        "run": run["id"],
        "commit": run["commit"],
        "profile": run["profile"],
    }


def _row(row: Document, document: Document, prices: Prices) -> dict[str, Any]:
    batch, smallest = real_batch(row), case(row, SMALL)
    assert batch is not None
    rate, memory_gb = batch["texts_per_second"], row["resources"]["peak_rss_mb"] / 1000
    if device(row) == "cuda":
        paid = cost_on_gpu(prices, rate)
    else:
        paid = cost(prices, document["machine"]["cores"], memory_gb, rate)
    return {
        "run": document["run"]["id"],
        "device": device(row),
        "name": row["name"],
        "verdict": verdict(row, margin(document)),
        "p50_ms": smallest and smallest["p50_ms"],
        "batch_texts": batch["batch"],
        "texts_per_second": rate,
        "reference": yardstick(row),
        "speedup": batch["speedup"],
        "cost_per_million_texts": paid and paid["per_million_texts"],
    }


def table(found: Document) -> str:
    """The same as people read it: one table, and what it rests on."""
    places = {one["run"]: str(number) for number, one in enumerate(found["machines"], 1)}
    rows = [
        {
            "machine": places[one["run"]],
            "device": DEVICES[one["device"]],
            "variant": one["name"],
            "verdict": one["verdict"],
            f"{SMALL} p50 ms": figure(one["p50_ms"], ".2f"),
            "real texts/s in process": f"{one['texts_per_second']:,.0f}",
            "texts a call": f"{one['batch_texts']:,}",
            "times its reference, same run": _times(one),
            "cost of a million texts": figure(one["cost_per_million_texts"], ".3g"),
        }
        for one in found["rows"]
    ]
    kept = {head: head for head in rows[0] if any(row[head] != NONE for row in rows)} if rows else {}
    cells = [{head: row[head] for head in kept} for row in rows]
    return f"{tabulate(cells, kept, 'github', disable_numparse=True)}\n\n{_note(found, places)}"


def _note(found: Document, places: Mapping[str, str]) -> str:
    lines = [
        f"Machine {places[one['run']]}: {one['name']} (fingerprint {one['id']}); run {one['run']}, profile "
        f"{one['profile']}, commit {one['commit'] or 'unknown'}."
        for one in found["machines"]
    ]
    lines.append(
        f"{found['data']['base']} on {found['data']['spec']}. Ratios hold within one device of one run: to "
        f"{REFERENCE} on a CPU, to {CUDA_REFERENCE} on a GPU."
    )
    if any(price is not None for price in found["prices"].values()):
        lines.append(
            "Cost is that of all cores of a machine and of the process' memory, or of one GPU with its host, "
            "at full load in process. What serving adds is not in it, nor are idle hours."
        )
    return "\n".join(f"- {line}" for line in lines)


def _times(row: Document) -> str:
    found = row["speedup"]
    return f"{found['ratio']:.2f}x {row['reference']}" if found["verdict"] in DECIDED else found["verdict"]
