"""More than a server can do: what counts as right, and (slow) a real server that does it."""

import copy
import json

import pytest

from benchmarks.served.open_loop import Arrivals
from benchmarks.served.overload import Memory, Overload, ahead, judge, table
from common.records import read
from export.archives.package import package
from tests.conftest import ran

RIGHT = {
    "cpus": 2,
    "flood": {
        "saturation_rps": 300.0,
        "offered_rps": 600.0,
        "seconds": 60.0,
        "queue": 256,
        "answered_rps": 280.0,
        "answered_p50_ms": 1000.0,
        "answered_p99_ms": 1100.0,
        "ahead_p99": 300.0,
        "ahead_bound": 320,
        "bound_ms": 1143.0,
        "refused": 19_000,
        "refused_by": {"503": 19_000},
        "refused_p50_ms": 3.0,
        "refused_p99_ms": 9.0,
        "late_p99_ms": 2.0,
        "memory_mb": {"start": 900.0, "most": 930.0, "end": 920.0},
        "memory_growth_mb": 5.0,
        "healthy_after": True,
        "rps_after": 298.0,
        "errors_after": {},
    },
    "worker_killed": {
        "offered_rps": 150.0,
        "seconds": 30.0,
        "killed_at_s": 10.0,
        "batch_size": 32,
        "failed": 3,
        "failed_by": {"503": 3},
        "failed_due_s": [9.99, 9.995, 10.0],
        "answered_p99_ms": 300.0,
        "is_back": True,
        "errors_after": {},
    },
}


def test_a_server_that_does_what_it_should_has_no_objections() -> None:
    right = read(RIGHT, Overload)
    assert judge(right) == []
    shown = table(right)
    assert "1,100 ms; 320 requests at that rate take 1,143 ms" in shown
    assert "due from 9.99 to 10.00 s" in shown


@pytest.mark.parametrize(
    ("part", "wrong", "objection"),
    [
        ("flood", {"refused": 0, "refused_by": {}}, "was not too much"),
        (
            "flood",
            {"refused_by": {"503": 5, "ServerDisconnectedError": 1}},
            "in other ways than a refusal",
        ),
        ("flood", {"ahead_p99": 400.0}, "waited for more requests"),
        ("flood", {"ahead_p99": None}, "waited for more requests"),
        ("flood", {"refused_p50_ms": 400.0}, "refusals took too long"),
        ("flood", {"memory_growth_mb": 60.0}, "memory grew by 60 MB"),
        ("flood", {"healthy_after": False}, "not healthy afterwards"),
        ("flood", {"errors_after": {"503": 1}}, "not healthy afterwards"),
        ("worker_killed", {"is_back": False}, "did not come back"),
        ("worker_killed", {"failed": 33}, "33 requests failed with the worker"),
        ("worker_killed", {"errors_after": {"503": 1}}, "after the worker was back"),
    ],
)
def test_each_thing_that_goes_wrong_is_said(part: str, wrong: dict, objection: str) -> None:
    result = copy.deepcopy(RIGHT)
    result[part] |= wrong
    assert [objection in said for said in judge(read(result, Overload))] == [True]


def test_a_server_that_answers_nothing_is_said_too() -> None:
    result = copy.deepcopy(RIGHT)
    empty = ("answered_p", "ahead_p", "bound", "refused_p")
    nothing = [name for name in RIGHT["flood"] if name.startswith(empty)]
    result["flood"] |= dict.fromkeys(nothing) | {"answered_rps": 0.0, "refused": 0, "refused_by": {}}
    found = read(result, Overload)
    assert "was not too much" in judge(found)[0]
    assert "–" in table(found)


def test_a_request_waits_for_those_that_are_answered_before_it() -> None:
    """Four at once, answered one a second; the second was refused, the last was sent a while late."""
    due, took = [0.0, 0.0, 0.0, 0.0], [1000.0, None, 2000.0, 3000.0]
    late = [0.0, 0.0, 0.0, 1500.0]
    assert ahead(Arrivals(4.0, 1.0, due, took, late, {"503": 1})).tolist() == [0, 1, 1]


def test_memory_that_rises_and_falls_has_not_grown() -> None:
    times = [float(second) for second in range(100)]
    assert Memory(times, [900 + 50 * (second % 2) for second in range(100)]).growth_mb() == 0
    assert Memory(times, [900 + second for second in range(100)]).growth_mb() > 60
    assert Memory(times, [0.0] * 3 + [900.0] * 97).growth_mb() == 0, "the start is not counted"


@pytest.mark.slow
@pytest.mark.quiet
def test_a_real_server_under_twice_its_load_refuses_the_rest(build_once, tmp_path) -> None:
    archive = package(build_once("onnx-int8-dynamic"), tmp_path)
    done = ran("benchmarks", "overload", "--archive", archive, "--seconds", 10, "--factor", 3)
    assert json.loads(done.stdout)["objections"] == []
