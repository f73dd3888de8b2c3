import random
from itertools import combinations

import pytest

from handler import batching
from handler.batching import Grid, fit_grid, plan

GRID = Grid(lengths=(16, 32, 64, 128), batches=(1, 2, 4, 8, 16, 32), max_tokens=1024)

LARGE = Grid((16, 32, 64, 128), tuple(2**power for power in range(11)), max_tokens=32_768, call_tokens=1_024)


def random_lengths(count: int) -> list[int]:
    draw = random.Random(count)
    return [min(128, max(2, int(draw.gauss(32, 20)))) for _ in range(count)]


@pytest.mark.parametrize("grid", [GRID, LARGE], ids=["cpu", "gpu"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 16, 33, 300])
def test_every_text_runs_exactly_once_in_a_shape_of_the_grid_that_holds_it(count: int, grid: Grid) -> None:
    lengths = random_lengths(count)
    batches = plan(lengths, grid)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(count))
    for batch in batches:
        assert (batch.batch, batch.length) in grid.shapes()
        assert len(batch.rows) <= batch.batch
        assert max(lengths[row] for row in batch.rows) <= batch.length


def test_texts_of_one_length_fill_the_largest_batch_within_the_token_budget() -> None:
    assert [batch.batch for batch in plan([16] * 64, GRID)] == [32, 32]
    assert [batch.batch for batch in plan([64] * 32, GRID)] == [16, 16]


def test_a_long_text_does_not_pad_the_short_ones_to_its_length() -> None:
    padded = sum(batch.batch * batch.length for batch in plan([12] * 16 + [120], GRID))
    assert padded == 16 * 16 + 128


def test_the_plan_does_not_depend_on_the_order_of_the_texts() -> None:
    lengths = random_lengths(50)
    shuffled = random.Random(1).sample(lengths, len(lengths))
    shapes = [[(batch.batch, batch.length) for batch in plan(texts, GRID)] for texts in (lengths, shuffled)]
    assert shapes[0] == shapes[1]


def test_cutting_in_steps_costs_hardly_more_than_cutting_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost() -> int:
        return sum(batch.tokens + LARGE.call_tokens for batch in plan(random_lengths(1000), LARGE))

    in_steps = cost()
    monkeypatch.setattr(batching, "STEP", 1024)  # more than half of the largest batch: steps of one
    assert cost() <= in_steps <= 1.02 * cost()


def test_a_single_text_always_has_a_shape_even_beyond_the_token_budget() -> None:
    grid = Grid(lengths=(512,), batches=(1, 2), max_tokens=256)
    assert grid.shapes() == [(1, 512)]
    assert len(plan([500, 500], grid)) == 2


def test_the_fitted_grid_pads_less_than_an_even_one_of_as_many_lengths() -> None:
    lengths = random_lengths(1000)
    fitted = fit_grid(lengths, 128, buckets=4).lengths
    assert len(fitted) <= 4
    assert fitted[-1] == 128

    def padded(grid: tuple[int, ...]) -> int:
        return sum(next(top for top in grid if top >= length) for length in lengths)

    assert padded(fitted) < padded((32, 64, 96, 128))
    alternatives = [(*shorter, 128) for shorter in combinations(range(16, 128, 16), 3)]
    assert padded(fitted) == min(map(padded, alternatives)), "the dynamic programme is exact"


def test_a_grid_can_be_fitted_to_no_texts_at_all() -> None:
    assert fit_grid([], 64).lengths == (64,)


def test_a_packed_grid_takes_texts_as_they_come_and_counts_their_own_tokens() -> None:
    grid = Grid(lengths=(128,), batches=(1, 2, 4, 8), max_tokens=700, packed=True)
    lengths = random_lengths(12)
    batches = plan(lengths, grid)
    assert [batch.rows for batch in batches] == [
        tuple(range(start, min(start + 4, 12))) for start in (0, 4, 8)
    ]
    for batch in batches:
        own = [lengths[row] for row in batch.rows]
        assert (batch.batch, batch.length, batch.tokens) == (len(own), max(own), sum(own))
    assert plan([], grid) == []
    assert [len(batch.rows) for batch in plan([9, 9, 9], grid)] == [3], "no row is there to fill a batch up"


def test_where_calls_are_dear_fewer_are_made() -> None:
    lengths = [20] * 5 + [120]
    dear = Grid(GRID.lengths, GRID.batches, GRID.max_tokens, call_tokens=1024)
    assert [batch.rows for batch in plan(lengths, dear)] == [tuple(range(6))]
    assert len(plan(lengths, GRID)) > 1
