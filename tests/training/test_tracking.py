"""Runs as TensorBoard, MLflow and Weights & Biases see them, and compared; a search for the best."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, ran, refused, run_stage
from training import command, search, tracking
from training import options as settings
from training.__main__ import PROGRAM

TINY = ("--data", "demo", "--base", "random:tiny", "--learning-rate", "2e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one of half an epoch, and a better one of one epoch after the head's half."""
    folder = tmp_path_factory.mktemp("runs")
    for name, recipe in (("a", ("--epochs", 0.5)), ("b", ("--epochs", 1, "--head-epochs", 0.5))):
        ran(
            "training",
            *TINY,
            *recipe,
            *(
                "--track",
                f"tensorboard,mlflow{',wandb' * (name == 'b')}",
                "--track-folder",
                folder / "tracks",
            ),
            *("--run-name", name, "--output", folder / name),
        )
    return folder


def recorded(folder: Path, name: str) -> dict:
    return json.loads((folder / name / "checkpoint.json").read_text())


@pytest.mark.slow
def test_tensorboard_shows_the_loss_and_the_figures(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tracks" / "tensorboard" / "b"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/learning_rate", "validation/macro_f1", "final/test/macro_f1"} <= set(tags)
    steps = [event.step for event in events.Scalars("validation/macro_f1")]
    assert steps == [63, 63 + 125], "the phases stand one after the other"
    (final,) = events.Scalars("final/test/macro_f1")
    assert final.value == pytest.approx(recorded(folder, "b")["metrics"]["test"]["macro_f1"])


@pytest.mark.slow
def test_mlflow_has_settings_figures_and_the_best_version(folder: Path) -> None:
    import mlflow

    address = f"sqlite:///{folder / 'tracks' / 'mlflow' / 'mlflow.db'}"
    client = mlflow.MlflowClient(address, address)
    experiment = client.get_experiment_by_name("demo")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in found.items()} == {"a": "FINISHED", "b": "FINISHED"}
    assert found["b"].data.params["learning_rate"] == "0.002"
    (given,) = found["b"].inputs.dataset_inputs
    assert recorded(folder, "b")["data"]["sha256"].startswith(given.dataset.digest)
    figures = {name: recorded(folder, name)["metrics"]["validation"]["macro_f1"] for name in ("a", "b")}
    assert found["a"].data.metrics["final/validation/macro_f1"] == pytest.approx(figures["a"])
    assert len(client.search_model_versions("name='demo'")) == 2
    best = client.get_model_version_by_alias("demo", "best")
    assert best.run_id == found[max(figures, key=lambda name: figures[name])].info.run_id
    kept = Path(best.source.removeprefix("file://"))
    assert (kept / "model.safetensors").is_file()


@pytest.mark.slow
def test_weights_and_biases_keeps_its_files_here(folder: Path) -> None:
    """Read by their own viewer, which is no Python."""
    (path,) = (folder / "tracks" / "wandb").glob("offline-run-*/*.wandb")
    command_line = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(path)]
    shown = json.loads(subprocess.run(command_line, capture_output=True, check=True).stdout)
    assert shown["name"] == "b"
    assert shown["config"]["learning_rate"] == 0.002
    figure = recorded(folder, "b")["metrics"]["validation"]["macro_f1"]
    assert shown["summary"]["final/validation/macro_f1"] == pytest.approx(figure)


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_as_failed(folder: Path) -> None:
    import mlflow

    place = folder / "tracks"
    with contextlib.suppress(KeyboardInterrupt), tracking.tracked(["mlflow"], "x", place, "tests", {}):
        raise KeyboardInterrupt
    address = f"sqlite:///{place / 'mlflow' / 'mlflow.db'}"
    client = mlflow.MlflowClient(address, address)
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.status == "FAILED"


def test_the_flag_knows_every_tracker() -> None:
    assert set(command.TRACKERS) == set(tracking.TRACKERS)
    with pytest.raises(SystemExit):
        PROGRAM.parser("train").parse_args(["--track", "nonsense"])
    assert PROGRAM.parser("train").parse_args(["--track", "none"]).track == ()


