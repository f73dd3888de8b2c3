"""Does the app lose a request while much happens to it at once? Load on two models, each reloaded
meanwhile; a killed worker; a client that never reads; idle connections; a wrong key in half of the requests.

Exit status 1 if a request was lost that the killed worker did not hold, if one was answered wrongly, if a
reload or the restart did not come, or if memory grew.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.samples import percentile
from benchmarks.served.app_soaks import NAME, AppSoak, Memory, excerpt
from benchmarks.served.run import Running
from benchmarks.studies.workers import app, memory_mb, texts_of
from common.atomic import write_json
from common.commands import emit, positive_float, positive_int, run, say
from common.environment import machine
from common.options import add_results
from common.records import plain
from export.archives.package import package
from handler.artifact import open_artifact

MODELS = ("first", "second")
VERSIONS = ("1.0", "1.1")  # before and after the reload
RIGHT, WRONG = "k" * 32, "w" * 32
RELOADS, KILL = (0.25, 0.75), 0.5  # of the time
EXPECTED = {RIGHT: 200, WRONG: 401}
SAMPLE_S = 2.0
MOST_GROWTH = 1.1  # of memory, from the tenth of the time before the first reload to the last
GIVE_UP_S = 60.0
TEXTS_UNREAD = 64  # of each request of the client that never reads
FEW_BYTES = 4096  # that the kernel takes for it
WORKERS = 2
READY = "classifier_workers{}"
LOOKS = 20  # at which version answers, each by a connection of its own
SETTLED_S = 120.0  # for the last reload and the restart
SETTLE_S = 1.0  # before clients go on after an error


@dataclass
class Found:
    """What happened; `lost` has the local ports of the connections that a request was lost on."""

    answers: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    held: set[int] = field(default_factory=set)  # ports of the killed worker's clients
    labels: dict[tuple[str, bytes], str] = field(default_factory=dict)
    cut: int = 0  # connections of the client that never reads
    idle_closed: int = 0
    memory_mb: list[float] = field(default_factory=list)


class Soak:
    """Of the server `running`, until `stop`."""

    def __init__(self, running: Running, bodies: Sequence[bytes]) -> None:
        self.found = Found()
        self.is_over = asyncio.Event()
        self._running = running
        self._port = port_of(running)
        self._bodies = bodies
        self._turns = count()

    async def client(self) -> None:
        """Asks on and on over one connection, and over a new one where that was lost."""
        while not self.is_over.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            port = writer.get_extra_info("sockname")[1]
            try:
                while not self.is_over.is_set():
                    await self._ask(reader, writer)
            except (OSError, EOFError, TimeoutError):
                self.found.lost.append(port)
                await asyncio.sleep(SETTLE_S)
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = next(self._turns)
        model, key = MODELS[turn % 2], (RIGHT, WRONG)[turn // 2 % 2]
        body = self._bodies[turn // 4 % len(self._bodies)]
        begun = time.perf_counter()
        writer.write(request(f"/predictions/{model}", key, body))
        async with asyncio.timeout(GIVE_UP_S):
            status, content = await response(reader)
        self.found.answers[f"{status} to a {'right' if key == RIGHT else 'wrong'} key"] += 1
        if status != EXPECTED[key]:
            self.found.wrong[f"status {status}"] += 1
        elif status == 200:
            self.found.latencies_ms.append(1000 * (time.perf_counter() - begun))
            self._check(model, body, json.loads(content))

    def _check(self, model: str, body: bytes, answer: dict[str, Any]) -> None:
        if answer["model"]["name"] != model or answer["model"]["version"] not in VERSIONS:
            self.found.wrong["model"] += 1
        if self.found.labels.setdefault((model, body), answer["label"]) != answer["label"]:
            self.found.wrong["label"] += 1

    async def never_reads(self) -> None:
        texts = [json.loads(body)["text"] for body in self._bodies]
        asked = request("/predictions/first", RIGHT, json.dumps({"texts": texts[:TEXTS_UNREAD]}).encode())
        while not self.is_over.is_set():
            with suppress(OSError):
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, FEW_BYTES)
                await asyncio.to_thread(client.connect, ("127.0.0.1", self._port))
                # With such a limit nothing is taken from the socket but its first bytes.
                _, writer = await asyncio.open_connection(sock=client, limit=1)
                try:
                    while not self.is_over.is_set():
                        writer.write(asked)
                        await writer.drain()
                        await asyncio.sleep(SETTLE_S)
                finally:
                    writer.close()
            self.found.cut += 1

    async def is_idle(self) -> None:
        """A connection that says nothing, and a new one where the server closes it."""
        while not self.is_over.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                await reader.read()
                writer.close()
            except OSError:
                await asyncio.sleep(SETTLE_S)
            self.found.idle_closed += 1

    async def watch_memory(self) -> None:
        while not self.is_over.is_set():
            with suppress(psutil.Error):  # one has just ended
                self.found.memory_mb.append(await asyncio.to_thread(memory_mb, self._running.worker))
            await asyncio.sleep(SAMPLE_S)

    def kill_a_worker(self) -> None:
        worker = self._running.worker.children()[0]
        worker.suspend()  # so that what it holds stays as it is
        its_own = {each.raddr.port for each in worker.net_connections("tcp") if each.raddr}
        # Those that wait in the kernel to be taken, by it or by another, are nobody's yet.
        waiting = {
            each.raddr.port
            for each in psutil.net_connections("tcp")
            if each.pid is None and each.raddr and each.laddr.port == self._port
        }
        self.found.held = its_own | waiting
        worker.kill()
        say(f"worker {worker.pid} is killed with {len(self.found.held)} connections")


def port_of(running: Running) -> int:
    return urlsplit(running.predictions).port or 80


def request(path: str, key: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


def put(archive: Path, path: Path) -> None:
    """In one step."""
    path.with_suffix(".new").write_bytes(archive.read_bytes())
    path.with_suffix(".new").replace(path)


async def soak(
    running: Running, options: argparse.Namespace, served: Sequence[Path], new: Sequence[Path]
) -> Found:
    texts = texts_of(options.texts)
    await warmed(port_of(running), texts)
    test = Soak(running, [json.dumps({"text": text}).encode() for text in texts])

    async def events() -> None:
        marks = [(share, place) for place, share in enumerate(RELOADS)] + [(KILL, None)]
        begun = time.monotonic()
        for share, place in sorted(marks, key=lambda mark: mark[0]):
            await asyncio.sleep(begun + share * options.seconds - time.monotonic())
            if place is None:
                test.kill_a_worker()
            else:
                put(new[place], served[place])
                os.kill(running.worker.pid, signal.SIGHUP)
        await asyncio.sleep(begun + options.seconds - time.monotonic())
        test.is_over.set()

    clients = [asyncio.create_task(test.client()) for _ in range(options.clients)]
    beside = [asyncio.create_task(test.is_idle()) for _ in range(options.idle)]
    beside += [asyncio.create_task(test.never_reads()), asyncio.create_task(test.watch_memory())]
    await events()
    await asyncio.gather(*clients)
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    return test.found


async def exchanged(port: int, asked: bytes) -> bytes:
    """The answer to a request over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(asked)
    _, content = await response(reader)
    writer.close()
    return content


