"""What a search for the fastest variant tried."""

from benchmarks.compression.candidates import Candidate
from common.records import Count, NotNegative, Positive, Record, Share, Text

NAME = "compression"  # of the file


class Measured(Record):
    """`faster` is how many times as many texts a second it answers as plain int8, with its 95 % interval.

    `agreement` is the share of validation texts with fp32's label. `margin` is the drop in macro-F1 that a
    gate of the size at hand would rule out in four of five cases, if nothing were lost, from the labels that
    differ there. `equal` is what the check at export found.
    """

    faster: Positive
    low: Positive
    high: Positive
    agreement: Share
    margin: NotNegative
    equal: bool


class Tried(Record):
    """A candidate, and what was measured of it; `refused` says why it was not built."""

    keep: Positive
    may_turn: Share
    recheck: bool
    variant: Text
    measured: Measured | None = None
    refused: str = ""

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.keep, self.may_turn, self.recheck)

    @property
    def faster(self) -> float:
        """0 where it was not built."""
        return self.measured.faster if self.measured else 0.0

    def may_pass(self, margin: float) -> bool:
        """Whether it passes the check and is likely to pass the gate at this margin."""
        return self.measured is not None and self.measured.equal and self.measured.margin <= margin


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
        passing = [tried for tried in self.tried if tried.may_pass(self.margin)]
        return max(passing, key=lambda tried: tried.faster, default=None)
