"""Studies of a real app, in brief: the soak and its verdict, workers, and a cache."""

from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report.files import read_app_soak, read_caches, read_workers
from benchmarks.served.app_soaks import page
from benchmarks.served.worker_counts import page as workers_page
from benchmarks.studies import cached, soak, workers
from benchmarks.studies.soak import Found, judged

SAMPLES = {
    'classifier_reloads{ModelName="first",status="replaced"}': 2.0,
    'classifier_reloads{ModelName="second",status="replaced"}': 2.0,
    'classifier_reloads{ModelName="second",status="refused"}': 0.0,
    "classifier_worker_restarts{}": 1.0,
    "classifier_workers{}": 2.0,
}
OPTIONS = Namespace(artifacts=[Path("build/one"), Path("build/other")], seconds=600.0, clients=16, idle=1000)


def found(**changes) -> Found:
    good = Found(lost=[4001], held={4001, 4002}, memory_mb=[500.0] * 20, latencies_ms=[1.0, 2.0])
    return replace(good, **changes)


@pytest.mark.parametrize(
    ("changes", "samples", "faults"),
    [
        ({}, {}, []),
        ({"lost": [4001, 5001]}, {}, ["lost, though no killed worker held it"]),
        ({"wrong": {"label": 1}}, {}, ["answered wrongly"]),
        ({"memory_mb": [500.0] * 18 + [600.0] * 2}, {}, ["memory grew"]),
        ({}, {'classifier_reloads{ModelName="first",status="refused"}': 1.0}, ["not reloaded"]),
        ({}, {"classifier_worker_restarts{}": 0.0}, ["not started again"]),
        ({}, {"classifier_workers{}": 1.0}, ["not started again"]),
    ],
)
def test_each_fault_is_seen(changes: dict, samples: dict, faults: list[str]) -> None:
    assert judged(found(**changes), SAMPLES | samples, {"1.1"}, OPTIONS).faults == faults
    assert judged(found(), SAMPLES, {"1.0", "1.1"}, OPTIONS).faults == ["not reloaded"]


@pytest.mark.slow
def test_nothing_is_lost_but_what_the_killed_worker_held(build_once, tmp_path: Path) -> None:
    folders = [str(build_once(variant).folder) for variant in ("openvino-int8", "onnx-int8")]
    options = ["--seconds", "40", "--clients", "4", "--idle", "50", "--results", str(tmp_path)]
    soak.main(["--artifacts", *folders, *options])
    report = read_app_soak(tmp_path / "app-soak.json")
    assert set(report.faults) <= {"memory grew"}, "which takes longer to be seen"
    assert report.restarts == 1
    assert sum(report.reloads.values()) >= 3
    right, wrong = (report.answers[name] for name in ("200 to a right key", "401 to a wrong key"))
    assert abs(right - wrong) <= 8
    assert report.idle_connections_closed > 0
    assert "openvino-int8 and onnx-int8" in page(report)


@pytest.mark.slow
def test_workers_are_compared(build_once, tmp_path: Path) -> None:
    brief = ["--workers", "1", "2", "--seconds", "0.5", "--rounds", "1", "--results", str(tmp_path)]
    assert workers.main(["--artifact", str(build_once("onnx-int8").folder), *brief]) == 0
    report = read_workers(tmp_path / "workers.json")
    assert [(each.workers, each.clients) for each in report.levels] == [(1, 8), (1, 32), (2, 8), (2, 32)]
    assert all(each.errors == 0 and each.requests_per_second.least > 0 for each in report.levels)
    assert report.levels[0].memory_mb < report.levels[2].memory_mb
    assert "onnx-int8" in workers_page(report)


def test_texts_are_drawn_so_that_few_come_often() -> None:
    texts = [str(number) for number in range(1000)]
    found = Counter(cached.drawn(texts, 20_000, 0.9))
    assert found.keys() <= set(texts)
    assert found.total() == 20_000
    often = [count for _, count in found.most_common()]
    expected = 1 / np.arange(1, 1001) ** 0.9
    assert often[0] == pytest.approx(20_000 * expected[0] / expected.sum(), rel=0.1)
    assert cached.drawn(texts, 50, 0.9) == cached.drawn(texts, 50, 0.9)


@pytest.mark.slow
def test_a_cache_answers_as_many_texts_as_were_forecast(build_once, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text {number}" for number in range(60)))
    given = ["--texts", str(texts), "--drawn", "150", "--entries", "20", "--turns", "1", "--clients", "1"]
    artifact = str(build_once("onnx-int8").folder)
    assert cached.main(["--artifact", artifact, *given, "--results", str(tmp_path)]) == 0
    without, with_cache = read_caches(tmp_path / "cache.json").rounds
    assert (without.entries, without.share, with_cache.entries) == (0, 0.0, 20)
    assert 0 < with_cache.share == with_cache.forecast_share < 1
    assert with_cache.ms < without.ms
