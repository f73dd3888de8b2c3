"""Files of any size: every row once and in its place, whoever scores it and whatever interrupts."""

import csv
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import psutil
import pyarrow
import pyarrow.parquet as parquet
import pytest

from handler.artifact import Artifact
from handler.description import Bands, Promise
from handler.errors import UserError
from handler.predictor import Predictor
from scoring.job import here, open_job, run_job
from scoring.plan import plan, read_part
from scoring.rows import Window, classify
from tests.conftest import ran
from tests.descriptions import changed

ROWS = 60
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def artifact(build_once) -> Artifact:
    """ONNX Runtime's, whose processes start in a moment."""
    return build_once("onnx-fp32")


@pytest.fixture(scope="module")
def predictor(artifact: Artifact) -> Predictor:
    return Predictor(artifact, threads=1)


def test_a_table_has_the_decision_of_a_model_with_bands(artifact: Artifact) -> None:
    texts = ["a friendly text", "get lost, all of you"]
    (top, low) = sorted((each.scores[1] for each in Predictor(artifact, 1).predict(texts)), reverse=True)
    middle = float(top + low) / 2
    bands = Bands(middle, middle, 0.95, "validation", 100, [Promise("precision", 0.9, 0.9, 100)])
    deciding = Predictor(Artifact(artifact.folder, replace(artifact.meta, bands=bands)), threads=1)
    window = Window([*texts, ""], ["", "", ""], [{}, {}, {}])
    ((_, results),) = classify(deciding, [window])
    assert sorted(result["decision"] or "" for result in results) == ["", "act", "pass"]
    assert results[2]["error"]
    ((_, plain),) = classify(Predictor(artifact, 1), [window])
    assert [result["decision"] for result in plain] == [None] * 3


@pytest.fixture
def untidy(tmp_path: Path) -> Path:
    """A CSV as spreadsheets write it, with all that may stand between two records."""
    path = tmp_path / "in.csv"
    lines = ["\ufefftext,label,note\r\n"]
    for number in range(ROWS):
        text = ("", f'"two\r\nlines, {number}"', f"naïve 日本 {number}", f'"she said ""{number}"""')[
            number % 4
        ]
        lines.append(f"{text},{number % 2},n{number}\r\n")
        lines += ["\r\n"] * (number % 5 == 0)
    path.write_bytes("".join(lines).encode() + b"not \xff UTF-8,1,x\r\na,b,c,d\r\nlast,1,no line break")
    return path


def score(source: object, output: object, artifact: Artifact, engine, rows: int = 7, form=None) -> dict:
    return run_job(open_job(str(source), str(output), artifact, "text", form, rows), engine)


def read_csv(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open(encoding="utf-8", errors="surrogateescape", newline="")))


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_parts_hold_the_rows_that_a_csv_reader_finds(untidy: Path, rows: int) -> None:
    found = plan(str(untidy), "text", rows, "csv")
    with untidy.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        expected = [row["text"] for row in csv.DictReader(file)]
    assert [row["text"] for part in found.parts for row in read_part(part, "text")] == expected
    assert found.rows == len(expected) == ROWS + 3
    assert max(part.rows for part in found.parts) <= rows


def test_the_output_does_not_depend_on_how_the_input_was_cut(untidy, artifact, predictor, tmp_path) -> None:
    outputs = []
    for rows in (4, 1000):
        done = score(untidy, tmp_path / f"{rows}.csv", artifact, here(predictor), rows)
        outputs.append((tmp_path / f"{rows}.csv").read_bytes())
        assert done["rows"] == ROWS + 3
        assert done["rejected_now"] == ROWS // 4 + 2
    assert outputs[0] == outputs[1]
    last = read_csv(tmp_path / "4.csv")
    assert last[-3]["text"] == "not \udcff UTF-8", "its bytes are kept"
    assert last[-3]["error"] == "the text is not valid UTF-8: set its encoding with --encoding (line 89)"
    assert [row["note"] for row in last[:ROWS]] == [f"n{number}" for number in range(ROWS)]
    assert last[0]["error"] == "the text is empty"
    assert "quote the text" in last[-2]["error"]
    assert last[-1]["input_label"] == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1000.csv", "4.csv", "in.csv"], (
        "parts are gone"
    )


def test_a_run_that_broke_off_goes_on_with_the_parts_that_are_missing(
    untidy, artifact, predictor, tmp_path
) -> None:
    def breaks(job, parts):
        yield from here(predictor)(job, parts[2:5])
        raise KeyboardInterrupt

    score(untidy, tmp_path / "whole.csv", artifact, here(predictor))
    with pytest.raises(KeyboardInterrupt):
        score(untidy, tmp_path / "out.csv", artifact, breaks)
    assert not (tmp_path / "out.csv").exists()
    done = score(untidy, tmp_path / "out.csv", artifact, here(predictor))
    assert done["scored_now"] == done["rows"] - 3 * 7
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_parts_of_another_input_are_not_gone_on_with(untidy, artifact, predictor, tmp_path) -> None:
    open_job(str(untidy), str(tmp_path / "out.csv"), artifact, "text", None, 7)
    with untidy.open("a") as file:
        file.write("\none more,1,x")
    with pytest.raises(UserError, match="another job"):
        open_job(str(untidy), str(tmp_path / "out.csv"), artifact, "text", None, 7)


