"""A job scores the parts that are still missing, then joins them.

If the output is a file, parts wait in `<output>.parts/` until all are there; if it is a folder, they stay in
it. A part counts once its manifest (rows, bytes, sha256) is in `_manifests/`, written after the part is on
the disk, so it does not matter who scores a part, how often, or when a run was interrupted.
"""

import fcntl
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from posixpath import basename
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from common import atomic
from common.commands import say
from common.storage import address, opened, told
from common.tables.layout import AS_FOUND, OUTPUTS, Reading, file_format
from handler.artifact import Artifact
from handler.errors import UserError
from handler.predictor import Predictor
from scoring.plan import Part, Plan, column_types, plan, read_windows
from scoring.rows import (
    CsvWriter,
    JsonWriter,
    ParquetWriter,
    Writer,
    classify,
    csv_header,
    parquet_schema,
)

PLAN = "_plan.json"  # tools that read a folder of tables leave out what begins with _
GROUP_BYTES = 32 << 20  # of a row group of Parquet
MANIFESTS = "_manifests"
CHUNK = 1 << 20  # bytes that are copied at once
AGAIN = "Run the same command again: it scores the missing parts"

Engine = Callable[["Job", list[Part]], Iterable["Scored"]]


@dataclass(frozen=True)
class Scored:
    """A part that is there, and how many of its rows could not be classified."""

    number: int
    rows: int
    rejected: int


@dataclass(frozen=True)
class Manifest:
    """What a part that is there holds: its rows, those that could not be classified, and its content."""

    rows: int
    rejected: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Job:
    """The input's plan, the artifact, and the output. `folder` contains the parts; `output` is the file that
    they are joined into, or None if they stay."""

    plan: Plan
    artifact: Artifact
    written: str
    folder: str
    output: str | None

    def place(self, part: Part) -> str:
        return f"{self.folder}/part-{part.number:06d}.{self.written}"

    def manifest_place(self, part: Part) -> str:
        return f"{self.folder}/{MANIFESTS}/part-{part.number:06d}.json"

    def record(self) -> dict[str, Any]:
        """What a job must share with an earlier one to go on with its parts."""
        return {"plan": self.plan.record(), "artifact": self.artifact.sha256, "written": self.written}

    def manifests(self) -> dict[int, Manifest]:
        """Those that lie there, by the numbers of their parts; a damaged one counts as none."""
        filesystem, folder = opened(f"{self.folder}/{MANIFESTS}")
        filesystem.invalidate_cache()  # another process, or a worker, may have written since
        if not filesystem.isdir(folder):
            return {}
        there = {basename(name): name for name in filesystem.ls(folder, detail=False)}
        named = {part.number: basename(self.manifest_place(part)) for part in self.plan.parts}
        paths = {number: there[name] for number, name in named.items() if name in there}
        contents = filesystem.cat_ranges(list(paths.values()), None, None, on_error="return")
        found = {}
        for number, content in zip(paths, contents, strict=True):
            with suppress(ValueError, TypeError):
                found[number] = Manifest(**json.loads(content))
        return found

    def missing(self) -> list[Part]:
        """Parts that are not there, not whole, or not what their manifests say. Reads all that are."""
        found = self.manifests()
        return [part for part in self.plan.parts if not self._is_there(part, found.get(part.number))]

    def _is_there(self, part: Part, manifest: Manifest | None) -> bool:
        if manifest is None or manifest.rows != part.rows:
            return False
        try:
            content = hashlib.sha256()
            for chunk in _chunks(self.place(part)):
                content.update(chunk)
        except FileNotFoundError:
            return False
        return content.hexdigest() == manifest.sha256


def open_job(
    source: str,
    output: str,
    artifact: Artifact,
    text_column: str,
    form: str | None,
    part_rows: int,
    reading: Reading = AS_FOUND,
) -> Job:
    """The job from `source` to `output`, a file, or a folder where the name ends in / or is one. `form` of
    the parts in a folder; that of the input unless given.

    Raises `UserError` where parts of another job lie there.
    """
    folder, file = _place(output)
    if file and form:
        raise UserError("--format is for a folder of parts", seen=output, remedy="Leave out --format")
    wanted = file_format(file, (*OUTPUTS, "txt")) if file else form
    found = plan(source, text_column, part_rows, wanted, reading)
    written = wanted or found.form
    if written == "txt":
        raise UserError(
            "the output has columns, which .txt cannot hold",
            seen=output,
            remedy="Use .csv, .jsonl or .parquet" if file else "Choose one: --format csv",
        )
    _check_apart(source, found, file or folder)
    job = Job(found, artifact, written, folder, file)
    with told(folder):
        _claim(job)
    return job


