"""Runs of several machines in one table, such as a CPU server's and a GPU server's.

Rates and costs of several machines share one table; there are no ratios across runs or devices.
"""

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from benchmarks.capacity.plan import Prices, cost, cost_on_gpu
from benchmarks.names import CUDA_REFERENCE, REFERENCE, SMALL
from benchmarks.records import Latency, Ratio, Report, Row
from benchmarks.report.phrases import DEVICES, NONE, figure
from benchmarks.report.verdicts import margin, verdict
from common.records import Record
from handler.errors import UserError

SAME = ("spec", "sha256", "base", "timed_split")  # of the data, where rates are of the same work


class Place(Record, omit_defaults=False):
    """A machine, by its fingerprint, and the run on it."""

    id: str
    name: str
    run: str
    commit: str | None
    profile: str


class MachineRow(Record, omit_defaults=False):
    """A variant or baseline as measured in process; the cost is None where its price was not told."""

    run: str
    device: str
    name: str
    verdict: str
    p50_ms: float | None
    batch_texts: int
    texts_per_second: float
    reference: str
    speedup: Ratio
    cost_per_million_texts: float | None


class Machines(Record, omit_defaults=False):
    data: dict[str, str]
    prices: Prices
    machines: list[Place]
    rows: list[MachineRow]


def compare_machines(documents: Sequence[Report], prices: Prices) -> Machines:
    """A row for each variant and baseline that was measured in process.

    Raises `UserError` for runs on other texts or of another model.
    """
    told = [{key: getattr(document.data, key) for key in SAME} for document in documents]
    if any(data != told[0] for data in told):
        seen = [
            f"{document.data.base} on {document.data.spec} ({document.data.timed_split})"
            for document in documents
        ]
        raise UserError(
            "the reports are about different models or texts, so their rates cannot be compared",
            seen=" and ".join(dict.fromkeys(seen)),
            remedy="Measure the same checkpoint and data on each machine",
        )
    return Machines(
        data=told[0],
        prices=prices,
        machines=[_place(document) for document in documents],
        rows=[
            _row(row, row.batch, document, prices)
            for document in documents
            for row in document.rows
            if not row.error and row.batch
        ],
    )


def _place(document: Report) -> Place:
    machine = document.machine
    run = document.run
    cards = [card.name for card in machine.gpus]
    name = ", ".join([machine.cpu, f"{machine.cores} cores", *cards])
    return Place(id=machine.id, name=name, run=run.id, commit=run.commit, profile=run.profile)


def _row(row: Row, batch: Latency, document: Report, prices: Prices) -> MachineRow:
    rate = batch.texts_per_second
    if row.device == "cuda":
        paid = cost_on_gpu(prices, rate)
    else:
        paid = cost(prices, document.machine.cores, (row.resources.peak_rss_mb or 0) / 1000, rate)
    smallest = row.case(SMALL)
    return MachineRow(
        run=document.run.id,
        device=row.device,
        name=row.name,
        verdict=verdict(row, margin(document)),
        p50_ms=smallest.p50_ms if smallest else None,
        batch_texts=batch.batch,
        texts_per_second=rate,
        reference=row.yardstick,
        speedup=batch.speedup,
        cost_per_million_texts=paid.per_million_texts if paid else None,
    )


def table(found: Machines) -> str:
    """The same for people: one table, and how it was measured."""
    places = {machine.run: str(number) for number, machine in enumerate(found.machines, 1)}
    rows = [
        {
            "machine": places[row.run],
            "device": DEVICES[row.device],
            "variant": row.name,
            "verdict": row.verdict,
            f"{SMALL} p50 ms": figure(row.p50_ms, ".2f"),
            "real texts/s in process": f"{row.texts_per_second:,.0f}",
            "texts per call": f"{row.batch_texts:,}",
            "times its reference, same run": _times(row),
            "cost per million texts": figure(row.cost_per_million_texts, ".3g"),
        }
        for row in found.rows
    ]
    kept = {head: head for head in rows[0] if any(row[head] != NONE for row in rows)} if rows else {}
    cells = [{head: row[head] for head in kept} for row in rows]
    return f"{tabulate(cells, kept, 'github', disable_numparse=True)}\n\n{_note(found, places)}"


def _note(found: Machines, places: Mapping[str, str]) -> str:
    lines = [
        f"Machine {places[machine.run]}: {machine.name} (fingerprint {machine.id}); run {machine.run}, "
        f"profile {machine.profile}, commit {machine.commit or 'unknown'}."
        for machine in found.machines
    ]
    lines.append(
        f"{found.data['base']} on {found.data['spec']}. Ratios hold within one device and run: to "
        f"{REFERENCE} on a CPU, to {CUDA_REFERENCE} on a GPU."
    )
    if any(price is not None for price in vars(found.prices).values()):
        lines.append(
            "Cost covers all cores of a machine and the memory of the process, or one GPU with its host, at "
            "full load in process. It leaves out what serving adds, and idle hours."
        )
    return "\n".join(f"- {line}" for line in lines)


def _times(row: MachineRow) -> str:
    found = row.speedup
    return f"{found.ratio:.2f}x {row.reference}" if found.is_decided else found.verdict
