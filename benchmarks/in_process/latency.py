"""Latency and throughput in process, interleaved: every variant takes a short turn in every round.

A drift of clocks or neighbours hits all variants of a round alike, so a speed-up is the median of the rounds'
ratios, with a bootstrap interval over rounds (Efron, 1979); ratios of 99th percentiles resample whole rounds.
fp32 against a second fp32 in the same rounds, the A/A control, tells how large a ratio arises from nothing.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
from scipy.stats import t

from benchmarks import environment, records
from benchmarks.baselines.in_process import PIPELINE
from benchmarks.ceilings.gemm_bound import GemmBound, GemmTurn
from benchmarks.in_process.pool import Pool
from benchmarks.names import (
    BATCH,
    BATCH_TEXTS,
    CONTROLS,
    CUDA_BATCH,
    CUDA_BATCH_TEXTS,
    CUDA_MODEL,
    CUDA_REFERENCE,
    CUDA_SHAPES,
    GEMM_BOUND,
    MODEL,
    REFERENCE,
    SHAPES,
    SINGLE,
    TOKENISE,
)
from benchmarks.profiles import Profile
from benchmarks.progress import Step
from benchmarks.records import Latency, LengthBin
from benchmarks.resume_log import ResumeLog
from benchmarks.samples import LEAST_SAMPLES, by_length, percentile
from common.records import Record

CPU = "cpu"  # of the batch of real texts
RESAMPLES = 2000
P99_RESAMPLES = 300
LEAST_ROUNDS = 10
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

    def verdict(self, noise: float) -> Literal["faster", "slower", "not different"]:
        """`faster` or `slower` only where the whole interval is outside [1/noise, noise]."""
        if self.low > noise:
            return "faster"
        return "slower" if self.high < 1 / noise else "not different"

    @property
    def distance(self) -> float:
        """The farthest that the interval is from 1, as a factor of at least 1."""
        return max(self.high, 1 / self.low)


def shapes_up_to(max_length: int, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[tuple[int, int]]:
    """`shapes` as (texts, tokens), cut to what the model reads; shapes that become equal stand once."""
    return list(dict.fromkeys((batch, min(tokens, max_length)) for batch, tokens in shapes))


class Round(Record):
    """Milliseconds by name and case, and what other processes took of the CPU meanwhile."""

    turns: dict[str, dict[str, list[float]]]
    bound: GemmTurn | None
    seconds: float
    others_s: float


class Timings:
    """What the rounds brought. `tokens` are the lengths of the held texts, `slow` the cases that join every
    second round only, `on_cuda` who computes on a GPU."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        tokens: np.ndarray,
        single_texts: int,
        on_cuda: Collection[str] = (),
    ) -> None:
        self.details: dict[str, tuple[int, int | None]] = {_case(*shape): shape for shape in shapes}
        self.details |= {SINGLE: (1, None), BATCH: (BATCH_TEXTS, None)}
        self.details |= dict.fromkeys((CUDA_BATCH, CUDA_MODEL), (CUDA_BATCH_TEXTS, None))
        self.on_cuda = on_cuda
        self.tokens = tokens
        self.single_texts = single_texts
        self.collected: dict[str, Rounds] = {}
        self.slow: set[str] = set()
        self.seconds = 0.0
        self.others_s = 0.0

    @property
    def others_cores(self) -> float:
        """What other processes took on average, in cores."""
        return self.others_s / self.seconds

    def add(self, found: Round, bound: GemmBound | None) -> None:
        for name, cases in found.turns.items():
            for case, durations in cases.items():
                self.collected.setdefault(case, {}).setdefault(name, []).append(durations)
        if bound is not None and found.bound is not None:
            bound.add(found.bound)
        self.seconds += found.seconds
        self.others_s += found.others_s

    def entries(self, names: Sequence[str]) -> dict[str, list[Latency]]:
        """The report's `latency` list of every variant and every baseline that got through."""
        through = {*names, *CONTROLS.values()}
        rounds = {
            case: {name: turns for name, turns in of_case.items() if name in through}
            for case, of_case in self.collected.items()
        }
        return {name: self._entries_of(name, rounds) for name in names}

    def _entries_of(self, name: str, rounds: Mapping[str, Rounds]) -> list[Latency]:
        found = [
            describe(case, rounds[case], name, batch, tokens, self._reference_of(name))
            for case, (batch, tokens) in self.details.items()
            if name in rounds.get(case, {})
        ]
        for entry in found:
            if entry.case == SINGLE:
                entry.tokenise_p50_ms = percentile(flat(rounds[TOKENISE][name]), 50)
                entry.model_p50_ms = percentile(flat(rounds[MODEL][name]), 50)
                entry.by_length = self._by_length(rounds[SINGLE][name])
        return found

    def _reference_of(self, name: str) -> str:
        return CUDA_REFERENCE if name in self.on_cuda else REFERENCE

    def _by_length(self, rounds: list[list[float]]) -> list[LengthBin]:
        """Single texts by their own length."""
        samples = flat(rounds)
        tokens = np.concatenate(
            [
                self.tokens[turn * self.single_texts : turn * self.single_texts + len(durations)]
                for turn, durations in enumerate(rounds)
            ]
        )
        taken = {end: [samples[row] for row in rows] for end, rows in by_length(tokens).items()}
        return [
            LengthBin(up_to=end, n=len(some), p50_ms=float(np.median(some)), p99_ms=percentile(some, 99))
            for end, some in taken.items()
        ]

    def cpu_s_per_1000_texts(self, name: str) -> float:
        """Of all threads, in batches of real texts."""
        return float(np.median(flat(self.collected[CPU][name]))) / BATCH_TEXTS


