"""`benchmarks flips` and `power --texts`, with real artifacts."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.sameness import flips_key
from benchmarks.sameness.flips_key import Answers, answers
from benchmarks.sameness.parity import decided
from benchmarks.studies import flips_needed
from handler.errors import UserError
from handler.predictor import Predictor
from training.measures.gate_ledger import read_ledger

VARIANT = "openvino-int8"
FLIPPED = range(0, 300, 30)


@pytest.fixture
def texts(dataset, tmp_path: Path) -> list[str]:
    """300 that are in no split, in a file, with one that is."""
    found = [f"{text} once more" for text in dataset.splits["train"].texts[:300]]
    (tmp_path / "mine.txt").write_text("\n".join([*found, dataset.splits["gate"].texts[0]]))
    return found


@pytest.fixture
def given(build_once, source, tmp_path: Path) -> list[str]:
    """The options of every command here."""
    build_once(VARIANT)
    options = ("--artifacts", source.artifacts, "--checkpoint", source.checkpoint.folder)
    ledger = ("--ledger", tmp_path / "ledger.json")
    return [*map(str, (*options, *ledger)), "--texts", str(tmp_path / "mine.txt"), "--variants", VARIANT]


@pytest.fixture
def flipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant says what fp32 says, but of some unlabelled texts."""

    def changed(artifacts, gate, unlabelled, *rest) -> Answers:
        found = answers({"fp32": artifacts["fp32"]}, gate, unlabelled, *rest)
        for name in set(artifacts) - {"fp32"}:
            found.gate[name] = found.gate["fp32"]
            found.unlabelled[name] = found.unlabelled["fp32"].copy()
            found.unlabelled[name][FLIPPED] = 1 - found.unlabelled[name][FLIPPED]
        return found

    monkeypatch.setattr(flips_key, "answers", changed)


def test_answers_are_the_labels_that_each_artifact_gives(build_once, dataset) -> None:
    artifacts = {name: build_once(name) for name in ("fp32", VARIANT)}
    gate, others = dataset.splits["gate"].texts[:40], dataset.splits["test"].texts[:30]
    found = answers(artifacts, gate, others, 1, lambda stream, name, count: stream)
    for name, artifact in artifacts.items():
        scores = np.array([each.scores for each in Predictor(artifact, 1).predict([*gate, *others])])
        np.testing.assert_array_equal(found.gate[name], decided(artifact, scores)[:40])
        np.testing.assert_array_equal(found.unlabelled[name], decided(artifact, scores)[40:])


def test_a_file_is_written_labelled_and_read_and_the_ledger_has_a_look(
    texts, given, flipping, dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "to-label.csv"
    assert main(["flips", *given, "--write", str(path), "--checks", "10"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["rows"], written["flips"], written["unlabelled"]) == (20, 10, 300)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    gate = dict(zip(dataset.splits["gate"].texts, dataset.splits["gate"].labels, strict=True))
    assert {row["text"] for row in rows} - set(gate) == {texts[place] for place in FLIPPED}
    for row in rows:
        row["label"] = dataset.labels[gate.get(row["text"], 1)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert main(["flips", *given, "--read", str(path)]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)["verdicts"][VARIANT]
    assert (found["flips"], found["labelled"]) == (10, 10)
    assert found["low"] < found["drop"] < found["high"]
    assert VARIANT in shown.err
    ledger = read_ledger(tmp_path / "ledger.json")
    assert ledger is not None
    (look,) = ledger.gates[0].runs[0].looks
    assert (look.variant, look.verdict) == (VARIANT, found["judged"]["verdict"])


def test_a_plan_says_how_many_labels_it_takes(
    texts, given, flipping, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert main(["power", *given, "--margin", "0.02", "--results", str(results)]) == 0
    found = json.loads(capsys.readouterr().out)
    (need,) = found["needs"]
    assert (found["texts"], found["margin"], found["run"]) == (300, 0.02, 1)
    assert (need["variant"], need["flips"]) == (VARIANT, 10)
    assert need["rate"] == pytest.approx(1 / 30)
    assert need["gate"] > 100
    assert (results / "labels.svg").read_text().startswith("<svg")


def test_a_margin_without_texts_is_refused() -> None:
    with pytest.raises(UserError, match="--margin and --variants are of a plan"):
        main(["power", "--margin", "0.01"])


def test_the_study_of_labels_needed_reads_what_the_commands_wrote(
    texts, given, flipping, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, hidden, plan = (tmp_path / name for name in ("to-label.csv", "hidden.csv", "plan.json"))
    assert main(["flips", *given, "--write", str(path)]) == 0
    capsys.readouterr()
    assert main(["power", *given, "--results", str(tmp_path)]) == 0
    plan.write_text(capsys.readouterr().out)
    hidden.write_text("text,label\n")
    checkpoint = given[given.index("--checkpoint") : given.index("--checkpoint") + 2]
    asked = [*checkpoint, "--results", str(tmp_path), "--texts", str(tmp_path / "mine.txt")]
    asked += ["--written", str(path), "--hidden", str(hidden), "--plan", str(plan), "--data", "demo"]
    with pytest.raises(UserError, match="300 of 300"):
        flips_needed.main(asked)
    with hidden.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, "hate") for text in texts)])
    assert flips_needed.main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["variant"] for each in found["needed"]} == {VARIANT}
    assert (found["unlabelled"], found["needed"][0]["flip_rate"]) == (300, pytest.approx(1 / 30))
