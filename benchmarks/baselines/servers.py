"""Servers that others would put the same checkpoint behind, started without this project's settings.

Their rows in a run come from the closed and open loops of every variant; what they compute is the baseline
`hf-pipeline`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import yaml

from benchmarks.baselines.handlers.served_model import PIPELINE
from benchmarks.baselines.preparation import why_left_out
from benchmarks.baselines.public_servers import PUBLIC_SERVERS, environment_of, serve_public
from benchmarks.in_process.pool import Failure
from benchmarks.in_process.worker import OURS
from benchmarks.names import EXAMPLE, FASTAPI, SUMMARIES
from benchmarks.profiles import OBJECTIVE_P99_MS, Profile
from benchmarks.progress import Step
from benchmarks.records import Baseline, Resources
from benchmarks.resume_log import ResumeLog
from benchmarks.rows import baseline_row
from benchmarks.served.run import Pass, Running, Served, as_bodies, launched, one_pass, serve
from common.commands import say
from common.environment import ROOT, installed, missing
from deploy.torchserve.server import free_ports
from handler.errors import UserError

FOLDER = Path(__file__).parent / "handlers"


@contextmanager
def example_server(checkpoint: Path) -> Iterator[Running]:
    """TorchServe with the example's handler, in the environment of a user without this project."""
    with tempfile.TemporaryDirectory(prefix="example-") as scratch:
        archive = baseline_archive(EXAMPLE, "example_handler.py", checkpoint, Path(scratch))
        kept = {name: os.environ.pop(name) for name in OURS if name in os.environ}
        try:
            with serve(archive) as running:
                os.environ.update(kept)
                yield running
        finally:
            os.environ.update(kept)


@contextmanager
def fastapi_server(checkpoint: Path) -> Iterator[Running]:
    """uvicorn with the FastAPI app, on a free port of loopback."""
    (port,) = free_ports(1)
    command = ["-m", "uvicorn", "--app-dir", str(FOLDER), "fastapi_app:app"]
    command += ["--port", str(port), "--log-level", "warning"]
    environment = {key: value for key, value in os.environ.items() if key not in OURS}
    environment["CHECKPOINT"] = str(checkpoint.resolve())
    with launched(command, port, "/ping", "/predictions", environment) as running:
        yield running


def baseline_archive(name: str, handler: str, extra: Path | None, folder: Path) -> Path:
    """An archive of `handlers/<handler>` by torch-model-archiver alone. `extra` is its checkpoint: beside it
    goes the package that reads models with a head of this project."""
    config = folder / "model-config.yaml"
    settings = {"minWorkers": 1, "maxWorkers": 1, "responseTimeout": 300, "startupTimeout": 300}
    settings |= {"batchSize": 32 if extra is None else 1, "maxBatchDelay": 1}
    config.write_text(yaml.safe_dump(settings))
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", name]
    command += ["--version", "1.0", "--handler", str(FOLDER / handler), "--export-path", str(folder)]
    command += ["--config-file", str(config), "--force"]
    if extra is not None:
        holder = folder / "extra"
        holder.mkdir(exist_ok=True)
        for link, target in (("checkpoint", extra.resolve()), ("handler", ROOT / "handler")):
            with suppress(FileExistsError):
                (holder / link).symlink_to(target, target_is_directory=True)
        command += ["--extra-files", str(holder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(folder)})
    if done.returncode:
        raise UserError("the archive could not be built", seen=done.stderr.strip()[-500:], remedy="Try again")
    return folder / f"{name}.mar"


@dataclass(frozen=True)
class BaselineServer:
    """`documentation` is where it says so, `requires` are packages, `serve(checkpoint)` starts it, `bodies`
    are its requests. Where it has its own environment, `versions` are those in there, and `unusable` says why
    it cannot be had."""

    name: str
    summary: str
    documentation: str
    requires: tuple[str, ...]
    serve: Callable[[Path], AbstractContextManager[Running]]
    bodies: Callable[[Sequence[str]], list[bytes]] = as_bodies
    versions: Mapping[str, str] = field(default_factory=dict)
    unusable: str | None = None

    def lacks(self) -> str | None:
        """Why it is left out; None where it takes part."""
        absent = missing(self.requires)
        return why_left_out(absent) if absent else self.unusable


BASELINE_SERVERS = {
    baseline.name: baseline
    for baseline in (
        BaselineServer(
            FASTAPI,
            SUMMARIES[FASTAPI],
            "https://fastapi.tiangolo.com/tutorial/body/",
            ("torch", "transformers", "fastapi", "uvicorn"),
            fastapi_server,
        ),
        BaselineServer(
            EXAMPLE,
            SUMMARIES[EXAMPLE],
            "https://github.com/pytorch/serve/tree/master/examples/Huggingface_Transformers",
            ("torch", "transformers", "torchserve", "torch-model-archiver"),
            example_server,
        ),
    )
}


def all_servers(baselines: Path) -> dict[str, BaselineServer]:
    """Those that every run has, and those with an environment below the folder of the baselines."""
    apart = {}
    for name, public in PUBLIC_SERVERS.items():
        installed = environment_of(public, baselines)
        apart[name] = BaselineServer(
            name,
            f"{public.summary}, around transformers' pipeline",
            public.documentation,
            (),
            partial(serve_public, public, installed, PIPELINE),
            public.bodies,
            installed.versions,
            installed.lacks,
        )
    return BASELINE_SERVERS | apart


def serve_baselines(
    servers: Mapping[str, BaselineServer],
    checkpoint: Path,
    texts: Sequence[str],
    profile: Profile,
    step: Step,
    resume_log: ResumeLog,
    objective_p99_ms: float = OBJECTIVE_P99_MS,
) -> list[Baseline]:
    """A row for each server: served as variants are, with half the time for arrivals that do not wait, since
    none is chosen by its p99; or why not. Steps are called `serving …`."""
    profile = replace(profile, open_s=profile.open_s / 2)
    entries = []
    for name, baseline in servers.items():
        bodies = baseline.bodies(texts)
        if why := baseline.lacks():
            say(f"{name} is left out: {why}")
            entries.append(server_row(baseline, Served(), objective_p99_ms))
            continue
        served = Served()
        for turn in range(profile.passes):
            with step(f"serving {name}"):
                if not served.error:
                    server = baseline.serve(checkpoint)
                    rates = served.rates
                    asked = partial(one_pass, server, (), bodies, {}, profile, rates, turn=turn)
                    served.add(resume_log.once(f"pass {turn} of {name}", asked, Pass))
        if served.error:
            say(f"{name}: {served.error}")
        entries.append(server_row(baseline, served, objective_p99_ms))
    return entries


def server_row(baseline: BaselineServer, served: Served, objective_p99_ms: float) -> Baseline:
    """The row of a baseline server, from what was measured of it, if anything."""
    findings = None
    if served.loads:
        findings = {
            "status": "measured",
            "error": None,
            "resources": Resources(server_ready_s=min(served.ready_s)),
            "served": served.record(),
            "open": served.open_record(objective_p99_ms),
            "saturation": served.saturation(),
            "served_error": served.error,
        }
    return baseline_row(
        baseline,
        findings,
        {"seconds": 0.0, "versions": {**installed(baseline.requires), **baseline.versions}},
        baseline.lacks(),
        Failure("serving", served.error) if served.error else None,
    )
