"""OpenAI's `/v1/moderations`, as its client libraries call it: categories are the model's labels."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from deploy.app.batcher import LOADING
from deploy.app.models import Served
from deploy.app.protocols.dialect import Find, Question, Translated, json_object, rows_of, sentence, texts_of
from handler.artifact import Artifact
from handler.errors import Rejection
from handler.replies import Arrival, Reply, as_json
from handler.service import Service

PATH = "/v1/moderations"
THEIRS = ("omni-moderation-", "text-moderation-")  # names of OpenAI's models, which stand for the default one
REMEDY = 'Send {"input": "..."} or {"input": ["...", "..."]}'
IMAGES = Rejection(422, "input", "images are not supported: the model reads texts", REMEDY)
NO_INPUT = Rejection(422, "input", "input is neither a string nor a list of strings", REMEDY)
NOT_FLAGGING = Rejection(
    400,
    "model",
    "this model has no positive label, so nothing tells which labels to flag",
    "Ask /predict, which gives its label",
)
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Moderations(Translated):
    """`find` knows the models by name."""

    def __init__(self, find: Find) -> None:
        self._find = find

    def read(self, arrival: Arrival, headers: Mapping[str, str], service: Service) -> Question | Rejection:
        document = json_object(arrival)
        if isinstance(document, Rejection):
            return document
        named = self._named(document.get("model"))
        if isinstance(named, Rejection):
            return named
        if named.batcher.service is None:
            return LOADING
        artifact = named.model.artifact
        if not artifact.multi_label and artifact.positive_label is None:
            return NOT_FLAGGING
        rows = _rows(document.get("input"))
        if isinstance(rows, Rejection):
            return rows
        answer = partial(_answer, artifact, named.model.name)
        return Question(texts_of(rows, arrival.size), answer, named)

    def _named(self, name: object) -> Served | Rejection:
        if not isinstance(name, str | None):
            return Rejection(422, "model", "model is not a string", "Send the model's name, or none")
        found = self._find(None if name is None or name.startswith(THEIRS) else name, None)
        return replace(found, field="model") if isinstance(found, Rejection) else found

    def refuse(self, rejection: Rejection) -> Reply:
        kind = TYPES.get(rejection.code)
        kind = kind or ("server_error" if rejection.code >= 500 else "invalid_request_error")
        error = {"message": sentence(rejection), "type": kind, "param": rejection.field, "code": None}
        return Reply(rejection.code, as_json({"error": error}))


def _rows(given: object) -> list[str] | Rejection:
    """A list of objects is one input in several parts."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        return NO_INPUT
    if all(isinstance(row, str) for row in given):
        return given
    if not all(isinstance(part, dict) for part in given):
        return NO_INPUT
    if any(part.get("type") == "image_url" for part in given):
        return IMAGES
    texts = [part.get("text") for part in given if part.get("type") == "text"]
    if len(texts) != 1 or len(given) != 1 or not isinstance(texts[0], str):
        return Rejection(422, "input", "input is not one text in one part", REMEDY)
    return [texts[0]]


def _answer(artifact: Artifact, model: str, reply: Reply) -> Reply | Rejection:
    rows = rows_of(reply)
    if isinstance(rows, Rejection):
        return rows
    body = {
        "id": f"modr-{secrets.token_hex(12)}",
        "model": model,
        "results": [_result(artifact, row) for row in rows],
    }
    return Reply(200, as_json(body))


def _result(artifact: Artifact, row: Mapping[str, Any]) -> dict[str, Any]:
    """A category is true where the text was given its label; flagged is what has the positive label, or, of
    independent labels, any."""
    given = row["labels"] if artifact.multi_label else [row["label"]]
    return {
        "flagged": bool(given) if artifact.multi_label else row["label"] == artifact.positive_label,
        "categories": {label: label in given for label in artifact.labels},
        "category_scores": row["scores"],
        "category_applied_input_types": {label: ["text"] for label in artifact.labels},
    }
