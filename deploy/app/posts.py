"""The paths that take a POST: documented by FastAPI, but answered past its routing, which costs more CPU than
all the rest of the app does for a request.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.app.timing import TEMPLATE

METHODS = ("POST", "PUT")  # curl -T
Answer = Callable[[Request], Awaitable[Response]]


class Direct:
    """An ASGI app that answers requests to known paths itself, and passes others on to `app`. An answer comes
    with the parameters of its path."""

    def __init__(self, app: ASGIApp, answers: Mapping[str, tuple[Answer, Mapping[str, str], str]]) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] in METHODS
        known = self._answers.get(scope["path"]) if is_post else None
        if known is None:
            await self._app(scope, receive, send)
            return
        answer, parameters, scope[TEMPLATE] = known
        scope["path_params"] = dict(parameters)
        response = await answer(Request(scope, receive, send))
        await response(scope, receive, send)


class Posts:
    """Adds such paths to `app`; where they hold `{name}`, it is one of `names` that is answered directly."""

    def __init__(self, app: FastAPI, names: Iterable[str]) -> None:
        self._app = app
        self._names = tuple(names)
        self._answers: dict[str, tuple[Answer, Mapping[str, str], str]] = {}
        app.add_middleware(Direct, answers=self._answers)

    def add(
        self,
        path: str,
        answer: Answer,
        request_body: Mapping[str, Any],
        responses: dict[int | str, dict[str, Any]],
    ) -> None:
        """The last two are for the OpenAPI document."""
        documented, hidden = METHODS
        described = {"requestBody": request_body}
        self._app.add_api_route(
            path, answer, methods=[documented], responses=responses, openapi_extra=described
        )
        self._app.add_api_route(path, answer, methods=[hidden], include_in_schema=False)
        for name in self._names:
            literal = path.replace("{name}", name)
            if "{" not in literal:  # versions change with reloads
                self._answers[literal] = answer, {"name": name} if literal != path else {}, path
