"""Do the verdicts keep their promises? Counted over simulated pairs of classifiers whose true drop is known.

A variant whose true drop is the margin may pass in 2.5 % of runs, however many labels there are, however rare
one is and whichever label suffers; and so may the best of ten, however often the gate is used.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import msgspec
import numpy as np
from scipy.optimize import brentq
from tabulate import tabulate

from benchmarks.served.late_power import Held, late_note, late_steps, late_table, simulate_late
from common.records import Share, Some
from common.shares import share_interval
from training.measures.gate_ledger import Candidate, Ledger, judge_in
from training.measures.noninferiority import (
    ALPHA,
    FAIL,
    INCONCLUSIVE,
    MARGIN,
    PASS,
    drop_of,
    kinds_of_cells,
    verdict,
)
from training.measures.statistics import macro_f1_drop

ACCURACY = 0.77  # fp32's, as on TweetEval's validation texts
HATE = 0.42  # share of texts, likewise
TEXTS = (200, 500, 1800, 5000)
USUAL_TEXTS = 1800  # about TweetEval's gate
HELPED = (0.0, 0.005, 0.02)  # share of all texts that the variant alone gets right
DROPS = {"none": 0.0, "half the margin": 0.5, "the margin": 1.0, "twice": 2.0, "five times": 5.0}
LABELS = (2, 3, 5, 10)
PREVALENCES = (0.42, 0.1, 0.02)  # of the first label; the others share the rest
HARM: dict[str, "Harm"] = {"in proportion": "each", "in the first label": "first"}
ERROR_TEXTS = (300, 1000, 3000)
RESAMPLES = 1000
VARIANTS = 10  # that are asked about on one gate
GATE_TEXTS = 1750  # as TweetEval's
FIRST_TEXTS = 200  # of a gate that doubles
LEDGER_RESAMPLES = 20_000  # a tenth run is judged at levels that 1,000 draws do not reach
VERDICTS = (PASS, FAIL, INCONCLUSIVE)

Harm = Literal["each", "first"]


class Counted(msgspec.Struct, forbid_unknown_fields=True):
    """Of `seeds` runs of `texts` texts, of which the variant alone gets the share `helped` right: the shares
    of verdicts. `prevalence` is the first label's; the harm is done to `each` label's texts or to the
    `first`'s."""

    drop: str
    labels: Some
    prevalence: Share
    harm: Harm
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


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """Of `seeds` gates, each asked about `VARIANTS` variants that lose the margin: the share on which any
    passed."""

    way: str
    seeds: Some
    any_passed: Share


class Simulated(msgspec.Struct, forbid_unknown_fields=True):
    """All that `power` counts."""

    counted: list[Counted]
    asked: list[Asked]
    late: list[Held] = []


@dataclass(frozen=True)
class Case:
    """What a pair of classifiers is drawn from."""

    drop: str = "the margin"
    labels: int = 2
    prevalence: float = HATE
    harm: Harm = "each"
    helped: float = 0.0
    texts: int = GATE_TEXTS

    def population(self, margin: float = MARGIN) -> np.ndarray:
        """Shares `[truth, fp32, variant]` at which macro-F1 drops as it should, while `helped` of all texts
        are got right by the variant alone."""
        wanted, kinds = DROPS[self.drop] * margin, kinds_of_cells(self.labels, np.arange(self.labels**3))

        def excess(harmed: float) -> float:
            return float(macro_f1_drop(self._shares(harmed).reshape(1, -1), kinds)[0]) - wanted

        shares = self._shares(brentq(excess, 0, 1))
        return np.asarray(shares / shares.sum())

    def _shares(self, harmed: float) -> np.ndarray:
        """The share `harmed` of what fp32 gets right becomes any other label; what it gets wrong is any other
        label, of which the variant gets as many of each label right, in proportion."""
        others = self.labels - 1
        prevalences = np.full(self.labels, (1 - self.prevalence) / others)
        prevalences[0] = self.prevalence
        shares = np.zeros((self.labels,) * 3)
        for truth, of_label in enumerate(prevalences):
            hit = harmed if self.harm == "each" or truth == 0 else 0.0
            shares[truth, truth, :] = of_label * ACCURACY * hit / others
            shares[truth, truth, truth] = of_label * ACCURACY * (1 - hit)
            for wrong in set(range(self.labels)) - {truth}:
                shares[truth, wrong, truth] = of_label * self.helped / others
                shares[truth, wrong, wrong] = of_label * (1 - ACCURACY - self.helped) / others
        return shares


