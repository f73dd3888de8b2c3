"""A whole run in process on tiny artifacts: a faithful copy, a broken one, and what is refused beforehand."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.profiles import PROFILES
from benchmarks.report import validate
from benchmarks.served import check_archive
from benchmarks.suite import find_artifacts, measure, prepare
from handler.artifact import DESCRIPTION, describe_files, open_artifact
from handler.atomic import write_json
from handler.errors import UserError
from training.checkpoint import load_data, open_checkpoint

BRIEF = replace(
    PROFILES["demo"],
    rounds=2,
    turn_ms=1,
    single_texts=3,
    max_texts=60,
    splits=("gate", "test"),
    served_texts=40,
)


@pytest.fixture(scope="module")
def artifacts(build_once, tmp_path_factory) -> Path:
    """fp32, a copy of it under another name, and one whose weights are no weights."""
    folder = tmp_path_factory.mktemp("artifacts")
    source = build_once("fp32").folder
    for name in ("fp32", "copy", "broken"):
        shutil.copytree(source, folder / name)
        meta = json.loads((folder / name / DESCRIPTION).read_text()) | {"name": name}
        if name == "broken":
            (folder / name / "model.safetensors").write_bytes(b"not weights")
            meta["files"] = describe_files(folder / name)
        write_json(folder / name / DESCRIPTION, meta)
    return folder


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return open_checkpoint(checkpoint_folder)


@pytest.fixture(scope="module")
def dataset(checkpoint):
    return load_data(checkpoint)


@pytest.fixture(scope="module")
def reports(artifacts: Path, checkpoint, dataset) -> dict[str, dict]:
    subject = prepare([], artifacts, None, checkpoint, dataset, BRIEF)
    return {report["name"]: report for report in measure(subject, BRIEF, threads=1)}


def test_every_report_keeps_the_schema_and_says_what_failed(reports) -> None:
    for report in reports.values():
        validate(report, "report")
    assert list(reports) == ["fp32", "copy", "broken"], "the reference first, failures last"
    assert reports["broken"]["status"] == "failed"
    assert reports["broken"]["error"]["stage"] == "start"
    assert "SafetensorError" in reports["broken"]["error"]["message"]


def test_a_copy_has_the_same_scores(reports) -> None:
    for split in ("gate", "test"):
        parity = reports["copy"]["parity"][split]
        assert parity["label_agreement"] == 1
        assert parity["max_prob_diff"] == 0


def test_all_that_the_design_asks_of_a_row_is_there(reports) -> None:
    copy = reports["copy"]
    assert [entry["case"] for entry in copy["latency"]][:3] == ["1x32", "8x32", "32x32"]
    assert [entry["case"] for entry in copy["latency"]][-2:] == ["1 text", "32 texts"]
    assert all(entry["speedup"]["noise"] >= 1 for entry in copy["latency"])
    assert copy["resources"]["peak_rss_mb"] > copy["resources"]["bare_interpreter_mb"]
    assert copy["run"]["threads"] == 1
    assert copy["artifact_sha256"] == open_artifact_sha(reports)
    assert copy["served"] == []


def open_artifact_sha(reports) -> str:
    """A copy computes the same, so its identity is fp32's."""
    return reports["fp32"]["artifact_sha256"]


def test_a_trained_classifier_gets_quality_and_an_interval_of_its_drop(reports) -> None:
    assert reports["copy"]["quality"]["gate"]["macro_f1"] > 0.6
    drop = reports["copy"]["parity"]["gate"]["macro_f1_drop"]
    assert drop["low"] <= 0 <= drop["high"]


def test_random_weights_get_no_quality(artifacts: Path, checkpoint, dataset) -> None:
    recipe = checkpoint.meta["recipe"] | {"epochs": 0}
    untrained = replace(checkpoint, meta=checkpoint.meta | {"recipe": recipe})
    subject = prepare(["copy"], artifacts, None, untrained, dataset, BRIEF)
    (copy,) = (report for report in measure(subject, BRIEF, threads=1) if report["name"] == "copy")
    assert copy["data"]["labels_meaningful"] is False
    assert copy["quality"] == {}
    assert copy["parity"]["gate"]["macro_f1_drop"] is None


def test_no_report_holds_a_text_or_a_path(reports, dataset, artifacts) -> None:
    written = json.dumps([reports["fp32"], reports["copy"]])
    assert not [text for text in dataset.splits["gate"].texts if text in written]
    assert str(artifacts) not in written
    assert str(Path.home()) not in written


def test_a_variant_that_was_not_built_is_refused_with_what_there_is(artifacts: Path, dataset) -> None:
    with pytest.raises(UserError, match=r"no artifact openvin.*there: broken, copy, fp32"):
        find_artifacts(["openvin"], artifacts, dataset)


def test_the_reference_is_measured_whether_asked_for_or_not(artifacts: Path, dataset) -> None:
    found, unusable = find_artifacts(["copy"], artifacts, dataset)
    assert list(found) == ["fp32", "copy"]
    assert not unusable


def test_an_artifact_of_other_data_is_a_row_that_says_so(artifacts: Path, dataset, tmp_path) -> None:
    shutil.copytree(artifacts, tmp_path / "artifacts")
    path = tmp_path / "artifacts" / "copy" / DESCRIPTION
    meta = json.loads(path.read_text())
    meta["training"]["data_sha256"] = "f" * 64
    write_json(path, meta)
    found, unusable = find_artifacts(["copy"], tmp_path / "artifacts", dataset)
    assert list(found) == ["fp32"]
    assert "other data" in unusable["copy"].message


def archive_of(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / DESCRIPTION, f"artifact/{DESCRIPTION}")
    return path


def test_an_archive_of_another_artifact_is_refused_as_stale(artifacts: Path, tmp_path) -> None:
    archive = archive_of(artifacts / "copy", tmp_path / "hate-copy.mar")
    check_archive(archive, open_artifact(artifacts / "copy"))
    with pytest.raises(UserError, match="stale"):
        check_archive(archive, open_artifact(artifacts / "broken"))
    archive.write_bytes(b"no zip")
    with pytest.raises(UserError, match="not an archive of ours"):
        check_archive(archive, open_artifact(artifacts / "copy"))


def test_without_archives_the_run_says_that_it_is_in_process_only(
    artifacts: Path, checkpoint, dataset, tmp_path, capsys
) -> None:
    subject = prepare(["copy"], artifacts, tmp_path, checkpoint, dataset, BRIEF)
    assert subject.archives == {}
    assert "measured in process only" in capsys.readouterr().err


def test_missing_artifacts_and_checkpoints_name_their_remedies(tmp_path, artifacts: Path) -> None:
    with pytest.raises(UserError, match="make export"):
        main(["run", "--artifacts", str(tmp_path / "none")])
    with pytest.raises(UserError, match="make train"):
        main(["run", "--artifacts", str(artifacts), "--checkpoint", str(tmp_path / "none")])
