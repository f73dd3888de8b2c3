"""Which texts run together: a finite grid of (batch, length) shapes and a plan that wastes the least.

Runtimes that compile kernels per shape (OpenVINO) only get shapes of the grid, all warmed at start, so the
first text of a length is not slower. The plan is a pure function of the lengths and the grid: every process
with as many threads cuts the same texts in the same way, which keeps answers reproducible.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

import numpy as np

from handler.records import Bounds, Count, Some

# A packed grid is for models that compute no padding: texts of any lengths run together, as many as it holds.

# What one more call of the model costs, in tokens. Measured with OpenVINO int8 on 2 AMX cores: from 1x32 to
# 16x128 a call takes 16 to 20 us for each of (tokens + 32) with the 22 M base, 31 to 35 us with the 66 M one.
CALL_TOKENS = 32
# Where batches are larger than on any CPU, texts are cut in such steps alone: by one it took 3 ms for 1,024
# texts, half of what a large GPU takes to classify them.
STEP = 16

Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(input_ids, attention_mask), both int64 [batch, length] -> logits, float32 [batch, labels].

One that is differentiable has an attribute `model`, the torch module that it runs.
"""


@dataclass(frozen=True)
class Grid:
    """The shapes that a runtime is asked to run: ascending lengths (tokens) and batch sizes (texts).

    `call_tokens` is what one more call costs. Where it is `packed`, padding costs nothing: every batch up to
    the largest is planned, and the shapes are examples, for warming and checks.
    """

    lengths: Annotated[tuple[Some, ...], Bounds(minItems=1)]
    batches: Annotated[tuple[Some, ...], Bounds(minItems=1)]
    max_tokens: Some
    call_tokens: Count = CALL_TOKENS
    packed: bool = False

    def shapes(self) -> list[tuple[int, int]]:
        """Every (batch, length) within the token budget; a single text always is."""
        return [(batch, length) for length in self.lengths for batch in self.batches_at(length)]

    def batches_at(self, length: int) -> tuple[int, ...]:
        return tuple(batch for batch in self.batches if batch == 1 or batch * length <= self.max_tokens)

    def at_most(self, texts: int) -> "Grid":
        """Its shapes of up to so many texts, or of its smallest batch."""
        fitting = tuple(batch for batch in self.batches if batch <= texts)
        return replace(self, batches=fitting or self.batches[:1])

    def bucket(self, length: int) -> int:
        """The shortest length of the grid that holds `length` tokens."""
        return next(bucket for bucket in self.lengths if bucket >= length)


@dataclass(frozen=True)
class MicroBatch:
    """One call of the model: `rows` index the texts, the tensor has shape [batch, length], and `tokens` of it
    are computed: all, or those of the texts where the grid is packed."""

    rows: tuple[int, ...]
    batch: int
    length: int
    tokens: int


def plan(lengths: Sequence[int], grid: Grid) -> list[MicroBatch]:
    """Cut texts of the given token lengths into micro-batches of least total cost.

    Texts are sorted by length; a dynamic programme over the sorted order then chooses the cuts that
    minimise padded tokens plus `grid.call_tokens` for each call. O(texts x batch sizes). Where the grid is
    packed nothing is padded, and texts run in the order in which they come.
    """
    if grid.packed:
        return _packed(lengths, grid)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    buckets = [grid.bucket(lengths[row]) for row in order]
    costs = {  # of one call of each batch at each length
        length: [(batch, batch * length + grid.call_tokens) for batch in grid.batches_at(length)]
        for length in grid.lengths
    }
    # Of steps, the incomplete one comes first: it is of the shortest texts, and only a batch that holds all
    # of it can end there.
    step = STEP if grid.batches[-1] > 2 * STEP and grid.batches_at(grid.lengths[-1])[-1] >= STEP else 1
    best: dict[int, float] = {0: 0.0}  # least cost of so many texts of `order`
    choice: dict[int, int] = {}  # the batch size that ends there
    for end in range(len(order) % step or step, len(order) + 1, step):
        cost, batch = min(
            (best[max(0, end - b)] + call, -b)
            for b, call in costs[buckets[end - 1]]
            if b >= end or b % step == 0
        )
        best[end] = cost
        choice[end] = -batch
    batches = []
    end = len(order)
    while end:
        start = max(0, end - choice[end])
        batch = choice[end]
        length = buckets[end - 1]
        batches.append(MicroBatch(tuple(order[start:end]), batch, length, batch * length))
        end = start
    return batches


def _packed(lengths: Sequence[int], grid: Grid) -> list[MicroBatch]:
    """As many texts a call as the grid holds at its longest, so that memory is bounded whatever they are."""
    most = grid.batches_at(grid.lengths[-1])[-1]
    calls = [range(start, min(start + most, len(lengths))) for start in range(0, len(lengths), most)]
    own = [[lengths[row] for row in rows] for rows in calls]
    return [
        MicroBatch(tuple(rows), len(rows), max(known), sum(known))
        for rows, known in zip(calls, own, strict=True)
    ]


def fit_grid(
    lengths: Sequence[int],
    max_length: int,
    *,
    buckets: int = 7,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32),
    max_tokens: int = 2048,
) -> Grid:
    """The grid of at most `buckets` lengths that pads texts of the observed `lengths` (tokens) the least.

    Candidates are the multiples of 16 and `max_length`, which is always in the grid so that every text
    fits. A tile of AMX has 16 rows: 24 tokens take int8 kernels as long as 32, and 40 as long as 48.
    Exact, by dynamic programming.
    """
    candidates = sorted({*range(16, max_length, 16), max_length})
    ranks = sorted(min(length, max_length) for length in lengths)
    up_to = [bisect_right(ranks, candidate) for candidate in candidates]

    @cache
    def best(last: int, count: int) -> tuple[int, tuple[int, ...]]:
        """Padded tokens and lengths, for the texts up to `candidates[last]` in at most `count` buckets."""
        top = candidates[last]
        options = [(top * up_to[last], (top,))]
        if count > 1:
            for previous in range(last):
                tokens, shorter = best(previous, count - 1)
                options.append((tokens + top * (up_to[last] - up_to[previous]), (*shorter, top)))
        return min(options, key=lambda option: (option[0], len(option[1])))

    _, chosen = best(len(candidates) - 1, buckets)
    return Grid(lengths=chosen, batches=tuple(batches), max_tokens=max_tokens)
