"""Reading requests: what a client may send, and the form of the answer.

A request is one text or many. It arrives as `text/plain`, as a form field `text`, or as JSON: a string, an
object with `text`, a list of either, `{"texts": [...]}`, KServe v1 `{"instances": [...]}` or KServe v2
`{"inputs": [...]}` with a tensor of BYTES.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from handler import tensors
from handler.answers import Model
from handler.errors import Rejection, UserError

# A body without a declared type (a file, gRPC, a form's `data`) is JSON where it is a JSON object or list,
# else text. Options stand next to `text` (in an object or a form) or `texts`, or in v2's `parameters`. A row
# that cannot be read becomes a `Rejection` in its own place; the other rows are answered. No message repeats
# what the client wrote.

HOW_TO_ASK = (
    """Send --json '{"text": "..."}', --data-urlencode "text=...", """
    """-H "Content-Type: text/plain" --data-binary @-, or -T file"""
)
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
UNTYPED = ("", "application/octet-stream", *FORMS)
TEXT = ("text/plain", "text/markdown")
JSON = ("application/json", "application/x-json", "text/json", "text/x-json")
UTF_8 = ("utf-8", "utf8", "utf_8", "utf-8-sig", "us-ascii", "ascii")
MARK = "\ufeff"  # the byte-order mark
# What only JSON begins with: a brace before a key, a bracket before a string or an object.
MEANT_AS_JSON = re.compile(r"""\{\s*(["'}]|$)|\[\s*(["'{\]]|$)""")
MOST_ID = 256
SETTINGS = {
    "maxTexts": "max_texts",
    "maxCharacters": "max_characters",
    "maxRequestCharacters": "max_request_characters",
    "maxExplained": "max_explained",
    "maxExplainedMs": "max_explained_ms",
    "maxCached": "max_cached",
}


@dataclass(frozen=True)
class Limits:
    """Bounds on one request; `model-config.yaml` may change them under `handler:` by the names in `SETTINGS`.

    `max_texts` counts windows where long texts are read whole. Explaining a text costs as much as
    classifying it a hundred times, so few are explained at once; with a `max_explained` of 0 none are. Where
    others wait for a batch, its explanations are given up after `max_explained_ms`. The answers of
    `max_cached` texts are remembered, over all requests.
    """

    max_texts: int = 128
    max_characters: int = 100_000
    max_request_characters: int = 500_000
    max_explained: int = 2
    max_explained_ms: int = 500
    max_cached: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> "Limits":
        """The limits that `settings` changes; raises `UserError` where one is no count."""
        changed: dict[str, int] = {}
        for key in filter(settings.__contains__, SETTINGS):
            value = settings[key]
            least = 0 if key in ("maxExplained", "maxCached") else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(
                    f"{key} is not a count of {least} or more", seen=value, remedy="Change model-config.yaml"
                )
            changed[SETTINGS[key]] = value
        return replace(cls(), **changed)


@dataclass(frozen=True)
class Options:
    """How a text is read and explained; every one may be left out.

    `long`: what happens beyond the model's maximum; `chunks` reads the text whole, in windows, whose scores
    are put together by `aggregate`. `method` and `target` (a label) are for explanations.
    """

    long: str = "truncate"
    aggregate: str | None = None
    method: str | None = None
    target: str | None = None


LONE_SURROGATE = re.compile("[\ud800-\udfff]")
CHOICES = {"long": ("truncate", "chunks"), "aggregate": ("max", "mean")}


@dataclass(frozen=True)
class Row:
    """One text to be answered."""

    text: str
    options: Options


@dataclass(frozen=True)
class Request:
    """The rows of one request; `envelope` is the form of the answer: one, list, predictions or v2."""

    rows: list[Row | Rejection]
    envelope: str
    explain: bool = False
    id: str | None = None  # of a v2 request, given back
    only_tensors: bool = False  # gRPC's ModelInfer, of which TorchServe reads nothing else
    logits: bool = False  # `Arrival.logits`

    def wrap(
        self, answers: list[dict[str, Any]], model: Model, labels: Sequence[str]
    ) -> dict[str, Any] | list[Any]:
        """Put the rows' answers into the form that the client used; `labels` are the model's."""
        if self.envelope == "one":
            return answers[0]
        if self.envelope == "v2":
            whole = self.only_tensors or self.status(answers) == 200
            return tensors.answer(answers, model, self.id, labels) if whole else answers[0]
        return answers if self.envelope == "list" else {"predictions": answers}

    def status(self, answers: list[dict[str, Any]]) -> int:
        """HTTP status: that of the only row, or of the first when all are bad; 200 otherwise."""
        codes = [answer["error"]["code"] if "error" in answer else 200 for answer in answers]
        if self.only_tensors:
            return 200
        return 200 if 200 in codes else codes[0]


def read(
    parameters: Mapping[str, object],
    content_type: str,
    limits: Limits,
    *,
    explain: bool = False,
    base64_tensors: bool = False,
) -> Request:
    """Read one request as TorchServe hands it over: form fields, or the body under `body` or `data`.

    JSON may arrive parsed or as bytes; both are read alike. `base64_tensors`: the texts of a KServe v2
    request are base64, which TorchServe makes of them on their way from gRPC.
    """
    if explain and not limits.max_explained:
        return refused(Rejection(403, "explain", "explanations are switched off", "Ask for predictions"))
    if explain:
        limits = replace(limits, max_texts=limits.max_explained)
    request = _read(parameters, content_type, limits, base64_tensors)
    return replace(request, explain=True) if explain else request


def _read(
    parameters: Mapping[str, object], content_type: str, limits: Limits, base64_tensors: bool
) -> Request:
    kind, _, rest = content_type.lower().partition(";")
    kind = kind.strip()
    if kind and _charset(rest) not in UTF_8:
        return _one(Rejection(415, "Content-Type", "the body's charset is not UTF-8", "Send UTF-8"))
    # A form in a file may begin with a mark, which then stands before its first field's name.
    parameters = {name.removeprefix(MARK): value for name, value in parameters.items()}
    if "text" in parameters:
        return _one(_read_row(parameters, Options(), limits))
    body = parameters.get("body", parameters.get("data"))
    if body is None:
        return _one(Rejection(422, "text", "the request has no text", HOW_TO_ASK))
    if isinstance(body, (bytes, bytearray)):
        body = _decoded(bytes(body), kind)
    elif not _is_known(kind):
        body = NEITHER
    if isinstance(body, Rejection):
        return _one(body)
    if base64_tensors and isinstance(body, Mapping):
        request = _read_tensors(body, limits, base64_tensors)
        return replace(request, envelope="v2", id=request.id or "", only_tensors=True)
    return _read_json(body, limits)


NEITHER = Rejection(415, "Content-Type", "the body is neither JSON nor plain text", HOW_TO_ASK)
NOT_JSON = Rejection(400, "body", "the body is not valid JSON", 'Send {"text": "..."} in UTF-8')
SEVERAL = Rejection(400, "body", "the body has several JSON documents", 'Send one list: ["...", "..."]')
NOT_UTF_8 = Rejection(400, "text", "the text is not valid UTF-8", "Encode it as UTF-8")


def is_json(kind: str) -> bool:
    return kind in JSON or kind.endswith("+json")


def _is_known(kind: str) -> bool:
    return kind in UNTYPED or kind in TEXT or is_json(kind)


def _charset(parameters: str) -> str:
    """The `charset=` of a content type, in lower case; utf-8 by default."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return value.strip().strip("\"'")
    return "utf-8"


def _decoded(body: bytes, kind: str) -> object:
    """JSON parsed, a text as a string without its mark, or a `Rejection`."""
    if not _is_known(kind):
        return NEITHER
    # JSON may be UTF-16 or UTF-32, which its first bytes tell; a text has to be UTF-8.
    encoding = json.detect_encoding(body)
    try:
        text = body.decode(encoding).removeprefix(MARK)
    except UnicodeDecodeError:
        return NOT_JSON if is_json(kind) else NOT_UTF_8
    document = text.strip().lstrip(MARK).strip()
    if is_json(kind):
        return _parsed(document, NOT_JSON)
    if kind in UNTYPED and document[:1] in ("{", "["):
        return _parsed(document, NOT_JSON if MEANT_AS_JSON.match(document) else text)
    return text if encoding.startswith("utf-8") else NOT_UTF_8


def _parsed(document: str, otherwise: object) -> object:
    """The value of a JSON document; if it is not valid, a `Rejection` or `otherwise`."""
    try:
        return json.loads(document)
    except json.JSONDecodeError as error:
        is_several = error.msg == "Extra data" and document[error.pos] in '{["'
        return SEVERAL if is_several else otherwise
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return otherwise


def _read_json(body: object, limits: Limits) -> Request:
    if isinstance(body, list):
        return _many(body, "list", Options(), limits)
    if not isinstance(body, Mapping):
        return _one(_read_row(body, Options(), limits))
    if "inputs" in body:
        return _read_tensors(body, limits, False)
    for key in ("texts", "instances"):
        if key in body:
            if not isinstance(body[key], list):
                return _one(Rejection(422, key, f"{key} is not a list", f'Send {{"{key}": ["...", "..."]}}'))
            options = read_options(body, Options())
            if isinstance(options, Rejection):
                return _one(options)
            return _many(body[key], "predictions", options, limits)
    return _one(_read_row(body, Options(), limits))


def _read_tensors(body: Mapping[str, Any], limits: Limits, base64_tensors: bool) -> Request:
    """A KServe v2 request."""
    id = body.get("id")
    if not isinstance(id, str):
        return _read_rows(body, limits, base64_tensors)
    if len(id) > MOST_ID or LONE_SURROGATE.search(id):
        message = f"the id is longer than {MOST_ID} characters, or not valid Unicode"
        return _one(Rejection(422, "id", message, "Send a shorter id, or none"))
    return replace(_read_rows(body, limits, base64_tensors), id=id)


def _read_rows(body: Mapping[str, Any], limits: Limits, base64_tensors: bool) -> Request:
    rows = tensors.texts(body.get("inputs"), base64_tensors)
    if isinstance(rows, Rejection):
        return _one(rows)
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        return _one(Rejection(422, "parameters", "parameters is not an object", 'Send {"long": "chunks"}'))
    options = read_options(parameters, Options())
    if isinstance(options, Rejection):
        return _one(options)
    return _many(rows, "v2", options, limits)


def refused(rejection: Rejection) -> Request:
    """A request of which nothing is read."""
    return Request([rejection], "one")


def _one(row: Row | Rejection) -> Request:
    return Request([row], "one")


def _many(rows: list[Any], envelope: str, options: Options, limits: Limits) -> Request:
    if not rows:
        return _one(Rejection(422, "texts", "the list is empty", "Send at least one text"))
    if len(rows) > limits.max_texts:
        message = f"the request has {len(rows):,} texts, but the limit is {limits.max_texts:,}"
        return _one(Rejection(413, "texts", message, "Send several smaller requests"))
    read = [_read_row(row, options, limits) for row in rows]
    characters = sum(len(row.text) for row in read if isinstance(row, Row))
    if characters > limits.max_request_characters:
        most = limits.max_request_characters
        message = f"the texts have {characters:,} characters, but the limit of a request is {most:,}"
        return _one(Rejection(413, "texts", message, "Send several smaller requests"))
    return Request(read, envelope)


def _read_row(row: object, options: Options, limits: Limits) -> Row | Rejection:
    text = read_text(row, limits)
    if isinstance(text, Rejection):
        return text
    own = read_options(row, options) if isinstance(row, Mapping) else options
    return own if isinstance(own, Rejection) else Row(text, own)


def read_options(given: Mapping[str, Any], options: Options) -> Options | Rejection:
    """`options`, changed by those in `given` (an object or a form); other fields are ignored.

    `method` and `target` are checked where they are used, since other fields of a row may have these names.
    """
    changed = {}
    for field in fields(Options):
        value = given.get(field.name)
        if value is None:
            continue
        if isinstance(value, (bytes, bytearray)):
            value = value.decode("utf-8", "replace")
        choices = CHOICES.get(field.name)
        if choices and not (isinstance(value, str) and value in choices):
            remedy = f"Choose {' or '.join(choices)}"
            return Rejection(422, field.name, f"unknown value of {field.name}", remedy)
        changed[field.name] = value if isinstance(value, str) else ""
    return replace(options, **changed) if changed else options


def read_text(row: object, limits: Limits) -> str | Rejection:
    """The text of one row: a string, UTF-8 bytes, or an object with `text`."""
    if isinstance(row, Mapping):
        if "text" not in row:
            return Rejection(422, "text", 'the object has no field "text"', 'Send {"text": "..."}')
        row = row["text"]
    if isinstance(row, (bytes, bytearray)):
        if not json.detect_encoding(row).startswith("utf-8"):  # UTF-16 has NULs, and is valid UTF-8 with them
            return NOT_UTF_8
        try:
            row = row.decode("utf-8-sig")
        except UnicodeDecodeError:
            return NOT_UTF_8
    if not isinstance(row, str):
        kind = "null" if row is None else type(row).__name__
        return Rejection(422, "text", f"text is not a string but {kind}", 'Send {"text": "..."}')
    if not row.strip():
        return Rejection(422, "text", "the text is empty", HOW_TO_ASK)
    if len(row) > limits.max_characters:
        message = f"the text has {len(row):,} characters, but the limit is {limits.max_characters:,}"
        return Rejection(413, "text", message, "Send a shorter text, or split it")
    return row
