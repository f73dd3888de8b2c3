"""Does the drift alarm keep its promise, and how soon does it see a change? Counted over simulated traffic.

Each run draws its own reference, so that misleading references are included.
"""

from collections.abc import Callable
from itertools import product

import msgspec
import numpy as np
from scipy.stats import beta
from tabulate import tabulate

from common.records import Count, Positive, Share, Some
from deploy.drift.detector import ALTERNATIVES, NOTHING, Bets, bets, evidence, grown
from deploy.drift.judge import Rule
from deploy.drift.shares import HALF

REFERENCES = (200, 999, 2000, 20_000)  # validation splits, and a day of traffic
QUIET = (0, 10_000, 1_000_000)  # texts before the change
WAITED = 100_000  # texts after it, at most
LOOK, QUIET_LOOK = 50, 1000  # texts from one look to the next
# The share of texts with a label, what it becomes, and the least change that matters: a queue that doubles,
# one that triples, and a campaign.
CHANGES = ((0.05, 0.10, 0.01), (0.05, 0.15, 0.05), (0.42, 0.60, 0.05))
SHORT_RUN = 10_000.0  # texts per alarm that can be waited for, at the edge of what is allowed
SHORT_LOOK = 10
RULE = Rule()


class Watched(msgspec.Struct, forbid_unknown_fields=True):
    """Of `runs` runs with a reference of `reference` texts: the share with a false alarm within `quiet`
    texts, while the label is given to `before` of them; the share in which its being given to `after` is
    `seen` within `WAITED` texts; and after how many in half of the runs and in 90 %, null where later."""

    reference: Some
    before: Share
    after: Share
    min_shift: Share
    quiet: Count
    runs: Some
    false_alarms: Share
    seen: Share
    median: float | None
    most: float | None


class Calm(msgspec.Struct, forbid_unknown_fields=True):
    """Of `runs` runs of `texts` texts that are given a label as often as those of which the reference is a
    sample, or more often by all of `min_shift`: the share with an alarm."""

    reference: Some
    share: Share
    min_shift: Share
    texts: Some
    runs: Some
    alarms: Share
    alarms_at_edge: Share


class Wait(msgspec.Struct, forbid_unknown_fields=True):
    """The texts until the first false alarm, on average over `runs`, where the share is known and is as large
    as it may be; `texts_per_alarm` or more are promised."""

    share: Share
    texts_per_alarm: Positive
    runs: Some
    mean: Positive


class Alarms(msgspec.Struct, forbid_unknown_fields=True):
    """All that is counted of the drift alarm."""

    calm: list[Calm]
    watched: list[Watched]
    waits: list[Wait]


# The cases.
CALM = list(product(CHANGES, REFERENCES))
WATCHED = list(product(CHANGES, REFERENCES, QUIET))
WAITS = (0.05, 0.42)


def simulate(runs: int, tick: Callable[[int], object]) -> Alarms:
    """Every case, with `runs` runs each; `tick` is told of as many as were made, `steps(runs)` in all."""
    found = Alarms([], [], [])
    for (share, _, shift), reference in CALM:
        found.calm.append(calm(reference, share, shift, runs))
        tick(runs)
    for (before, after, shift), reference, quiet in WATCHED:
        found.watched.append(watched(reference, before, after, shift, quiet, runs))
        tick(runs)
    for share in WAITS:
        found.waits.append(wait(share, runs))
        tick(runs)
    return found


def steps(runs: int) -> int:
    return runs * (len(CALM) + len(WATCHED) + len(WAITS))


def calm(reference: int, share: float, shift: float, runs: int, texts: int = max(QUIET)) -> Calm:
    """Traffic without drift."""
    alarms = [
        float(np.isfinite(_Traffic(reference, share, shift, runs).until_alarm(now, texts, QUIET_LOOK)).mean())
        for now in (share, share + shift)
    ]
    return Calm(reference, share, shift, texts, runs, *alarms)


def watched(reference: int, before: float, after: float, shift: float, quiet: int, runs: int) -> Watched:
    """Traffic that changes after `quiet` texts. Where there was a false alarm, the change is not seen."""
    traffic = _Traffic(reference, before, shift, runs)
    was_false = np.isfinite(traffic.until_alarm(before, quiet, QUIET_LOOK))
    delays = np.where(was_false, np.inf, traffic.until_alarm(after, WAITED, LOOK))
    median, most = (
        float(texts) if np.isfinite(texts := np.quantile(delays, part, method="higher")) else None
        for part in (0.5, 0.9)
    )
    seen = float(np.isfinite(delays).mean())
    false = float(was_false.mean())
    return Watched(reference, before, after, shift, quiet, runs, false, seen, median, most)


