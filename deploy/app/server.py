"""uvicorn around the app: where it listens, how it starts, reloads and stops."""

import asyncio
import logging
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from common.commands import say
from deploy.app.application import create_app
from deploy.app.batcher import Batcher
from deploy.app.connections import KEEP_ALIVE_S, Admission, Bounds, Connection, Seldom
from deploy.app.counters import Counters
from deploy.app.keys import DENIED, Keys
from deploy.app.latency import Latencies
from deploy.app.logs import FORMATS, logging_as
from deploy.app.model import Model, Opened, Opener
from deploy.app.models import LOOK_S, Models, Served
from deploy.app.pages import metrics_page
from deploy.app.protocols.routes import rpc_server
from deploy.app.reload import Reloader, heed_hang_ups
from deploy.app.request_bodies import MOST_HELD, Memory
from deploy.app.role import Alone, Page, family_of
from deploy.app.shadow import Shadow
from deploy.app.timing import Watcher
from deploy.app.tls import Pair, SecureConnection
from deploy.app.traces import tracing
from handler.artifact import Artifact
from handler.errors import refusals
from handler.service import Service

if TYPE_CHECKING:  # it is of the extra grpc
    from deploy.app.protocols.rpc import RpcServer

STOP_S = 300  # for what was accepted to be answered: as long as a batch may take in an archive
BACKLOG = 1024  # connections that the kernel holds until they are taken
LOOPBACK = ("127.", "::1")
EXAMPLE = '{"text": "text to classify"}'


class AppServer(uvicorn.Server):
    """uvicorn, which ends when a model cannot be loaded, and is not ready for `drain_s` before it stops."""

    def __init__(
        self,
        app: FastAPI,
        models: Models,
        drain_s: float = 0,
        admission: Admission | None = None,
        reloader: Reloader | None = None,
        tls: ssl.SSLContext | None = None,
        rpc: "RpcServer | None" = None,
        role: Alone | None = None,
        page: Page = str,
    ) -> None:
        """`page` is what `role` shares with other workers."""
        self._admission = admission or Admission(Bounds(), lambda code, field: None)
        connection = (
            partial(SecureConnection, self._admission, tls) if tls else partial(Connection, self._admission)
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=connection,  # type: ignore[arg-type] # a class or what makes one
                log_level="warning",
                proxy_headers=False,  # a client may claim any address
                access_log=False,  # query strings may hold texts
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                backlog=BACKLOG,
            )
        )
        self._models = models
        self._drain_s = drain_s
        self._reloader = reloader
        self.rpc = rpc
        self._role = role or Alone()
        self._page = page
        self._beside: list[asyncio.Task[None]] = []
        self._reloading: asyncio.Task[None] | None = None
        self.is_hung_up = False
        logging.getLogger("uvicorn.error").addFilter(Seldom())

    def hang_up(self) -> None:
        """Stop, since the terminal has gone; for signal handlers."""
        self.should_exit = self.is_hung_up = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._role.waits and not await self._loaded():
            self.should_exit = True
            return
        await super().startup(sockets)
        shared = self._role.share(self._page)
        self._beside = [asyncio.create_task(work) for work in (self._admission.sweep_for_ever(), shared)]
        if self._reloader is not None:
            self._reloading = asyncio.create_task(self._reloader.work())
        if self.rpc is not None:
            await self.rpc.start()

    async def _loaded(self) -> bool:
        """Wait for the models; False where one cannot be loaded, or nobody wants them any more."""
        self._models.start()
        while self._models.refusal() and self._models.failure is None and not self.should_exit:
            await asyncio.sleep(LOOK_S)
        return self._models.refusal() is None and not self.should_exit

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to stop."""
        return await super().on_tick(counter) or self._models.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What comes while load balancers still learn of it is answered, and so is all that was accepted."""
        self._models.is_closing = True
        if self._models.failure is None:
            await asyncio.sleep(self._drain_s)
        if self._reloading is not None:
            self._reloading.cancel()
        if self.rpc is not None:
            await self.rpc.stop(STOP_S)
        await super().shutdown(sockets)
        self._role.counts(self._page())  # the last of them


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. `UserError` where that cannot be had."""
    with refusals("cannot listen on this address", f"{host}:{port}", "Choose another --port"):
        return socket.create_server((host, port), family=family_of(host), backlog=BACKLOG)


@dataclass(frozen=True)
class Beside:
    """The artifact of a shadow, the share of texts that it gets, and that of labels that may differ."""

    artifact: Artifact
    share: float
    max_flip: float


@dataclass(frozen=True)
class Settings:
    """How models are served. Of batches None is what their archives say."""

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
    batch_size: int | None = None
    batch_delay_s: float | None = None
    queue_size: int | None = None
    shadow: Beside | None = None
    watches: bool = False
    keys: Keys | None = None
    tls: Pair | None = None
    grpc_port: int | None = None
    cached: int | None = None
    p99_s: float | None = None  # to alert on; None: as certificates promise
    log_format: str = FORMATS[0]
    traces: str | None = None  # an endpoint; None: that of `traces.VARIABLES`, if any

    def open_to_others(self) -> str | None:
        """What others could do who reach the port, if it is not loopback's."""
        if self.keys is None:
            return (
                f"there are no --keys, and {self.host} is open to others: whoever reaches the port can use it"
            )
        if self.tls is None:
            return (
                f"there is no --tls-certificate: others can read keys and texts on their way to {self.host}"
            )
        return None


