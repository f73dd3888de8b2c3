"""Runs servers: private ones on free ports for tests and benchmarks, the public one for users.

`private_server` starts a real TorchServe with the project's own `config.properties` except for ports, folders
and archives, and leaves nothing behind. Java comes from the environment.
"""

import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.atomic import remove
from common.scratch import checked_folder
from common.signing import verify
from common.torchserve import ADDRESSES, GRPC_PORTS, Config, is_taken, java_home, read_config
from deploy.torchserve.access import KEY_FILE, Access
from handler.artifact import archived_artifact
from handler.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "config.properties"  # in the checkout a link to the one at its root
# What a configuration names by relative paths: TorchServe splits vmargs at spaces.
NAMED_FILES = ("java.security", "log4j2.xml", "logging.properties", "metrics.yaml")
OWN_PORTS = range(20_000, 32_768)
GRACE_S = 10  # a healthy server that still does not know its model will not come to know it
JAVA = "org.pytorch.serve.ModelServer"
WORKER = "model_service_worker"
PRIVATE = "torchserve-private-"
LOCK = "lock"
WATCH_S = 2.0  # how long a worker that does not answer is watched
AT_WORK = 0.02  # of a CPU: an idle worker takes none, one that computes takes more even where many share
# What TorchServe makes in its temporary folder, and leaves there when it is killed.
LEFT = ("models", ".model_server.pid", ".ts.sock.*", "libnetty_*")


@dataclass(frozen=True)
class Server:
    """A running TorchServe: its ports on loopback, the Java process, and where its output goes."""

    inference_port: int
    management_port: int
    metrics_port: int
    grpc_port: int
    pid: int
    log: Path
    access: Access

    @property
    def predictions(self) -> str:
        return f"{self.access.config.endpoint('inference_address')}/predictions/hate"

    @property
    def metrics(self) -> str:
        """Where Prometheus reads."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def resident_mb(self) -> float:
        """Memory of TorchServe and all below it; a process that has just ended holds none."""
        resident = 0
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            for part in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    resident += part.memory_info().rss
        return resident / 2**20

    def workers(self) -> list[psutil.Process]:
        """The Python processes that run the handler, by their number; one that has just ended is none."""
        return workers_of(psutil.Process(self.pid))

    def worker(self) -> psutil.Process:
        """The first of them; `UserError` when it has died."""
        if workers := self.workers():
            return workers[0]
        raise UserError(
            "the worker has died", seen=_last_lines(_read(self.log)), remedy="Start the server again"
        )


@contextmanager
def private_server(
    archive: Path,
    *,
    name: str = "hate",
    settings: Mapping[str, str] | None = None,
    timeout_s: float = 300,
) -> Iterator[Server]:
    """TorchServe with `archive` as `name` on free ports of loopback, ready to answer; stopped on leaving.
    `settings` stand in place of those in `config.properties`; of an address all but its port."""
    if not archive.is_file():
        raise UserError("there is no such archive", seen=archive, remedy="Build it: python -m export package")
    sweep()
    with tempfile.TemporaryDirectory(prefix=PRIVATE) as scratch, Path(scratch, ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(scratch)
        Path(lock.name).rename(folder / LOCK)  # held from the moment that it is there
        config, (inference, management, metrics, grpc, _) = _private_config(folder, archive, settings or {})
        log = folder / "torchserve.log"
        environment = {
            "TMPDIR": scratch,  # TorchServe keeps its pid file there: private, so that servers do not meet
            "TEMP": scratch,
            "LOG_LOCATION": str(folder / "logs"),
            "METRICS_LOCATION": str(folder / "logs"),
        }
        process = _launch(config, f"{name}={archive.name}", log, folder, environment)
        try:
            access = Access(read_config(config), folder)
            _wait_until_ready(process, access, name, lambda: _read(log), timeout_s)
            pid = int((folder / ".model_server.pid").read_text())
            yield Server(inference, management, metrics, grpc, pid, log, access)
        finally:
            _stop(process)


def _launch(
    config: Path, model: str, log: Path, folder: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start TorchServe with `model` (`name=archive`) in `folder`, a process group of its own."""
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--models", model]
    own = {"TS_CONFIG_FILE": str(config.absolute()), "JAVA_HOME": java_home()}
    # A worker looks for modules in PYTHONPATH before its archive: a checkout there would serve its own code.
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=inherited | own | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _private_config(folder: Path, archive: Path, settings: Mapping[str, str]) -> tuple[Path, list[int]]:
    """The project's configuration with free ports and an absolute model store, written to `folder`."""
    ports = free_ports(len(ADDRESSES) + len(GRPC_PORTS))
    values = {**read_config(CONFIG).values, **settings}
    changed = {**settings, "model_store": str(archive.parent.resolve())}
    for key, port in zip(ADDRESSES, ports, strict=False):
        changed[key] = re.sub(r"\d+$", str(port), values[key])
    changed |= {key: str(port) for key, port in zip(GRPC_PORTS, ports[len(ADDRESSES) :], strict=True)}
    kept = [line for line in CONFIG.read_text().splitlines() if line.split("=")[0] not in changed]
    text = "\n".join([*kept, *(f"{key}={value}" for key, value in changed.items())])
    _copy_logging(folder)
    path = folder / "config.properties"
    path.write_text(text + "\n")
    return path, ports


