"""The shares of texts that are watched for drift: of each label and stage, of scores and lengths up to each
edge of a bin, and of labels that differ from fp32's.

A share may differ from the reference by less than the smallest change that matters. The reference is a
sample, so its share is known to within an interval.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scipy.stats import binom
from tabulate import tabulate

from common.flips import Decision, flips_of, ways
from common.shares import share_interval
from deploy.drift.judge import Counts, Distribution, Rule, texts_of
from handler.artifact import Artifact

FLIPS, FLIPPED, COMPARED = "flips", "any", "compared"
# Of all false alarms, and of all references that mislead, half are for labels and flips, half for the rest.
HALF = 0.5


@dataclass(frozen=True)
class Share:
    """Texts with a property, of those that are `counted`: (hits, texts). From `low` to `high` is no drift;
    `reference` is what it was. `weight` is the part of all false alarms that may be this one's."""

    name: str
    distribution: str
    reference: float
    low: float
    high: float
    weight: float
    counted: Callable[[Counts], tuple[int, int]] = field(compare=False)

    @property
    def is_of_decisions(self) -> bool:
        return self.distribution.startswith(("label:", "asked:")) or self.distribution == FLIPS


@dataclass(frozen=True)
class Look:
    """A share at a single look. `p` is the chance of one as far outside what is allowed, were it within."""

    share: str
    texts: int
    rate: float
    reference: float
    low: float
    high: float
    p: float
    verdict: str  # drift | no drift | too few texts


def shares_of(
    reference: Sequence[Distribution], rule: Rule, flips_of: Artifact | None = None
) -> tuple[Share, ...]:
    """All that the `reference` has; and flips against fp32, where the artifact is given whose labels flip."""
    of_labels = [
        _share(distribution, 0, rule.min_shift) for distribution in reference if distribution.is_share
    ]
    if flips_of:
        of_labels += _flips(FLIPS, ways(flips_of.labels, flips_of.multi_label), rule.max_flip)
    others = [
        _share(distribution, place, rule.ks)
        for distribution in reference
        if not distribution.is_share
        for place in range(len(distribution.bins) - 1)
    ]
    return tuple(build(HALF / len(group), rule.alpha) for group in (of_labels, others) for build in group)


def flip_shares(kinds: Mapping[str, Sequence[tuple[str, str]]], rule: Rule) -> tuple[Share, ...]:
    """Flips alone: of each kind, by its name in the counts, with its ways."""
    builds = [build for name, pairs in kinds.items() for build in _flips(name, pairs, rule.max_flip)]
    return tuple(build(1 / len(builds), rule.alpha) for build in builds)


def count_flips(counts: Counts, name: str, before: Decision, after: Decision) -> None:
    """Count a text among those that were compared, and how it flipped."""
    found = flips_of(before, after)
    counts[name, COMPARED] += 1
    counts[name, FLIPPED] += bool(found)
    counts.update((name, way) for way in found)


_Build = Callable[[float, float], Share]  # of its weight, and of what may go wrong in all


def _share(of: Distribution, place: int, least: float) -> _Build:
    """The texts in the bins up to `place`."""
    hits, texts = sum(of.counts[: place + 1]), sum(of.counts)
    name = of.name if of.is_share else f"{of.name} up to {of.bins[place]}"

    def counted(counts: Counts) -> tuple[int, int]:
        found = of.of(counts)
        return int(found[: place + 1].sum()), int(found.sum())

    def build(weight: float, alpha: float) -> Share:
        if not texts:  # adopted without texts: anything may be
            return Share(name, of.name, 0.5, 0.0, 1.0, weight, counted)
        low, high = share_interval(hits, texts, 1 - _of_half(alpha, weight))
        return Share(name, of.name, hits / texts, low - least, high + least, weight, counted)

    return build


def _flips(name: str, pairs: Sequence[tuple[str, str]], most: float) -> list[_Build]:
    """The texts that flipped; then, of each pair of ways, the part that went one way rather than back."""

    def way(there: str, back: str) -> _Build:
        def counted(counts: Counts) -> tuple[int, int]:
            return counts[name, there], counts[name, there] + counts[name, back]

        own = there if name == FLIPS else f"{name}: {there}"
        return lambda weight, _: Share(own, name, 0.5, 0.5, 0.5, weight, counted)

    def flipped(counts: Counts) -> tuple[int, int]:
        return counts[name, FLIPPED], counts[name, COMPARED]

    return [
        lambda weight, _: Share(name, name, 0.0, 0.0, most, weight, flipped),
        *(way(*pair) for pair in pairs),
    ]


def _of_half(alpha: float, weight: float) -> float:
    """Half of `alpha` is for references that mislead, half for what a look finds."""
    return alpha * weight / 2


def look(share: Share, counts: Counts, rule: Rule) -> Look:
    """What one look says of a share: an exact test of its being within what is allowed."""
    hits, texts = share.counted(counts)
    rate = hits / texts if texts else float("nan")
    low, high = max(share.low, 0.0), min(share.high, 1.0)
    p = min(1.0, 2 * float(min(binom.sf(hits - 1, texts, high), binom.cdf(hits, texts, low))))
    verdict = "drift" if p < _of_half(rule.alpha, share.weight) else "no drift"
    if texts_of(counts) < rule.least_texts:
        verdict = "too few texts"
    return Look(share.name, texts, rate, share.reference, low, high, p, verdict)


def looks_table(looks: Sequence[Look]) -> str:
    """For people."""
    rows = [
        (
            look.share,
            f"{look.texts:,}",
            "–" if not look.texts else f"{look.rate:.2%}",
            f"{look.reference:.2%}",
            f"{look.low:.2%} to {look.high:.2%}",
            f"{look.p:.2g}",
            look.verdict,
        )
        for look in looks
    ]
    headers = ("share", "texts", "now", "reference", "no drift", "p", "verdict")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
