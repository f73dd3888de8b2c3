"""Which of the data's labels each output of an adopted model stands for, and how well that fits.

An assignment by equal names, or by the user, is certain; one by numbers is a convention; one in the order of
the data's names is a guess, so the user has to give it. All are shown in a table, with their accuracy.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from sklearn.metrics import f1_score
from tabulate import tabulate

from handler.errors import UserError
from training.data.label_names import hateful, key, loose_key, number
from training.data.sources import HATE_LABELS

IN_ORDER = "in the order of the data's names, a guess"
NUMBERED = re.compile(r"(?:label|class)?[ _-]?(\d+)", re.IGNORECASE)
# Another assignment is clearly better if it is significant at this level, corrected for all possible orders,
# and gains this much accuracy (for independent labels, this much macro-F1).
LEVEL, GAIN, F1_GAIN = 1e-3, 0.05, 0.1
CERTAIN, CONVENTION, GUESS = "certain", "convention", "guess"


@dataclass(frozen=True)
class Assignment:
    """`names` are the labels in the order of the outputs, `own` the model's names for them; `how` says how
    they were matched, and `trust` whether that is `CERTAIN`, a `CONVENTION` or a `GUESS`."""

    own: tuple[str, ...]
    names: tuple[str, ...]
    how: str
    trust: str


@dataclass(frozen=True)
class Fit:
    """How an assignment fits labelled texts: how many texts each label has, how many of them are right, and
    the names in the order that fits best, with its accuracy."""

    texts: tuple[int, ...]
    right: tuple[int, ...]
    total: int
    accuracy: float
    macro_f1: float
    best: tuple[str, ...]
    best_accuracy: float
    clearly_better: bool


def assign(
    own: tuple[str, ...], given: tuple[str, ...], named: tuple[str, ...], public: bool = False
) -> Assignment:
    """Assign the data's labels `given` to a model's outputs, which it calls `own`. `named` are the user's
    names in the order of the outputs; `public` says that the data is a set whose numbers are known.

    Raises `UserError` if there are not as many labels as outputs, or the user contradicts the model.
    """
    if len(given) != len(own):
        raise UserError(
            "the model's labels are not those of the data",
            seen=f"{', '.join(own)} and {', '.join(given)}",
            remedy="Give a label for each output in the model's order (--labels; for tables)",
        )
    if named:
        _check_order(own, named)
        return Assignment(own, named, "as --labels says", CERTAIN)
    for written in (str, key, loose_key, hateful):  # the strictest first
        by_name = {written(name): name for name in given}
        if {written(name) for name in own} == set(by_name) and len(by_name) == len(own):
            return Assignment(own, tuple(by_name[written(name)] for name in own), "by name", CERTAIN)
    if order := numbered(own):
        return _by_number(own, order, given, public)
    return Assignment(own, given, IN_ORDER, GUESS)


def _check_order(own: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Refuse the model's own names in another order."""
    ours = [loose_key(name) for name in named]
    theirs = [loose_key(name) for name in own]
    if sorted(ours) == sorted(theirs) and ours != theirs:
        raise UserError(
            "--labels contradicts the model's own names",
            seen=f"{', '.join(named)}; the outputs are {', '.join(own)}",
            remedy="Give them in the order of the outputs, or leave --labels out",
        )


def _by_number(own: tuple[str, ...], order: list[int], given: tuple[str, ...], public: bool) -> Assignment:
    """For outputs that are only numbered."""
    values = {name: value for name in given if (value := number(name)) is not None}
    if len(values) == len(given):
        ascending = sorted(given, key=values.__getitem__)
        return Assignment(own, tuple(ascending[place] for place in order), "by number", CONVENTION)
    names = tuple(given[place] for place in order)
    if public or given == HATE_LABELS:
        return Assignment(own, names, "by the number that the data has for it", CONVENTION)
    return Assignment(own, names, IN_ORDER, GUESS)


def numbered(names: Sequence[str]) -> list[int]:
    """The numbers of names that are only numbers from 0 on (LABEL_1, LABEL_0); else none."""
    found = [match for name in names if (match := NUMBERED.fullmatch(name.strip()))]
    order = [int(match[1]) for match in found]
    return order if sorted(order) == list(range(len(names))) else []