def write_config(path: Path) -> None:
    """The project's configuration, with what it names, where there is none yet."""
    _copy_logging(path.parent)
    shutil.copy(CONFIG, path)


def _copy_logging(folder: Path) -> None:
    """The files that the configuration names, in a folder `deploy` next to it."""
    (folder / "deploy").mkdir(exist_ok=True)
    for name in NAMED_FILES:
        if not (folder / "deploy" / name).exists():
            shutil.copy(ROOT / "deploy" / name, folder / "deploy")


def start(
    config: Config, name: str = "hate", timeout_s: float = 300, *, trusted_key: Path | None = None
) -> None:
    """Start the public TorchServe on `<name>.mar` of its model store; returns when it answers."""
    archive = checked_archive(config, name, trusted_key)
    access = Access(config, Path.cwd())
    if taken := [port for port in config.ports if is_taken(port)]:
        remedy = (
            "TorchServe is already running: python -m deploy stop"
            if access.is_healthy()
            else f"Free it, or change it in {config.path}"
        )
        raise UserError("a port is in use", seen=", ".join(map(str, taken)), remedy=remedy)
    folder = checked_folder()
    clear(folder)
    log = Path("logs/start.log")
    log.parent.mkdir(exist_ok=True)
    # What the server says goes to its rolling log alone: nothing bounds the file that takes its console.
    rolling = Path(os.environ.get("LOG_LOCATION", "logs"), "torchserve.log")
    begin = rolling.stat().st_size if rolling.is_file() else 0
    environment = {"TMPDIR": str(folder), "TEMP": str(folder), "CONSOLE_LEVEL": "off"}
    process = _launch(config.path, f"{name}={archive.name}", log, Path.cwd(), environment)
    try:
        _wait_until_ready(process, access, name, lambda: _read(log) + _read(rolling, begin), timeout_s)
    except BaseException:
        _stop(process)
        clear(folder)
        raise


def checked_archive(config: Config, name: str, trusted_key: Path | None = None) -> Path:
    """The archive `<name>.mar`; raises `UserError` if it cannot be served, if a file that TLS needs is
    missing, or if there is a `trusted_key` that did not sign it."""
    archive = config.model_store / f"{name}.mar"
    if not archive.is_file():
        raise UserError(
            "there is no archive to serve", seen=archive, remedy="Make one: python -m export package"
        )
    verify(archive, trusted_key)
    archived_artifact(archive)
    for key in ("private_key_file", "certificate_file"):
        if config[key] and not Path(config[key]).is_file():
            raise UserError(
                "a file for TLS is missing", seen=f"{key}={config[key]}", remedy=f"See {config.path}"
            )
    return archive


def stop(config: Config, patience_s: float = 30) -> bool:
    """Stop the TorchServe that listens on the configuration's ports and wait until it has gone; whether one
    was running. Found by its ports: its pid file may lie in another temporary folder."""
    found = serving(config)
    for java in found:
        with suppress(psutil.Error):
            folder = _temporary_folder(java)
            cwd = Path(java.cwd())
            below = java.children(recursive=True)
            java.terminate()
            _, left = psutil.wait_procs([java], timeout=patience_s)
            for process in (*left, *below):  # one that is hung or stopped does not end by itself
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs([java, *below], timeout=patience_s)
            if config.wants_tokens:
                (cwd / KEY_FILE).unlink(missing_ok=True)  # as TorchServe's own stop does
            if folder is not None:
                clear(folder)
    if still := [process.pid for process in found if process.is_running()]:
        raise UserError("TorchServe does not stop", seen=still, remedy="End these processes yourself")
    return bool(found)


def serving(config: Config) -> list[psutil.Process]:
    """The Java processes that listen on the ports of `config`, as far as this user may see them."""
    wanted, found = set(config.ports), []
    for java in _servers():
        with suppress(psutil.Error):
            opened = java.net_connections("inet")
            listening = {
                connection.laddr.port for connection in opened if connection.status == psutil.CONN_LISTEN
            }
            if listening & wanted:
                found.append(java)
    return found