def test_other_thresholds_are_another_job(untidy, artifact, predictor, tmp_path) -> None:
    open_job(str(untidy), str(tmp_path / "out.csv"), artifact, "text", None, 7)
    other = changed(artifact, thresholds={"hate": 0.123})
    with pytest.raises(UserError, match="another job"):
        open_job(str(untidy), str(tmp_path / "out.csv"), other, "text", None, 7)


def test_a_folder_of_another_job_is_left_alone(untidy, artifact, tmp_path) -> None:
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "part-000000.csv").write_text("mine")
    with pytest.raises(UserError, match="not from this job"):
        open_job(str(untidy), str(tmp_path / "out.csv"), artifact, "text", None, 7)
    (tmp_path / "out.csv.parts" / "_plan.json").write_text('{"half')
    with pytest.raises(UserError, match=r"plan of the parts is damaged.*_plan\.json, 6 bytes"):
        open_job(str(untidy), str(tmp_path / "out.csv"), artifact, "text", None, 7)


@pytest.mark.parametrize("output", ["in/a.csv", "in/out.csv", "in/", "in"])
def test_an_output_among_the_input_is_refused(output: str, artifact, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text\nx\n")
    for source in ("in", "in/*.csv", "in/a.csv"):
        if source == "in/a.csv" and output == "in/out.csv":
            continue
        with pytest.raises(UserError, match="input and output overlap"):
            open_job(f"{tmp_path}/{source}", f"{tmp_path}/{output}", artifact, "text", None, 7)
    assert (tmp_path / "in" / "a.csv").read_text() == "text\nx\n"


def test_names_like_patterns_and_characters_like_none_are_taken_as_they_are(
    artifact, predictor, tmp_path
) -> None:
    source = tmp_path / "in[1]::x.jsonl"
    source.write_text('{"text": "half \\ud83d of one", "n": NaN, "t": "\\ud83d\\ude00"}\n')
    for form in ("jsonl", "csv", "parquet"):
        score(source, tmp_path / f"out.{form}", artifact, here(predictor))
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["text"] == "half \ud83d of one"
    assert row["n"] is None
    assert row["t"] == "\U0001f600"
    assert row["error"] is None
    for row in (
        read_csv(tmp_path / "out.csv")[0],
        parquet.read_table(tmp_path / "out.parquet").to_pylist()[0],
    ):
        assert not row["text"]
        assert row["n"] == "nan" or row["n"] == "NaN"
        assert "text cannot be written as" in row["error"]


@pytest.mark.slow
def test_a_process_that_is_killed_loses_and_repeats_no_row(artifact: Artifact, tmp_path: Path) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"text number {number}\n" for number in range(1000)))
    command = [sys.executable, "-m", "handler", "predict", "--artifact", artifact.folder, "--file", source]
    command += ["--output", output, "--part-rows", "2", "--threads", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out.jsonl.parts"
    while not (parts.is_dir() and len(list(parts.iterdir())) > 5):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not output.exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["scored_now"] < 1000
    texts = [json.loads(line)["text"] for line in output.read_text().splitlines()]
    assert texts == [f"text number {number}" for number in range(1000)]


def test_parquet_keeps_the_types_of_its_columns(artifact, predictor, tmp_path) -> None:
    numbers = pyarrow.array([1, 2, None, 4], pyarrow.int16())
    table = pyarrow.table({"id": numbers, "text": ["a", "b", None, "d"], "label": [[1], [2, 3], [], None]})
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=1)
    done = score(tmp_path / "in.parquet", tmp_path / "out.parquet", artifact, here(predictor), rows=2)
    assert (done["parts"], done["rejected_now"]) == (2, 1)
    scored = parquet.read_table(tmp_path / "out.parquet")
    assert scored["id"].equals(pyarrow.chunked_array([numbers])) or scored["id"].to_pylist() == [
        1,
        2,
        None,
        4,
    ]
    assert scored.schema.field("id").type == pyarrow.int16()
    assert scored["input_label"].to_pylist() == [[1], [2, 3], [], None]
    assert scored["error"].to_pylist()[2] == "text is not a string but null"
    again = score(tmp_path / "out.parquet", tmp_path / "again.jsonl", artifact, here(predictor))
    first = json.loads((tmp_path / "again.jsonl").read_text().splitlines()[0])
    assert again["rejected_now"] == 1
    assert first["input_input_label"] == [1]
    assert first["input_label"] == first["label"]


def test_json_rows_that_differ_share_the_columns_of_all(artifact, predictor, tmp_path) -> None:
    rows = [{"text": "a", "id": 1}, {"text": "b", "more": ["x", 2]}, {"text": "c", "id": "three"}]
    lines = [*map(json.dumps, rows), "{broken"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for form in ("csv", "parquet", "jsonl"):
        score(tmp_path / "in.jsonl", tmp_path / f"out.{form}", artifact, here(predictor), rows=1)
    assert [row["more"] for row in read_csv(tmp_path / "out.csv")] == ["", "['x', 2]", "", ""]
    scored = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in scored] == ["1", None, "three", None]
    assert scored[1]["more"] == '["x", 2]'
    assert scored[3]["error"] == "not JSON (line 4)"


