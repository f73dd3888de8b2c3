"""The random texts that a roll-out sends, and the tests of the labels that they get."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.flips import Decision, OneWay, flips_of, one_way, ways
from common.shares import share_interval
from common.tables.texts import read_texts
from deploy.drift.detector import AnytimeTest
from deploy.tuning.sample import MOST_CHARACTERS, MOST_TEXTS
from handler.errors import UserError
from scoring.plan import plan, read_part

Answer = dict[str, Any]
PREDICTED = "Give the output of python -m handler predict with fp32, for a file with a text column"


@dataclass(frozen=True)
class Asked:
    """A text, and the label that fp32 gave it as `predict` writes it; None where that is not known."""

    text: str
    fp32: str | None = None


@dataclass(frozen=True)
class Sample:
    """Texts to compare versions by, and `fresh` ones for the time that the new version is watched."""

    compared: Sequence[Asked]
    fresh: Sequence[Asked] = ()


def drawn(texts: Path | None, fp32: Path | None, count: int, seed: int) -> Sample:
    """Of the lines of `texts`, or of the rows that `predict` wrote with `fp32`, `count` at random and up to
    `MOST_TEXTS` others."""
    rng = np.random.default_rng(seed)
    found: Iterable[Asked] = map(Asked, read_texts(texts)) if texts else _predicted(str(fp32))
    shortened = (Asked(asked.text[:MOST_CHARACTERS], asked.fp32) for asked in found)
    kept = _kept(shortened, count + MOST_TEXTS, rng)
    return Sample(kept[:count], kept[count:])


def _kept(found: Iterable[Asked], most: int, rng: np.random.Generator) -> list[Asked]:
    """At most so many, each as likely as any other, in random order, whatever the size of the file."""
    kept: list[Asked] = []
    for number, asked in enumerate(found):
        if number < most:
            kept.append(asked)
        elif (place := int(rng.integers(number + 1))) < most:
            kept[place] = asked
    return [kept[place] for place in rng.permutation(len(kept))]


def _predicted(path: str) -> Iterator[Asked]:
    """Rows with an answer, and no longer than a server reads."""
    try:
        for part in plan(path, "text", 10_000, None).parts:
            for row in read_part(part, "text"):
                if not row.get("error") and 0 < len(row["text"]) <= MOST_CHARACTERS:
                    yield Asked(row["text"], row["label"] or "")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("these are not fp32's answers", seen=path, remedy=PREDICTED) from error


def decision(answer: Answer) -> Decision:
    """The label, or those of independent ones that are over their thresholds."""
    return str(answer["label"]) if "label" in answer else list(answer["labels"])


def recorded(asked: Asked, answer: Answer) -> Decision | None:
    """What fp32 said, in the form of `answer`."""
    if asked.fp32 is None or "label" in answer:
        return asked.fp32
    return _parted(asked.fp32, list(answer["scores"]))


def _parted(joined: str, labels: Sequence[str]) -> list[str]:
    """Labels that `|` joins, of which some may hold one themselves; what is none of `labels` ends at the
    next."""
    found = []
    while joined:
        known = [label for label in labels if f"{joined}|".startswith(f"{label}|")]
        label = max(known, key=len, default=joined.partition("|")[0])
        found.append(label)
        joined = joined[len(label) + 1 :]
    return found


@dataclass(frozen=True)
class Flips:
    """The share of `texts` whose label is another, the upper end of its 95 % interval, and the way that more
    of them went than the other; None where none flipped."""

    texts: int
    share: float
    high: float
    way: OneWay | None


class Flipping:
    """Flips are counted and tested as they come, at `alpha` in all: whether more than `most` flip, and
    whether of each kind as many go the one way as the other."""

    def __init__(self, most: float, alpha: float) -> None:
        self._most = most
        self._alpha = alpha
        self._tests: dict[str, tuple[AnytimeTest, str]] = {}
        self._rate: AnytimeTest | None = None
        self._ways: Counter[str] = Counter()

    def add(self, before: Decision, answer: Answer) -> None:
        """A text that had the label `before`, and now has the answer's."""
        kinds = ways(list(answer["scores"]), "labels" in answer)
        if self._rate is None:
            of_each = self._alpha / (1 + len(kinds))
            self._rate = AnytimeTest(0.0, self._most, of_each)
            for there, back in kinds:
                test = AnytimeTest(0.5, 0.5, of_each)
                self._tests |= {there: (test, there), back: (test, there)}
            self._ways = Counter({way: 0 for kind in kinds for way in kind})
        found = flips_of(before, decision(answer))
        self._rate.add(bool(found), 1)
        self._ways.update(found)
        for way in found:
            if way in self._tests:  # a version with other labels flips in ways that are no kind
                test, there = self._tests[way]
                test.add(way == there, 1)

    def found(self) -> Flips | None:
        """What was counted; None of no texts."""
        if self._rate is None:
            return None
        hits, texts = self._rate.hits, self._rate.texts
        return Flips(texts, hits / texts, share_interval(hits, texts)[1], one_way(self._ways))

    def objection(self) -> str | None:
        """Why to stop now; None as long as there is no reason to."""
        if self._rate is not None and self._rate.is_rejected:
            return f"{self._rate.hits} of {self._rate.texts} labels differ, the limit is {self._most:.1%}"
        if any(test.is_rejected for test, _ in self._tests.values()):
            return words(one_way(self._ways))
        return None


def words(way: OneWay | None) -> str:
    """Such as: labels go one way: 12 hate -> not-hate, 1 back."""
    return f"labels go one way: {way.there} {way.way}, {way.back} back" if way else "no label differs"
