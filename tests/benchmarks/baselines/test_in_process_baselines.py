"""Baselines: prepared once, answering as the checkpoint does, in processes that know nothing of us."""

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.baselines import preparation
from benchmarks.baselines.in_process import BASELINES, CALIBRATION_TEXTS
from benchmarks.baselines.preparation import prepare_baselines
from benchmarks.in_process.pool import open_pool
from benchmarks.in_process.worker import ROOT, WorkerError, open_worker
from benchmarks.names import GEMM_BOUND, PIPELINE, REFERENCE, TFIDF
from benchmarks.rows import baseline_row
from benchmarks.sameness.scores import calibrated
from handler.machine import has_cuda
from handler.predictor import Predictor

GPU = pytest.mark.skipif(not has_cuda(), reason="no NVIDIA GPU, or a torch without CUDA")
APART = "torchao-int8"  # downloaded when it is wanted, and compiled for half a minute
LONG = ("ort-fp32", "plain-openvino-int8")  # exported as two others are: proven by make test-slow
ANOTHER = (TFIDF,)  # classifier: `test_bag_of_words`


@pytest.fixture(scope="module")
def prepared(checkpoint, dataset, baselines_folder, alone):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            preparation,
            "BASELINES",
            {name: baseline for name, baseline in BASELINES.items() if name not in (APART, *LONG, *ANOTHER)},
        )
        with alone("baselines"):
            found = prepare_baselines(checkpoint, dataset.splits["train"].texts, baselines_folder, has_cuda())
        yield found


@pytest.fixture(scope="module")
def prepared_slowly(checkpoint, dataset, baselines_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "BASELINES", {name: BASELINES[name] for name in (APART, *LONG)})
        yield prepare_baselines(checkpoint, dataset.splits["train"].texts, baselines_folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [APART, *LONG])
def test_a_baseline_that_is_long_to_prepare_is_the_same_classifier(
    name: str, prepared_slowly, dataset, checkpoint, build_once
) -> None:
    assert_the_same_classifier(name, prepared_slowly, dataset, checkpoint, build_once)


@pytest.mark.slow
def test_torchao_is_installed_apart(prepared_slowly) -> None:
    assert (prepared_slowly.folders[APART] / "packages" / "torchao").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=GPU if baseline.on_cuda else ())
        for name, baseline in BASELINES.items()
        if name not in (APART, *LONG, *ANOTHER)
    ],
)
def test_a_baseline_is_the_same_classifier_run_by_other_means(
    name: str, prepared, dataset, checkpoint, build_once
) -> None:
    assert_the_same_classifier(name, prepared, dataset, checkpoint, build_once)


def assert_the_same_classifier(name: str, prepared, dataset, checkpoint, build_once) -> None:
    assert not prepared.failures
    artifact, texts = build_once("fp32"), dataset.splits["gate"].texts[:64]
    expected = np.array([prediction.scores for prediction in Predictor(artifact, 1).predict(texts)])
    with open_worker(name, ours=False) as worker:
        worker.ask("hold", texts=texts)
        place = {"folder": str(prepared.folders[name]), "max_length": checkpoint.meta.max_length}
        started = worker.ask("load_baseline", baseline=name, threads=1, first_text=texts[0], **place)
        assert started["threads"] == 1
        assert started["warmed_shapes"] == 0
        raw = np.array(worker.ask("score", start=0, stop=64))
        scores = calibrated({"gate": raw}, checkpoint.meta.temperature)["gate"]
        assert np.abs(scores - expected).max() < (1e-4 if name in (PIPELINE, "ort-fp32") else 0.2)
        assert min(worker.ask("together", start=0, stop=32)["times_ms"]) > 0
        assert len(worker.ask("single", start=0, stop=2)["times_ms"]) == 2
        assert min(worker.ask("shape", batch=2, tokens=8)["times_ms"]) > 0
        assert len(worker.ask("tokenise", start=0, stop=2)["times_ms"]) == 2


@pytest.mark.slow
def test_what_was_prepared_is_kept_for_the_next_run(
    checkpoint, dataset, prepared, baselines_folder, capsys
) -> None:
    again = prepare_baselines(checkpoint, dataset.splits["train"].texts, baselines_folder, has_cuda())
    assert again == prepared
    assert "preparing" not in capsys.readouterr().err
    assert prepared.bytes("ort-int8") < prepared.bytes(PIPELINE)