# How often each verdict is found as the drop grows, for two labels; and, at a drop of the margin, how often
# it is wrong for more labels, rarer ones and harm to one of them alone.
POWER = [Case(drop, helped=helped, texts=texts) for drop, helped, texts in product(DROPS, HELPED, TEXTS)]
ERRORS = [
    Case("the margin", labels, prevalence, harm, HELPED[1], texts)
    for labels, prevalence, harm, texts in product(LABELS, PREVALENCES, HARM.values(), ERROR_TEXTS)
]
# At a drop of the margin: how often one of ten variants passes, asked about in one run, or one in each; and
# one variant on a gate that doubles until it passes.
AT_ONCE, ONE_BY_ONE, DOUBLING = (
    "ten variants in one run",
    "ten runs of one variant",
    "a gate that doubles five times",
)
WAYS = (AT_ONCE, ONE_BY_ONE, DOUBLING)


def simulate(seeds: int, tick: Callable[[], object], margin: float = MARGIN) -> Simulated:
    """Every case, with `seeds` runs each; `tick` is called after each of the `steps(seeds)`."""
    return Simulated(
        [_count(case, seeds, tick, margin) for case in (*POWER, *ERRORS)],
        [_ask(way, seeds, tick, margin) for way in WAYS],
        simulate_late(seeds, tick),
    )


def steps(seeds: int) -> int:
    return seeds * (len(POWER) + len(ERRORS) + len(WAYS)) + late_steps(seeds)


def _count(case: Case, seeds: int, tick: Callable[[], object], margin: float) -> Counted:
    shares = case.population(margin).ravel()
    found: Counter[str] = Counter()
    for seed in range(seeds):
        drawn = np.random.default_rng(seed).multinomial(case.texts, shares)
        drop = drop_of(drawn, case.labels, RESAMPLES)
        found[verdict(drop.p(margin), ALPHA, drop.p_worse(margin), ALPHA)] += 1
        tick()
    passed, failed, open_ = (found[word] / seeds for word in VERDICTS)
    return Counted(**vars(case), seeds=seeds, passed=passed, failed=failed, inconclusive=open_)


def _ask(way: str, seeds: int, tick: Callable[[], object], margin: float) -> Asked:
    shares = Case(helped=HELPED[1]).population(margin).ravel()
    passed = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        passed += any(verdict == PASS for verdict in _verdicts(way, shares, rng, margin))
        tick()
    return Asked(way, seeds, passed / seeds)


def _verdicts(way: str, shares: np.ndarray, rng: np.random.Generator, margin: float) -> Iterator[str]:
    """Of every look at one gate, in turn."""
    ledger = Ledger(schema=1, salt="", gates=[])

    def ask(counts: Sequence[np.ndarray], names: Sequence[str]) -> list[str]:
        texts = [str(row) for row in range(counts[0].sum())]
        candidates = [
            Candidate(name, name, name, 0.99, drop_of(cells, 2, LEDGER_RESAMPLES))
            for name, cells in zip(names, counts, strict=True)
        ]
        return [judged.verdict for judged in judge_in(ledger, texts, candidates, margin).values()]

    names = [str(place) for place in range(VARIANTS)]
    if way == AT_ONCE:
        yield from ask([rng.multinomial(GATE_TEXTS, shares) for _ in names], names)
    elif way == ONE_BY_ONE:
        for name in names:
            yield from ask([rng.multinomial(GATE_TEXTS, shares)], [name])
    else:
        cells = rng.multinomial(FIRST_TEXTS, shares)
        yield from ask([cells], ["0"])
        for name in names[1:6]:
            cells = cells + rng.multinomial(cells.sum(), shares)
            yield from ask([cells], [name])


