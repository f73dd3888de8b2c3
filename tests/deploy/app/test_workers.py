"""Several workers behind one port: a worker that is killed takes with it only what it held."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.app.counters import Counters
from deploy.app.model import Model
from deploy.app.shared_counts import SharedCounts, add_up
from deploy.torchserve.server import free_ports
from handler.machine import available_cpus
from tests.asking import GOOD, JSON, PREDICT, ask, counter, wait_until
from tests.conftest import ROOT, refused
from tests.deploy.app.test_reload import archives, command, put  # noqa: F401
from tests.deploy.app.test_rpc import calling, tensor

ONE = """# TYPE classifier_texts counter
classifier_texts{ModelName="hate"} 3.0
# TYPE classifier_seconds histogram
classifier_seconds_bucket{ModelName="hate",le="0.1"} 1.0
classifier_seconds_count{ModelName="hate"} 2.0
# TYPE classifier_waiting_requests gauge
classifier_waiting_requests{ModelName="hate"} 5.0
"""
OTHER = """# TYPE classifier_texts counter
classifier_texts{ModelName="hate"} 4.0
classifier_texts{ModelName="spam"} 1.0
# TYPE classifier_waiting_requests gauge
classifier_waiting_requests{ModelName="hate"} 2.0
"""


def test_pages_are_added_up_sample_by_sample() -> None:
    assert add_up([ONE, OTHER]).splitlines() == [
        "# TYPE classifier_texts counter",
        'classifier_texts{ModelName="hate"} 7.0',
        'classifier_texts{ModelName="spam"} 1.0',
        "# TYPE classifier_seconds histogram",
        'classifier_seconds_bucket{ModelName="hate",le="0.1"} 1.0',
        'classifier_seconds_count{ModelName="hate"} 2.0',
        "# TYPE classifier_waiting_requests gauge",
        'classifier_waiting_requests{ModelName="hate"} 7.0',
    ]


def test_a_promise_is_that_of_each_worker_and_not_their_sum() -> None:
    promised = """# TYPE classifier_promised_p99_seconds gauge
classifier_promised_p99_seconds{ModelName="hate"} 0.06
"""
    assert add_up([promised, OTHER, promised]).splitlines()[:2] == promised.splitlines()


def test_what_an_ended_worker_counted_stays_and_its_gauges_go(tmp_path: Path) -> None:
    counts = SharedCounts(tmp_path)
    assert counts.read() == ""
    counts.write("1", ONE)
    counts.write("2", OTHER)
    counts.retire("1")
    counts.write("1", ONE)
    counts.retire("1")
    counts.retire("1")
    page = counts.read().splitlines()
    assert 'classifier_texts{ModelName="hate"} 10.0' in page
    assert 'classifier_seconds_count{ModelName="hate"} 4.0' in page
    assert 'classifier_waiting_requests{ModelName="hate"} 2.0' in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.live", "ended", "lock"]


@dataclass
class Pool:
    """The app with two workers."""

    process: subprocess.Popen
    port: int
    log: Path
    path: Path

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def ready(self) -> float:
        """Workers, by one of them; none where it is killed meanwhile."""
        try:
            return counter(self.port, "classifier_workers")
        except (OSError, http.client.HTTPException):
            return 0

    def versions(self, times: int = 20) -> set[str]:
        """Which answer, over connections of their own."""
        found = (json.loads(ask(self.port)[1])["model"]["version"] for _ in range(times))
        return set(found)


@contextmanager
def pool(tmp_path: Path, archive: Path, *options: object, **settings: Any) -> Iterator[Pool]:
    path = tmp_path / "served.mar"
    put(archive, path)
    with command(tmp_path, "--archive", path, "--workers", 2, *options, **settings) as (process, port, log):
        found = Pool(process, port, log, path)
        wait_until(lambda: found.ready() == 2, log.read_text)
        yield found


class Clients:
    """Each asks on and on over a connection that it keeps, to the block's end; statuses are counted."""

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self._threads = ThreadPoolExecutor(number)
        self._asked = [self._threads.submit(self._ask_on) for _ in range(number)]

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def end(self) -> Counter[object]:
        self._ended.set()
        self._threads.shutdown()
        return sum((each.result() for each in self._asked), Counter())

    def _ask_on(self) -> Counter[object]:
        answered: Counter[object] = Counter()
        while not self._ended.is_set():
            with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
                try:
                    while not self._ended.is_set():
                        connection.request("POST", PREDICT, GOOD, {"Content-Type": JSON})
                        response = connection.getresponse()
                        response.read()
                        answered[response.status] += 1
                except (OSError, http.client.HTTPException):
                    answered["lost"] += 1
        return answered