def _claim(job: Job) -> None:
    """Write the job's plan where its parts go, unless it is there: of two jobs at once, one can."""
    filesystem, path = opened(job.folder)
    filesystem.invalidate_cache()
    place = f"{path}/{PLAN}"
    if not filesystem.exists(place):
        there = filesystem.ls(path, detail=False) if filesystem.exists(path) else []
        if any(not basename(name).startswith(f".{PLAN}.") for name in there):
            raise UserError(
                "the output folder contains files that are not from this job",
                seen=job.folder,
                remedy="Empty it, or name another --output",
            )
        _write_once(filesystem, place, json.dumps(job.record()).encode())
        filesystem.invalidate_cache()
    content = filesystem.cat_file(place)
    try:
        known = json.loads(content)
    except ValueError as error:
        raise UserError(
            "the plan of the parts is damaged, so it is unknown what they belong to",
            seen=f"{job.folder}/{PLAN}, {len(content):,} bytes",
            remedy="Remove that folder, or name another --output",
        ) from error
    if known != job.record():
        raise UserError(
            "the output folder has parts of another job (with another input, artifact or options)",
            seen=job.folder,
            remedy="Remove that folder, or name another --output",
        )


def _write_once(filesystem: Any, path: str, content: bytes) -> None:
    """Write a file unless one is there already."""
    if isinstance(filesystem, LocalFileSystem):  # elsewhere, making a folder could make a bucket
        atomic.make_folder(Path(path).parent)
        atomic.create(Path(path), content)
        return
    try:
        filesystem.pipe_file(path, content, mode="create")  # S3 and GCS decide who was first
    except FileExistsError:
        return


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Hold the job while it runs, where its folder is on a disk: the same command twice at once runs once."""
    filesystem, path = opened(job.folder)
    if not isinstance(filesystem, LocalFileSystem):
        yield
        return
    with Path(path, PLAN).open("r+b") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another process is running this job", seen=job.folder, remedy="Wait for it, or end it"
            ) from error
        except OSError:  # a file system without locks: parts are the same whoever writes them
            pass
        Path(path, MANIFESTS).mkdir(exist_ok=True)
        yield


def _check_apart(source: str, found: Plan, output: str) -> None:
    """Refuse an output that would replace its input, or be read as input by the next run."""
    filesystem, path = opened(source)
    there, place = opened(output)
    whole = address(there, place)
    root = address(filesystem, path)
    names = [file["path"] for file in found.files]
    inside = whole.startswith(f"{root.rstrip('/')}/") or fnmatch(whole, root)
    if whole in names or inside or any(name.startswith(f"{whole.rstrip('/')}/") for name in names):
        raise UserError(
            "input and output overlap", seen=f"{source} and {output}", remedy="Choose another --output"
        )


def run_job(job: Job, engine: Engine) -> dict[str, Any]:
    """Score the missing parts and put the output in its place; returns the counts.

    Raises `UserError` where the output would not hold every row of the plan.
    """
    with told(job.output or job.folder):
        try:
            with _alone(job):
                return _run(job, engine)
        except FileNotFoundError as error:
            filesystem, folder = opened(job.folder)
            filesystem.invalidate_cache()
            if filesystem.exists(f"{folder}/{PLAN}"):
                raise
            raise UserError(
                "the parts of this job are gone: another process has joined or removed them",
                seen=job.folder,
                remedy=f"Check {job.output or job.folder}; if it does not exist, run the same command again",
            ) from error


def _run(job: Job, engine: Engine) -> dict[str, Any]:
    missing = job.missing()
    done = len(job.plan.parts) - len(missing)
    if done:
        say(f"resuming: {done:,} of {len(job.plan.parts):,} parts are already scored")
    rejected = 0
    left = sum(part.rows for part in missing)
    with tqdm(total=job.plan.rows, initial=job.plan.rows - left, unit=" texts", disable=None) as bar:
        for scored in engine(job, missing):
            rejected += scored.rejected
            bar.update(scored.rows)
    manifests = _complete(job)
    if job.output:
        join(job, manifests)
    return {
        "output": job.output or job.folder,
        "rows": sum(manifest.rows for manifest in manifests),
        "rejected": sum(manifest.rejected for manifest in manifests),
        "parts": len(job.plan.parts),
        "scored_now": left,
        "rejected_now": rejected,
    }


def _complete(job: Job) -> list[Manifest]:
    """The manifests of all parts in their order; `UserError` where one is missing, or its part."""
    found = job.manifests()
    filesystem, folder = opened(job.folder)
    sizes = {basename(file["name"]): file["size"] for file in filesystem.ls(folder, detail=True)}
    for part in job.plan.parts:
        manifest = found.get(part.number)
        name = basename(job.place(part))
        if manifest is None or manifest.rows != part.rows or sizes.get(name) != manifest.bytes:
            raise UserError("a part is missing or incomplete", seen=job.place(part), remedy=AGAIN)
    return [found[part.number] for part in job.plan.parts]


def here(predictor: Predictor) -> Engine:
    """The engine that is this process."""

    def scored(job: Job, parts: list[Part]) -> Iterator[Scored]:
        for part in parts:
            yield score_part(job, part, predictor)

    return scored


def score_part(job: Job, part: Part, predictor: Predictor) -> Scored:
    """Read a part, classify its rows, write them in flat memory, and leave the part's manifest."""
    written = rejected = 0
    read = read_windows(part, job.plan.text_column)
    with _replacing(job.place(part)) as file:
        counted = _Counted(file)
        with writer(job, counted) as out:  # type: ignore[arg-type] # all that a writer calls
            for window, results in classify(predictor, read):
                rejected += out.write(window, results)
                written += len(results)
    manifest = Manifest(written, rejected, counted.bytes, counted.content.hexdigest())
    with _replacing(job.manifest_place(part)) as file:
        file.write(json.dumps(asdict(manifest)).encode())
    return Scored(part.number, written, rejected)


