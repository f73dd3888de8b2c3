"""What the values of label columns mean: names, ids, or probabilities.

Covers: one column of names or ids, one of probabilities, and several of independent labels. They are taken
row by row at a few bytes each, since what a column holds is known at its end alone. Leaves out: reading files
(`rows`), and which texts may stand where (`splits`).
"""

import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handler.commands import say
from handler.errors import UserError
from training.data.sources import HATE_LABELS, Columns

MOST_LABELS = 30  # more distinct values than this are ids or texts, not labels
MOST_VALUES = 1000  # that are remembered; more are numbers, or no labels
FIRST_LINES = 5
LEAST_WITHIN = 0.9  # share of numbers from 0 to 1 in a column of probabilities; the others are broken rows
NOT_HATE = {"0", "0.0", "false", "no", "not-hate", "nothate", "no-hate", "nohate", "non-hate", "normal"}
HATE = {"1", "1.0", "true", "yes", "hate", "hateful"}
NO_LABEL, UNKNOWN, NOT_ASKED = "no label", "unknown label", "label not asked for"
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
    """A column of names or ids, or of the probability of hate."""

    def __init__(self, columns: Columns, order: Sequence[str] = ()) -> None:
        self.columns, self.order = columns, order
        self.codes: dict[str, int] = {}
        self.number_of: dict[str, float] = {}
        self.taken: dict[str, array] = {}  # of each row, its value's code, or -1 for one too many
        self.numbers: dict[str, array] = {}  # of each row, its value as a number, or NaN
        self.first: dict[tuple[str, int | str], list[int]] = {}

    def add(self, split: str, line: int, values: Sequence[Any]) -> str:
        """Take a row, or say why it cannot be taken."""
        name, reason = _name(values[0])
        if reason:
            return reason
        code = self.codes.get(name)
        if code is None:
            number = _number(name)
            if len(self.codes) < MOST_VALUES:
                code = self.codes[name] = len(self.codes)
                self.number_of[name] = number
            else:
                code = -1
        else:
            number = self.number_of[name]
        self.taken.setdefault(split, array("h")).append(code)
        self.numbers.setdefault(split, array("f")).append(number)
        key: int | str = code
        if not 0 <= number <= 1:
            self._remember((split, UNKNOWN if np.isnan(number) else OUTSIDE), line)
        self._remember((split, key), line)
        return ""

    def _remember(self, key: tuple[str, int | str], line: int) -> None:
        lines = self.first.setdefault(key, [])
        if len(lines) < FIRST_LINES:
            lines.append(line)

    def finish(self, splits: Iterable[str], faults: Faults) -> tuple[tuple[str, ...], dict[str, Found]]:
        """The labels in their order, and those of every split; rows without one of them are noted."""
        numbers = {split: np.array(self.numbers.get(split, []), np.float32) for split in splits}
        if self._are_probabilities(np.concatenate(list(numbers.values()))):
            say(
                f"column {self.columns.label!r} holds probabilities: training learns from them, "
                "and what has one half or more counts as the second label"
            )
            return self.columns.labels or HATE_LABELS, {
                split: self._probabilities(split, values, faults) for split, values in numbers.items()
            }
        return self._names(list(numbers), faults)

    def _are_probabilities(self, numbers: np.ndarray) -> bool:
        asked = self.columns.labels
        if not len(numbers) or (asked and (len(asked) != 2 or any(name in self.codes for name in asked))):
            return False
        within = (numbers >= 0) & (numbers <= 1)
        fractions = within & (numbers != 0) & (numbers != 1)
        return bool(fractions.any() and within.mean() >= LEAST_WITHIN)

    def _probabilities(self, split: str, numbers: np.ndarray, faults: Faults) -> Found:
        for reason, broken in {
            UNKNOWN: np.isnan(numbers),
            OUTSIDE: (numbers < 0) | (numbers > 1),
        }.items():
            faults.add(split, reason, int(broken.sum()), self.first.get((split, reason), ()))
        rows = np.flatnonzero((numbers >= 0) & (numbers <= 1))
        hate = numbers[rows]
        return Found(rows, (hate >= 0.5).astype(np.int64), np.stack([1 - hate, hate], axis=1))

    def _names(self, splits: Sequence[str], faults: Faults) -> tuple[tuple[str, ...], dict[str, Found]]:
        label_of, reason_of = self._canonical()
        labels = self.columns.labels or tuple(dict.fromkeys(label_of.values()))
        index = np.full(len(self.codes) + 1, -1, dtype=np.int64)  # the last is that of the code -1
        for name, label in label_of.items():
            if name in self.codes:
                index[self.codes[name]] = labels.index(label)
        found = {}
        for split in splits:
            codes = np.array(self.taken.get(split, []), np.int64)
            counts = np.bincount(codes + 1, minlength=len(self.codes) + 1)
            for name, reason in reason_of.items():
                code = self.codes.get(name, -1)
                faults.add(split, reason, int(counts[code + 1]), self.first.get((split, code), ()))
            rows = np.flatnonzero(index[codes] >= 0)
            found[split] = Found(rows, index[codes][rows])
        return labels, found

    def _canonical(self) -> tuple[dict[str, str], dict[str, str]]:
        """The label of each value, in the order that labels are to have; and why other values have none."""
        asked, column = self.columns.labels, self.columns.label
        too_many = any(-1 in codes for codes in self.taken.values())
        if asked:
            others = {name: NOT_ASKED for name in self.codes if name not in asked}
            return {name: name for name in asked}, others | ({"": NOT_ASKED} if too_many else {})
        # The header, written again among the rows: files that were joined have it.
        unknown = {name: UNKNOWN for name in self.codes if name.lower() == column.strip().lower()}
        seen = sorted((name for name in self.codes if name not in unknown), key=self._place)
        if too_many or not 2 <= len(seen) <= MOST_LABELS:
            raise UserError(
                f"Column {column!r} must hold between 2 and {MOST_LABELS} different labels",
                seen=f"{'more than ' if too_many else ''}{len(seen)} different values",
                remedy="Name the right one with --label-column.",
            )
        if all(_plain(name) in NOT_HATE | HATE for name in seen):
            return {name: HATE_LABELS[_plain(name) in HATE] for name in seen}, unknown
        return {name: name for name in seen}, unknown

    def _place(self, name: str) -> tuple:
        """Where a label stands: as its classes have it, else not-hate first, then by number, then by name."""
        place = self.order.index(name) if name in self.order else len(self.order)
        number = int(name) if name.isdecimal() else sys.maxsize
        return place, _plain(name) not in NOT_HATE, number, name


