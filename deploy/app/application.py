"""Serving without TorchServe: the archive's Predictor, Service and requests behind FastAPI and uvicorn.

One process serves one model, at the archive's paths and at `/predict`, with an OpenAPI page at `/docs` and
the archive's counters at `/metrics`. Answers are the same as the archive's byte for byte; tests check this.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from common.commands import say
from common.torchserve import model_config
from deploy.app import counters, openapi
from deploy.app.batcher import LOADING, STOPPING, Batcher, Batching
from deploy.app.connections import KEEP_ALIVE_S, Admission, Bounds, Connection, Seldom
from deploy.app.request_bodies import MOST_HELD, Held, Memory, is_form, read_body, read_form
from deploy.app.shadow import Shadow
from handler import answers
from handler.artifact import Artifact, archive_manifest, certificate_of, open_artifact, unpacked
from handler.errors import Rejection, refusals
from handler.metrics import Tally
from handler.predictor import Predictor
from handler.replies import Arrival, Reply, as_json, failure, refuse, report
from handler.requests import Limits
from handler.self_check import Tolerance
from handler.service import Service

STOP_S = 300  # for what was accepted to be answered: as long as a batch may take in an archive
BACKLOG = 1024  # connections that the kernel holds until they are taken
REFUSALS = (400, 408, 413, 415, 422, 500, 503)
LOOPBACK = ("127.", "::1")
PAGES = ("docs", "metrics", "description")  # what --without leaves out


@dataclass(frozen=True)
class Model:
    """What is served: an artifact, its name and version, and of its archive, if it has one, settings and
    certificate."""

    artifact: Artifact
    name: str = "hate"
    version: str = "1.0"
    settings: Mapping[str, Any] | None = None
    certificate: dict[str, Any] | None = None

    @classmethod
    def of_artifact(cls, folder: Path) -> "Model":
        """Raises `UserError` as `open_artifact` does."""
        return cls(open_artifact(folder))

    @classmethod
    def of_archive(cls, archive: Path, scratch: Path) -> "Model":
        """Unpacked below `scratch` and verified; raises `UserError` where it is none of this project's."""
        artifact = unpacked(archive, scratch)
        manifest = archive_manifest(archive)
        return cls(
            artifact,
            manifest["modelName"],
            manifest["modelVersion"],
            model_config(archive),
            certificate_of(artifact, scratch),
        )

    def batching(self, size: int | None, delay_s: float | None, queue_size: int | None) -> Batching:
        """As asked for, or as the archive says."""
        settings = self.settings or {}
        usual = Batching()
        return Batching(
            size or settings.get("batchSize", usual.size),
            settings.get("maxBatchDelay", 1000 * usual.delay_s) / 1000 if delay_s is None else delay_s,
            queue_size or settings.get("jobQueueSize", usual.queue_size),
        )

    def load(
        self,
        counted: counters.Counters,
        threads: int | None = None,
        explains: bool = True,
        flips: float | None = None,
        on_mismatch: str | None = None,
    ) -> Service:
        """Loaded, with every shape warmed. `flips` and `on_mismatch` are those of `Tolerance`; the archive's
        where they are None. Raises `UserError` where a runtime or a limit will not do, or where the
        self-check says so."""
        settings = (self.settings or {}).get("handler") or {}
        if not explains:
            settings = {**settings, "maxExplained": 0}
        limits = Limits.of(settings)
        tolerance = Tolerance.of(settings, flips, on_mismatch)
        predictor = Predictor(self.artifact, threads or settings.get("threads") or None, tolerance=tolerance)
        predictor.warm()
        named = answers.Model(name=self.name, version=self.version, variant=self.artifact.name)
        return Service(predictor, limits, named, Tally(counted, self.name), self.certificate)