def fit(assignment: Assignment, logits: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> Fit:
    """Compare an assignment with `logits` [texts, outputs] of texts whose labels are `truth`: indices of
    `labels` [texts], or 0 and 1 [texts, labels]."""
    place = [labels.index(name) for name in assignment.names]  # of the label of each output
    if truth.ndim == 2:
        return _fit_independent(logits > 0, truth, place, labels)
    answers = logits.argmax(axis=1)
    count = len(labels)
    table = np.zeros((count, count), np.int64)  # outputs by labels
    np.add.at(table, (answers, truth), 1)
    best = linear_sum_assignment(-table)[1]
    ours, theirs = np.array(place)[answers] == truth, best[answers] == truth
    gained, lost = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    orders = math.lgamma(count + 1)  # log of how many there are
    chance = binomtest(gained, gained + lost).pvalue if gained > lost else 1.0
    beyond = math.log(max(chance, 1e-300)) + orders < math.log(LEVEL)
    gain = float(theirs.mean() - ours.mean())
    of_label = np.bincount(truth, minlength=count)
    return Fit(
        tuple(int(of_label[label]) for label in place),
        tuple(int(table[output, label]) for output, label in enumerate(place)),
        len(truth),
        float(ours.mean()),
        float(f1_score(truth, np.array(place)[answers], average="macro", zero_division=0)),
        tuple(labels[label] for label in best),
        float(theirs.mean()),
        beyond and gain >= GAIN,
    )


def _fit_independent(
    answers: np.ndarray, truth: np.ndarray, place: Sequence[int], labels: Sequence[str]
) -> Fit:
    """For independent labels: the F1 of every output for every label decides which order fits best."""
    both = answers.T.astype(np.int64) @ truth
    f1 = 2 * both / np.maximum(1, answers.sum(axis=0)[:, None] + truth.sum(axis=0)[None])
    best = linear_sum_assignment(-f1)[1]
    outputs = np.arange(len(labels))
    ours, theirs = float(f1[outputs, place].mean()), float(f1[outputs, best].mean())
    return Fit(
        tuple(int(truth[:, label].sum()) for label in place),
        tuple(int(both[output, label]) for output, label in enumerate(place)),
        len(truth),
        float((answers == truth[:, place]).mean()),
        ours,
        tuple(labels[label] for label in best),
        float((answers == truth[:, best]).mean()),
        theirs - ours > F1_GAIN,
    )


def table(assignment: Assignment, found: Fit | None = None) -> str:
    """The assignment as a table, one row per output, with its fit if there are labelled texts."""
    rows = []
    for output, (own, name) in enumerate(zip(assignment.own, assignment.names, strict=True)):
        row: dict[str, object] = {"output": output, "the model's own name": own, "label": name}
        if found is not None:
            row |= {"texts with the label": found.texts[output], "of these right": found.right[output]}
        rows.append(row)
    lines = [tabulate(rows, headers="keys", disable_numparse=True, colalign=("right",))]
    lines.append(f"labels are assigned to the outputs {assignment.how}")
    if found is not None:
        lines[-1] += (
            f": accuracy {found.accuracy:.3f}, macro-F1 {found.macro_f1:.3f} on {found.total:,} texts "
            f"(the most frequent label has {max(found.texts) / found.total:.0%} of them)"
        )
        if found.clearly_better:
            lines.append(
                f"the order {','.join(found.best)} fits far better: accuracy {found.best_accuracy:.3f}"
            )
    return "\n".join(lines)


def require_known(assignment: Assignment, found: Fit, independent: bool = False) -> None:
    """Raise `UserError` if the assignment is a guess, or a convention that the data contradicts."""
    order = ",".join(found.best)
    # Independent labels are columns, which --labels renames: both are given in the model's order.
    options = f"--label-column {order} --labels {order}" if independent else f"--labels {order}"
    if assignment.trust == GUESS:
        raise UserError(
            "the model's names do not tell which label each output stands for",
            seen=f"{', '.join(assignment.own)} and {', '.join(assignment.names)}",
            remedy=f"Give the data's labels in the model's order; the best fit is {options}",
        )
    if assignment.trust == CONVENTION and found.clearly_better:
        raise UserError(
            "the data's labels do not seem to match the model's outputs by number",
            seen=f"accuracy {found.accuracy:.3f}, and {found.best_accuracy:.3f} in another order",
            remedy=f"Give the data's labels in the model's order; the best fit is {options}",
        )


def record(assignment: Assignment, found: Fit | None) -> dict[str, Any]:
    """For `checkpoint.json`."""
    record: dict[str, object] = {"own": list(assignment.own), "how": assignment.how}
    if found is not None:
        record |= {"texts": found.total, "accuracy": found.accuracy, "macro_f1": found.macro_f1}
        if found.clearly_better:
            record |= {"fits_better": list(found.best), "its_accuracy": found.best_accuracy}
    return record
