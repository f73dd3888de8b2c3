"""A job: the parts that are still missing are scored, then put together.

Where the output is a file, parts wait in `<output>.parts/` until all are there; where it is a folder, they
stay in it. A part appears under its name when it is complete, so that it does not matter who scores it, how
often, or when a run was interrupted. Leaves out: who does it (`on_ray`, or this process).
"""

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from handler.artifact import Artifact
from handler.commands import say
from handler.errors import UserError
from handler.predictor import Predictor
from handler.scoring.plan import Part, Plan, column_types, plan, read_windows
from handler.scoring.rows import (
    CsvWriter,
    JsonWriter,
    ParquetWriter,
    Writer,
    classify,
    csv_header,
    parquet_schema,
)
from handler.storage import address, opened, told
from handler.tables.layout import AS_FOUND, OUTPUTS, Reading, file_format

PLAN = "_plan.json"  # tools that read a folder of tables leave out what begins with _
GROUP_BYTES = 32 << 20  # of a row group of Parquet

Engine = Callable[["Job", list[Part]], Iterable["Scored"]]


@dataclass(frozen=True)
class Scored:
    """A part that is there, and how many of its rows could not be classified."""

    number: int
    rows: int
    rejected: int


@dataclass(frozen=True)
class Job:
    """What is scored by which artifact, and where to. `folder` holds the parts; `output` is the file that
    they become, or None where they stay."""

    plan: Plan
    artifact: Artifact
    written: str
    folder: str
    output: str | None

    def place(self, part: Part) -> str:
        return f"{self.folder}/part-{part.number:06d}.{self.written}"

    def record(self) -> dict:
        """What a job must share with an earlier one to go on with its parts."""
        return {"plan": self.plan.record(), "artifact": self.artifact.sha256, "written": self.written}

    def missing(self) -> list[Part]:
        filesystem, folder = opened(self.folder)
        filesystem.invalidate_cache()  # another process, or a worker, may have written since
        there = {name.rpartition("/")[2] for name in filesystem.ls(folder, detail=False)}
        return [part for part in self.plan.parts if self.place(part).rpartition("/")[2] not in there]


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
        raise UserError("--format is for a folder of parts", seen=output, remedy="The name says the format")
    wanted = file_format(file, (*OUTPUTS, "txt")) if file else form
    found = plan(source, text_column, part_rows, wanted, reading)
    written = wanted or found.form
    if written == "txt":
        raise UserError(
            "the output keeps columns, which .txt cannot",
            seen=output,
            remedy="Use .csv, .jsonl or .parquet" if file else "Choose one: --format csv",
        )
    _check_apart(source, found, file or folder)
    job = Job(found, artifact, written, folder, file)
    with told(folder):
        _claim(job)
    return job


def _claim(job: Job) -> None:
    """Write the job's plan where its parts go, unless it is there."""
    filesystem, path = opened(job.folder)
    filesystem.invalidate_cache()
    if filesystem.exists(f"{path}/{PLAN}"):
        try:
            is_ours = json.loads(filesystem.cat_file(f"{path}/{PLAN}")) == job.record()
        except ValueError:
            is_ours = False
        if not is_ours:
            raise UserError(
                "the parts of another job lie where this one's belong (other input, artifact or options)",
                seen=job.folder,
                remedy="Remove that folder, or name another --output",
            )
        return
    if filesystem.exists(path) and filesystem.ls(path, detail=False):
        raise UserError(
            "the folder of the output holds what is not this job's",
            seen=job.folder,
            remedy="Empty it, or name another --output",
        )
    if isinstance(filesystem, LocalFileSystem):  # elsewhere, making a folder could make a bucket
        filesystem.makedirs(path, exist_ok=True)
    with _replacing(f"{job.folder}/{PLAN}") as file:
        file.write(json.dumps(job.record()).encode())


