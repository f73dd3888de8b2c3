"""What is answered for a text: the schema, the columns of scored tables and the app's page follow from here.

`python -m tests.house.schemas` writes `answer.schema.json`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

from handler.records import Bounds, Count, Share

CODES = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 500, 503)
INTEGRATED_GRADIENTS, OCCLUSION = "integrated-gradients", "occlusion"


DECISIONS = ("pass", "review", "act")
Decision = Annotated[str, Bounds(enum=DECISIONS)]
Scores = Annotated[dict[str, Share], Bounds(minProperties=2)]


@dataclass(frozen=True)
class Attribution:
    """What one token did: `start` and `end` are its place in the text, in characters."""

    token: str
    start: Count
    end: Count
    attribution: float


@dataclass(frozen=True)
class Explanation:
    """The tokens of a text, in order, without those that the tokenizer adds (such as [CLS])."""

    method: Annotated[str, Bounds(enum=(INTEGRATED_GRADIENTS, OCCLUSION))]
    target: str
    tokens: list[Attribution]


class Model(TypedDict):
    """Which model answered."""

    name: str
    version: str
    variant: str


class Read(TypedDict):
    """What was read of a text: `windows` where there are several, `explanation` as a dictionary where it was
    asked for, `model` where a server answers."""

    tokens: Count
    truncated: bool
    windows: NotRequired[Annotated[int, Bounds(minimum=2)]]
    explanation: NotRequired[Annotated[dict[str, Any], Explanation]]
    model: NotRequired[Model]


class Single(Read):
    """Of labels that exclude each other; `threshold` is that of the positive one of two, `decision` there
    where the model has bands."""

    label: str
    score: Share
    scores: Scores
    threshold: Share | None
    decision: NotRequired[Decision]


class Multi(Read):
    """Of independent labels: `labels` are those that reached their thresholds."""

    labels: list[str]
    scores: Scores
    thresholds: Scores


class Reason(TypedDict):
    """Why there is no answer: `field` is what is at fault."""

    code: Annotated[int, Bounds(enum=CODES)]
    field: str
    message: str
    remedy: str


class Error(TypedDict):
    """What stands in the place of an answer."""

    error: Reason


Answer = Single | Multi
EXAMPLE: Single = {
    "label": "not-hate",
    "score": 0.93,
    "scores": {"not-hate": 0.93, "hate": 0.07},
    "threshold": 0.5,
    "tokens": 10,
    "truncated": False,
    "model": {"name": "hate", "version": "1.0", "variant": "fp32"},
}
# Of scored tables; a decision is given where the model has bands.
COLUMNS: dict[str, type] = {"label": str, "score": float, "decision": str, "tokens": int, "truncated": bool}
