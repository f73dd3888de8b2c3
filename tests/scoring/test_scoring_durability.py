"""What a scoring job calls done is there: damage is scored again or said, and two jobs never mix."""

import errno
import json
import os
import threading
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet as parquet
import pytest

from common import atomic
from handler.artifact import Artifact
from handler.errors import UserError
from handler.predictor import Predictor
from scoring import job as jobs
from scoring.job import Engine, Job, here, open_job, run_job

ROWS, PART_ROWS = 40, 7
PARTS = -(-ROWS // PART_ROWS)


@pytest.fixture(scope="module")
def artifact(build_once) -> Artifact:
    return build_once("onnx-fp32")


@pytest.fixture(scope="module")
def engine(artifact: Artifact) -> Engine:
    return here(Predictor(artifact, threads=1))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {row}", "id": row}) + "\n" for row in range(ROWS)))
    return path


def opened(source: Path, output: object, artifact: Artifact) -> Job:
    return open_job(str(source), str(output), artifact, "text", None, PART_ROWS)


def ids(output: Path) -> list[int]:
    if output.suffix == ".parquet":
        return [int(value) for value in parquet.read_table(output)["id"].to_pylist()]
    lines = output.read_text().splitlines()
    if output.suffix == ".csv":
        return [int(line.split(",")[1]) for line in lines[1:]]
    return [json.loads(line)["id"] for line in lines]


def interrupted(job: Job, engine: Engine) -> Path:
    """All parts are scored and none joined; their folder."""

    def breaks(job, parts):
        yield from engine(job, parts)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, breaks)
    return Path(job.folder)


DAMAGES = {
    "emptied": lambda part, manifest: part.write_bytes(b""),
    "truncated": lambda part, manifest: part.write_bytes(part.read_bytes()[:-20]),
    "same size": lambda part, manifest: part.write_bytes(bytes(part.stat().st_size)),
    "lengthened": lambda part, manifest: part.write_bytes(2 * part.read_bytes()),
    "gone": lambda part, manifest: part.unlink(),
    "manifest gone": lambda part, manifest: manifest.unlink(),
    "manifest emptied": lambda part, manifest: manifest.write_bytes(b""),
    "manifest of nulls": lambda part, manifest: manifest.write_bytes(bytes(100)),
    "manifest of another version": lambda part, manifest: manifest.write_text('{"rows": 7}'),
}


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_scored_again(damage, form, rows, artifact, engine, tmp_path) -> None:
    output = tmp_path / f"out.{form}"
    parts = interrupted(opened(rows, output, artifact), engine)
    damage(parts / f"part-000002.{form}", parts / "_manifests" / "part-000002.json")
    done = run_job(opened(rows, output, artifact), engine)
    assert done["scored_now"] == PART_ROWS, "no more than that"
    assert done["rows"] == ROWS
    assert ids(output) == list(range(ROWS))


def test_a_folder_of_parts_is_mended_by_the_same_command(rows, artifact, engine, tmp_path) -> None:
    output = f"{tmp_path / 'out'}/"
    assert run_job(opened(rows, output, artifact), engine)["scored_now"] == ROWS
    assert run_job(opened(rows, output, artifact), engine)["scored_now"] == 0
    part = tmp_path / "out" / "part-000005.jsonl"
    whole = part.read_bytes()
    part.write_bytes(whole[:100])
    assert run_job(opened(rows, output, artifact), engine)["scored_now"] == ROWS % PART_ROWS
    assert part.read_bytes() == whole


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("damage", ["emptied", "truncated", "same size", "gone"])
def test_a_part_that_is_damaged_while_the_job_runs_is_a_sentence_and_the_old_output_stays(
    damage, form, rows, artifact, engine, tmp_path
) -> None:
    output = tmp_path / f"out.{form}"
    output.write_text("of yesterday")

    def damaging(job, parts):
        yield from engine(job, parts)
        place = Path(job.place(job.plan.parts[1]))
        DAMAGES[damage](place, None)

    with pytest.raises(UserError, match=r"a part is (missing or incomplete|damaged).*same command again"):
        run_job(opened(rows, output, artifact), damaging)
    assert output.read_text() == "of yesterday"
    assert run_job(opened(rows, output, artifact), engine)["scored_now"] == PART_ROWS
    assert ids(output) == list(range(ROWS))


def test_an_engine_that_leaves_out_a_part_is_not_believed(rows, artifact, engine, tmp_path) -> None:
    def forgets(job, parts):
        yield from engine(job, parts[1:])

    for output in ("out.jsonl", "out/"):
        with pytest.raises(UserError, match="a part is missing or incomplete"):
            run_job(opened(rows, f"{tmp_path}/{output}", artifact), forgets)


