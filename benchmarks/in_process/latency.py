"""Latency and throughput in process: all variants take short turns at one case, there and back, then at
the next.

Every process is restarted for each block, so the spread over blocks, which gives a ratio's interval
(`ratios`), includes the effect of a start. After the blocks that all rows share, rows that may still be
chosen go on until their ratios on real texts are known to within `WIDTH` or the time is up; then the others.
"""

import random
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np

from benchmarks import environment, records
from benchmarks.ceilings.gemm_bound import GemmBound, GemmTurn
from benchmarks.in_process.pool import Pool
from benchmarks.in_process.ratios import Block, compared, of_times, packed, time_ms
from benchmarks.names import (
    BATCH,
    BATCH_TEXTS,
    BY_TEXT,
    CUDA_BATCH,
    CUDA_BATCH_TEXTS,
    CUDA_MODEL,
    CUDA_REFERENCE,
    CUDA_SHAPES,
    GEMM_BOUND,
    MODEL,
    PIPELINE,
    REFERENCE,
    REFERENCES,
    SHAPES,
    SINGLE,
    TOKENISE,
)
from benchmarks.profiles import Profile
from benchmarks.progress import Step
from benchmarks.records import Latency, LengthBin
from benchmarks.resume_log import ResumeLog
from benchmarks.samples import by_length, percentile
from common.records import Record

WIDTH = 0.1  # of an interval that is narrow enough: from its low end to its high one
MOST_SWEEPS = 4  # there and back over all rows, at one case in one block
# Guests' threads wait as they like: ONNX Runtime's spun for 20 ms after their work, in the neighbour's turn.
SETTLE_S = 0.05


class Turn(Record):
    """A few calls, one after the other; the CPU time of all threads is their mean."""

    times_ms: list[float]
    cpu_ms: float


class Swept(Record):
    """One case of one block: the turns of each row, as many of each, how long they took, what other processes
    took of the CPU meanwhile, and how long the starts before them took."""

    turns: dict[str, list[Turn]]
    seconds: float
    others_s: float
    starts_s: float


