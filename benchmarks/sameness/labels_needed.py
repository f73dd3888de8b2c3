"""How many labels a verdict will take, before anybody labels anything: of a new gate, or of flips alone.

The rate of flips is that of the user's own texts. Which way flips go is not known yet: as many are taken to
be right by fp32 as by the variant, and none to be wrong by both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, log

import msgspec
import numpy as np

from common.records import Count, Share, Some
from common.shares import share_interval
from training.measures.labelled_flips import Checked, FlipSample, drop_of_flips
from training.measures.noninferiority import POWER, drop_of

MOST = 2_000_000  # texts; beyond, no number is worth naming
NEAR = 0.01  # of a number of texts, relative: draws are no more exact
RESAMPLES = 20_000
CURVE = 12  # points


class Point(msgspec.Struct, forbid_unknown_fields=True):
    """With so many labels, the margin that is shown in four of five cases: by a gate, and by flips."""

    labels: Some
    by_gate: float
    by_flips: float


class Need(msgspec.Struct, forbid_unknown_fields=True):
    """Of one variant: `flips` of the texts looked at, their share and its 95 % interval; the labelled texts
    of a new `gate` that would do; or the `unlabelled` texts and `labels` of their flips, the check texts
    among them. None where no number of texts that is worth naming would do."""

    variant: str
    flips: Count
    rate: Share
    low: Share
    high: Share
    gate: Some | None
    unlabelled: Some | None
    labels: Some | None


class LabelPlan(msgspec.Struct, forbid_unknown_fields=True):
    """`needs` for a verdict at `margin` in four of five cases, where nothing is lost. A new gate would be
    asked at `level`, the one of `gate` texts that is there at `level_now`, in its look `run`; `texts` are
    those that were looked at. `curve` is of the variant `drawn`, which needs the most labels."""

    margin: float
    texts: Some
    gate: Some
    run: Some
    level: float
    level_now: float
    checks: Count
    needs: list[Need]
    drawn: str
    curve: list[Point]


@dataclass(frozen=True)
class Population:
    """Shares of texts by (truth, fp32's label, the variant's) `[labels, labels, labels]`, as far as they are
    known without labels."""

    shares: np.ndarray

    @property
    def flip_rate(self) -> float:
        return float((self.shares * ~np.eye(len(self.shares), dtype=bool)).sum())

    def by_gate(self, texts: float, level: float) -> float:
        """The margin that so many labelled texts show in `POWER` of cases, where nothing is lost."""
        counts = texts * self.shares
        return drop_of(counts.ravel(), len(counts), RESAMPLES).smallest_margin(level)

    def by_flips(self, texts: float, gate: float, checks: int, level: float) -> float:
        """The same with so many unlabelled texts whose flips are labelled, and a labelled `gate`."""
        counts = texts * self.shares
        flips = counts * ~np.eye(len(counts), dtype=bool)
        sample = FlipSample(gate * self.shares, counts.sum(axis=0), flips, Checked(checks))
        return drop_of_flips(sample, RESAMPLES).smallest_margin(level)


def population(pairs: np.ndarray, of_reference: np.ndarray) -> Population:
    """From counts of texts by (fp32's label, the variant's) `[labels, labels]` and of labelled texts by
    (truth, fp32's label) `[labels, labels]`. Where the two agree, fp32 is right as often as there."""
    labels = len(pairs)
    each = np.eye(labels)
    right = of_reference / np.maximum(of_reference.sum(axis=0), 1)
    agreeing = np.einsum("ta,ab->tab", right, each)
    either = (each[:, :, None] + each[:, None, :]) / 2 * (1 - each)
    shares = (agreeing + either) * pairs
    return Population(np.asarray(shares / shares.sum()))


def plan(
    pairs: Mapping[str, np.ndarray],
    of_reference: np.ndarray,
    any_flips: float,
    gate: int,
    run: int,
    level_of: Callable[[int], float],
    margin: float,
    checks: int,
) -> LabelPlan:
    """`pairs` by variant and `of_reference` are as `population` takes them; `any_flips` is the share of texts
    that some variant flips, all of which get a label; `level_of` is what a run may spend on each variant."""
    level = level_of(1)
    level_now = level_of(run)
    needs = []
    populations = {}
    for name, counts in pairs.items():
        found = populations[name] = population(counts, of_reference)
        texts = int(counts.sum())
        flips = texts - int(np.trace(counts))

        def with_gate(many: float, found: Population = found) -> float:
            return found.by_gate(many, level)

        def with_flips(many: float, found: Population = found) -> float:
            return found.by_flips(many, gate, checks, level_now)

        unlabelled = _fewest(with_flips, margin)
        low, high = share_interval(flips, texts)
        needs.append(
            Need(
                variant=name,
                flips=flips,
                rate=flips / texts,
                low=low,
                high=high,
                gate=_fewest(with_gate, margin),
                unlabelled=unlabelled,
                labels=None if unlabelled is None else ceil(any_flips * unlabelled) + checks,
            )
        )
    drawn = max(needs, key=lambda need: (need.labels or MOST, need.rate))
    return LabelPlan(
        margin=margin,
        texts=texts,
        gate=gate,
        run=run,
        level=level,
        level_now=level_now,
        checks=checks,
        needs=needs,
        drawn=drawn.variant,
        curve=_curve(populations[drawn.variant], drawn, any_flips, gate, checks, level, level_now),
    )


def _fewest(shown: Callable[[float], float], margin: float) -> int | None:
    """The fewest texts that show the margin, to `NEAR`."""
    few = 1.0
    many = float(MOST)
    if shown(many) > margin:
        return None
    while many / few > 1 + NEAR:
        middle = exp((log(few) + log(many)) / 2)
        few, many = (few, middle) if shown(middle) <= margin else (middle, many)
    return ceil(many)


def _curve(
    found: Population,
    need: Need,
    any_flips: float,
    gate: int,
    checks: int,
    level: float,
    level_now: float,
) -> list[Point]:
    if not any_flips:
        return []
    ends = [count for count in (need.gate, need.labels) if count]
    most = 3 * max(ends, default=gate)
    least = max(checks + 1, min(ends, default=gate) // 3)
    counts: Sequence[int] = np.unique(np.geomspace(least, most, CURVE).astype(int)).tolist()
    return [
        Point(
            labels,
            found.by_gate(labels, level),
            found.by_flips((labels - checks) / any_flips, gate, checks, level_now),
        )
        for labels in counts
    ]


ASSUMED = (
    "as many flips are right by fp32 as by the variant, and none is wrong by both: whether more are for the "
    "worse is what labels will show",
    "fp32 is right as often as on validation texts, whichever label it gives",
    "labelled and unlabelled texts are of one population, drawn independently",
    f"the verdict is to be found in {POWER:.0%} of cases, if the variant loses nothing; the nearer its drop "
    "is to the margin, the more texts it takes",
    "the labeller errs on none of the check texts",
)
