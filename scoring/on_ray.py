"""Scores the parts of a job with Ray Data: an actor per worker, on this machine or on a cluster.

Ray bounds how many parts wait (back-pressure), restarts an actor that died and gives its part to another. A
part that is scored twice is written twice, to the same name with the same content.
"""

import logging
import os
import secrets
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import common
import handler
import scoring
from handler.artifact import DESCRIPTION, open_artifact
from handler.errors import UnsupportedError, UserError
from handler.predictor import Predictor
from handler.self_check import Tolerance
from scoring.job import Engine, Job, Scored, score_part
from scoring.plan import Part

# What is sent to workers is the plan and the artifact; texts are read, and parts written, where the worker
# runs: input and output must be on an object store or a shared disk where workers are other machines.

TOKEN_BYTES = 32
RETRIES = 3  # of a part whose worker died, or could not read or write; beyond, the part itself is at fault


def on_ray(address: str | None, workers: int, threads: int, tolerance: Tolerance | None = None) -> Engine:
    """The engine of `workers` actors with `threads` CPUs each, on the cluster at `address`, or on a Ray of
    this machine alone, which starts and ends with the job. Each actor's self-check has the same `tolerance`.

    Ray's ports are open on every address of the machine, whatever its settings; who reaches them and has its
    token runs code. For its own Ray each job makes a new token; for a cluster the environment says which.
    """
    if address is None:  # read as Ray is imported
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(TOKEN_BYTES))
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of what is as it should be
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it tells its makers of each cluster
    try:
        import ray
    except ImportError as error:
        raise UnsupportedError(
            "Ray is not installed", remedy="Install it: .venv/bin/pip install 'ray[data]==2.60.*'"
        ) from error

    return partial(_scored, ray, address, workers, threads, tolerance or Tolerance.of())


def _scored(
    ray: Any,
    address: str | None,
    workers: int,
    threads: int,
    tolerance: Tolerance,
    job: Job,
    parts: list[Part],
) -> Iterator[Scored]:
    if not parts:
        return
    try:
        _start(ray, address, workers * threads, job.artifact.bytes)
    except (ConnectionError, ValueError) as error:
        raise UserError("cannot connect to Ray", seen=error, remedy="Check --address") from error
    try:
        paths = (DESCRIPTION, *job.artifact.meta.files)
        files = {path: (job.artifact.folder / path).read_bytes() for path in paths}
        shared = ray.put((job, files))
        rows = ray.data.from_items([part.number for part in parts], override_num_blocks=len(parts))
        done = rows.map_batches(
            _Worker,
            fn_constructor_args=([shared], threads, tolerance),
            batch_size=1,
            batch_format="numpy",
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(size=workers),
            ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
        )
        for row in done.iter_rows():
            yield Scored(row["number"], row["rows"], row["rejected"])
    except ray.exceptions.RayError as error:
        raise UserError(
            "Ray could not score a part; finished parts are kept",
            seen=str(error).strip().rpartition("\n")[2],
            remedy="Fix the cause, and run the same command again",
        ) from error
    finally:
        ray.shutdown()


class _Worker:
    """An actor: the artifact from Ray's object store onto this worker's disk, loaded once."""

    def __init__(self, shared: Any, threads: int, tolerance: Tolerance) -> None:
        import ray

        job, files = ray.get(shared[0])
        self.folder = tempfile.TemporaryDirectory(prefix="artifact-")
        for path, content in files.items():
            place = Path(self.folder.name) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        artifact = open_artifact(self.folder.name)
        self.job = replace(job, artifact=artifact)
        self.predictor = Predictor(artifact, threads, tolerance=tolerance)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = [
            score_part(self.job, self.job.plan.parts[number], self.predictor) for number in batch["item"]
        ]
        return {name: [getattr(part, name) for part in found] for name in ("number", "rows", "rejected")}


def _start(ray: Any, address: str | None, cpus: int, artifact_bytes: int) -> None:
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    store = max(256 << 20, 2 * artifact_bytes)  # it holds the artifact, and no texts
    if address:
        # Workers elsewhere lack these packages.
        modules = [package.__path__[0] for package in (common, handler, scoring)]
        ray.init(address, runtime_env={"py_modules": modules}, **quiet)
    else:
        ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=store, **quiet)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*ray_remote_args_fn")
    context.actor_task_retry_on_errors = [OSError]
