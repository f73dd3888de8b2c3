"""Does a plan come true? The queue model's forecast for a real server, and what is then measured.

Batches timed in process, closed loops and a light open loop calibrate a queue, with the code that makes plans
(`replica`); open loops at shares of its saturation are measured and compared with its forecast.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks import environment
from benchmarks.capacity.plan import TOLERANCE
from benchmarks.capacity.queueing import Batching, Replica
from benchmarks.capacity.replica import (
    Fitted,
    Measured,
    Timed,
    Window,
    against_closed,
    fit,
    quantiles,
    windows,
)
from benchmarks.in_process.worker import Worker, open_worker
from benchmarks.progress import Step, progress
from benchmarks.records import Lengths, Level, Machine, OpenLevel, plain
from benchmarks.samples import LEAST_SAMPLES
from benchmarks.served.open_loop import describe_open, open_loop
from benchmarks.served.run import Running, as_bodies, describe, serve
from common.atomic import write_json
from common.commands import emit, positive_float, run, say, share
from common.environment import commit
from common.options import add_archive, add_checkpoint, add_results
from common.programs import command
from common.records import Record
from common.torchserve import model_config
from deploy.tuning.load import closed_loop
from handler.artifact import unpacked
from handler.errors import UserError
from training.checkpoint import load_data, open_checkpoint

SCHEMA = 1
SIZES = (1, 2, 4, 8, 16, 32)  # of batches in process
CLIENTS = (1, 2, 4, 8, 16, 32, 64)  # the last keeps every batch full
LEAST_TURNS = 3
LIGHT = 0.1  # of the rate that the most clients reached
MIDDLE = 0.5  # of it: what an arrival costs the generator falls with the rate, and hardly beyond this one
OVERLOAD = 1.25  # of the forecast rate at which all is full: enough to see one that is 20 % higher
WARM_S = 3.0
QUIET_CORES = 0.1  # taken by others; with more, calibration and load need not have met the same machine


def steps(shares: Sequence[float], seconds: float) -> dict[str, tuple[int, float]]:
    """For `progress`."""
    return {
        "timing": (1, seconds + 5),
        "calibrating": (len(CLIENTS) + 2, seconds / 2 + 2),
        "measuring": (len(shares) + 1, 1.1 * seconds),
    }


class Full(Record):
    """Saturation; `ratio` is the forecast's to what was measured."""

    offered_rps: float
    forecast_rps: float
    measured_rps: float
    ratio: float


class CheckedRate(Record):
    """A load as it was forecast and as it was measured, at a share of the forecast saturation."""

    share: float
    rps: float
    forecast: Window
    measured: OpenLevel
    p50_ratio: float
    p99_ratio: float


class Calibration(Record):
    fitted: list[Fitted]
    light: OpenLevel
    generator_ms: float


class Checked(Record):
    """`within` says whether no ratio is off by more than the tolerance."""

    schema: int
    variant: str
    artifact_sha256: str
    machine: Machine
    commit: str | None
    load_average_before: float | None
    others_cores: float
    seconds: float
    calibration: Calibration
    model: dict[str, Any]
    saturation: Full
    rates: list[CheckedRate]
    tolerance: float
    within: bool


