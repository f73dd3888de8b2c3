"""What other servers' protocols look like on the app's OpenAPI page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.app import openapi

TEXT = openapi.TEXT
_STRING = {"type": "string"}
_SENTENCE = "the text is empty. Send a text"


@dataclass(frozen=True)
class Shape:
    """Schemas of requests and answers, each with an example, and an example of an error."""

    request: dict[str, Any]
    asked: dict[str, Any]
    answer: dict[str, Any]
    answered: Any
    error: dict[str, Any]

    def request_body(self) -> dict[str, Any]:
        return {"required": True, "content": {"application/json": self._json(self.request, self.asked)}}

    def responses(self, codes: Sequence[int]) -> dict[int | str, dict[str, Any]]:
        found: dict[int | str, dict[str, Any]] = {
            200: {
                "description": "answers",
                "content": {"application/json": self._json(self.answer, self.answered)},
            }
        }
        for code in codes:
            content = {"application/json": {"schema": {"type": "object"}, "example": self.error}}
            found[code] = {"description": openapi.ERRORS[code], "content": content}
        return found

    @staticmethod
    def _json(schema: dict[str, Any], example: Any) -> dict[str, Any]:
        return {"schema": schema, "example": example}


class AlsoNative(Shape):
    """A path where the app's own requests are answered, too."""

    def request_body(self) -> dict[str, Any]:
        body = openapi.request_body()
        shown = body["content"]["application/json"]
        shown["schema"] = {"anyOf": [shown["schema"], self.request]}
        shown["examples"]["text-embeddings-inference"] = {"value": self.asked}
        return body

    def responses(self, codes: Sequence[int]) -> dict[int | str, dict[str, Any]]:
        found = openapi.responses(*codes)
        shown = found[200]["content"]["application/json"]
        shown["schema"] = {"anyOf": [shown["schema"], self.answer]}
        shown["examples"]["text-embeddings-inference"] = {"value": self.answered}
        return found


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(of: dict[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": least}


_RANKED = _list(_object("score", "label", score={"type": "number"}, label=_STRING))
_BY_LABEL = {"type": "object", "additionalProperties": {"type": "number"}}
_FLAGS = {"type": "object", "additionalProperties": {"type": "boolean"}}
_ONE_TEXT = _list(_STRING) | {"maxItems": 1}
_INPUTS = {"anyOf": [_STRING, _ONE_TEXT, _list(_ONE_TEXT)]}
_RANKS = [{"score": 0.93, "label": "not-hate"}, {"score": 0.07, "label": "hate"}]
_INFERENCE_ERROR = {"error": _SENTENCE, "error_type": "Validation"}

PREDICT = AlsoNative(
    _object(
        "inputs",
        inputs=_INPUTS,
        truncate={"type": ["boolean", "null"], "default": True},
        raw_scores={"type": "boolean", "default": False},
        truncation_direction={"enum": ["Left", "Right", "left", "right"]},
    ),
    {"inputs": [[TEXT]], "truncate": True},
    {"anyOf": [_RANKED, _list(_RANKED)]},
    [_RANKS],
    _INFERENCE_ERROR,
)
INFERENCE = Shape(
    _object("inputs", inputs=_INPUTS, parameters={"type": "object"}),
    {"inputs": TEXT, "parameters": {"top_k": 2}},
    {"anyOf": [_RANKED, _list(_RANKED)]},
    [_RANKS],
    _INFERENCE_ERROR,
)
MODERATIONS = Shape(
    _object("input", input={"anyOf": [_STRING, _list(_STRING)]}, model=_STRING),
    {"input": TEXT},
    _object(
        "id",
        "model",
        "results",
        id=_STRING,
        model=_STRING,
        results=_list(
            _object(
                "flagged",
                "categories",
                "category_scores",
                flagged={"type": "boolean"},
                categories=_FLAGS,
                category_scores=_BY_LABEL,
            )
        ),
    ),
    {
        "id": "modr-1",
        "model": "hate",
        "results": [
            {
                "flagged": False,
                "categories": {"not-hate": True, "hate": False},
                "category_scores": {"not-hate": 0.93, "hate": 0.07},
                "category_applied_input_types": {"not-hate": ["text"], "hate": ["text"]},
            }
        ],
    },
    {"error": {"message": _SENTENCE, "type": "invalid_request_error", "param": "text", "code": None}},
)
INFER = Shape(
    {"$ref": openapi.REFERENCE + "request"},
    openapi.REQUEST_EXAMPLES["KServe v2"],
    {"$ref": openapi.REFERENCE + "response"},
    {
        "model_name": "hate",
        "model_version": "1.0",
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["not-hate"]}],
    },
    {"error": _SENTENCE},
)