class Timings:
    """The timings of all blocks. `tokens` are the lengths of the held texts, `standing` ranks the rows that
    may be chosen (low is better), `most` is how many are; `on_cuda` are the rows that compute on a GPU."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        tokens: np.ndarray,
        single_texts: int,
        on_cuda: Collection[str] = (),
        standing: Mapping[str, int] | None = None,
        most: int | None = None,
    ) -> None:
        self.details: dict[str, tuple[int, int | None]] = {_case(*shape): shape for shape in shapes}
        self.details |= {SINGLE: (1, None), BATCH: (BATCH_TEXTS, None)}
        if on_cuda:
            self.details |= dict.fromkeys((CUDA_BATCH, CUDA_MODEL), (CUDA_BATCH_TEXTS, None))
        self.on_cuda = on_cuda
        self.tokens = tokens
        self.single_texts = single_texts
        self.blocks: dict[str, dict[str, list[Block]]] = {}
        self.low_ms: dict[str, dict[str, list[float | None]]] = {}
        self.cpu_ms: dict[str, dict[str, list[float]]] = {}
        self.seconds = 0.0
        self.starts_s = 0.0
        self.others_s = 0.0
        self._standing = standing or {}
        self._most = most
        self._chosen: list[str] | None = None

    @property
    def others_cores(self) -> float:
        """What other processes took on average, in cores."""
        return self.others_s / self.seconds

    @property
    def cases(self) -> list[str]:
        """In the order in which a block has them; what follows the reports' own are parts of single texts."""
        return [*self.details, TOKENISE, MODEL]

    @property
    def real(self) -> list[str]:
        """The cases of real texts, by which variants are chosen."""
        return [SINGLE, BATCH, *([CUDA_BATCH] if self.on_cuda else [])]

    def add(self, block: int, case: str, found: Swept) -> None:
        for name, turns in found.turns.items():
            blocks = self.blocks.setdefault(case, {}).setdefault(name, [])
            low_ms = self.low_ms.setdefault(case, {}).setdefault(name, [])
            for _ in range(block - len(blocks)):
                blocks.append([])
                low_ms.append(None)
            blocks.append([turn.times_ms for turn in turns])
            low_ms.append(time_ms(blocks[-1], case in BY_TEXT))
            self.cpu_ms.setdefault(case, {}).setdefault(name, []).extend(turn.cpu_ms for turn in turns)
        self.seconds += found.seconds
        self.starts_s += found.starts_s
        self.others_s += found.others_s

    def due(self, block: int, names: Sequence[str], profile: Profile) -> list[str]:
        """Which of `names` take part in that block; none: it is over."""
        if block < profile.blocks:
            return list(names)
        if block >= profile.most_blocks or self.seconds + self.starts_s > profile.latency_s:
            return []
        if self._chosen is None:
            self._chosen = self.may_be_chosen()
        wanted = [name for name in self._chosen if name in names]
        if not any(map(self.is_wide, wanted)):
            wanted = [name for name in names if self.is_wide(name)]
        yardsticks = {self.reference_of(name) for name in wanted} | {self.yardstick(name) for name in wanted}
        return [name for name in names if name in yardsticks or name in wanted]

    def may_be_chosen(self) -> list[str]:
        """The references, the `most` quickest of the best standing, and those that are not shown to be slower
        than the last of them."""
        found = [name for name in REFERENCES if name in self.blocks[BATCH]]
        for reference in tuple(found):
            case = CUDA_BATCH if reference == CUDA_REFERENCE else BATCH
            rows = [name for name in self.blocks[case] if self.reference_of(name) == reference]
            times = {name: self.ratio(case, name, reference) for name in rows if name in self._standing}
            ranked = sorted(times, key=lambda name: (self._standing[name], -(times[name] or NOTHING).ratio))
            first = ranked[: self._most]
            for name in ranked:
                against = self.ratio(case, name, first[-1])
                alike = self._standing[name] == self._standing[first[-1]]
                if name in first or (alike and against and against.verdict != "slower"):
                    found.append(name)
        return list(dict.fromkeys(found))

    def is_wide(self, name: str) -> bool:
        """Whether a ratio on real texts is not yet known well enough."""
        ratios = [self.ratio(case, name, self.yardstick(name)) for case in self.real]
        return any(ratio and ratio.width > WIDTH for ratio in ratios)

    def ratio(self, case: str, name: str, reference: str) -> records.Ratio | None:
        """None where one of them lacks the case."""
        rows = self.low_ms.get(case, {})
        return of_times(rows.get(reference, []), rows.get(name, []))

    def reference_of(self, name: str) -> str:
        return CUDA_REFERENCE if name in self.on_cuda else REFERENCE

    def yardstick(self, name: str) -> str:
        """What a user runs today, where it took part; on a GPU the reference."""
        has_pipeline = name not in self.on_cuda and PIPELINE in self.blocks.get(BATCH, {})
        return PIPELINE if has_pipeline else self.reference_of(name)

    def entries(self, names: Sequence[str]) -> dict[str, list[Latency]]:
        """The report's `latency` list of every variant and every baseline that got through."""
        for rows in self.blocks.values():
            for name in rows.keys() - set(names):
                del rows[name]
        return {name: self._entries_of(name) for name in names}

    def _entries_of(self, name: str) -> list[Latency]:
        found = [self.describe(case, name) for case in self.details if name in self.blocks.get(case, {})]
        for entry in found:
            if entry.case == SINGLE:
                entry.tokenise_p50_ms = percentile(flat(self.blocks[TOKENISE][name]), 50)
                entry.model_p50_ms = percentile(flat(self.blocks[MODEL][name]), 50)
                entry.by_length = self._by_length(self.blocks[SINGLE][name])
        return found

    def describe(self, case: str, name: str) -> Latency:
        """One entry of the report's `latency` list: times, throughput, the turns themselves, and the ratio to
        the reference of its device (and to what a user runs today, where it took part)."""
        batch, tokens = self.details[case]
        blocks = self.blocks[case][name]
        samples = flat(blocks)
        # Geometric, as ratios are: the quotient of two rows' times is their ratio.
        low_ms = float(np.exp(np.mean(np.log([found for found in self.low_ms[case][name] if found]))))
        yardstick = self.yardstick(name)
        return Latency(
            case=case,
            batch=batch,
            tokens=tokens,
            samples=len(samples),
            rounds=sum(map(bool, blocks)),
            p50_ms=float(np.median(samples)),
            p90_ms=percentile(samples, 90),
            p99_ms=percentile(samples, 99),
            texts_per_second=1000 * batch / low_ms,
            speedup=self._against(case, name, self.reference_of(name)),
            vs_pipeline=self._against(case, name, PIPELINE) if yardstick == PIPELINE else None,
            low_ms=low_ms,
            cpu_ms=float(np.median(self.cpu_ms[case][name])),
            turns=packed(blocks),
        )

    def _against(self, case: str, name: str, reference: str) -> records.Ratio:
        if name == reference:
            return NOTHING
        rows = self.blocks[case]
        found = compared(rows[reference], rows[name], case in BY_TEXT)
        assert found is not None  # both take part in the blocks that all share
        return found

    def _by_length(self, blocks: Sequence[Block]) -> list[LengthBin]:
        """Single texts by their own length."""
        samples: list[float] = []
        rows: list[int] = []
        for block, turns in enumerate(blocks):
            for turn in turns:
                samples += turn
                rows += range(block * self.single_texts, block * self.single_texts + len(turn))
        taken = {
            end: [samples[place] for place in places] for end, places in by_length(self.tokens[rows]).items()
        }
        return [
            LengthBin(up_to=end, n=len(some), p50_ms=float(np.median(some)), p99_ms=percentile(some, 99))
            for end, some in taken.items()
        ]

    def cpu_s_per_1000_texts(self, name: str) -> float:
        """Of all threads, in batches of real texts."""
        return float(np.median(self.cpu_ms[BATCH][name])) / BATCH_TEXTS


