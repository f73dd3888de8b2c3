"""Percentiles, and rows by their length in tokens."""

from collections.abc import Sequence

import numpy as np

# Fewer samples than this put a percentile on one or two observations.
LEAST_SAMPLES = {50: 1, 90: 20, 99: 100}
# Upper ends, in tokens, of the bins in which lengths are reported.
LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """The percentile, or None where the samples are too few to tell."""
    return float(np.percentile(samples, percent)) if len(samples) >= LEAST_SAMPLES[percent] else None


def by_length(tokens: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of each bin of `LENGTHS` that has any, by the bin's upper end."""
    bins = np.searchsorted(LENGTHS, tokens)
    ends = [*LENGTHS, int(max(tokens.max(initial=1), LENGTHS[-1]))]
    return {ends[place]: np.flatnonzero(bins == place) for place in np.unique(bins).tolist()}
