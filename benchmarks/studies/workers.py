"""One process with all threads against several with their share: requests per second, p99, memory.

All servers are up at once, and one at a time is loaded, there and back, so that what slows the machine for a
while slows them alike.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks.samples import percentile
from benchmarks.served.head_to_head import over_rounds
from benchmarks.served.run import Running, as_bodies, launched
from benchmarks.served.worker_counts import NAME, WorkersFound, WorkersLevel, excerpt
from common.atomic import write_json
from common.commands import emit, positive_float, positive_int, run, say
from common.environment import machine
from common.options import add_results
from common.records import plain
from deploy.torchserve.server import free_ports
from deploy.tuning.load import Load, closed_loop
from deploy.tuning.sample import read_texts
from handler.artifact import open_artifact
from training.data.demo import corpus

CLIENTS = (8, 32)


def texts_of(path: Path | None) -> list[str]:
    return read_texts(path) if path else [example.text for example in corpus()["test"]]


@contextmanager
def app(*options: object) -> Iterator[Running]:
    """`deploy app` with the options, on a free port, once it is ready."""
    (port,) = free_ports(1)
    line = ["-m", "deploy", "app", "--port", str(port), *map(str, options)]
    with launched(line, port, "/ready", "/predict", os.environ) as running:
        yield running


def memory_mb(root: psutil.Process) -> float:
    """What the process and its children hold alone, and their share of what they hold together."""
    held = (each.memory_full_info().pss for each in (root, *root.children(recursive=True)))
    return float(sum(held) / 1e6)


def level(workers: int, clients: int, loads: Sequence[Load], mb: float) -> WorkersLevel:
    latencies = [latency for load in loads for latency in load.latencies_ms]
    return WorkersLevel(
        workers=workers,
        clients=clients,
        requests_per_second=over_rounds([load.requests_per_second for load in loads]),
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
        errors=sum(sum(load.errors.values()) for load in loads),
        memory_mb=mb,
    )


def in_turns(running: Mapping[int, Running], options: argparse.Namespace) -> list[WorkersLevel]:
    """Each server's rates, there and back."""
    bodies = as_bodies(texts_of(options.texts))
    loads: dict[tuple[int, int], list[Load]] = {}
    for turn in range(options.rounds):
        for clients in CLIENTS:
            for workers in list(running)[:: 1 if turn % 2 == 0 else -1]:
                url, seconds = running[workers].predictions, options.seconds
                load = closed_loop(url, bodies, clients, seconds, seconds / 5)
                loads.setdefault((workers, clients), []).append(load)
                say(f"{workers} workers, {clients} clients: {load.requests_per_second:.0f} a second")
    memory = {workers: memory_mb(server.worker) for workers, server in running.items()}
    return [level(*place, found, memory[place[0]]) for place, found in sorted(loads.items())]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.workers", description=__doc__)
    add_results(parser)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--texts", type=Path, help="one a line; default: those of the demo")
    parser.add_argument("--workers", type=positive_int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=positive_float, default=10.0, help="default: %(default)s")
    parser.add_argument("--rounds", type=positive_int, default=3, help="default: %(default)s")
    options = parser.parse_args(argv)
    variant = open_artifact(options.artifact).name
    with ExitStack() as stack:
        running = {
            workers: stack.enter_context(app("--artifact", options.artifact, "--workers", workers))
            for workers in options.workers
        }
        levels = in_turns(running, options)
    found = WorkersFound(
        machine=machine(),
        variant=variant,
        rounds=options.rounds,
        seconds=options.seconds,
        levels=levels,
    )
    write_json(options.results / f"{NAME}.json", plain(found))
    say(excerpt(found))
    emit(plain(found))
    return 0


if __name__ == "__main__":
    run(main)
