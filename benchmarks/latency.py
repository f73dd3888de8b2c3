"""Latency and throughput in process, interleaved: every variant takes a short turn in every round.

Covers fixed full-length shapes through the Predictor's own padding and planning (what the arithmetic
costs), real texts from string to answer (what a user waits), percentiles, and speed-ups with intervals.
Clocks, temperature and neighbours drift; a drift hits all variants of a round alike, so a speed-up is the
median of the rounds' ratios, with a bootstrap interval over rounds (Efron, 1979). fp32 against a second
fp32 in the same rounds tells how large a ratio arises from nothing: the noise floor. Peers take turns like
variants, and so do the matrix products alone where a `floor` is given. Leaves out load on a server
(`served`) and memory (`resources`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from benchmarks.floor import Floor
from benchmarks.peers import PIPELINE
from benchmarks.profiles import Profile
from benchmarks.progress import Step
from benchmarks.team import FLOOR, REFERENCE, TWIN, Team

SHAPES = ((1, 32), (8, 32), (32, 32), (1, 128))
BATCH_TEXTS = 32
SINGLE = "1 text"
BATCH = f"{BATCH_TEXTS} texts"
# Fewer samples than this put a percentile on one or two observations.
LEAST_SAMPLES = {50: 1, 90: 20, 99: 100}
RESAMPLES = 2000
# Guests' threads wait as they like: ONNX Runtime's spun for 20 ms after their work, in the neighbour's turn.
SETTLE_S = 0.05

Rounds = dict[str, list[list[float]]]
"""By variant: a list for each round, of the durations of its calls in milliseconds."""


@dataclass(frozen=True)
class Ratio:
    """Reference time by candidate time, above 1 where the candidate is faster, with a 95 % interval."""

    ratio: float
    low: float
    high: float

    def verdict(self, noise: float) -> str:
        """`faster` or `slower` only where the whole interval is outside [1/noise, noise]."""
        if self.low > noise:
            return "faster"
        return "slower" if self.high < 1 / noise else "not different"

    @property
    def distance(self) -> float:
        """The farthest that the interval is from 1, as a factor of at least 1."""
        return max(self.high, 1 / self.low)


def shapes_up_to(max_length: int) -> list[tuple[int, int]]:
    """`SHAPES` as (texts, tokens), cut to what the model reads; shapes that become equal stand once."""
    return list(dict.fromkeys((batch, min(tokens, max_length)) for batch, tokens in SHAPES))


def measure_latency(
    team: Team,
    texts: Sequence[str],
    max_length: int,
    profile: Profile,
    step: Step,
    floor: Floor | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The report's `latency` list of every variant and every peer that got through."""
    needed = profile.rounds * max(profile.single_texts, BATCH_TEXTS)
    held = list(islice(cycle(texts), needed))
    for name in team.names:
        team.ask(name, "hold", texts=held)
    shapes = shapes_up_to(max_length)
    collected: dict[str, Rounds] = {}
    slow: set[str] = set()
    for turn in range(profile.rounds):
        due = [shape for shape in shapes if turn % 2 == 0 or _case(*shape) not in slow]
        with step(f"latency, round {turn + 1} of {profile.rounds}"):
            for name in team.shuffled(turn):
                if name == FLOOR and floor is not None:
                    floor.turn(team)
                    continue
                for case, durations in _one_turn(team, name, turn, due, profile).items():
                    collected.setdefault(case, {}).setdefault(name, []).append(durations)
                if name in team.guests:
                    time.sleep(SETTLE_S)
        if turn == 0:
            slow = slow_cases(collected, profile.slow_turn_ms)
    details: dict[str, tuple[int, int | None]] = {_case(*shape): shape for shape in shapes}
    details |= {SINGLE: (1, None), BATCH: (BATCH_TEXTS, None)}
    collected = {
        case: {name: turns for name, turns in rounds.items() if name in team.names}
        for case, rounds in collected.items()
    }
    tokenise = collected.pop("tokenise")
    return {
        name: [
            describe(case, collected[case], name, batch, tokens)
            | ({"tokenise_p50_ms": percentile(flat(tokenise[name]), 50)} if case == SINGLE else {})
            for case, (batch, tokens) in details.items()
        ]
        for name in [*team.variants, *team.peers]
    }


