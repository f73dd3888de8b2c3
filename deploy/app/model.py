"""A model that is to be served, and where it is read from, again at each reload."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.atomic import recover
from common.signing import signature_of, verify
from common.torchserve import model_config
from deploy.app.batcher import Batching
from handler import answers
from handler.artifact import (
    DESCRIPTION,
    Artifact,
    archive_manifest,
    certificate_of,
    check_identifier,
    file_sha256,
    open_artifact,
    unpacked,
)
from handler.errors import UserError
from handler.machine import available_cpus
from handler.metrics import Tally
from handler.predictor import Predictor
from handler.requests import Limits
from handler.self_check import Tolerance
from handler.service import Service

NAME = "hate"  # of an artifact that is given none


@dataclass(frozen=True)
class Model:
    """What is served: an artifact, its name and version, and of its archive, if it has one, settings and
    certificate. `url` is the name of the file or folder that it was read from."""

    artifact: Artifact
    name: str = NAME
    version: str = "1.0"
    settings: Mapping[str, Any] | None = None
    certificate: dict[str, Any] | None = None
    url: str = ""

    @classmethod
    def of_artifact(cls, folder: Path, name: str = NAME) -> "Model":
        """Raises `UserError` as `open_artifact` does."""
        return cls(open_artifact(folder), name, url=folder.name)

    @classmethod
    def of_archive(cls, archive: Path, scratch: Path) -> "Model":
        """Unpacked below `scratch` and verified; raises `UserError` where it is none of this project's."""
        artifact = unpacked(archive, scratch)
        manifest = archive_manifest(archive)
        return cls(
            artifact,
            manifest["modelName"],
            manifest["modelVersion"],
            model_config(archive),
            certificate_of(artifact, scratch),
            archive.name,
        )

    @property
    def age(self) -> list[tuple[int, str]]:
        """Ascends with versions: numbers in them count as numbers, so that 1.10 is later than 1.9."""
        parts = re.findall(r"\d+|\D+", self.version)
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def batching(self, size: int | None, delay_s: float | None, queue_size: int | None) -> Batching:
        """As asked for, or as the archive says."""
        settings = self.settings or {}
        usual = Batching()
        return Batching(
            size or settings.get("batchSize", usual.size),
            settings.get("maxBatchDelay", 1000 * usual.delay_s) / 1000 if delay_s is None else delay_s,
            queue_size or settings.get("jobQueueSize", usual.queue_size),
        )

    def load(
        self,
        counted: Any,
        threads: int | None = None,
        explains: bool = True,
        flips: float | None = None,
        on_mismatch: str | None = None,
        cached: int | None = None,
        workers: int = 1,
    ) -> Service:
        """Loaded, with every shape warmed. `flips` and `on_mismatch` are those of `Tolerance`, `cached` is
        `Limits.max_cached`; the archive's where they are None. So many `workers` share the CPUs. Raises
        `UserError` where a runtime or a limit will not do, or where the self-check says so."""
        settings = (self.settings or {}).get("handler") or {}
        if not explains:
            settings = {**settings, "maxExplained": 0}
        if cached is not None:
            settings = {**settings, "maxCached": cached}
        limits = Limits.of(settings)
        tolerance = Tolerance.of(settings, flips, on_mismatch)
        threads = threads or settings.get("threads") or max(1, available_cpus() // workers)
        predictor = Predictor(self.artifact, threads, tolerance=tolerance)
        predictor.warm()
        named = answers.Model(name=self.name, version=self.version, variant=self.artifact.name)
        return Service(predictor, limits, named, Tally(counted, self.name), self.certificate)


@dataclass(frozen=True)
class Source:
    """An archive, or an artifact's folder, which may be given a name."""

    path: Path
    name: str = ""

    @classmethod
    def of(cls, text: str) -> "Source":
        """A path, or `NAME=FOLDER`. ValueError where that is no name."""
        name, found, folder = text.partition("=")
        if not found or Path(text).exists() or "/" in name:
            return cls(Path(text))
        check_identifier(name)
        return cls(Path(folder), name)

    @property
    def _file(self) -> Path:
        """What changes when the model does: the archive, or the description, which holds the files' sums."""
        return self.path / DESCRIPTION if self.path.is_dir() else self.path

    def stamp(self) -> tuple[int, ...]:
        """Cheap to ask for, and another one where the file or its signature was written anew; () where there
        is no file."""
        try:
            found = [self._file.stat()]
        except OSError:
            return ()
        with suppress(OSError):  # it need not be signed
            found.append(signature_of(self._file).stat())
        return tuple(number for each in found for number in (each.st_ino, each.st_size, each.st_mtime_ns))

    def digest(self) -> str:
        """The same where the content is; "" where it cannot be read."""
        try:
            return file_sha256(self._file)
        except OSError:
            return ""


@dataclass(frozen=True)
class Opened:
    """A model, where it was read from, the source's digest and stamp just before, and the folder that an
    archive was unpacked into."""

    source: Source
    model: Model
    digest: str
    stamp: tuple[int, ...]
    unpacked: Path | None = None

    def forget(self) -> None:
        """Remove what was unpacked."""
        if self.unpacked is not None:
            shutil.rmtree(self.unpacked, ignore_errors=True)


@dataclass(frozen=True)
class Opener:
    """Opens what a `trusted_key` signed, if there is one; archives are unpacked below `scratch`."""

    scratch: Path
    trusted_key: Path | None = None

    def open(self, source: Source) -> Opened:
        """Verified; `UserError` where it is not to be trusted, damaged, or not this project's."""
        stamp, digest = source.stamp(), source.digest()
        path = source.path
        is_archive = path.is_file() or path.suffix == ".mar"
        if not is_archive:
            recover(path)
        verify(path, self.trusted_key)
        if not is_archive:
            return Opened(source, Model.of_artifact(path, source.name or NAME), digest, stamp)
        if source.name:
            remedy = f"Leave {source.name}= out, or package it with --name {source.name}"
            raise UserError("an archive has a name of its own", seen=path, remedy=remedy)
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            return Opened(source, Model.of_archive(path, folder), digest, stamp, folder)
        except Exception:
            shutil.rmtree(folder)
            raise
