"""How many replicas a load needs: the rate that one can sustain, and what all of them take and cost.

A simulated queue (`queueing`), fitted to a report (`replica`), gives the highest rate of random arrivals at
which a variant's p99 meets an objective. Plans that the measurements cannot support are refused.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.capacity.queueing import Batching, Replica, draw, open_latencies
from benchmarks.capacity.replica import (
    Compared,
    Fitted,
    Measured,
    against_closed,
    against_open,
    fit,
    measured,
    padding,
)
from benchmarks.names import REFERENCE
from benchmarks.records import Report, Variant
from benchmarks.selection import Objective, Selection, select
from common.programs import command
from common.records import Record
from deploy.torchserve.server import CONFIG
from handler.errors import UserError

SCHEMA = 1
MOST_LOAD = 0.95  # of saturation: beyond, a queue's length says how long it was simulated
LENGTHS_ALIKE = 1.5  # as a factor of the mean; beyond, batches are cut into other shapes than were timed
REQUESTS = 120_000
TOLERANCE = 0.2


@dataclass(frozen=True)
class Demand:
    """The demand: texts per second in total, the p99 of every replica, and how the texts arrive. `burstiness`
    is the squared coefficient of variation of the gaps between arrivals, 1 for Poisson."""

    rps: float
    p99_ms: float
    headroom: float
    burstiness: float = 1.0
    mean_tokens: float | None = None


@dataclass(frozen=True)
class Prices:
    """Per hour, in any currency; None: not given. The price of a GPU includes its host."""

    core_hour: float | None = None
    gb_hour: float | None = None
    gpu_hour: float | None = None


class Planned(Record):
    id: str
    cpu: str
    cores: int


class OneReplica(Record):
    """What it is, and what it sustains."""

    cores: int
    memory_mb: float
    rps: float
    p99_ms: float
    saturation_rps: float


class Point(Record):
    rps: float
    p99_ms: float


class Cost(Record):
    """Per hour and per million texts, when everything is paid for and exactly the demand arrives."""

    per_hour: float
    per_million_texts: float


class Plan(Record):
    """`cores` and `memory_gb` are those of all replicas; the `model` compares with what was measured in
    `fitted` and `compared`; the `curve` is p99 by rate; `assumptions` are in words."""

    schema: int
    run: str
    machine: Planned
    variant: str
    demand: Demand
    replica: OneReplica
    replicas: int
    rps_of_each: float
    cores: int
    memory_gb: float
    cost: Cost | None
    model: dict[str, Any]
    fitted: list[Fitted]
    compared: list[Compared]
    curve: list[Point]
    assumptions: list[str]


def choose(document: Report, selection: Selection | None, wanted: str | None) -> Variant:
    """The variant to plan for: the wanted one, the selected one, or the fastest that is equal and served.

    `UserError` where the wanted one was not measured, or none qualifies.
    """
    variants = {variant.name: variant for variant in document.variants}
    if wanted is None and selection and selection.run == document.run.id:
        wanted = selection.selected
    if wanted is None:
        wanted = select(document, Objective()).selected
        if wanted is None:
            raise UserError(
                "no variant qualifies",
                seen=f"run {document.run.id}",
                remedy=f"See why: {command('benchmarks select', 'select')}; or name one: --variant fp32",
            )
    if wanted not in variants:
        known = ", ".join(variants)
        raise UserError(f"{wanted} was not measured", seen=f"measured: {known}", remedy="Name one of them")
    return variants[wanted]


def most_rps(p99_at: Callable[[float], float], p99_ms: float, saturation_rps: float) -> float | None:
    """The highest rate, up to `MOST_LOAD` of saturation, at which `p99_at(rate)` is at most `p99_ms`; None
    where a lone request takes longer already."""
    low, high = 0.01 * saturation_rps, MOST_LOAD * saturation_rps
    if p99_at(low) > p99_ms:
        return None
    if p99_at(high) <= p99_ms:
        return high
    while high - low > 0.002 * saturation_rps:
        middle = (low + high) / 2
        low, high = (middle, high) if p99_at(middle) <= p99_ms else (low, middle)
    return low


def plan(document: Report, variant: Variant, demand: Demand, prices: Prices) -> Plan:
    """How many replicas of `variant` meet `demand`.

    `UserError` if the measurements cannot support a plan.
    """
    _refuse_gpus(variant)
    known = measured(variant, document.data.tokens)
    lengths = _lengths(known, demand.mean_tokens)
    replica = fit(known, Batching())
    asked = replace(replica, padding=padding(lengths, known.max_length))
    draws = draw(lengths, REQUESTS, seed=1, burstiness=demand.burstiness)
    saturation_rps = asked.saturation_rps(float(np.mean(lengths)))

    def p99_at(rps: float) -> float:
        return float(np.percentile(open_latencies(asked, rps, draws), 99))

    # A request that would wait longer has met a full queue: it is refused, not late.
    longest_ms = 1000 * _setting("job_queue_size=") / saturation_rps
    rps = most_rps(p99_at, min(demand.p99_ms, longest_ms), saturation_rps)
    if rps is None:
        raise UserError(
            f"no rate keeps a p99 of {demand.p99_ms:g} ms",
            seen=f"one request in a hundred takes over {p99_at(0.01 * saturation_rps):.1f} ms on an idle "
            f"replica of {variant.name}",
            remedy="Allow a higher p99, choose a faster variant, or measure on more cores",
        )
    replicas = math.ceil(demand.rps * demand.headroom / rps)
    machine = document.machine
    memory_mb, of_memory = _memory(variant)
    total_gb = replicas * memory_mb / 1000
    compared = against_open(replica, known)
    rates = np.linspace(0.05, 1, 20) * MOST_LOAD * saturation_rps
    return Plan(
        schema=SCHEMA,
        run=document.run.id,
        machine=Planned(id=machine.id, cpu=machine.cpu, cores=machine.cores),
        variant=variant.name,
        demand=replace(demand, mean_tokens=float(np.mean(lengths))),
        replica=OneReplica(
            cores=machine.cores,
            memory_mb=memory_mb,
            rps=rps,
            p99_ms=p99_at(rps),
            saturation_rps=saturation_rps,
        ),
        replicas=replicas,
        rps_of_each=demand.rps / replicas,
        cores=replicas * machine.cores,
        memory_gb=total_gb,
        cost=cost(prices, replicas * machine.cores, total_gb, demand.rps),
        model=replica.record(),
        fitted=against_closed(replica, known),
        compared=compared,
        curve=[Point(rps=rate, p99_ms=p99_at(rate)) for rate in rates.tolist()],
        assumptions=[
            *_assumptions(document, variant, demand, lengths, replica),
            of_memory,
            *_cautions(compared, variant, rps, saturation_rps),
        ],
    )


def _refuse_gpus(variant: Variant) -> None:
    if variant.device == "cuda":
        raise UserError(
            "plans are only for replicas on CPUs",
            seen=f"{variant.name} runs on a GPU",
            remedy="For the cost per million texts, see: " + command("benchmarks compare-machines --help"),
        )


def _lengths(known: Measured, mean_tokens: float | None) -> np.ndarray:
    """The lengths to plan for: as measured, or scaled to another mean."""
    factor = 1.0 if mean_tokens is None else mean_tokens / known.mean_tokens
    longest = factor * float(np.percentile(known.lengths, 99))
    if not 1 / LENGTHS_ALIKE <= factor <= LENGTHS_ALIKE or longest > known.max_length:
        raise UserError(
            "texts of these lengths were not measured",
            seen=f"a mean of {mean_tokens:g} tokens; the measured mean is {known.mean_tokens:.0f}, the "
            f"maximum {known.max_length}",
            remedy="Train and measure on texts of these lengths",
        )
    return np.clip(factor * known.lengths, 1, known.max_length)


def _memory(variant: Variant) -> tuple[float, str]:
    """Of a replica in MB, and where the figure comes from."""
    resources = variant.resources
    if seen := resources.server_rss_mb:
        return (
            seen,
            "Memory is the sum of what worker and Java held after the loads; shared memory counts twice.",
        )
    heap_mb = _setting("-Xmx") * 2**20 / 1e6
    peak_mb = resources.peak_rss_mb or 0.0
    return peak_mb + heap_mb, (
        f"Memory is the peak in process ({peak_mb:.0f} MB) plus the whole heap that config.properties "
        f"allows Java ({heap_mb:.0f} MB), because this report has no figure as served."
    )


def _setting(name: str) -> int:
    """A number in TorchServe's configuration."""
    found = re.search(rf"{name}(\d+)", CONFIG.read_text(encoding="utf-8"))
    if found is None:
        raise UserError(f"{name} is not set", seen=CONFIG, remedy="Set it: plans depend on it")
    return int(found[1])