def create_app(
    model: Model,
    batcher: Batcher,
    counted: counters.Counters,
    memory: Memory | None = None,
    without: Collection[str] = (),
    shadow: Shadow | None = None,
) -> FastAPI:
    """The routes, less those of `PAGES` in `without`; bodies lie in `memory`.

    `batcher.work` runs from the start of the app to its end, and so does that of the `shadow`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        working = [asyncio.create_task(each.work()) for each in (batcher, shadow) if each is not None]
        yield
        for task in working:
            task.cancel()
        await asyncio.wait(working)

    has_docs = "docs" not in without
    app = (
        FastAPIOffline if has_docs else FastAPI
    )(  # FastAPI's own page takes its script from others' servers
        redoc_url=None,
        title=f"{model.name} ({model.artifact.name})",
        version=model.version,
        summary="Texts in, calibrated scores out.",
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url="/openapi.json" if has_docs else None,
    )
    app.openapi = partial(_document, app)  # type: ignore[method-assign] # FastAPI's documented way
    app.add_exception_handler(HTTPException, _no_such_path)
    _add_questions(app, model, batcher, memory or Memory())
    _add_states(app, batcher)
    if "description" not in without:
        _add_description(app, model, batcher, shadow)
    if "metrics" not in without:
        _add_metrics(app, model, batcher, counted, shadow)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the shapes of requests and answers."""
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        app.openapi_schema = document | {"components": {"schemas": openapi.components()}}
    return app.openapi_schema


def _add_questions(app: FastAPI, model: Model, batcher: Batcher, memory: Memory) -> None:
    """The paths to classify and to explain."""

    async def predict(request: Request) -> Response:
        """Classify one text or many."""
        return await _ask(batcher, memory, request, explain=False)

    async def explain(request: Request) -> Response:
        """Classify, and show how much every token moved the score."""
        return await _ask(batcher, memory, request, explain=True)

    name, version = model.name, model.version
    paths: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/predict": predict,
        f"/predictions/{name}": predict,
        f"/predictions/{name}/{version}": predict,
        f"/v1/models/{name}:predict": predict,
        f"/v2/models/{name}/infer": predict,
        f"/explanations/{name}": explain,
        f"/v1/models/{name}:explain": explain,
    }
    for path, answer in paths.items():
        codes = (*REFUSALS, 403, 429) if answer is explain else REFUSALS
        described = {"requestBody": openapi.request_body()}
        shapes = openapi.responses(*sorted(codes))
        app.add_api_route(path, answer, methods=["POST"], responses=shapes, openapi_extra=described)
        app.add_api_route(path, answer, methods=["PUT"], include_in_schema=False)  # curl -T


def _add_states(app: FastAPI, batcher: Batcher) -> None:
    """The paths that tell whether to ask here."""

    async def ping() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "Healthy"}

    async def ready() -> Response:
        """Whether to send requests here: 503 until the model is warm, and while the server stops. It says so
        where the model is served although its self-check found other scores."""
        if batcher.service is not None and batcher.is_ready:
            return JSONResponse(
                {"status": "Ready", "self_check": batcher.service.predictor.self_check.status}
            )
        return _response(refuse(STOPPING if batcher.is_closing else LOADING))

    _add_get(app, "/ping", ping)
    _add_get(app, "/ready", ready)


def _add_description(app: FastAPI, model: Model, batcher: Batcher, shadow: Shadow | None) -> None:
    async def describe() -> Response:
        """The served artifact: its proof, check and certificate, its limits and threads, and its shadow."""
        if batcher.service is None:
            return _response(refuse(LOADING))
        beside = {"shadow": shadow.describe()} if shadow else {}
        return _response(Reply(200, as_json(batcher.service.describe() | beside)))

    _add_get(app, f"/models/{model.name}", describe)


def _add_metrics(
    app: FastAPI, model: Model, batcher: Batcher, counted: counters.Counters, shadow: Shadow | None
) -> None:
    async def metrics() -> Response:
        """The archive's counters, the number of waiting requests, and the shadow's flips, for Prometheus."""
        if batcher.service is not None:
            batcher.service.tally.emit()
        waiting = counters.gauge("classifier_waiting_requests", model.name, batcher.waiting)
        flips = shadow.metrics(model.name) if shadow else ""
        return Response(counted.text() + waiting + flips, media_type=counters.MEDIA_TYPE)

    _add_get(app, "/metrics", metrics)


def _add_get(app: FastAPI, path: str, answer: Callable[[], Awaitable[Any]]) -> None:
    app.add_api_route(path, answer, methods=["GET"])
    app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)  # health checks


async def _ask(batcher: Batcher, memory: Memory, request: Request, *, explain: bool) -> Response:
    try:
        with memory.hold() as held:
            arrival = batcher.refusal(explain) or await _arrival(request, held, explain)
            reply = refuse(arrival) if isinstance(arrival, Rejection) else await batcher.ask(arrival)
    except ClientDisconnect:  # there is no client to read an answer
        reply = refuse(Rejection(400, "body", "the body is not complete", "Send it again"))
    except Exception as error:  # uvicorn would log its message, which may quote a text
        report(error)
        reply = refuse(failure())
    return _response(reply, closes=held.is_given_up)


