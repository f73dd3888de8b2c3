"""Atomic writes: a kill or a power cut at any moment leaves the old content or the new, never a mix.

The content is on the disk when these functions return.
"""

import ctypes
import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from handler.records import plain

PARTIAL, OLD = "partial", "old"
TOKEN_BYTES = 4
TOKEN = "[0-9a-f]" * (2 * TOKEN_BYTES)
AT_FDCWD = -100  # of Linux: paths are relative to the working directory
RENAME_EXCHANGE = 2
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EMLINK)
NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)  # network file systems, mostly


@contextmanager
def replacing(path: Path, *, text: bool = False) -> Iterator[Any]:
    """A file, bytes or UTF-8 `text`, that replaces `path` when it is complete and on the disk.

    An exception inside leaves the old file. A link stays a link: its target is replaced. A replaced file
    keeps its permissions. Raises `OSError` with the file's name.
    """
    path = Path(os.path.realpath(path))
    partial = _hidden(path, PARTIAL)
    try:
        with _naming(path):
            if path.exists() and not path.is_file():  # as root, a rename would replace /dev/null
                raise OSError(errno.EEXIST, "a device, a pipe or a folder is in the way", str(path))
            with _begun(partial, path, text) as file:
                with suppress(OSError):  # it is not there, or the file system has no rights
                    os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
                yield file
                _sync(file, path)
                os.replace(partial, path)  # while it is locked, or another writer sweeps it
            sync_folder(path.parent)
    finally:
        remove(partial)


@contextmanager
def replacing_folder(place: Path) -> Iterator[Path]:
    """An empty folder that replaces `place` when it is complete and on the disk; its files get the
    permissions that the umask allows, whichever library wrote them.

    An exception inside leaves the old folder. The two are exchanged in one step if the file system can;
    otherwise the old one is renamed first, and `recover` puts it back after a kill between the two renames.
    Raises `OSError` with the folder's name.
    """
    place = Path(os.path.realpath(place))
    make_folder(place.parent)
    recover(place)
    partial = _hidden(place, PARTIAL)
    try:
        with _naming(place), ExitStack() as held:
            _sweep(place)
            while not partial.exists():  # another process may sweep it before it is locked
                partial.mkdir()
                held.enter_context(_locked(partial, wait=True))
            yield partial
            _widen(partial)
            sync_tree(partial)
            _swap(partial, place)
    finally:
        remove(partial)  # unfinished, or what stood in the place


def recover(place: Path) -> None:
    """Restore the folder at `place` if a kill between two renames left nothing there."""
    place = Path(os.path.realpath(place))
    if os.path.lexists(place):
        return
    for old in sorted(_hiding(place, OLD), key=lambda path: path.stat().st_mtime, reverse=True):
        with _locked(old, wait=True):  # until a living writer has finished
            if old.exists() and not os.path.lexists(place):
                old.rename(place)
                sync_folder(place.parent)


def recover_all(folder: Path) -> None:
    """`recover` for everything in `folder`."""
    for old in folder.glob(f".*.{TOKEN}.{OLD}"):
        recover(old.with_name(old.name[1:].rsplit(".", 2)[0]))


def write_json(path: Path, value: object) -> None:
    """Write `value`, which may contain records, to `path`; makes the folder if it is missing."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path`; makes the folder if it is missing."""
    make_folder(path.parent)
    with replacing(path, text=True) as file:
        file.write(content)


def create(path: Path, content: bytes) -> bool:
    """Write a new file atomically; False if it already exists. Of several writers only one succeeds."""
    partial = _hidden(path, PARTIAL)
    try:
        with _naming(path):
            with _begun(partial, path) as file:
                file.write(content)
                _sync(file, path)
                if not _link(partial, path):  # while it is locked, or another writer sweeps it
                    _name_alone(partial, path, content)
            sync_folder(path.parent)
    except FileExistsError:
        return False
    finally:
        remove(partial)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Everything below `folder` is on the disk when this returns."""
    for place, _, names in os.walk(folder, topdown=False, onerror=_raise):
        for path in (Path(place, name) for name in names):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    _sync(file, path)
        sync_folder(Path(place))


def _raise(error: OSError) -> None:
    """For `os.walk`, which passes over folders that it cannot list."""
    raise error


def sync_folder(folder: Path) -> None:
    """The names in `folder` are on the disk when this returns, where its file system can sync a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise OSError(error.errno, error.strerror, str(folder)) from error


def _sync(file: IO[Any], path: Path) -> None:
    """What was written to a file is on the disk when this returns. Errors name it `path`."""
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _link(one: Path, other: Path) -> bool:
    """A second name of a file; False where the file system has no hard links."""
    try:
        os.link(one, other)
    except OSError as error:
        if error.errno in NO_LINKS:
            return False
        raise
    return True


def _name_alone(partial: Path, path: Path, content: bytes) -> None:
    """What `_link` does, where there are no links: writers wait for one another, and readers see all of the
    file or none. Raises `FileExistsError`."""
    with _locked(path.parent, wait=True) as alone:
        if not alone:  # a file system without locks: a reader may see the file half written
            _write_new(path, content)
        elif os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        else:
            os.replace(partial, path)


def _write_new(path: Path, content: bytes) -> None:
    """Write all of a file that is new, or nothing."""
    with path.open("xb") as file:
        try:
            file.write(content)
            _sync(file, path)
        except BaseException:
            remove(path)
            raise


def _swap(partial: Path, place: Path) -> None:
    """`partial` at `place`; what stood there under the name of `partial`, or removed."""
    try:
        partial.rename(place)  # where nothing stands, or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _exchange(partial, place):
            _step_aside(partial, place)
    sync_folder(place.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Two names change places in one step; False where kernel, C library or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    done = rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    return bool(done == 0)


def _step_aside(partial: Path, place: Path) -> None:
    old = _hidden(place, OLD)
    with _locked(place):
        try:
            place.rename(old)
            partial.rename(place)
        finally:
            if old.exists() and not os.path.lexists(place):
                old.rename(place)
        sync_folder(place.parent)
    remove(old)


def _hidden(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(TOKEN_BYTES)}.{kind}")


def _hiding(path: Path, kind: str) -> list[Path]:
    """What `_hidden` has named for `path`, and for no other name."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.{TOKEN}.{kind}"))


def _sweep(place: Path) -> None:
    """Remove what killed writers of `place` left, never the only copy; that of a living one is locked."""
    leaving = _hiding(place, PARTIAL)
    if os.path.lexists(place):
        leaving += _hiding(place, OLD)
    for path in leaving:
        with _locked(path) as is_left:
            if is_left:
                remove(path)


@contextmanager
def _locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file or folder, which goes with this process; False where another holds it, or the
    file system has none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor, wait)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _begun(partial: Path, path: Path, text: bool = False) -> IO[Any]:
    """The new file `partial` of `path`, locked."""
    _sweep(path)
    while True:
        file = partial.open("x", encoding="utf-8", newline="") if text else partial.open("xb")
        _lock(file.fileno(), wait=True)
        if partial.exists():  # another process has not swept it before it was locked
            return file
        file.close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A disk that is full does not say for which file."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


def _widen(folder: Path) -> None:
    """Who may read the folder may read what lies in it: safetensors writes for its owner alone."""
    granted = stat.S_IMODE(folder.stat().st_mode) & 0o777
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        wider = mode | (granted if path.is_dir() else granted & 0o666)
        if wider != mode:
            path.chmod(wider)


def remove(path: Path) -> None:
    """Whatever it is, and whether or not it is there; what cannot be removed stays hidden."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