def test_a_killed_worker_loses_what_it_held_alone_and_comes_back(archives, tmp_path: Path) -> None:  # noqa: F811
    with pool(tmp_path, archives("1.0")) as found, Clients(found.port, 8) as clients:
        wait_until(lambda: counter(found.port, "classifier_texts") > 100)
        before, (killed, spared) = counter(found.port, "classifier_texts"), found.workers()
        killed.send_signal(signal.SIGKILL)
        wait_until(lambda: found.ready() == 1)
        time.sleep(1)
        assert counter(found.port, "classifier_texts") > before, "counters go on, and never back"
        wait_until(lambda: found.ready() == 2)
        answered = clients.end()
        assert answered.keys() <= {200, "lost"}
        # A client that comes back before the kernel has closed the dead worker's socket loses another.
        assert answered["lost"] <= 16, "two for each client at most"
        assert counter(found.port, "classifier_worker_restarts") == 1
        said = found.log.read_text()
        assert "has ended: SIGKILL. It is started again in 1 s" in said
        assert spared.pid in {each.pid for each in found.workers()}
        folder = next(Path(each.path).parent for each in spared.open_files() if "/app-" in each.path)
        found.process.send_signal(signal.SIGTERM)
        assert found.process.wait(60) == 0, found.log.read_text()
        assert not folder.exists()
    assert "Traceback" not in said


def test_all_workers_reload_one_after_the_other_and_no_request_is_lost(archives, tmp_path: Path) -> None:  # noqa: F811
    with pool(tmp_path, archives("1.0")) as found, Clients(found.port, 4) as clients:
        put(archives("1.1"), found.path)
        found.process.send_signal(signal.SIGHUP)
        wait_until(lambda: counter(found.port, "classifier_reloads") == 2, found.log.read_text)
        assert found.versions() == {"1.1"}
        assert clients.end().keys() == {200}
        assert found.log.read_text().count("has replaced") == 2
        orphans = found.workers()
        found.process.kill()
        wait_until(lambda: not any(map(is_alive, orphans)), "they end with their parent")


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ports_of(process: psutil.Process) -> set[int]:
    return {each.laddr.port for each in process.net_connections("tcp") if each.status == "LISTEN"}


def test_grpc_is_shared_and_systemd_told(archives, tmp_path: Path) -> None:  # noqa: F811
    (grpc_port,), told = free_ports(1), tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(told))
        systemd.settimeout(60)
        settings = {"env": os.environ | {"NOTIFY_SOCKET": str(told)}}
        with pool(tmp_path, archives("1.0"), "--grpc-port", grpc_port, **settings) as found:
            assert systemd.recv(100) == b"READY=1"
            expected = [{found.port, grpc_port}] * 2
            wait_until(lambda: [ports_of(worker) for worker in found.workers()] == expected)
            answers = [
                calling(grpc_port)("ModelInfer", model_name="hate", inputs=[tensor(["a"])]) for _ in range(8)
            ]
            assert {each.model_version for each in answers} == {"1.0"}
            line = [sys.executable, "-m", "deploy", "app", "--archive", found.path, "--port", 0]
            taken = [*line, "--workers", 2, "--grpc-port", found.port]
            ended = subprocess.run(list(map(str, taken)), cwd=ROOT, capture_output=True, text=True)
            assert ended.returncode == 2
            assert "cannot listen on this address: 127.0.0.1:" in ended.stderr
        systemd.settimeout(0.1)
        with pytest.raises(TimeoutError):
            systemd.recv(100)


def test_workers_share_the_cpus(model: Model, counted: Counters) -> None:
    threads = [model.load(counted, workers=workers).predictor.threads for workers in (1, 2, 1000)]
    assert threads == [available_cpus(), max(1, available_cpus() // 2), 1]


def test_a_shadow_goes_with_one_worker(archives) -> None:  # noqa: F811
    archive = archives("1.0")
    said = refused("deploy", "app", "--archive", archive, "--workers", 2, "--shadow", archive)
    assert "a shadow goes with one worker: --workers 2" in said


def test_what_keeps_the_first_worker_from_starting_is_said_once_and_ends_all(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "deploy", "app", "--artifact", str(tmp_path), "--workers", "2"]
    ended = subprocess.run([*line, "--port", "0"], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 2
    assert ended.stderr.count("error: ") == 1
    assert "worker 1 could not start: exit status 2" in ended.stderr
    assert "Traceback" not in ended.stderr
