"""The confidence interval of a counted share, and rules that keep one; the same in every stage."""

from collections.abc import Iterable

from scipy.stats import beta

P99_LATE = 0.01  # the share of late requests that a p99 allows


def share_interval(count: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share of `count` in `n`, exact (Clopper and Pearson, 1934).

    Where what was counted is not independent, both are divided by how many count as one, and need not be
    whole (Korn and Graubard, 1998).
    """
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, count, n - count + 1) if count > 0 else 0.0
    high = beta.isf(tail, count + 1, n - count) if count < n else 1.0
    return float(low), float(high)


def kept_in_sequence(counts: Iterable[tuple[int, int]], most: float, confidence: float) -> tuple[int, float]:
    """How many rules of a sequence are shown to keep a share of at most `most`, and the bound of the last.

    `counts` are, for each rule, the texts that break it and the texts that it is about, in an order that was
    set before the texts were seen. Rules are tested one after the other until the exact upper bound exceeds
    `most`: a fixed sequence of tests (Learn then Test, Angelopoulos et al. 2021, arXiv:2110.01052), so that
    none need be corrected for the others. A bound of 0 is that of no rule.
    """
    kept = 0
    bound = 0.0
    for broken, among in counts:
        upper = upper_share(broken, among, confidence)
        if upper > most:
            break
        kept += 1
        bound = upper
    return kept, bound


def upper_share(count: float, n: float, confidence: float) -> float:
    """The exact upper bound alone: the share is below it with this confidence."""
    return share_interval(count, n, 2 * confidence - 1)[1]
