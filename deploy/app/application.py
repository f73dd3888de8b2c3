"""Serving without TorchServe: the archive's Predictor, Service and requests behind FastAPI and uvicorn.

One process serves one model or several, at the archive's paths and at `/predict`, with an OpenAPI page at
`/docs` and the archive's counters at `/metrics`. Answers are the same as the archive's byte for byte; tests
check this.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from deploy.app import openapi
from deploy.app.counters import Counters
from deploy.app.keys import CHALLENGE, DENIED, Guard, Keys
from deploy.app.latency import Latencies
from deploy.app.models import Models, Served
from deploy.app.pages import add_description, add_metrics, add_states, found, response
from deploy.app.posts import Posts
from deploy.app.protocols.dialect import NATIVE, Dialect, HeadedReply
from deploy.app.protocols.routes import NO_SUCH_MODEL, add_protocols, dialect_at
from deploy.app.request_bodies import Held, Memory, is_form, read_body, read_form
from deploy.app.role import Alone
from deploy.app.timing import CURRENT, Watched, Watcher
from handler.errors import Rejection
from handler.replies import Arrival, failure, report

REFUSALS = (400, 401, 408, 413, 415, 422, 500, 503)
PAGES = ("docs", "metrics", "description")  # what --without leaves out
# Whose `name` and `version` are looked up when a request comes; `/predict` and `/v2` are among `protocols`.
TO_PREDICT = ("/predictions/{name}", "/predictions/{name}/{version}", "/v1/models/{name}:predict")
TO_EXPLAIN = ("/explanations/{name}", "/explanations/{name}/{version}", "/v1/models/{name}:explain")


def create_app(
    models: Models,
    counted: Counters,
    memory: Memory | None = None,
    without: Collection[str] = (),
    keys: Keys | None = None,
    latencies: Latencies | None = None,
    watchers: Sequence[Watcher] = (),
    role: Alone | None = None,
) -> FastAPI:
    """The routes, less those of `PAGES` in `without`, for those who have one of the `keys`; bodies lie in
    `memory`. The models work from the start of the app to its end. `watchers` are told of requests, and so
    are `latencies`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with models.working():
            yield

    has_docs = "docs" not in without
    # FastAPI's own page takes its script from others' servers.
    app = (FastAPIOffline if has_docs else FastAPI)(
        redoc_url=None,
        title=", ".join(f"{each.model.name} ({each.model.artifact.name})" for each in models),
        version=models.first.model.version,
        summary="Texts in, calibrated scores out.",
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url="/openapi.json" if has_docs else None,
    )
    app.openapi = partial(_document, app, models)  # type: ignore[method-assign] # FastAPI's documented way
    app.add_exception_handler(HTTPException, _no_such_path)
    posts = Posts(app, {each.model.name for each in models})
    # What is added last comes first.
    if keys is not None:
        app.add_middleware(Guard, keys=keys, deny=partial(_denied, models, counted))
    latencies = latencies or Latencies(models)
    app.add_middleware(Watched, watchers=(*watchers, latencies))
    memory = memory or Memory()
    _add_questions(posts, models, memory)
    add_protocols(app, posts, models, partial(_ask_in, memory), response)
    add_states(app, models)
    if "description" not in without:
        add_description(app, models)
    if "metrics" not in without:
        add_metrics(app, models, counted, latencies, role or Alone())
    return app


def _document(app: FastAPI, models: Models) -> dict[str, Any]:
    """The OpenAPI document, with the shapes of requests and answers, and the paths of each model."""
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components = {"schemas": openapi.components(), "securitySchemes": openapi.SCHEMES}
        app.openapi_schema = document | {"components": components, "security": openapi.SECURITY}
    named = [(each.model.name, each.model.version) for each in models]
    return app.openapi_schema | {"paths": openapi.paths_of(app.openapi_schema["paths"], named)}


def _add_questions(posts: Posts, models: Models, memory: Memory) -> None:
    """The paths to classify and to explain."""

    async def predict(request: Request) -> Response:
        """Classify one text or many."""
        return await _ask(found(models, request), memory, request, explain=False)

    async def explain(request: Request) -> Response:
        """Classify, and show how much every token moved the score."""
        return await _ask(found(models, request), memory, request, explain=True)

    body = openapi.request_body()
    for path in TO_PREDICT:
        posts.add(path, predict, body, openapi.responses(*REFUSALS))
    for path in TO_EXPLAIN:
        posts.add(path, explain, body, openapi.responses(*sorted((*REFUSALS, 403, 429))))


async def _ask_in(memory: Memory, served: Served, request: Request, dialect: Dialect) -> Response:
    return await _ask(served, memory, request, explain=False, dialect=dialect)


async def _ask(
    served: Served, memory: Memory, request: Request, *, explain: bool, dialect: Dialect = NATIVE
) -> Response:
    if timing := CURRENT.get():
        timing.name = served.model.name
    try:
        with served.hold() as batcher, memory.hold() as held:
            arrival = batcher.refusal(explain) or await _arrival(request, held, explain)
            reply = await dialect.ask(arrival, request.headers, served)
    except ClientDisconnect:  # there is no client to read an answer
        reply = dialect.refuse(Rejection(400, "body", "the body is not complete", "Send it again"))
    except Exception as error:  # uvicorn would log its message, which may quote a text
        report(error)
        reply = dialect.refuse(failure())
    return response(reply, closes=held.is_given_up)


async def _arrival(request: Request, held: Held, explain: bool) -> Arrival | Rejection:
    body = await read_body(request, held)
    if isinstance(body, Rejection):
        return body
    content_type, encoding = (request.headers.get(name, "") for name in ("content-type", "content-encoding"))
    if encoding or not is_form(content_type):
        return Arrival({"body": body}, content_type, explain, content_encoding=encoding)
    fields = await asyncio.to_thread(read_form, body, content_type)
    return fields if isinstance(fields, Rejection) else Arrival(*fields, explain)


async def _no_such_path(request: Request, error: Exception) -> Response:
    """404 and 405 in the words of all other errors."""
    assert isinstance(error, HTTPException)
    refused = replace(NO_SUCH_MODEL, code=error.status_code)
    if error.status_code == 405:
        refused = replace(refused, message="this path does not take this method")
    return response(dialect_at(request.url.path).refuse(refused))


def _denied(models: Models, counted: Counters, path: str) -> Response:
    """To a request without a key."""
    counted.add("classifier_rejected", 1, [models.first.model.name, str(DENIED.code), DENIED.field])
    denied = dialect_at(path).refuse(DENIED)
    return response(HeadedReply(denied.status, denied.body, CHALLENGE))