class Loading:
    """Puts models behind queues. They load one at a time: memory is needed for one more, and OpenVINO's core
    is made once."""

    def __init__(
        self, settings: Settings, counted: Counters, loaded: Callable[[Service], None], workers: int = 1
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._counted = counted
        self._loaded = loaded
        self._lock = threading.Lock()

    def serve(self, model: Model) -> Served:
        """Raises `UserError` where it and its shadow cannot be compared."""
        asked, beside = self._settings, self._settings.shadow
        shadow = Shadow(model.artifact, beside.artifact, beside.share, beside.max_flip) if beside else None
        batching = model.batching(asked.batch_size, asked.batch_delay_s, asked.queue_size)
        return Served(model, Batcher(partial(self._load, model, shadow), batching), shadow)

    def _load(self, model: Model, shadow: Shadow | None) -> Service:
        asked = self._settings
        with self._lock:
            service = model.load(
                self._counted,
                asked.threads,
                asked.explains,
                asked.flips,
                asked.on_mismatch,
                asked.cached,
                self._workers,
            )
            service.observe = shadow.offer if shadow else None
            self._loaded(service)
        return service


def serve(opened: Sequence[Opened], opener: Opener, settings: Settings, role: Alone | None = None) -> None:
    """Answer until SIGTERM or Ctrl-C; `UserError` where the port is taken or a model cannot be loaded."""
    with logging_as(settings.log_format) as requests, tracing(settings.traces) as traces:
        # Traces come first, since they say what a request's trace is.
        watchers = [each for each in (traces, requests) if each]
        _serve(opened, opener, settings, role or Alone(), watchers)


def _serve(
    opened: Sequence[Opened], opener: Opener, settings: Settings, role: Alone, watchers: Sequence[Watcher]
) -> None:
    counted, host = Counters(), settings.host
    tells = say if role.talks else _leave_out
    header = ' -H "Authorization: Bearer KEY"' if settings.keys else ""
    left = len(opened)

    def loaded(service: Service) -> None:
        nonlocal left
        left -= 1
        is_only = len(opened) == 1 and left == 0
        about = "" if is_only else f"{service.model['name']} {service.model['version']}: "
        tells(f"{about}{service.predictor.self_check}")
        if left == 0:
            tells(f"ready. Try it:\n  curl {address}/predict{header} --json '{EXAMPLE}'")
            role.ready()

    loading = Loading(settings, counted, loaded, role.workers)
    models = Models([loading.serve(each.model) for each in opened])
    reloader = Reloader(models, opened, opener, loading.serve, watches=settings.watches, turn=role.turn)
    latencies = Latencies(models, settings.p99_s)
    memory = Memory(settings.held_bytes)
    app = create_app(models, counted, memory, settings.without, settings.keys, latencies, watchers, role)

    def count(code: str, field: str) -> None:
        counted.add("classifier_rejected", 1, [models.first.model.name, code, field])

    admission = Admission(settings.bounds.within_files(), count)
    tls = settings.tls.context() if settings.tls else None
    page = partial(metrics_page, models, counted, latencies)
    rpc = _rpc_server(models, settings, count, (*watchers, latencies), shared=role.workers > 1)
    server = AppServer(app, models, settings.drain_s, admission, reloader, tls, rpc, role, page)
    # uvicorn raises the signal that stopped it once more: its default would leave an unpacked archive behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    heed_hang_ups(reloader.ask, server.hang_up)
    with role.socket() or listen(host, settings.port) as listening, suppress(KeyboardInterrupt):
        if not listening.getsockname()[0].startswith(LOOPBACK) and (warning := settings.open_to_others()):
            tells(warning)
        address = f"{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        address = f"https://{address}" if tls else address
        server.run(sockets=[listening])
    if models.failure is not None:
        raise models.failure
    if server.is_hung_up:
        sys.exit(128 + signal.SIGHUP)


def _rpc_server(
    models: Models,
    settings: Settings,
    count: Callable[[str, str], None],
    watchers: Sequence[Watcher],
    *,
    shared: bool,
) -> "RpcServer | None":
    if settings.grpc_port is None:
        return None
    denied = partial(count, str(DENIED.code), DENIED.field)
    host, port = settings.host, settings.grpc_port
    return rpc_server(models, settings.keys, settings.tls, denied, host, port, watchers, shared=shared)


def _leave_out(_: str) -> None:
    """Another worker says it."""
