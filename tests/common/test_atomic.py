"""Old or new, never neither: whatever call fails, and after whatever call the process is killed."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common import atomic
from common.atomic import create, make_folder, recover, replacing, replacing_folder, sync_tree, write_json

ROOT = Path(__file__).parents[2]

# A process of its own, which imports nothing heavy: it forks once for each call of the system that the write
# makes, and the child is killed before that call, or the call fails.
STEPS = """
import errno, json, os, sys
from pathlib import Path
from common import atomic

CALLS = ("open", "write", "mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync", "fchmod", "chmod")
place, work, way = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if "fallback" in work:
    atomic._exchange = lambda one, other: False

def old():
    if "folder" in work:
        (place / "it" / "below").mkdir(parents=True)
        for name in ("it/one", "it/below/two"):
            (place / name).write_text("old")
    else:
        (place / "it").write_text("old")

def new():
    if "folder" in work:
        with atomic.replacing_folder(place / "it") as folder:
            (folder / "below").mkdir(mode=0o700)
            for name in ("one", "below/two"):
                written()
                (folder / name).write_text("new")
                written()
    else:
        with atomic.replacing(place / "it", text=True) as file:
            written()
            file.write("new")
            written()

def written():
    "What stands for writing, which the interpreter does without a call that can be seen here."

def content():
    if not (place / "it").exists():
        return None
    files = [place / "it"] if (place / "it").is_file() else [place / "it/one", place / "it/below/two"]
    found = {file.read_text() if file.is_file() else None for file in files}
    return found.pop() if len(found) == 1 else "mixed"

calls = 0

def at(number):
    def counted(real):
        def call(*given, **named):
            global calls
            calls += 1
            if calls == number:
                if way == "kill":
                    os._exit(9)
                raise OSError(int(way), os.strerror(int(way)))
            return real(*given, **named)
        return call
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    for name in ("_exchange", "_begun"):
        setattr(atomic, name, counted(getattr(atomic, name)))
    globals()["written"] = counted(written)

