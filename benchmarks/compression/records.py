"""What a search for the fastest variant tried."""

from benchmarks.compression.candidates import Candidate
from common.records import Count, Positive, Record, Text

NAME = "compression"  # of the file


class Tried(Record):
    """`faster` is how many times as many texts a second it answers as plain int8, with its 95 % interval.

    `margin` is the drop in macro-F1 that a gate of the size at hand would rule out in four of five cases, if
    nothing were lost, from the labels that differ on validation. `refused` says why it was not built.
    """

    keep: Positive
    may_turn: float
    recheck: bool
    variant: Text
    faster: float | None = None
    low: float | None = None
    high: float | None = None
    agreement: float | None = None
    margin: float | None = None
    equal: bool = False
    refused: str = ""

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.keep, self.may_turn, self.recheck)

    def may_pass(self, margin: float) -> bool:
        """Whether it passes the check and is likely to pass the gate at this margin."""
        return self.equal and self.margin is not None and self.margin <= margin


class Compression(Record):
    """What was tried, in its order; `left` combinations were not. `margin` is that of the gate's verdict."""

    data: str
    margin: Positive
    gate: Count
    left: Count
    tried: list[Tried]

    @property
    def best(self) -> Tried | None:
        """The fastest that is likely to pass."""
        passing = [each for each in self.tried if each.may_pass(self.margin)]
        return max(passing, key=lambda each: each.faster or 0.0, default=None)