def test_an_input_that_shrinks_while_it_is_scored_is_a_sentence(rows, artifact, engine, tmp_path) -> None:
    job = opened(rows, tmp_path / "out.jsonl", artifact)
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:10]))
    with pytest.raises(UserError, match=r"in\.jsonl has changed since the job began: 3 rows"):
        run_job(job, engine)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("content", ["", '{"plan": ', "\0" * 40])
def test_a_damaged_plan_is_called_damaged(content, rows, artifact, engine, tmp_path) -> None:
    parts = interrupted(opened(rows, tmp_path / "out.jsonl", artifact), engine)
    (parts / "_plan.json").write_text(content)
    with pytest.raises(UserError, match="the plan of the parts is damaged"):
        opened(rows, tmp_path / "out.jsonl", artifact)
    assert (parts / "part-000000.jsonl").exists()


def claims(places: list[str], sources: list[Path], artifact, monkeypatch) -> tuple[list[Job], list[str]]:
    """Jobs that claim at one moment, each having looked before another wrote: those that won, and what the
    others were told."""
    barrier = threading.Barrier(len(sources), timeout=100)
    write, won, said = jobs._write_once, [], []

    def together(*arguments):
        barrier.wait()
        write(*arguments)

    monkeypatch.setattr(jobs, "_write_once", together)

    def claim(source: Path, place: str) -> None:
        try:
            won.append(opened(source, place, artifact))
        except UserError as error:
            said.append(str(error))

    threads = [threading.Thread(target=claim, args=each) for each in zip(sources, places, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    return won, said


def unable(*_):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture(params=["disk", "disk without links", "object store"])
def place(request, tmp_path, monkeypatch) -> str:
    if request.param == "object store":
        request.getfixturevalue("s3")
        return f"s3://models/{tmp_path.name}/out.jsonl"
    if request.param == "disk without links":
        monkeypatch.setattr(atomic.os, "link", unable)
    return f"{tmp_path}/out.jsonl"


def test_of_different_jobs_at_once_one_wins(place, rows, artifact, engine, tmp_path, monkeypatch) -> None:
    others = [rows]
    for number in range(3):
        others.append(tmp_path / f"other{number}.jsonl")
        others[-1].write_text(rows.read_text())
    won, said = claims([place] * len(others), others, artifact, monkeypatch)
    assert len(won) == 1
    assert len(said) == len(others) - 1
    assert [sentence for sentence in said if "parts of another job" not in sentence] == []
    assert run_job(won[0], engine)["rows"] == ROWS


def test_one_job_twice_at_once_is_one_job(place, rows, artifact, engine, monkeypatch) -> None:
    won, said = claims([place] * 2, [rows] * 2, artifact, monkeypatch)
    assert (len(won), said) == (2, [])
    first, second = won

    def meanwhile(job, parts):
        """The other run does everything before this one joins."""
        yield from engine(job, parts)
        if "://" in place:
            assert run_job(second, engine)["scored_now"] == 0
        else:
            with pytest.raises(UserError, match="another process is running this job"):
                run_job(second, engine)

    if "://" in place:  # a store has no locks
        with pytest.raises(UserError, match="parts of this job are gone: another process has joined"):
            run_job(first, meanwhile)
        content = fsspec.filesystem("s3").cat_file(place).decode()
    else:
        assert run_job(first, meanwhile)["rows"] == ROWS
        with pytest.raises(UserError, match="parts of this job are gone"):
            run_job(second, engine)
        content = Path(place).read_text()
    assert [json.loads(line)["id"] for line in content.splitlines()] == list(range(ROWS))


def test_parts_of_the_former_version_are_scored_again(rows, artifact, engine, tmp_path) -> None:
    """They have no manifests, so nothing says that they are whole."""
    job = opened(rows, tmp_path / "out.jsonl", artifact)
    Path(job.place(job.plan.parts[0])).write_text("")
    assert run_job(job, engine)["scored_now"] == ROWS


def test_all_rows_that_could_not_be_classified_are_counted_whichever_run_scored_them(
    artifact, engine, tmp_path
) -> None:
    table = pyarrow.table({"text": ["a", None, "b", ""] * 5, "id": list(range(20))})
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=4)

    def breaks(job, parts):
        yield from engine(job, parts[:2])
        raise KeyboardInterrupt

    arguments = (str(tmp_path / "in.parquet"), str(tmp_path / "out.csv"), artifact, "text", None, 4)
    with pytest.raises(KeyboardInterrupt):
        run_job(open_job(*arguments), breaks)
    done = run_job(open_job(*arguments), engine)
    assert (done["rejected"], done["rejected_now"]) == (10, 6)
