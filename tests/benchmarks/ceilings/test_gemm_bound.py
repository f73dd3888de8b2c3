"""The GEMM bound: products that are those of the architecture, times that are those of the products alone."""

import pytest

from benchmarks.ceilings.gemm_bound import GemmBound, add_multiples, encoder_ms, encoder_of
from benchmarks.ceilings.gemms import CALL, Encoder
from benchmarks.in_process.pool import Failure
from benchmarks.in_process.worker import open_worker
from benchmarks.names import GEMM_BOUND

DISTILBERT = Encoder(layers=6, width=768, feed_forward=3072)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            {"model_type": "distilbert", "n_layers": 6, "dim": 768, "hidden_dim": 3072}, id="distilbert"
        ),
        pytest.param(
            {
                "model_type": "bert",
                "num_hidden_layers": 6,
                "hidden_size": 768,
                "intermediate_size": 3072,
            },
            id="bert",
        ),
        pytest.param(
            {
                "model_type": "roberta",
                "num_hidden_layers": 6,
                "hidden_size": 768,
                "intermediate_size": 3072,
            },
            id="roberta",
        ),
    ],
)
def test_the_sizes_are_those_of_the_architecture(config: dict) -> None:
    assert encoder_of(config) == DISTILBERT


def test_an_architecture_that_is_not_known_has_no_lower_bound() -> None:
    assert encoder_of({"model_type": "mamba"}) is None


def test_the_operations_are_two_for_each_weight_of_the_encoder_and_each_token() -> None:
    weights = 6 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert DISTILBERT.operations(rows=32) == 2 * 32 * weights


@pytest.mark.parametrize(
    ("qkv", "attention"), [pytest.param(2.1, 2.0, id="at once"), pytest.param(4.1, 3.0, id="three times")]
)
def test_the_cost_of_calling_is_taken_off_and_the_quicker_way_to_project_is_taken(
    qkv: float, attention: float
) -> None:
    samples = {CALL: [0.1], "square": [1.1], "qkv": [qkv], "up": [4.1], "down": [5.1]}
    assert encoder_ms(DISTILBERT, samples) == pytest.approx(6 * (attention + 1 + 4 + 5))


def test_a_neighbour_that_slows_some_turns_down_does_not_raise_the_lower_bound() -> None:
    calm = {name: [1.0] * 100 for name in DISTILBERT.products} | {CALL: [0.0] * 100}
    disturbed = {name: [1.0] * 20 + [9.0] * 80 for name in DISTILBERT.products} | {CALL: [0.0] * 100}
    assert encoder_ms(DISTILBERT, disturbed) == pytest.approx(encoder_ms(DISTILBERT, calm))


def test_a_worker_times_every_product_in_every_precision_of_this_cpu() -> None:
    encoder = {"layers": 2, "width": 32, "feed_forward": 64}
    with open_worker(GEMM_BOUND, ours=False) as worker:
        worker.ask("load_gemms", encoder=encoder, threads=1, bf16=False)
        found = worker.ask("gemms", rows=8, turn_ms=1)
    assert set(found) == {"int8", "fp32"}
    for samples in found.values():
        assert set(samples) == {CALL, "square", "qkv", "up", "down"}
        assert all(len(times) >= 2 and min(times) > 0 for times in samples.values())
        assert encoder_ms(Encoder(**encoder), samples) > 0


def test_a_variant_is_held_against_the_lower_bound_of_its_shape(make) -> None:
    bound = make.bound()
    entries = [entry for entry in make.variant("int8").latency if entry.case in ("1x32", "1 text")]
    add_multiples(entries, None)
    assert [entry.int8_bounds for entry in entries] == [None, None]
    add_multiples(entries, bound)
    assert [entry.int8_bounds for entry in entries] == [entries[0].p50_ms / bound.cases[0].int8_ms, None]


def test_a_lower_bound_that_failed_says_why() -> None:
    found = GemmBound(DISTILBERT, [(1, 32)], 10).record(Failure("latency", "no oneDNN here"))
    assert found.error == "no oneDNN here"
    assert found.cases == []
