"""An artifact: a self-contained folder that one variant wrote, described by its `artifact.json`.

The description is written last and atomically, so a folder without one is not an artifact. Every
other file is listed in it with its sha256. Reading checks the sums and refuses, with a sentence,
what this machine cannot run. Nothing here knows how artifacts are made.
"""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from handler.batching import CALL_TOKENS, Grid
from handler.errors import UnsupportedError, UserError
from handler.machine import cpu_features, has_cuda

SCHEMA = 1
DESCRIPTION = "artifact.json"
TOKENIZER = "tokenizer.json"
REQUIRED = (
    "name",
    "runtime",
    "runtime_options",
    "devices",
    "cpu_features",
    "files",
    "inputs",
    "task",
    "labels",
    "temperature",
    "thresholds",
    "training",
    "build",
    "check",
)


@dataclass(frozen=True)
class Artifact:
    """A folder and its parsed `artifact.json`; see `artifact.schema.json` for every field."""

    folder: Path
    meta: dict

    @property
    def name(self) -> str:
        return self.meta["name"]

    @property
    def labels(self) -> list[str]:
        return self.meta["labels"]

    @property
    def task(self) -> str:
        return self.meta["task"]

    @property
    def multi_label(self) -> bool:
        return self.task == "multi-label"

    @property
    def max_length(self) -> int:
        """Longest input of the model in tokens, [CLS] and [SEP] included."""
        return self.meta["inputs"]["max_length"]

    @property
    def grid(self) -> Grid:
        buckets = self.meta["inputs"]["buckets"]
        return Grid(
            lengths=tuple(buckets["lengths"]),
            batches=tuple(buckets["batches"]),
            max_tokens=buckets["max_tokens"],
            call_tokens=buckets.get("call_tokens", CALL_TOKENS),
            packed=buckets.get("packed", False),
        )

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.meta["files"].values())

    @property
    def sha256(self) -> str:
        """Identity of what the artifact computes: the sums of its files and what scores are made of."""
        keys = (
            "runtime",
            "runtime_options",
            "inputs",
            "task",
            "labels",
            "temperature",
            "thresholds",
            "files",
        )
        return hashlib.sha256(
            json.dumps({k: self.meta[k] for k in keys}, sort_keys=True).encode()
        ).hexdigest()


def open_artifact(folder: str | Path, *, verify: bool = True) -> Artifact:
    """Read the artifact at `folder`, check its files' sums, and that this CPU can run it.

    Raises `UserError` when it is missing or damaged, `UnsupportedError` when the machine lacks a CPU feature,
    or any GPU where one is needed. Which GPU, and whether it will do, is asked when the model is loaded.
    """
    folder = Path(folder)
    artifact = Artifact(folder, _read_description(folder))
    if verify:
        _check_files(artifact)
    lacking = sorted(set(artifact.meta["cpu_features"]) - set(cpu_features()))
    if "cpu" not in artifact.meta["devices"] and not has_cuda():
        raise UnsupportedError(
            f"the artifact {artifact.name} runs on an NVIDIA GPU alone",
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
    """The artifact inside an archive, described but not unpacked."""
    try:
        with zipfile.ZipFile(archive) as opened:
            meta = json.loads(opened.read(f"artifact/{DESCRIPTION}"))
        return Artifact(archive, checked(meta))
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            "this is not an archive of ours", seen=archive, remedy="Build it: make package"
        ) from error


def unpacked(archive: Path, folder: Path) -> Artifact:
    """The artifact inside an archive, unpacked below `folder` and verified; `UserError` for a corrupt one."""
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)  # zipfile keeps every entry below the folder
    except zipfile.BadZipFile as error:  # an entry's CRC is wrong
        raise UserError(
            "the archive is corrupt", seen=archive, remedy="Build it again: make package"
        ) from error
    return open_artifact(folder / "artifact")


def _read_description(folder: Path) -> dict:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(
            "there is no artifact", seen=path, remedy="Build it: make export VARIANTS=" + folder.name
        )
    try:
        return checked(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the artifact's description is damaged, or of another version of this project",
            seen=path,
            remedy=_rebuild(folder),
        ) from error


def checked(meta: dict) -> dict:
    """`meta` itself when it holds what every reader needs; ValueError, KeyError or TypeError otherwise."""
    if meta["schema"] != SCHEMA:
        raise ValueError(f"schema {meta['schema']}")
    for key in REQUIRED:
        _ = meta[key]
    _ = meta["inputs"]["buckets"]["lengths"], meta["build"]["inputs_sha256"], meta["check"]["equal"]
    return meta


def _check_files(artifact: Artifact) -> None:
    for name, entry in artifact.meta["files"].items():
        path = artifact.folder / name
        if not path.is_file():
            raise UserError("a file of the artifact is missing", seen=path, remedy=_rebuild(artifact.folder))
        if path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
            raise UserError(
                "a file of the artifact is corrupt (its sha256 is not the recorded one)",
                seen=path,
                remedy=_rebuild(artifact.folder),
            )


def _rebuild(folder: Path) -> str:
    return f"Remove {folder} and build it again: make export VARIANTS={folder.name}"


def describe_files(folder: Path) -> dict[str, dict]:
    """`{relative path: {sha256, bytes}}` of every file below `folder` except the description."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DESCRIPTION)
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in paths
    }


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