def _check_apart(source: str, found: Plan, output: str) -> None:
    """Refuse an output that would replace its input, or be read as input by the next run."""
    filesystem, path = opened(source)
    there, place = opened(output)
    whole = address(there, place)
    root = address(filesystem, path)
    names = [each["path"] for each in found.files]
    inside = whole.startswith(f"{root.rstrip('/')}/") or fnmatch(whole, root)
    if whole in names or inside or any(name.startswith(f"{whole.rstrip('/')}/") for name in names):
        raise UserError(
            "input and output are not apart", seen=f"{source} and {output}", remedy="Name another --output"
        )


def run_job(job: Job, engine: Engine) -> dict:
    """Score what is missing and put the output in its place; what was done, in numbers."""
    with told(job.output or job.folder):
        return _run(job, engine)


def _run(job: Job, engine: Engine) -> dict:
    missing = job.missing()
    done = len(job.plan.parts) - len(missing)
    if done:
        say(f"{done:,} of {len(job.plan.parts):,} parts are there already")
    rejected = 0
    left = sum(part.rows for part in missing)
    with tqdm(total=job.plan.rows, initial=job.plan.rows - left, unit=" texts", disable=None) as bar:
        for scored in engine(job, missing):
            rejected += scored.rejected
            bar.update(scored.rows)
    if job.output:
        join(job)
    return {
        "output": job.output or job.folder,
        "rows": job.plan.rows,
        "parts": len(job.plan.parts),
        "scored_now": left,
        "rejected_now": rejected,
    }


def here(predictor: Predictor) -> Engine:
    """The engine that is this process."""

    def scored(job: Job, parts: list[Part]) -> Iterator[Scored]:
        for part in parts:
            yield score_part(job, part, predictor)

    return scored


def score_part(job: Job, part: Part, predictor: Predictor) -> Scored:
    """Read a part, classify its rows and write them, in flat memory."""
    rejected = 0
    read = read_windows(part, job.plan.text_column)
    with _replacing(job.place(part)) as file, writer(job, file) as out:
        for window, results in classify(predictor, read):
            rejected += out.write(window, results)
    return Scored(part.number, part.rows, rejected)


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


def join(job: Job) -> None:
    """All parts in their order as one file, in the place of the output; the parts' folder goes."""
    assert job.output
    filesystem, folder = opened(job.folder)
    filesystem.invalidate_cache()  # workers have written
    header = csv_header(job.plan.columns) if job.written == "csv" else b""
    with _replacing(job.output, stream=True) as target:
        if job.written == "parquet":
            _join_parquet(job, target)
        else:
            target.write(header)
            for part in job.plan.parts:
                with filesystem.open(opened(job.place(part))[1], "rb") as file:
                    file.seek(len(header))
                    shutil.copyfileobj(file, target, 1 << 20)
    # The plan goes last: what an interruption leaves is known as this job's.
    filesystem.rm([opened(job.place(part))[1] for part in job.plan.parts])
    filesystem.rm(folder, recursive=True)


def _join_parquet(job: Job, target: IO[bytes]) -> None:
    import pyarrow.parquet

    waiting: list[Any] = []  # row groups of a window's rows, which are few for a file of many

    def write() -> None:
        if waiting:
            out.write_table(pyarrow.concat_tables(waiting))
            waiting.clear()

    with pyarrow.parquet.ParquetWriter(target, _schema(job)) as out:
        for part in job.plan.parts:
            filesystem, path = opened(job.place(part))
            with filesystem.open(path, "rb") as file:
                read = pyarrow.parquet.ParquetFile(file)
                for group in range(read.num_row_groups):
                    waiting.append(read.read_row_group(group))
                    if sum(table.nbytes for table in waiting) >= GROUP_BYTES:
                        write()
        write()


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
        partial = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            with partial.open("wb") as file:
                yield file
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
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
            yield kept  # type: ignore[misc]
            kept.flush()
            filesystem.put_file(kept.name, path)
