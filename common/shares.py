"""How sure a share is that was counted: the one interval that every stage uses."""

from scipy.stats import binomtest


def share_interval(count: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of `count` in `n`, exact (Clopper and Pearson, 1934)."""
    found = binomtest(count, n).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)