def measure_latency(
    pool: Pool,
    texts: Sequence[str],
    max_length: int,
    profile: Profile,
    step: Step,
    resume_log: ResumeLog,
    bound: GemmBound | None = None,
) -> Timings:
    """Rounds of turns, as many as the profile wants or has the time for."""
    largest = CUDA_BATCH_TEXTS if pool.on_cuda else BATCH_TEXTS
    needed = profile.rounds * max(profile.single_texts, largest)
    held = list(islice(cycle(texts), needed))
    for name in pool.names:
        pool.ask(name, "hold", texts=held)
    shapes = shapes_up_to(max_length, (*SHAPES, *CUDA_SHAPES))
    tokens = np.array(pool.ask(REFERENCE, "lengths"))
    timings = Timings(shapes, tokens, profile.single_texts, pool.on_cuda)
    for turn in range(profile.rounds):
        due = [shape for shape in shapes if turn % 2 == 0 or _case(*shape) not in timings.slow]
        with step(f"latency, round {turn + 1} of {profile.rounds}"):
            measure = partial(one_round, pool, turn, due, profile, bound)
            found = resume_log.once(f"latency {turn}", measure, Round)
        timings.add(found, bound)
        if turn == 0:
            timings.slow = slow_cases(timings.collected, profile.slow_turn_ms)
        if turn + 1 >= profile.least_rounds and timings.seconds > profile.latency_s:
            break
    return timings


def one_round(
    pool: Pool, turn: int, shapes: Sequence[tuple[int, int]], profile: Profile, bound: GemmBound | None
) -> Round:
    """A turn of each."""
    turns: dict[str, dict[str, list[float]]] = {}
    of_bound = None
    began = time.perf_counter()
    others = environment.Others(pool.processes)
    for name in pool.shuffled(turn):
        if name == GEMM_BOUND and bound is not None:
            of_bound = bound.turn(pool)
            continue
        turns[name] = _one_turn(pool, name, turn, shapes, profile)
        if name in pool.extras:
            time.sleep(SETTLE_S)
    seconds = time.perf_counter() - began
    return Round(turns=turns, bound=of_bound, seconds=seconds, others_s=others.seconds())


def slow_cases(collected: Mapping[str, Rounds], slow_turn_ms: float) -> set[str]:
    """Fixed shapes on which fp32's turn took longer than that in the first round.

    They join every second round only, all variants alike: at full size they would take half of a run, and
    the ratio of two long calls needs fewer rounds than that of two short ones.
    """
    turns = {
        case: rounds[REFERENCE][0]
        for case, rounds in collected.items()
        if "x" in case.split()[0] and REFERENCE in rounds
    }
    return {case for case, samples in turns.items() if sum(samples) > slow_turn_ms}


def _case(batch: int, tokens: int) -> str:
    return f"{batch}x{tokens}"