async def _arrival(request: Request, held: Held, explain: bool) -> Arrival | Rejection:
    body = await read_body(request, held)
    if isinstance(body, Rejection):
        return body
    content_type, encoding = (request.headers.get(name, "") for name in ("content-type", "content-encoding"))
    if encoding or not is_form(content_type):
        return Arrival({"body": body}, content_type, explain, content_encoding=encoding)
    fields = await asyncio.to_thread(read_form, body, content_type)
    return fields if isinstance(fields, Rejection) else Arrival(*fields, explain)


def _response(reply: Reply, *, closes: bool = False) -> Response:
    headers = {"Retry-After": "1"} if reply.status in (429, 503) else {}
    if closes:  # the rest of the body is not even read
        headers["Connection"] = "close"
    return Response(reply.body, reply.status, headers, media_type="application/json")


async def _no_such_path(request: Request, error: Exception) -> Response:
    """404 and 405 in the words of all other errors."""
    assert isinstance(error, HTTPException)
    message = "this path does not take this method" if error.status_code == 405 else "no such model or path"
    return _response(refuse(Rejection(error.status_code, "path", message, "See /docs")))


class AppServer(uvicorn.Server):
    """uvicorn, which ends when the model cannot be loaded, and is not ready for `drain_s` before it stops."""

    def __init__(
        self, app: FastAPI, batcher: Batcher, drain_s: float = 0, admission: Admission | None = None
    ) -> None:
        self._admission = admission or Admission(Bounds(), lambda code, field: None)
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(Connection, self._admission),  # type: ignore[arg-type] # a class or what makes one
                log_level="warning",
                proxy_headers=False,  # a client may claim any address
                access_log=False,  # query strings may hold texts
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
            )
        )
        self._batcher = batcher
        self._drain_s = drain_s
        logging.getLogger("uvicorn.error").addFilter(Seldom())

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeping = asyncio.create_task(self._admission.sweep_for_ever())

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to stop."""
        return await super().on_tick(counter) or self._batcher.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What comes while load balancers still learn of it is answered, and so is all that was accepted."""
        self._batcher.is_closing = True
        if self._batcher.failure is None:
            await asyncio.sleep(self._drain_s)
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. `UserError` where that cannot be had."""
    with refusals("cannot listen on this address", f"{host}:{port}", "Choose another --port"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)


@dataclass(frozen=True)
class Settings:
    """How it is served, apart from batches."""

    host: str = "127.0.0.1"
    port: int = 8080
    threads: int | None = None
    drain_s: float = 0
    bounds: Bounds = field(default_factory=Bounds)
    held_bytes: int = MOST_HELD
    without: tuple[str, ...] = ()
    explains: bool = True
    flips: float | None = None
    on_mismatch: str | None = None


def serve(model: Model, batching: Batching, settings: Settings, shadow: Shadow | None = None) -> None:
    """Answer until SIGTERM or Ctrl-C; `UserError` where the port is taken or the model cannot be loaded."""
    counted = counters.Counters()
    host = settings.host

    def load() -> Service:
        service = model.load(
            counted, settings.threads, settings.explains, settings.flips, settings.on_mismatch
        )
        say(str(service.predictor.self_check))
        service.observe = shadow.offer if shadow else None
        say(f'ready. Try it:\n  curl {address}/predict --json \'{{"text": "text to classify"}}\'')
        return service

    batcher = Batcher(load, batching)
    app = create_app(model, batcher, counted, Memory(settings.held_bytes), settings.without, shadow)

    def count(code: str, field: str) -> None:
        counted.add("classifier_rejected", 1, [model.name, code, field])

    server = AppServer(app, batcher, settings.drain_s, Admission(settings.bounds.within_files(), count))
    # uvicorn raises the signal that stopped it once more: its default would leave an unpacked archive behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listen(host, settings.port) as listening, suppress(KeyboardInterrupt):
        if not listening.getsockname()[0].startswith(LOOPBACK):
            say(f"there are no tokens, and {host} is open to others: anyone who reaches the port can use it")
        address = f"{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        server.run(sockets=[listening])
    if batcher.failure is not None:
        raise batcher.failure