outcomes = []
for number in range(1, 200):
    old()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        status = 0
        try:
            at(number)
            new()
        except OSError as error:
            status = 3 if int(way) == error.errno else 1
        finally:
            os._exit(4 if calls < number else status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    missing = content() is None
    atomic.recover(place / "it")
    found = content()
    left = sorted(path.name for path in place.iterdir() if path.name != "it")
    new()  # what was left is swept by the next writer
    swept = sorted(path.name for path in place.iterdir()) == ["it"] and content() == "new"
    outcomes.append([status, found, missing, left, swept])
    __import__("shutil").rmtree(place)
    place.mkdir()
    if status == 4:
        break
print(json.dumps(outcomes))
"""


def steps(place: Path, work: str, way: str) -> list[list]:
    """[exit status, content, whether nothing was there before the repair, what lay about, whether the next
    writer swept it] for each call of the system."""
    place.mkdir()
    command = [sys.executable, "-c", STEPS, place, work, way]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("work", ["file", "folder", "folder by fallback"])
def test_a_kill_before_any_call_leaves_the_old_or_the_new(work: str, tmp_path: Path) -> None:
    outcomes = steps(tmp_path / "place", work, "kill")
    assert len(outcomes) > 5
    contents = [content for _, content, _, _, _ in outcomes]
    assert set(contents) == {"old", "new"}
    assert contents == sorted(contents, reverse=True), "old until it is new"
    assert outcomes[-1][1:4] == ["new", False, []], "a write that ends leaves nothing about"
    assert all(swept for *_, swept in outcomes)
    if work != "folder by fallback":
        assert not any(missing for _, _, missing, _, _ in outcomes), "at no moment was there nothing"


@pytest.mark.parametrize("number", [28, 5, 30, 13], ids=["no room", "I/O error", "read-only", "rights"])
@pytest.mark.parametrize("work", ["file", "folder", "folder by fallback"])
def test_a_call_that_fails_is_raised_and_leaves_the_old_or_the_new(
    work: str, number: int, tmp_path: Path
) -> None:
    outcomes = steps(tmp_path / "place", work, str(number))
    assert {content for _, content, _, _, _ in outcomes} == {"old", "new"}
    assert {status for status, *_ in outcomes} <= {0, 3, 4}, "no other error takes its place"
    assert all(content == "new" for status, content, *_ in outcomes if status == 0), "done is done"
    assert all(swept for *_, swept in outcomes)
    assert not any(missing for _, _, missing, _, _ in outcomes)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit(143), ValueError("a defect")])
def test_whatever_is_raised_inside_leaves_the_old(raised, exchange, tmp_path, monkeypatch) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    write_json(tmp_path / "folder" / "file", "old")
    with pytest.raises((KeyboardInterrupt, SystemExit, ValueError)), replacing(tmp_path / "folder" / "file"):
        raise raised
    with pytest.raises((KeyboardInterrupt, SystemExit, ValueError)), replacing_folder(tmp_path / "folder"):
        raise raised
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert json.loads((tmp_path / "folder" / "file").read_text()) == "old"


def test_an_interrupt_between_two_renames_puts_the_old_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    write_json(tmp_path / "it" / "file", "old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial") and not target.exists():
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "it") as folder:
        (folder / "file").write_text("new")
    assert json.loads((tmp_path / "it" / "file").read_text()) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_only_what_is_ones_own_is_put_back_or_swept(tmp_path: Path) -> None:
    """Names that begin alike, and names that look like patterns."""
    for name in ("a", "a.b", "a[0-9]"):
        (tmp_path / f".{name}.0123abcd.old").mkdir()
        (tmp_path / f".{name}.0123abcd.old" / name).touch()
    for foreign in (".a.notes.old", ".a.0123abcd.partial.txt", ".a.01234567.oldest"):
        (tmp_path / foreign).touch()
    before = {path.name for path in tmp_path.iterdir()}
    for name in ("a", "a[0-9]"):
        recover(tmp_path / name)
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]
    with replacing_folder(tmp_path / "a"):
        pass
    after = {path.name for path in tmp_path.iterdir()}
    assert before - after == {".a.0123abcd.old", ".a[0-9].0123abcd.old"}


def test_the_partial_of_a_living_process_is_not_swept(tmp_path: Path) -> None:
    for writing in (replacing, replacing_folder):
        place = tmp_path / writing.__name__
        with writing(place) as first:
            there = set(tmp_path.iterdir())
            with writing(place):
                pass
            assert there < set(tmp_path.iterdir())
            if writing is replacing:
                first.write(b"last")
            else:
                (first / "last").touch()
        assert place.read_bytes() == b"last" if place.is_file() else (place / "last").exists()


def test_rights_follow_the_umask_and_files_that_are_replaced_keep_theirs(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for umask, file_mode, folder_mode in (
            (0o022, 0o644, 0o755),
            (0o077, 0o600, 0o700),
            (0o002, 0o664, 0o775),
        ):
            os.umask(umask)
            with replacing_folder(tmp_path / "it") as folder:
                (folder / "below").mkdir(mode=0o700)
                os.close(os.open(folder / "below" / "file", os.O_CREAT, 0o600))
                os.close(os.open(folder / "program", os.O_CREAT, 0o700))
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "it").rglob("*")}
            assert modes["file"] == file_mode
            assert modes["below"] == folder_mode == (tmp_path / "it").stat().st_mode & 0o777
            assert modes["program"] == file_mode | 0o100
            write_json(tmp_path / f"{umask}.json", 1)
            assert (tmp_path / f"{umask}.json").stat().st_mode & 0o777 == file_mode
        os.umask(0o022)
        (tmp_path / "private").touch(0o600)
        write_json(tmp_path / "private", "secret")
        assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_json(tmp_path / "elsewhere" / "file", "old")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere" / "file")
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    write_json(tmp_path / "file", "new")
    assert json.loads((tmp_path / "elsewhere" / "file").read_text()) == "new"
    with replacing_folder(tmp_path / "folder") as folder:
        (folder / "of the new").touch()
    assert (tmp_path / "folder").is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["of the new"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("a file")
    with pytest.raises(NotADirectoryError), replacing_folder(tmp_path / "it"):
        pass
    assert (tmp_path / "it").read_text() == "a file"
    assert len(list(tmp_path.iterdir())) == 1


def without(monkeypatch, *calls: str) -> None:
    """A file system that has neither."""

    def refused(*_) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    for name in calls:
        monkeypatch.setattr(atomic.os if name == "link" else atomic.fcntl, name, refused)


@pytest.mark.parametrize("missing", [(), ("link",), ("link", "flock")], ids=lambda calls: f"no {calls}")
def test_a_file_is_created_once(missing, tmp_path, monkeypatch) -> None:
    without(monkeypatch, *missing)
    assert create(tmp_path / "it", b"first")
    assert not create(tmp_path / "it", b"second")
    assert (tmp_path / "it").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("missing", [(), ("link",)], ids=lambda calls: f"no {calls}")
def test_nobody_sees_a_new_file_half_written(missing, tmp_path, monkeypatch) -> None:
    without(monkeypatch, *missing)
    seen = []
    sync_file, sync_folder = atomic._sync, atomic.sync_folder

    def look() -> None:
        if (tmp_path / "it").exists():
            seen.append((tmp_path / "it").read_bytes())

    def syncs_file(*arguments) -> None:
        look()
        sync_file(*arguments)

    def syncs_folder(folder) -> None:
        look()
        sync_folder(folder)

    monkeypatch.setattr(atomic, "_sync", syncs_file)
    monkeypatch.setattr(atomic, "sync_folder", syncs_folder)
    assert create(tmp_path / "it", b"all of it")
    assert seen == [b"all of it"]


@pytest.mark.parametrize("way", ["replaced", "created"])
def test_what_is_being_named_is_not_swept(way: str, tmp_path: Path, monkeypatch) -> None:
    """Another writer of the same file may begin at the last moment before the name is given."""
    write = atomic.os.replace if way == "replaced" else atomic.os.link

    def late(*names) -> None:
        atomic._sweep(tmp_path / "it")
        write(*names)

    monkeypatch.setattr(atomic.os, "replace" if way == "replaced" else "link", late)
    if way == "created":
        assert create(tmp_path / "it", b"new")
    else:
        with replacing(tmp_path / "it") as file:
            file.write(b"new")
    assert (tmp_path / "it").read_bytes() == b"new"


def test_all_is_synced_before_the_rename_and_the_name_after_it(tmp_path, monkeypatch) -> None:
    calls: list[str] = []

    def noting(name: str, real):
        def call(*given, **named):
            target = given[0]
            if isinstance(target, int):
                target = Path(f"/proc/self/fd/{target}").readlink()
            calls.append(f"{name} {Path(target).name.split('.')[-1]}")
            return real(*given, **named)

        return call

    make_folder(tmp_path / "place")
    write_json(tmp_path / "place" / "it" / "file", "old")
    for name in ("fsync", "rename", "replace"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    monkeypatch.setattr(atomic, "_exchange", noting("exchange", atomic._exchange))
    with replacing_folder(tmp_path / "place" / "it") as folder:
        (folder / "file").write_text("new")
    assert calls == ["fsync file", "fsync partial", "rename partial", "exchange partial", "fsync place"]
    calls.clear()
    with replacing(tmp_path / "place" / "it" / "file") as file:
        file.write(b"newer")
    assert calls == ["fsync partial", "replace partial", "fsync it"]


def test_a_folder_that_cannot_be_listed_is_not_called_done(tmp_path: Path, monkeypatch) -> None:
    write_json(tmp_path / "it" / "file", "old")
    scandir = os.scandir

    def unable(path):
        if str(path).endswith("below"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", unable)
    with pytest.raises(OSError, match="Too many open files"):
        sync_tree(with_below(tmp_path))
    with pytest.raises(OSError, match="Too many open files"), replacing_folder(tmp_path / "it") as folder:
        with_below(folder)
    monkeypatch.undo()
    assert json.loads((tmp_path / "it" / "file").read_text()) == "old"


def with_below(folder: Path) -> Path:
    (folder / "below").mkdir()
    return folder


def test_two_processes_may_replace_one_folder(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from common.atomic import replacing_folder
for turn in range(30):
    with replacing_folder(Path(sys.argv[1])) as folder:
        for name in "ab":
            (folder / name).write_text(f"{sys.argv[2]} {turn}")
"""
    place = tmp_path / "it"
    command = [sys.executable, "-c", code, place]
    writers = [subprocess.Popen([*command, name], cwd=ROOT) for name in ("one", "two")]
    assert [writer.wait(100) for writer in writers] == [0, 0]
    assert (place / "a").read_text() == (place / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_never_replaced_by_one(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    _make(kind, place)
    before = place.stat()
    with pytest.raises(OSError, match="a device, a pipe or a folder is in the way"), replacing(place) as file:
        file.write(b"new")
    assert (place.stat().st_mode, place.stat().st_ino) == (before.st_mode, before.st_ino)
    assert list(tmp_path.iterdir()) == [place]


def _make(kind: str, place: Path) -> None:
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        try:
            os.mknod(place, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
