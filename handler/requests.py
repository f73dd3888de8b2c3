"""What a client may send, and the shape in which it wants its answer back.

A request is one text or many. It arrives as `text/plain`, as a form field `text`, or as JSON: a string,
an object with `text`, a list of either, `{"texts": [...]}`, or KServe v1 `{"instances": [...]}`. A row
that cannot be read becomes a `Rejection` in its own place; the rows beside it are answered. No message
repeats what the client wrote.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from handler.errors import Rejection

HOW_TO_ASK = (
    """Send --json '{"text": "..."}', --data-urlencode "text=...", """
    """-H "Content-Type: text/plain" --data-binary @-, or -T file"""
)


@dataclass(frozen=True)
class Limits:
    """Bounds on one request; `model-config.yaml` may change them under `handler:`."""

    max_texts: int = 128
    max_characters: int = 100_000


@dataclass(frozen=True)
class Request:
    """The rows of one request; `envelope` is the form of the answer: one, list or predictions."""

    rows: list[str | Rejection]
    envelope: str

    def wrap(self, answers: list[dict]) -> dict | list:
        """Put the rows' answers into the form that the client used."""
        if self.envelope == "one":
            return answers[0]
        return answers if self.envelope == "list" else {"predictions": answers}

    def status(self, answers: list[dict]) -> int:
        """HTTP status: that of the only row, or of the first when all are bad; 200 otherwise."""
        codes = [answer["error"]["code"] if "error" in answer else 200 for answer in answers]
        return 200 if 200 in codes else codes[0]


def read(parameters: Mapping[str, object], content_type: str, limits: Limits) -> Request:
    """Read one request as TorchServe hands it over: form fields, or the body under `body` or `data`.

    JSON arrives parsed where TorchServe recognised it, as bytes otherwise; both are read alike.
    """
    if "text" in parameters:
        return _one(read_text(parameters["text"], limits))
    body = parameters.get("body", parameters.get("data"))
    if body is None:
        return _one(Rejection(422, "text", "the request holds no text", HOW_TO_ASK))
    if isinstance(body, (bytes, bytearray)) and "json" in content_type:
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return _one(Rejection(400, "body", "the body is not valid JSON", 'Send {"text": "..."} in UTF-8'))
    return _read_json(body, limits)


def _read_json(body: object, limits: Limits) -> Request:
    if isinstance(body, list):
        return _many(body, "list", limits)
    if isinstance(body, Mapping):
        for key in ("texts", "instances"):
            if key in body:
                if isinstance(body[key], list):
                    return _many(body[key], "predictions", limits)
                return _one(Rejection(422, key, f"{key} is not a list", f'Send {{"{key}": ["...", "..."]}}'))
    return _one(read_text(body, limits))


def _one(row: str | Rejection) -> Request:
    return Request([row], "one")


def _many(rows: list, envelope: str, limits: Limits) -> Request:
    if not rows:
        return _one(Rejection(422, "texts", "the list holds no text", "Send at least one text"))
    if len(rows) > limits.max_texts:
        message = f"the request holds {len(rows):,} texts, at most {limits.max_texts:,} are read"
        return _one(Rejection(413, "texts", message, "Send several smaller requests"))
    return Request([read_text(row, limits) for row in rows], envelope)


def read_text(row: object, limits: Limits) -> str | Rejection:
    """The text of one row: a string, UTF-8 bytes, or an object with `text`."""
    if isinstance(row, Mapping):
        if "text" not in row:
            return Rejection(422, "text", "the object has no field text", 'Send {"text": "..."}')
        row = row["text"]
    if isinstance(row, (bytes, bytearray)):
        try:
            row = row.decode("utf-8")
        except UnicodeDecodeError:
            return Rejection(400, "text", "the text is not valid UTF-8", "Encode it as UTF-8")
    if not isinstance(row, str):
        kind = "null" if row is None else type(row).__name__
        return Rejection(422, "text", f"text is not a string but {kind}", 'Send {"text": "..."}')
    if not row.strip():
        return Rejection(422, "text", "the text is empty", HOW_TO_ASK)
    if len(row) > limits.max_characters:
        message = f"the text has {len(row):,} characters, at most {limits.max_characters:,} are read"
        return Rejection(413, "text", message, "Send a shorter text; the model reads only its beginning")
    return row
