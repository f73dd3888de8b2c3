"""What the search may combine, and the variant that each combination is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

KEPT = (1.0, 0.9, 0.75, 0.6, 0.5)  # of the encoder's arithmetic; 1: not pruned
MAY_TURN = (0.0, 0.005, 0.01, 0.02)  # of labels, by a first stage; 0: there is none
INT8 = "openvino-int8"


@dataclass(frozen=True)
class Candidate:
    """`keep` is the share of the encoder's arithmetic that pruning leaves, `may_turn` the share of labels
    that word embeddings in front may turn; a `recheck` asks close texts again in more bits."""

    keep: float = 1.0
    may_turn: float = 0.0
    recheck: bool = False

    @property
    def variant(self) -> str:
        """Its name among the variants."""
        parts = [INT8]
        if self.keep < 1:
            parts.insert(0, "pruned")
        if self.recheck:
            parts.append("rechecked")
        if self.may_turn:
            parts.append("cascade")
        return "-".join(parts)

    @property
    def params(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Candidate":
        return cls(**params)

    def __str__(self) -> str:
        words = [f"{self.keep:.0%} of the encoder" if self.keep < 1 else "the whole encoder", "int8"]
        if self.recheck:
            words.append("re-check")
        if self.may_turn:
            words.append(f"first stage may turn {self.may_turn:.1%}")
        return ", ".join(words)


def space(prunable: bool) -> dict[str, tuple[float | bool, ...]]:
    """The values of each field of a candidate."""
    return {"keep": KEPT if prunable else KEPT[:1], "may_turn": MAY_TURN, "recheck": (False, True)}


def candidates(prunable: bool) -> list[Candidate]:
    """All of the space."""
    values = space(prunable)
    return [Candidate.of(dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]
