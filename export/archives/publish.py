"""Publish archives and checkpoints to a folder or an object store, as versions with checksums.

`<destination>/<name>/<version>/` holds the archives (`hate-1.0.mar`), the description of the artifact in
each, the checkpoint if you asked for it, and `published.json`, which is written last: without it, a version
does not exist yet. A published version does not change: different content needs another version, or force.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from common.atomic import make_folder, replacing, replacing_folder, write_text
from common.signing import SUFFIX, SecretKey, sign_bytes, sign_file, signature_of, trusted_keys, verify_bytes
from common.storage import FAILURES, address, opened, told
from handler.artifact import (
    DESCRIPTION,
    archive_manifest,
    archived_artifact,
    check_identifier,
    check_listed,
    file_sha256,
    parse_json,
)
from handler.description import File
from handler.errors import UserError
from handler.records import plain, read

# With a key, the record and the archives are signed, and those who trust that key fetch nothing else. Storage
# is anything that fsspec opens: a path, `s3://…` or `gs://…`.

RECORD = "published.json"
SCHEMA = 1
CHUNK = 1 << 20  # bytes that are copied at once
MOST_RECORD_BYTES = 4 << 20
MOST_SIGNATURE_BYTES = 16 << 10
MOST_GB = 20  # of a fetched version; more is asked for
UNSIGNED: tuple[type[Exception], ...] = (NotImplementedError, AttributeError, ValueError)


@dataclass(frozen=True)
class Version:
    """What `published.json` says of a version: when it was published, and its files."""

    schema: int
    name: str
    version: str
    published: str
    files: dict[str, File]


@dataclass(frozen=True)
class Published:
    """A version at its place."""

    place: str
    record: Version
    is_new: bool = False


def publish(
    archives: Sequence[Path],
    destination: str,
    name: str,
    *,
    checkpoint: Path | None = None,
    key: Path | None = None,
    force: bool = False,
) -> Published:
    """Send `archives` (which hold their one version) and a checkpoint's folder to `destination`.

    Publishing the same content again changes nothing; an interrupted upload starts again. Signatures of
    archives are published too; with a secret `key`, all archives and the record are signed anew. Raises
    `UserError` if the version exists with different content, or the storage cannot be reached.
    """
    secret = None if key is None else SecretKey.read(key)
    version = _version(archives)
    _check_name(name)
    with tempfile.TemporaryDirectory(prefix="publish-") as scratch:
        sent = _collected(archives, version, secret, checkpoint, Path(scratch))
        files = {path: File(file_sha256(file), file.stat().st_size) for path, file in sent.items()}
        with _storage(destination) as (filesystem, root):
            place = f"{root}/{name}/{version}"
            whole = address(filesystem, place)
            there = None if force else _record(filesystem, place)
            if there and there.files == files:
                return Published(whole, there)
            if there:
                raise UserError(
                    f"version {version} is already published with different content",
                    seen=whole,
                    remedy="Package another version: python -m export package --version 1.1; or --force",
                )
            if filesystem.exists(f"{place}/{RECORD}"):
                filesystem.rm_file(f"{place}/{RECORD}")  # a half-replaced version is none
            for path, file in sent.items():
                _send(filesystem, file, f"{place}/{path}")
            published = datetime.now(UTC).isoformat(timespec="seconds")
            record = Version(SCHEMA, name, version, published, files)
            _write_record(filesystem, place, record, secret)
    return Published(whole, record, is_new=True)


def _collected(
    archives: Sequence[Path], version: str, secret: SecretKey | None, checkpoint: Path | None, scratch: Path
) -> dict[str, Path]:
    """The files of a version by the names that they are published under; descriptions and signatures that are
    new are written to `scratch`."""
    sent: dict[str, Path] = {}
    written: dict[str, str] = {}
    for archive in archives:
        # TorchServe keeps what it fetches under the address's last name, and refuses one that it has.
        named = f"{archive.stem}-{version}"
        sent[f"{named}.mar"] = archive
        meta = archived_artifact(archive).meta
        written[f"{named}.{DESCRIPTION}"] = json.dumps(plain(meta), indent=2, ensure_ascii=False)
        if secret is not None:
            written[f"{named}.mar{SUFFIX}"] = sign_file(archive, f"{named}.mar", secret)
        elif signature_of(archive).is_file():
            sent[f"{named}.mar{SUFFIX}"] = signature_of(archive)
    for path, content in written.items():
        sent[path] = scratch / path
        sent[path].write_bytes(content.encode())
    if checkpoint is not None:
        found = sorted(path for path in checkpoint.rglob("*") if path.is_file())
        sent |= {f"checkpoint/{path.relative_to(checkpoint).as_posix()}": path for path in found}
    return sent


def _write_record(filesystem: Any, place: str, record: Version, secret: SecretKey | None) -> None:
    """Last of all: with it, the version is there."""
    content = json.dumps(plain(record), indent=2)
    if secret is not None:
        _write(filesystem, sign_bytes(content.encode(), RECORD, secret), f"{place}/{RECORD}{SUFFIX}")
    _write(filesystem, content, f"{place}/{RECORD}")


def fetch(
    place: str, folder: Path, *, trusted_key: Path | None = None, most_gb: float = MOST_GB
) -> Published:
    """Fetch a published version to `folder`, which must not exist yet, and verify its checksums.

    Raises `UserError` if no `trusted_key` signed its record, the record is not ours, or the files do not
    match it. Reads no more than the record lists, and no more than `most_gb`.
    """
    if folder.exists():
        raise UserError("the folder exists already", seen=folder, remedy="Choose another with --to")
    with _storage(place) as (filesystem, root):
        record = _record(filesystem, root, place, trusted_key)
        if record is None:
            raise UserError("nothing is published there", seen=place, remedy=f"Check for its {RECORD}")
        make_folder(folder.parent)
        _check_room(record, folder.parent, most_gb)
        with replacing_folder(folder) as partial:
            for path, known in record.files.items():
                file = partial / path
                file.parent.mkdir(parents=True, exist_ok=True)
                _receive(filesystem, f"{root}/{path}", file, known)
    return Published(place, record)


def _check_room(record: Version, folder: Path, most_gb: float) -> None:
    total = sum(known.bytes for known in record.files.values())
    if total > most_gb * 1e9:
        seen = f"{total / 1e9:,.1f} GB, {most_gb:g} are allowed"
        raise UserError("the published version is too large", seen=seen, remedy="Allow more with --most-gb")
    if total > (free := shutil.disk_usage(folder).free):
        seen = f"{total / 1e9:,.1f} GB, {free / 1e9:,.1f} are free in {folder}"
        raise UserError("there is no room for the version", seen=seen, remedy="Choose another --to")


def _receive(filesystem: Any, place: str, file: Path, known: File) -> None:
    """One file of the size and the sum that are `known`; no byte more of it is read."""
    digest = hashlib.sha256()
    left = known.bytes
    with (
        filesystem.open(place, "rb") as source,
        file.open("wb") as target,
        tqdm(total=left, desc=file.name, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        while block := source.read(min(CHUNK, left + 1)):
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            target.write(block)
            bar.update(len(block))
    if left or digest.hexdigest() != known.sha256:
        raise UserError(
            "a file has changed since it was published",
            seen=place,
            remedy="Publish again with --force",
        )


def addresses(published: Published, valid_s: int = 3600) -> dict[str, str]:
    """Where TorchServe finds each archive: a web address, signed for `valid_s` seconds where the storage
    signs them, or a file's."""
    found = {}
    with _storage(published.place) as (filesystem, root):
        for path in published.record.files:
            if path.endswith(".mar"):
                place = f"{root}/{path}"
                try:
                    found[path] = filesystem.sign(place, expiration=valid_s)
                except UNSIGNED + FAILURES:  # no key to sign with
                    found[path] = filesystem.unstrip_protocol(place)
    return found


