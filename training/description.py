"""What `checkpoint.json` says of a trained classifier: what it is and where it comes from."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from common.records import Count, NotNegative, Positive, Record, Sha256, Share, Some, Task, Text
from handler.description import Adoption, Bands
from training.data.records import Leak, Unseen
from training.data.sources import Columns
from training.measures.records import Figures

SCHEMA: Literal[1] = 1
Counts = dict[str, Count]


class Machine(Record):
    system: str
    cpu: str
    cores: int
    threads: int
    gpu: str | None


class Made(Record):
    """By which commit (None outside git), versions and machine something was made."""

    commit: str | None
    versions: dict[str, str]
    machine: Machine


class Texts(Record):
    """A split: `labels` counts the texts of each."""

    n: Count
    sha256: Sha256
    labels: Counts


class Data(Record, kw_only=True):
    """`seed` is that of the splits; `others` are the parts of joined sets that are kept out of the training;
    `dropped` counts rows by split and reason; `leaks` are those of each split, before they were dropped from
    train; `unseen` is missing where the model was trained here, or taken over by an earlier version."""

    spec: str
    data_dir: Annotated[str, Meta(pattern="^(/|[A-Za-z]:)")]
    columns: Columns
    seed: int
    sha256: Sha256
    task: Task | None = None
    splits: dict[str, Texts]
    others: dict[str, dict[str, Texts]] = {}
    dropped: dict[str, Counts]
    leaks: dict[str, Leak]
    unseen: Unseen | None = None


class Description(Made, kw_only=True):
    """`positive_label` is the one that is looked for: None where labels are independent, or none of three and
    more was named; where it is missing, the second of two. `bands` are there where decisions were fitted.
    `seed` is that of weights and order, `max_length` is in tokens, `metrics` are by split (none for a model
    that was trained elsewhere)."""

    schema: Literal[1]
    base: Text
    task: Task
    labels: Annotated[list[str], Meta(min_length=2)]
    positive_label: str | UnsetType | None = UNSET
    temperature: Positive
    thresholds: dict[str, Share]
    bands: Bands | None = None
    max_length: Some
    truncation_side: Literal["left"] | None = None
    adoption: Adoption | None = None
    data: Data
    seed: int
    recipe: dict[str, Any]
    metrics: dict[str, Figures]
    seconds: NotNegative
