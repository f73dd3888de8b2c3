"""Several processes train what one trains; a run that is killed at any moment ends as it would have."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handler.artifact import file_sha256
from tests.conftest import ROOT, ran, refused

TINY = ("--data", "demo", "--base", "random:tiny", "--learning-rate", "2e-3", "--no-test")


def losses(folder: Path) -> tuple[list[float], list[float]]:
    """Loss and norm of the gradient at every step, as TensorBoard has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "runs" / "tensorboard" / "run"))
    events.Reload()
    return tuple([each.value for each in events.Scalars(f"train/{name}")] for name in ("loss", "grad_norm"))


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    recipe = ("--epochs", "0.1", "--dropout", "0", "--precision", "fp32", "--run-name", "run")
    recipe += ("--learning-rate", "1e-5")  # or Adam turns rounding into other weights
    ran("training", *TINY, *recipe, "--output", tmp_path / "one" / "checkpoint")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "training"]
    command += [*TINY, *recipe, "--output", tmp_path / "two" / "checkpoint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("fine-tuning random:tiny") == 1, "one of them speaks"
    assert json.loads(done.stdout)["labels"] == ["not-hate", "hate"], "and one prints"
    (one_loss, one_norm), (two_loss, two_norm) = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one_loss) == len(two_loss) == 13
    assert two_norm == pytest.approx(one_norm, abs=2e-4), "each gradient is the whole batch's, up to rounding"
    assert two_loss == pytest.approx(one_loss, abs=2e-4)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refused("training", *TINY, "--batch-size", 7, "--output", tmp_path / "checkpoint")
    assert "cannot share a batch" in said


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path: Path) -> None:
    """One step over all texts, so that it does not matter which of them stand in a batch together."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [
        f"a {('good', 'bad')[number % 2]} text {number},{number % 2}" for number in range(80)
    ]  # 64 and the gate's 16
    (folder / "train.csv").write_text("\n".join(["text,label", *lines]))
    (folder / "validation.csv").write_text("text,label\na good one,0\na bad one,1\n")
    recipe = (
        "--data",
        f"csv:{folder}",
        "--base",
        "random:tiny",
        "--epochs",
        1,
        "--no-test",
        "--run-name",
        "run",
    )
    recipe += ("--dropout", 0, "--precision", "fp32")
    for name, cut in (("whole", (64, 1)), ("parts", (16, 4))):
        sizes = ("--batch-size", cut[0], "--accumulation", cut[1], "--gradient-checkpointing")
        ran("training", *recipe, *sizes, "--output", tmp_path / name / "checkpoint")
    (_, whole), (_, parts) = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) == len(parts) == 1
    assert parts[0] == pytest.approx(whole[0], rel=0.02), "not a quarter of it, and not four times as much"


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_one_that_was_not(small_jsonl: Path, tmp_path: Path) -> None:
    recipe = ("--data", f"jsonl:{small_jsonl}", "--batch-size", "4", "--epochs", "2")
    recipe += ("--threads", "1", "--track", "none")
    done = ran("training", *TINY, *recipe, "--output", tmp_path / "whole")
    command = [sys.executable, "-m", "training", *TINY, *recipe, "--output", str(tmp_path / "parts")]
    command += ["--save-minutes", "0.005"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "parts-state" / "none"
    while not any(_step(path.parent) > 5 for path in state.glob("checkpoint-*/complete")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = ran("training", *TINY, *recipe, "--resume", "--output", tmp_path / "parts")
    (resumed,) = [line for line in done.stderr.splitlines() if line.startswith("resuming after step")]
    assert 0 < int(resumed.rpartition(" ")[2]) < 90, "in the middle of an epoch, or at the end of the first"
    weights = [file_sha256(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_a_step_can_be_profiled(tmp_path: Path) -> None:
    recipe = ("--epochs", "0.1", "--profile", "--run-name", "run", "--track", "none")
    done = ran("training", *TINY, *recipe, "--output", tmp_path / "checkpoint")
    assert "aten::" in done.stderr
    assert json.loads((tmp_path / "runs" / "run.trace.json").read_text())["traceEvents"]


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