NOTHING = records.Ratio(ratio=1.0, low=1.0, high=1.0, verdict="reference")


def shapes_up_to(max_length: int, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[tuple[int, int]]:
    """`shapes` as (texts, tokens), cut to what the model reads; shapes that become equal stand once."""
    return list(dict.fromkeys((batch, min(tokens, max_length)) for batch, tokens in shapes))


def measure_latency(
    pool: Pool,
    texts: Sequence[str],
    max_length: int,
    profile: Profile,
    step: Step,
    resume_log: ResumeLog,
    bound: GemmBound | None = None,
    standing: Mapping[str, int] | None = None,
) -> Timings:
    """Blocks of turns, as many as it takes or there is time for. `standing` ranks those that may be chosen by
    what is known of their answers."""
    largest = CUDA_BATCH_TEXTS if pool.on_cuda else BATCH_TEXTS
    needed = profile.most_blocks * max(profile.single_texts, largest)
    held = list(islice(cycle(texts), needed))
    for name in pool.rows:
        pool.ask(name, "hold", texts=held)
    shapes = shapes_up_to(max_length, (*SHAPES, *(CUDA_SHAPES if pool.on_cuda else ())))
    tokens = np.array(pool.ask(REFERENCE, "lengths"))
    most = profile.served_best
    timings = Timings(shapes, tokens, profile.single_texts, pool.on_cuda, standing, most)
    for block in range(profile.most_blocks):
        due = timings.due(block, pool.rows, profile)
        if not due:
            break
        with step(f"latency, block {block + 1} of {profile.most_blocks} at most"):
            for case in timings.cases if block < profile.blocks else timings.real:
                measure = partial(one_case, pool, block, case, due, held, profile)
                timings.add(block, case, resume_log.once(f"latency {block} {case}", measure, Swept))
            if bound and block < profile.blocks:
                turn = resume_log.once(f"latency {block} bound", partial(_of_bound, pool, bound), BoundTurn)
                if turn.found:
                    bound.add(turn.found)
    return timings


class BoundTurn(Record):
    """None where the worker has dropped out."""

    found: GemmTurn | None


def _of_bound(pool: Pool, bound: GemmBound) -> BoundTurn:
    return BoundTurn(found=bound.turn(pool) if GEMM_BOUND in pool.names else None)


def one_case(
    pool: Pool, block: int, case: str, names: Iterable[str], held: Sequence[str], profile: Profile
) -> Swept:
    """Turns there and back over all rows that have the case, in an order of this block's own."""
    began = time.perf_counter()
    pool.renew(block, [name for name in names if name in pool.names], held)
    starts_s = time.perf_counter() - began
    asked = {name: found for name in names if (found := _question(pool, name, block, case, profile))}
    order = random.Random(f"{block} {case}").sample(list(asked), len(asked))
    turns: dict[str, list[Turn]] = {name: [] for name in order}
    others = environment.Others(pool.processes)
    began = time.perf_counter()
    seconds = 0.0
    for sweep in range(MOST_SWEEPS):
        if sweep and seconds > profile.sweep_s:
            break
        for name in (*order, *reversed(order)):
            if name in pool.names:
                command, arguments = asked[name]
                if (answer := pool.ask(name, command, **arguments)) is not None:
                    turns[name].append(Turn(**answer))
                if name in pool.extras:
                    time.sleep(SETTLE_S)
        seconds = time.perf_counter() - began
    return Swept(
        turns={name: found for name, found in turns.items() if name in pool.names},
        seconds=seconds,
        others_s=others.seconds(),
        starts_s=starts_s,
    )


def _question(
    pool: Pool, name: str, block: int, case: str, profile: Profile
) -> tuple[str, dict[str, Any]] | None:
    """What a worker is asked for a turn at that case, with the texts of that block; None where it has no such
    case."""
    if name not in pool.names:
        return None
    on_cuda = name in pool.on_cuda
    if case in (CUDA_BATCH, CUDA_MODEL):
        # Baselines' own take tokenised texts of one length alone.
        if not on_cuda or (case == CUDA_MODEL and name in pool.baselines):
            return None
        return "together" if case == CUDA_BATCH else "computed", _stretch(block, CUDA_BATCH_TEXTS)
    if case == BATCH:
        return "together", _stretch(block, BATCH_TEXTS)
    texts = _stretch(block, profile.single_texts)
    if case == SINGLE:
        return "single", texts
    if case in (TOKENISE, MODEL):
        return case, texts | {"stop": texts["start"] + max(1, profile.single_texts // 3)}
    batch, tokens = map(int, case.split("x"))
    return ("shape", {"batch": batch, "tokens": tokens}) if on_cuda or batch <= BATCH_TEXTS else None


def _stretch(block: int, texts: int) -> dict[str, int]:
    return {"start": block * texts, "stop": (block + 1) * texts}


def _case(batch: int, tokens: int) -> str:
    return f"{batch}x{tokens}"


def flat(blocks: Iterable[Block]) -> list[float]:
    return [call for block in blocks for turn in block for call in turn]
