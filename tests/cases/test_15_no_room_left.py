"""No room on the disk is a sentence and exit status 2, wherever it runs out; what stood there stays."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from common.atomic import write_json
from common.commands import of_this_moment
from handler.errors import UserError
from tests.conftest import ran, refused, run_stage

ROOM_BYTES = 64 << 10


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for little."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", place], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def store(build_once, workshop: Path) -> Path:
    """A folder with the archive of a tiny artifact, which is larger than the small disk."""
    ran(
        "export",
        "package",
        "--artifacts",
        build_once("fp32").folder.parent,
        "--store",
        workshop / "room",
    )
    assert (workshop / "room" / "hate-fp32.mar").stat().st_size > ROOM_BYTES
    return workshop / "room"


def assert_said(done: subprocess.CompletedProcess[str], place: Path, left: set[str] = frozenset()) -> None:
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1].lower()
    assert last.startswith("error: ")
    assert any(said in last for said in ("the disk is full", "no space left", "there is no room"))
    assert {path.name for path in place.iterdir()} == left, "nothing half-written lies about"


def test_packaging(build_once, small: Path) -> None:
    artifacts = build_once("fp32").folder.parent
    assert_said(run_stage("export", "package", "--artifacts", artifacts, "--store", small), small)


def test_promoting_keeps_the_archive_that_is_served(store: Path, small: Path) -> None:
    (small / "hate.mar").write_bytes(b"served")
    done = run_stage("export", "promote", "fp32", "--archives", store, "--store", small)
    assert_said(done, small, {"hate.mar"})
    assert (small / "hate.mar").read_bytes() == b"served"


def test_publishing(store: Path, small: Path) -> None:
    refused("export", "publish", small / "shop", "fp32", "--store", store)
    assert not list(small.rglob("*.partial"))
    assert not list(small.rglob("published.json")), "a version that is not whole is none"


def test_fetching(store: Path, small: Path, tmp_path: Path) -> None:
    ran("export", "publish", tmp_path / "shop", "fp32", "--store", store)
    (version,) = (tmp_path / "shop" / "hate").iterdir()
    assert_said(run_stage("export", "fetch", version, "--to", small / "fetched"), small)


def test_unpacking_for_the_app(store: Path, small: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    done = run_stage("deploy", "app", "--archive", store / "hate-fp32.mar", "--port", 0)
    assert_said(done, small)


def test_predicting_from_standard_input_into_a_file(build_once, small: Path) -> None:
    lines = b"".join(b"%d, sentence number %d about soup\n" % (row, row) for row in range(3000))
    (small / "out.csv").write_text("of yesterday")
    artifact = build_once("onnx-fp32").folder
    done = run_stage("handler", "predict", "--artifact", artifact, "--output", small / "out.csv", stdin=lines)
    assert_said(done, small, {"out.csv"})
    assert (small / "out.csv").read_text() == "of yesterday"


def test_a_job_that_found_no_room_goes_on_when_there_is_some(build_once, small: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{row}, sentence number {row} about soup\n" for row in range(600)))
    ballast = small / "ballast"
    ballast.write_bytes(bytes(ROOM_BYTES - (28 << 10)))
    arguments = ("handler", "predict", "--artifact", build_once("onnx-fp32").folder, "--file", source)
    arguments += ("--output", small / "out.csv", "--part-rows", 20)
    for _ in range(2):  # and once more while it is full
        assert "No space left" in refused(*arguments)
        assert not (small / "out.csv").exists()
        assert not list(small.rglob("*.partial"))
    ballast.unlink()
    subprocess.run(["mount", "-o", f"remount,size={16 * ROOM_BYTES}", small], check=True)
    ran(*arguments)
    lines = (small / "out.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0].strip('"') for line in lines] == [str(row) for row in range(600)]


def test_the_end_of_a_training(source, small: Path) -> None:
    from training.checkpoint import load_model, write_checkpoint

    write_json(small / "checkpoint" / "checkpoint.json", {"schema": 1, "old": True})
    model, tokenizer = load_model(source.checkpoint)
    with pytest.raises(UserError, match=r"Cannot write to .*checkpoint: .*No space left"):
        write_checkpoint(small / "checkpoint", model, tokenizer, source.checkpoint.meta)
    assert [path.name for path in small.iterdir()] == ["checkpoint"]
    assert [path.name for path in (small / "checkpoint").iterdir()] == ["checkpoint.json"]


def test_results(small: Path) -> None:
    write_json(small / "report.json", "old")
    with pytest.raises(OSError, match="No space left") as raised:
        write_json(small / "report.json", "x" * 2 * ROOM_BYTES)
    assert str(of_this_moment(raised.value)).startswith(f"the disk is full: {small}/report.json.")
    assert [path.name for path in small.iterdir()] == ["report.json"]
    assert (small / "report.json").read_text() == '"old"\n'


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/1"), "the disk is full"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
            "torch could not write a file",
        ),
        (PermissionError(13, "Permission denied", "model.onnx"), "this user lacks permission: model.onnx"),
        (ValueError("a defect"), None),
    ],
    ids=["safetensors", "torch", "torch-later", "rights", "defect"],
)
def test_what_libraries_make_of_it_is_understood(error, expected) -> None:
    told = of_this_moment(error)
    assert (told is None) == (expected is None)
    assert expected is None or expected in str(told)


def test_a_defect_after_a_file_that_could_not_be_read_stays_a_defect() -> None:
    error = KeyError("a defect")
    error.__context__ = PermissionError(13, "Permission denied", "cache")
    assert of_this_moment(error) is None
