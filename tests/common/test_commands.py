"""What every command shares: its streams, its signals, and what the machine lacks for a moment."""

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = shlex.quote(sys.executable)
SAYING = """
from tqdm import tqdm
from common.commands import emit, run, say
def main(argv):
    say("✓ one – two → three ± “four” 漢 😀")
    for _ in tqdm(range(2), desc="µ ✗"): pass
    emit({"name": "漢字 é 😀", "bytes": "a\\udcffb"})
run(main)
"""
ENDING = """
import sys, time
from common.commands import run, say
def main(argv):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        say("tidying")
        open(sys.argv[1], "w").write("tidied")
run(main)
"""
RAISING = """
import errno, os
from common.commands import run
def main(argv):
    {raising}
run(main)
"""

NO_TMP = """
    import tempfile
    os.environ["TMPDIR"] = "/nowhere"
    tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
    tempfile.mkdtemp()
"""


def program(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, timeout=60, **options
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "utf-16"])
def test_every_encoding_is_written_to(encoding: str) -> None:
    done = program(SAYING, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8")) == {"name": "漢字 é 😀", "bytes": "a\udcffb"}
    said = done.stderr.decode(encoding)
    if encoding == "ascii":
        assert '+ one - two -> three +- "four" \\u6f22' in said
    assert "100%" in said


def test_a_terminal_of_another_encoding_is_given_json_that_it_can_show() -> None:
    """On a terminal that is narrow as well."""
    main, other = pty.openpty()
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "COLUMNS": "20", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SAYING],
        cwd=ROOT,
        env=environment,
        stdout=other,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(other)
    assert done.returncode == 0, done.stderr
    assert json.loads(os.read(main, 10_000).decode("ascii"))["name"] == "漢字 é 😀"
    os.close(main)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_failure_and_mix_nothing(closed: str, tmp_path: Path) -> None:
    """With stderr closed, what is meant for people must not land between the JSON."""
    script = tmp_path / "saying.py"
    script.write_text(SAYING)
    command = f'"{sys.executable}" "{script}" {closed}'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    if ">&-" not in closed.split():
        assert json.loads(done.stdout)["name"] == "漢字 é 😀"


def test_a_reader_that_goes_ends_the_job_and_a_stderr_that_goes_does_not() -> None:
    code = SAYING.replace("say(", "for _ in range(9): say(", 1)
    script = f"set -o pipefail; {{ {PYTHON} -c '{code}' 2>&1 >&3 | true; }} 3>&1"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert json.loads(done.stdout)["name"] == "漢字 é 😀"
    code = SAYING.replace("emit(", "for _ in range(9999): emit(", 1)
    script = f"set -o pipefail; {PYTHON} -c '{code}' | head -1"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"{\n")
    assert b"Traceback" not in done.stderr


def test_a_broken_pipe_of_something_else_is_not_success() -> None:
    done = program(RAISING.format(raising="raise BrokenPipeError('a worker has died')"))
    assert done.returncode == 1
    assert b"a worker has died" in done.stderr


@pytest.mark.parametrize(
    ("raising", "expected"),
    [
        ("raise OSError(errno.ENOSPC, 'x', '/a/file')", "the disk is full: /a/file"),
        ("raise OSError(errno.EDQUOT, 'over quota')", "the disk quota is used up: Disk quota exceeded"),
        ("raise OSError(errno.EROFS, 'x', '/a')", "the file system is read-only: /a"),
        ("raise OSError(errno.EMFILE, 'x')", "this process cannot open more files"),
        ("raise OSError(errno.EIO, 'x', '/a')", "the disk has read or write errors: /a"),
        ("raise OSError(errno.EIO, 'x')", "the disk has read or write errors: Input/output error"),
        ("raise OSError(errno.ESTALE, 'x', '/a')", "the network drive was changed or remounted: /a"),
        ("raise OSError(errno.ENOTCONN, 'x', '/a')", "the network drive is disconnected: /a"),
        ("raise OSError(errno.EFBIG, 'x')", "the file would exceed the size limit"),
        ("raise RuntimeError('write: Input/output error')", "the disk has read or write errors"),
        ("raise MemoryError", "there is not enough memory"),
        (NO_TMP, "no temporary folder is writable: TMPDIR=/nowhere"),
    ],
    ids=[
        "full", "quota", "read-only", "files", "disk", "disk-unnamed", "stale", "gone", "large", "library",
        "memory", "no-tmp",
    ],
)  # fmt: skip
def test_what_the_machine_lacks_is_a_sentence(raising: str, expected: str) -> None:
    done = program(RAISING.format(raising=raising))
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"error: {expected}")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "raising",
    [
        "raise OSError(errno.ENOTCONN, 'of a socket')",
        "raise OSError(errno.EINVAL, 'x', '/a')",
        "raise OSError('without a number')",
        "open('/nowhere')",
        "1 / 0",
    ],
)
def test_a_defect_stays_loud(raising: str) -> None:
    done = program(RAISING.format(raising=raising))
    assert done.returncode == 1
    assert b"Traceback" in done.stderr


@pytest.mark.parametrize(
    ("raising", "expected"),
    [
        ("raise OSError(errno.EIO, 'x', '/a')", "warning: the disk has read or write errors: /a"),
        ("1 / 0", "Traceback"),
    ],
)
def test_what_the_machine_lacks_is_a_sentence_in_threads_too(raising: str, expected: str) -> None:
    code = f"import threading\ndef work():\n    import errno\n    {raising}\n"
    start = "thread = threading.Thread(target=work); thread.start(); thread.join()"
    done = program(code + RAISING.format(raising=start))
    assert done.returncode == 0
    assert expected in done.stderr.decode()
    assert ("Traceback" in done.stderr.decode()) == (expected == "Traceback")


def test_the_development_mode_shows_where_it_was() -> None:
    raising = RAISING.format(raising="raise OSError(errno.EIO, 'x', '/a')")
    done = program(raising, env=os.environ | {"PYTHONDEVMODE": "1"})
    assert done.returncode == 2
    assert b"Traceback" in done.stderr
    assert done.stderr.decode().splitlines()[-1].startswith("error: the disk has read or write errors: /a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_the_output_is_a_sentence() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", SAYING], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 2
    assert b"the disk is full" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT"])
def test_a_signal_ends_a_command_tidily(name: str, tmp_path: Path) -> None:
    """Also where it comes twice, as from a terminal and from make."""
    place, number = tmp_path / "state", getattr(signal, name)
    with subprocess.Popen(
        [sys.executable, "-c", ENDING, str(place)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        if name != "SIGINT":
            time.sleep(0.2)
            process.send_signal(number)
        process.communicate(timeout=30)
    assert place.read_text() == "tidied"
    assert process.returncode == 128 + number


def test_a_job_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    place = tmp_path / "state"
    code = ENDING.replace("sleep(60)", "sleep(1)")
    with subprocess.Popen(
        ["nohup", sys.executable, "-c", code, str(place)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=30)
    assert (process.returncode, place.read_text()) == (0, "tidied")


def test_a_job_whose_terminal_vanishes_tidies_up(tmp_path: Path) -> None:
    """The terminal takes stderr with it, where the tidying says what it does."""
    place = tmp_path / "state"
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ENDING, str(place)], cwd=ROOT, stdin=other, stdout=other, stderr=other,
        start_new_session=True,
    )  # fmt: skip
    os.close(other)
    said = b""
    while not said.endswith(b"\n"):  # the terminal passes the line on in pieces
        said += os.read(main, 100)
    os.close(main)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 129
    assert place.read_text() == "tidied"
