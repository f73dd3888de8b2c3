"""The shapes on the app's OpenAPI page: examples of requests, and the answers.

Answers are described by `handler/answer.schema.json`, requests here. `handler.requests` reads the requests,
and explains what is wrong with any that do not match.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import handler
from handler.answers import EXAMPLE
from handler.requests import CHOICES, MOST_ID

REFERENCE = "#/components/schemas/"
TEXT = "I made soup for my new neighbours today"
ERROR = {
    "error": {
        "code": 422,
        "field": "text",
        "message": "the text is empty",
        "remedy": 'Send --json \'{"text": "..."}\'',
    }
}
ERRORS = {
    400: "not JSON, or not UTF-8",
    401: "no valid key, where the server has keys",
    403: "explanations are switched off",
    404: "no such model or path",
    408: "the body did not arrive in time",
    413: "too large, or too many texts",
    415: "neither JSON nor plain text, or compressed",
    422: "no text, an unknown option, or an id that is too long",
    429: "too many explanations at once",
    500: "a defect of the server; its log has the details",
    503: "the queue or the memory for bodies is full, or the model is not loaded yet",
}


def components() -> dict[str, Any]:
    """The document's schemas by name: those of answers as the archive's schema has them, and of requests."""
    text = Path(handler.__file__).with_name("answer.schema.json").read_text(encoding="utf-8")
    answers = json.loads(text.replace("#/$defs/", REFERENCE))
    return {**answers["$defs"], "answer": {"title": answers["title"], "oneOf": answers["oneOf"]}, **_REQUESTS}


SECURITY: list[dict[str, list[str]]] = [
    {},
    {"bearer": []},
    {"key": []},
]  # keys are needed where the server has some
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def request_body() -> dict[str, Any]:
    """What may be sent to be classified or explained."""
    form = {"schema": _ref("text_object"), "example": {"text": TEXT}}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": _ref("request"), "examples": _named(REQUEST_EXAMPLES)},
            "text/plain": {"schema": {"type": "string"}, "example": TEXT},
            "application/x-www-form-urlencoded": form,
            "multipart/form-data": form,
        },
    }


def responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """An answer in the form of its request, and the errors with these codes."""
    answered = {"schema": _ref("response"), "examples": _named(RESPONSE_EXAMPLES)}
    found: dict[int | str, dict[str, Any]] = {200: _content("answers, in the form of the request", answered)}
    for code in codes:
        found[code] = _content(ERRORS[code], {"schema": _ref("error"), "example": ERROR})
    return found


def paths_of(paths: dict[str, Any], models: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The paths of each model, by name and version, instead of those that hold for all."""
    return {
        path.format(name=name, version=version): {
            method: {**operation, "operationId": _named_id(operation["operationId"], name, version)}
            for method, operation in item.items()
        }
        for path, item in paths.items()
        for name, version in models
    }


def _named_id(operation: str, name: str, version: str) -> str:
    for field, value in (("_name_", name), ("_version_", version)):
        operation = operation.replace(field, re.sub(r"\W", "_", value))
    return operation


def _content(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": content}}


def _named(examples: dict[str, Any]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in examples.items()}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REFERENCE + name}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


_TEXT = {"type": "string"}
_TENSOR = _object(
    "datatype",
    "shape",
    "data",
    name=_TEXT,
    datatype={"const": "BYTES"},
    shape={"type": "array", "items": {"type": "integer", "minimum": 0}},
    data={"type": "array"},
)
_OPTIONS = {
    "long": {
        "enum": list(CHOICES["long"]),
        "default": "truncate",
        "description": "what to do with texts beyond the model's maximum: cut them, or read them in windows",
    },
    "aggregate": {"enum": list(CHOICES["aggregate"]), "description": "how to combine the windows' scores"},
    "method": _TEXT | {"description": "the method of explanation"},
    "target": _TEXT | {"description": "the label to explain"},
}
_WORDS = _TEXT | {"minLength": 1}
_ROWS = _list({"oneOf": [_TEXT, _ref("text_object")]})
_REQUESTS = {
    "text_object": _object("text", text=_WORDS, **_OPTIONS),
    "request": {
        "anyOf": [
            _ref("text_object"),
            _WORDS,
            _ROWS,
            _object("texts", texts=_ROWS, **_OPTIONS),
            _object("instances", instances=_ROWS, **_OPTIONS),
            _object(
                "inputs",
                id=_TEXT | {"maxLength": MOST_ID},
                inputs=_list(_TENSOR),
                parameters={"type": "object", "properties": _OPTIONS},
            ),
        ]
    },
    "response": {
        "anyOf": [
            _ref("answer"),
            _list(_ref("answer")),
            _object("predictions", predictions=_list(_ref("answer"))),
            _object(
                "outputs",
                model_name=_TEXT,
                model_version=_TEXT,
                id=_TEXT,
                outputs=_list({"type": "object", "required": ["name", "datatype", "shape", "data"]}),
            ),
        ]
    },
}
REQUEST_EXAMPLES: dict[str, Any] = {
    "one text": {"text": TEXT},
    "a long text, read whole": {"text": TEXT, "long": "chunks", "aggregate": "mean"},
    "many texts": {"texts": [TEXT, "Nice to meet you"]},
    "a list": [TEXT, {"text": "Nice to meet you"}],
    "KServe v1": {"instances": [TEXT]},
    "KServe v2": {
        "id": "seven",
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}],
    },
}
RESPONSE_EXAMPLES: dict[str, Any] = {
    "one text": EXAMPLE,
    "many texts, one without words": {"predictions": [EXAMPLE, ERROR]},
    "a list": [EXAMPLE],
}
