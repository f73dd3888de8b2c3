"""The servers under attack: the app, TorchServe as `make serve` starts it, and TorchServe behind nginx."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.served.attack.attacks import Target
from benchmarks.served.run import serve_app
from common.torchserve import is_taken
from deploy.torchserve.server import ROOT, free_ports, private_server
from handler.errors import UnsupportedError

NGINX = ROOT / "deploy" / "nginx.conf"
START_S = 10.0


@dataclass(frozen=True)
class Front:
    """A running server: where it is attacked, and the processes whose memory counts."""

    target: Target
    processes: tuple[psutil.Process, ...]

    @property
    def predictions(self) -> str:
        return f"http://127.0.0.1:{self.target.port}{self.target.predict}"

    def resident_mb(self) -> float:
        """Resident memory of these processes and of all below them, in MiB."""
        resident = 0
        for process in self.processes:
            with suppress(psutil.Error):
                for running in (process, *process.children(recursive=True)):
                    with suppress(psutil.Error):
                        resident += running.memory_info().rss
        return resident / 2**20


@contextmanager
def app(archive: Path) -> Iterator[Front]:
    with serve_app(archive) as running:
        port = urlsplit(running.predictions).port
        assert port
        yield Front(Target(port), (running.worker,))


@contextmanager
def torchserve(archive: Path) -> Iterator[Front]:
    with private_server(archive) as server:
        yield Front(Target(server.inference_port), (psutil.Process(server.pid),))


@contextmanager
def behind_nginx(archive: Path) -> Iterator[Front]:
    """TorchServe behind the project's nginx.conf, whose three servers are one here."""
    if shutil.which("nginx") is None:
        raise UnsupportedError("nginx is not installed", remedy="On Debian: apt-get install nginx-light")
    with private_server(archive) as server, tempfile.TemporaryDirectory(prefix="nginx-") as scratch:
        folder, (port,) = Path(scratch), free_ports(1)
        folder.chmod(0o755)  # started by root, nginx works as another user
        (folder / "nginx.conf").write_text(nginx_config(NGINX.read_text(), server.inference_port, port))
        process = subprocess.Popen(["nginx", "-p", scratch, "-c", str(folder / "nginx.conf")], env=os.environ)
        try:
            _wait_for(port)
            yield Front(Target(port), (psutil.Process(server.pid), psutil.Process(process.pid)))
        finally:
            process.terminate()
            process.wait()


def nginx_config(text: str, server_port: int, port: int) -> str:
    """The configuration `text` with one server, at `server_port`, and itself at `port`."""
    first, *others = re.findall(r"^ *server 127\.0\.0\.1:\d+.*;\n", text, re.MULTILINE)
    text = text.replace(first, re.sub(r":\d+", f":{server_port}", first, count=1))
    for other in others:
        text = text.replace(other, "")
    return re.sub(r"listen 127\.0\.0\.1:\d+", f"listen 127.0.0.1:{port}", text)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while not is_taken(port):
        if time.monotonic() > deadline:
            raise UnsupportedError("nginx did not start", remedy="See its message above")
        time.sleep(0.05)


FRONTS: dict[str, Callable[[Path], AbstractContextManager[Front]]] = {
    "app": app,
    "torchserve": torchserve,
    "torchserve behind nginx": behind_nginx,
}