def wait(share: float, runs: int) -> Wait:
    """Traffic at the edge of what is allowed, until each run has had its alarm."""
    traffic = _Traffic(None, share, RULE.min_shift, runs, SHORT_RUN)
    return Wait(share, SHORT_RUN, runs, float(traffic.until_alarm(share + RULE.min_shift).mean()))


class _Traffic:
    """Runs that go on side by side, each against a reference of its own; None: all know the share."""

    def __init__(
        self, reference: int | None, share: float, shift: float, runs: int, per_alarm: float | None = None
    ) -> None:
        self.rng = np.random.default_rng([int(1000 * share), reference or 0])
        self.levels = np.full((runs, ALTERNATIVES), NOTHING)
        # One label, which half of the false alarms may be of; where it is known it is alone.
        self.alarm = np.log(per_alarm or RULE.texts_per_alarm / HALF)
        if reference is None:
            low = high = np.full(runs, share)
        else:
            low, high = _intervals(self.rng.binomial(reference, share, runs), reference)
        self.against: Bets = bets(low - shift, high + shift)

    def until_alarm(self, share: float, most: float = np.inf, look: int = SHORT_LOOK) -> np.ndarray:
        """Texts until the alarm, float64 [runs]; infinite where there was none in `most` texts."""
        first = np.full(len(self.levels), np.inf)
        texts = 0
        while texts < most and np.isinf(first).any():
            hits = self.rng.binomial(look, share, len(self.levels))
            texts += look
            self.levels = grown(self.levels, self.against, hits, look)
            first[(evidence(self.levels) >= self.alarm) & np.isinf(first)] = texts
        return first


def _intervals(hits: np.ndarray, texts: int) -> tuple[np.ndarray, np.ndarray]:
    """As `common.shares.share_interval` has it of a label, of many references at once."""
    tail = RULE.alpha * HALF / 4
    low = np.where(hits > 0, beta.ppf(tail, hits, texts - hits + 1), 0.0)
    high = np.where(hits < texts, beta.isf(tail, hits + 1, texts - hits), 1.0)
    return low, high


def tables(found: Alarms) -> str:
    """As Markdown: false alarms; how soon a change is seen."""
    return f"{_calm_table(found)}\n\n{_watched_table(found)}"


def _calm_table(found: Alarms) -> str:
    rows = [
        (
            f"{calm.share:.0%}",
            f"{calm.min_shift:.0%}",
            f"{calm.reference:,}",
            f"{calm.alarms:.1%}",
            f"{calm.alarms_at_edge:.1%}",
        )
        for calm in found.calm
    ]
    heads = ("share", "least change", "reference", "false alarms, no change", "false alarms, least change")
    return tabulate(rows, heads, "github", disable_numparse=True)


def _watched_table(found: Alarms) -> str:
    rows = []
    for (before, after, shift), reference in CALM:
        same = [
            watched
            for watched in found.watched
            if (watched.before, watched.after, watched.reference) == (before, after, reference)
        ]
        cells = [
            f"{_texts(watched.median)} / {_texts(watched.most)} ({watched.seen:.0%})" for watched in same
        ]
        rows.append((f"{before:.0%} to {after:.0%}", f"{shift:.0%}", f"{reference:,}", *cells))
    heads = ("change", "least change", "reference", *(f"after {quiet:,} texts" for quiet in QUIET))
    return tabulate(rows, heads, "github", disable_numparse=True)


def _texts(count: float | None) -> str:
    return "–" if count is None else f"{count:,.0f}"


def note(found: Alarms) -> str:
    """How to read the tables."""
    runs, rule = found.calm[0].runs, RULE
    means = " and ".join(f"{wait.mean:,.0f}" for wait in found.waits)
    return (
        f"{runs:,} simulated runs each, every run with its own reference; {rule.texts_per_alarm:,.0f} texts "
        f"per false alarm. First table: the share of runs with an alarm within {max(QUIET):,} texts that "
        "have not changed, or by no more than the least change that matters. The promise is "
        f"{max(QUIET) / rule.texts_per_alarm:.0%} at most, and {rule.alpha / 2:.1%} more for misleading "
        "references. Second table: the number of texts from a change to the alarm, in half of the runs / in "
        f"nine of ten (in brackets, the runs that see the change within {WAITED:,} texts). If the allowed "
        f"range is known, the share is at its edge and {SHORT_RUN:,.0f} texts per false alarm are promised, "
        f"the first alarm came after {means} texts on average."
    )


def excerpt(found: Alarms) -> str:
    """The tables with their note."""
    return f"{tables(found)}\n\n{note(found)}"


def page(found: Alarms) -> str:
    """All of it as a Markdown page."""
    return f"# How often the drift alarm is wrong, and how soon it comes\n\n{excerpt(found)}\n"
