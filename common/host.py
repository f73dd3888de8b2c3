"""Checks of the host: folders, limits and the shell's environment, which can stop a server from working.

Each check is a function that looks at one thing and yields what it found; `doctor` runs them.
"""

import locale
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.proxies import EXCEPTIONS, LOOPBACK
from common.scratch import check, own_folder
from handler.errors import UserError
from handler.machine import unpacking_fault, unpacks_into

LEAST_FILES = 1024  # the JVM with its jars and connections
LEAST_SHARED_BYTES = 64 << 20  # of /dev/shm: what a container has where nothing is said
LEAST_LOG_BYTES = 256 << 20  # deploy/log4j2.xml keeps at most 120 MB, and the start's log grows next to it
SHARED_MEMORY = Path("/dev/shm")
CLOCK_SLACK_S = 24 * 3600


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `ok`, `warn` or `fail`, what was seen, and what to do about it."""

    name: str
    status: str
    seen: str
    remedy: str = ""


def judged(name: str, good: object, seen: str, remedy: str, otherwise: str = "warn") -> Finding:
    """`ok` where it is `good`."""
    return Finding(name, "ok" if good else otherwise, seen, remedy)


def host() -> Iterator[Finding]:
    """All that does not depend on the configuration or the archive."""
    for look in (_home, _logs, _files, _address_space, _shared_memory, _proxy, _locale, _clock, _shell):
        yield from look()
    yield private_folder()


def private_folder() -> Finding:
    """Whoever may write there has code run as the server's user."""
    folder = own_folder()
    try:
        check(folder)
    except UserError as error:
        return Finding("private folder", "fail", str(error), error.remedy)
    return Finding("private folder", "ok", str(folder))


def temporary_folder(archive_bytes: int, runtime: str) -> Iterator[Finding]:
    """Where archives are unpacked, and where torch loads compiled ones from."""
    folder = tempfile.gettempdir()
    named = os.environ.get("TMPDIR")
    if named and Path(folder).resolve() != Path(named).resolve():
        yield Finding(
            "TMPDIR", "fail", f"{named} is not writable", "Set it to a writable folder, or unset it"
        )
    free = shutil.disk_usage(folder).free
    remedy = "Archives are unpacked there: free some space, or set TMPDIR and TEMP"
    yield judged("disk", free > 2 * archive_bytes, f"{free / 1e9:.1f} GB free in {folder}", remedy, "fail")
    pid_file = Path(folder, ".model_server.pid")
    if pid_file.exists() and pid_file.stat().st_uid != os.getuid():
        remedy = "Set TMPDIR to your own folder"
        yield Finding("pid file", "fail", f"{pid_file} belongs to another user", remedy)
    if fault := unpacking_fault(archive_bytes):
        status = "fail" if runtime == "compiled" else "warn"
        remedy = "Compiled archives are loaded from there: set TMPDIR to one with space, without noexec"
        yield Finding("code in TMPDIR", status, f"{unpacks_into()}: {fault}", remedy)


def archive_rights(archive: Path) -> Iterator[Finding]:
    """Whether the server's user can read the archive."""
    if not os.access(archive, os.R_OK):
        yield Finding("rights", "fail", f"{archive} is not readable", f"chmod a+r {archive}")
    elif not archive.stat().st_mode & 0o044:
        seen = f"only its owner can read {archive}"
        yield Finding("rights", "warn", seen, f"If another user runs the server: chmod a+r {archive}")


def _home() -> Iterator[Finding]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if not (home.is_dir() and os.access(home, os.W_OK)):
        remedy = "Libraries keep caches there: set HOME to a writable folder"
        yield Finding("HOME", "warn", f"{home} is not writable", remedy)


def _logs() -> Iterator[Finding]:
    folder = Path(os.environ.get("LOG_LOCATION") or "logs").absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(there, os.W_OK):
        remedy = "TorchServe writes its logs there: make it writable, or set LOG_LOCATION"
        yield Finding("logs", "fail", f"{there} is not writable", remedy)
    elif (free := shutil.disk_usage(there).free) < LEAST_LOG_BYTES:
        yield Finding("logs", "warn", f"{free / 1e6:.0f} MB free in {there}", "Free some: logs take 120 MB")


def _files() -> Iterator[Finding]:
    limit = _limit(resource.RLIMIT_NOFILE)
    if limit is not None and limit < LEAST_FILES:
        yield Finding("open files", "warn", f"at most {limit}", "Every connection takes one: ulimit -n 4096")


def _address_space() -> Iterator[Finding]:
    if (limit := _limit(resource.RLIMIT_AS)) is not None:
        remedy = "Java reserves more than it uses: ulimit -v unlimited, and limit memory with a cgroup"
        yield Finding("address space", "warn", f"at most {limit / 1e9:.1f} GB", remedy)


def _shared_memory() -> Iterator[Finding]:
    if SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < LEAST_SHARED_BYTES:
        remedy = "Ray and torch's loaders share data there. In Docker: docker run --shm-size=1g"
        yield Finding("shared memory", "warn", f"{free / 1e6:.0f} MB free in {SHARED_MEMORY}", remedy)


def _proxy() -> Iterator[Finding]:
    names = ("http_proxy", "all_proxy", "ALL_PROXY", "HTTP_PROXY")
    proxy = next((os.environ[name] for name in names if os.environ.get(name)), None)
    given = _given()  # this process has made exceptions for itself
    spared = next((given[name] for name in EXCEPTIONS if given.get(name)), "")
    if proxy and "*" not in spared and not {*LOOPBACK[:2]} <= {*spared.replace(" ", "").split(",")}:
        remedy = f"curl uses it for localhost too: source ./activate, or export no_proxy={','.join(LOOPBACK)}"
        yield Finding("proxy", "warn", f"{_without_password(proxy)}, also for loopback", remedy)


def _without_password(proxy: str) -> str:
    scheme, divider, rest = proxy.rpartition("//")
    return scheme + divider + rest.rpartition("@")[2]


def _locale() -> Iterator[Finding]:
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") not in ("utf8", "ascii", "usascii", "ansi_x3.41968"):
        yield Finding("locale", "warn", encoding, "Other tools write files in it: export LC_ALL=C.UTF-8")


def _clock() -> Iterator[Finding]:
    made = Path(__file__).stat().st_mtime
    if time.time() < made - CLOCK_SLACK_S:
        now = time.strftime("%Y-%m-%d", time.gmtime())
        yield Finding(
            "clock", "warn", f"{now}, earlier than this program", "Set the clock: certificates have dates"
        )


def _shell() -> Iterator[Finding]:
    """Looks at what the shell passes to TorchServe: this process has set the first one for itself."""
    waits = _given().get("OMP_WAIT_POLICY", "unset")
    remedy = "Threads that spin while they wait slow everything else down: source ./activate"
    yield judged("OMP_WAIT_POLICY", waits.upper() == "PASSIVE", waits, remedy)
    if "PYTHONPATH" in os.environ:
        remedy = "A worker imports modules from there before its archive: unset PYTHONPATH"
        yield Finding("PYTHONPATH", "warn", os.environ["PYTHONPATH"], remedy)


def _limit(kind: int) -> int | None:
    """A soft limit of this process; None where there is none."""
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def _given() -> dict[str, str]:
    """The environment that the shell gave to this process, where the platform tells, else what it is now."""
    try:
        pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    words = (os.fsdecode(pair).partition("=") for pair in pairs)
    return {name: value for name, _, value in words}
