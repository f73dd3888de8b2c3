"""Whether the traffic has moved away from the texts on which the classifier was evaluated.

Served scores and lengths, in bins, are compared with those of the validation texts in `artifact.json`. There
are two distances, since each sees what the other is slow to see: the population stability index (PSI) sees
any change of shape, Kolmogorov and Smirnov's (KS) a small shift of everything in one direction.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from scipy.stats import chi2, kstwobign
from tabulate import tabulate

from handler.artifact import Artifact
from handler.errors import UserError
from handler.metrics import dimension, length_bin, score_bin

# Fixed limits alone mislead: of scores and lengths that have not drifted at all, one or the other exceeds the
# customary PSI of 0.1 in 3 % of streams of 200 texts against 1,000 reference texts, and in 23 % against 200.
# So drift is said only where a distance is large enough to matter and beyond what samples of these sizes show
# by chance.

# Texts by distribution (`score:hate`, `label:hate`, `length`) and bin, named as in the metrics.
Counts = Counter[tuple[str, str]]

# Bins that hold less of the reference are put together with the next: chi-square needs counts, not traces.
GIVEN, ELSE = "given", "else"  # the bins of a label; of a stage, texts that it was asked
LENGTHS = "length"
LEAST_SHARE = 0.05
LEAST_COUNT = 10


@dataclass(frozen=True)
class Rule:
    """What counts as drift: a distance of at least `psi` or `ks`, a label's share that moved by more than
    `min_shift`, a share of flips over `max_flip`. A single look is wrong with a probability of `alpha`, where
    stream and reference have at least `least_texts` each; what is looked at again and again, once in
    `texts_per_alarm` texts or less often, but for references that mislead (half of `alpha`)."""

    psi: float = 0.1
    ks: float = 0.1
    min_shift: float = 0.05
    max_flip: float = 0.05
    alpha: float = 0.01
    texts_per_alarm: int = 10_000_000
    least_texts: int = 200


DEFAULT = Rule()


@dataclass(frozen=True)
class Distribution:
    """A reference: how many validation texts lay in each bin, in the bins' order."""

    name: str
    bins: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def is_share(self) -> bool:
        return self.bins == (GIVEN, ELSE)

    def of(self, counts: Counts) -> np.ndarray:
        """What `counts` has in these bins, float64 [bins]. Texts that a label was not given to, or a stage
        was not asked, are counted by their lengths alone."""
        if self.is_share:
            given = counts[self.name, GIVEN]
            texts = texts_of(counts)
            return np.array([given, max(texts - given, 0)], dtype=np.float64)
        return np.array([counts[self.name, place] for place in self.bins], dtype=np.float64)


@dataclass(frozen=True)
class Verdict:
    """One distribution held against its reference; p-values are those of a single look, uncorrected."""

    distribution: str
    texts: int
    reference_texts: int
    psi: float
    psi_p: float
    ks: float
    ks_p: float
    verdict: str  # drift | no drift | too few texts


def texts_of(counts: Counts) -> int:
    """How many texts were counted: each has one length."""
    return sum(count for (name, _), count in counts.items() if name == LENGTHS)


def references(artifact: Artifact, replacement: Counts | None = None) -> tuple[Distribution, ...]:
    """What the artifact's validation texts looked like, or the texts of the `replacement`: the scores that
    have a histogram, lengths, how often each label was given (of two the positive one), which artifacts of
    earlier versions do not say, and how often each later stage was asked, which a `replacement` does not
    say."""
    scores, lengths = artifact.meta.reference.scores, artifact.meta.reference.lengths
    by_label = scores.labels or {_counted_label(artifact): scores.counts}
    score_bins = tuple(score_bin(low, scores.edges) for low in scores.edges[:-1])
    length_bins = (*(length_bin(top, lengths.up_to) for top in lengths.up_to), "inf")
    of_scores = [
        Distribution(f"score:{dimension(label)}", score_bins, tuple(counts))
        for label, counts in by_label.items()
    ]
    given = artifact.meta.reference.labels
    texts = sum(lengths.counts)
    if given is None:
        given = {} if replacement is None else dict.fromkeys(artifact.labels, 0)
    of_labels = [
        Distribution(f"label:{dimension(label)}", (GIVEN, ELSE), (count, texts - count))
        for label, count in given.items()
        if len(artifact.labels) > 2 or artifact.multi_label or label == artifact.positive_label
    ]
    asked = {} if replacement is not None else artifact.meta.reference.asked or {}
    of_stages = [
        Distribution(f"asked:{dimension(stage)}", (GIVEN, ELSE), (count, texts - count))
        for stage, count in asked.items()
    ]
    found = (*of_scores, Distribution(LENGTHS, length_bins, (*lengths.counts, 0)), *of_labels, *of_stages)
    return found if replacement is None else replaced(found, replacement)


def _counted_label(artifact: Artifact) -> str:
    """The label of a reference that has the scores of one alone; of three and more it is the last."""
    return artifact.labels[-1] if len(artifact.labels) > 2 else str(artifact.positive_label)


def replaced(reference: Sequence[Distribution], counts: Counts) -> tuple[Distribution, ...]:
    """The same distributions with other texts' counts in the place of the validation texts'."""
    check_bins(reference, counts)
    return tuple(
        Distribution(distribution.name, distribution.bins, tuple(map(int, distribution.of(counts))))
        for distribution in reference
    )


