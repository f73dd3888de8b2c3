"""What do our servers cost on top of the model? TorchServe and the app against the Predictor, in turns.

Under load the Predictor has batches of the size that the server formed; a lone client is compared with single
texts.
"""

import argparse
import http.client
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
from tqdm import tqdm

from benchmarks.names import APP
from benchmarks.served.entrants import TORCHSERVE
from benchmarks.served.head_to_head import over_rounds
from benchmarks.served.overheads import NAME, Batched, Difference, Lone, OfArchive, Overhead, excerpt
from benchmarks.served.run import Running, as_bodies, serve, serve_app
from benchmarks.served.torchserve_metrics import read_counters
from common.atomic import write_json
from common.commands import emit, positive_float, positive_int, run, say
from common.environment import machine
from common.options import add_results
from common.records import plain
from common.tables.texts import read_texts
from deploy.tuning.load import JSON, closed_loop
from handler.artifact import unpacked
from handler.metrics import INTERVAL_S
from handler.predictor import Predictor

WARM_S = 0.5
SETTLE_S = INTERVAL_S + 0.2  # the archive gives its counters away once a second
REQUESTS, BATCHES = "classifier_requests", "classifier_batches"
DRAWS = 2000


@dataclass
class Server:
    """One that is up, and what was found of it at each number of clients, a value for each round."""

    name: str
    running: Running
    rates: dict[int, list[float]] = field(default_factory=dict)
    batches: dict[int, list[float]] = field(default_factory=dict)
    alone: dict[int, list[float]] = field(default_factory=dict)
    shares: dict[int, list[float]] = field(default_factory=dict)
    spent_ms: dict[int, list[tuple[float, float, float]]] = field(default_factory=dict)

    @property
    def counters(self) -> str:
        """Where it shows them."""
        root = "{0.scheme}://{0.netloc}".format(urlsplit(self.running.predictions))
        return self.running.metrics or f"{root}/metrics"

    def cpu_s(self) -> tuple[float, float]:
        """Of the worker, and of Java."""
        worker, root = self.running.worker, self.running.root()
        return _cpu_s(worker), 0.0 if root == worker else _cpu_s(root)

    def found(self, clients: int) -> Batched:
        worker_ms, java_ms, client_ms = np.mean(self.spent_ms[clients], axis=0).tolist()
        return Batched(
            server=self.name,
            clients=clients,
            batch=float(np.mean(self.batches[clients])),
            requests_per_second=over_rounds(self.rates[clients]),
            predictor_per_second=over_rounds(self.alone[clients]),
            share=over_rounds(self.shares[clients]),
            worker_ms=worker_ms,
            java_ms=java_ms if self.name == TORCHSERVE else None,
            client_ms=client_ms,
        )


def _cpu_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


@contextmanager
def both(archive: Path) -> Iterator[list[Server]]:
    with serve(archive) as torchserve, serve_app(archive) as app:
        yield [Server(TORCHSERVE, torchserve), Server(APP, app)]


def under_load(
    server: Server, predictor: Predictor, texts: Sequence[str], clients: int, seconds: float
) -> None:
    """One round: a closed loop, then the Predictor with batches of the size that was formed."""
    bodies = as_bodies(texts)
    url = server.running.predictions
    closed_loop(url, bodies, clients, WARM_S, 0)
    time.sleep(SETTLE_S)
    counted, (worker_s, java_s) = read_counters(server.counters), server.cpu_s()
    load = closed_loop(url, bodies, clients, seconds, 0)
    worker, java = server.cpu_s()
    time.sleep(SETTLE_S)
    after = read_counters(server.counters)
    answers = len(load.latencies_ms)
    requests, batches = (after[name] - counted[name] for name in (REQUESTS, BATCHES))
    alone = texts_per_second(predictor, texts, max(1, round(requests / batches)), seconds)
    left = 1 - load.cpu_s / (load.seconds * predictor.threads)
    server.rates.setdefault(clients, []).append(load.requests_per_second)
    server.batches.setdefault(clients, []).append(requests / batches)
    server.alone.setdefault(clients, []).append(alone)
    server.shares.setdefault(clients, []).append(load.requests_per_second / left / alone)
    spent_ms = (1000 * each / answers for each in (worker - worker_s, java - java_s, load.cpu_s))
    server.spent_ms.setdefault(clients, []).append(tuple(spent_ms))  # type: ignore[arg-type]


