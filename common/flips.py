"""Labels that differ from another classifier's on the same texts: which way, and whether by chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.stats import binomtest

ARROW = " -> "
Decision = str | Sequence[str]  # a label, or those of independent ones that are given


def ways(labels: Sequence[str], independent: bool) -> list[tuple[str, str]]:
    """Each kind of flip with its opposite, such as `("hate -> not-hate", "not-hate -> hate")`; of independent
    labels, `("insult -> no insult", "no insult -> insult")`."""
    pairs = [(label, f"no {label}") for label in labels] if independent else combinations(labels, 2)
    return [(f"{one}{ARROW}{other}", f"{other}{ARROW}{one}") for one, other in pairs]


def opposite(way: str) -> str:
    """The way back."""
    before, after = way.split(ARROW)
    return f"{after}{ARROW}{before}"


def flips_of(before: Decision, after: Decision) -> list[str]:
    """How one text flipped, in the words of `ways`: empty where its labels are the same."""
    if isinstance(before, str) and isinstance(after, str):
        return [] if before == after else [f"{before}{ARROW}{after}"]
    gone, new = sorted({*before} - {*after}), sorted({*after} - {*before})
    return [f"{label}{ARROW}no {label}" for label in gone] + [f"no {label}{ARROW}{label}" for label in new]


def mcnemar(there: int, back: int) -> float:
    """Exact two-sided p-value that as many go one way as the other (McNemar, 1947)."""
    return float(binomtest(there, there + back).pvalue) if there + back else 1.0


@dataclass(frozen=True)
class OneWay:
    """Of the flips between two labels, `there` went the way `way` and `back` the other; `p` is of as uneven a
    split by chance (McNemar's test of the decisions, times the pairs of labels)."""

    way: str
    there: int
    back: int
    p: float


def one_way(counts: Mapping[str, int], by_group: Mapping[str, int] | None = None) -> OneWay | None:
    """The least even pair of flips, counted by all ways; None where nothing flipped. Macro-F1 can stay as it
    was while one kind of error is traded for the other: this sees it. Texts of a group are no independent
    trials: `by_group` counts the groups that flip oftener one way than back, and the test is of these."""
    pairs = len(counts) // 2
    found = []
    for way, there in counts.items():
        back = counts.get(opposite(way), 0)
        if there > back:
            trials = counts if by_group is None else by_group
            p = mcnemar(trials[way], trials.get(opposite(way), 0))
            found.append(OneWay(way, there, back, min(1.0, pairs * p)))
    return min(found, key=lambda uneven: uneven.p, default=None)