class ManyColumns:
    """A column for each of several independent labels: 0, 1, or a probability, which holds from one half."""

    def __init__(self, names: Sequence[str], columns: Columns) -> None:
        if columns.labels and len(columns.labels) != len(names):
            raise UserError(
                "Each label column needs one label name",
                seen=f"{len(columns.labels)} names for {len(names)} columns",
                remedy="Give --labels as many, or leave it out: the columns' names are the labels'.",
            )
        self.labels = columns.labels or tuple(names)
        self.taken: dict[str, array] = {}
        self.number_of: dict[str, float] = {}

    def add(self, split: str, line: int, values: Sequence[Any]) -> str:
        numbers = []
        for value in values:
            name, reason = _name(value)
            if reason:
                return reason
            number = self.number_of.get(name)
            if number is None:
                number = float(_plain(name) in HATE) if _plain(name) in NOT_HATE | HATE else _number(name)
                if len(self.number_of) < MOST_VALUES:
                    self.number_of[name] = number
            if number != number:
                return UNKNOWN
            if not 0 <= number <= 1:
                return OUTSIDE
            numbers.append(number)
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
    """What takes the values of the columns named; `order` are the classes of a column that knows them."""
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
    name = str(value).strip()
    return name, "" if name else NO_LABEL


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return float("nan")


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")
