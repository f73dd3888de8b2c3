"""What bands decide on texts that they were not fitted to: how often as fp32 does, and if promises hold."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from benchmarks.records import Decided, Kept, Rate
from common.flips import ARROW
from common.shares import share_interval
from handler.answers import DECISIONS
from handler.artifact import Artifact
from handler.bands import decisions
from handler.description import Bands
from training.measures.bands import COST, counted, share_of
from training.measures.noninferiority import share_of_groups


def decided(
    artifact: Artifact,
    scores: np.ndarray,
    reference: Artifact,
    reference_scores: np.ndarray,
    truth: np.ndarray | None,
    groups: np.ndarray | None = None,
) -> Decided | None:
    """From scores of the same texts, [texts, labels], each decided by its own artifact's bands; None where
    one of the two has none. What was promised is judged by the labels `truth` [texts]."""
    bands, theirs = artifact.meta.bands, reference.meta.bands
    if bands is None or theirs is None or artifact.positive is None or reference.positive is None:
        return None
    ours = decisions(scores, artifact.positive, bands)
    wanted = decisions(reference_scores, reference.positive, theirs)
    differs = ours != wanted
    ways = Counter(
        f"{DECISIONS[before]}{ARROW}{DECISIONS[after]}"
        for before, after in zip(wanted[differs].tolist(), ours[differs].tolist(), strict=True)
    )
    return Decided(
        shares={word: float((ours == place).mean()) for place, word in enumerate(DECISIONS)},
        differ=rate_of(differs, groups),
        ways=dict(ways),
        kept=[] if truth is None else kept(bands, ours, truth == artifact.positive),
    )


def rate_of(held: np.ndarray, groups: np.ndarray | None) -> Rate:
    """The share of texts that are `held`, bool [texts], with its 95 % interval, exact or of `groups`."""
    count = int(held.sum())
    n = len(held)
    low, high = share_interval(count, n) if groups is None else share_of_groups(held, groups)
    return Rate(n=count, rate=count / n, low=low, high=high)


def kept(bands: Bands, decided: np.ndarray, truth: np.ndarray) -> list[Kept]:
    """What these texts show of each promise but that of a cost, with exact 95 % intervals."""
    found = []
    for promise in bands.promises:
        if promise.kind != COST:
            broken, among = counted(promise.kind, decided, truth)
            found.append(kept_of(promise.kind, promise.promised, broken, among))
    return found


def kept_of(kind: str, promised: float, broken: int, among: int) -> Kept:
    """From the texts that break the promise, and those that it is about."""
    low, high = sorted(share_of(kind, end) for end in share_interval(broken, among)) if among else (0.0, 1.0)
    share = broken / among if among else 0.0
    return Kept(kind=kind, promised=promised, n=among, found=share_of(kind, share), low=low, high=high)


def words(kept: Sequence[Kept]) -> str:
    """Each promise with what was found of it."""
    return "; ".join(
        f"{promise.kind} {promise.found:.1%} ({promise.low:.1%} to {promise.high:.1%}), "
        f"promised {promise.promised:.4g}"
        for promise in kept
    )
