"""An artifact: a self-contained folder that one variant wrote, described by its `artifact.json`.

The description lists every other file with its sha256, and is written last and atomically: a folder without
one is not an artifact. A file that is missing, not listed or not a plain file raises an error, and so does an
artifact that this machine cannot run.
"""

import hashlib
import io
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.batching import Grid
from handler.description import SCHEMA, Description, File
from handler.errors import UnsupportedError, UserError
from handler.machine import cpu_features, has_cuda
from handler.records import plain, read

DESCRIPTION = "artifact.json"
SIGNATURE = f"{DESCRIPTION}.minisig"  # may lie next to the description, which cannot list it
TOKENIZER = "tokenizer.json"
MANIFEST = "MAR-INF/MANIFEST.json"
CERTIFICATE = "certificate.json"  # at the root of an archive that selection promoted

# Bounds on what is read of an archive or a description before it is trusted. Ours are far below: 100 files,
# 100 kB of description, and weights that deflate leaves as they are.
MOST_DESCRIPTION_BYTES = 4 << 20  # and of a zip's directory: both are read whole
MOST_FILES = 2_000
MOST_INFLATION = 100
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
ENCRYPTED = 1  # flag of a zip's entry

# What scores and decisions are made of. Artifacts older than `positive_label`, `logit_offsets` and `bands`
# keep the identity that they were selected by.
IDENTITY = frozenset(
    {
        "runtime",
        "runtime_options",
        "inputs",
        "task",
        "labels",
        "positive_label",
        "temperature",
        "logit_offsets",
        "thresholds",
        "bands",
        "files",
    }
)


@dataclass(frozen=True)
class Artifact:
    """A folder and what its `artifact.json` says."""

    folder: Path
    meta: Description

    @property
    def name(self) -> str:
        return self.meta.name

    @property
    def labels(self) -> list[str]:
        return self.meta.labels

    @property
    def task(self) -> str:
        return self.meta.task

    @property
    def multi_label(self) -> bool:
        return self.task == "multi-label"

    @property
    def positive_label(self) -> str | None:
        """The label that is looked for; None where labels are independent, or three and more exclude each
        other and none of them was named. Where an older artifact does not say it, the second of two."""
        if self.meta.positive_label != "":
            return self.meta.positive_label
        return self.labels[1] if len(self.labels) == 2 and not self.multi_label else None

    @property
    def positive(self) -> int | None:
        """The place of the positive label."""
        return None if self.positive_label is None else self.labels.index(self.positive_label)

    @property
    def max_length(self) -> int:
        """Longest input of the model in tokens, [CLS] and [SEP] included."""
        return self.meta.inputs.max_length

    @property
    def grid(self) -> Grid:
        return self.meta.inputs.buckets

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.meta.files.values())

    @property
    def sha256(self) -> str:
        """Identity of what the artifact computes: the sums of its files and what scores are made of."""
        made_of = {key: value for key, value in plain(self.meta).items() if key in IDENTITY}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def open_artifact(folder: str | Path, *, verify: bool = True) -> Artifact:
    """Read the artifact at `folder`, check its files' sums, and that this CPU can run it.

    Raises `UserError` when it is missing or damaged, `UnsupportedError` when the machine lacks a CPU feature,
    or any GPU where one is needed. Which GPU, and whether it will do, is asked when the model is loaded.
    """
    folder = Path(folder)
    try:
        artifact = Artifact(folder, _read_description(folder))
        if verify:
            _check_files(artifact)
    except OSError as error:
        raise UserError(
            "the artifact cannot be read",
            seen=f"{error.filename or folder}: {error.strerror}",
            remedy=f"Make it readable: chmod -R a+rX {folder}",
        ) from error
    lacking = sorted(set(artifact.meta.cpu_features) - set(cpu_features()))
    if "cpu" not in artifact.meta.devices and not has_cuda():
        raise UnsupportedError(
            f"the artifact {artifact.name} needs an NVIDIA GPU",
            seen="no CUDA device, or a torch without CUDA",
            remedy="Serve a variant for CPUs, such as fp32",
        )
    if lacking:
        raise UnsupportedError(
            f"the artifact {artifact.name} was built for CPU features that this machine lacks",
            seen=", ".join(lacking),
            remedy="Build it on this kind of machine, or serve a variant without cpu_features, such as fp32",
        )
    return artifact


def archived_artifact(archive: Path) -> Artifact:
    """The artifact inside an archive, described but not unpacked.

    Raises `UserError` if it is not an archive of this project, or its files differ from those listed.
    """
    with _opened(archive) as (_, meta):
        return Artifact(archive, meta)


def unpacked(archive: Path, folder: Path) -> Artifact:
    """The artifact inside an archive, unpacked below `folder` and verified; `UserError` for a corrupt one.

    Written are its own files, each of the size that the description records, and the archive's manifest and
    certificate.
    """
    with _opened(archive) as (opened, meta):
        try:
            for name in (DESCRIPTION, *meta.files):
                opened.extract(f"artifact/{name}", folder)
            opened.extract(MANIFEST, folder)
            if CERTIFICATE in opened.namelist():
                (folder / CERTIFICATE).write_bytes(_small(opened, CERTIFICATE))
        except KeyError as error:
            raise _not_ours(archive, f"it has no {MANIFEST}") from error
        except ZIP_FAULTS as error:  # an entry's CRC is wrong
            raise UserError(
                "the archive is corrupt", seen=archive, remedy="Build it again: python -m export package"
            ) from error
    return open_artifact(folder / "artifact")


