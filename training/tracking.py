"""Track a run: loss, learning rate and validation figures in TensorBoard, MLflow or Weights & Biases.

Each of them gets the settings, the figures of every logged step, and at the end the final figures and the
checkpoint. Nothing leaves this machine unless the user sets the tools' own variables:
MLFLOW_TRACKING_URI (else a database next to the runs), WANDB_MODE=online (else offline).
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback

from common.commands import say
from common.environment import commit
from handler.errors import UnsupportedError, UserError, first_line

# Their telemetry is off, and no text is ever sent. A tool that fails is dropped; the run goes on.

WITHOUT = "Fix that, or leave it out of --track"
BEST = "best"  # MLflow's alias of the registered version with the highest validation macro-F1
METRIC, DATA = "validation/macro_f1", "data_sha256"
# What the Trainer adds of its own speed and sums: of no use next to the curves.
LEFT_OUT = re.compile(r"total_flos|train_\w+|eval_(runtime|\w+_per_second)")


class Tracker(Protocol):
    """One tool's view of one run."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Figures after `step` optimiser steps."""

    def finish(self, figures: Mapping[str, float], checkpoint: Path | None) -> None:
        """The run ends: with final figures and a checkpoint, or, where it failed, with neither."""


class TensorBoard:
    """Event files in `folder/tensorboard/<run>`: `tensorboard --logdir build/runs/tensorboard`."""

    def __init__(self, run: str, folder: Path, experiment: str, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.settings = {name: value for name, value in settings.items() if not isinstance(value, list)}
        self.writer = SummaryWriter(str(folder / "tensorboard" / run))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, figures: Mapping[str, float], checkpoint: Path | None) -> None:
        if checkpoint is not None:
            final = {f"final/{name}": value for name, value in figures.items()}
            self.writer.add_hparams(self.settings, final, run_name=".")
        self.writer.close()


class MLflow:
    """A run of an experiment; its checkpoint is registered under the experiment's name, and the best version
    by validation macro-F1, on the same data, bears the alias `best`."""

    def __init__(self, run: str, folder: Path, experiment: str, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        (folder / "mlflow").mkdir(parents=True, exist_ok=True)
        own = f"sqlite:///{(folder / 'mlflow' / 'mlflow.db').absolute()}"
        address = os.environ.get("MLFLOW_TRACKING_URI") or own
        self.name = experiment
        self.data = str(settings.get(DATA))
        self.client = mlflow.MlflowClient(address, address)
        known = self.client.get_experiment_by_name(experiment)
        place = (folder / "mlflow" / "artifacts").absolute().as_uri() if address == own else None
        number = known.experiment_id if known else self.client.create_experiment(experiment, place)
        tags = {"mlflow.source.name": "python -m training", "mlflow.source.git.commit": commit() or "none"}
        self.run = self.client.create_run(number, tags=tags, run_name=run)
        self.id = self.run.info.run_id
        data = mlflow.entities.Dataset(str(settings.get("data")), self.data[:36], "local", "{}")
        self.client.log_inputs(self.id, [mlflow.entities.DatasetInput(data)])
        for name, value in settings.items():
            self.client.log_param(self.id, name, value)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.client.log_metric(self.id, name, value, step=step)

    def finish(self, figures: Mapping[str, float], checkpoint: Path | None) -> None:
        if checkpoint is None:
            self.client.set_terminated(self.id, "FAILED")
            return
        for name, value in figures.items():
            self.client.log_metric(self.id, f"final/{name}", value)
        self.client.log_artifacts(self.id, str(checkpoint), "checkpoint")
        self.client.set_terminated(self.id)
        self._register(figures.get(METRIC, 0.0))

    def _register(self, figure: float) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        place = f"{self.run.info.artifact_uri}/checkpoint"
        tags = {METRIC: str(figure), DATA: self.data}
        version = self.client.create_model_version(self.name, place, self.id, tags=tags)
        try:
            best = self.client.get_model_version_by_alias(self.name, BEST)
        except MlflowException:
            best = None
        # Figures on other data say nothing: there, the newer one is the best.
        if best is None or best.tags.get(DATA) != self.data or figure > float(best.tags.get(METRIC, 0)):
            self.client.set_registered_model_alias(self.name, BEST, version.version)


class WeightsAndBiases:
    """A run of a project, in files of `folder/wandb` until `wandb sync` or WANDB_MODE=online."""

    def __init__(self, run: str, folder: Path, experiment: str, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=experiment,
            name=run,
            dir=str(folder),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE") or "offline",  # type: ignore[arg-type] # it checks the word itself
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def finish(self, figures: Mapping[str, float], checkpoint: Path | None) -> None:
        self.run.summary.update({f"final/{name}": value for name, value in figures.items()})
        self.run.finish(exit_code=0 if checkpoint else 1)


TRACKERS: dict[str, Callable[[str, Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


@contextmanager
def tracked(
    names: Sequence[str], run: str, folder: Path, experiment: str, settings: Mapping[str, Any]
) -> Iterator["Run"]:
    """A run in each of the tools `names`; one that ends without `finish` has failed."""
    found = Run([])
    try:
        for name in names:
            try:
                found.trackers.append(TRACKERS[name](run, folder, experiment, settings))
            except ImportError as error:
                remedy = "Install it, or leave it out of --track"
                raise UnsupportedError(f"{name} is not installed", seen=error.name, remedy=remedy) from error
            except Exception as error:
                what = f"{name} cannot record the run"
                raise UserError(what, seen=first_line(error), remedy=WITHOUT) from error
        yield found
    finally:
        found.tell(lambda tracker: tracker.finish(found.figures, found.checkpoint))


class Run(TrainerCallback):
    """What is told to all trackers of a run."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers
        self.figures: dict[str, float] = {}
        self.checkpoint: Path | None = None
        self.before = self.last = 0  # steps of the phases before, and of this one

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.before, self.last = self.before + self.last, 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.last = state.global_step
        figures = {
            _name(name): float(value)
            for name, value in (logs or {}).items()
            if isinstance(value, int | float) and not LEFT_OUT.fullmatch(name)
        }
        self.tell(lambda tracker: tracker.log(figures, self.before + self.last))

    def tell(self, what: Callable[[Tracker], None]) -> None:
        """Tell all trackers. One that fails is dropped, so that no training is lost over its tracking."""
        for tracker in list(self.trackers):
            try:
                what(tracker)
            except Exception as error:
                self.trackers.remove(tracker)
                say(f"{type(tracker).__name__} failed and is no longer used: {first_line(error)}")

    def finish(self, metrics: Mapping[str, Mapping[str, Any]], checkpoint: Path) -> None:
        """The final figures of all splits, and where the checkpoint is."""
        self.figures = {
            f"{split.replace(':', '.')}/{name}": float(value)
            for split, figures in metrics.items()
            for name, value in figures.items()
            if isinstance(value, int | float)
        }
        self.checkpoint = checkpoint


def _name(name: str) -> str:
    return f"validation/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