def assess(reference: Sequence[Distribution], counts: Counts, rule: Rule = DEFAULT) -> list[Verdict]:
    """A verdict for each distribution of scores and lengths. Raises `UserError` when the counts are another
    artifact's.

    PSI: sum of (q - p) ln(q / p) over bins. Without drift it is distributed as (1/n + 1/m) times a chi-square
    of bins - 1 degrees of freedom (Yurdakul, Statistical Properties of Population Stability Index, Western
    Michigan University, 2018). KS: the largest difference of the cumulative shares at the bins' edges, with
    the asymptotic distribution of the two-sample statistic, which is conservative over bins. Bonferroni's
    correction is over both distances of all distributions.
    """
    check_bins(reference, counts)
    texts = {distribution.name: distribution.of(counts).sum() for distribution in reference}
    lacking = sorted(name for name, count in texts.items() if not count)
    reference = [distribution for distribution in reference if not distribution.is_share]
    if lacking and max(texts.values()) >= rule.least_texts:  # fewer may be on their way
        raise _foreign(f"no texts counted for {', '.join(lacking)}")
    level = rule.alpha / 2 / (2 * len(reference))  # the other half is for labels
    return [_verdict(distribution, distribution.of(counts), rule, level) for distribution in reference]


def check_bins(reference: Sequence[Distribution], counts: Counts) -> None:
    """Raises `UserError` where `counts` have bins that the reference's artifact does not have."""
    bins = {distribution.name: distribution.bins for distribution in reference}
    strange = sorted(f"{name} {place}" for name, place in counts if place not in bins.get(name, (place,)))
    if strange:
        raise _foreign(f"bins {', '.join(strange)}")


def _foreign(seen: str) -> UserError:
    remedy = "Set --artifact to the served artifact or archive"
    return UserError("the counts are not from this artifact", seen=seen, remedy=remedy)


def _verdict(reference: Distribution, stream: np.ndarray, rule: Rule, level: float) -> Verdict:
    before = np.array(reference.counts, dtype=np.float64)
    n, m = float(stream.sum()), float(before.sum())
    if min(n, m) < rule.least_texts:
        nothing = float("nan")
        few = (nothing, nothing, nothing, nothing, "too few texts")
        return Verdict(reference.name, round(n), round(m), *few)
    (psi, psi_p), (ks, ks_p) = stability_index(before, stream), ks_distance(before, stream)
    drift = (psi >= rule.psi and psi_p < level) or (ks >= rule.ks and ks_p < level)
    figures = (psi, psi_p, ks, ks_p)
    return Verdict(reference.name, round(n), round(m), *figures, "drift" if drift else "no drift")


def stability_index(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """PSI of two histograms, float64 [bins], and its p-value. Half a text is added to each bin, so that one
    that is empty has a logarithm."""
    starts = _joined(before)
    p, q = (np.add.reduceat(counts, starts) + 0.5 for counts in (before, after))
    p, q = p / p.sum(), q / q.sum()
    psi = float(((q - p) * np.log(q / p)).sum())
    scale = 1 / before.sum() + 1 / after.sum()
    return psi, float(chi2.sf(psi / scale, len(starts) - 1)) if len(starts) > 1 else 1.0


def ks_distance(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """The largest difference of two histograms' cumulative shares, and its p-value."""
    n, m = before.sum(), after.sum()
    distance = float(np.abs(before.cumsum() / n - after.cumsum() / m).max())
    return distance, float(kstwobign.sf(distance * np.sqrt(n * m / (n + m))))


def _joined(before: np.ndarray) -> list[int]:
    """Where each bin begins, once those with too few of the reference texts are joined."""
    least = max(LEAST_SHARE * before.sum(), LEAST_COUNT)
    starts, held = [0], 0.0
    for place, count in enumerate(before):
        if held >= least and before[place:].sum() >= least:
            starts.append(place)
            held = 0.0
        held += count
    return starts


class Judged(Protocol):
    """What has a verdict."""

    @property
    def verdict(self) -> str: ...


def worst(verdicts: Sequence[Judged]) -> str:
    """Of all together: drift where any has drifted, too few texts where any has."""
    found = {verdict.verdict for verdict in verdicts}
    return next(kind for kind in ("drift", "too few texts", "no drift") if kind in found)


def table(verdicts: Sequence[Verdict]) -> str:
    """For people."""
    headers = ("distribution", "texts", "reference", "PSI", "p", "KS", "p", "verdict")
    rows = []
    for verdict in verdicts:
        figures = ("–",) * 4
        if verdict.verdict != "too few texts":
            figures = (
                f"{verdict.psi:.3f}",
                f"{verdict.psi_p:.2g}",
                f"{verdict.ks:.3f}",
                f"{verdict.ks_p:.2g}",
            )
        texts = (f"{verdict.texts:,}", f"{verdict.reference_texts:,}")
        rows.append((verdict.distribution, *texts, *figures, verdict.verdict))
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def without_nan(verdict: Any) -> dict[str, Any]:
    """For machines; a figure that too few texts do not give is null."""
    return {key: None if value != value else value for key, value in asdict(verdict).items()}
