"""Devices, staging, precision and the models that GPUs run: what needs no GPU is run on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from handler import cuda
from handler.cuda import Graphs, Staging, choose_device, misfit, set_kernels, staged
from handler.description import Description
from handler.encoder import ScaledLinear, attend_within
from handler.errors import UnsupportedError
from handler.machine import Gpu, gpus, has_cuda
from tests.descriptions import description
from tests.versions import skip_without_fp8_on_cpu

on_gpu = pytest.mark.skipif(not has_cuda(), reason="no NVIDIA GPU, or a torch without CUDA")
H200 = Gpu("NVIDIA H200", (9, 0), 150 << 30)
T4 = Gpu("Tesla T4", (7, 5), 16 << 30)
ON_CPU = description(name="onnx-int8")
ON_GPU = description(name="cuda-bf16", devices=["cuda"], cuda_capability=[8, 0])
COMPILED = replace(ON_GPU, cuda_capability=[8, 9], cuda_capability_exact=True)


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "gpus", lambda: [H200, T4])


def test_the_device_is_the_artifacts_own_where_none_is_asked_for(two_cards) -> None:
    assert choose_device(ON_CPU) == choose_device(ON_CPU, "cpu") == "cpu"
    assert (
        choose_device(ON_GPU) == choose_device(ON_GPU, "cuda") == choose_device(ON_GPU, "cuda:0") == "cuda:0"
    )


@pytest.mark.parametrize(
    ("meta", "asked", "sentence"),
    [
        (ON_CPU, "cuda:0", "does not run on this device: cuda:0. It was made for cpu"),
        (ON_GPU, "cpu", "does not run on this device: cpu. It was made for cuda"),
        (ON_GPU, "cuda:x", "does not run on this device: cuda:x"),
        (ON_GPU, "cuda:-1", "does not run on this device: cuda:-1"),
        (ON_CPU, "cpu:1", "does not run on this device: cpu:1"),
        (ON_GPU, "cuda:2", "a GPU that does not exist: cuda:2; torch sees 2, counted from 0"),
        (ON_GPU, "cuda:1", "cuda:1, Tesla T4 has compute capability 7.5, and it needs 8.0 or later"),
        (COMPILED, "cuda:0", "cuda:0, NVIDIA H200 has compute capability 9.0, and it needs 8.9. Build"),
    ],
)
def test_a_device_that_cannot_run_it_is_refused_with_a_sentence(
    meta: Description, asked: str, sentence: str, two_cards
) -> None:
    with pytest.raises(UnsupportedError) as refused:
        choose_device(meta, asked)
    assert sentence in str(refused.value)


def test_kernels_for_any_gpu_run_on_later_ones_and_compiled_ones_on_their_own_alone() -> None:
    assert misfit(ON_GPU, H200) is None
    assert misfit(ON_GPU, T4) is not None
    assert misfit(replace(ON_GPU, cuda_capability_exact=True), H200) is not None
    assert misfit(ON_CPU, T4) is None


@pytest.mark.skipif(has_cuda(), reason="there is an NVIDIA GPU")
def test_without_a_gpu_there_is_none_to_choose() -> None:
    assert gpus() == []
    with pytest.raises(UnsupportedError, match="torch sees 0"):
        choose_device(ON_GPU)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
def test_what_is_staged_arrives_as_it_was_whatever_came_before(device: str) -> None:
    staging = Staging(device, torch.int32)
    draw = np.random.default_rng(0)
    for shapes in ([(2, 3), (4,)], [(1, 1)], [(64, 128), (64, 128), (65,)], [(2, 3), (4,)]):
        arrays = [draw.integers(0, 30_000, shape) for shape in shapes]
        for tensor, array in zip(staging(*arrays), arrays, strict=True):
            assert tensor.dtype == torch.int32
            assert tensor.device.type == device
            assert tensor.data_ptr() % 16 == 0, "compiled kernels load 16 bytes at once"
            np.testing.assert_array_equal(tensor.cpu().numpy(), array)


def test_a_staged_model_is_asked_for_ids_and_mask_and_gives_fp32() -> None:
    seen = []

    def model(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append((ids.clone(), mask.clone()))
        return (ids * mask).sum(dim=1, keepdim=True).half()

    ids, mask = np.array([[5, 6], [7, 0]]), np.array([[1, 1], [1, 0]])
    logits = staged(model, "cpu")(ids, mask)
    assert logits.dtype == np.float32
    assert logits.tolist() == [[11], [7]]
    assert (seen[0][0].numpy() == ids).all()
    assert (seen[0][1].numpy() == mask).all()


def test_tf32_is_what_was_said_whatever_torchserve_said_before() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    attends = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for allowed in (False, True, False):
            torch.set_float32_matmul_precision("high")  # as TorchServe's BaseHandler does when it is imported
            set_kernels(allowed)
            assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
            assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if allowed else "ieee")
            # Raises where the two interfaces say different things, as the products of a GPU then do.
            assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
            assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        torch.backends.cuda.enable_cudnn_sdp(attends)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.int8, 0.02), (torch.float8_e4m3fn, 0.06)])
def test_a_scaled_product_is_near_the_float_one_and_no_row_depends_on_others(
    dtype: torch.dtype, error: float, device: str
) -> None:
    if device == "cuda" and dtype != torch.int8 and gpus()[0].capability < (8, 9):
        pytest.skip("this GPU has no products of fp8")
    if device == "cpu" and dtype != torch.int8:
        skip_without_fp8_on_cpu()
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32)
    inputs = torch.randn(3, 5, 64) * torch.logspace(-3, 3, 5)[:, None]  # rows of very different sizes
    with torch.inference_mode():
        expected = linear(inputs)
        scaled = ScaledLinear.of(linear, dtype).to(device)
        found = scaled(inputs.to(device)).cpu()
        alone = scaled(inputs[1:2, 3].to(device)).cpu()
    assert scaled.weight.dtype == dtype
    size = expected.abs().amax(dim=-1, keepdim=True)
    assert ((found - expected).abs() / size).max() < error
    torch.testing.assert_close(alone[0], found[1, 3])


def test_packed_attention_is_each_texts_own() -> None:
    torch.manual_seed(0)
    lengths = [3, 1, 7]
    starts = torch.tensor([0, 3, 4, 11], dtype=torch.int32)
    query, key, value = (torch.randn(11, 2, 8) for _ in range(3))
    found = attend_within(query, key, value, starts, starts, 7, 7)
    own = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    scores = torch.einsum("qhd,khd->hqk", query, key) / 8**0.5
    weights = scores.masked_fill(own[:, None] != own, -torch.inf).softmax(dim=-1)
    torch.testing.assert_close(found, torch.einsum("hqk,khd->qhd", weights, value))


@on_gpu
@pytest.mark.parametrize("once", [False, True], ids=["all-tokens", "first-tokens"])
def test_packed_attention_on_the_gpu_is_that_of_the_cpu(once: bool) -> None:
    if gpus()[0].capability < (8, 0):
        pytest.skip("this GPU has no flash attention")
    torch.manual_seed(0)
    starts = torch.tensor([0, 3, 4, 11], dtype=torch.int32)
    queries = torch.arange(4, dtype=torch.int32) if once else starts
    query, key, value = (torch.randn(int(last), 2, 16) for last in (queries[-1], 11, 11))
    longest = 1 if once else 7
    expected = attend_within(query, key, value, queries, starts, longest, 7)
    half = [part.half().cuda() for part in (query, key, value)]
    found = attend_within(*half, queries.cuda(), starts.cuda(), longest, 7)
    torch.testing.assert_close(found.float().cpu(), expected, atol=5e-3, rtol=0)


@on_gpu
def test_graphs_are_recorded_once_a_shape_replayed_at_every_call_and_refuse_other_shapes() -> None:
    table = torch.randn(100, 3, device="cuda")

    def model(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (table[ids] * mask[..., None]).sum(dim=1)

    shapes = [(1, 4), (2, 8), (8, 8)]
    graphs, eager, draw = Graphs(model, "cuda:0", shapes), staged(model, "cuda:0"), np.random.default_rng(0)
    calls = [shape for _ in range(3) for shape in shapes]
    for shape in calls:
        ids, mask = draw.integers(0, 100, shape), draw.integers(0, 2, shape)
        np.testing.assert_allclose(graphs(ids, mask), eager(ids, mask), atol=1e-5)
    assert graphs.replays == len(calls)
    with pytest.raises(ValueError, match="no CUDA graph is recorded for 3 texts of 4 tokens"):
        graphs(np.zeros((3, 4), np.int64), np.ones((3, 4), np.int64))
