from pathlib import Path

import pytest

from export import registry
from export.registry import VARIANTS, Built, choose, variant
from export.source import Source
from handler.errors import UnsupportedError, UserError
from handler.machine import Gpu
from handler.runtimes import RUNTIMES


@pytest.fixture
def extra():
    """Register variants for one test; they are forgotten after it."""
    before = dict(VARIANTS)
    yield variant
    VARIANTS.clear()
    VARIANTS.update(before)


def never(source: Source, folder: Path) -> Built:
    raise AssertionError("not built in this test")


def test_every_runtime_has_a_variant() -> None:
    assert {variant.runtime for variant in VARIANTS.values()} == set(RUNTIMES)


def test_by_default_nothing_is_built_that_needs_a_training() -> None:
    chosen, _ = choose([])
    assert {variant.parent for variant in chosen} == {None, "fp32"}
    assert {"fp32", "openvino-int8"} <= {variant.name for variant in chosen}
    assert not {"pruned", "shallow", "sparse"} & {variant.name for variant in chosen}


def test_a_child_is_named_after_its_parent_and_built_after_it() -> None:
    chosen, _ = choose(["pruned-openvino-int8"])
    assert [variant.name for variant in chosen] == ["fp32", "pruned", "pruned-openvino-int8"]


@pytest.mark.parametrize(
    ("group", "devices"), [("all", {"cpu", "cuda"}), ("cpu", {"cpu"}), ("gpu", {"cuda"}), ("cuda", {"cuda"})]
)
def test_a_collective_name_stands_for_every_variant_of_its_kind(group: str, devices: set[str], extra) -> None:
    extra("there", runtime="torch", summary="", devices=("cuda",))(never)
    chosen, left_out = choose([group])
    named = {variant.name for variant in chosen} | set(left_out)
    of_devices = {name for name, variant in VARIANTS.items() if set(variant.devices) & devices}
    assert named >= of_devices - {"damaged"}
    assert "damaged" not in named, "built by its own name alone"
    assert ("there" in named) == ("cuda" in devices)
    assert ("openvino-int8" in named) == ("cpu" in devices)


def test_what_an_ancestor_lacks_its_children_lack(extra) -> None:
    extra("impossible", runtime="torch", summary="", requires=("no_such_package",))(never)
    extra("int8", runtime="torch", summary="", parents=("impossible",))(never)
    _, left_out = choose(["all"])
    assert left_out["impossible-int8"] == ["the Python package no_such_package"]


def test_a_group_of_which_nothing_can_be_built_says_what_each_needs(extra) -> None:
    extra("there", runtime="torch", summary="", devices=("cuda",), requires=("no_such_package",))(never)
    if "cuda" in {
        need for variant in VARIANTS.values() for need in variant.requires if not registry._present(need)
    }:
        with pytest.raises(UnsupportedError, match="there needs the Python package no_such_package"):
            choose(["gpu"])


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean openvino-int8"):
        choose(["openvino-int-8"])


def test_parents_come_before_children_and_fp32_before_all() -> None:
    chosen, _ = choose(["onnx-int8-dynamic"])
    assert [variant.name for variant in chosen] == ["fp32", "onnx-int8-dynamic"]


def test_what_the_machine_lacks_is_left_out_of_a_default_build_and_refused_by_name(extra) -> None:
    extra("impossible", runtime="torch", summary="", requires=("no_such_package", "cpu:avx9000"))(never)
    chosen, left_out = choose(["all"])
    assert "impossible" not in [variant.name for variant in chosen]
    assert left_out["impossible"] == ["the Python package no_such_package", "a CPU with avx9000"]
    with pytest.raises(UnsupportedError, match="no_such_package"):
        choose(["impossible"])


def test_without_a_compiler_the_compiled_variant_is_left_out_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    _, left_out = choose(["all"])
    assert any("apt-get install g++" in reason for reason in left_out["compiled-bf16"])


def test_the_default_needs_no_compiler_and_builds_in_seconds() -> None:
    defaults = {name for name, known in VARIANTS.items() if known.default}
    assert defaults == {"fp32", "onnx-int8", "openvino-bf16", "openvino-int8"}


def test_a_name_can_be_registered_once(extra) -> None:
    with pytest.raises(ValueError, match="two variants are called fp32"):
        extra("fp32", runtime="torch", summary="")(never)


def test_every_need_is_something_that_can_be_looked_for() -> None:
    for need in {need for known in VARIANTS.values() for need in known.requires}:
        assert registry._present(need) or registry._describe(need)


@pytest.mark.parametrize(
    ("capability", "there"),
    [(None, ()), ((7, 5), ("cuda", "cuda:7.5")), ((8, 9), ("cuda", "cuda:7.5", "cuda:8.9"))],
)
def test_a_gpu_is_needed_with_its_compute_capability(
    capability: tuple[int, int] | None, there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [Gpu("a card", capability, 1 << 30)] if capability else []
    monkeypatch.setattr(registry, "gpus", lambda: cards)
    needs = ("cuda", "cuda:7.5", "cuda:8.9", "cuda:10.0")
    assert tuple(need for need in needs if registry._present(need)) == there


def test_what_lacks_a_gpu_says_which() -> None:
    assert registry._describe("cuda") == "an NVIDIA GPU, and a torch built for it"
    wanted = "an NVIDIA GPU of compute capability 8.9 or later, and a torch built for it"
    assert registry._describe("cuda:8.9") == wanted
    assert VARIANTS["cuda-fp8"].capability == (8, 9)
    assert VARIANTS["cuda-fp16"].capability == VARIANTS["fp32"].capability == (0, 0)
