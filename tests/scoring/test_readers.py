"""What predict reads from, and says of rows without an answer; and that memory does not grow with a file."""

import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.tables.lines import BLOCK, MOST_LINE, blocks
from handler.errors import UserError
from scoring import command
from scoring.plan import plan, read_part
from tests.asking import serving
from tests.conftest import run_stage
from tests.reading import Echo, rows_of, scored

ROOT = Path(__file__).parents[2]
MOST_MEMORY = 1 << 30
LONG = 200_000_000
SHORT = 1_000_000


class Loaded(Echo):
    def __init__(self, *_, **__) -> None:
        pass

    @classmethod
    def load(cls, *_, **__) -> "Loaded":
        return cls()


@pytest.fixture
def predict(monkeypatch):
    """The command with a classifier that answers each text with itself."""
    monkeypatch.setattr(command, "Predictor", Loaded)
    monkeypatch.setattr(command, "open_artifact", lambda _: SimpleNamespace(sha256="0", multi_label=False))
    return partial(run_stage, "handler", "predict")


def test_rows_without_an_answer_are_counted_and_strict_makes_them_a_failure(predict, tmp_path) -> None:
    (tmp_path / "in.csv").write_text('id,text\n1,a\n2,\n3,"open\n')
    output = tmp_path / "out.csv"
    done = predict("--file", tmp_path / "in.csv", "--output", output)
    assert done.returncode == 0
    assert "2 rows have no answer" in done.stderr
    assert json.loads(done.stdout)["rejected"] == 2
    assert predict("--file", tmp_path / "in.csv", "--output", output, "--strict").returncode == 1
    (tmp_path / "in.csv").write_text("id,text\n1,a\n")
    done = predict("--file", tmp_path / "in.csv", "--output", output, "--strict")
    assert (done.returncode, "no answer" in done.stderr) == (0, False)


@pytest.mark.parametrize("option", ["--delimiter", "--escape"])
def test_an_option_that_is_not_one_character_is_a_sentence(predict, tmp_path, option) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,a\n")
    done = predict("--file", tmp_path / "in.csv", "--output", tmp_path / "out.csv", option, "||")
    assert (done.returncode, "must be one character" in done.stderr) == (2, True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_standard_input_may_have_any_encoding(predict, monkeypatch, encoding) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(command, "_open_output", lambda _: _Held(output))
    options = ("--encoding", encoding) if encoding == "cp1252" else ()
    done = predict(*options, stdin="naïve\r\nzwei\n\n".encode(encoding))
    assert done.returncode == 0, done.stderr
    assert output.getvalue().decode().splitlines()[1:] == [
        "naïve,naïve,0.5,,5,False,",
        "zwei,zwei,0.5,,4,False,",
        ",,,,,,the text is empty",
    ]


class _Held:
    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        return self.file

    def __exit__(self, *_) -> None:
        pass


def test_a_web_server_that_gives_no_parts_of_a_file_is_read_from(tmp_path, monkeypatch) -> None:
    (tmp_path / "in.csv").write_text("id,text\n" + "".join(f"{n},text {n}\n" for n in range(3000)))
    with serving(tmp_path) as address:
        found = plan(f"{address}/in.csv?version=1", "text", 1000, None)
        texts = [row["text"] for part in found.parts for row in read_part(part, "text")]
        assert texts == [f"text {n}" for n in range(3000)]
        with pytest.raises(UserError, match="no such file"):
            plan(f"{address}/other.csv", "text", 1000, None)
    with pytest.raises(UserError):
        plan(f"{address}/in.csv", "text", 1000, None)


def test_a_file_that_changes_under_a_job_is_a_sentence(tmp_path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\na\nb\n")
    found = plan(str(source), "text", 10, None)
    source.write_text("text\na,b\n")
    with pytest.raises(UserError, match="has changed since the job began: 1 rows where there were 2"):
        list(read_part(found.parts[0], "text"))


def hostile(folder: Path, kind: str, size: int) -> Path:
    """A file that unfolds to `size` bytes of memory in a careless reader."""
    word = "word " * 1000
    names = {"row": "in.csv", "object": "in.jsonl", "line": "in.txt", "quote": "in.csv"}
    place = folder / names.get(kind, "in.parquet")
    if kind == "dictionary":
        import pyarrow
        from pyarrow import parquet

        text = "x" * (1 << 20)
        with parquet.ParquetWriter(place, pyarrow.schema([("text", pyarrow.string())])) as writer:
            for _ in range(1 + size // (64 << 20)):
                writer.write_table(pyarrow.table({"text": [text] * 64}))
        return place
    with place.open("w") as file:
        file.write({"row": "text\na\n", "quote": 'text\n"open\n', "object": '{"text": "', "line": ""}[kind])
        for _ in range(size // len(word)):
            file.write(word + ("\n" if kind == "quote" else ""))
        file.write('"}\n' if kind == "object" else "\nlast\n")
    return place


HOSTILE = ("row", "object", "line", "quote", "dictionary")
READ = """
import resource, sys
from functools import partial
from pathlib import Path
from tests.reading import score
begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
score(Path(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_memory_is_bounded_by_the_longest_row_and_not_by_the_file(tmp_path, kind) -> None:
    source = hostile(tmp_path, kind, 1 << 26)
    command = [sys.executable, "-c", READ, source, tmp_path / "out.csv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) << 10 < 1 << 27, "KiB more than before"


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_takes_less_than_a_gigabyte(build_once, tmp_path, kind) -> None:
    source = hostile(tmp_path, kind, LONG)
    command = [sys.executable, "-m", "handler", "predict", "--artifact", build_once("onnx-fp32").folder]
    command += ["--threads", "1", "--file", source, "--output", tmp_path / "out.csv"]
    measured = [sys.executable, "-c", MEASURE, *map(str, command)]
    done = subprocess.run(measured, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) << 10 < MOST_MEMORY
    assert "no answer" in done.stderr
    assert kind == "dictionary" or rows_of(tmp_path / "out.csv")  # its cells are beyond csv's limit


@pytest.mark.parametrize("long", [MOST_LINE // 2 + 9, MOST_LINE, 2 * MOST_LINE])
def test_short_lines_behind_a_long_one_are_read_some_at_a_time(long) -> None:
    content = b"x" * (long - 1) + b"\n" + b"a\n" * SHORT
    whole, *found = blocks(io.BytesIO(content), "utf-8")
    assert whole.too_long == (long > MOST_LINE)
    assert (whole.first, whole.stops) == (1, [long])
    assert max(len(block.content) for block in found) <= 2 * BLOCK
    assert b"".join(block.content for block in found) == b"a\n" * SHORT
    numbers = [number for block in found for number in block.numbers]
    assert numbers == list(range(2, 2 + SHORT))
    assert [stop for block in found for stop in block.stops] == list(range(long + 2, len(content) + 1, 2))


def test_lines_without_records_are_counted(tmp_path) -> None:
    content = b"\n" * 3 * BLOCK + b'{"text": "a"}\n' + b"[]\n"
    rows = scored(content, tmp_path, "in.jsonl")
    assert [row["error"] for row in rows] == ["", f"not a JSON object (line {3 * BLOCK + 2:,})"]


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