def texts_per_second(predictor: Predictor, texts: Sequence[str], size: int, seconds: float) -> float:
    """From strings to answers, in batches of `size`."""
    batches = [texts[start : start + size] for start in range(0, len(texts) - size + 1, size)]
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for prediction in predictor.predict(batches[done // size % len(batches)]):
            predictor.answer(prediction)
        done += size
    return done / (time.perf_counter() - begun)


def lone(app: Server, predictor: Predictor, texts: Sequence[str], turns: int, size: int) -> Lone:
    """The app and the Predictor in turns of `size` texts, the same for both."""
    place = urlsplit(app.running.predictions)
    connection = http.client.HTTPConnection(place.netloc, timeout=60)

    def ask(body: bytes) -> None:
        connection.request("POST", place.path, body, JSON)
        connection.getresponse().read()

    def predict(text: str) -> None:
        predictor.answer(*predictor.predict([text]))

    served: list[list[float]] = []
    alone: list[list[float]] = []
    for turn in tqdm(range(turns), "a lone client", unit=" turns", disable=None):
        own = [texts[(turn * size + place) % len(texts)] for place in range(size)]
        sides = [(served, ask, as_bodies(own)), (alone, predict, own)]
        for found, question, given in sides[:: 1 if turn % 2 else -1]:
            found.append(latencies_ms(question, given))  # type: ignore[arg-type]
    connection.close()
    draws = np.random.default_rng(0).integers(turns, size=(DRAWS, turns))
    return Lone(
        turns=turns,
        texts=size,
        p50=difference(np.array(served), np.array(alone), 50, draws),
        p99=difference(np.array(served), np.array(alone), 99, draws),
    )


def latencies_ms(question: Callable[[object], None], given: Sequence[object]) -> list[float]:
    """Of each, after the first, which finds cold caches."""
    question(given[0])
    found = []
    for each in given:
        begun = time.perf_counter()
        question(each)
        found.append(1000 * (time.perf_counter() - begun))
    return found


def difference(served: np.ndarray, alone: np.ndarray, percent: int, draws: np.ndarray) -> Difference:
    """Of two [turns, texts] in ms; `draws` are turns, [draws, turns]."""
    first, second = np.percentile(served, percent), np.percentile(alone, percent)
    drawn = [np.percentile(served[rows], percent) - np.percentile(alone[rows], percent) for rows in draws]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(
        app_ms=float(first),
        predictor_ms=float(second),
        difference_ms=float(first - second),
        low_ms=float(low),
        high_ms=float(high),
    )


def study(archive: Path, texts: Sequence[str], options: argparse.Namespace) -> OfArchive:
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        artifact = unpacked(archive, Path(scratch))
        predictor = Predictor(artifact)
        predictor.warm()
        with both(archive) as servers:
            for turn in tqdm(range(options.rounds), artifact.name, unit=" rounds", disable=None):
                for clients in options.clients:
                    for server in servers[:: 1 if turn % 2 else -1]:
                        under_load(server, predictor, texts, clients, options.seconds)
            found = lone(servers[-1], predictor, texts, options.turns, options.size)
    batched = [server.found(clients) for clients in options.clients for server in servers]
    return OfArchive(variant=artifact.name, batched=batched, lone=found)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    texts = read_texts(options.texts)
    archives = [study(archive, texts, options) for archive in options.archives]
    where: Mapping[str, object] = machine()
    found = Overhead(machine=dict(where), rounds=options.rounds, seconds=options.seconds, archives=archives)
    write_json(options.results / f"{NAME}.json", plain(found))
    say(excerpt(found))
    emit(plain(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.overhead", description=__doc__.split("\n")[0]
    )
    add_results(parser)
    parser.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE", help="a .mar")
    parser.add_argument("--texts", type=Path, required=True, help="one per line")
    parser.add_argument("--clients", type=positive_int, nargs="+", default=[8, 32, 128], help="%(default)s")
    parser.add_argument("--rounds", type=positive_int, default=5, help="%(default)s")
    parser.add_argument("--seconds", type=positive_float, default=3, help="of a closed loop (%(default)s)")
    parser.add_argument("--turns", type=positive_int, default=30, help="of a lone client (%(default)s)")
    parser.add_argument("--size", type=positive_int, default=40, help="texts of such a turn (%(default)s)")
    return parser


if __name__ == "__main__":
    run(main)
