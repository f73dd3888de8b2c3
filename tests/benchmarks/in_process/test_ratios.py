"""Ratios and their intervals on turns whose true values are known."""

import numpy as np
import pytest

from benchmarks.in_process.ratios import compared, packed, time_ms, unpacked, verdict


def blocks(mean_ms: float, count: int = 6, *, drift: np.ndarray | None = None, seed: int = 0) -> list:
    """`count` blocks of four turns around `mean_ms`, one per cent of noise, times the blocks' drift."""
    random = np.random.default_rng(seed)
    drift = np.ones(count) if drift is None else drift
    return [(mean_ms * factor * random.lognormal(0, 0.01, (4, 2))).tolist() for factor in drift]


def test_what_others_add_to_a_time_does_not_count() -> None:
    quiet = [[10.0, 10.0], [10.0, 10.0], [10.0, 10.0], [10.0, 10.0]]
    disturbed = [[10.0, 90.0], [80.0, 70.0], [10.0, 10.0], [50.0, 10.0]]
    assert time_ms(disturbed, by_text=False) == time_ms(quiet, by_text=False) == 10


def test_texts_are_held_against_themselves() -> None:
    """A long text is not slow: its quick turns are long as well."""
    turns = [[1.0, 9.0], [5.0, 9.0], [1.0, 9.0], [1.0, 20.0], [1.0, 9.0]]
    assert time_ms(turns, by_text=True) == 5


def test_a_ratio_survives_a_drift_that_hits_both() -> None:
    drift = np.linspace(1, 3, 6)  # the machine gets three times slower during the run
    found = compared(blocks(40, drift=drift, seed=1), blocks(10, drift=drift, seed=2), by_text=False)
    assert found.ratio == pytest.approx(4, rel=0.02)
    assert found.low < 4 < found.high
    assert found.width < 0.1
    assert found.of_medians == pytest.approx(4, rel=0.02)


def test_what_a_restart_changes_is_in_the_interval() -> None:
    """Each process is as slow as its start made it: more turns of it tell nothing."""
    lucky = np.array([1, 1.2, 1, 1.2, 1, 1.2])
    steady, uneven = (
        compared(blocks(20, seed=1), blocks(20, drift=drift, seed=2), by_text=False)
        for drift in (None, lucky)
    )
    assert steady.verdict == "equal"
    assert uneven.width > 0.15
    assert uneven.verdict != "equal"


def test_blocks_without_one_of_the_two_do_not_count() -> None:
    reference, candidate = blocks(20, seed=1), blocks(10, seed=2)
    candidate[2] = []
    candidate[5] = []
    found = compared(reference, candidate, by_text=False)
    four = [place for place in range(6) if candidate[place]]
    again = compared(
        [reference[place] for place in four], [candidate[place] for place in four], by_text=False
    )
    assert found == again
    assert compared([], candidate, by_text=False) is None
    assert compared([[]], [[]], by_text=False) is None


def test_one_block_resolves_nothing() -> None:
    found = compared(blocks(20, 1), blocks(5, 1), by_text=False)
    assert found.verdict == "not resolved"
    assert found.low == found.ratio == found.high


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ((1.1, 1.3), "faster"),
        ((1.06, 1.08), "faster"),
        ((0.7, 0.9), "slower"),
        ((0.96, 1.04), "equal"),
        ((1.01, 1.04), "equal"),
        ((1.01, 1.3), "not resolved"),
        ((0.9, 1.04), "not resolved"),
        ((0.98, 1.5), "not resolved"),
    ],
)
def test_a_verdict_is_what_the_interval_says(ends: tuple[float, float], word: str) -> None:
    assert verdict(*ends) == word


def test_turns_are_read_back_as_they_were_written() -> None:
    given = [[[20.25, 21.5], [20.0, 1000.0]], [], [[0.1234]]]
    assert unpacked(packed(given)) == given
    assert packed(given)[1] == ""
