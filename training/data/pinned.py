"""Files of a public data set, pinned to a commit and a sha256 each, so that everyone reads the same bytes."""

import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from common.atomic import make_folder, replacing
from common.commands import say
from common.proxies import open_url
from handler.errors import UserError, refusals

TIMEOUT_S = 30


@dataclass(frozen=True)
class PinnedFiles:
    """`folder` is relative to `DATA_DIR`; `url` is where the files lie raw; `page` is for people.

    `folders` are those of many small files, each with the sum that `folder_sha256` gives: they come out of
    `archive`, a .tar.gz whose members all lie in one folder. Its own sum is not pinned, since the host may
    pack it again; what comes out of it is.
    """

    name: str
    folder: str
    url: str
    page: str
    sha256: Mapping[str, str]
    archive: str = ""
    folders: Mapping[str, str] = field(default_factory=dict)


def fetch(files: PinnedFiles, data_dir: Path) -> Path:
    """The folder that holds all files with the right sums, downloading those that are missing."""
    folder = data_dir / files.folder
    missing = [name for name in files.sha256 if not (folder / name).is_file()]
    if missing:
        say(f"{files.name}: downloading {len(missing)} files from {files.page} to {folder}")
    for name in missing:
        content = _download(files, f"{files.url}/{name}", folder)
        seen = hashlib.sha256(content).hexdigest()  # before it takes the file's name
        _check(files, f"{files.url}/{name}", seen, files.sha256[name], _again(files, folder))
        _write(content, folder / name)
    if any(not (folder / name).is_dir() for name in files.folders):
        say(f"{files.name}: downloading {files.archive} to {folder}")
        _unpack(files, _download(files, files.archive, folder), folder)
    for name, expected in {**files.sha256, **files.folders}.items():
        path = folder / name
        seen = folder_sha256(path) if name in files.folders else hashlib.sha256(path.read_bytes()).hexdigest()
        remedy = f"Delete it to download it again, or get it from {files.page}."
        _check(files, str(path), seen, expected, remedy)
    return folder


def folder_sha256(folder: Path) -> str:
    """The sum of a folder of files: of each name, size and content, in the order of names."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _download(files: PinnedFiles, url: str, folder: Path) -> bytes:
    try:
        with open_url(url, TIMEOUT_S) as answer:
            return answer.read()
    except (OSError, HTTPException) as error:  # URLError is an OSError
        wanted = ", ".join([*files.sha256, *(f"{name}/" for name in files.folders)])
        raise UserError(
            f"{files.name} is not in {folder.absolute()} and {url} could not be downloaded",
            seen=getattr(error, "reason", None) or type(error).__name__,
            remedy=f"Put {wanted} from {files.page} there, or give the folder that holds "
            f"{files.folder}/ as DATA_DIR=, or train on the embedded corpus with DATA=demo.",
        ) from error


def _unpack(files: PinnedFiles, content: bytes, folder: Path) -> None:
    """Put the archive's `folders` in their places, each when it is complete and its sum is right."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacked-") as place:
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
                _extract(archive, Path(place).resolve())
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(
                f"{files.archive} is not a .tar.gz",
                seen=error,
                remedy="Try again, or put the files there by hand.",
            ) from error
        for name, expected in files.folders.items():
            found = [path for path in Path(place).glob(f"*/{name}") if path.is_dir()]
            seen = folder_sha256(found[0]) if found else "no such folder"
            _check(files, f"{name}/ of {files.archive}", seen, expected, _again(files, folder))
            if not (folder / name).exists():
                shutil.move(found[0], folder / name)


def _extract(archive: tarfile.TarFile, place: Path) -> None:
    """Write the archive's regular files below `place`; one that lies elsewhere is a `tarfile.TarError`."""
    # Links are never made. The filters of `extractall` came with Python 3.11.4; Debian 12 has 3.11.2.
    for member in archive:
        path = (place / member.name).resolve()
        if not path.is_relative_to(place):
            raise tarfile.TarError(f"{member.name} lies outside its folder")
        if member.isfile() and (content := archive.extractfile(member)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())


def _check(files: PinnedFiles, what: str, seen: str, expected: str, remedy: str) -> None:
    if seen != expected:
        raise UserError(
            f"{what} does not match the checksum pinned for {files.name}",
            seen=f"sha256 {seen}, expected {expected}",
            remedy=remedy,
        )


def _again(files: PinnedFiles, folder: Path) -> str:
    return f"Try again, or download it from {files.page} to {folder.absolute()} by hand."


def _write(content: bytes, path: Path) -> None:
    with refusals("The data cannot be written", path.absolute(), "Name another folder: --data-dir."):
        make_folder(path.parent)
        with replacing(path) as file:
            file.write(content)