def test_a_folder_of_files_becomes_a_folder_of_parts(artifact, predictor, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    for name, column in (("a.csv", "one"), ("b.csv", "two"), ("_plan.csv", "ours"), ("notes.md", "none")):
        (tmp_path / "in" / name).write_text(f"text,{column}\nhello,{name}\n")
    assert score(tmp_path / "in", f"{tmp_path / 'same'}/", artifact, here(predictor))["parts"] == 2
    assert len(read_csv(tmp_path / "same" / "part-000000.csv")) == 1
    done = score(tmp_path / "in", f"{tmp_path / 'out'}/", artifact, here(predictor), form="jsonl")
    assert done["rows"] == 2
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("part-*.jsonl"))]
    assert [row.get("one") or row.get("two") for row in found] == ["a.csv", "b.csv"]
    score(f"{tmp_path}/in/[ab].csv", tmp_path / "out.csv", artifact, here(predictor))
    assert [(row["one"], row["two"]) for row in read_csv(tmp_path / "out.csv")] == [
        ("a.csv", ""),
        ("", "b.csv"),
    ]


def test_an_object_store_gives_and_takes_what_a_disk_does(untidy, s3, artifact, predictor, tmp_path) -> None:
    score(untidy, tmp_path / "here.csv", artifact, here(predictor))
    store = fsspec.filesystem("s3")
    store.put_file(str(untidy), "models/in/a.csv")
    done = score("s3://models/in/a.csv", "s3://models/out.csv", artifact, here(predictor))
    assert done["output"] == "s3://models/out.csv"
    assert store.cat_file("models/out.csv") == (tmp_path / "here.csv").read_bytes()
    assert not store.exists("models/out.csv.parts/part-000000.csv")
    parts = score("s3://models/in/*.csv", "s3://models/parts/", artifact, here(predictor))
    assert len(store.ls("models/parts", detail=False)) == parts["parts"] + 2
    assert score("s3://models/in/*.csv", "s3://models/parts/", artifact, here(predictor))["scored_now"] == 0
    with pytest.raises(UserError, match=r"s3://no-such-bucket/out\.csv\.parts cannot be used"):
        open_job("s3://models/in/a.csv", "s3://no-such-bucket/out.csv", artifact, "text", None, 7)


@pytest.mark.parametrize(
    ("files", "named", "output", "expected"),
    [
        ({"a.csv": "text\nx\n", "b.jsonl": "{}"}, "", "out.csv", "several formats"),
        ({"a.csv": "words\nx\n"}, "a.csv", "out.csv", "no column 'text': words.*--text-column"),
        ({"a.csv": "text,id,id\nx\n"}, "a.csv", "out.csv", "two columns with the same name: id"),
        ({"a.csv": ""}, "a.csv", "out.csv", "no header"),
        ({"a.parquet": "text"}, "a.parquet", "out.csv", "not Parquet"),
        ({"a.txt": "x"}, "a.txt", "out.txt", "has columns"),
        ({"a.txt": "x"}, "a.txt", "out/", "--format csv"),
        ({}, "nothing*", "out.csv", "no such file"),
        ({"a.txt": "x"}, "a.txt", "s9://bucket/out.csv", "s9://bucket/out.csv cannot be used"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_what_cannot_be_scored_is_said_before_anything_is(
    files, named, output, expected, artifact, tmp_path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    place = output if "://" in output else f"{tmp_path}/{output}"
    with pytest.raises(UserError, match=expected):
        open_job(f"{tmp_path}/{named}", place, artifact, "text", None, 7)


@pytest.mark.slow
def test_ray_scores_what_this_process_does_and_a_worker_may_die(artifact, predictor, tmp_path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "ray.csv"
    source.write_text("id,text\n" + "".join(f"{number},text of {number}\n" for number in range(2000)))
    score(source, tmp_path / "local.csv", artifact, here(predictor), rows=50)
    killed: list[int] = []

    def kill_workers() -> None:
        parts = tmp_path / "ray.csv.parts"
        while not (parts.is_dir() and len(list(parts.glob("part-*"))) > 5):
            time.sleep(0.01)
        for process in psutil.Process().children(recursive=True):
            if "MapWorker" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=kill_workers, daemon=True)
    killer.start()
    place = ("--artifact", artifact.folder, "--file", source, "--output", output)
    done = ran("handler", "predict", *place, "--engine", "ray", "--part-rows", 50, "--threads", 1)
    from ray._common.usage import usage_lib  # Ray reads whether it asks for a token as it is imported

    assert not usage_lib.usage_stats_enabled(), "Ray reports nothing"
    killer.join(timeout=100)
    assert killed, "the worker was found and killed"
    assert json.loads(done.stdout)["scored_now"] == 2000, "and nothing but JSON is printed"
    assert output.read_bytes() == (tmp_path / "local.csv").read_bytes()
