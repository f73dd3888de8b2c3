"""Files of a public data set, pinned to a commit and a sha256 each, so that all of us read the same bytes.

Covers: finding them under `DATA_DIR`, downloading the missing ones, checking every sum, and saying what
to put where when no download is possible. Leaves out: what the files mean (`sources`).
"""

import hashlib
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handler.commands import say
from handler.errors import UserError

TIMEOUT_S = 30


@dataclass(frozen=True)
class PinnedFiles:
    """`folder` is relative to `DATA_DIR`; `url` is where the files lie raw; `page` is for people."""

    name: str
    folder: str
    url: str
    page: str
    sha256: Mapping[str, str]


def fetch(files: PinnedFiles, data_dir: Path) -> Path:
    """The folder that holds all files with the right sums, downloading those that are missing."""
    folder = data_dir / files.folder
    missing = [name for name in files.sha256 if not (folder / name).is_file()]
    if missing:
        say(f"{files.name}: downloading {len(missing)} files from {files.page} to {folder}")
    for name in missing:
        _write(_download(files, name, folder), folder / name)
    for name, expected in files.sha256.items():
        seen = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if seen != expected:
            raise UserError(
                f"{folder / name} is not the file that {files.name} is pinned to",
                seen=f"sha256 {seen}, expected {expected}",
                remedy=f"Remove it to have it downloaded, or take it from {files.page}.",
            )
    return folder


def _download(files: PinnedFiles, name: str, folder: Path) -> bytes:
    url = f"{files.url}/{name}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            content = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise UserError(
            f"{files.name} is not in {folder.absolute()} and {url} could not be downloaded",
            seen=getattr(error, "reason", None) or type(error).__name__,
            remedy=f"Put {', '.join(files.sha256)} from {files.page} there, or give the folder that holds "
            f"{files.folder}/ as DATA_DIR=, or train on the embedded corpus with DATA=demo.",
        ) from error
    seen = hashlib.sha256(content).hexdigest()
    if seen != files.sha256[name]:  # never let wrong bytes take the file's name
        raise UserError(
            f"{url} is not the file that {files.name} is pinned to",
            seen=f"sha256 {seen}, expected {files.sha256[name]}",
            remedy=f"Try again, or place the file from {files.page} in {folder.absolute()} by hand.",
        )
    return content


def _write(content: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part:
            part.write(content)
        Path(part.name).chmod(0o644)
        Path(part.name).replace(path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path.absolute()}",
            seen=error.strerror,
            remedy="Give a folder that you may write to as DATA_DIR=.",
        ) from error