def archived_certificate(archive: Path) -> dict[str, Any] | None:
    """What the certificate in an archive says; None where there is none, `UserError` for a damaged one."""
    with _opened(archive) as (opened, _):
        if CERTIFICATE not in opened.namelist():
            return None
        try:
            return parse_json(_small(opened, CERTIFICATE))
        except ZIP_FAULTS as error:
            raise bad_certificate(archive, error) from error


def bad_certificate(archive: Path, error: Exception) -> UserError:
    return UserError(
        "the archive's certificate cannot be read",
        seen=f"{archive}: {_reason(error)}",
        remedy="Select and promote again: python -m benchmarks select, python -m export promote",
    )


def certificate_of(artifact: Artifact, folder: Path) -> dict[str, Any] | None:
    """What the certificate in the folder of an unpacked archive says of its artifact, for its description: of
    one that is damaged or of another artifact, its `fault`. None where there is none."""
    path = folder / CERTIFICATE
    if not path.is_file():
        return None
    try:
        found = read_json(path)
    except ValueError as error:
        return {"fault": f"it cannot be read: {error}"}
    if found.get("artifact_sha256") != artifact.sha256:
        return {"fault": "it is of another artifact"}
    return found


def archive_entry(archive: Path, name: str) -> bytes:
    """One small file of an archive of any kind; `UserError` where there is none, or it is not small."""
    if not archive.is_file():
        raise _not_ours(archive, "there is no such file")
    with archive.open("rb", buffering=0) as raw, _Frugal(raw) as file:
        try:
            opened = zipfile.ZipFile(file)
            return _small(opened, name)
        except (*ZIP_FAULTS, KeyError, TypeError) as error:
            raise _not_ours(archive, _reason(error)) from error


def archive_manifest(archive: Path) -> dict[str, str]:
    """What TorchServe is told of the model: `modelName` and `modelVersion`, both fit for a path."""
    try:
        model: dict[str, str] = parse_json(archive_entry(archive, MANIFEST))["model"]
        for key in ("modelName", "modelVersion"):
            check_identifier(model[key])
    except (ValueError, KeyError, TypeError) as error:
        raise _not_ours(archive, f"{MANIFEST}: {_reason(error)}") from error
    return model


def check_identifier(text: str) -> None:
    """ValueError or TypeError where a name or version is not fit for paths and addresses."""
    if not re.fullmatch(r"(?!\.)[\w.+-]{1,100}", text, re.ASCII):
        raise ValueError(f"{text[:100]!r} has characters other than letters, digits, and . _ + -")


def _small(opened: zipfile.ZipFile, name: str) -> bytes:
    if opened.getinfo(name).file_size > MOST_DESCRIPTION_BYTES:
        raise ValueError(f"its {name} is larger than {MOST_DESCRIPTION_BYTES >> 20} MiB")
    return opened.read(name)


class _Frugal(io.BufferedReader):
    """A file that gives a limited number of bytes at once: `ZipFile` reads a directory of any size whole."""

    def read(self, size: int | None = -1) -> bytes:
        bounded = MOST_DESCRIPTION_BYTES + 1
        content = super().read(bounded if size is None or size < 0 else min(size, bounded))
        if len(content) == bounded:
            raise zipfile.BadZipFile("its directory is too large")
        return content


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[zipfile.ZipFile, Description]]:
    """An archive whose entries are what its description lists, and that description."""
    if not archive.is_file():
        raise _not_ours(archive, "there is no such file")
    with archive.open("rb", buffering=0) as raw, _Frugal(raw) as file:
        try:
            opened = zipfile.ZipFile(file)
            meta = _entries_checked(opened, archive.stat().st_size)
        except (*ZIP_FAULTS, KeyError) as error:
            raise _not_ours(archive, _reason(error)) from error
        yield opened, meta


