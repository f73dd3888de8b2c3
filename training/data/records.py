"""What is counted of data: leaks, and what `python -m training data` tells."""

from typing import Final, Literal

from common.records import Count, Record, Share, Task

# Of a model that was trained elsewhere: why its gate, validation and test texts are none that it was trained
# on. They lie in files that are not for training, the user says so, or nothing says so.
KEPT_APART: Final = "kept apart"
STATED: Final = "stated"
UNKNOWN: Final = "unknown"
Unseen = Literal["kept apart", "stated", "unknown"]


def is_synthetic(spec: str) -> bool:
    """Whether the texts are the demo's: a verdict on them is a rehearsal."""
    return spec.partition("+")[0] in ("demo", "texts:embedded")


class Leak(Record):
    """`texts` of a split that train held too; `other_label` of these bore another label there."""

    texts: Count
    other_label: Count

    def of(self, name: str) -> str:
        other = f"{self.other_label:,} of them with another label"
        return f"{self.texts:,} texts of {name} were also in train, {other}"


class Tokens(Record):
    """Lengths of texts; None where there are no texts. `over_max_length` is the share that is cut."""

    mean: float | None
    p50: Count | None
    p90: Count | None
    p99: Count | None
    max: Count | None
    over_max_length: Share


class Texts(Record):
    """A split: `probabilities` says that labels were given as such, `copies` stand there more than once."""

    texts: Count
    labels: dict[str, Count]
    probabilities: bool
    copies: Count
    tokens: Tokens


class Dropped(Record):
    """`lines` are the first of them, in a file."""

    rows: Count
    lines: list[Count]


class Part(Record):
    """What one set gives to the training: `texts`, each of which counts `weight` in the loss."""

    spec: str
    weight: float
    texts: Count


class Contents(Record):
    spec: str
    sha256: str
    base: str
    task: Task
    labels: list[str]
    positive_label: str | None
    warnings: list[str]
    max_length: int
    parts: list[Part]
    splits: dict[str, Texts]
    others: dict[str, dict[str, Texts]]
    leaks: dict[str, Leak]
    dropped: dict[str, dict[str, Dropped]]

    @property
    def all_texts(self) -> dict[str, Texts]:
        """Of the splits, and of the held-out parts of joined sets."""
        held = {
            f"{split} of {name}": part for name, own in self.others.items() for split, part in own.items()
        }
        return self.splits | held