def _one_turn(
    pool: Pool, name: str, turn: int, shapes: Sequence[tuple[int, int]], profile: Profile
) -> dict[str, list[float]]:
    """All cases once for one variant; nothing when it dropped out meanwhile."""
    single = {"start": turn * profile.single_texts, "stop": (turn + 1) * profile.single_texts}
    few = single | {"stop": single["start"] + max(1, profile.single_texts // 3)}
    batch = {"start": turn * BATCH_TEXTS, "stop": (turn + 1) * BATCH_TEXTS}
    on_cuda = name in pool.on_cuda
    questions: list[tuple[str, str, dict[str, Any]]] = [
        (_case(texts, tokens), "shape", {"batch": texts, "tokens": tokens, "turn_ms": profile.turn_ms})
        for texts, tokens in shapes
        if on_cuda or texts <= BATCH_TEXTS
    ]
    questions += [
        (SINGLE, "single", single),
        (BATCH, "together", batch),
        (TOKENISE, "tokenise", few),
        (MODEL, "model", few),
    ]
    if on_cuda:
        large = {"start": turn * CUDA_BATCH_TEXTS, "stop": (turn + 1) * CUDA_BATCH_TEXTS}
        questions.append((CUDA_BATCH, "together", large))
        if name not in pool.baselines:  # theirs takes tokenised texts of one length alone
            questions.append((CUDA_MODEL, "computed", large))
    durations: dict[str, list[float]] = {}
    for case, command, arguments in questions:
        answer = pool.ask(name, command, **arguments)
        if answer is None:
            return {}
        if case == BATCH:
            durations[BATCH], durations[CPU] = [answer[0]], [answer[1]]
        elif case == CUDA_BATCH:
            durations[CUDA_BATCH] = [answer[0]]
        else:
            durations[case] = answer
    return durations


def describe(
    case: str, rounds: Rounds, name: str, batch: int, tokens: int | None, reference: str = REFERENCE
) -> Latency:
    """One entry of the report's `latency` list: percentiles, throughput, and the speed-up over the reference
    of its device (and over the baseline that most start from, where it took part and `name` is on a CPU
    as well)."""
    samples = flat(rounds[name])
    starts = PIPELINE in rounds and reference == REFERENCE
    return Latency(
        case=case,
        batch=batch,
        tokens=tokens,
        samples=len(samples),
        rounds=len(rounds[name]),
        p50_ms=float(np.median(samples)),
        p90_ms=percentile(samples, 90),
        p99_ms=percentile(samples, 99),
        texts_per_second=1000 * batch * len(samples) / sum(samples),
        speedup=speedup(rounds, name, reference),
        vs_pipeline=speedup(rounds, name, PIPELINE) if starts else None,
        p99_speedup=p99_speedup(rounds, name, reference),
    )


def p99_speedup(rounds: Rounds, name: str, reference: str = REFERENCE) -> records.Ratio | None:
    """As `speedup`, of 99th percentiles over all rounds; None where samples are too few. Rounds are resampled
    whole, since the samples of one are alike."""
    least = min(len(flat(rounds[variant])) for variant in (reference, name))
    if name == reference or least < 2 * LEAST_SAMPLES[99]:
        return None
    ratio = pooled_ratio(rounds[reference], rounds[name], 99)
    control = CONTROLS[reference]
    noise = pooled_ratio(rounds[reference], rounds[control], 99).distance if control in rounds else None
    return _recorded(ratio, noise)


def pooled_ratio(
    reference: list[list[float]], candidate: list[list[float]], percent: int, seed: int = 0
) -> Ratio:
    """Ratio of the percentiles of all samples, with the interval of a bootstrap over rounds."""
    paired = min(len(reference), len(candidate))
    ours, theirs = ([np.array(turn) for turn in turns[:paired]] for turns in (reference, candidate))

    def ratio(rows: np.ndarray) -> float:
        top, bottom = (
            np.percentile(np.concatenate([turn[row] for row in rows]), percent) for turn in (ours, theirs)
        )
        return float(top / bottom)

    drawn = np.random.default_rng(seed).integers(0, paired, size=(P99_RESAMPLES, paired))
    low, high = np.quantile([ratio(rows) for rows in drawn], [0.025, 0.975])
    return Ratio(ratio(np.arange(paired)), float(low), float(high))


def speedup(rounds: Rounds, name: str, reference: str = REFERENCE) -> records.Ratio:
    """Ratio to the reference with its interval, the noise floor as a factor, and the verdict of the two. A
    baseline has no control of its own: its noise is fp32's."""
    ours = reference if reference in CONTROLS else REFERENCE
    noise = paired_ratio(rounds[ours], rounds[CONTROLS[ours]]).distance if CONTROLS[ours] in rounds else None
    if name == reference:
        return records.Ratio(ratio=1.0, low=1.0, high=1.0, noise=noise, verdict="reference")
    return _recorded(paired_ratio(rounds[reference], rounds[name]), noise)


def _recorded(found: Ratio, noise: float | None) -> records.Ratio:
    verdict = "noise unknown" if noise is None else found.verdict(noise)
    return records.Ratio(ratio=found.ratio, low=found.low, high=found.high, noise=noise, verdict=verdict)


def paired_ratio(reference: list[list[float]], candidate: list[list[float]], seed: int = 0) -> Ratio:
    """Median over rounds of (median reference time / median candidate time), percentile bootstrap.

    The bootstrap of a median of few rounds is too narrow (six gave 89 % where 95 were promised): of fewer
    than `LEAST_ROUNDS` the interval is Student's, of the rounds' log ratios.
    """
    paired = min(len(reference), len(candidate))
    ratios = np.array([np.median(reference[turn]) / np.median(candidate[turn]) for turn in range(paired)])
    if paired < LEAST_ROUNDS:
        return _students(ratios)
    drawn = np.random.default_rng(seed).integers(0, paired, size=(RESAMPLES, paired))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def _students(ratios: np.ndarray) -> Ratio:
    """The median, with the 95 % interval of the geometric mean, stretched to hold the median; of one round,
    nothing is known of the spread."""
    middle = float(np.median(ratios))
    if len(ratios) < 2:
        return Ratio(middle, middle, middle)
    logs = np.log(ratios)
    reach = t.ppf(0.975, len(ratios) - 1) * logs.std(ddof=1) / np.sqrt(len(ratios))
    low, high = np.exp(logs.mean() - reach), np.exp(logs.mean() + reach)
    return Ratio(middle, min(float(low), middle), max(float(high), middle))


def flat(rounds: list[list[float]]) -> list[float]:
    return [duration for durations in rounds for duration in durations]
