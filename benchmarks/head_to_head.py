"""Behind HTTP, beside what others would serve: every server up at once, loaded in turns.

Covers one text a request in closed loops (requests per second, latency, their ratios), the first answers
after the start and of each length, requests of many texts against the same Predictor in process, what
TorchServe costs beyond the model, and start-up and resident memory of every variant above a worker without a
model. A turn is a few seconds long and all take turns in every round, so that what drifts hits all alike.
Client and servers share the cores. Leaves out scores (`served`) and arrivals that do not wait.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import yaml

from benchmarks import machine
from benchmarks.load import Load, closed_loop
from benchmarks.progress import Step
from benchmarks.served import describe
from benchmarks.served_pages import BARE, EXAMPLE, FASTAPI, MANY_TEXTS
from deploy.server import free_ports, is_healthy, private_server
from handler.artifact import unpacked
from handler.errors import UserError
from handler.predictor import Predictor

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("head_to_head.schema.json")
RIVALS = Path(__file__).parent / "rivals"
# Without us nobody would have set these for a rival.
OUR_SETTINGS = ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM")
CONCURRENCIES = (1, 8, 32)
FIRST_ANSWERS = 20
WARM_S = 0.5
READY_S = 300


@dataclass(frozen=True)
class Contestant:
    """A server that is up: where it is asked, how long it took to start, its worker process, its metrics."""

    name: str
    url: str
    ready_s: float
    worker: psutil.Process
    metrics: str | None = None


@contextmanager
def archive_server(name: str, archive: Path) -> Iterator[Contestant]:
    """TorchServe on `archive`, from start to ready."""
    begun = time.perf_counter()
    with private_server(archive) as server:
        ready = time.perf_counter() - begun
        yield Contestant(name, server.predictions, ready, server.worker(), server.metrics)


@contextmanager
def example_server(archive: Path) -> Iterator[Contestant]:
    """As `archive_server`, in the environment of somebody without us."""
    kept = {name: os.environ.pop(name) for name in OUR_SETTINGS if name in os.environ}
    try:
        with archive_server(EXAMPLE, archive) as contestant:
            os.environ.update(kept)
            yield contestant
    finally:
        os.environ.update(kept)


@contextmanager
def fastapi_server(checkpoint: Path) -> Iterator[Contestant]:
    """uvicorn with the FastAPI app, on a free port of loopback."""
    begun, (port,) = time.perf_counter(), free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(RIVALS), "fastapi_app:app"]
    command += ["--port", str(port), "--log-level", "warning"]
    environment = {key: value for key, value in os.environ.items() if key not in OUR_SETTINGS}
    environment["CHECKPOINT"] = str(checkpoint.resolve())
    process = subprocess.Popen(command, env=environment)
    try:
        while not is_healthy(port):
            if process.poll() is not None or time.perf_counter() - begun > READY_S:
                raise UserError("uvicorn did not start", remedy="pip install fastapi uvicorn")
            time.sleep(0.05)
        ready = time.perf_counter() - begun
        yield Contestant(FASTAPI, f"http://127.0.0.1:{port}/predictions", ready, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(timeout=20)


def rival_archive(name: str, handler: Path, extra: Path | None, folder: Path) -> Path:
    """An archive of a rival's handler by torch-model-archiver alone; `extra` is its checkpoint."""
    config = folder / "model-config.yaml"
    settings = {"minWorkers": 1, "maxWorkers": 1, "responseTimeout": 300, "startupTimeout": 300}
    settings |= {"batchSize": 32 if extra is None else 1, "maxBatchDelay": 1}
    config.write_text(yaml.safe_dump(settings))
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", name]
    command += ["--version", "1.0", "--handler", str(handler), "--export-path", str(folder)]
    command += ["--config-file", str(config), "--force"]
    if extra is not None:
        holder = folder / "extra"
        holder.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            (holder / "checkpoint").symlink_to(extra.resolve(), target_is_directory=True)
        command += ["--extra-files", str(holder)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"TMPDIR": str(folder)})
    return folder / f"{name}.mar"


