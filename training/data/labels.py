"""What the values of label columns mean: names, ids, or probabilities.

They are kept at a few bytes per row, since what a column holds is only known at its end.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from common.commands import say
from handler.errors import UserError
from training.data.label_names import (
    NONE,
    hateful,
    is_missing,
    key,
    loose_key,
    natural,
    number,
    stripped,
)
from training.data.positive import positive, sign
from training.data.sources import HATE_LABELS, Columns

MOST_LABELS = 30  # more distinct values than this are ids or texts, not labels
SEVERAL = re.compile(r"\s*[|;,]\s*")  # stands between labels that hold at once
MOST_VALUES = 1000  # that are remembered; more are numbers, or no labels
FIRST_LINES = 5
LEAST_WITHIN = 0.9  # share of numbers from 0 to 1 in a column of probabilities; the others are broken rows
NO_LABEL, UNKNOWN, NOT_ASKED = "no label", "unknown label", "label not asked for"
NOT_JUDGED = "not judged (-1)"
UNLABELLED_ROWS = (NO_LABEL, NOT_ASKED, NOT_JUDGED)  # which are as they should be: nothing is broken
OUTSIDE = "a probability outside 0 to 1"


class Faults:
    """Rows left out, by split and reason: how many, and the lines of the first of them."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.lines: dict[str, dict[str, list[int]]] = {}

    def note(self, split: str, reason: str, line: int) -> None:
        self.add(split, reason, 1, [line])

    def add(self, split: str, reason: str, count: int, lines: Iterable[int]) -> None:
        """Count rows of which `lines` are the first."""
        if count:
            self.counts.setdefault(split, Counter())[reason] += count
            into = self.lines.setdefault(split, {}).setdefault(reason, [])
            into[:] = sorted({*into, *lines})[:FIRST_LINES]


@dataclass(frozen=True)
class Found:
    """The labels of a split: `rows` are those taken that have one, `labels` and `soft` as in a `Split`."""

    rows: np.ndarray
    labels: np.ndarray
    soft: np.ndarray | None = None


