"""Intervals and verdicts of simulated runs keep what they promise, with the rule that ends a run."""

import pytest

from benchmarks.in_process.simulated import Simulated, Timed, note, simulate, steps, tables
from common.shares import share_interval

SEEDS = 300


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return simulate(SEEDS, lambda: None)


def at_most(promised: float, seeds: int) -> float:
    """What so many runs may show of that share by chance."""
    return share_interval(round(promised * seeds), seeds)[1]


def of(simulated: Simulated, ratio: float) -> list[Timed]:
    return [timed for timed in simulated.timed if timed.ratio == ratio]


@pytest.mark.slow
def test_an_interval_holds_the_true_ratio_as_often_as_it_says(simulated) -> None:
    for goes_on in (True, False):
        held = [timed.held for timed in simulated.timed if timed.goes_on == goes_on]
        missed = 1 - sum(held) / len(held)
        assert missed <= at_most(0.05, SEEDS), goes_on


@pytest.mark.slow
def test_equals_are_called_faster_or_slower_no_more_often_than_promised(simulated) -> None:
    for timed in of(simulated, 1.0):
        assert max(timed.verdicts["faster"], timed.verdicts["slower"]) <= at_most(0.025, SEEDS), timed


@pytest.mark.slow
def test_at_the_limit_of_equality_both_verdicts_are_as_rare_as_promised(simulated) -> None:
    for timed in of(simulated, 1.05):
        assert max(timed.verdicts["faster"], timed.verdicts["equal"]) <= at_most(0.025, SEEDS), timed


@pytest.mark.slow
def test_a_variant_that_is_1_4_times_as_fast_is_called_faster(simulated) -> None:
    """The rule before found 6 to 57 % of them, on a machine as that of the published run."""
    for timed in of(simulated, 1.4):
        if timed.machine != "busy":
            assert timed.verdicts["faster"] > 0.9, timed


@pytest.mark.slow
def test_two_runs_do_not_contradict_each_other(simulated) -> None:
    for timed in simulated.timed:
        assert timed.contradicted <= at_most(0.025, SEEDS // 2), timed


def test_a_few_runs_make_a_table_and_say_how_to_read_it() -> None:
    ticks = []
    few = simulate(2, lambda: ticks.append(1))
    assert len(ticks) == steps(2)
    assert tables(few).count("until known") == 9
    assert "Of 2 simulated runs" in note(few)
