"""What `evaluation.json` says: what a checkpoint does on one split."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from common.records import Count, NotNegative, Positive, Record, Sha256, Share, Some, Task
from training.description import Made
from training.measures.records import Figures, Gaps, Group, Rates, Reliability

SCHEMA: Literal[1] = 1
FOLDER = "evaluation"  # in a checkpoint, one folder a split
FILE = "evaluation.json"
SplitName = Literal["validation", "gate", "test"]
Drop = Annotated[float, Meta(ge=-1, le=1)]


class Judged(Record):
    """The checkpoint; of random weights, which are not `trained`, figures mean nothing."""

    weights_sha256: Sha256
    base: str
    trained: bool
    data: str
    data_sha256: Sha256
    task: Task
    labels: Annotated[list[str], Meta(min_length=2)]
    temperature: Positive
    thresholds: dict[str, Share]


class LengthPart(Rates, kw_only=True):
    """A quarter of the texts, by their tokens."""

    from_tokens: Count
    to_tokens: Count


class Passed(Record):
    """Functional cases that are answered rightly; the rate has a 95 % interval."""

    n: Some
    passed: Count
    pass_rate: Share
    low: Share
    high: Share


class Kind(Passed):
    """One kind of case, of which `label` is right."""

    functionality: str
    label: str


class Suite(Passed):
    functionalities: list[Kind]
    groups: list[Group]
    gaps: Gaps


class Perturbed(Record):
    """A way of writing texts differently: what it does and why the label stays. Moves and flips are over the
    `changed` texts, None where there are none; the tokenizer lets the model see `seen` of them."""

    name: str
    does: str
    keeps: str
    changed: Count
    seen: Count
    mean_move: Share | None
    max_move: Share | None
    flips: Count
    flip_rate: Share | None
    flip_rate_low: Share | None
    flip_rate_high: Share | None
    macro_f1: Share
    macro_f1_drop: Drop
    macro_f1_drop_low: Drop
    macro_f1_drop_high: Drop


class Robustness(Record):
    n: Some
    seed: int
    macro_f1: Share
    perturbations: Annotated[list[Perturbed], Meta(min_length=1)]


class Evaluation(Made, kw_only=True):
    """`without_leaks` are the figures without the texts that train held too, before they were dropped there;
    `others` are the held-out parts of joined sets; `confusion` counts [true label][given label], of
    independent labels [label][true][given]; `reliability` is by what is scored, `functional` by suite, empty
    where the labels are not those of the cases."""

    schema: Literal[1]
    checkpoint: Judged
    split: SplitName
    figures: Figures
    without_leaks: Figures | None = None
    others: dict[str, Figures] = {}
    by_length: Annotated[list[LengthPart], Meta(min_length=1, max_length=4)]
    confusion: Annotated[list[Any], Meta(min_length=2)]
    reliability: Annotated[dict[str, list[Reliability]], Meta(min_length=1)]
    functional: dict[str, Suite] = {}
    robustness: Robustness | None
    seconds: NotNegative