class OneColumn:
    """A column of names or ids, or of the probability of the positive label."""

    def __init__(self, columns: Columns, order: Sequence[str] = ()) -> None:
        self.columns = columns
        self.order = order
        self.codes: dict[str, int] = {}
        self.number_of: dict[str, float] = {}
        self.taken: dict[str, array[Any]] = {}  # of each row, its value's code, or -1 for one too many
        self.numbers: dict[str, array[Any]] = {}  # of each row, its value as a number, or NaN
        self.first: dict[tuple[str, int | str], list[int]] = {}
        self.missing: Counter[str] = Counter()  # words for nothing

    def add(self, split: str, line: int, values: Sequence[Any]) -> str:
        """Take a row, or say why it cannot be taken."""
        name, reason = _name(values[0])
        if reason and name not in (*self.columns.labels, *self.order):
            self.missing[name] += 1
            return reason
        code = self.codes.get(name)
        if code is None:
            value = _number(name)
            if len(self.codes) < MOST_VALUES:
                code = self.codes[name] = len(self.codes)
                self.number_of[name] = value
            else:
                code = -1
        else:
            value = self.number_of[name]
        self.taken.setdefault(split, array("h")).append(code)
        self.numbers.setdefault(split, array("f")).append(value)
        if not 0 <= value <= 1:
            self._remember((split, UNKNOWN if np.isnan(value) else OUTSIDE), line)
        self._remember((split, code), line)
        return ""

    def _remember(self, place: tuple[str, int | str], line: int) -> None:
        lines = self.first.setdefault(place, [])
        if len(lines) < FIRST_LINES:
            lines.append(line)

    def finish(self, splits: Iterable[str], faults: Faults) -> tuple[tuple[str, ...], dict[str, Found]]:
        """The labels in their order, and those of every split; rows without one of them are noted."""
        numbers = {split: np.array(self.numbers.get(split, []), np.float32) for split in splits}
        self._say_missing(self.missing)
        # Sets that are published unjudged in part say so in their test: Jigsaw's has -1.
        unjudged = not (numbers["train"] == -1).any()
        judged = [values[values != -1] if unjudged else values for values in numbers.values()]
        if self._are_probabilities(np.concatenate(judged)):
            labels = self.columns.labels or HATE_LABELS
            found = positive(labels, self.columns.positive_label).label
            say(
                f"column {self.columns.label!r} holds probabilities of {found!r}: training learns from them, "
                "and a text with one half or more counts as that label"
            )
            place = labels.index(str(found))
            return labels, {
                split: self._probabilities(split, values, place, unjudged, faults)
                for split, values in numbers.items()
            }
        return self._names(list(numbers), unjudged, faults)

    def _say_missing(self, words: Mapping[str, int]) -> None:
        for word, count in words.items():
            if word:
                say(
                    f"column {self.columns.label!r} holds {word!r} {count:,} times, which is read as no "
                    "label (to change that, list all labels with --labels NAME,NAME,…)"
                )

    def _are_probabilities(self, numbers: np.ndarray) -> bool:
        asked = self.columns.labels
        if not len(numbers) or (asked and (len(asked) != 2 or any(name in self.codes for name in asked))):
            return False
        within = (numbers >= 0) & (numbers <= 1)
        fractions = within & (numbers != 0) & (numbers != 1)
        return bool(fractions.any() and within.mean() >= LEAST_WITHIN)

    def _probabilities(
        self, split: str, numbers: np.ndarray, place: int, unjudged: bool, faults: Faults
    ) -> Found:
        """Those of the label at `place` of two."""
        outside = (numbers < 0) | (numbers > 1)
        not_judged = (numbers == -1) & unjudged
        for reason, broken in {UNKNOWN: np.isnan(numbers), OUTSIDE: outside & ~not_judged}.items():
            faults.add(split, reason, int(broken.sum()), self.first.get((split, reason), ()))
        faults.add(split, NOT_JUDGED, int(not_judged.sum()), ())
        rows = np.flatnonzero((numbers >= 0) & (numbers <= 1))
        held = numbers[rows]
        soft = np.stack([1 - held, held] if place else [held, 1 - held], axis=1)
        return Found(rows, np.where(held >= 0.5, place, 1 - place).astype(np.int64), soft)

    def _names(
        self, splits: Sequence[str], unjudged: bool, faults: Faults
    ) -> tuple[tuple[str, ...], dict[str, Found]]:
        codes = {split: np.array(self.taken.get(split, []), np.int64) for split in splits}
        size = len(self.codes) + 1  # the first is that of the code -1: one value too many
        counts = {split: np.bincount(codes[split] + 1, minlength=size) for split in splits}
        total = dict(zip(self.codes, np.sum(list(counts.values()), axis=0)[1:].tolist(), strict=True))
        reasons = self._without_label(total, unjudged)
        named = [name for name in self.codes if name not in reasons]
        label_of = self._label_asked_for(named) if self.columns.labels else self._label_of(named, total)
        labels = self.columns.labels or self._ordered(label_of.values())
        place_of = np.full(size, -1, dtype=np.int64)
        for name, code in self.codes.items():
            if name in label_of:
                place_of[code + 1] = labels.index(label_of[name])
            elif name not in reasons:
                reasons[name] = NOT_ASKED
        if self.columns.labels:
            reasons[""] = NOT_ASKED
        found = {}
        for split in splits:
            for name, reason in reasons.items():
                code = self.codes.get(name, -1)
                count = int(counts[split][code + 1])
                lines = self.first.get((split, code), ())
                faults.add(split, reason, count, lines)
            places = place_of[codes[split] + 1]
            rows = np.flatnonzero(places >= 0)
            found[split] = Found(rows, places[rows])
        return labels, found

    def _without_label(self, total: Mapping[str, int], unjudged: bool) -> dict[str, str]:
        """Why some values are no labels, where none were asked for."""
        if self.columns.labels:
            return {}
        # The header, written again among the rows: files that were joined have it.
        header = self.columns.label.strip().lower()
        found = {name: UNKNOWN for name in self.codes if name.lower() == header}
        if unjudged:
            found |= {name: NOT_JUDGED for name in self.codes if number(name) == -1}
        others = [name for name in self.codes if name not in found]
        for name in others:
            if name.lower() == NONE and name not in self.order and _none_is_missing(name, others):
                found[name] = NO_LABEL
                self._say_missing({name: total[name]})
        return found

    def _label_of(self, names: Sequence[str], total: Mapping[str, int]) -> dict[str, str]:
        """The label of each value that has one, where none were asked for."""
        kept_apart = set(self.order)
        groups = _grouped(names, lambda name: name if name in kept_apart else key(name))
        label_of: dict[str, str] = {}
        for same, spellings in groups.items():
            label = _spelling(same, spellings, total)
            label_of |= dict.fromkeys(spellings, label)
        labels = set(label_of.values())
        too_many = any(-1 in codes for codes in self.taken.values())
        if too_many or not 2 <= len(labels) <= MOST_LABELS:
            raise UserError(
                f"Column {self.columns.label!r} must hold between 2 and {MOST_LABELS} different labels",
                seen=f"{'more than ' if too_many else ''}{len(labels)} different values",
                remedy=_remedy(labels),
            )
        if not self.columns.verbatim and {hateful(label) for label in labels} == {False, True}:
            return {name: HATE_LABELS[bool(hateful(label))] for name, label in label_of.items()}
        self._say_alike(groups.values(), label_of)
        return label_of

    def _label_asked_for(self, names: Sequence[str]) -> dict[str, str]:
        """The label, of those asked for, of each value that has one."""
        asked = self.columns.labels
        alike = _grouped(asked, key)
        known = {name: [name] if name in asked else alike.get(key(name), []) for name in names}
        label_of = {name: labels[0] for name, labels in known.items() if len(labels) == 1}
        if set(asked) == set(HATE_LABELS):  # which are what yes and no, 1 and 0 are called elsewhere
            said = {name: hateful(name) for name in names if name not in label_of}
            label_of |= {name: HATE_LABELS[says] for name, says in said.items() if says is not None}
        return label_of

    def _say_alike(self, groups: Iterable[Sequence[str]], label_of: Mapping[str, str]) -> None:
        column = self.columns.label
        merged = [
            f"{' and '.join(map(repr, sorted(spellings)))} are {label_of[spellings[0]]!r}"
            for spellings in groups
            if len(spellings) > 1
        ]
        if merged:
            say(f"column {column!r}: several spellings of one label: {', '.join(merged)}")
        near = _grouped(dict.fromkeys(label_of.values()), lambda label: loose_key(label) or label)
        for labels in near.values():
            if len(labels) > 1:
                written = " and ".join(map(repr, sorted(labels)))
                say(f"column {column!r}: WARNING: {written} are read as different labels")

    def _ordered(self, labels: Iterable[str]) -> tuple[str, ...]:
        found = set(labels)
        return HATE_LABELS if found == set(HATE_LABELS) else tuple(sorted(found, key=self._place))

    def _place(self, label: str) -> tuple[Any, ...]:
        """Where a label stands: as its classes have it, then numbers, then not-hate, then the other names."""
        place = self.order.index(label) if label in self.order else len(self.order)
        found = number(label)
        return place, found is None, found or Decimal(0), hateful(label) is not False, natural(label)


