"""What a client may send, and the shape in which it wants its answer back.

A request is one text or many. It arrives as `text/plain`, as a form field `text`, or as JSON: a string,
an object with `text`, a list of either, `{"texts": [...]}`, KServe v1 `{"instances": [...]}` or KServe v2
`{"inputs": [...]}` with a tensor of BYTES. A body without a declared type (a file, gRPC) is JSON where it is
a JSON object or list, else text. Options stand beside `text` (in an object or a form), beside `texts`, or
in v2's `parameters`. A row that cannot be read becomes a `Rejection` in its own place; the rows beside it are
answered. No message repeats what the client wrote.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from handler import tensors
from handler.errors import Rejection, UserError

HOW_TO_ASK = (
    """Send --json '{"text": "..."}', --data-urlencode "text=...", """
    """-H "Content-Type: text/plain" --data-binary @-, or -T file"""
)
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
UNTYPED = ("", "application/octet-stream")
ENCODINGS = ("utf-8", "utf8", "us-ascii")
SETTINGS = {"maxTexts": "max_texts", "maxCharacters": "max_characters", "maxExplained": "max_explained"}


@dataclass(frozen=True)
class Limits:
    """Bounds on one request; `model-config.yaml` may change them under `handler:` by the names in `SETTINGS`.

    `max_texts` counts windows where long texts are read whole. Explaining a text costs as much as
    classifying it a hundred times, so few are explained at once.
    """

    max_texts: int = 128
    max_characters: int = 100_000
    max_explained: int = 2

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> "Limits":
        """The limits that `settings` changes; raises `UserError` where one is no count."""
        changed = {name: settings[key] for key, name in SETTINGS.items() if key in settings}
        for name, value in changed.items():
            if type(value) is not int or value < 1:
                raise UserError(
                    f"{name} is not a count of 1 or more", seen=value, remedy="Change model-config.yaml"
                )
        return replace(cls(), **changed)  # type: ignore[arg-type]


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

    def wrap(self, answers: list[dict], model: Mapping[str, str], labels: Sequence[str]) -> dict | list:
        """Put the rows' answers into the form that the client used; `labels` are the model's."""
        if self.envelope == "one":
            return answers[0]
        if self.envelope == "v2":
            whole = self.only_tensors or self.status(answers) == 200
            return tensors.answer(answers, model, self.id, labels) if whole else answers[0]
        return answers if self.envelope == "list" else {"predictions": answers}

    def status(self, answers: list[dict]) -> int:
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
    if explain:
        limits = replace(limits, max_texts=limits.max_explained)
    request = _read(parameters, content_type, limits, base64_tensors)
    return replace(request, explain=explain)


def _read(
    parameters: Mapping[str, object], content_type: str, limits: Limits, base64_tensors: bool
) -> Request:
    if "text" in parameters:
        return _one(_read_row(parameters, Options(), limits))
    body = parameters.get("body", parameters.get("data"))
    if body is None:
        return _one(Rejection(422, "text", "the request holds no text", HOW_TO_ASK))
    kind, _, rest = content_type.lower().partition(";")
    kind = kind.strip()
    if not (kind in UNTYPED or kind.startswith("text/") or kind in FORMS or _is_json(kind)):
        return _one(Rejection(415, "Content-Type", "the body is neither JSON nor text", HOW_TO_ASK))
    if _charset(rest) not in ENCODINGS:
        return _one(Rejection(415, "Content-Type", "the body is declared as another encoding", "Send UTF-8"))
    if _is_json(kind) and isinstance(body, (bytes, bytearray)):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return _one(Rejection(400, "body", "the body is not valid JSON", 'Send {"text": "..."} in UTF-8'))
    elif kind in UNTYPED:
        body = _sniffed(body)
    if base64_tensors and isinstance(body, Mapping):
        request = _read_tensors(body, limits, base64_tensors)
        return replace(request, envelope="v2", id=str(body.get("id") or ""), only_tensors=True)
    return _read_json(body, limits)


def _is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _charset(parameters: str) -> str:
    """What a content type declares behind `charset=`, in lower case; utf-8 where it declares nothing."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return value.strip().strip('"')
    return "utf-8"


def _sniffed(body: object) -> object:
    """A body of no declared type, parsed where it is a JSON object or list."""
    if isinstance(body, (bytes, bytearray)) and body.lstrip()[:1] in (b"{", b"["):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return body
    return body


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


def _read_tensors(body: Mapping, limits: Limits, base64_tensors: bool) -> Request:
    """A KServe v2 request."""
    rows = tensors.texts(body.get("inputs"), base64_tensors)
    if isinstance(rows, Rejection):
        return _one(rows)
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        return _one(Rejection(422, "parameters", "parameters is not an object", 'Send {"long": "chunks"}'))
    options = read_options(parameters, Options())
    if isinstance(options, Rejection):
        return _one(options)
    given = body.get("id")
    request = _many(rows, "v2", options, limits)
    return replace(request, id=given) if isinstance(given, str) else request


def refused(rejection: Rejection) -> Request:
    """A request of which nothing is read."""
    return Request([rejection], "one")


def _one(row: Row | Rejection) -> Request:
    return Request([row], "one")


def _many(rows: list, envelope: str, options: Options, limits: Limits) -> Request:
    if not rows:
        return _one(Rejection(422, "texts", "the list holds no text", "Send at least one text"))
    if len(rows) > limits.max_texts:
        message = f"the request holds {len(rows):,} texts, at most {limits.max_texts:,} are read"
        return _one(Rejection(413, "texts", message, "Send several smaller requests"))
    return Request([_read_row(row, options, limits) for row in rows], envelope)


def _read_row(row: object, options: Options, limits: Limits) -> Row | Rejection:
    text = read_text(row, limits)
    if isinstance(text, Rejection):
        return text
    own = read_options(row, options) if isinstance(row, Mapping) else options
    return own if isinstance(own, Rejection) else Row(text, own)


def read_options(given: Mapping, options: Options) -> Options | Rejection:
    """`options`, changed by what `given` (an object or a form) says; what is no option is left alone.

    `method` and `target`, which other fields of a row may be called too, are judged where they are used.
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
            return Rejection(422, field.name, f"this {field.name} is not known", remedy)
        changed[field.name] = value if isinstance(value, str) else ""
    return replace(options, **changed)


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
        return Rejection(413, "text", message, "Send a shorter text, or its parts")
    return row
