"""How many times as fast one row is as another, from the turns that both had in the same blocks.

In a block, which is one start of every process, a row's time is the 10th percentile of its turns: other load
on the machine only ever adds to a time. The interval is Student's over the blocks' log ratios, so it includes
the effect of a restart.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import t

from benchmarks import records
from benchmarks.names import BY_TEXT

LOW, MEDIAN = 0.1, 0.5
EQUAL_RATIO = 1.05  # two that are this close are equal: there is no reason to ship another for less
CONFIDENCE = 0.95

Block = list[list[float]]
"""By turn: the milliseconds of each call."""

Times = Sequence[float | None]
"""By block: milliseconds of a call; None where the row took no part."""

Word = Literal["faster", "slower", "equal", "not resolved"]


def time_ms(block: Block, by_text: bool, share: float = LOW) -> float:
    """Milliseconds of a call in a block, that `share` of turns from the quickest.

    Calls of a turn are alike, and the quickest counts; or each is of a text of its own (`by_text`), the same
    ones in all turns: then it is the mean over texts.
    """
    turns = np.array(block)
    if not by_text:
        turns = turns.min(axis=1, keepdims=True)
    return float(np.quantile(turns, share, axis=0).mean())


def compared(reference: Sequence[Block], candidate: Sequence[Block], by_text: bool) -> records.Ratio | None:
    """Reference time by candidate time, over the blocks in which both took part; None without any."""
    low, middle = (
        [
            [time_ms(block, by_text, share) if block else None for block in row]
            for row in (reference, candidate)
        ]
        for share in (LOW, MEDIAN)
    )
    found = of_times(*low)
    if found is not None:
        found.of_medians = float(np.exp(_logs(*middle).mean()))
    return found


def between(reference: records.Latency, candidate: records.Latency) -> records.Ratio:
    """As `compared`, of a case that both rows of a report have.

    An earlier version has no turns: both entries hold a ratio to fp32 in the same rounds, and the ends of the
    quotient's interval are at worst the quotients of their ends.
    """
    blocks = unpacked(reference.turns), unpacked(candidate.turns)
    found = compared(*blocks, by_text=reference.case in BY_TEXT)
    if found is None:
        ours, theirs = reference.speedup, candidate.speedup
        low = theirs.low / ours.high
        high = theirs.high / ours.low
        found = records.Ratio(ratio=theirs.ratio / ours.ratio, low=low, high=high, verdict=verdict(low, high))
    return found


def of_times(reference: Times, candidate: Times) -> records.Ratio | None:
    """As `compared`, of the time in each block."""
    logs = _logs(reference, candidate)
    if not len(logs):
        return None
    low, high = student(logs)
    word = verdict(low, high) if len(logs) > 1 else "not resolved"
    return records.Ratio(ratio=float(np.exp(logs.mean())), low=low, high=high, verdict=word)


def _logs(reference: Times, candidate: Times) -> np.ndarray:
    """The log ratio of each block in which both took part."""
    paired = [(ours, theirs) for ours, theirs in zip(reference, candidate, strict=False) if ours and theirs]
    return np.log([ours / theirs for ours, theirs in paired])


def student(logs: np.ndarray) -> tuple[float, float]:
    """The ends of the 95 % interval of a ratio, from log ratios `[blocks]`; of one block both are the ratio:
    nothing is known of the spread."""
    middle = logs.mean()
    reach = 0.0
    if len(logs) > 1:
        reach = t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    return float(np.exp(middle - reach)), float(np.exp(middle + reach))


def verdict(low: float, high: float) -> Word:
    """The verdict of a ratio's interval: wholly within 5 % of 1, or wholly beyond (Kruschke's rule for a
    region of practical equivalence). So no two of these verdicts can both be true."""
    if low > EQUAL_RATIO:
        return "faster"
    if high < 1 / EQUAL_RATIO:
        return "slower"
    return "equal" if low >= 1 / EQUAL_RATIO and high <= EQUAL_RATIO else "not resolved"


def packed(blocks: Sequence[Block]) -> list[str]:
    """The turns as a report holds them, a line a block: calls apart by spaces, turns by semicolons; empty
    for a block without this row."""
    return ["; ".join(" ".join(f"{call:.4g}" for call in turn) for turn in block) for block in blocks]


def unpacked(lines: Sequence[str]) -> list[Block]:
    """The turns again."""
    return [
        [[float(call) for call in turn.split()] for turn in line.split(";")] if line else [] for line in lines
    ]
