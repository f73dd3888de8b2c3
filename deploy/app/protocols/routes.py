"""The paths of other servers' protocols, and the form of errors there."""

from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.programs import PACKAGE
from deploy.app.batcher import LOADING
from deploy.app.keys import Keys
from deploy.app.models import Models, Served
from deploy.app.pages import add_get, found
from deploy.app.posts import Answer, Posts
from deploy.app.protocols import inference, kserve, moderations, shapes
from deploy.app.protocols.dialect import NATIVE, Dialect, Find
from deploy.app.timing import Watcher
from deploy.app.tls import Pair
from handler.errors import Rejection, UserError
from handler.replies import Reply

if TYPE_CHECKING:
    from deploy.app.protocols.rpc import RpcServer

Ask = Callable[[Served, Request, Dialect], Awaitable[Response]]
"""Reads the request's body within bounds, and answers it."""
Refuse = Callable[[Reply], Response]

MODEL = "/v2/models/{name}"
VERSIONED = MODEL + "/versions/{version}"
ERRORS = (400, 401, 404, 408, 413, 415, 422, 500, 503)


def dialect_at(path: str) -> Dialect:
    """What errors look like there."""
    if path == moderations.PATH:
        return moderations.Moderations(lambda name, version: LOADING)
    if path == "/v2" or path.startswith("/v2/"):
        return kserve.KServe()
    return inference.Inference(always=True) if path == inference.ROOT else NATIVE


NO_SUCH_MODEL = Rejection(404, "path", "no such model or path", "See /docs")


def finder(models: Models) -> Find:
    """Finds models when requests come, since a reload puts others in their places."""

    def find(name: str | None, version: str | None) -> Served | Rejection:
        return models.find(name, version) or NO_SUCH_MODEL

    return find


def add_protocols(app: FastAPI, posts: Posts, models: Models, ask: Ask, respond: Refuse) -> None:
    """`respond` makes a response of a reply."""
    find = finder(models)

    async def predict(request: Request) -> Response:
        """Classify one text or many; requests with the field `inputs` are text-embeddings-inference's."""
        return await _ask_default(request, inference.Inference())

    async def classify(request: Request) -> Response:
        """Hugging Face's InferenceClient, given the server's address alone."""
        return await _ask_default(request, inference.Inference(always=True))

    async def moderate(request: Request) -> Response:
        """OpenAI's moderations: categories are the model's labels."""
        return await _ask_default(request, moderations.Moderations(find))

    async def _ask_default(request: Request, dialect: Dialect) -> Response:
        return await ask(models.first, request, dialect)

    _add(posts, inference.PATH, predict, shapes.PREDICT)
    _add(posts, inference.ROOT, classify, shapes.INFERENCE)
    _add(posts, moderations.PATH, moderate, shapes.MODERATIONS)
    _add_kserve(app, posts, models, ask, respond)


def _add_kserve(app: FastAPI, posts: Posts, models: Models, ask: Ask, respond: Refuse) -> None:
    dialect = kserve.KServe()

    async def infer(request: Request) -> Response:
        """Classify, as the Open Inference Protocol asks; tensors may be binary."""
        return await ask(found(models, request), request, dialect)

    async def live() -> dict[str, bool]:
        """Whether the process is alive."""
        return {"live": True}

    async def ready() -> Response:
        """Whether to send requests here: 503 until all models are warm, and while the server stops."""
        is_ready = models.refusal() is None
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def model_ready(request: Request) -> Response:
        """Whether this model may be asked."""
        is_ready = found(models, request).batcher.is_ready and not models.is_closing
        body = {"name": request.path_params["name"], "ready": is_ready}
        return JSONResponse(body, 200 if is_ready else 503)

    async def server() -> dict[str, object]:
        """Name, version and extensions of the server."""
        return kserve.server_metadata(_version())

    async def model(request: Request) -> Response:
        """Names, types and shapes of the model's tensors."""
        service = found(models, request).batcher.service
        if service is None:
            return respond(dialect.refuse(LOADING))
        return JSONResponse(kserve.model_metadata(service))

    for prefix in (MODEL, VERSIONED):
        _add(posts, prefix + "/infer", infer, shapes.INFER)
        add_get(app, prefix + "/ready", model_ready)
        add_get(app, prefix, model)
    add_get(app, "/v2/health/live", live)
    add_get(app, "/v2/health/ready", ready)
    add_get(app, "/v2", server)


def rpc_server(
    models: Models,
    keys: Keys | None,
    tls: Pair | None,
    denied: Callable[[], None],
    host: str,
    port: int,
    watchers: Sequence[Watcher] = (),
    *,
    shared: bool = False,
) -> "RpcServer":
    """Raises `UserError` where its packages are missing; `denied` counts calls without a key, and a `shared`
    port is that of other workers, too."""
    try:
        from deploy.app.protocols import rpc
    except ModuleNotFoundError as error:
        remedy = "pip install '.[grpc]', or leave --grpc-port out"
        raise UserError("gRPC needs packages that are missing", seen=error.name, remedy=remedy) from error
    methods = rpc.Methods(finder(models), lambda: models.refusal() is None, _version())
    return rpc.RpcServer(methods, rpc.Access(keys, tls, denied), host, port, watchers, shared=shared)


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:  # in a checkout
        return "unknown"


def _add(posts: Posts, path: str, answer: Answer, shape: shapes.Shape) -> None:
    posts.add(path, answer, shape.request_body(), shape.responses(ERRORS))