@pytest.mark.slow
def test_runs_are_compared_by_what_tells_them_apart(folder: Path) -> None:
    done = ran("training", "runs", folder)
    rows = json.loads(done.stdout)["runs"]
    assert sorted(Path(row["run"]).name for row in rows) == ["a", "b"], "copies are no runs"
    figures = [row["figures"]["validation"]["macro_f1"] for row in rows]
    assert figures == sorted(figures, reverse=True)
    header = done.stderr.splitlines()[0].split()
    assert {"epochs", "head_epochs"} <= set(header)
    assert "learning_rate" not in header
    assert "learning_rate 0.002" in done.stderr


def test_a_folder_without_runs_is_said(tmp_path: Path) -> None:
    assert "no runs were found" in refused("training", "runs", tmp_path)


SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "freeze": ["none", "embeddings"]}


def search_for(folder: Path, trials: int, *more: object, space: dict | None = None):
    (folder / "space.yaml").write_text(yaml.safe_dump(space or SPACE))
    place = ("--space", folder / "space.yaml", "--output", folder / "search", "--trials", trials)
    return run_stage("training", "search", *TINY, "--epochs", 0.25, *place, *more)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_and_ends_with_a_recipe_and_a_picture(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    place = ("--space", tmp_path / "space.yaml", "--output", tmp_path / "search", "--trials", "3")
    command_line = [sys.executable, "-m", "training", "search", *TINY, "--epochs", "0.25", *place]
    process = subprocess.Popen(command_line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert any(line.startswith("trial 1:") for line in process.stderr), "the first is done, the second runs"
    process.kill()
    process.wait()
    done = search_for(tmp_path, 3)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 trials are done already" in done.stderr
    found = json.loads(done.stdout)
    assert len(found["trials"]) == 3
    assert found["macro_f1"] == max(trial["validation macro-F1"] for trial in found["trials"])
    for name in ("search.png", "history.png"):
        assert (tmp_path / "search" / name).read_bytes().startswith(b"\x89PNG")
    options = PROGRAM.parser("train").parse_args(["--config", found["config"]])
    assert settings.recipe(options).learning_rate == pytest.approx(found["best"]["learning_rate"])
    other = search_for(tmp_path, 3, "--batch-size", 16)
    assert other.returncode == 2
    assert "holds a different search: different recipe" in other.stderr


def test_parts_of_epochs_stay_parts(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("epochs: {low: 0.5, high: 2.5}\nbatch-size: [8, 16]\n")
    space = search.read_space(tmp_path / "space.yaml")
    assert (space["epochs"].low, space["epochs"].high) == (0.5, 2.5)
    assert space["batch_size"].choices == (8, 16)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"learning-rat": [1]}, "varies an unknown setting: learning-rat"),
        ({"seed": [1, 2]}, "varies an unknown setting: seed"),
        ({"epochs": 3}, "neither choices nor a range"),
        ({"epochs": {"low": 1}}, "neither choices nor a range"),
        ({"epochs": {"low": "one", "high": 2}}, "invalid values"),
        ({"epochs": {"low": 2, "high": 1}}, "invalid values"),
        ({"freeze": ["nonsense"]}, "choose from none, embeddings, encoder"),
        ({"freeze": {"low": "none", "high": "encoder"}}, "not a number"),
        ({"batch_size": ["many"]}, "invalid values"),
        ({"learning_rate": [None]}, "invalid values"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "invalid values"),
        ({"soft_targets": ["yes"]}, "true or false"),
    ],
)
def test_a_space_that_says_nothing_is_refused(space: dict, expected: str, tmp_path: Path) -> None:
    done = search_for(tmp_path, 1, space=space)
    assert done.returncode == 2
    assert expected in done.stderr


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text("{}")
    assert "not a valid record of a run" in refused("training", "runs", tmp_path)
