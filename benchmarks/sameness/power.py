"""Do the verdicts keep their promises? Counted over simulated pairs of classifiers whose true drop is known.

A pair is a table of shares: how often fp32 is right, and how often the variant alone is right or wrong where
the other is not. Texts are drawn from it, judged as a run judges them, and the verdicts counted: a variant
whose true drop is the margin must not pass in more than 2.5 % of cases, and one that is far worse must fail.
Cases share their seeds. Leaves out classifiers (`tests/benchmarks` damages real ones) and Holm's correction,
which only makes errors rarer.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from scipy.optimize import brentq
from tabulate import tabulate

from benchmarks.sameness.noninferiority import MARGIN, drop_of, judge, kinds_of_cells
from common.records import Share, Some
from common.shares import share_interval
from training.measures.statistics import macro_f1_drop

ACCURACY = 0.77  # fp32's, as on TweetEval's validation texts
HATE = 0.42  # share of texts, likewise
TEXTS = (200, 500, 1800, 5000)
HELPED = (0.0, 0.005, 0.02)  # share of all texts that the variant alone gets right
DROPS = {"none": 0.0, "half the margin": 0.5, "the margin": 1.0, "twice": 2.0, "five times": 5.0}
RESAMPLES = 2000
VERDICTS = ("pass", "fail", "inconclusive")


class Counted(msgspec.Struct, forbid_unknown_fields=True):
    """Of `seeds` runs of `texts` texts, of which the variant alone gets the share `helped` right: the shares
    of verdicts."""

    drop: str
    helped: Share
    texts: Some
    seeds: Some
    passed: Share = msgspec.field(name="pass")
    failed: Share = msgspec.field(name="fail")
    inconclusive: Share

    @property
    def shares(self) -> tuple[float, float, float]:
        """In the order of `VERDICTS`."""
        return self.passed, self.failed, self.inconclusive


def population(drop: float, helped: float) -> np.ndarray:
    """Shares `[truth, fp32, variant]` at which macro-F1 drops by exactly `drop`, while `helped` of all texts
    are got right by the variant alone."""

    def excess(harmed: float) -> float:
        return float(macro_f1_drop(_shares(harmed, helped).reshape(1, -1), kinds_of_cells(2))[0] - drop)

    shares = _shares(brentq(excess, 0, ACCURACY), helped)
    return np.asarray(shares / shares.sum())


def _shares(harmed: float, helped: float) -> np.ndarray:
    """As many of each label's texts, in proportion, are harmed and helped."""
    shares = np.zeros((2, 2, 2))
    for right, wrong, of_label in ((0, 1, 1 - HATE), (1, 0, HATE)):
        shares[right, right, right], shares[right, right, wrong] = ACCURACY - harmed, harmed
        shares[right, wrong, wrong], shares[right, wrong, right] = 1 - ACCURACY - helped, helped
        shares[right] *= of_label
    return shares


def count(seeds: int, tick: Callable[[], object], margin: float = MARGIN) -> list[Counted]:
    """Every case."""
    found = []
    for words, factor in DROPS.items():
        for helped in HELPED:
            shares = population(factor * margin, helped)
            for texts in TEXTS:
                verdicts: Counter[str] = Counter()
                for seed in range(seeds):
                    drawn = np.random.default_rng(seed).multinomial(texts, shares.ravel())
                    drop = drop_of(drawn, 2, RESAMPLES)
                    verdicts[judge({"it": drop}, margin)["it"].verdict] += 1
                    tick()
                passed, failed, open_ = (verdicts[verdict] / seeds for verdict in VERDICTS)
                found.append(Counted(words, helped, texts, seeds, passed, failed, open_))
    return found


def cases() -> int:
    return len(DROPS) * len(HELPED) * len(TEXTS)


def table(counted: Sequence[Counted]) -> str:
    """The counts as Markdown: a row for each true drop and number of texts."""
    rows = []
    for words in DROPS:
        for texts in TEXTS:
            same = [case.shares for case in counted if case.drop == words and case.texts == texts]
            cells = [" / ".join(f"{share:.1%}" for share in shares) for shares in zip(*same, strict=True)]
            rows.append([words, f"{texts:,}", *cells])
    heads = ["true drop", "texts", "pass", "fail", "inconclusive"]
    return tabulate(rows, heads, "github", disable_numparse=True)


def note(counted: Sequence[Counted]) -> str:
    """How the table is to be read."""
    seeds = counted[0].seeds
    helped = ", ".join(f"{share:.1%}" for share in HELPED)
    low, high = share_interval(round(0.025 * seeds), seeds)
    return (
        f"Of {seeds:,} simulated runs each, margin {MARGIN:g} of macro-F1, fp32 right on {ACCURACY:.0%} of "
        f"texts. The three figures are for variants that alone get {helped} of the texts right, beside those "
        "that they alone get wrong: the more they differ, the harder the proof. With a true drop of the "
        f"margin, pass and fail are both errors, promised at 2.5 % each; {low:.1%} to {high:.1%} is what so "
        "many runs may show of that by chance."
    )


def page(counted: Sequence[Counted]) -> str:
    """All of it as a Markdown page."""
    return f"# How often the verdicts are wrong\n\n{table(counted)}\n\n{note(counted)}\n"
