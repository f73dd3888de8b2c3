"""What `artifact.json` says; `python -m tests.house.schemas` makes `artifact.schema.json` of these types."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from handler.batching import Grid
from handler.records import Bounds, Count, Share, Some

SCHEMA: Literal[1] = 1

Sha256 = Annotated[str, Bounds(pattern="^[0-9a-f]{64}$")]
Device = Literal["cpu", "cuda"]
Offset = Annotated[float, Bounds(minimum=-1000, maximum=1000)]
Pair = Bounds(minItems=2, maxItems=2)


@dataclass(frozen=True)
class File:
    sha256: Sha256
    bytes: Count


@dataclass(frozen=True)
class Inputs:
    """`truncation_side` is where a text that is too long is cut; right where it is missing."""

    names: Annotated[list[Literal["input_ids", "attention_mask"]], Pair]
    max_length: Annotated[int, Bounds(minimum=2)]
    pad_id: Count
    buckets: Grid
    truncation_side: Literal["left", "right"] | None = None


@dataclass(frozen=True)
class Training:
    """`data` and `base` by names that mean something elsewhere; `metrics` by split."""

    base: str
    trained: bool
    data: str
    data_sha256: str
    seed: int
    commit: str | None
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Build:
    inputs_sha256: str
    checkpoint_sha256: str
    versions: dict[str, str]
    machine: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Adoption:
    """How a model that was trained elsewhere was held against transformers, where its labels came from, and
    what its user is to know."""

    texts: Count
    max_logit_diff: float
    logit_margin: float
    texts_computed: Count | None = None
    transformers: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


PromiseKind = Literal["precision", "recall", "false-positive-rate", "review-share", "cost"]


@dataclass(frozen=True)
class Promise:
    """What bands keep: `promised` is the least precision or recall, the most of the other kinds, and `found`
    what the `texts` that it is about showed at the fit."""

    kind: PromiseKind
    promised: Annotated[float, Bounds(minimum=0)]
    found: Annotated[float, Bounds(minimum=0)]
    texts: Count


@dataclass(frozen=True)
class Bands:
    """The scores of the positive label from which on to `act` and to `review`: what is below both may pass.
    All `promises` hold at once with this `confidence`; `fitted_on` names the labelled texts."""

    act: Share
    review: Share
    confidence: Share
    fitted_on: str
    texts: Some
    promises: list[Promise]


@dataclass(frozen=True)
class Check:
    """The comparison with fp32 on validation texts; no macro-F1 where labels mean nothing."""

    split: str
    n: Some
    max_prob_diff: float
    mean_prob_diff: float
    label_agreement: float
    macro_f1: float | None
    macro_f1_drop: Annotated[list[float], Pair] | None
    batch_mate_diff: float
    equal: bool
    note: str


@dataclass(frozen=True)
class Scores:
    """A histogram: `counts` of the positive one of two labels, or of the last; `labels` where all count."""

    edges: list[float]
    counts: list[Count]
    labels: dict[str, list[Count]] | None = None


@dataclass(frozen=True)
class Lengths:
    """A histogram of tokens by bucket."""

    up_to: list[Some]
    counts: list[Count]


@dataclass(frozen=True)
class Reference:
    """What validation texts look like, for drift to be measured against; `labels` is how many were given each
    label, which earlier versions did not write, and `asked` how many each later stage was asked."""

    scores: Scores
    lengths: Lengths
    labels: dict[str, Count] | None = None
    asked: dict[str, Count] | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """`runtime` is one of `handler.runtimes.RUNTIMES`. `positive_label` is the one that is looked for: null
    where labels are independent, or none of three and more was named; where it is missing, the second of two.
    `logit_offsets`, one for each label, are added to the model's logits before these are scaled.
    `bands` are the positive label's, where decisions were fitted.
    """

    schema: Literal[1]
    name: Annotated[str, Bounds(pattern="^[a-z0-9][a-z0-9-]*$")]
    summary: str
    runtime: str
    runtime_options: dict[str, Any]
    devices: Annotated[list[Device], Bounds(minItems=1)]
    parent: str | None
    requires: list[str]
    cpu_features: list[str]
    cuda_capability: Annotated[list[Count], Pair] | None = None
    cuda_capability_exact: bool | None = None
    files: Annotated[dict[str, File], Bounds(minProperties=1)]
    inputs: Inputs
    task: Literal["single-label", "multi-label"]
    labels: Annotated[list[str], Bounds(minItems=2)]
    positive_label: str | None = ""
    temperature: Annotated[float, Bounds(exclusiveMinimum=0)]
    logit_offsets: list[Offset] | None = None
    thresholds: dict[str, Share]
    bands: Bands | None = None
    training: Training
    build: Build
    proof: Annotated[dict[str, Any], Bounds(minProperties=1)]
    adoption: Adoption | None = None
    check: Check
    reference: Reference