def cost(prices: Prices, cores: float, memory_gb: float, rps: float) -> Cost | None:
    """Of an hour and of a million texts, all paid for and exactly `rps` asked; None without prices."""
    if prices.core_hour is None and prices.gb_hour is None:
        return None
    return _at(cores * (prices.core_hour or 0) + memory_gb * (prices.gb_hour or 0), rps)


def cost_on_gpu(prices: Prices, rps: float) -> Cost | None:
    """The same of one GPU."""
    return None if prices.gpu_hour is None else _at(prices.gpu_hour, rps)


def _at(hour: float, rps: float) -> Cost:
    return Cost(per_hour=hour, per_million_texts=hour / (rps * 3600) * 1e6)


def _assumptions(
    document: Report, variant: Variant, demand: Demand, lengths: np.ndarray, replica: Replica
) -> list[str]:
    machine = document.machine
    run = document.run
    busiest = variant.busiest
    assert busiest is not None  # or it would have been refused
    gaps = "" if demand.burstiness == 1 else f", gaps with {demand.burstiness:g} times Poisson's variance"
    mean = float(np.mean(lengths))
    p99 = float(np.percentile(lengths, 99))
    return [
        f"A replica is one TorchServe with one worker, batchSize {replica.batching.size} and maxBatchDelay "
        f"{replica.batching.delay_ms:g} ms, alone on {machine.cores} cores of {machine.cpu}, as in run "
        f"{run.id} (profile {run.profile}). Other CPUs, and other numbers of cores, need a run of their "
        "own.",
        f"Requests hold one text each and arrive at random{gaps}. Each replica gets a random share of them, "
        "and random shares of a Poisson stream are Poisson; a load balancer that evens out does better.",
        f"Texts have {mean:.0f} tokens on average and {p99:.0f} at the 99th percentile.",
        "p99 is that of a long, steady load on warm replicas, without the network between client and server; "
        "fewer than one request in a hundred finds TorchServe's queue full.",
        f"The load generator ran on the same cores and used {busiest.load_generator_cores:.2f} of them at "
        f"{busiest.requests_per_second:.0f} requests/s. The plan does not give these to the replicas.",
        f"Headroom is {demand.headroom:g} times the load. 1.25 allows for a model that is 20 % wrong, or for "
        "a fifth of the replicas being down (a rollout, a lost zone of five); not for both, nor for growth.",
    ]


def _cautions(compared: Sequence[Compared], variant: Variant, rps: float, saturation_rps: float) -> list[str]:
    """Where the report's own open loops, up to about the chosen rate, contradict the model."""
    found = []
    for level in compared:
        seen, modelled = level.measured.p99_ms, level.modelled
        explained = modelled.p99_low_ms <= seen <= modelled.p99_high_ms
        ratio = modelled.p99_ms / seen
        if level.rps <= (1 + TOLERANCE) * rps and not explained and abs(ratio - 1) > TOLERANCE:
            found.append(
                f"CAUTION: at {level.rps:g} requests/s the model's p99 is {ratio:.2f} times the measured "
                "one, more than so short a load can explain."
            )
    capacity = variant.saturation.capacity_rps if variant.saturation else 0
    if capacity > (1 + TOLERANCE) * saturation_rps:
        found.append(
            f"CAUTION: the server answered {capacity:.0f} requests/s; the model ends at {saturation_rps:.0f}."
        )
    if variant.name != REFERENCE and not variant.built.check.equal:
        found.append(f"CAUTION: the check at export did not find {variant.name} equal to fp32.")
    return found
