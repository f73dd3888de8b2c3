"""Publishing: archives and checkpoints to a folder or an object store, versioned, with their sums.

`<destination>/<name>/<version>/` holds the archives (`hate-1.0.mar`), the description of the artifact inside
each, the checkpoint where it is asked for, and `published.json`, written last: without it a version is not
there yet. What is published under a version stays what it is; other content needs another version, or force.
Storage is what fsspec opens: a path, `s3://…` or `gs://…`. Leaves out: who may read it, which the storage
decides.
"""

import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.callbacks import TqdmCallback
from fsspec.implementations.local import LocalFileSystem

from handler.artifact import DESCRIPTION, archived_artifact, file_sha256
from handler.atomic import make_folder, replacing, replacing_folder, write_text
from handler.errors import UserError
from handler.storage import FAILURES, address, opened, told

RECORD = "published.json"
SCHEMA = 1
CHUNK = 1 << 20  # bytes that are copied at once
UNSIGNED: tuple[type[Exception], ...] = (NotImplementedError, AttributeError, ValueError)


@dataclass(frozen=True)
class Published:
    """A version at its place; `record` is the content of its `published.json`."""

    place: str
    record: dict[str, Any]
    is_new: bool = False


def publish(
    archives: Sequence[Path],
    destination: str,
    name: str,
    *,
    checkpoint: Path | None = None,
    force: bool = False,
) -> Published:
    """Send `archives` (of one version, which they hold) and a checkpoint's folder to `destination`.

    The same content again changes nothing; an upload that broke off is begun again. Raises `UserError` when
    the version is there with other content, or the storage cannot be reached.
    """
    metas = [archived_artifact(archive).meta for archive in archives]
    version = _version(archives)
    described: dict[str, bytes] = {}
    sent: dict[str, Path] = {}
    for archive, meta in zip(archives, metas, strict=True):
        # TorchServe keeps what it fetches under the address's last name, and refuses one that it has.
        named = f"{archive.stem}-{version}"
        sent[f"{named}.mar"] = archive
        described[f"{named}.{DESCRIPTION}"] = json.dumps(meta, indent=2, ensure_ascii=False).encode()
    if checkpoint is not None:
        found = sorted(path for path in checkpoint.rglob("*") if path.is_file())
        sent |= {f"checkpoint/{path.relative_to(checkpoint).as_posix()}": path for path in found}
    with tempfile.TemporaryDirectory(prefix="publish-") as scratch:
        for path, content in described.items():
            sent[path] = Path(scratch) / path
            sent[path].write_bytes(content)
        files = {
            path: {"sha256": file_sha256(file), "bytes": file.stat().st_size} for path, file in sent.items()
        }
        with _storage(destination) as (filesystem, root):
            place = f"{root}/{name}/{version}"
            there = _record(filesystem, place)
            whole = address(filesystem, place)
            if there and there["files"] == files and not force:
                return Published(whole, there)
            if there and not force:
                raise UserError(
                    f"version {version} is published with other content",
                    seen=whole,
                    remedy="Package another one: python -m export package --version 1.1; or --force",
                )
            if there:
                filesystem.rm_file(f"{place}/{RECORD}")  # a half-replaced version is none
            for path, file in sent.items():
                _send(filesystem, file, f"{place}/{path}")
            record = {
                "schema": SCHEMA,
                "name": name,
                "version": version,
                "published": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": files,
            }
            _write(filesystem, json.dumps(record, indent=2), f"{place}/{RECORD}")
    return Published(whole, record, is_new=True)


def fetch(place: str, folder: Path) -> Published:
    """Bring a published version to `folder`, which must not be there yet, and check its sums."""
    if folder.exists():
        raise UserError("the folder is there already", seen=folder, remedy="Name another with --to")
    with _storage(place) as (filesystem, root):
        record = _record(filesystem, root)
        if record is None:
            raise UserError("nothing is published there", seen=place, remedy=f"Is there a {RECORD}?")
        with replacing_folder(folder) as partial:
            for path, known in record["files"].items():
                file = (partial / path).resolve()
                if not file.is_relative_to(partial.resolve()):
                    raise UserError(
                        "what is published names a file outside it", seen=place, remedy="Publish again"
                    )
                file.parent.mkdir(parents=True, exist_ok=True)
                filesystem.get_file(f"{root}/{path}", str(file), callback=_bar(path))
                if file_sha256(file) != known["sha256"]:
                    raise UserError(
                        "a published file is not what was published",
                        seen=f"{place}/{path}",
                        remedy="Publish again with --force",
                    )
    return Published(place, record)


def addresses(published: Published, valid_s: int = 3600) -> dict[str, str]:
    """Where TorchServe finds each archive: a web address, signed for `valid_s` seconds where the storage
    signs them, or a file's."""
    found = {}
    with _storage(published.place) as (filesystem, root):
        for path in published.record["files"]:
            if path.endswith(".mar"):
                place = f"{root}/{path}"
                try:
                    found[path] = filesystem.sign(place, expiration=valid_s)
                except UNSIGNED + FAILURES:  # no key to sign with
                    found[path] = filesystem.unstrip_protocol(place)
    return found


def _version(archives: Sequence[Path]) -> str:
    """The version that all archives hold."""
    versions = set()
    for archive in archives:
        with zipfile.ZipFile(archive) as content:
            versions.add(json.loads(content.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"])
    if len(versions) != 1:
        seen = ", ".join(sorted(versions)) or "no archive"
        raise UserError("the archives are not of one version", seen=seen, remedy="Package them again")
    return versions.pop()


def _record(filesystem: Any, place: str) -> dict | None:
    try:
        return json.loads(filesystem.cat_file(f"{place}/{RECORD}"))
    except FileNotFoundError:
        return None


def _send(filesystem: Any, file: Path, place: str) -> None:
    """One file; on a disk it appears whole or not at all, as it does on an object store."""
    if not isinstance(filesystem, LocalFileSystem):  # where making a folder could make a bucket
        filesystem.put_file(str(file), place, callback=_bar(file.name))
        return
    make_folder(Path(place).parent)
    with file.open("rb") as source, replacing(Path(place)) as target:
        shutil.copyfileobj(source, target, CHUNK)


def _write(filesystem: Any, content: str, place: str) -> None:
    if isinstance(filesystem, LocalFileSystem):
        write_text(Path(place), content)
    else:
        filesystem.pipe_file(place, content.encode())


def _bar(what: str) -> TqdmCallback:
    shown = {"desc": what, "unit": "B", "unit_scale": True, "leave": False}
    return TqdmCallback(shown | {"disable": not sys.stderr.isatty()})


@contextmanager
def _storage(place: str) -> Iterator[tuple[Any, str]]:
    filesystem, root = opened(place)
    with told(place):
        yield filesystem, root.rstrip("/")
