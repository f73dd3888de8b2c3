import csv
import json
import shutil
from pathlib import Path

import pytest

from handler.artifact import Artifact
from tests.conftest import ran, run_stage
from tests.handler.test_self_check import flipped


@pytest.fixture(scope="module")
def fp32(build_once) -> Artifact:
    return build_once("fp32")


def predict(artifact: Artifact, *arguments: object):
    return run_stage("handler", "predict", "--artifact", artifact.folder, *arguments)


def test_one_text_gets_its_json_answer_on_standard_output(fp32: Artifact) -> None:
    done = predict(fp32, "a friendly text")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["label"] in fp32.labels


def test_a_csv_keeps_its_columns_and_a_bad_row_its_place(fp32: Artifact, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('id,text\n7,"two\nlines"\n8,\n9,third\n', encoding="utf-8-sig")
    done = predict(fp32, "--file", source, "--output", target)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(target.open(newline="")))
    assert [row["id"] for row in rows] == ["7", "8", "9"]
    assert list(rows[0]) == ["id", "text", "label", "score", "decision", "tokens", "truncated", "error"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]


def test_a_model_that_gives_other_scores_here_answers_only_if_told_to(
    artifact_copy: Artifact, tmp_path: Path
) -> None:
    damaged = flipped(artifact_copy, "classifier.weight")
    (tmp_path / "in.txt").write_text("a text\n")
    for arguments in (
        ("a text",),
        ("--file", tmp_path / "in.txt"),
        ("--file", tmp_path / "in.txt", "--output", tmp_path / "out.csv"),
    ):
        done = predict(damaged, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert "gives other scores here than where it was exported" in done.stderr
        assert predict(damaged, *arguments, "--on-mismatch", "warn").returncode == 0
        shutil.rmtree(tmp_path / "out.csv.parts", ignore_errors=True)
    assert predict(damaged, "a text", "--self-check-flips", 1).returncode == 0


def test_jsonl_with_a_broken_line_loses_no_row(fp32: Artifact, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a", "id": 1}\n{broken\n{"text": "c\u2028d"}\n')
    assert predict(fp32, "--file", source, "--output", target).returncode == 0
    rows = [json.loads(line) for line in target.read_text().split("\n") if line]
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert rows[0]["id"] == 1


def test_standard_input_holds_one_text_a_line(build_once) -> None:
    done = ran("handler", "predict", "--artifact", build_once("onnx-fp32").folder, stdin="first\nsecond\n")
    assert [row["text"] for row in csv.DictReader(done.stdout.splitlines())] == ["first", "second"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--file", "missing.csv"], "there is no such file"),
        (["--file", "texts.docx"], "does not show its format"),
        (["--output", "no/such/folder/out.csv"], "folder of the output does not exist"),
        ([""], "the text is empty"),
        (["a", "--file", "b.csv"], "both given"),
        (["--artifact", "build/artifacts/nonsense", "a"], "python -m export build nonsense"),
    ],
    ids=["missing", "format", "output", "empty", "both", "artifact"],
)
def test_a_mistake_is_one_sentence_and_status_2(fp32: Artifact, arguments: list[str], expected: str) -> None:
    done = predict(fp32, *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_labelled_and_untidy_csv_keeps_its_labels_and_loses_no_row(fp32: Artifact, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    long = "word " * 30_000
    source.write_text(f"text,label\nfirst,1\nsecond,0,too,many\n{long},1\nshort row\n")
    done = predict(fp32, "--file", source, "--output", target)
    assert done.returncode == 0, done.stderr
    csv.field_size_limit(1 << 30)
    rows = list(csv.DictReader(target.open(newline="")))
    assert [row["input_label"] for row in rows] == ["1", "0", "1", ""]
    assert [row["label"] in fp32.labels for row in rows] == [True, False, False, True]
    assert "quote the text" in rows[1]["error"]
    assert "100,000" in rows[2]["error"]