def measure(
    archives: Mapping[str, Path],
    checkpoint: Path,
    texts: Sequence[str],
    rounds: int,
    seconds: float,
    step: Step,
) -> dict[str, Any]:
    """The document: the first of `archives` against the rivals, and start-up and memory of all of them."""
    ours, load = next(iter(archives)), machine.load_average()
    with tempfile.TemporaryDirectory(prefix="head-to-head-") as scratch:
        folder = Path(scratch)
        example = rival_archive(EXAMPLE, RIVALS / "example_handler.py", checkpoint, folder)
        bare = rival_archive(BARE, RIVALS / "bare_handler.py", None, folder)
        starts = {}
        for name, archive in {BARE: bare, **archives}.items():
            with step(f"start of {name}"), archive_server(name, archive) as contestant:
                starts[name] = _start(contestant, archive, texts[0])
        predictor = Predictor(unpacked(archives[ours], folder))
        predictor.warm()
        with ExitStack() as servers:
            us = servers.enter_context(archive_server(ours, archives[ours]))
            nothing = servers.enter_context(archive_server(BARE, bare))
            contestants = [
                us,
                servers.enter_context(example_server(example)),
                servers.enter_context(fastapi_server(checkpoint)),
            ]
            with step("first answers"):
                first = {one.name: first_answers(one.url, texts) for one in contestants}
            turns = Turns(rounds, seconds, step)
            loads = turns.closed_loops(contestants, texts)
            many = turns.many(us, predictor, texts)
            cost = turns.cost(us, nothing, predictor, texts[0])
    document = {
        "schema": SCHEMA,
        "ours": ours,
        "machine": machine.fingerprint(),
        "commit": machine.commit(),
        "load_average_before": load,
        "rounds": rounds,
        "seconds": seconds,
        "loads": loads,
        "first": first,
        "many": many,
        "cost": cost,
        "starts": starts,
    }
    validate(document)
    return document


def validate(document: Any) -> None:
    """Raises `jsonschema.ValidationError` for what is no head-to-head document."""
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def steps(archives: int, rounds: int, seconds: float) -> dict[str, tuple[int, float]]:
    """The steps of `measure` for the progress bar: how many of each kind, and the seconds of one."""
    return {
        "start": (archives + 1, 8),
        "first": (1, 60),
        "concurrency": (rounds * len(CONCURRENCIES) * 3, seconds + WARM_S),
        "many": (rounds, 3 * seconds),
        "cost": (rounds, 3 * seconds),
    }


@dataclass(frozen=True)
class Turns:
    """Measurements that take turns: `rounds` of them, each of `seconds`."""

    rounds: int
    seconds: float
    step: Step

    def closed_loops(self, contestants: Sequence[Contestant], texts: Sequence[str]) -> list[dict[str, Any]]:
        """By concurrency: each server's latencies and rate, and ours over theirs in the same rounds."""
        bodies = [_one(text) for text in texts]
        loads: dict[int, dict[str, list[Load]]] = {level: {} for level in CONCURRENCIES}
        for turn in range(self.rounds):
            order = np.random.default_rng(turn).permutation(len(contestants))
            for level, by_name in loads.items():
                for contestant in (contestants[place] for place in order):
                    with self.step(f"concurrency {level}: {contestant.name}"):
                        load = closed_loop(contestant.url, bodies, level, self.seconds, WARM_S)
                    by_name.setdefault(contestant.name, []).append(load)
        ours = contestants[0].name
        return [{"concurrency": level, "servers": _levels(ours, by_name)} for level, by_name in loads.items()]

    def many(self, us: Contestant, predictor: Predictor, texts: Sequence[str]) -> dict[str, Any]:
        """Requests of `MANY_TEXTS`, one at a time and four at a time, beside the Predictor in process."""
        lists = [list(texts[start : start + MANY_TEXTS]) for start in range(0, len(texts), MANY_TEXTS)]
        lists = [part for part in lists if len(part) == MANY_TEXTS]
        bodies = [json.dumps({"texts": part}).encode() for part in lists]
        rates: dict[str, list[float]] = {"in process": [], "http, 1 client": [], "http, 4 clients": []}
        for _ in range(self.rounds):
            with self.step("many texts in one request"):
                rates["in process"].append(MANY_TEXTS * _in_process(predictor, lists, self.seconds))
                for clients, key in ((1, "http, 1 client"), (4, "http, 4 clients")):
                    load = closed_loop(us.url, bodies, clients, self.seconds, WARM_S)
                    rates[key].append(MANY_TEXTS * load.requests_per_second)
        inside = rates["in process"]
        return {
            "texts_per_second": {key: float(np.median(values)) for key, values in rates.items()},
            "share": {key: _range(np.divide(values, inside)) for key, values in rates.items()},
        }

    def cost(self, us: Contestant, nothing: Contestant, predictor: Predictor, text: str) -> dict[str, Any]:
        """Where the time of one lone request goes, in milliseconds: the same text again and again."""
        found: dict[str, list[float]] = {"http": [], "handler": [], "predictor": [], "bare": []}
        for _ in range(self.rounds):
            with self.step("cost of a request"):
                found["predictor"].append(1000 / _in_process(predictor, [[text]], self.seconds))
                before = counters(us)
                load = closed_loop(us.url, [_one(text)], 1, self.seconds, 0)
                spent = [after - start for start, after in zip(before, counters(us), strict=True)]
                found["http"].append(float(np.median(load.latencies_ms)))
                found["handler"].append(1000 * spent[0] / spent[1])
                load = closed_loop(nothing.url, [_one(text)], 1, self.seconds, WARM_S)
                found["bare"].append(float(np.median(load.latencies_ms)))
        return {key: _range(values) for key, values in found.items()}


