"""Who takes part in a comparison of servers: ours first, then those that others would pick.

With a model that costs nothing, ours load the artifact as usual and then do not ask it.
"""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.baselines.handlers.served_model import CONSTANT, PIPELINE, PREDICTOR
from benchmarks.baselines.public_servers import (
    APPS,
    HANDLERS,
    PUBLIC_SERVERS,
    environment_of,
    serve_public,
)
from benchmarks.baselines.servers import BASELINE_SERVERS
from benchmarks.names import APP, FASTAPI
from benchmarks.served.run import Running, as_bodies, serve, serve_app

TORCHSERVE = "torchserve"  # this project's archive


@dataclass(frozen=True)
class Entry:
    """A server that takes part, or `lacks` why not; `made_of` is the model of `served_model` whose labels it
    gives, and its folder."""

    name: str
    summary: str
    made_of: tuple[str, Path]
    serve: Callable[[], AbstractContextManager[Running]]
    documentation: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    lacks: str | None = None
    bodies: Callable[[Sequence[str]], list[bytes]] = as_bodies
    answer: Callable[[Any], Any] = lambda answer: answer


def entries(
    model: str, archive: Path, artifact: Path, checkpoint: Path, baselines: Path, names: Sequence[str]
) -> list[Entry]:
    """Ours on `archive`, whose `artifact` is unpacked, then those of `names` with the pipeline, the same
    artifact or a constant; of the pipeline FastAPI too, as in every run."""
    kind = model if model in (PIPELINE, CONSTANT) else PREDICTOR
    made_of = kind, checkpoint if kind == PIPELINE else artifact
    of_ours = CONSTANT if kind == CONSTANT else PREDICTOR, artifact
    if kind == CONSTANT:
        archive = free_archive(archive, artifact.parent)
    app = serve_free_app if kind == CONSTANT else serve_app
    found = [
        Entry(TORCHSERVE, "this project's archive in TorchServe", of_ours, partial(serve, archive)),
        Entry(APP, "this project's app on the same archive", of_ours, partial(app, archive)),
    ]
    if kind == PIPELINE:
        fastapi = BASELINE_SERVERS[FASTAPI]
        serve_it = partial(fastapi.serve, checkpoint)
        found.append(Entry(FASTAPI, fastapi.summary, made_of, serve_it, fastapi.documentation))
    for name in names:
        server = PUBLIC_SERVERS[name]
        installed = environment_of(server, baselines)
        found.append(
            Entry(
                name,
                server.summary,
                made_of,
                partial(serve_public, server, installed, *made_of),
                server.documentation,
                installed.versions,
                installed.lacks,
                server.bodies,
                server.answer,
            )
        )
    return found


def free_archive(archive: Path, folder: Path) -> Path:
    """The same archive, whose model costs nothing."""
    made = folder / "free.mar"
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(made, "w") as after:
        for entry in before.infolist():
            content = before.read(entry)
            if entry.filename == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content)
                manifest["model"]["handler"] = "free_handler.py"
                content = json.dumps(manifest).encode()
            after.writestr(entry, content)
        for name in ("free_handler.py", "free_predictor.py"):
            after.write(HANDLERS / name, name)
    return made


def serve_free_app(archive: Path) -> AbstractContextManager[Running]:
    return serve_app(archive, f"{APPS}.free_app")