def _entries_checked(opened: zipfile.ZipFile, archive_bytes: int) -> Description:
    """The description inside; ValueError where the archive's entries are not what they must be."""
    entries = [entry for entry in opened.infolist() if not (entry.is_dir() and entry.file_size == 0)]
    sizes = {entry.filename: entry.file_size for entry in entries}
    if len(sizes) != len(entries) or len(entries) > MOST_FILES:
        raise ValueError("two entries have the same name, or there are too many")
    if sum(sizes.values()) > MOST_INFLATION * archive_bytes:
        raise ValueError("it unpacks to an implausible size")
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or entry.flag_bits & ENCRYPTED or not _is_plain(entry.filename):
            raise ValueError(f"an entry is not a plain file: {entry.filename[:100]!r}")
    place = f"artifact/{DESCRIPTION}"
    meta = described(parse_json(_small(opened, place)))
    listed = {f"artifact/{name}": file.bytes for name, file in meta.files.items()}
    found = {name: size for name, size in sizes.items() if name.startswith("artifact/") and name != place}
    if differing := sorted({name for name, _ in listed.items() ^ found.items()}):
        raise ValueError(f"the description and the files disagree on {differing[0][:100]!r}")
    return meta


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file below the folder in which it is looked up, on every system."""
    parts = name.split("/")
    return not re.search(r"[\\:\0]", name) and not {"", ".", ".."} & set(parts) and len(name) < 1000


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}" if error.args else "something is missing"
    return str(error) or type(error).__name__


def _not_ours(archive: Path, reason: str) -> UserError:
    return UserError(
        "this is not an archive of this project",
        seen=f"{archive}: {reason}",
        remedy="Make one: python -m export package",
    )


def _read_description(folder: Path) -> Description:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(
            "there is no artifact", seen=path, remedy=f"Build it: python -m export build {folder.name}"
        )
    try:
        return described(read_json(path))
    except ValueError as error:
        raise UserError(
            "the artifact's description is damaged, or from another version of this project",
            seen=f"{path}: {error}",
            remedy=_rebuild(folder),
        ) from error


def read_json(path: Path, most: int = MOST_DESCRIPTION_BYTES) -> dict[str, Any]:
    """The JSON object in a file of at most `most` bytes; ValueError for anything else."""
    with path.open("rb") as file:
        return parse_json(file.read(most + 1), most)


def parse_json(content: bytes, most: int = MOST_DESCRIPTION_BYTES) -> dict[str, Any]:
    """A JSON object of at most `most` bytes; ValueError for anything else."""
    if len(content) > most:
        raise ValueError(f"it is larger than {most >> 20} MiB")
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def described(document: dict[str, Any]) -> Description:
    """The description that is in `artifact.json`; ValueError where it is none."""
    if document.get("schema") != SCHEMA:
        raise ValueError(f"schema {document.get('schema')}")
    meta = read(Description, document)
    positive = Artifact(Path(), meta).positive_label
    if positive is not None and positive not in meta.labels:
        raise ValueError(f"{positive[:100]!r} is not one of its labels")
    if positive is not None and len(meta.labels) == 2 and positive not in meta.thresholds:
        raise ValueError(f"it has no threshold for {positive[:100]!r}")
    if meta.logit_offsets is not None and len(meta.logit_offsets) != len(meta.labels):
        raise ValueError(f"it has {len(meta.labels)} labels but {len(meta.logit_offsets)} logit offsets")
    if meta.bands is not None and (positive is None or meta.task == "multi-label"):
        raise ValueError("it decides by a positive label, but has none")
    if meta.bands is not None and meta.bands.review > meta.bands.act:
        raise ValueError(f"it reviews from {meta.bands.review}, but acts from {meta.bands.act} on already")
    check_listed(meta.files)
    return meta


def check_listed(names: Collection[str]) -> None:
    """ValueError where these cannot be the files of an artifact."""
    if len(names) > MOST_FILES:
        raise ValueError(f"it lists {len(names):,} files")
    for name in names:
        if not _is_plain(name) or name == DESCRIPTION:
            raise ValueError(f"a file cannot be called {name[:100]!r}")


def _check_files(artifact: Artifact) -> None:
    listed = artifact.meta.files
    folder = artifact.folder
    for name, is_plain in _walk(folder):
        if not is_plain:
            what = "the artifact contains a link, or something else that is not a file"
            raise UserError(what, seen=folder / name, remedy=_rebuild(folder))
        if name not in listed and name not in (DESCRIPTION, SIGNATURE):
            what = "the artifact contains a file that its description does not list"
            raise UserError(what, seen=folder / name, remedy=f"Remove that file, or: {_rebuild(folder)}")
    for name, file in listed.items():
        path = folder / name
        if not path.is_file():
            raise UserError("a file of the artifact is missing", seen=path, remedy=_rebuild(folder))
        if path.stat().st_size != file.bytes or file_sha256(path) != file.sha256:
            raise UserError(
                "a file of the artifact is corrupt (its sha256 differs from the recorded one)",
                seen=path,
                remedy=_rebuild(folder),
            )


def _walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """(path below `folder`, whether it is a plain file) of all but plain folders; links are not followed."""
    for place, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            path = Path(place, name)
            kind = path.lstat().st_mode
            if not stat.S_ISDIR(kind):
                yield path.relative_to(folder).as_posix(), stat.S_ISREG(kind)


def _raise(error: OSError) -> None:
    """For `os.walk`, which passes over folders that it cannot list."""
    raise error


def _rebuild(folder: Path) -> str:
    return f"Remove {folder} and build it again: python -m export build {folder.name}"


def describe_files(folder: Path) -> dict[str, File]:
    """Every file below `folder` except the description, by its relative path."""
    names = sorted(name for name, _ in _walk(folder) if name not in (DESCRIPTION, SIGNATURE))
    return {name: File(file_sha256(folder / name), (folder / name).stat().st_size) for name in names}


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