def _none_is_missing(none: str, others: Iterable[str]) -> bool:
    """Whether "none", written as `none`, is a missing value rather than a label of its own. It is one among
    numbers and truth values, next to a label that says "not", and if only it is written like Python's
    None."""
    named = [name for name in others if name.lower() != NONE]
    if any(number(name) is not None or name.lower() in ("true", "false") or sign(name) < 0 for name in named):
        return True
    return len(named) > 1 and not any(_style(name) == _style(none) for name in named)


def _style(name: str) -> str:
    if name.islower():
        return "lower"
    return "upper" if name.isupper() else "title"


def _remedy(labels: Collection[str]) -> str:
    """What to do about a column of too few or too many labels. It may hold texts, so none is shown."""
    parts = {part for label in labels for part in SEVERAL.split(label)}
    if len(parts) > MOST_LABELS or not any(SEVERAL.search(label) for label in labels):
        return "Name the right one with --label-column."
    return (
        "Its values seem to be several labels at once. Give each label a column of 0 and 1, and name those "
        "columns: --label-column first,second (with make: ARGS='--label-column first,second')."
    )


def _grouped(names: Iterable[str], by: Callable[[str], Hashable]) -> dict[Hashable, list[str]]:
    found: dict[Hashable, list[str]] = {}
    for name in names:
        found.setdefault(by(name), []).append(name)
    return found


