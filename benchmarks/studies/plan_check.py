"""Does a plan come true? What the queue foretells of a real server on this machine, beside what is measured.

Covers a private TorchServe on one archive: batches of a few sizes timed in process, closed loops and a light
open one as served; from these alone a queue, by the code that plans (`replica`); its forecast of open loops
at shares of the rate at which it would be full, and of that rate; then exactly these loads. Clients and
server share the cores in the first part as in the second, so the forecast is of this machine with the
generator on it: a server alone does better. Arrivals that do not wait cost the generator more than clients
that do; while it works, the worker's threads wait for the one that it has displaced, so that the difference
is added to the time of each text. Leaves out what a plan makes of a queue (`capacity`).
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment
from benchmarks.capacity.plan import TOLERANCE
from benchmarks.capacity.queueing import Batching
from benchmarks.capacity.replica import Measured, Timed, against_closed, fit, quantiles, windows
from benchmarks.in_process.worker import Worker, open_worker
from benchmarks.progress import Step, progress
from benchmarks.records import tidy
from benchmarks.report.plan_page import check_note, check_table
from benchmarks.samples import LEAST_SAMPLES
from benchmarks.served.open_loop import describe_open, open_loop
from benchmarks.served.run import Running, as_bodies, describe, serve
from common.atomic import write_json
from common.commands import emit, positive_float, run, say, share
from common.environment import commit
from common.options import add_archive, add_checkpoint, add_results
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


def steps(shares: Sequence[float], seconds: float) -> dict[str, tuple[int, float]]:
    """For `progress`."""
    return {
        "timing": (1, seconds + 5),
        "calibrating": (len(CLIENTS) + 2, seconds / 2 + 2),
        "measuring": (len(shares) + 1, 1.1 * seconds),
    }


def check(
    archive: Path,
    server: AbstractContextManager[Running],
    texts: Sequence[str],
    shares: Sequence[float],
    seconds: float,
    step: Step,
) -> dict[str, Any]:
    """What is forecast and what is measured then, in plain JSON: `rates`, one for each of `shares` of the
    forecast saturation, and `saturation` itself; `within` says whether no ratio is off by more than
    `TOLERANCE`. `server` is TorchServe on `archive`. A load lasts `seconds`, a level of the calibration half
    of that.

    `UserError` for an archive that is not ours or has several workers.
    """
    batching, load_before = archived_batching(archive), environment.load_average()
    with tempfile.TemporaryDirectory(prefix="plan-check-") as scratch, step("timing batches in process"):
        artifact = unpacked(archive, Path(scratch))
        with open_worker(artifact.name) as worker:
            worker.ask("load", folder=str(artifact.folder), threads=None, first_text=texts[0])
            timed, lengths = _time_batches(worker, texts, seconds, artifact.max_length)
    bodies = as_bodies(texts)
    with server as running:
        closed, light, generator_ms = _calibrate(running, bodies, seconds / 2, step)
        known = Measured(timed, closed, [light], lengths, artifact.max_length, light["split_ms"]["http"])
        fitted = fit(known, batching)
        replica = replace(fitted, text_ms=fitted.text_ms + generator_ms)
        full_rps = replica.saturation_rps(known.mean_tokens)
        others = environment.Others([running.worker.pid, running.worker.ppid()])
        began, rates = time.perf_counter(), []
        for seed, share in enumerate(shares):
            rate = float(f"{share * full_rps:.3g}")
            with step(f"measuring {share:.0%} of saturation"):
                forecast = windows(replica, rate, seconds, lengths)
                rates.append({"share": share, **_compare(running, bodies, rate, seconds, seed, forecast)})
        with step("measuring saturation"):
            loaded = _open(running, bodies, OVERLOAD * full_rps, seconds, len(shares))
        others_cores = others.seconds() / (time.perf_counter() - began)
    saturation = {
        "offered_rps": loaded["offered_rps"],
        "forecast_rps": full_rps,
        "measured_rps": loaded["answered_rps"],
        "ratio": full_rps / loaded["answered_rps"],
    }
    ratios = [saturation["ratio"], *(one["p99_ratio"] for one in rates)]
    return tidy(
        {
            "schema": SCHEMA,
            "variant": artifact.name,
            "artifact_sha256": artifact.sha256,
            "machine": environment.fingerprint(),
            "commit": commit(),
            "load_average_before": load_before,
            "others_cores": others_cores,
            "seconds": seconds,
            "calibration": {
                "fitted": against_closed(fitted, known),
                "light": light,
                "generator_ms": generator_ms,
            },
            "model": replica.record(),
            "saturation": saturation,
            "rates": rates,
            "tolerance": TOLERANCE,
            "within": all(abs(ratio - 1) <= TOLERANCE for ratio in ratios),
        }
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
            "the archive does not say how it is batched", seen=archive, remedy="Build it: make package"
        ) from error
    if workers != 1:
        raise UserError(
            "the model is of one worker", seen=f"maxWorkers: {workers}", remedy="Check an archive with one"
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
    turns, begun = 0, time.perf_counter()
    while turns < LEAST_TURNS or time.perf_counter() - begun < seconds:
        for size in SIZES:
            start = turns * size % (len(held) - size + 1)
            time_ms, _ = worker.ask("together", start=start, stop=start + size)
            timed.append(Timed(size, float(tokens[start : start + size].sum()), time_ms))
        turns += 1
    known = dict(zip(("p50", "p90", "p99"), np.percentile(tokens, (50, 90, 99)), strict=True))
    weighted = [replace(one, weight=1 / turns) for one in timed]
    return weighted, quantiles({"mean": float(tokens.mean()), **known}, max_length)


def _calibrate(
    running: Running, bodies: Sequence[bytes], seconds: float, step: Step
) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
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
        light = _open(running, bodies, LIGHT * closed[-1]["requests_per_second"], seconds, 0)
    with step("calibrating the generator"):
        rate = MIDDLE * closed[-1]["requests_per_second"]
        middle = open_loop(running.predictions, bodies, rate, seconds, 0, warm_s=1.0)
    waiting_s = closed[-1]["load_generator_cores"] / closed[-1]["requests_per_second"]
    return closed, light, max(0.0, 1000 * (middle.cpu_s / len(middle.due_s) - waiting_s))


def _open(
    running: Running, bodies: Sequence[bytes], rate: float, seconds: float, seed: int
) -> dict[str, Any]:
    found = open_loop(running.predictions, bodies, rate, seconds, seed, warm_s=1.0, metrics=running.metrics)
    if not found.within():
        raise UserError(
            "the server answered nothing", seen=found.errors, remedy="Try again; then make doctor"
        )
    return describe_open([found], np.inf)


def _compare(
    running: Running,
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    seed: int,
    forecast: Mapping[str, float],
) -> dict[str, Any]:
    """A load as it was forecast and as it was measured."""
    seen = _open(running, bodies, rate, seconds, seed)
    if seen["p99_ms"] is None:
        raise UserError(
            "too few requests for a p99", seen=f"{seen['arrivals']} in {seconds:g} s", remedy="--seconds 60"
        )
    kept = ("arrivals", "answered_rps", "p50_ms", "p99_ms", "saturated", "errors", "late_p99_ms")
    return {
        "rps": rate,
        "forecast": forecast,
        "measured": {key: seen[key] for key in kept},
        "p50_ratio": forecast["p50_ms"] / seen["p50_ms"],
        "p99_ratio": forecast["p99_ms"] / seen["p99_ms"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 where the plan is off by more than is allowed."""
    arguments = _parser().parse_args(argv)
    if not arguments.archive.is_file():
        raise UserError("there is no such archive", seen=arguments.archive, remedy="Make it: make package")
    texts = load_data(open_checkpoint(arguments.checkpoint)).splits["gate"].texts[:2000]
    with progress(steps(arguments.shares, arguments.seconds)) as step:
        server = serve(arguments.archive)
        found = check(arguments.archive, server, texts, arguments.shares, arguments.seconds, step)
    write_json(arguments.results / "plan-check.json", found)
    say(f"\n{check_table(found)}\n\n{check_note(found)}")
    emit(found)
    return 0 if found["within"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.plan_check",
        description="Serve an archive, predict its saturation and p99, measure them; exit 1 beyond 20 %.",
    )
    add_results(parser)
    add_archive(parser)
    add_checkpoint(parser)
    parser.add_argument(
        "--shares", type=share, nargs="+", default=[0.5, 0.8], help="of saturation; default: 0.5 0.8"
    )
    parser.add_argument(
        "--seconds", type=positive_float, default=30.0, help="of each load; default: %(default)s"
    )
    return parser


if __name__ == "__main__":
    run(main)
