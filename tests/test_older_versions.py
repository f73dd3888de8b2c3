"""What 0.1.0 wrote still works, or is refused by one sentence with the command that renews it.

`tests/data/0.1.0` was written by that version (commit 8ea6e8f) from a tiny random classifier that it adopted:
its checkpoint, two artifacts, an archive, a published version, a scoring job that was interrupted, and the
answers to `TEXTS`. The results are those that the repository held then.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import files
from deploy.app.model import Model
from export.archives.promote import promote
from export.archives.publish import fetch, publish
from handler.artifact import archived_artifact, open_artifact
from handler.predictor import Predictor
from tests.conftest import ROOT, run_stage
from training.checkpoint import load_model, open_checkpoint

OLD = ROOT / "tests" / "data" / "0.1.0"
TEXTS = ["i love my neighbours", "they hate these people !", "unheard-of words", "soup " * 200]
EXPECTED = json.loads((OLD / "answers.json").read_text())
BOUND = 1e-5  # another CPU sums in another order


def scores(predictor: Predictor) -> list[list[float]]:
    return [prediction.scores.tolist() for prediction in predictor.predict(TEXTS)]


@pytest.mark.parametrize("variant", ["fp32", "onnx-fp32"])
def test_an_artifact_answers_as_it_did(variant: str) -> None:
    predictor = Predictor.load(OLD / "artifacts" / variant)
    np.testing.assert_allclose(scores(predictor), EXPECTED[variant], atol=BOUND)


def test_an_archive_answers_as_it_did_and_is_promoted_and_published(tmp_path: Path) -> None:
    shutil.copy(OLD / "hate-fp32.mar", tmp_path)
    archive = tmp_path / "hate-fp32.mar"
    assert archived_artifact(archive).name == "fp32"
    model = Model.of_archive(archive, tmp_path / "unpacked")
    np.testing.assert_allclose(scores(Predictor(model.artifact)), EXPECTED["fp32"], atol=BOUND)
    assert promote("fp32", tmp_path) == tmp_path / "hate.mar"
    place = publish([archive], str(tmp_path / "registry"), "hate").place
    fetch(place, tmp_path / "fetched")


def test_a_version_that_was_published_is_fetched(tmp_path: Path) -> None:
    fetched = fetch(str(OLD / "published"), tmp_path / "fetched")
    assert fetched.record.version == "1.0"
    assert archived_artifact(tmp_path / "fetched" / "hate-fp32-1.0.mar").name == "fp32"


def test_an_adopted_checkpoint_may_have_seen_what_it_is_judged_on() -> None:
    assert open_checkpoint(OLD / "checkpoint").may_have_seen


def test_a_checkpoint_gives_the_logits_that_it_gave() -> None:
    import torch

    checkpoint = open_checkpoint(OLD / "checkpoint")
    model, tokenizer = load_model(checkpoint)
    with torch.inference_mode():
        logits = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits
    np.testing.assert_allclose(logits.softmax(dim=1).tolist(), EXPECTED["fp32"][:1], atol=BOUND)


def test_a_checkpoint_is_exported_again(tmp_path: Path) -> None:
    done = run_stage(
        "export", "build", "fp32", "--checkpoint", OLD / "checkpoint", "--artifacts", tmp_path / "artifacts"
    )
    if done.returncode == 2:  # then by a sentence that says what renews it
        assert "make " in done.stderr or "python -m " in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        found = scores(Predictor(open_artifact(tmp_path / "artifacts" / "fp32")))
        np.testing.assert_allclose(found, EXPECTED["fp32"], atol=BOUND)


def test_an_interrupted_scoring_job_goes_on_or_says_what_to_do(tmp_path: Path) -> None:
    """Its plan names absolute paths, so it is made again where this test runs."""
    shutil.copytree(OLD / "scoring", tmp_path, dirs_exist_ok=True)
    arguments = ("--artifact", OLD / "artifacts" / "fp32", "--file", tmp_path / "in.csv", "--part-rows", 2)
    done = run_stage("handler", "predict", *arguments, "--output", f"{tmp_path}/out/")
    if done.returncode == 2:
        assert "another" in done.stderr
        assert "Traceback" not in done.stderr
        done = run_stage("handler", "predict", *arguments, "--output", f"{tmp_path}/new/")
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout)["output"])
    rows = [
        row for part in sorted(folder.glob("part-*.csv")) for row in csv.DictReader(part.open(newline=""))
    ]
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "5", "6"]


def test_results_are_read() -> None:
    found = files.read_side_by_side(OLD / "side-by-side.json")
    assert {"fp32", "openvino-int8"} <= {variant.name for variant in found.variants}