def first_answers(url: str, texts: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of the first answer and of later ones to the same text, then of each new length.

    Lengths rise by words of the real texts; `later` is the median of three more of the same.
    """
    first, *later = (_ask(url, texts[0]) for _ in range(FIRST_ANSWERS))
    words = " ".join(texts).split()
    lengths = []
    for count in range(1, 100, 3):
        text = " ".join(words[count : 2 * count])
        new, *again = (_ask(url, text) for _ in range(4))
        lengths.append((new, float(np.median(again))))
    return {
        "first_ms": first,
        "later_p50_ms": float(np.median(later)),
        "new_length_worst_ms": max(new for new, _ in lengths),
        "known_length_worst_ms": max(again for _, again in lengths),
        "new_by_known_p50": float(np.median([new / again for new, again in lengths])),
    }


def counters(contestant: Contestant) -> tuple[float, float]:
    """Seconds in the handler and requests so far, as Prometheus would read them."""
    assert contestant.metrics is not None
    time.sleep(2.5)  # the worker hands its sums over once a second
    with urllib.request.urlopen(contestant.metrics, timeout=10) as response:
        lines = response.read().decode().splitlines()
    found = []
    for name in ("classifier_handler_seconds", "classifier_requests"):
        found.append(sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{")))
    return found[0], found[1]


def _start(contestant: Contestant, archive: Path, text: str) -> dict[str, float]:
    _ask(contestant.url, text)
    return {
        "ready_s": contestant.ready_s,
        "archive_mb": archive.stat().st_size / 1e6,
        "worker_rss_mb": contestant.worker.memory_info().rss / 1e6,
    }


def _levels(ours: str, by_name: Mapping[str, list[Load]]) -> list[dict[str, Any]]:
    found = []
    for name, loads in by_name.items():
        pairs = zip(by_name[ours], loads, strict=True)
        # A server that answered nothing in a turn is given one answer, so that the run is not lost.
        ratios = [a.requests_per_second / max(b.requests_per_second, 1 / b.seconds) for a, b in pairs]
        found.append({"name": name, **describe(loads), "ours_by_theirs": _range(ratios)})
    return found


def _range(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median, least and most: of so few rounds an interval would pretend."""
    return {"median": float(np.median(values)), "least": float(np.min(values)), "most": float(np.max(values))}


def _in_process(predictor: Predictor, lists: Sequence[Sequence[str]], seconds: float) -> float:
    """Lists a second, from strings to answers as JSON."""
    calls, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        part = lists[calls % len(lists)]
        json.dumps([predictor.answer(prediction) for prediction in predictor.predict(part)])
        calls += 1
    return calls / taken


def _one(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


def _ask(url: str, text: str) -> float:
    """Milliseconds of one request on a connection of its own."""
    request = urllib.request.Request(url, _one(text), {"Content-Type": "application/json"})
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()
    return 1000 * (time.perf_counter() - begun)