def check(
    archive: Path,
    server: AbstractContextManager[Running],
    texts: Sequence[str],
    shares: Sequence[float],
    seconds: float,
    step: Step,
) -> Checked:
    """What is forecast and what is measured then, at each of `shares` of the forecast saturation and at
    saturation itself. `server` is TorchServe on `archive`. A load lasts `seconds`, a level of the calibration
    half of that.

    `UserError` for an archive that is not ours or has several workers.
    """
    batching = archived_batching(archive)
    load_before = environment.load_average()
    with tempfile.TemporaryDirectory(prefix="plan-check-") as scratch, step("timing batches in process"):
        artifact = unpacked(archive, Path(scratch))
        with open_worker(artifact.name) as worker:
            worker.ask("load", folder=str(artifact.folder), threads=None, first_text=texts[0])
            timed, lengths = _time_batches(worker, texts, seconds, artifact.max_length)
    bodies = as_bodies(texts)
    with server as running:
        closed, light, generator_ms = _calibrate(running, bodies, seconds / 2, step)
        known = Measured(
            timed,
            closed,
            [light],
            lengths,
            artifact.max_length,
            light.split_ms.http if light.split_ms else 0.0,
        )
        fitted = fit(known, batching)
        replica = replace(fitted, text_ms=fitted.text_ms + generator_ms)
        full_rps = replica.saturation_rps(known.mean_tokens)
        others = environment.Others([running.worker.pid, running.worker.ppid()])
        began = time.perf_counter()
        forecast = Forecast(replica, full_rps, lengths)
        rates = [
            _compare(running, bodies, forecast, share, seconds, seed, step)
            for seed, share in enumerate(shares)
        ]
        with step("measuring saturation"):
            loaded = _open(running, bodies, OVERLOAD * full_rps, seconds, len(shares))
        others_cores = others.seconds() / (time.perf_counter() - began)
    saturation = Full(
        offered_rps=loaded.offered_rps,
        forecast_rps=full_rps,
        measured_rps=loaded.answered_rps,
        ratio=full_rps / loaded.answered_rps,
    )
    ratios = [saturation.ratio, *(rate.p99_ratio for rate in rates)]
    closed_fit = against_closed(fitted, known)
    return Checked(
        schema=SCHEMA,
        variant=artifact.name,
        artifact_sha256=artifact.sha256,
        machine=environment.fingerprint(),
        commit=commit(),
        load_average_before=load_before,
        others_cores=others_cores,
        seconds=seconds,
        calibration=Calibration(fitted=closed_fit, light=light, generator_ms=generator_ms),
        model=replica.record(),
        saturation=saturation,
        rates=rates,
        tolerance=TOLERANCE,
        within=all(abs(ratio - 1) <= TOLERANCE for ratio in ratios),
    )


def archived_batching(archive: Path) -> Batching:
    """How TorchServe batches for the one worker of `archive`. `UserError` where there are more, or where it
    does not say."""
    settings = model_config(archive)
    try:
        found = Batching(settings["batchSize"], settings["maxBatchDelay"])
        workers = settings["maxWorkers"]
    except KeyError as error:
        raise UserError(
            "the archive does not say how it is batched",
            seen=archive,
            remedy=f"Build it: {command('export package', 'package')}",
        ) from error
    if workers != 1:
        raise UserError(
            "the queue model has one worker", seen=f"maxWorkers: {workers}", remedy="Use an archive with one"
        )
    return found


def _time_batches(
    worker: Worker, texts: Sequence[str], seconds: float, max_length: int
) -> tuple[list[Timed], np.ndarray]:
    """Batches of each of `SIZES` in turns, for `seconds` and `LEAST_TURNS` at least; quantiles of tokens."""
    held = list(islice(cycle(texts), max(len(texts), 2 * max(SIZES))))
    worker.ask("hold", texts=held)
    tokens = np.array(worker.ask("lengths"))
    timed: list[Timed] = []
    turns = 0
    begun = time.perf_counter()
    while turns < LEAST_TURNS or time.perf_counter() - begun < seconds:
        for size in SIZES:
            start = turns * size % (len(held) - size + 1)
            time_ms, _ = worker.ask("together", start=start, stop=start + size)
            timed.append(Timed(size, float(tokens[start : start + size].sum()), time_ms))
        turns += 1
    p50, p90, p99 = np.percentile(tokens, (50, 90, 99)).tolist()
    known = Lengths(mean=float(tokens.mean()), p50=p50, p90=p90, p99=p99)
    weighted = [replace(batch, weight=1 / turns) for batch in timed]
    return weighted, quantiles(known, max_length)


def _calibrate(
    running: Running, bodies: Sequence[bytes], seconds: float, step: Step
) -> tuple[list[Level], OpenLevel, float]:
    """Closed levels of `CLIENTS`, and a light open one, as in a report; and by how many ms of its CPU time an
    arrival costs the generator more than a request of the most clients."""
    closed_loop(running.predictions, bodies, CLIENTS[-1], WARM_S, 0)  # Java compiles what is called often
    closed = []
    for clients in CLIENTS:
        with step(f"calibrating with {clients} clients"):
            closed.append(
                describe([closed_loop(running.predictions, bodies, clients, seconds, 0.5, LEAST_SAMPLES[99])])
            )
    with step("calibrating under a light load"):
        light = _open(running, bodies, LIGHT * closed[-1].requests_per_second, seconds, 0)
    with step("calibrating the generator"):
        rate = MIDDLE * closed[-1].requests_per_second
        middle = open_loop(running.predictions, bodies, rate, seconds, 0, warm_s=1.0)
    waiting_s = closed[-1].load_generator_cores / closed[-1].requests_per_second
    return closed, light, max(0.0, 1000 * (middle.cpu_s / len(middle.due_s) - waiting_s))


