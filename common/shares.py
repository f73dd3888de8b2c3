"""The confidence interval of a counted share, the same in every stage."""

from scipy.stats import beta


def share_interval(count: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share of `count` in `n`, exact (Clopper and Pearson, 1934).

    Where what was counted is not independent, both are divided by how many count as one, and need not be
    whole (Korn and Graubard, 1998).
    """
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, count, n - count + 1) if count > 0 else 0.0
    high = beta.isf(tail, count + 1, n - count) if count < n else 1.0
    return float(low), float(high)
