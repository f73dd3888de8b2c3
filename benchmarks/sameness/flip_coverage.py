"""How often intervals from labelled flips hold the true drop, counted over simulated samples.

Populations are the outcome counts of published variants, and made ones that lose exactly the margin. Each run
draws a labelled gate and unlabelled texts, and labels those that flip.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, product

import msgspec
import numpy as np
from tabulate import tabulate

from benchmarks.sameness.power import GATE_TEXTS, HARM, Case
from common.records import Count, Share, Some
from common.shares import share_interval
from training.measures.labelled_flips import Checked, FlipSample, drop_of_flips
from training.measures.noninferiority import ALPHA, MARGIN, Drop, drop_of, kinds_of_cells
from training.measures.statistics import macro_f1_drop

PUBLISHED = "published"
MADE = "made"
CHECKED = 50  # texts that show how often the labeller errs
# By source: numbers of unlabelled texts, and the share of wrong labels that the labeller gives.
ASKED = {
    PUBLISHED: ((20_000, 0.0),),
    MADE: ((5000, 0.0), (20_000, 0.0), (20_000, 0.05)),
}
RESAMPLES = 1000
# At a drop of the margin, while the variant alone gets half a percent of all texts right.
MADE_CASES = [
    Case("the margin", labels, prevalence, harm, 0.005)
    for labels, prevalence, harm in product((2, 3), (0.42, 0.1, 0.02), HARM.values())
]


class Covered(msgspec.Struct, forbid_unknown_fields=True):
    """Of `runs` samples of a population whose true drop is `drop`: the shares whose 95 % interval lies
    `under` it or `over` it, and that pass at the margin. `labelled` is the mean number of flips that got a
    label, of which the share `wrong` is another than the true one; half-widths are means; `gate_…` is of the
    gate alone."""

    source: str
    population: str
    labels: Some
    drop: float
    gate: Some
    unlabelled: Some
    wrong: Share
    runs: Some
    labelled: float
    under: Share
    over: Share
    passed: Share
    half_width: float
    gate_passed: Share
    gate_half_width: float


class Coverage(msgspec.Struct, forbid_unknown_fields=True):
    """All that is counted, and the number of check texts."""

    checked: Count
    counted: list[Covered]


Populations = Mapping[tuple[str, str], np.ndarray]
"""By source and name: shares of texts by (truth, fp32's label, the variant's), [labels, labels, labels]."""


def made() -> dict[tuple[str, str], np.ndarray]:
    """Populations at a drop of the margin."""
    named = {}
    for case in MADE_CASES:
        harmed = "all labels" if case.harm == "each" else "the first label"
        name = f"{case.labels} labels, {case.prevalence:.0%} have the first, harm to {harmed}"
        named[MADE, name] = case.population()
    return named


def simulate(populations: Populations, runs: int, tick: Callable[[], object]) -> Coverage:
    """Every population with the numbers of texts of its source; `tick` is called after each of the
    `steps`."""
    found = []
    for (source, name), shares in populations.items():
        seeds = range(runs)
        by_gate = [
            _ends(drop_of(draw(seed, shares, 0).gate.ravel(), len(shares), RESAMPLES)) for seed in seeds
        ]
        for unlabelled, wrong in ASKED[source]:
            samples = (draw(seed, shares, unlabelled, wrong) for seed in seeds)
            found.append(_count(source, name, shares, samples, wrong, by_gate, tick))
    return Coverage(CHECKED, found)


def steps(populations: Populations, runs: int) -> int:
    return runs * sum(len(ASKED[source]) for source, _ in populations)


def _count(
    source: str,
    name: str,
    shares: np.ndarray,
    samples: Iterable[FlipSample],
    wrong: float,
    by_gate: Sequence[Drop],
    tick: Callable[[], object],
) -> Covered:
    true = float(macro_f1_drop(shares.reshape(1, -1), kinds_of_cells(len(shares), np.arange(shares.size)))[0])
    by_flips: list[Drop] = []
    labelled = 0
    for sample in samples:
        by_flips.append(_ends(drop_of_flips(sample, RESAMPLES)))
        labelled += int(sample.labelled.sum())
        tick()
    runs = len(by_flips)
    return Covered(
        source=source,
        population=name,
        labels=len(shares),
        drop=true,
        gate=GATE_TEXTS,
        unlabelled=int(sample.unlabelled.sum()),
        wrong=wrong,
        runs=runs,
        labelled=labelled / runs,
        under=sum(drop.high < true for drop in by_flips) / runs,
        over=sum(drop.low > true for drop in by_flips) / runs,
        passed=_passed(by_flips),
        half_width=_half_width(by_flips),
        gate_passed=_passed(by_gate),
        gate_half_width=_half_width(by_gate),
    )


def draw(
    seed: int, shares: np.ndarray, unlabelled: int, wrong: float = 0.0, gate: int = GATE_TEXTS
) -> FlipSample:
    """A labelled gate, and texts whose flips get a label: the share `wrong` of them any other than the true
    one."""
    rng = np.random.default_rng(seed)
    labels = len(shares)
    drawn_gate, texts = (
        rng.multinomial(count, shares.ravel()).reshape(shares.shape) for count in (gate, unlabelled)
    )
    true_labels = texts * ~np.eye(labels, dtype=bool)
    given = np.zeros_like(true_labels)
    for label in range(labels):
        chances = np.full(labels, wrong / (labels - 1))
        chances[label] = 1 - wrong
        given += np.moveaxis(rng.multinomial(true_labels[label], chances), -1, 0)
    checked = Checked(CHECKED, int(rng.binomial(CHECKED, wrong)))
    return FlipSample(drawn_gate, texts.sum(axis=0), given, checked)


def _ends(drop: Drop) -> Drop:
    """With the interval alone: the draws of a thousand runs would not fit into memory."""
    return Drop(drop.n, drop.drop, np.array([drop.high]), np.array([drop.low]))


def _passed(drops: Iterable[Drop]) -> float:
    return float(np.mean([drop.high < MARGIN for drop in drops]))


def _half_width(drops: Iterable[Drop]) -> float:
    return float(np.mean([(drop.high - drop.low) / 2 for drop in drops]))


def page(coverage: Coverage) -> str:
    """All of it as a Markdown page."""
    rows = [
        (
            covered.population,
            f"{covered.drop:.4f}",
            f"{covered.unlabelled:,}",
            f"{covered.wrong:.0%}",
            f"{covered.labelled:.0f}",
            f"{covered.half_width:.4f}",
            f"{covered.gate_half_width:.4f}",
            f"{covered.under:.1%}",
            f"{covered.over:.1%}",
            f"{covered.passed:.1%}",
            f"{covered.gate_passed:.1%}",
        )
        for covered in coverage.counted
    ]
    heads = (
        "population",
        "true drop",
        "unlabelled",
        "labels wrong",
        "flips labelled",
        "half-width",
        "of the gate alone",
        "upper end too low",
        "lower end too high",
        "pass",
        "by the gate alone",
    )
    table = tabulate(rows, heads, "github", disable_numparse=True)
    return f"# Intervals from labelled flips\n\n{table}\n\n{note(coverage)}\n"


def excerpt(coverage: Coverage) -> str:
    """By kind of population, number of texts and labeller: the ranges over the populations."""

    def kind(covered: Covered) -> tuple[str, int, float, int]:
        return covered.source, covered.labels, covered.wrong, covered.unlabelled

    rows = []
    for (source, labels, wrong, unlabelled), group in groupby(sorted(coverage.counted, key=kind), kind):
        same = list(group)
        rows.append(
            (
                f"{len(same)} {source}, {labels} labels",
                f"{wrong:.0%}",
                f"{unlabelled:,}",
                _range([covered.labelled for covered in same], ".0f"),
                _range([covered.half_width for covered in same], ".4f"),
                _range([covered.gate_half_width for covered in same], ".4f"),
                _range([covered.under for covered in same], ".1%"),
                _range([covered.over for covered in same], ".1%"),
            )
        )
    heads = (
        "populations",
        "labels wrong",
        "unlabelled",
        "flips labelled",
        "half-width",
        "of the gate alone",
        "upper end too low",
        "lower end too high",
    )
    return f"{tabulate(rows, heads, 'github', disable_numparse=True)}\n\n{note(coverage)}"


def note(coverage: Coverage) -> str:
    """How to read the tables."""
    runs = coverage.counted[0].runs
    gate = coverage.counted[0].gate
    low, high = share_interval(round(ALPHA * runs), runs)
    return (
        f"Of {runs:,} simulated samples of each population: a gate of {gate:,} labelled texts, and "
        "unlabelled ones. Published populations are the outcome counts of published variants on their gates; "
        f"made ones lose exactly the margin, {MARGIN:g}, and 42 %, 10 % or 2 % of their texts have the first "
        "label. The half-width is that of the 95 % interval. Each end may be wrong in 2.5 % of samples; so "
        f"many samples may show {low:.1%} to {high:.1%} by chance. Of labels that are wrong the estimate "
        f"knows what {coverage.checked} check texts show."
    )


def _range(values: list[float], form: str) -> str:
    low, high = (format(end, form) for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
