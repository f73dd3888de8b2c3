"""What a cache would save: counted by the cache that serves, and found again where it then serves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.capacity.cache import (
    ALLOCATED,
    ANSWER,
    IN_FLIGHT,
    Costs,
    Forecast,
    Size,
    Time,
    forecast,
    replay,
    weight,
)
from benchmarks.report.cache_page import cache_table, conclusion
from handler.predictor import Predictor
from tests.conftest import ran, refused
from tests.handler.test_service import Counted, ask, serve


def with_repeats(distinct: int, count: int) -> list[str]:
    drawn = np.random.default_rng(3).zipf(1.3, count) % distinct
    return [f"text number {number}" for number in drawn]


def test_each_size_is_counted_as_least_recently_used() -> None:
    texts = ["a", "b", "a", "c", "b", "a", "a"]
    assert [replay(texts, entries) for entries in (1, 2, 3, 9)] == [1, 2, 4, 4]


def test_sizes_beyond_all_texts_are_one_and_those_in_flight_come_first() -> None:
    texts = [f"text {number}" for number in range(100)] * 2
    found = forecast(texts, [200, 100, 50, 300])
    assert [(size.entries, size.found) for size in found.sizes] == [(IN_FLIGHT, 0), (50, 0), (100, 100)]
    assert (found.texts, found.distinct, found.most) == (200, 100, 100)
    assert found.sizes[-1].bytes == pytest.approx(100 * weight(), rel=0.1)
    assert 0 < found.key_us < 1000


def test_what_is_forecast_is_what_the_server_then_finds(build_once) -> None:
    predictor = Predictor(build_once("openvino-int8"), threads=1)
    texts = with_repeats(60, 400)
    for entries in (20, 64):
        metrics = Counted()
        service = serve(predictor, metrics, max_cached=entries)
        for start in range(0, len(texts), 8):
            ask(service, *texts[start : start + 8])
        service.tally.emit()
        found = metrics.values["classifier_cached",]
        assert found == pytest.approx(replay(texts, entries), abs=4)
        assert 100 < found < 399
    assert found == len(texts) - len(set(texts)), "a cache of 64 holds all"


def test_an_entry_takes_as_much_memory_as_is_said(build_once) -> None:
    (real,) = Predictor(build_once("openvino-int8"), threads=1).predict(["good day"])
    assert weight(real) == pytest.approx(weight(), rel=0.05)
    assert 300 < weight() < 1000
    wide = replace(ANSWER, scores=np.zeros(102), logits=np.zeros(102, np.float32))
    assert weight(wide) - weight() == pytest.approx(ALLOCATED * 100 * (8 + 4), rel=0.05)


def test_where_nothing_repeats_or_repeats_save_nothing_it_says_so() -> None:
    assert conclusion(forecast(["a", "b"], [10])) == "Leave the cache off: no text came twice."
    late = [f"text {number}" for number in range(100)] * 2
    assert "too long ago" in conclusion(forecast(late, [50]))
    costs = Costs(Time(0.1, 0.1), Time(0.09, 0.09))
    rare = Forecast(100, 90, 5.0, [Size(1000, 10, 50_000)], costs)
    assert "10.0% of texts, and cost as much as that saves" in conclusion(rare)


def test_the_smallest_size_that_answers_nearly_all_is_named() -> None:
    sizes = [Size(32, 10, 16_000), Size(1000, 96, 500_000), Size(10_000, 100, 5_000_000)]
    assert conclusion(Forecast(200, 100, 5.0, sizes)).startswith("--cache 1000 would answer 48.0% of texts")
    costs = Costs(Time(1.0, 2.0), Time(0.0, 0.0))
    found = Forecast(200, 100, 0.0, sizes, costs)
    assert conclusion(found).endswith("and save 48% of the model's time.")
    rows = [row.split() for row in cache_table(found).splitlines()]
    assert ["none", "0", "0.0%", "1.000", "1,000", "2,000"] in rows
    assert ["10,000", "5.0", "100", "50.0%", "0.500", "2,000", "1,000"] in rows


def test_without_an_artifact_texts_alone_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("a\nb\n\na\n")
    done = ran("benchmarks", "cache", "--texts", path)
    found = json.loads(done.stdout)
    assert (found["texts"], found["distinct"], found["costs"]) == (3, 2, None)
    assert [size["found"] for size in found["sizes"]] == [1]
    assert "--cache 32 would answer 33.3% of texts" in done.stderr
    assert "no texts" in refused("benchmarks", "cache", "--texts", "/dev/null")


def test_the_command_measures_an_artifact_and_says_what_is_saved(build_once, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(with_repeats(60, 400)))
    artifact = build_once("openvino-int8").folder
    done = ran(
        "benchmarks", "cache", "--texts", path, "--entries", "64", "--artifact", artifact, "--threads", "1"
    )
    found = json.loads(done.stdout)
    assert found["costs"]["answered"]["ms"] < found["costs"]["asked"]["ms"]
    assert found["sizes"][-1]["found"] == 400 - found["distinct"]
    assert "of the model's time" in done.stderr
    assert "text number" not in done.stdout + done.stderr
