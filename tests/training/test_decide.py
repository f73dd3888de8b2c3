"""`python -m training decide`: from a checkpoint to decisions in its artifact's answers."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from common.records import plain
from export.build import build
from export.registry import VARIANTS
from export.source import Source
from handler.answers import DECISIONS
from handler.artifact import open_artifact
from handler.bands import decide_bands
from handler.predictor import Predictor
from tests.conftest import ran, refused
from training.checkpoint import META_FILE, load_data, open_checkpoint


@pytest.fixture
def checkpoint(checkpoint_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_folder, tmp_path / "checkpoint"))


def decided(checkpoint: Path, *options: object) -> dict:
    return json.loads(ran("training", "decide", "--checkpoint", checkpoint, *options).stdout)


def changed(checkpoint: Path, **fields: object) -> Path:
    """The checkpoint with these fields in what it says of itself."""
    meta = msgspec.structs.replace(open_checkpoint(checkpoint).meta, **fields)
    (checkpoint / META_FILE).write_text(json.dumps(plain(meta)))
    return checkpoint


def test_bands_reach_every_answer_of_an_artifact_and_change_what_it_is(
    checkpoint: Path, source: Source, tmp_path: Path
) -> None:
    done = ran(
        "training", "decide", "--checkpoint", checkpoint, "--precision", 0.6, "--recall", 0.9
    )  # what its two layers of 32 can promise
    found = json.loads(done.stdout)
    assert [promise["kind"] for promise in found["promises"]] == ["precision", "recall"]
    assert "The training chose its epoch, temperature and threshold on these texts too" in done.stderr
    assert (checkpoint / "bands.svg").read_text().startswith("<?xml")
    opened = open_checkpoint(checkpoint)
    assert plain(opened.meta.bands) == found

    own = Source(opened, source.dataset, tmp_path / "artifacts")
    assert own.sha256 != source.sha256, "artifacts without these bands are stale"
    artifact = build(VARIANTS["fp32"], own, print)
    assert artifact.meta.bands == opened.meta.bands
    unbanded = replace(artifact, meta=replace(artifact.meta, bands=None))
    assert artifact.sha256 != unbanded.sha256

    predictor = Predictor(open_artifact(artifact.folder))
    texts = source.dataset.splits["gate"].texts[:100]
    predictions = predictor.predict(list(texts))
    answers = [predictor.answer(prediction) for prediction in predictions]
    scores = np.array([answer["scores"]["hate"] for answer in answers])
    expected = decide_bands(scores, found["act"], found["review"])
    assert [answer["decision"] for answer in answers] == [DECISIONS[place] for place in expected]
    assert len({answer["decision"] for answer in answers}) > 1
    predictor.artifact = unbanded
    assert "decision" not in predictor.answer(predictions[0])


def test_bands_are_taken_out_again(checkpoint: Path) -> None:
    before = (checkpoint / META_FILE).read_text()
    decided(checkpoint, "--recall", 0.9)
    assert (checkpoint / META_FILE).read_text() != before
    ran("training", "decide", "--checkpoint", checkpoint, "--remove")
    assert json.loads((checkpoint / META_FILE).read_text()) == json.loads(before)


def test_labelled_texts_of_a_table_are_taken_without_those_of_the_splits(
    checkpoint: Path, tmp_path: Path
) -> None:
    dataset = load_data(open_checkpoint(checkpoint))
    table, gate = tmp_path / "labelled.csv", dataset.splits["gate"]
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for place, (text, label) in enumerate(zip(gate.texts, gate.labels.tolist(), strict=True)):
            writer.writerow([f"{text} number {place}", dataset.labels[label]])
        writer.writerow([gate.texts[0], "hate"])
        writer.writerow([f"{gate.texts[0]} number 0", "hate"])
    done = ran(
        "training",
        "decide",
        "--checkpoint",
        checkpoint,
        "--recall",
        0.8,
        "--review-share",
        0.3,
        "--data",
        f"csv:{table}",
    )
    found = json.loads(done.stdout)
    assert found["texts"] == len(gate)
    assert found["fitted_on"] == "csv:labelled.csv"
    assert "2 texts are left out" in done.stderr
    assert "The training chose" not in done.stderr


def test_a_rate_of_false_alarms_is_kept(checkpoint: Path) -> None:
    found = decided(checkpoint, "--false-positive-rate", 0.1)
    (promise,) = found["promises"]
    assert promise["found"] < promise["promised"] == 0.1
    assert 0 < found["review"] <= found["act"] < 1


def test_costs_are_read_and_bounded(checkpoint: Path) -> None:
    found = decided(checkpoint, "--cost", "fp=1,fn=5,review=0.25")
    assert (found["act"], found["review"]) == (0.75, 0.05)
    (promise,) = found["promises"]
    assert promise["kind"] == "cost"
    assert promise["found"] < promise["promised"]
    assert "like fp=1,fn=5" in refused(
        "training", "decide", "--checkpoint", checkpoint, "--cost", "fp=1,no=2"
    )


def test_what_cannot_be_promised_leaves_the_checkpoint_as_it_was(checkpoint: Path) -> None:
    before = (checkpoint / META_FILE).read_bytes()
    words = refused("training", "decide", "--checkpoint", checkpoint, "--precision", 0.999)
    assert "the best that can be promised is at least 0." in words
    assert "between 0 and 1" in refused("training", "decide", "--checkpoint", checkpoint, "--recall", 1)
    assert (checkpoint / META_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "multi-label", "positive_label": None}, "these labels are independent"),
        ({"labels": ["a", "b", "c"], "thresholds": {}, "positive_label": None}, "none of these is"),
    ],
)
def test_a_classifier_without_a_positive_label_is_refused(
    checkpoint: Path, fields: dict, message: str
) -> None:
    place = changed(checkpoint, **fields)
    assert message in refused("training", "decide", "--checkpoint", place, "--recall", 0.9)