def _spelling(same: Hashable, spellings: Sequence[str], total: Mapping[str, int]) -> str:
    """The name of a label with several spellings: of a number the shortest, else the most frequent."""
    if isinstance(same, Decimal):
        return min(spellings, key=lambda name: (len(name), name))
    return min(spellings, key=lambda name: (-total[name], name))


class ManyColumns:
    """A column for each of several independent labels: 0, 1, or a probability, which holds from one half.

    A row is left out where one of them is missing, or -1: not judged."""

    def __init__(self, names: Sequence[str], columns: Columns) -> None:
        if columns.labels and len(columns.labels) != len(names):
            raise UserError(
                "Each label column needs one label name",
                seen=f"{len(columns.labels)} names for {len(names)} columns",
                remedy="Give --labels one name per column, or leave it out to use the columns' names.",
            )
        self.labels = columns.labels or tuple(names)
        self.taken: dict[str, array[Any]] = {}
        self.number_of: dict[str, float] = {}

    def add(self, split: str, line: int, values: Sequence[Any]) -> str:
        numbers = []
        for value in values:
            name, reason = _name(value)
            if reason:
                return reason
            found = self.number_of.get(name)
            if found is None:
                says = hateful(name)
                found = float(says) if says is not None else _number(name)
                if len(self.number_of) < MOST_VALUES:
                    self.number_of[name] = found
            if found != found:
                return NO_LABEL if name.lower() == NONE else UNKNOWN
            if found == -1:
                return NOT_JUDGED
            if not 0 <= found <= 1:
                return OUTSIDE
            numbers.append(found)
        self.taken.setdefault(split, array("f")).extend(numbers)
        return ""

    def finish(self, splits: Iterable[str], faults: Faults) -> tuple[tuple[str, ...], dict[str, Found]]:
        found = {}
        soft = {
            split: np.array(self.taken.get(split, []), np.float32).reshape(-1, len(self.labels))
            for split in splits
        }
        votes = any(bool(((values != 0) & (values != 1)).any()) for values in soft.values())
        for split, values in soft.items():
            labels = (values >= 0.5).astype(np.int64)
            found[split] = Found(np.arange(len(values)), labels, values if votes else None)
        return self.labels, found


def label_columns(
    columns: Columns, order: Mapping[str, Sequence[str]] | None = None
) -> OneColumn | ManyColumns:
    """A reader for the label columns; `order` has the classes of a column that knows them."""
    names = names_of(columns)
    if len(names) > 1:
        return ManyColumns(names, columns)
    return OneColumn(columns, (order or {}).get(names[0], ()))


def names_of(columns: Columns) -> tuple[str, ...]:
    """The names of the label columns."""
    return tuple(name.strip() for name in columns.label.split(",") if name.strip()) or (columns.label,)


def _name(value: Any) -> tuple[str, str]:
    """A value as it is written, and why it is none."""
    if isinstance(value, (list, dict)):
        return "", UNKNOWN
    if value is None or value != value:  # NaN, which tables write where there is nothing
        return "", NO_LABEL
    name = stripped(str(value))
    return name, NO_LABEL if is_missing(name) else ""


def _number(name: str) -> float:
    found = number(name)
    return float("nan") if found is None else float(found)
