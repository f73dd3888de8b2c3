"""Rooflines of variants whose sizes are known."""

from types import SimpleNamespace

import pytest

from benchmarks.ceilings.gemms import Encoder
from benchmarks.ceilings.roofline import Arithmetic, Layer, arithmetic, precision, roofline
from benchmarks.records import CpuPeak, Latency
from tests.benchmarks.reports import latency_entry

ENCODER = Encoder(layers=6, width=384, feed_forward=1536)
PEAKS = {"int8": CpuPeak(1.0, 10.0)}


def artifact(name: str, runtime: str = "torch", parent: str | None = "fp32", **proof) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, meta=SimpleNamespace(runtime=runtime, parent=parent, proof=proof, runtime_options={})
    )


def test_the_whole_encoder_computes_two_operations_for_each_weight_and_token_and_attention() -> None:
    work = arithmetic(artifact("fp32", parent=None), {}, ENCODER)
    assert work.weights == ENCODER.weights
    assert work.operations(8, 32) == ENCODER.operations(8 * 32) + 6 * 8 * 4 * 32**2 * 384


def test_a_last_layer_for_the_first_token_leaves_out_its_queries_and_feed_forward() -> None:
    layers = (Layer(384, 1536),) * 6
    whole, first = (Arithmetic(layers, 384, "fp32", first) for first in (False, True))
    assert first.operations(1, 1) == whole.operations(1, 1), "of one token there is no other"
    assert 0.83 < first.operations(1, 512) / whole.operations(1, 512) < 0.9


def test_the_projects_eager_models_leave_it_out_too_packed_or_not() -> None:
    ours = artifact("cuda-graphs-fp16")
    ours.meta.runtime_options = {"encoder": {}, "graphs": True}
    family = {"fp32": artifact("fp32", parent=None)}
    assert arithmetic(ours, family, ENCODER).first_token
    assert not arithmetic(artifact("cuda-fp16"), family, ENCODER).first_token


def test_a_child_of_a_pruned_variant_has_its_parents_sizes() -> None:
    sizes = {"before": {"heads": [12] * 6}, "after": {"heads": [8] * 4, "ffn_width": [1216] * 4}}
    family = {"fp32": artifact("fp32", parent=None), "pruned": artifact("pruned", **sizes)}
    child = artifact("pruned-openvino-int8", "openvino", "pruned", integer_matmuls=19)
    work = arithmetic(child, family, ENCODER)
    assert arithmetic(child, {}, ENCODER) is None, "the parent is not there to tell"
    assert work.layers == (Layer(256, 1216),) * 4
    assert (work.precision, work.first_token) == ("int8", True)
    assert work.weight_bytes == 4 * (4 * 256 + 2 * 1216) * 384


@pytest.mark.parametrize(
    ("proof", "expected"),
    [
        ({"executed_matmuls": {"bf16": 27}}, "bf16"),
        ({"constants": {"bfloat16": 81}, "int8_linears": 0}, "bf16"),
        ({"constants": {"bfloat16": 28}, "int8_linears": 27}, "int8"),
        ({"int8_linears": ["classifier"]}, "int8"),
        ({"executed_matmuls": {"f32": 27}}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_the_precision_is_what_was_executed(proof, expected) -> None:
    assert precision(proof) == expected


def timed(batch: int, tokens: int, p50_ms: float) -> Latency:
    entry = latency_entry("a case", batch, tokens, 1, False)
    entry.p50_ms = p50_ms
    return entry


def test_the_larger_of_arithmetic_and_reading_is_the_lower_bound() -> None:
    work = Arithmetic((Layer(384, 1536),) * 6, 384, "int8", False)
    many = roofline(work, timed(32, 32, 50.0), PEAKS)
    assert many.bound_ms == many.compute_ms == pytest.approx(work.operations(32, 32) / 1e9)
    assert many.share == pytest.approx(many.bound_ms / 50)
    few = roofline(work, timed(1, 1, 2.0), PEAKS)
    assert few.bound_ms == few.memory_ms == pytest.approx(1.06, rel=0.01)


def test_a_precision_without_a_peak_has_no_roofline() -> None:
    work = Arithmetic((Layer(384, 1536),), 384, "bf16", False)
    assert roofline(work, timed(1, 1, 2.0), PEAKS) is None


def test_what_does_not_always_run_the_encoder_has_no_roofline() -> None:
    family = {"fp32": artifact("fp32", parent=None), "static": artifact("static", encoder_layers=0)}
    family["openvino-int8"] = artifact("openvino-int8", "openvino", integer_matmuls=27)
    assert arithmetic(family["openvino-int8"], family, ENCODER) is not None
    assert arithmetic(family["static"], family, ENCODER) is None
    assert arithmetic(artifact("static-openvino-fp32", "openvino", "static"), family, ENCODER) is None
    cascade = artifact("openvino-int8-cascade", "openvino", "openvino-int8", answered_first=400)
    assert arithmetic(cascade, family, ENCODER) is None
