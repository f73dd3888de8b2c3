"""The error rates of levels that hold, against a queue of which the true share of late requests is known."""

import pytest

from benchmarks.served.late_power import MOST_VISITS, TRUE, Held, Server, late_note, late_table, simulate_late
from common.shares import share_interval

SEEDS = 250
STALLED = Server(0.15, MOST_VISITS, stalls_per_s=0.2)


@pytest.fixture(scope="module")
def held() -> dict[tuple[float, float], Held]:
    servers = [STALLED, *(Server(load) for load in (0.25, 0.55, 0.95))]
    return {(case.load, case.late): case for case in simulate_late(SEEDS, lambda: None, servers)}


@pytest.mark.slow
def test_a_server_that_is_late_too_often_holds_in_no_more_than_one_run_in_forty(held) -> None:
    for load in (0.15, 0.25, 0.55, 0.95):
        most = share_interval(round(0.025 * SEEDS), SEEDS)[1]
        assert held[load, 0.01].held <= most, load
        assert held[load, 0.02].held <= 0.005, load
        assert held[load, 0.01].p99_within > 0.5, "as a p99 without an error was"


@pytest.mark.slow
def test_a_server_that_is_rarely_late_is_shown_to_be_at_the_loads_that_seconds_can_show(held) -> None:
    assert held[0.25, 0.002].held > 0.5
    assert held[0.25, 0.0005].held > 0.8
    assert held[0.15, 0.0005].held > 0.5, "six visits, although the machine stalls"
    assert held[0.55, 0.0005].held > 0.3
    assert held[0.95, 0.0005].held == 0, "a queue that swings for seconds is not known after as many"


def test_the_table_has_a_row_for_each_load() -> None:
    found = [Held(load, 0.0, 100.0, late, 40, 0.025, 0.65) for load in (0.25, 0.5) for late in TRUE]
    lines = late_table(found).splitlines()
    assert len(lines) == 4
    assert lines[2].count("2.5% / 65%") == len(TRUE)
    assert "40 simulated runs" in late_note(found)