def _version(archives: Sequence[Path]) -> str:
    """The version that all archives hold."""
    versions = {archive_manifest(archive)["modelVersion"] for archive in archives}
    if len(versions) != 1:
        seen = ", ".join(sorted(versions)) or "no archive"
        raise UserError("the archives must have one version", seen=seen, remedy="Package them again")
    return versions.pop()


def _check_name(name: str) -> None:
    try:
        check_identifier(name)
    except ValueError as error:
        raise UserError(
            "this is not a valid model name", seen=error, remedy="Choose another --name"
        ) from error


def _record(
    filesystem: Any, place: str, shown: str | None = None, trusted_key: Path | None = None
) -> Version | None:
    """What is published at `place`, verified before it is parsed; None where nothing is."""
    try:
        content = _small(filesystem, f"{place}/{RECORD}", MOST_RECORD_BYTES)
    except FileNotFoundError:
        return None
    if trusted_key is not None:
        trusted_keys(trusted_key)
        try:
            signature = _small(filesystem, f"{place}/{RECORD}{SUFFIX}", MOST_SIGNATURE_BYTES)
        except FileNotFoundError as error:
            raise UserError(
                "it is not signed, and a trusted key is configured",
                seen=f"{shown or place}/{RECORD}",
                remedy="Have it published with --sign-key",
            ) from error
        verify_bytes(content, signature, trusted_key, f"{shown or place}/{RECORD}")
    try:
        record = read(Version, parse_json(content, MOST_RECORD_BYTES))
        if record.schema != SCHEMA:
            raise ValueError(f"schema {record.schema}")
        check_identifier(record.name)
        check_identifier(record.version)
        check_listed(record.files)
    except ValueError as error:
        raise UserError(
            f"the {RECORD} there is damaged, or of another version of this project",
            seen=f"{shown or place}: {error}",
            remedy="Publish again with --force",
        ) from error
    return record


def _small(filesystem: Any, place: str, most: int) -> bytes:
    """A file of at most `most` bytes, and the first byte of what is beyond."""
    with filesystem.open(place, "rb") as file:
        found: bytes = file.read(most + 1)
        return found


def _send(filesystem: Any, file: Path, place: str) -> None:
    """One file; on a disk it appears whole or not at all, as it does on an object store."""
    if not isinstance(filesystem, LocalFileSystem):  # where making a folder could make a bucket
        filesystem.put_file(str(file), place)
        return
    make_folder(Path(place).parent)
    with file.open("rb") as source, replacing(Path(place)) as target:
        shutil.copyfileobj(source, target, CHUNK)


def _write(filesystem: Any, content: str, place: str) -> None:
    if isinstance(filesystem, LocalFileSystem):
        write_text(Path(place), content)
    else:
        filesystem.pipe_file(place, content.encode())


@contextmanager
def _storage(place: str) -> Iterator[tuple[Any, str]]:
    filesystem, root = opened(place)
    with told(place):
        yield filesystem, root.rstrip("/")
