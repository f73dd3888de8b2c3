"""How often the verdicts on speed are right, counted over simulated runs whose true ratios are known.

Turns are drawn as on real machines: each start of a process is lucky or not, and other processes only ever
add to a time. The same rules as in a real run decide which rows take part and when the run ends.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

import msgspec
import numpy as np
from tabulate import tabulate

from benchmarks.in_process.latency import WIDTH, Swept, Timings, Turn
from benchmarks.in_process.ratios import Word
from benchmarks.in_process.worker import KEPT
from benchmarks.names import BATCH, PIPELINE, REFERENCE
from benchmarks.profiles import PROFILES
from common.records import NotNegative, Positive, Share, Some, Text
from common.shares import share_interval

RATIOS = (1.0, 1.05, 1.4)  # to the pipeline, of one row that may be chosen and of one that may not
PROFILE = PROFILES["quick"]
TURNS = 2  # there and back once
# As measured for 24 rows of the 22 M model on two cores: what all cases of all rows take, and what real texts
# of one row take with the start of its process.
SHARED_S, ROW_S = 130.0, 4.0
WORDS: tuple[Word, ...] = get_args(Word)


@dataclass(frozen=True)
class Machine:
    """Spreads of logs: of starts, of what others add to a turn (half of a normal one), and of calls."""

    name: str
    start: float
    turn: float
    call: float


MACHINES = (
    Machine("quiet", start=0.01, turn=0.05, call=0.01),
    Machine("as the published one", start=0.02, turn=0.18, call=0.02),
    Machine("busy", start=0.05, turn=0.35, call=0.05),
)


class Timed(msgspec.Struct, forbid_unknown_fields=True):
    """Of `seeds` runs: how often the interval held the true `ratio`, the shares of verdicts, the interval's
    median width, and the share of two runs in a row whose verdicts contradict. `goes_on`: the row may be
    chosen, and got blocks until its ratio was known or the time was up."""

    machine: Text
    ratio: Positive
    goes_on: bool
    seeds: Some
    held: Share
    verdicts: dict[Word, Share]
    width: NotNegative
    contradicted: Share


class Simulated(msgspec.Struct, forbid_unknown_fields=True):
    """All that is counted."""

    timed: list[Timed]


def simulate(seeds: int, tick: Callable[[], object]) -> Simulated:
    """Every machine and ratio; `tick` is called after each of the `steps(seeds)`."""
    return Simulated([timed for machine in MACHINES for timed in _simulate(machine, seeds, tick)])


def steps(seeds: int) -> int:
    return seeds * len(MACHINES)


def _simulate(machine: Machine, seeds: int, tick: Callable[[], object]) -> Iterator[Timed]:
    rows = {f"{ratio}{' on' if on else ''}": (ratio, on) for ratio in RATIOS for on in (True, False)}
    found: dict[str, list[tuple[bool, Word, float]]] = {name: [] for name in rows}
    for seed in range(seeds):
        timings = run(machine, {name: ratio for name, (ratio, _) in rows.items()}, seed)
        for name, (ratio, _) in rows.items():
            seen = timings.ratio(BATCH, name, PIPELINE)
            assert seen is not None
            word: Any = seen.verdict
            found[name].append((seen.low <= ratio <= seen.high, word, seen.width))
        tick()
    for name, (ratio, on) in rows.items():
        held, words, widths = zip(*found[name], strict=True)
        pairs = list(pairwise(words))[::2]
        yield Timed(
            machine=machine.name,
            ratio=ratio,
            goes_on=on,
            seeds=seeds,
            held=float(np.mean(held)),
            verdicts={word: words.count(word) / seeds for word in WORDS},
            width=float(np.median(widths)),
            contradicted=sum("not resolved" not in pair and pair[0] != pair[1] for pair in pairs)
            / max(1, len(pairs)),
        )


def run(machine: Machine, ratios: dict[str, float], seed: int) -> Timings:
    """A run on batches of real texts: fp32, the pipeline and rows of known ratios, of which those named
    `… on` may be chosen."""
    rng = np.random.default_rng(seed)
    true_ms = {REFERENCE: 90.0, PIPELINE: 100.0} | {name: 100 / ratio for name, ratio in ratios.items()}
    chosen = [name for name in ratios if name.endswith(" on")]
    timings = Timings([], np.ones(1), 1, (), dict.fromkeys(chosen, 0), len(chosen))
    for block in range(PROFILE.most_blocks):
        due = timings.due(block, list(true_ms), PROFILE)
        if not due:
            break
        seconds = SHARED_S if block < PROFILE.blocks else ROW_S * len(due)
        turns = {name: _turns(machine, true_ms[name], rng) for name in due}
        timings.add(block, BATCH, Swept(turns=turns, seconds=seconds, others_s=0, starts_s=0))
    return timings


def _turns(machine: Machine, mean_ms: float, rng: np.random.Generator) -> list[Turn]:
    start = rng.normal(0, machine.start)
    added = np.abs(rng.normal(0, machine.turn, (TURNS, 1)))
    times_ms = mean_ms * np.exp(start + added + rng.normal(0, machine.call, (TURNS, KEPT)))
    return [Turn(times_ms=turn, cpu_ms=0) for turn in times_ms.tolist()]


def excerpt(simulated: Simulated) -> str:
    """How often each verdict is found, as variants that may be chosen are measured."""
    seeds = simulated.timed[0].seeds
    return (
        f"{_table([timed for timed in simulated.timed if timed.goes_on])}\n\nOf {seeds:,} simulated runs "
        "each. At 1.05x, faster and equal are both errors, promised at 2.5 % each."
    )


def tables(simulated: Simulated) -> str:
    """The counts as Markdown."""
    return _table(simulated.timed)


def _table(several: Sequence[Timed]) -> str:
    rows = [
        [
            timed.machine,
            f"{timed.ratio:g}x",
            "until known" if timed.goes_on else "shared ones only",
            f"{timed.held:.1%}",
            *(f"{timed.verdicts[word]:.1%}" for word in WORDS),
            f"{timed.width:.0%}",
            f"{timed.contradicted:.1%}",
        ]
        for timed in several
    ]
    heads = ["machine", "true ratio", "blocks", "interval holds it", *WORDS, "width", "two runs contradict"]
    return tabulate(rows, heads, "github", disable_numparse=True)


def note(simulated: Simulated) -> str:
    """How to read the table."""
    seeds = simulated.timed[0].seeds
    low, high = share_interval(round(0.95 * seeds), seeds)
    machines = "; ".join(
        f"{machine.name}: {machine.start:.0%} of starts, {machine.turn:.0%} of turns" for machine in MACHINES
    )
    return (
        f"Of {seeds:,} simulated runs each, with the profile {PROFILE.name}: all rows share {PROFILE.blocks} "
        f"blocks; rows that may still be chosen get more, {PROFILE.most_blocks} at most, until all of them "
        f"are known to within {WIDTH:.0%} or the time is up. Spreads: {machines}. An interval is promised to "
        f"hold the true ratio in 95 % of runs; so many runs may show {low:.1%} to {high:.1%} by chance. At "
        "1.05x, faster and equal are both errors, promised at 2.5 % each."
    )


def page(simulated: Simulated) -> str:
    """All of it as a Markdown page."""
    return f"# How often the verdicts on speed are wrong\n\n{tables(simulated)}\n\n{note(simulated)}\n"