class _Counted(io.RawIOBase):
    """What is written to a file, summed on its way; nothing seeks."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.bytes = 0
        self.content = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        self.file.write(chunk)
        self.content.update(chunk)
        size = memoryview(chunk).nbytes
        self.bytes += size
        return size

    def tell(self) -> int:
        return self.bytes


@contextmanager
def writer(job: Job, file: IO[bytes]) -> Iterator[Writer]:
    """What writes rows in the job's form."""
    if job.written == "parquet":
        out: Writer = ParquetWriter(file, _schema(job))
    else:
        out = CsvWriter(file, job.plan.columns) if job.written == "csv" else JsonWriter(file)
    try:
        yield out
    finally:
        out.close()


def join(job: Job, manifests: list[Manifest]) -> None:
    """All parts in their order as one file, in the place of the output; the parts' folder goes.

    Raises `UserError` where a part is not what its manifest says; the output then stays as it was.
    """
    assert job.output
    filesystem, folder = opened(job.folder)
    header = csv_header(job.plan.columns) if job.written == "csv" else b""
    with _replacing(job.output, stream=True) as target:
        if job.written == "parquet":
            _join_parquet(job, manifests, target)
        else:
            target.write(header)
            for part, manifest in zip(job.plan.parts, manifests, strict=True):
                skip = len(header)
                for chunk in _checked(job, part, manifest):
                    target.write(chunk[skip:])
                    skip = max(0, skip - len(chunk))
    with suppress(FileNotFoundError):  # another process has done the same
        # The plan goes last: what an interruption leaves is known as this job's.
        filesystem.rm([opened(job.place(part))[1] for part in job.plan.parts])
        filesystem.rm(folder, recursive=True)


def _join_parquet(job: Job, manifests: list[Manifest], target: IO[bytes]) -> None:
    import pyarrow.parquet

    waiting: list[Any] = []  # row groups of a window's rows, which are few for a file of many

    def write() -> None:
        if waiting:
            out.write_table(pyarrow.concat_tables(waiting))
            waiting.clear()

    with pyarrow.parquet.ParquetWriter(target, _schema(job)) as out:
        for part, manifest in zip(job.plan.parts, manifests, strict=True):
            for _ in _checked(job, part, manifest):
                pass
            filesystem, path = opened(job.place(part))
            with filesystem.open(path, "rb") as file:
                read = pyarrow.parquet.ParquetFile(file)
                for group in range(read.num_row_groups):
                    waiting.append(read.read_row_group(group))
                    if sum(table.nbytes for table in waiting) >= GROUP_BYTES:
                        write()
        write()


def _checked(job: Job, part: Part, manifest: Manifest) -> Iterator[bytes]:
    """The content of a part; `UserError` at its end where it is not what was written."""
    content = hashlib.sha256()
    for chunk in _chunks(job.place(part)):
        content.update(chunk)
        yield chunk
    if content.hexdigest() != manifest.sha256:
        raise UserError("a part is damaged", seen=job.place(part), remedy=AGAIN)


def _chunks(place: str) -> Iterator[bytes]:
    filesystem, path = opened(place)
    with filesystem.open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _schema(job: Job) -> Any:
    return parquet_schema(column_types(job.plan), job.artifact.multi_label)


def _place(output: str) -> tuple[str, str | None]:
    """The folder of the parts, and the file that they become."""
    filesystem, path = opened(output)
    whole = address(filesystem, path)
    if output.endswith("/") or filesystem.isdir(path):
        return whole.rstrip("/"), None
    if isinstance(filesystem, LocalFileSystem) and not Path(path).parent.is_dir():
        raise UserError(
            "the folder of the output does not exist", seen=Path(output).parent, remedy="Make it first"
        )
    return f"{whole}.parts", whole


@contextmanager
def _replacing(place: str, stream: bool = False) -> Iterator[IO[bytes]]:
    """A file that appears at `place` when it is complete: renamed on a disk, sent to an object store, or,
    with `stream`, sent as it is written, so that a large one needs no room here."""
    filesystem, path = opened(place)
    if isinstance(filesystem, LocalFileSystem):
        with atomic.replacing(Path(path)) as file:
            yield file
    elif stream:
        sent = filesystem.open(path, "wb", autocommit=False)
        try:
            yield sent
            sent.close()
            sent.commit()
        except BaseException:
            sent.discard()
            raise
    else:
        with tempfile.NamedTemporaryFile() as kept:  # of this user alone
            yield kept
            kept.flush()
            filesystem.put_file(kept.name, path)