def workers_of(java: psutil.Process) -> list[psutil.Process]:
    """The Python processes below `java` that run the handler, by their number."""
    found = []
    for process in java.children(recursive=True):
        with suppress(psutil.Error):
            if any(WORKER in part for part in process.cmdline()):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def is_alive(access: Access, name: str) -> bool:
    """Whether a worker of `name` answers in time or is busy: with a long batch, a full queue, or loading. A
    worker that hangs, is stopped or was given up is not alive, nor is a server that passes no work to any
    worker. Takes up to 12 s."""
    if access.answers(name):
        return True
    workers = [worker for java in serving(access.config) for worker in workers_of(java)]
    before = _cpu_seconds(workers)
    time.sleep(WATCH_S)
    return _cpu_seconds(workers) - before > AT_WORK * WATCH_S


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    spent = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def clear(folder: Path) -> None:
    """Remove what a server that was killed left in its temporary `folder`; nothing while one uses it."""
    if any(_temporary_folder(java) == folder for java in _servers()):
        return
    for pattern in LEFT:
        for left in folder.glob(pattern):
            remove(left)


def sweep() -> None:
    """End the private servers whose starter was killed, and remove their folders."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PRIVATE}*"):
        with suppress(OSError), (folder / LOCK).open() as lock:
            if folder.stat().st_uid != os.getuid():
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its starter holds this for as long as it lives
            for java in [java for java in _servers() if _temporary_folder(java) == folder]:
                with suppress(psutil.Error):
                    for process in (*java.children(recursive=True), java):
                        process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _servers() -> Iterator[psutil.Process]:
    """Every TorchServe's Java process on this machine."""
    for process in psutil.process_iter(["cmdline"]):
        if JAVA in (process.info["cmdline"] or ()):
            yield process


def _temporary_folder(java: psutil.Process) -> Path | None:
    """Where it unpacks archives, as its command line says."""
    with suppress(psutil.Error):
        for part in java.cmdline():
            if part.startswith("-Djava.io.tmpdir="):
                return Path(part.partition("=")[2])
    return None


def free_ports(count: int) -> list[int]:
    """Free ports of loopback, all different: below those that Linux gives to outgoing connections, any of
    which could take a port before the server has it."""
    found: list[int] = []
    for port in random.sample(OWN_PORTS, len(OWN_PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
            if len(found) == count:
                break
    return found


def _wait_until_ready(
    process: subprocess.Popen[bytes], access: Access, name: str, said: Callable[[], str], timeout_s: float
) -> None:
    """Wait until every worker of `name` reports READY; otherwise `UserError` with the end of its log."""
    deadline = time.monotonic() + timeout_s
    answers_since: float | None = None
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(
                "TorchServe did not start",
                seen=_last_lines(said()),
                remedy="The lines above say why; python -m deploy status shows ports and Java",
            )
        if access.is_ready(name):
            return
        if "Worker died" in said():
            time.sleep(1)  # what the worker said on its way out may be written after TorchServe's own line
            raise UserError(
                "the model did not load",
                seen=_reason(said()),
                remedy="Build it again: python -m export build",
            )
        if access.worker_status(name) is None and access.is_healthy():
            answers_since = answers_since or time.monotonic()
            if time.monotonic() - answers_since > GRACE_S:
                raise UserError(
                    "TorchServe is running without the model",
                    seen=_last_lines(said()),
                    remedy="Build it again: python -m export package",
                )
        time.sleep(0.1)
    raise UserError(
        f"TorchServe was not ready within {timeout_s:.0f} s", seen=_last_lines(said()), remedy="Try again"
    )


def _read(log: Path, begin: int = 0) -> str:
    """The text of a log from the byte `begin` on; all of it where it has rolled over since."""
    if not log.is_file():
        return ""
    with log.open("rb") as opened:
        opened.seek(begin if begin <= log.stat().st_size else 0)
        return opened.read().decode(errors="replace")


def _reason(said: str) -> str:
    """The handler's sentence about why it could not load, or the end of the log."""
    found = re.findall(r"the model did not load: (.+)", said)
    return found[-1] if found else _last_lines(said)


def _last_lines(said: str, count: int = 15) -> str:
    return "\n" + "\n".join(said.splitlines()[-count:]) + "\n"


def _stop(process: subprocess.Popen[bytes], patience_s: float = 5) -> None:
    """Kill the whole process group: TorchServe would take 4 s to tidy up files that are deleted anyway."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
