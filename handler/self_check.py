"""The self-check: what an artifact said of made sequences when it was exported is computed anew at each load.

Kernels differ between CPUs, settings and versions of libraries. How far the logits move near a threshold, and
how many validation texts lie that near to one, bound the share of labels that this changes.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from handler.artifact import Artifact, read_json
from handler.description import Description
from handler.errors import UserError
from handler.records import Bounds, Count, Share, read
from handler.stages import limits, margins

if TYPE_CHECKING:  # the container's program reads settings, and its image has no tokenizers
    from tokenizers import Tokenizer

FILE = "self-check.json"  # in the artifact's folder; artifacts of earlier versions have none
SCHEMA: Literal[1] = 1
MOST_SEQUENCES = 1024
MOST_ID = 2**32 - 1  # that the tokenizer can look up
# Of a logit. Kernels that are the same still add in another order with other threads or batches.
ROUNDING = 1e-4
# One-sided 95 % of a normal distribution: the sequences are a sample of what could be made.
DEVIATIONS = 1.645
# By handler's settings in model-config.yaml, and by the variables that overrule them.
FLIPS = "selfCheckFlips"
ON_MISMATCH = "onMismatch"
VARIABLES = {FLIPS: "SELF_CHECK_FLIPS", ON_MISMATCH: "SELF_CHECK_ON_MISMATCH"}
CHOICES = ("refuse", "warn")

Status = Literal["none", "same", "close", "mismatch"]


@dataclass(frozen=True)
class Recorded:
    """Of one model: its `logits` of the sequences, [sequences, labels], and for each rule that gives labels
    (one of labels that exclude each other, else one a label) points [distance, share]: at most that share of
    texts is answered by this model and lies within that distance, in logits, of another label or decision."""

    logits: list[list[float]]
    within: list[list[list[float]]]


@dataclass(frozen=True)
class Made:
    """What `FILE` holds: sequences of token ids and what each model said of them; and, for the tokenizer,
    texts with their tokens."""

    schema: Literal[1]
    sequences: Annotated[list[list[Count]], Bounds(minItems=2, maxItems=MOST_SEQUENCES)]
    models: Annotated[list[Recorded], Bounds(minItems=1)]
    texts: list[str]
    tokens: list[list[Count]]


@dataclass(frozen=True)
class Tolerance:
    """The share of labels that other kernels may change, and what is done where it may be more: `refuse` to
    load, or `warn` and serve."""

    flips: Share = 0.002
    on_mismatch: Literal["refuse", "warn"] = "refuse"

    @classmethod
    def of(
        cls,
        settings: Mapping[str, object] | None = None,
        flips: float | None = None,
        on_mismatch: str | None = None,
    ) -> "Tolerance":
        """`flips` and `on_mismatch` where they are given, else what the environment says (`VARIABLES`), else
        `settings`, the handler's in model-config.yaml. Raises `UserError` where a value is none."""
        options = {FLIPS: flips, ON_MISMATCH: on_mismatch}

        def first(name: str) -> object:
            given = options[name]
            return (
                given if given is not None else os.environ.get(VARIABLES[name]) or (settings or {}).get(name)
            )

        return cls(_share(first(FLIPS)), _choice(first(ON_MISMATCH)))


@dataclass(frozen=True)
class Outcome:
    """What the self-check found: `none` for an artifact that has none, `same` where all logits agree to
    rounding, `close` where at most `allowed` labels change, else `mismatch`.

    `largest_move` is in logits, None where one is not a number. `tokens_differ` is the number of texts that
    the tokenizer cuts in another way, and `ms` what it all took.
    """

    status: Status
    sequences: int = 0
    largest_move: float | None = 0.0
    flips_at_most: float = 0.0
    allowed: float = 0.0
    tokens_differ: int = 0
    ms: float = 0.0

    def __str__(self) -> str:
        if self.status == "none":
            return "not self-checked: the artifact was built before artifacts checked themselves"
        if self.tokens_differ:
            return f"the tokenizer cuts {self.tokens_differ} of the texts that it is checked with differently"
        if self.largest_move is None:
            return f"not all logits of {self.sequences} made sequences are numbers"
        moved = f"logits of {self.sequences} made sequences move by up to {self.largest_move:.2g}"
        if self.status == "same":
            return f"{moved}: the scores of the export, to rounding"
        return (
            f"{moved}, so up to {self.flips_at_most:.2%} of labels may change "
            f"({self.allowed:.2%} {'are' if self.status == 'close' else 'is'} allowed)"
        )


NONE = Outcome("none")


def read_made(artifact: Artifact, models: int, tokenizer: "Tokenizer") -> Made | None:
    """What the artifact ships to check itself with, for so many models; None where it is older.

    Raises `UserError` where the file does not fit the artifact.
    """
    if FILE not in artifact.meta.files:
        return None
    path = artifact.folder / FILE
    try:
        made = read(Made, read_json(path))
        _fits(made, artifact, models, tokenizer)
    except (OSError, ValueError) as error:
        raise UserError(
            "the artifact's self-check is damaged, or from another version of this project",
            seen=f"{path}: {error}",
            remedy=f"Build it again: python -m export build {artifact.name}",
        ) from error
    return made


