"""The ONNX variants: attention in one operator, the right answers with padding, int8 where it is promised."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from export import proof
from export.rewriting.onnx_graph import Exported, Graph, export, smooth
from export.source import Source
from export.variants.cuda import write_onnx_fp16
from export.variants.onnx import OPTIONS, onnx_int8
from handler.errors import UnsupportedError, UserError
from handler.runtimes import onnx_session

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
MAKERS = {
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=200, dim=32, n_heads=4, n_layers=2, hidden_dim=64)
    ),
    "bert": lambda: BertForSequenceClassification(BertConfig(vocab_size=200, **SIZES)),
    "roberta": lambda: RobertaForSequenceClassification(
        RobertaConfig(vocab_size=200, max_position_embeddings=130, pad_token_id=1, **SIZES)
    ),
}
LINEARS = 14  # six in each of two layers, and the head's two


def make(kind: str, pruned: bool = False):
    """A random model whose attention really differs between tokens."""
    torch.manual_seed(0)
    model = MAKERS[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.dim() == 2 else parameter.add_(0.1)
    if pruned:
        model.base_model._prune_heads({0: [1], 1: [0, 2]})
    return model


def inputs(lengths: list[int], longest: int, pad: int = 0) -> dict[str, np.ndarray]:
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(4, 200, mask.shape)
    return {"input_ids": np.where(mask, ids, pad), "attention_mask": mask}


@pytest.fixture(scope="module", params=[*MAKERS, "distilbert-pruned", "bert-pruned"])
def pair(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, Exported]:
    """A model and its export."""
    kind, _, pruned = request.param.partition("-")
    return make(kind, bool(pruned)), export(make(kind, bool(pruned)))


def test_each_layer_has_one_attention_and_the_graph_is_sound(pair) -> None:
    _, exported = pair
    onnx.checker.check_model(exported.proto, full_check=True)
    kinds = [node.op_type for node in exported.proto.graph.node]
    assert (exported.attentions, kinds.count("Attention"), kinds.count("Softmax")) == (2, 2, 0)
    assert exported.operators["Softmax"] == 2
    assert [value.name for value in exported.proto.graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in exported.proto.graph.output] == ["logits"]


SHAPES = {
    "one short text": ([2], 2),
    "one text": ([31], 31),
    "longest": ([128], 128),
    "equal lengths": ([16] * 5, 16),
    "very different lengths": ([128, 2, 3, 60, 1], 128),
    "padded beyond all": ([5, 9], 32),
    "many": (list(range(1, 34)), 40),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_answers_as_torch_does(pair, shape: tuple[list[int], int]) -> None:
    model, exported = pair
    given = inputs(*shape, pad=model.config.pad_token_id)
    session = onnxruntime.InferenceSession(exported.proto.SerializeToString())
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    (logits,) = session.run(["logits"], given)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_every_linear_layer_is_found_by_its_weight(pair) -> None:
    model, exported = pair
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(exported.products) == linears
    nodes = [node for names in exported.products.values() for node in names]
    assert len(nodes) == len(set(nodes)) == LINEARS


def test_a_graph_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Graph._split_heads
    monkeypatch.setattr(Graph, "_split_heads", lambda self, name: (right(self, name)[0], 8))
    with pytest.raises(UserError, match="does not compute what the model does: logits differ by"):
        export(make("distilbert"))


def test_smoothing_moves_outliers_and_leaves_the_answers(pair) -> None:
    _, exported = pair
    chosen = exported.nodes(exported.products)
    texts = [inputs([length], length) for length in (3, 20, 9)]
    smoothed = smooth(exported, chosen, texts)
    given = inputs([11, 4, 30], 30)
    plain, other = (
        onnxruntime.InferenceSession(each.proto.SerializeToString()).run(["logits"], given)[0]
        for each in (exported, smoothed)
    )
    np.testing.assert_allclose(other, plain, atol=1e-4)
    assert (
        sum(node.op_type == "Mul" and node.name.endswith("smooth") for node in smoothed.proto.graph.node) >= 9
    )


def test_the_executed_fp32_graph_is_fused(build_once) -> None:
    facts = build_once("onnx-fp32").meta.proof
    assert facts["fused_attentions"] == 2
    assert facts["fused_layer_norms"] == 5
    assert facts["fused_gelus"] == 2
    assert sum(facts["executed_operators"].values()) < sum(facts["exported_operators"].values()) / 3
    assert "2 fused attentions" in facts["summary"]


@pytest.mark.parametrize("name", ["onnx-int8", "onnx-int8-dynamic"])
def test_every_product_of_the_int8_variants_is_executed_in_int8(name: str, build_once) -> None:
    artifact = build_once(name)
    assert artifact.meta.proof["integer_matmuls"] == LINEARS
    assert artifact.meta.proof["fused_attentions"] == 2
    assert {path.name for path in artifact.folder.iterdir()} == {
        "artifact.json",
        "tokenizer.json",
        "self-check.json",
        "model.onnx",
    }


def test_static_scales_do_not_depend_on_the_batch(build_once) -> None:
    assert build_once("onnx-int8").meta.check.batch_mate_diff < 1e-3


def test_layers_can_be_left_in_float(source: Source, tmp_path: Path) -> None:
    layers = {name for name, module in source.model().named_modules() if isinstance(module, torch.nn.Linear)}
    leave = frozenset(name for name in layers if name.endswith(("ffn.lin2", "q_lin")))
    assert len(leave) == 4
    facts = onnx_int8(source, tmp_path, leave).proof
    assert facts["integer_matmuls"] == LINEARS - 4
    assert facts["executed_operators"]["MatMul"] == 4
    assert facts["left_in_float"] == sorted(leave)
    assert f"{LINEARS - 4} of {LINEARS} products in int8" in facts["summary"]
    assert proof.onnx_operators(tmp_path / "model.onnx", OPTIONS)["executed_operators"]["MatMul"] == 4


def test_the_scales_are_those_of_the_calibration_texts(source: Source, tmp_path: Path) -> None:
    from dataclasses import replace

    class Narrow(Source):
        def calibration(self) -> list[dict[str, np.ndarray]]:
            asked.append(True)
            return super().calibration()[:1]

    asked: list[bool] = []
    narrow = Narrow(**{name: getattr(source, name) for name in source.__dataclass_fields__})
    scales = []
    for number, each in enumerate((source, replace(narrow))):
        folder = tmp_path / str(number)
        folder.mkdir()
        onnx_int8(each, folder)
        graph = onnx.load(folder / "model.onnx").graph
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        scales.append(
            sum(float(weights[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear")
        )
    assert asked
    assert scales[1] < scales[0], "one text has narrower ranges than many"


def test_the_graph_for_gpus_multiplies_in_fp16_and_says_who_ran_it(tmp_path: Path) -> None:
    """Here the CPU does, which has kernels for it, too."""
    model, given = make("roberta"), inputs([20, 7], 20, pad=1)
    with torch.no_grad():
        expected = model(**{name: torch.tensor(value) for name, value in given.items()}).logits.numpy()
    write_onnx_fp16(SimpleNamespace(model=lambda: model), tmp_path)  # type: ignore[arg-type]
    path = tmp_path / "model.onnx"
    (logits,) = onnx_session(path, {}, 1).run(["logits"], given)
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())
    weights = [tensor for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    ran = proof.onnx_providers(path, {}, given, "cpu")["executed_by"]
    assert list(ran) == ["CPUExecutionProvider"]
    assert ran["CPUExecutionProvider"]["MatMul"] + ran["CPUExecutionProvider"]["Gemm"] >= 11


def test_a_provider_that_does_not_run_is_an_error_and_not_the_cpu(build_once) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    options = {"providers": [["CUDAExecutionProvider", {}]]}
    with pytest.raises(UnsupportedError, match="does not run on CUDAExecutionProvider here: CPU"):
        onnx_session(build_once("onnx-fp32").folder / "model.onnx", options, 1, device="cuda:0")