def _open(running: Running, bodies: Sequence[bytes], rate: float, seconds: float, seed: int) -> OpenLevel:
    found = open_loop(running.predictions, bodies, rate, seconds, seed, warm_s=1.0, metrics=running.metrics)
    if not found.within():
        raise UserError(
            "the server answered nothing",
            seen=found.errors,
            remedy=f"Try again; then {command('handler doctor', 'doctor')}",
        )
    return describe_open([found], np.inf)


@dataclass(frozen=True)
class Forecast:
    """The queue with which loads are forecast, its saturation, and the texts' lengths."""

    replica: Replica
    full_rps: float
    lengths: np.ndarray


def _compare(
    running: Running,
    bodies: Sequence[bytes],
    queue: Forecast,
    share: float,
    seconds: float,
    seed: int,
    step: Step,
) -> CheckedRate:
    """A load as it was forecast and as it was measured."""
    rate = float(f"{share * queue.full_rps:.3g}")
    with step(f"measuring {share:.0%} of saturation"):
        forecast = windows(queue.replica, rate, seconds, queue.lengths)
        seen = _open(running, bodies, rate, seconds, seed)
    if seen.p50_ms is None or seen.p99_ms is None:
        raise UserError(
            "too few requests for a p99",
            seen=f"{seen.arrivals} in {seconds:g} s",
            remedy="Measure for longer: --seconds 60",
        )
    return CheckedRate(
        share=share,
        rps=rate,
        forecast=forecast,
        measured=seen,
        p50_ratio=forecast.p50_ms / seen.p50_ms,
        p99_ratio=forecast.p99_ms / seen.p99_ms,
    )


def check_table(document: Checked) -> str:
    """What was forecast and what was measured."""
    full = document.saturation
    rows = [
        (
            "saturation, texts/s",
            *(f"{rate:.1f}" for rate in (full.forecast_rps, full.measured_rps)),
            "",
            full.ratio,
        )
    ]
    for rate in document.rates:
        forecast, seen = rate.forecast, rate.measured
        at = f"at {rate.rps:g} texts/s ({rate.share:.0%})"
        span = f"{forecast.p99_low_ms:.1f} to {forecast.p99_high_ms:.1f}"
        rows.append((f"p50 ms {at}", f"{forecast.p50_ms:.1f}", f"{seen.p50_ms:.1f}", "", rate.p50_ratio))
        rows.append((f"p99 ms {at}", f"{forecast.p99_ms:.1f}", f"{seen.p99_ms:.1f}", span, rate.p99_ratio))
    heads = ["", "forecast", "measured", "90 % of such loads", "ratio"]
    cells = [(*row[:-1], f"{row[-1]:.2f}") for row in rows]
    return tabulate(cells, heads, tablefmt="github", disable_numparse=True)


def check_note(document: Checked) -> str:
    """How the forecast did, and what else ran meanwhile."""
    taken = document.others_cores
    verdict = "within" if document.within else "NOT within"
    return (
        f"The forecasts of saturation and p99 are {verdict} {document.tolerance:.0%} of the measured values. "
        f"Client and server shared {document.machine.cores} cores, during calibration and loads; other "
        f"processes used {taken:.2f} of them{': too much for a verdict' if taken > QUIET_CORES else ''}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if a forecast is off by more than the tolerance."""
    arguments = _parser().parse_args(argv)
    if not arguments.archive.is_file():
        make = command("export package", "package")
        raise UserError("there is no such archive", seen=arguments.archive, remedy=f"Make it: {make}")
    texts = load_data(open_checkpoint(arguments.checkpoint)).splits["gate"].texts[:2000]
    with progress(steps(arguments.shares, arguments.seconds)) as step:
        server = serve(arguments.archive)
        found = check(arguments.archive, server, texts, arguments.shares, arguments.seconds, step)
    write_json(arguments.results / "plan-check.json", plain(found))
    say(f"\n{check_table(found)}\n\n{check_note(found)}")
    emit(plain(found))
    return 0 if found.within else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.plan_check",
        description="Serve an archive, forecast its saturation and p99, and measure them; exit 1 if a "
        "forecast is off by more than 20 %.",
    )
    add_results(parser)
    add_archive(parser)
    add_checkpoint(parser)
    parser.add_argument(
        "--shares", type=share, nargs="+", default=[0.5, 0.8], help="of saturation; default: 0.5 0.8"
    )
    parser.add_argument(
        "--seconds", type=positive_float, default=30.0, help="duration of each load; default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    run(main)