@pytest.mark.parametrize("changed", ["weights", "calibration texts", "versions"])
def test_another_checkpoint_or_recipe_is_prepared_again(changed: str, checkpoint, tmp_path) -> None:
    baseline, texts, versions = BASELINES["ort-int8"], ["a text"], {"onnxruntime": "1"}
    before = preparation._key(baseline, checkpoint, texts, versions)
    if changed == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"other weights")
        checkpoint = replace(checkpoint, folder=tmp_path)
    elif changed == "calibration texts":
        texts = ["another text"]
    else:
        versions = {"onnxruntime": "2"}
    assert preparation._key(baseline, checkpoint, texts, versions) != before


def test_a_baseline_whose_package_is_missing_is_left_out_with_a_sentence(
    checkpoint, dataset, baselines_folder, monkeypatch, capsys
) -> None:
    lacking = replace(BASELINES["ort-int8"], requires=("no-such-package",))
    monkeypatch.setattr(preparation, "BASELINES", {PIPELINE: BASELINES[PIPELINE], "ort-int8": lacking})
    found = prepare_baselines(checkpoint, dataset.splits["train"].texts, baselines_folder)
    assert list(found.folders) == [PIPELINE]
    assert found.left_out["ort-int8"] == "no-such-package not installed: pip install no-such-package"
    assert "ort-int8 is left out: no-such-package" in capsys.readouterr().err


def test_optimum_is_left_out_with_a_sentence_where_the_model_has_a_head_of_ours(
    checkpoint, monkeypatch, tmp_path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "pooled-classifier"}')
    by_optimum = {name: BASELINES[name] for name in ("ort-fp32", "ort-int8")}
    monkeypatch.setattr(preparation, "BASELINES", by_optimum)
    found = prepare_baselines(replace(checkpoint, folder=tmp_path), ["a text"], tmp_path / "cache")
    assert set(found.left_out) == set(by_optimum)
    assert "a head of this project" in found.left_out["ort-int8"]
    assert not found.failures


def test_a_preparation_that_crashes_costs_that_baseline_alone_and_leaves_nothing_half(
    checkpoint, monkeypatch, tmp_path
) -> None:
    @contextmanager
    def crashing(name: str, ours: bool):
        raise WorkerError("its process ended with signal SIGKILL")
        yield

    monkeypatch.setattr(preparation, "open_worker", crashing)
    found = prepare_baselines(checkpoint, ["a text"] * CALIBRATION_TEXTS, tmp_path)
    assert list(found.folders) == [PIPELINE]
    assert found.failures["ort-int8"].stage == "preparation"
    assert "SIGKILL" in found.failures["ort-int8"].message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_baseline_that_crashes_is_a_row_that_says_so(tmp_path) -> None:
    with open_pool([REFERENCE], ["ort-int8"]) as pool:
        place = {"folder": str(tmp_path / "none"), "max_length": 8}
        assert (
            pool.ask("ort-int8", "load_baseline", baseline="ort-int8", threads=1, first_text="a", **place)
            is None
        )
        assert pool.names == [REFERENCE]
    row = baseline_row(
        BASELINES["ort-int8"], None, {"seconds": 1.0, "versions": {}}, None, pool.failures["ort-int8"]
    )
    assert row.status == "failed"
    assert row.error.stage == "start"
    assert row.error.message


def test_a_baselines_process_has_none_of_our_settings(monkeypatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    for ours in (True, False):
        with open_worker("a", ours=ours) as worker:
            worker.ask("peak")  # once it answers, its environment is its own
            environment = Path(f"/proc/{worker.process.pid}/environ").read_bytes()
            assert (b"OMP_WAIT_POLICY" in environment) == ours
            assert (b"TOKENIZERS_PARALLELISM=true" in environment) != ours
    program = (
        "import sys; from benchmarks.baselines import in_process; from benchmarks.ceilings import gemms; "
        "from benchmarks.in_process import worker; "
        "assert not [name for name in sys.modules if name.split('.')[0] == 'handler']"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_extras_take_turns_but_are_no_variants() -> None:
    with open_pool([REFERENCE], [PIPELINE, GEMM_BOUND]) as pool:
        assert pool.variants == [REFERENCE]
        assert pool.baselines == [PIPELINE]
        assert {PIPELINE, GEMM_BOUND} <= set(pool.names)
        assert pool.rows == [REFERENCE, PIPELINE]
        pool.workers[PIPELINE].process.kill()
        assert pool.ask(PIPELINE, "peak") is None
        assert pool.baselines == []