def _fits(made: Made, artifact: Artifact, models: int, tokenizer: "Tokenizer") -> None:
    """ValueError where it does not fit the artifact."""
    labels = len(artifact.labels)
    rules = labels if artifact.multi_label else 1
    if len(made.models) != models:
        raise ValueError(f"it is of {len(made.models)} models, not {models}")
    if len(made.texts) != len(made.tokens):
        raise ValueError(f"it has {len(made.texts)} texts, but tokens of {len(made.tokens)}")
    if not all(0 < len(ids) <= artifact.max_length for ids in made.sequences):
        raise ValueError("a sequence is empty or too long")
    tokens = {token for ids in made.sequences for token in ids}
    if max(tokens) > MOST_ID or any(tokenizer.id_to_token(token) is None for token in tokens):
        raise ValueError("a sequence has a token that the tokenizer does not know")
    for model in made.models:
        shape = np.shape(model.logits)
        if shape != (len(made.sequences), labels) or len(model.within) != rules:
            raise ValueError(f"its logits are {shape}")
        for rule in model.within:
            points = np.array(rule, float)
            if points.ndim != 2 or points.shape[1] != 2 or (np.diff(points[:, 0]) < 0).any():
                raise ValueError("its distances do not ascend")


def judge(
    meta: Description,
    made: Made,
    logits: Sequence[np.ndarray],
    tokens: Sequence[Sequence[int]],
    tolerance: Tolerance,
    ms: float,
) -> Outcome:
    """Hold each model's `logits`, [sequences, labels], and the `tokens` of the texts against those made at
    export."""
    differing = sum(list(ours) != list(theirs) for ours, theirs in zip(tokens, made.tokens, strict=True))
    largest: float | None = None
    flips = 1.0
    status: Status = "mismatch"
    if all(np.isfinite(now).all() for now in logits):
        found = [compared(meta, recorded, now) for recorded, now in zip(made.models, logits, strict=True)]
        largest = max(moved for moved, _ in found)
        if not differing:
            flips = min(1.0, sum(at_most for _, at_most in found))
            status = "same" if largest <= ROUNDING else "close" if flips <= tolerance.flips else "mismatch"
    return Outcome(status, len(made.sequences), largest, flips, tolerance.flips, differing, round(ms, 1))


def compared(meta: Description, recorded: Recorded, now: np.ndarray) -> tuple[float, float]:
    """The largest move of a logit, and the bound on the share of labels that such moves change.

    Moves depend on where a text lies: those of the sequences nearest to a threshold (half of them, divided
    among the rules) stand for those of texts near it. Texts within reach count as changed whichever way they
    move. Of a mean over few sequences the upper confidence limit is taken.
    """
    before = np.array(recorded.logits)
    moves = moved(meta, now - before)
    apart = distances(meta, before + (meta.logit_offsets or 0.0))
    some = max(2, len(before) // (2 * len(recorded.within)))
    flips = 0.0
    for rule, points in enumerate(recorded.within):
        distance, share = np.array(points).T
        nearest = np.argsort(apart[:, rule], kind="stable")[:some]
        reached = np.interp(moves[nearest, rule], distance, share)
        flips += float(reached.mean() + DEVIATIONS * reached.std() / np.sqrt(some))
    return float(moves.max()), flips


def distances(meta: Description, logits: np.ndarray) -> np.ndarray:
    """How far texts are from another label by each rule that gives labels, in logits: [texts, rules] from
    [texts, labels]."""
    if meta.task == "multi-label":
        return np.asarray(np.abs(logits - limits(meta)))
    return margins(meta, logits)[:, None]


def moved(meta: Description, differences: np.ndarray) -> np.ndarray:
    """By how much differences of logits, [texts, labels], can at most change these distances."""
    if meta.task == "multi-label":
        return np.asarray(np.abs(differences))
    return np.asarray(np.ptp(differences, axis=1)[:, None])


def _share(value: object) -> float:
    try:
        share = Tolerance.flips if value is None else float(value)  # type: ignore[arg-type] # tried
        if not 0 <= share <= 1:
            raise ValueError
    except (TypeError, ValueError):
        remedy = f"Set {VARIABLES[FLIPS]}, or {FLIPS} in model-config.yaml, to a number from 0 to 1"
        raise UserError("the labels that may change are not a share", seen=value, remedy=remedy) from None
    return share


def _choice(value: Any) -> Literal["refuse", "warn"]:
    if value is None:
        return Tolerance.on_mismatch
    if value not in CHOICES:
        remedy = f"Set {VARIABLES[ON_MISMATCH]}, or {ON_MISMATCH} in model-config.yaml, to refuse or warn"
        raise UserError("it is unknown what to do about a mismatch", seen=value, remedy=remedy)
    return value  # type: ignore[no-any-return] # one of the two
