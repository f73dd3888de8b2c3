"""text-embeddings-inference's `/predict`, told apart from the app's own by its field `inputs`, and what
Hugging Face's `InferenceClient` asks, which sends `parameters` besides and wants a list of lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deploy.app.protocols.dialect import Question, Translated, json_object, rows_of, sentence, texts_of
from handler.errors import Rejection
from handler.replies import Arrival, Reply, as_json
from handler.requests import is_json
from handler.service import Service

PATH = "/predict"
ROOT = "/"  # of a client that was given the server's address alone
MARK = b'"inputs"'
REMEDY = 'Send {"inputs": "..."} or {"inputs": [["..."], ["..."]]}'
NO_INPUTS = Rejection(422, "inputs", "inputs is neither a text nor a list of lists of one text each", REMEDY)
PAIRS = Rejection(
    422, "inputs", "pairs of texts are not supported: the model reads one", 'Send many as [["..."], ["..."]]'
)
UNDECLARED = ("", "application/octet-stream")
FUNCTIONS = ("sigmoid", "softmax", "none")
STATUSES = {500: 424}  # where theirs is another
TYPES = {424: "Backend", 429: "Overloaded", 503: "Unhealthy"}


@dataclass(frozen=True)
class Form:
    """How it is answered: texts that are too long are cut with `truncate`, `raw` scores are logits, `most` is
    the number of labels."""

    many: bool
    truncate: bool
    raw: bool
    most: int | None = None


class Inference(Translated):
    """At `/predict` the app's own requests pass; at the server's root (`always`) there are none."""

    def __init__(self, always: bool = False) -> None:
        self._always = always

    def read(
        self, arrival: Arrival, headers: Mapping[str, str], service: Service
    ) -> Question | Rejection | None:
        document = json_object(arrival) if self._always or _may_ask(arrival) else None
        given = document.get("inputs") if isinstance(document, dict) else None
        if not self._always and (given is None or _are_tensors(given)):
            return None
        if not isinstance(document, dict):
            return document
        texts = _texts(given)
        if isinstance(texts, Rejection):
            return texts
        form = _form(document, isinstance(given, list) and isinstance(given[0], list), service)
        if isinstance(form, Rejection):
            return form
        return Question(
            texts_of(texts, arrival.size, logits=form.raw),
            partial(_answer, form, service.predictor.artifact.labels, service.predictor.artifact.max_length),
        )

    def refuse(self, rejection: Rejection) -> Reply:
        return self.refuse_question(rejection) if self._always else super().refuse(rejection)

    def refuse_question(self, rejection: Rejection) -> Reply:
        status = STATUSES.get(rejection.code, rejection.code)
        if rejection.code == 503 and rejection.field != "server":
            status = 429
        error = {"error": sentence(rejection), "error_type": TYPES.get(status, "Validation")}
        return Reply(status, as_json(error))


def _may_ask(arrival: Arrival) -> bool:
    """Whether it is worth to be read as JSON: few of the app's own requests are."""
    kind = arrival.content_type.partition(";")[0].strip().lower()
    body = arrival.parameters.get("body")
    return isinstance(body, bytes) and MARK in body and (kind in UNDECLARED or is_json(kind))


def _are_tensors(given: object) -> bool:
    return isinstance(given, list) and bool(given) and isinstance(given[0], dict)


def _texts(given: object) -> list[str] | Rejection:
    """One text, a pair of texts, or a batch of either."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        return NO_INPUTS
    batch = given if isinstance(given[0], list) else [given]
    if not all(isinstance(row, list) and all(isinstance(text, str) for text in row) for row in batch):
        return NO_INPUTS
    if any(len(row) == 2 for row in batch):
        return PAIRS
    return [row[0] for row in batch] if all(len(row) == 1 for row in batch) else NO_INPUTS


def _form(document: Mapping[str, Any], is_batch: bool, service: Service) -> Form | Rejection:
    parameters = document.get("parameters")
    if parameters is not None:
        return _hub_form(parameters, service)
    truncate, raw = document.get("truncate"), document.get("raw_scores", False)
    if not isinstance(truncate, bool | None):
        return Rejection(422, "truncate", "truncate is neither true nor false", "Leave it out")
    if not isinstance(raw, bool):
        return Rejection(422, "raw_scores", "raw_scores is neither true nor false", "Leave it out")
    own = service.predictor.artifact.meta.inputs.truncation_side or "right"
    asked = document.get("truncation_direction", own)
    if not isinstance(asked, str) or asked.lower() not in ("left", "right"):
        remedy = "Choose Left or Right"
        return Rejection(422, "truncation_direction", "unknown value of truncation_direction", remedy)
    if asked.lower() != own and truncate is not False:
        message = f"this model's texts are cut on the {own}"
        return Rejection(422, "truncation_direction", message, "Leave it out")
    return Form(is_batch, truncate is not False, raw)


def _hub_form(parameters: object, service: Service) -> Form | Rejection:
    """As `InferenceClient.text_classification` asks."""
    given = parameters if isinstance(parameters, dict) else {}
    most, function = given.get("top_k"), given.get("function_to_apply")
    if not isinstance(most, int | None) or isinstance(most, bool) or (most is not None and most < 1):
        return Rejection(422, "top_k", "top_k is not a count of 1 or more", "Leave it out for all labels")
    fits = "sigmoid" if service.predictor.artifact.multi_label else "softmax"
    if function not in (None, "none", fits):
        message = "this model does not have this function" if function in FUNCTIONS else "unknown function"
        return Rejection(422, "function_to_apply", message, f"Choose {fits} or none")
    return Form(True, True, function == "none", most)


def _answer(form: Form, labels: Sequence[str], max_length: int, reply: Reply) -> Reply | Rejection:
    rows = rows_of(reply)
    if isinstance(rows, Rejection):
        return rows
    if not form.truncate and any(row["truncated"] for row in rows):
        message = f"inputs must have at most {max_length} tokens"
        return Rejection(422, "inputs", message, "Send truncate, or leave it out, or shorter texts")
    answers = [_ranked(row["logits"] if form.raw else list(row["scores"].values()), labels) for row in rows]
    answers = [answer[: form.most] for answer in answers]
    return Reply(200, as_json(answers if form.many else answers[0]))


def _ranked(scores: Sequence[float], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The highest first."""
    order = np.argsort(scores, kind="stable")[::-1]
    return [{"score": scores[place], "label": labels[place]} for place in order.tolist()]
