"""What the app says of itself: whether to ask here, what is served, and counters."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deploy.app import counters
from deploy.app.batcher import LOADING
from deploy.app.latency import OPEN_METRICS, OPEN_METRICS_TYPE, Latencies, as_open_metrics
from deploy.app.models import Models, Served
from deploy.app.protocols.dialect import HeadedReply
from deploy.app.reload import REFUSED, REPLACED
from deploy.app.role import Alone
from handler.replies import Reply, as_json, refuse

FINDINGS = ("none", "same", "close", "mismatch")  # of self-checks, the worst last


def found(models: Models, request: Request) -> Served:
    """The model that the request's path names; 404 where there is none."""
    served = models.find(request.path_params.get("name"), request.path_params.get("version"))
    if served is None:
        raise HTTPException(404)
    return served


def add_states(app: FastAPI, models: Models) -> None:
    """The paths that tell whether to ask here."""

    async def ping() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "Healthy"}

    async def ready() -> Response:
        """Whether to send requests here: 503 until all models are warm, and while the server stops. It says
        so where a model is served although its self-check found other scores."""
        if refused := models.refusal():
            return response(refuse(refused))
        services = [each.batcher.service for each in models]
        statuses = [service.predictor.self_check.status for service in services if service is not None]
        return JSONResponse({"status": "Ready", "self_check": max(statuses, key=FINDINGS.index)})

    add_get(app, "/ping", ping)
    add_get(app, "/ready", ready)


def add_description(app: FastAPI, models: Models) -> None:
    async def index() -> Response:
        """All models and their versions, in the order given; the first is that of `/predict`."""
        return response(Reply(200, as_json({"models": [_listed(each) for each in models]})))

    async def describe(request: Request) -> Response:
        """The served artifact: its proof, check and certificate, its limits and threads, and its shadow."""
        served = found(models, request)
        if served.batcher.service is None:
            return response(refuse(LOADING))
        beside = {"shadow": served.shadow.describe()} if served.shadow else {}
        return response(Reply(200, as_json(served.batcher.service.describe() | beside)))

    add_get(app, "/models", index)
    add_get(app, "/models/{name}", describe)
    add_get(app, "/models/{name}/{version}", describe)


def _listed(served: Served) -> dict[str, str]:
    """Named as in TorchServe's list."""
    model = served.model
    return {
        "modelName": model.name,
        "modelVersion": model.version,
        "modelUrl": model.url,
        "variant": model.artifact.name,
        "status": "LOADING" if served.batcher.service is None else "READY",
    }


def add_metrics(
    app: FastAPI, models: Models, counted: counters.Counters, latencies: Latencies, role: Alone
) -> None:
    async def metrics(request: Request) -> Response:
        """The archive's counters, the number of waiting requests and of cached texts, latencies and what is
        promised of them, reloads, and the shadow's flips, for Prometheus; in OpenMetrics with traces as
        examples. Of several workers the sums, without examples."""
        is_open = role.workers == 1 and OPEN_METRICS in request.headers.get("accept", "")
        page = metrics_page(models, counted, latencies, examples=is_open)
        if is_open:
            return Response(as_open_metrics(page), media_type=OPEN_METRICS_TYPE)
        return Response(role.counts(page), media_type=counters.MEDIA_TYPE)

    add_get(app, "/metrics", metrics)


def metrics_page(
    models: Models, counted: counters.Counters, latencies: Latencies, *, examples: bool = False
) -> str:
    """What this process has counted."""
    waiting: Counter[str] = Counter()
    cached: Counter[str] = Counter()
    shadows = ""
    for each in models:
        if each.batcher.service is not None:
            each.batcher.service.tally.emit()
            cached[each.model.name] += len(each.batcher.service.cached)
        waiting[each.model.name] += each.batcher.waiting
        shadows += each.shadow.metrics(each.model.name) if each.shadow else ""
    page = counted.text() + counters.gauges("classifier_waiting_requests", waiting)
    page += counters.gauges("classifier_cached_texts", cached)
    return page + latencies.text(examples) + _reloads(models) + shadows


def _reloads(models: Models) -> str:
    names = dict.fromkeys(each.model.name for each in models)
    samples = [
        ({"ModelName": name, "status": status}, models.reloads[name, status])
        for name in names
        for status in (REPLACED, REFUSED)
    ]
    return counters.family("classifier_reloads", "counter", samples)


def add_get(app: FastAPI, path: str, answer: Callable[..., Awaitable[Any]]) -> None:
    """A page, whose head alone may be asked for, too."""
    app.add_api_route(path, answer, methods=["GET"])
    app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)  # health checks


def response(reply: Reply, *, closes: bool = False) -> Response:
    headers = {"Retry-After": "1"} if reply.status in (429, 503) else {}
    media_type = "application/json"
    if isinstance(reply, HeadedReply):
        headers |= reply.headers
        media_type = reply.media_type
    if closes:  # the rest of the body is not even read
        headers["Connection"] = "close"
    return Response(reply.body, reply.status, headers, media_type=media_type)
