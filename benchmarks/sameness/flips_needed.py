"""How many labels of flips settle a verdict, where the labels of all unlabelled texts are known after all.

Texts are taken in random order until a look at the gate would say pass or fail. The labeller
knows the true labels, and gives a share of others.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from tabulate import tabulate

from benchmarks.sameness.flips import count
from benchmarks.sameness.flips_key import Asked
from benchmarks.sameness.labels_needed import LabelPlan
from common.records import Share, Some
from training.measures.labelled_flips import Checked, FlipSample, drop_of_flips
from training.measures.noninferiority import (
    INCONCLUSIVE,
    Drop,
    drop_of,
    kinds_of_cells,
    verdict,
)
from training.measures.statistics import macro_f1_drop

WRONG = (0.0, 0.05)  # of the labels that are given
ORDERS = 20  # of the texts
LEAST = 250  # texts
STEP = 1.15  # from one number of texts to the next
CHECKS = 50
RESAMPLES = 10_000


class Needed(msgspec.Struct, forbid_unknown_fields=True):
    """Of one variant: the drop on the gate with its 95 % interval and verdict, and on all unlabelled texts;
    the forecast; and for a labeller who gives the share `wrong` of other labels, in how many of `orders` a
    verdict was `settled`, with which words, and the median numbers of texts and labels that it took (check
    texts among them; None where fewer than half were settled)."""

    variant: str
    flip_rate: Share
    gate_drop: float
    gate_low: float
    gate_high: float
    gate_verdict: str
    true_drop: float
    forecast_unlabelled: Some | None
    forecast_labels: Some | None
    wrong: Share
    orders: Some
    settled: int
    words: dict[str, int]
    unlabelled: float | None
    labels: float | None


class LabelsNeeded(msgspec.Struct, forbid_unknown_fields=True):
    """What `python -m benchmarks.studies.flips_needed` found: of a gate and unlabelled texts of one set."""

    data: str
    gate: Some
    unlabelled: Some
    margin: float
    run: Some
    level: float
    first_level: float
    needed: list[Needed]


class Settled(NamedTuple):
    """A verdict, and how many texts and labels it took."""

    word: str
    texts: int
    labels: int


def needed(
    data: str,
    reference: Asked,
    variants: Mapping[str, Asked],
    gate: np.ndarray,
    hidden: np.ndarray,
    labels: int,
    forecast: LabelPlan,
) -> LabelsNeeded:
    """`gate` and `hidden` are the true labels of the gate and of the unlabelled texts, int [texts]."""
    return LabelsNeeded(
        data=data,
        gate=len(gate),
        unlabelled=len(hidden),
        margin=forecast.margin,
        run=forecast.run,
        level=forecast.level_now,
        first_level=forecast.level,
        needed=[
            row
            for name, asked in variants.items()
            for row in _of_variant(name, reference, asked, gate, hidden, labels, forecast)
        ],
    )


def _of_variant(
    name: str,
    reference: Asked,
    asked: Asked,
    gate: np.ndarray,
    hidden: np.ndarray,
    labels: int,
    forecast: LabelPlan,
) -> Iterator[Needed]:
    """By the share of labels that are wrong."""
    cells = count(labels, gate, np.array(reference.gate), np.array(asked.gate))
    theirs, ours = np.array(reference.unlabelled), np.array(asked.unlabelled)
    on_gate = drop_of(cells.ravel(), labels)
    everything = count(labels, hidden, theirs, ours).reshape(1, -1)
    true = float(macro_f1_drop(everything, kinds_of_cells(labels, np.arange(labels**3)))[0])
    need = next((need for need in forecast.needs if need.variant == name), None)
    for wrong in WRONG:
        orders = [
            _settled(np.random.default_rng(seed), cells, hidden, theirs, ours, wrong, forecast)
            for seed in range(ORDERS)
        ]
        settled = [order for order in orders if order is not None]
        yield Needed(
            variant=name,
            flip_rate=float((theirs != ours).mean()),
            gate_drop=on_gate.drop,
            gate_low=on_gate.low,
            gate_high=on_gate.high,
            gate_verdict=_word(on_gate, forecast.level, forecast.margin),
            true_drop=true,
            forecast_unlabelled=need.unlabelled if need else None,
            forecast_labels=need.labels if need else None,
            wrong=wrong,
            orders=ORDERS,
            settled=len(settled),
            words=dict(sorted(Counter(order.word for order in settled).items())),
            unlabelled=_middle([order.texts for order in settled]),
            labels=_middle([order.labels for order in settled]),
        )


def _settled(
    rng: np.random.Generator,
    gate: np.ndarray,
    hidden: np.ndarray,
    theirs: np.ndarray,
    ours: np.ndarray,
    wrong: float,
    forecast: LabelPlan,
) -> Settled | None:
    """None where all texts do not settle it."""
    labels = len(gate)
    order = rng.permutation(len(hidden))
    errs = rng.random(len(hidden)) < wrong
    given = np.where(errs, (hidden + rng.integers(1, labels, len(hidden))) % labels, hidden)
    checked = Checked(CHECKS, int(rng.binomial(CHECKS, wrong)))
    texts = LEAST
    while True:
        taken = order[:texts]
        flipped = taken[theirs[taken] != ours[taken]]
        sample = FlipSample(
            gate=gate,
            unlabelled=count(labels, theirs[taken], ours[taken]),
            labelled=count(labels, given[flipped], theirs[flipped], ours[flipped]),
            checked=checked,
        )
        word = _word(drop_of_flips(sample, RESAMPLES), forecast.level_now, forecast.margin)
        if word != INCONCLUSIVE:
            return Settled(word, texts, len(flipped) + CHECKS)
        if texts == len(hidden):
            return None
        texts = min(round(STEP * texts), len(hidden))


def _middle(counts: Sequence[int]) -> float | None:
    """The median; None where only half of the orders, or fewer, settled it."""
    return median(counts) if len(counts) > ORDERS / 2 else None


def _word(drop: Drop, level: float, margin: float) -> str:
    return str(verdict(drop.p(margin), level, drop.p_worse(margin), level))


def page(found: LabelsNeeded) -> str:
    """All of it as a Markdown page."""
    return f"# How many labels verdicts took\n\n{excerpt(found)}\n"


def excerpt(found: LabelsNeeded) -> str:
    """A row for each variant and labeller."""
    rows = [
        (
            row.variant,
            f"{row.flip_rate:.2%}",
            f"{row.gate_drop:+.4f} ({row.gate_low:+.4f} to {row.gate_high:+.4f})",
            row.gate_verdict.upper(),
            f"{row.true_drop:+.4f}",
            f"{_count(row.forecast_unlabelled)} / {_count(row.forecast_labels)}",
            f"{row.wrong:.0%}",
            f"{_count(row.unlabelled)} / {_count(row.labels)}",
            ", ".join(f"{often} {word.upper()}" for word, often in row.words.items()) or "none",
        )
        for row in found.needed
    ]
    heads = (
        "variant",
        "texts that flip",
        "drop on the gate",
        "by the gate alone",
        "drop on all others",
        "forecast: texts / labels",
        "labels wrong",
        "it took: texts / labels",
        f"verdicts in {ORDERS} orders",
    )
    table = tabulate(rows, heads, "github", disable_numparse=True)
    return (
        f"{table}\n\n{found.data}: a gate of {found.gate:,} labelled texts, and {found.unlabelled:,} texts "
        "held out of training whose labels only the simulated labeller sees. Margin "
        f"{found.margin:g}; the look is the gate's number {found.run}, at a level of {found.level:.2%} for "
        f"each variant (the first had {found.first_level:.2%}). Medians over {ORDERS} random orders of the "
        f"texts; {CHECKS} check texts are among the labels."
    )


def _count(number: float | None) -> str:
    return "none will do" if number is None else f"{number:,.0f}"
