"""A whole run in process on tiny artifacts: a faithful copy, a broken one, and what is refused beforehand."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from benchmarks import suite
from benchmarks.__main__ import main
from benchmarks.baselines import preparation
from benchmarks.baselines.in_process import BASELINES
from benchmarks.in_process import latency
from benchmarks.in_process.latency import one_case
from benchmarks.in_process.ratios import compared, unpacked
from benchmarks.inputs import find_artifacts, prepare
from benchmarks.profiles import PROFILES
from benchmarks.records import Report, Variant, plain
from benchmarks.sameness import scores
from benchmarks.selection import Objective
from benchmarks.served.run import check_archive
from benchmarks.suite import measure, open_resume_log
from common.atomic import write_json
from handler.artifact import DESCRIPTION, describe_files, open_artifact
from handler.errors import UserError
from training.measures.gate_ledger import share_of

QUICK_BASELINES = (
    "hf-pipeline",
    "ort-int8",
)  # each of the others starts for seconds: they are in `test_baselines`
BRIEF = replace(
    PROFILES["demo"],
    blocks=2,
    most_blocks=3,
    sweep_s=0,
    latency_s=0,
    turn_ms=1,
    single_texts=3,
    max_texts=60,
    splits=("gate", "test"),
    served_texts=40,
)


@pytest.fixture(scope="module")
def artifacts(build_once, tmp_path_factory) -> Path:
    """fp32, a copy of it under another name, and one whose weights are no weights.

    A run knows fp32 by its name. Here it is ONNX Runtime's, whose processes start in a moment, and these runs
    start a dozen; a worker with PyTorch's is in `test_worker`.
    """
    folder = tmp_path_factory.mktemp("artifacts")
    source = build_once("onnx-fp32").folder
    for name in ("fp32", "copy", "broken"):
        shutil.copytree(source, folder / name)
        meta = json.loads((folder / name / DESCRIPTION).read_text()) | {"name": name}
        meta["parent"] = None if name == "fp32" else "fp32"
        if name == "broken":
            (folder / name / "model.onnx").write_bytes(b"not weights")
            meta["files"] = describe_files(folder / name)
        write_json(folder / name / DESCRIPTION, meta)
    return folder


@pytest.fixture(scope="module")
def whole(artifacts: Path, checkpoint, dataset, baselines_folder, alone, tmp_path_factory) -> Report:
    """A run with baselines and the GEMM bound, timed on texts of the test split."""
    texts = tmp_path_factory.mktemp("texts") / "unlabelled.txt"
    texts.write_text("a soup\n\nmy neighbours came to tea\n")
    with pytest.MonkeyPatch.context() as patch:
        for module in (preparation, suite):
            patch.setattr(module, "BASELINES", {name: BASELINES[name] for name in QUICK_BASELINES})
        where = {"baselines": baselines_folder, "unlabelled": texts}
        with alone("baselines"):
            subject = prepare([], artifacts, None, checkpoint, dataset, BRIEF, "test", **where)
        return measure(subject, BRIEF, threads=1)


@pytest.fixture(scope="module")
def variants(whole) -> dict[str, Variant]:
    return {variant.name: variant for variant in whole.variants}


@pytest.fixture(scope="module")
def untrained(artifacts: Path, checkpoint, dataset) -> Report:
    """The report of a copy from a run without baselines, of a checkpoint with random weights; no interval
    of it is narrow enough, so that it gets another block."""
    recipe = checkpoint.meta.recipe | {"epochs": 0}
    random = replace(checkpoint, meta=structs.replace(checkpoint.meta, recipe=recipe))
    profile = replace(BRIEF, latency_s=3600)
    subject = prepare(["copy"], artifacts, None, random, dataset, profile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "WIDTH", -1)
        report = measure(subject, profile, threads=1)
    return report.of(report.variants[1])


def test_every_report_keeps_the_schema_and_says_what_failed(variants) -> None:
    assert list(variants) == ["fp32", "copy", "broken"], "the reference first, failures last"
    assert variants["broken"].status == "failed"
    assert variants["broken"].error.stage == "start"
    assert "InvalidProtobuf" in variants["broken"].error.message


def test_a_copy_has_the_same_scores(variants) -> None:
    for split in ("gate", "test"):
        parity = variants["copy"].parity[split]
        assert parity.label_agreement == 1
        assert parity.max_prob_diff == 0


def test_all_that_the_design_asks_of_a_row_is_there(whole, variants) -> None:
    copy = variants["copy"]
    assert [entry.case for entry in copy.latency][:3] == ["1x32", "8x32", "32x32"]
    assert [entry.case for entry in copy.latency][-2:] == ["1 text", "32 texts"]
    assert all(entry.rounds == 2 and len(entry.turns) == 2 for entry in copy.latency)
    assert all(entry.low_ms > 0 and entry.cpu_ms > 0 for entry in copy.latency)
    assert copy.resources.peak_rss_mb > copy.resources.bare_interpreter_mb
    assert whole.run.threads == 1
    assert copy.artifact_sha256 == variants["fp32"].artifact_sha256, "it computes the same"
    assert copy.served == []


def test_a_trained_classifier_gets_quality_and_an_interval_of_its_drop(variants) -> None:
    assert variants["copy"].quality["gate"].macro_f1 > 0.6, "chance is 0.5"
    drop = variants["copy"].parity["gate"].macro_f1_drop
    assert drop.low <= 0 <= drop.high


def test_the_verdict_is_on_the_gate_and_says_what_the_texts_could_have_shown(variants) -> None:
    verdict = variants["copy"].parity["gate"].noninferiority
    assert verdict.run == 1
    assert verdict.level == pytest.approx(share_of(1))
    assert verdict.verdict == "inconclusive", "60 texts without a flip do not prove a margin of 0.01"
    assert verdict.smallest_margin > 0.01
    assert verdict.texts_to_settle > 60
    assert variants["fp32"].judged.noninferiority is None
    assert variants["copy"].parity["test"].noninferiority is None


def test_unlabelled_texts_count_for_agreement_alone(variants) -> None:
    parity = variants["copy"].parity["unlabelled"]
    assert (parity.n, parity.label_agreement, parity.macro_f1_drop) == (2, 1, None)
    assert parity.flip_rates["any"].high > 0.5
    assert "unlabelled" not in variants["copy"].quality


def test_functional_cases_are_asked_of_every_variant(variants) -> None:
    suite = variants["copy"].functional["templates"]
    assert suite.n > 500
    assert suite.accuracy == suite.reference_accuracy
    assert suite.flips == 0
    assert len(suite.groups) == 8


def test_refitted_figures_are_shown_with_those_as_shipped(variants) -> None:
    gate, test = (variants["copy"].quality[split] for split in ("gate", "test"))
    assert gate.refitted.temperature == test.refitted.temperature
    assert 0 < gate.refitted.ece < 1
    assert sum(point.n for point in gate.reliability) == 60


def test_time_is_split_by_phase_and_length_and_cpu_time_is_by_text(whole, variants) -> None:
    single = variants["copy"].case("1 text")
    assert min(single.model_p50_ms, single.tokenise_p50_ms, single.p50_ms) > 0
    assert sum(bin_.n for bin_ in single.by_length) == single.samples
    assert variants["copy"].resources.cpu_s_per_1000_texts > 0
    assert whole.run.others_cores >= 0


def test_every_fixed_shape_has_the_roofline_of_the_variants_own_arithmetic(variants) -> None:
    for entry in variants["copy"].latency:
        assert (entry.roofline is None) == (entry.tokens is None)
        if entry.tokens:
            found = entry.roofline
            assert found.bound_ms == max(found.compute_ms, found.memory_ms) > 0
            assert found.share == pytest.approx(found.bound_ms / entry.p50_ms, rel=1e-3)


def test_an_interrupted_run_goes_on_where_it_ended(
    artifacts: Path, checkpoint, dataset, tmp_path, monkeypatch, capsys
) -> None:
    subject = prepare(["copy", "broken"], artifacts, None, checkpoint, dataset, BRIEF)
    asked = []
    what = (subject, BRIEF, 1, False)

    def interrupted(pool, block, case, *rest):
        asked.append((block, case))
        if asked.count((1, "1 text")) == 1 and asked[-1] == (1, "1 text"):
            raise KeyboardInterrupt
        return one_case(pool, block, case, *rest)

    monkeypatch.setattr(latency, "one_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(subject, BRIEF, 1, Objective(), open_resume_log(tmp_path, *what))
    monkeypatch.setattr(scores, "_score", pytest.fail)  # all texts have been scored
    resume_log = open_resume_log(tmp_path, *what)
    report = measure(subject, BRIEF, 1, Objective(), resume_log)
    found = {variant.name: variant for variant in report.variants}
    again = asked.index((1, "1 text"))
    assert asked[again + 1] == (1, "1 text"), "what was measured is not measured again"
    assert len(asked) == len(set(asked)) + 1
    assert "resuming an interrupted run" in capsys.readouterr().err
    assert report.run.resumed == 1
    assert found["copy"].case("1 text").samples == 12, "three texts there and back in both blocks"
    assert found["broken"].error.stage == "start"


def test_baselines_are_measured_in_the_same_rounds_and_judged_like_variants(whole) -> None:
    baselines = {baseline.name: baseline for baseline in whole.baselines}
    assert tuple(baselines) == QUICK_BASELINES
    assert {baseline.status for baseline in baselines.values()} == {"measured"}
    pipeline = baselines["hf-pipeline"]
    assert pipeline.parity["gate"].label_agreement == 1
    assert pipeline.parity["gate"].max_prob_diff < 1e-4
    assert pipeline.parity["gate"].macro_f1_drop.high > 0, "it is not fp32 itself"
    assert baselines["ort-int8"].quality["test"].macro_f1 > 0.6
    assert all(baseline.resources.threads == 1 for baseline in baselines.values())
    assert [variant.name for variant in whole.variants] == ["fp32", "copy", "broken"]


def test_the_turns_in_a_report_give_its_ratios_again(whole, variants) -> None:
    for entry in variants["copy"].latency:
        reference, copy = (unpacked(variants[name].case(entry.case).turns) for name in ("fp32", "copy"))
        again = compared(reference, copy, entry.case == "1 text")
        assert again.ratio == pytest.approx(entry.speedup.ratio, rel=1e-3)
        assert again.low == pytest.approx(entry.speedup.low, rel=0.02)


def test_throughput_has_a_paired_ratio_to_the_pipeline(whole) -> None:
    copy = whole.variants[1].case("32 texts")
    assert copy.vs_pipeline.low <= copy.vs_pipeline.ratio <= copy.vs_pipeline.high
    pipeline = whole.baselines[0].case("32 texts")
    assert pipeline.vs_pipeline.verdict == "reference"


def test_every_fixed_shape_is_held_against_the_lower_bound(whole) -> None:
    bounds = {case.case: case for case in whole.bound.cases}
    assert list(bounds)[:3] == ["1x32", "8x32", "32x32"]
    for entry in whole.variants[1].latency:
        if entry.tokens:
            expected = entry.p50_ms / bounds[entry.case].int8_ms
            assert entry.int8_bounds == pytest.approx(expected, rel=1e-3)
        else:
            assert entry.int8_bounds is None


def test_the_timed_texts_are_those_of_the_split_that_was_asked_for(whole, untrained) -> None:
    assert whole.data.timed_split == "test"
    assert untrained.data.timed_split == "gate"


def test_without_baselines_a_report_says_nothing_of_them(untrained) -> None:
    written = plain(untrained)
    assert not {"peers", "floor"} & written.keys()
    fields = {field for entry in written["variants"][0]["latency"] for field in entry}
    assert not {"vs_pipeline", "int8_floors"} & fields


def test_rows_that_may_be_chosen_get_more_blocks_at_real_texts(untrained) -> None:
    blocks = {entry.case: entry.rounds for entry in untrained.only.latency}
    assert blocks["1 text"] == blocks["32 texts"] == BRIEF.most_blocks
    assert blocks["1x32"] == BRIEF.blocks


def test_random_weights_get_no_quality(untrained) -> None:
    assert untrained.data.labels_meaningful is False
    assert untrained.only.quality == {}
    assert untrained.only.parity["gate"].macro_f1_drop is None


def test_no_report_holds_a_text_or_a_path(whole, dataset, artifacts) -> None:
    written = json.dumps(plain(structs.replace(whole, variants=whole.variants[:2])))
    assert not [text for text in dataset.splits["gate"].texts if text in written]
    assert str(artifacts) not in written
    assert str(Path.home()) not in written


def test_a_variant_that_was_not_built_is_refused_with_what_there_is(artifacts: Path, dataset) -> None:
    with pytest.raises(UserError, match=r"no artifact openvin.*found: broken, copy, fp32"):
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
        for name in (DESCRIPTION, *open_artifact(folder).meta.files):
            archive.write(folder / name, f"artifact/{name}")
    return path


def test_an_archive_of_another_artifact_is_refused_as_stale(artifacts: Path, tmp_path) -> None:
    archive = archive_of(artifacts / "copy", tmp_path / "hate-copy.mar")
    check_archive(archive, open_artifact(artifacts / "copy"))
    with pytest.raises(UserError, match="stale"):
        check_archive(archive, open_artifact(artifacts / "broken"))
    archive.write_bytes(b"no zip")
    with pytest.raises(UserError, match="not an archive of this project"):
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
    with pytest.raises(UserError, match="python -m training train"):
        main(["run", "--artifacts", str(artifacts), "--checkpoint", str(tmp_path / "none")])
