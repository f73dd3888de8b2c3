"""Percentiles and ratios on durations whose true values are known."""

import numpy as np
import pytest

from benchmarks.in_process.latency import describe, paired_ratio, shapes_up_to, slow_cases, speedup
from benchmarks.samples import percentile


def rounds(
    mean_ms: float, count: int = 30, *, drift: np.ndarray | None = None, seed: int = 0
) -> list[list[float]]:
    """`count` rounds of five durations around `mean_ms`, one per cent of noise, times the rounds' drift."""
    random = np.random.default_rng(seed)
    drift = np.ones(count) if drift is None else drift
    return [list(mean_ms * factor * random.lognormal(0, 0.01, 5)) for factor in drift]


def test_percentiles_are_those_of_the_samples() -> None:
    samples = list(range(1, 1001))
    assert percentile(samples, 50) == pytest.approx(500.5)
    assert percentile(samples, 99) == pytest.approx(990.01)


def test_a_p99_is_not_made_of_too_few_samples() -> None:
    assert percentile([1.0] * 99, 99) is None
    assert percentile([1.0] * 100, 99) == 1.0
    assert percentile([3.0], 50) == 3.0


def test_a_ratio_survives_a_drift_that_hits_both() -> None:
    drift = np.linspace(1, 3, 30)  # the machine gets three times slower during the run
    found = paired_ratio(rounds(40, drift=drift, seed=1), rounds(10, drift=drift, seed=2))
    assert found.ratio == pytest.approx(4, rel=0.02)
    assert found.low < 4 < found.high
    assert found.high - found.low < 0.2


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(100):
        found = paired_ratio(rounds(20, seed=2 * seed), rounds(10, seed=2 * seed + 1), seed)
        held += found.low <= 2 <= found.high
    assert held >= 88


def test_an_identical_copy_is_not_different_and_a_slow_one_is_slower() -> None:
    measured = {
        "fp32": rounds(20, seed=1),
        "fp32 again": rounds(20, seed=2),
        "copy": rounds(20, seed=3),
        "quick": rounds(10, seed=4),
        "slow": rounds(30, seed=5),
    }
    verdicts = {name: speedup(measured, name).verdict for name in measured}
    assert verdicts["fp32"] == "reference"
    assert verdicts["copy"] == "not different"
    assert verdicts["quick"] == "faster"
    assert verdicts["slow"] == "slower"


def test_a_noisy_run_calls_less_a_difference() -> None:
    neighbour = 1 + 0.5 * (np.arange(30) % 2)  # someone else takes half of the machine in every other round
    calm = {"fp32": rounds(20, seed=1), "fp32 again": rounds(20, seed=2), "a": rounds(18, seed=3)}
    noisy = calm | {"fp32 again": rounds(20, drift=neighbour, seed=2)}
    assert speedup(calm, "a").verdict == "faster"
    assert speedup(noisy, "a").verdict == "not different"


def test_without_a_control_the_noise_is_unknown() -> None:
    assert speedup({"fp32": rounds(20), "a": rounds(10)}, "a").verdict == "noise unknown"


def test_throughput_counts_texts_not_calls() -> None:
    found = describe("32 texts", {"fp32": [[100.0], [100.0]]}, "fp32", 32, None)
    assert found.texts_per_second == pytest.approx(320)
    assert found.samples == found.rounds == 2


def test_a_ratio_to_the_pipeline_joins_that_to_fp32_where_it_took_part() -> None:
    measured = {
        "fp32": rounds(20, seed=1),
        "fp32 again": rounds(20, seed=2),
        "hf-pipeline": rounds(40, seed=3),
        "a": rounds(10, seed=4),
    }
    found = describe("32 texts", measured, "a", 32, None)
    assert found.speedup.ratio == pytest.approx(2, rel=0.02)
    assert found.vs_pipeline.ratio == pytest.approx(4, rel=0.02)
    assert found.vs_pipeline.verdict == "faster"
    assert describe("32 texts", measured, "hf-pipeline", 32, None).vs_pipeline.verdict == "reference"


def test_only_fixed_shapes_that_take_fp32_long_are_measured_in_fewer_rounds() -> None:
    first = {
        "1x32": {"fp32": [[20.0, 20.0]], "a": [[900.0]]},
        "32x32": {"fp32": [[250.0, 260.0]]},
        "32 texts": {"fp32": [[900.0]]},
    }
    assert slow_cases(first, 400) == {"32x32"}


def test_shapes_are_cut_to_what_the_model_reads() -> None:
    assert shapes_up_to(128) == [(1, 32), (8, 32), (32, 32), (1, 128)]
    assert shapes_up_to(64) == [(1, 32), (8, 32), (32, 32), (1, 64)]
    assert shapes_up_to(16) == [(1, 16), (8, 16), (32, 16)]