def slow_cases(collected: Mapping[str, Rounds], slow_turn_ms: float) -> set[str]:
    """Fixed shapes on which fp32's turn took longer than that in the first round.

    They join every second round only, all variants alike: at full size they would take half of a run, and
    the ratio of two long calls needs fewer rounds than that of two short ones.
    """
    turns = {case: rounds[REFERENCE][0] for case, rounds in collected.items() if "x" in case.split()[0]}
    return {case for case, samples in turns.items() if sum(samples) > slow_turn_ms}


def _case(batch: int, tokens: int) -> str:
    return f"{batch}x{tokens}"


def _one_turn(
    team: Team, name: str, turn: int, shapes: Sequence[tuple[int, int]], profile: Profile
) -> dict[str, list[float]]:
    """All cases once for one variant; nothing when it dropped out meanwhile."""
    single = {"start": turn * profile.single_texts, "stop": (turn + 1) * profile.single_texts}
    batch = {"start": turn * BATCH_TEXTS, "stop": (turn + 1) * BATCH_TEXTS}
    questions: list[tuple[str, str, dict[str, Any]]] = [
        (_case(texts, tokens), "shape", {"batch": texts, "tokens": tokens, "turn_ms": profile.turn_ms})
        for texts, tokens in shapes
    ]
    questions += [(SINGLE, "single", single), (BATCH, "together", batch), ("tokenise", "tokenise", single)]
    durations = {}
    for case, command, arguments in questions:
        answer = team.ask(name, command, **arguments)
        if answer is None:
            return {}
        durations[case] = answer if isinstance(answer, list) else [answer]
    return durations


def describe(case: str, rounds: Rounds, name: str, batch: int, tokens: int | None) -> dict[str, Any]:
    """One entry of the report's `latency` list: percentiles, throughput, and the speed-up over fp32 (and over
    the peer that everybody starts from, where it took part)."""
    samples = flat(rounds[name])
    pipeline = {"vs_pipeline": speedup(rounds, name, PIPELINE)} if PIPELINE in rounds else {}
    return {
        "case": case,
        "batch": batch,
        "tokens": tokens,
        "samples": len(samples),
        "rounds": len(rounds[name]),
        **{f"p{percent}_ms": percentile(samples, percent) for percent in LEAST_SAMPLES},
        "texts_per_second": 1000 * batch * len(samples) / sum(samples),
        "speedup": speedup(rounds, name),
        **pipeline,
    }


def speedup(rounds: Rounds, name: str, reference: str = REFERENCE) -> dict[str, Any]:
    """Ratio to the reference with its interval, the noise floor as a factor, and the verdict of the two."""
    noise = paired_ratio(rounds[REFERENCE], rounds[TWIN]).distance if TWIN in rounds else None
    if name == reference:
        return {"ratio": 1.0, "low": 1.0, "high": 1.0, "noise": noise, "verdict": "reference"}
    ratio = paired_ratio(rounds[reference], rounds[name])
    verdict = ratio.verdict(noise) if noise is not None else "noise unknown"
    return {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "noise": noise, "verdict": verdict}


def paired_ratio(reference: list[list[float]], candidate: list[list[float]], seed: int = 0) -> Ratio:
    """Median over rounds of (median reference time / median candidate time), percentile bootstrap."""
    paired = min(len(reference), len(candidate))
    ratios = np.array([np.median(reference[turn]) / np.median(candidate[turn]) for turn in range(paired)])
    drawn = np.random.default_rng(seed).integers(0, paired, size=(RESAMPLES, paired))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """The percentile, or None where the samples are too few to tell."""
    return float(np.percentile(samples, percent)) if len(samples) >= LEAST_SAMPLES[percent] else None


def flat(rounds: list[list[float]]) -> list[float]:
    return [duration for durations in rounds for duration in durations]