def tables(simulated: Simulated) -> str:
    """The counts as Markdown: by true drop and number of texts; by kind of task; by how often it is asked;
    and how often a p99 is kept, by load."""
    found = [_power_table(simulated), _error_table(simulated), _asked_table(simulated)]
    return "\n\n".join([*found, *([late_table(simulated.late)] if simulated.late else [])])


def excerpt(simulated: Simulated) -> str:
    """How often each verdict is found on a gate of usual size."""
    seeds = simulated.counted[0].seeds
    return (
        f"{_power_table(simulated, (USUAL_TEXTS,))}\n\nOf {seeds:,} simulated runs each, with a margin of "
        f"{MARGIN:g} and two labels: {_three_figures()}."
    )


def _three_figures() -> str:
    helped = ", ".join(f"{share:.1%}" for share in HELPED)
    return (
        f"the three figures are for variants that get {helped} of all texts right that fp32 gets wrong, "
        "besides their own errors; the more a variant differs from fp32, the harder the proof"
    )


def _power_table(simulated: Simulated, sizes: Sequence[int] = TEXTS) -> str:
    rows = []
    counted = simulated.counted[: len(POWER)]
    for words in DROPS:
        for texts in sizes:
            same = [case.shares for case in counted if case.drop == words and case.texts == texts]
            cells = [" / ".join(f"{share:.1%}" for share in shares) for shares in zip(*same, strict=True)]
            rows.append([words, f"{texts:,}", *cells])
    return _github(rows, ["true drop", "texts", *VERDICTS])


def _error_table(simulated: Simulated) -> str:
    counted = simulated.counted[len(POWER) :]
    rows = []
    for labels, prevalence in product(LABELS, PREVALENCES):
        same = [case for case in counted if (case.labels, case.prevalence) == (labels, prevalence)]
        cells = [
            " / ".join(f"{case.passed:.1%}" for case in same if case.harm == harm) for harm in HARM.values()
        ]
        rows.append([labels, f"{prevalence:.0%}", *cells])
    return _github(rows, ["labels", "texts with the first", *(f"pass, harm {words}" for words in HARM)])


def _asked_table(simulated: Simulated) -> str:
    rows = [[asked.way, f"{asked.any_passed:.1%}"] for asked in simulated.asked]
    return _github(rows, ["looks at the gate", "some pass"])


def _github(rows: Sequence[Sequence[object]], heads: Sequence[str]) -> str:
    return tabulate(rows, heads, "github", disable_numparse=True)


def note(simulated: Simulated) -> str:
    """How to read the tables."""
    seeds = simulated.counted[0].seeds
    texts = ", ".join(f"{count:,}" for count in ERROR_TEXTS)
    low, high = share_interval(round(ALPHA * seeds), seeds)
    return (
        f"Of {seeds:,} simulated runs each, with a margin of {MARGIN:g} in macro-F1 and fp32 right on "
        f"{ACCURACY:.0%} of texts. First table, two labels: {_three_figures()}. Second table, a true drop of "
        f"the margin: {texts} texts. "
        "Third table, the same drop: the share of runs in which at least one look at the gate gives a pass, "
        f"with a gate of {GATE_TEXTS:,} texts, or of {FIRST_TEXTS} that double. At the margin, pass and fail "
        f"are both errors, promised at 2.5 % each; so many runs may show {low:.1%} to {high:.1%} by chance."
        + (f"\n\n{late_note(simulated.late)}" if simulated.late else "")
    )


def page(simulated: Simulated) -> str:
    """All of it as a Markdown page."""
    return f"# How often the verdicts are wrong\n\n{tables(simulated)}\n\n{note(simulated)}\n"