async def counted(port: int) -> dict[str, float]:
    """Of /metrics: samples by their names with labels."""
    content = await exchanged(port, request("/metrics", RIGHT, b"").replace(b"POST", b"GET", 1))
    lines = (line.rpartition(" ") for line in content.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines if name}


async def versions(port: int) -> set[str]:
    """Which answer."""
    asked = [request(f"/predictions/{model}", RIGHT, b'{"text": "a"}') for model in MODELS]
    answers = [json.loads(await exchanged(port, each)) for each in asked for _ in range(LOOKS)]
    return {answer["model"]["version"] for answer in answers}


async def warmed(port: int, texts: Sequence[str]) -> None:
    """Wait until all workers are there, and ask each for as much at once as it will be asked for: what memory
    that takes is no growth."""
    while (await counted(port)).get(READY) != WORKERS:
        await asyncio.sleep(SETTLE_S)
    body = json.dumps({"texts": texts[:TEXTS_UNREAD]}).encode()
    for _ in range(LOOKS):
        for model in MODELS:
            await exchanged(port, request(f"/predictions/{model}", RIGHT, body))


async def settled(port: int) -> tuple[dict[str, float], set[str]]:
    """What is counted, and which versions answer, once all workers are there and have read the new ones."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        samples, seen = await counted(port), await versions(port)
        is_done = seen == {VERSIONS[1]} and samples.get(READY) == WORKERS
        if is_done or time.monotonic() > deadline:
            return samples, seen
        await asyncio.sleep(SETTLE_S)


def judged(found: Found, samples: dict[str, float], seen: set[str], options: argparse.Namespace) -> AppSoak:
    """The figures, and what is wrong with them."""
    unexplained = [port for port in found.lost if port not in found.held]
    tenth = max(1, len(found.memory_mb) // 10)
    first_reload = int(RELOADS[0] * len(found.memory_mb))
    before = statistics.median(found.memory_mb[max(0, first_reload - tenth) : first_reload + 1])
    after = statistics.median(found.memory_mb[-tenth:])
    reloads = {name: value for name, value in samples.items() if name.startswith("classifier_reloads{")}
    restarts = samples.get("classifier_worker_restarts{}", 0.0)
    refused = any(count for name, count in reloads.items() if "refused" in name)
    faults = {
        "lost, though no killed worker held it": bool(unexplained),
        "answered wrongly": bool(found.wrong),
        "not reloaded": refused or seen != {VERSIONS[1]},
        "not started again": restarts != 1 or samples.get(READY) != WORKERS,
        "memory grew": after > MOST_GROWTH * before,
    }
    return AppSoak(
        machine=machine(),
        variants=[artifact.name for artifact in options.artifacts],
        seconds=options.seconds,
        clients=options.clients,
        idle=options.idle,
        answers=dict(sorted(found.answers.items())),
        p50_ms=percentile(found.latencies_ms, 50),
        p99_ms=percentile(found.latencies_ms, 99),
        lost_with_the_worker=len(found.lost) - len(unexplained),
        lost_otherwise=len(unexplained),
        wrong=dict(found.wrong),
        reloads=reloads,
        restarts=int(restarts),
        cut_for_not_reading=found.cut,
        idle_connections_closed=found.idle_closed,
        memory_mb=Memory(before=before, after=after, most=max(found.memory_mb)),
        faults=[fault for fault, is_there in faults.items() if is_there],
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.soak", description=__doc__)
    add_results(parser)
    parser.add_argument("--artifacts", type=Path, nargs=2, required=True, metavar="FOLDER", help="two models")
    parser.add_argument("--texts", type=Path, help="one a line; default: those of the demo")
    parser.add_argument("--seconds", type=positive_float, default=600.0, help="default: %(default)g")
    parser.add_argument("--clients", type=positive_int, default=16, help="default: %(default)s")
    parser.add_argument("--idle", type=positive_int, default=1000, help="connections; default: %(default)s")
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        archives = {
            version: [
                package(open_artifact(artifact), folder / version, name=name, version=version)
                for name, artifact in zip(MODELS, options.artifacts, strict=True)
            ]
            for version in VERSIONS
        }
        served = [folder / f"{name}.mar" for name in MODELS]
        for archive, path in zip(archives[VERSIONS[0]], served, strict=True):
            put(archive, path)
        (folder / "keys").write_text(f"{RIGHT}\n")
        (folder / "keys").chmod(0o600)
        most = 2 * (options.idle + options.clients)
        given = ["--keys", folder / "keys", "--workers", WORKERS]
        given += ["--connections", most, "--connections-per-client", most]
        given += [each for path in served for each in ("--archive", path)]
        running = stack.enter_context(app(*given))
        found = asyncio.run(soak(running, options, served, archives[VERSIONS[1]]))
        samples, seen = asyncio.run(settled(port_of(running)))
    report = judged(found, samples, seen, options)
    write_json(options.results / f"{NAME}.json", plain(report))
    say(excerpt(report))
    emit(plain(report))
    return 1 if report.faults else 0


if __name__ == "__main__":
    run(main)
