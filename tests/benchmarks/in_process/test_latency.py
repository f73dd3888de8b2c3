"""Which rows take turns, and what becomes of the turns, on durations whose true values are known."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.in_process.latency import Swept, Timings, Turn, shapes_up_to
from benchmarks.profiles import PROFILES
from benchmarks.samples import percentile

BLOCKS = 4
PROFILE = replace(PROFILES["quick"], blocks=BLOCKS, most_blocks=8, latency_s=100)
STANDING = {"quick": 0, "next": 0, "third": 0, "worse": 1}
TIMES_MS = {
    "fp32": 40.0,
    "hf-pipeline": 50.0,
    "quick": 10.0,
    "next": 11.0,
    "third": 20.0,
    "worse": 5.0,
    "failed": 2.0,
}


def timings(spread: float = 0.0, times: dict[str, float] = TIMES_MS, most: int | None = 2) -> Timings:
    """Blocks that all rows share, whose starts differ by that much (the sd of logs)."""
    found = Timings([(1, 32)], np.full(400, 20), 2, (), STANDING, most)
    for block in range(BLOCKS):
        add(found, block, times, spread)
    return found


def add(
    found: Timings, block: int, times: dict[str, float], spread: float = 0.0, starts_s: float = 1.0
) -> None:
    random = np.random.default_rng(block)
    starts = {name: mean * random.lognormal(0, spread) for name, mean in times.items()}
    for case in found.cases:
        turns = {
            name: [Turn(times_ms=[start, start], cpu_ms=2 * start) for _ in range(2)]
            for name, start in starts.items()
        }
        found.add(block, case, Swept(turns=turns, seconds=1, others_s=0.5, starts_s=starts_s))


def test_percentiles_are_those_of_the_samples() -> None:
    samples = list(range(1, 1001))
    assert percentile(samples, 50) == pytest.approx(500.5)
    assert percentile(samples, 99) == pytest.approx(990.01)


def test_a_p99_is_not_made_of_too_few_samples() -> None:
    assert percentile([1.0] * 99, 99) is None
    assert percentile([1.0] * 100, 99) == 1.0
    assert percentile([3.0], 50) == 3.0


def test_an_entry_has_times_rates_ratios_and_the_turns_themselves() -> None:
    entry = timings().describe("32 texts", "quick")
    assert (entry.low_ms, entry.p50_ms, entry.cpu_ms) == pytest.approx((10, 10, 20))
    assert entry.texts_per_second == pytest.approx(3200)
    assert (entry.samples, entry.rounds) == (16, BLOCKS)
    assert entry.turns == ["10 10; 10 10"] * BLOCKS
    assert entry.speedup.ratio == pytest.approx(4)
    assert entry.vs_pipeline.ratio == pytest.approx(5)
    assert entry.against_today is entry.vs_pipeline
    assert entry.speedup.verdict == "faster"


def test_references_are_held_against_nothing_but_each_other() -> None:
    found = timings()
    assert found.describe("32 texts", "fp32").speedup.verdict == "reference"
    assert found.describe("32 texts", "fp32").vs_pipeline.ratio == pytest.approx(1.25)
    assert found.describe("32 texts", "hf-pipeline").vs_pipeline.verdict == "reference"


def test_without_the_pipeline_fp32_is_what_ratios_are_to() -> None:
    entry = timings(times={"fp32": 40.0, "quick": 10.0}).describe("1 text", "quick")
    assert entry.vs_pipeline is None
    assert entry.against_today is entry.speedup


def test_the_lengths_of_single_texts_are_those_of_their_block() -> None:
    found = Timings([], np.array([10, 20, 30, 40]), 2)
    for block in range(2):
        turns = {"fp32": [Turn(times_ms=[1.0 + block, 2.0 + block], cpu_ms=1)] * 2}
        for case in found.cases:
            found.add(block, case, Swept(turns=turns, seconds=1, others_s=0, starts_s=0))
    (entry,) = [entry for entry in found.entries(["fp32"])["fp32"] if entry.case == "1 text"]
    assert [(part.up_to, part.n, part.p50_ms) for part in entry.by_length] == [
        (16, 2, 1),
        (32, 4, 2),
        (48, 2, 3),
    ]


def test_all_take_part_in_the_first_blocks() -> None:
    found = timings()
    assert found.due(BLOCKS - 1, [*TIMES_MS], PROFILE) == [*TIMES_MS]


def test_it_ends_when_every_ratio_is_known_well_enough() -> None:
    assert timings(spread=0.001).due(BLOCKS, [*TIMES_MS], PROFILE) == []


def test_it_ends_when_the_time_is_up_starts_included() -> None:
    found = timings(spread=0.1)
    assert found.due(BLOCKS, [*TIMES_MS], PROFILE)
    found.starts_s += PROFILE.latency_s
    assert found.due(BLOCKS, [*TIMES_MS], PROFILE) == []
    assert timings(spread=0.1).due(PROFILE.most_blocks, [*TIMES_MS], PROFILE) == []


def test_rows_that_may_be_chosen_go_first_with_what_they_are_held_against() -> None:
    """The quickest of all has failed on the gate; the next one is less sure to pass than two others."""
    due = timings(spread=0.03).due(BLOCKS, [*TIMES_MS], PROFILE)
    assert due == ["fp32", "hf-pipeline", "quick", "next"]


def test_a_row_that_is_not_shown_to_be_slower_may_still_be_chosen() -> None:
    due = timings(spread=0.5).due(BLOCKS, [*TIMES_MS], PROFILE)
    assert due == ["fp32", "hf-pipeline", "quick", "next", "third"]


def test_then_the_others_get_what_time_is_left() -> None:
    found = timings(spread=0.001)
    wild = dict.fromkeys(["worse"], 5.0)
    for block in range(2):
        for case in found.real:
            found.low_ms[case]["worse"][block] = 20.0
    assert found.due(BLOCKS, [*TIMES_MS], PROFILE) == ["fp32", "hf-pipeline", *wild]


def test_who_has_dropped_out_takes_no_more_turns() -> None:
    found = timings(spread=0.03)
    assert "next" not in found.due(BLOCKS, [name for name in TIMES_MS if name != "next"], PROFILE)


def test_shapes_are_cut_to_what_the_model_reads() -> None:
    assert shapes_up_to(128) == [(1, 32), (8, 32), (32, 32), (1, 128)]
    assert shapes_up_to(64) == [(1, 32), (8, 32), (32, 32), (1, 64)]
    assert shapes_up_to(16) == [(1, 16), (8, 16), (32, 16)]
