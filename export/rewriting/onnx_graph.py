"""The classifier as an ONNX graph in which each layer's attention is one operator.

Why not ONNX Runtime's own transformer optimiser (`onnxruntime.transformers.optimizer`, 1.31)? It fuses none
of the attentions of a DistilBERT that was exported with eager attention: behind Softmax, Where, MatMul, Div
(`fusion_attention.py`, "path3") it asks the first node of the mask for a negative constant, and there that is
a Cast.
"""

import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import NodeProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from export.rewriting.graph import Logits, lean, probe
from export.rewriting.quantise import linears, smoothing
from handler.errors import UnsupportedError, UserError, first_line

# Exported with SDPA attention it does fuse, but it knows neither one packed product for query, key and value,
# nor a last layer with one query, and what it fuses into is slow on CPUs: with 32 texts of 32 tokens
# `com.microsoft.MultiHeadAttention` took 1.2 times the time of the operators that it replaces, while ONNX's
# own `Attention` (opset 23) took 0.7 times. So the rewrite here makes the latter. It is found by its one
# Softmax, and whether it is right is not argued but tried: the result must answer as torch does, with
# padding.

INPUTS = ("input_ids", "attention_mask")
TRACED_OPSET = 18  # as optimum's; LayerNormalization is one operator since 17
OPSET = 23  # the first that has Attention; ONNX Runtime has a CPU kernel for it
# Sums in another order; a wrong mask or head count moves logits by far more.
EXACT = 1e-5
OTHER = "The structure of this encoder is not supported; choose another variant"


@dataclass(frozen=True)
class Exported:
    """`proto` with fused attention; `operators` counts those of the plain export; `products` names, for each
    linear layer of the torch model, the MatMul nodes that compute it."""

    proto: onnx.ModelProto
    operators: dict[str, int]
    attentions: int
    products: dict[str, tuple[str, ...]]

    def nodes(self, layers: Collection[str]) -> set[str]:
        """The MatMul nodes of these linear layers, named as in the torch model."""
        return {node for layer in layers for node in self.products.get(layer, ())}


def export(model: Any) -> Exported:
    """The fused graph of a `PreTrainedModel` for sequence classification, which may change on the way.

    Inputs are input_ids and attention_mask, int64 [batch, length]; the output is logits, fp32
    [batch, labels].
    Raises `UserError` where the rewritten graph does not compute what the model does.
    """
    inputs = probe(model)
    with torch.inference_mode():
        expected = model(**inputs).logits.numpy()
    weights = {name: _digest(layer.weight.detach().numpy()) for name, layer in linears(model).items()}
    try:
        proto = plain_export(lean(model))
    except Exception as error:  # of whatever kind tracing, or optimum's list of what it knows, raises
        raise UnsupportedError(
            "this architecture cannot be exported to ONNX",
            seen=f"{type(error).__name__}: {first_line(error)}",
            remedy="Serve fp32, or a variant of another runtime",
        ) from error
    operators = Counter(node.op_type for node in proto.graph.node)
    graph = Graph(proto)
    attentions = 0 if getattr(model.config, "causal", False) else graph.fuse_attention()
    graph.split_gemms()
    fused = graph.rebuilt()
    onnx.checker.check_model(fused, full_check=True)
    _require_equal(fused, {name: value.numpy() for name, value in inputs.items()}, expected)
    return Exported(fused, dict(operators.most_common()), attentions, _products(fused, weights))


def plain_export(model: Any) -> onnx.ModelProto:
    """What optimum writes, with token types, where the model has them, at their default; a classifier under a
    head of this project, which optimum does not know, as torch writes it by the same tracing."""
    if model.config.model_type == "pooled-classifier":
        return _traced(model)
    from optimum.exporters.onnx import onnx_export_from_model
    from optimum.exporters.tasks import TasksManager

    task = "text-classification"
    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model=model, task=task, library_name="transformers"
    )
    config = constructor(model.config)
    inputs = {name: config.inputs[name] for name in INPUTS}
    kind = type(config)
    config.__class__ = type(kind.__name__, (kind,), {"inputs": property(lambda _: inputs)})
    with tempfile.TemporaryDirectory() as scratch:
        onnx_export_from_model(
            model,
            output=scratch,
            task=task,
            custom_onnx_configs={"model": config},
            do_validation=False,  # done here, with padding
            no_post_process=True,
        )
        return onnx.load(f"{scratch}/model.onnx")


def _traced(model: Any) -> onnx.ModelProto:
    from optimum.exporters.onnx.model_patcher import sdpa_mask_without_vmap

    written = io.BytesIO()
    ALL_MASK_ATTENTION_FUNCTIONS.register(
        "sdpa", sdpa_mask_without_vmap
    )  # as optimum does: vmap has no trace
    try:
        torch.onnx.export(
            Logits(model),
            tuple(probe(model)[name] for name in INPUTS),
            written,  # type: ignore[arg-type]  # any stream will do
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in INPUTS} | {"logits": {0: "batch"}},
            opset_version=TRACED_OPSET,
            dynamo=False,
        )
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS.register("sdpa", sdpa_mask)
    return onnx.load_from_string(written.getvalue())


class Graph:
    """An ONNX graph being rewritten: a new maker for a value replaces the old one, and `rebuilt` drops what
    nothing reads any more."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.weights = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.makers = {name: node for node in proto.graph.node for name in node.output}
        for node in proto.graph.node:  # the exporter writes equal weights once, and Identity for the others
            for place, name in enumerate(node.input):
                node.input[place] = self._unaliased(name)
        self.readers: dict[str, list[NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def fuse_attention(self) -> int:
        """Rewrite each softmax(q kᵀ scale + mask) v into one Attention; how many there were."""
        found = [
            match
            for node in self.proto.graph.node
            if node.op_type == "Softmax" and (match := self._match(node)) is not None
        ]
        for match in found:
            query, key, value = self._unpacked(match.query, match.key, match.value)
            # Expanding the mask once costs less than a shape computation in every layer.
            mask = self._mask(every_query=self._hidden(query) == self._hidden(key))
            # The scale is the operator's default, one over the root of a head's size.
            heads = {"q_num_heads": match.heads, "kv_num_heads": match.heads}
            self._make("Attention", [query, key, value, mask], match.output, **heads)
        return len(found)

    def split_gemms(self) -> None:
        """Gemm into MatMul and Add, so that every linear layer is a product of the same kind."""
        for node in [node for node in self.proto.graph.node if node.op_type == "Gemm"]:
            own = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            plain = own.get("alpha", 1) == own.get("beta", 1) == 1 and not own.get("transA", 0)
            weight = self._constant(node.input[1])
            if not plain or weight is None or len(node.input) < 3:
                continue
            name = self._keep(f"{node.name}/weight", weight.T if own.get("transB", 0) else weight)
            product = self._make("MatMul", [node.input[0], name], f"{node.name}/product")
            self._make("Add", [product, node.input[2]], node.output[0])

    def rebuilt(self) -> onnx.ModelProto:
        """A model of the nodes and weights that the outputs need, in order."""
        old = self.proto.graph
        wanted = [output.name for output in old.output]
        needs: dict[str, list[str]] = {}
        while wanted:
            node = self.makers.get(wanted.pop())
            if node is not None and node.output[0] not in needs:
                made = [self.makers[name].output[0] for name in node.input if name in self.makers]
                needs[node.output[0]] = list(dict.fromkeys(made))  # no set: equal models make equal files
                wanted += node.input
        nodes = [self.makers[name] for name in TopologicalSorter(needs).static_order()]
        graph = _graph(nodes, old, self.weights)
        # Between the exporter's opset and this one, the operators used here gained types and nothing else.
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=self.proto.ir_version
        )

    def _match(self, softmax: NodeProto) -> "Match | None":
        """The attention around `softmax`; None if its surroundings differ."""
        product = self._reader(softmax.output[0], "MatMul")
        scores = self._maker(softmax.input[0], "Add")
        if product is None or scores is None:
            return None
        products = [made for name in scores.input if (made := self._maker(name, "MatMul")) is not None]
        transpose = self._reader(product.output[0], "Transpose")
        joined = None if transpose is None else self._reader(transpose.output[0], "Reshape")
        if len(products) != 1 or joined is None:
            return None
        sources = [self._split_heads(name) for name in (*products[0].input, product.input[1])]
        known = [source for source in sources if source is not None]
        if len(known) != 3 or len({heads for _, heads in known}) != 1:
            return None
        (query, heads), (key, _), (value, _) = known
        return Match(query, key, value, heads, joined.output[0])

    def _split_heads(self, name: str) -> tuple[str, int] | None:
        """The [batch, length, heads * size] behind a scaled, transposed [batch, heads, …], and its heads."""
        while (node := self._maker(name, "Mul", "Div", "Transpose")) is not None:
            name = node.input[0]
        if (reshape := self._maker(name, "Reshape")) is None:
            return None
        joined = self._maker(reshape.input[1], "Concat")
        pieces = reshape.input[1:] if joined is None else joined.input
        # What is known of the shape ends in heads and size, and size may be the -1 that says "the rest".
        known = [
            int(size)
            for piece in pieces
            if (found := self._constant(piece)) is not None
            for size in found.flat
        ]
        return (reshape.input[0], known[-2]) if len(known) > 1 and known[-2] > 0 else None

    def _unpacked(self, *values: str) -> list[str]:
        """Values that are slices of one packed product, as products of their own: attention reads them whole,
        and slicing them apart on each call costs more than one larger product gains."""
        packed: dict[str, list[str]] = {}
        for value in values:
            if (cut := self._maker(value, "Slice", "Split")) is not None:
                packed.setdefault(cut.input[0], []).append(value)
        own: dict[str, str] = {}
        for source, parts in packed.items():
            if len(parts) > 1:
                own |= dict(zip(parts, self._split_product(source, len(parts)), strict=True))
        return [own.get(value, value) for value in values]

    def _split_product(self, source: str, parts: int) -> list[str]:
        """The columns of a product with a bias, in as many equal parts, each computed by itself."""
        add = self.makers[source]
        product = next(found for name in add.input if (found := self._maker(name, "MatMul")) is not None)
        bias = next(name for name in add.input if name != product.output[0])
        weights = np.split(self._weight(product.input[1]), parts, axis=1)
        biases = np.split(self._weight(bias), parts)
        sums = []
        for place, (weight, offset) in enumerate(zip(weights, biases, strict=True)):
            name = f"{product.name}_{place}"
            made = self._make(
                "MatMul", [product.input[0], self._keep(f"{name}/weight", weight)], f"{name}/product"
            )
            sums.append(self._make("Add", [made, self._keep(f"{name}/bias", offset)], f"{name}/sum"))
        return sums

    def _mask(self, *, every_query: bool) -> str:
        """Which keys are texts, bool: [batch, 1, 1, length] for one query, or repeated for every query."""
        if "mask/one" not in self.makers:
            self._make("Cast", ["attention_mask"], "mask/bool", to=onnx.TensorProto.BOOL)
            self._make("Unsqueeze", ["mask/bool", self._keep("mask/axes", np.array([1, 2]))], "mask/one")
            self._make("Shape", ["attention_mask"], "mask/length", start=1, end=2)
            one = self._keep("mask/1", np.array([1]))
            self._make("Concat", [one, one, "mask/length", one], "mask/shape", axis=0)
            self._make("Expand", ["mask/one", "mask/shape"], "mask/every")
        return "mask/every" if every_query else "mask/one"

    def _hidden(self, name: str) -> str:
        """What the product behind `name` is a product of."""
        while (node := self._maker(name, "Add", "MatMul")) is not None:
            name = next(value for value in node.input if self._constant(value) is None)
            if node.op_type == "MatMul":
                break
        return name

    def _make(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.makers[output] = helper.make_node(
            kind, inputs, [output], output.removesuffix("/product"), **attributes
        )
        return output

    def _keep(self, name: str, value: np.ndarray) -> str:
        self.weights[name] = numpy_helper.from_array(value, name)
        return name

    def _maker(self, name: str, *kinds: str) -> NodeProto | None:
        node = self.makers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def _reader(self, name: str, kind: str) -> NodeProto | None:
        return next((node for node in self.readers.get(name, []) if node.op_type == kind), None)

    def _unaliased(self, name: str) -> str:
        while (node := self._maker(name, "Identity")) is not None:
            name = node.input[0]
        return name

    def _constant(self, name: str) -> np.ndarray | None:
        if name in self.weights:
            return numpy_helper.to_array(self.weights[name])
        node = self._maker(name, "Constant")
        return None if node is None else numpy_helper.to_array(node.attribute[0].t)

    def _weight(self, name: str) -> np.ndarray:
        found = self._constant(name)
        if found is None:
            raise UserError(
                "the graph multiplies two computed values where a weight is expected", seen=name, remedy=OTHER
            )
        return found


@dataclass(frozen=True)
class Match:
    """An attention: values [batch, length, heads * size], and the name of its output of the same form."""

    query: str
    key: str
    value: str
    heads: int
    output: str


def smooth(exported: Exported, nodes: Collection[str], texts: Sequence[Mapping[str, np.ndarray]]) -> Exported:
    """The same function, with the outliers of the inputs of these MatMul nodes moved into their weights.

    SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): a few channels of an encoder's hidden states are a
    hundred times larger than the rest, and one scale for all leaves the rest no digits. Channel by channel,
    the input is divided by `s` and the rows of the weights are multiplied by it; `s` is equation 4 over
    `texts`. The division stays in the graph: it cannot go into the gain of the norm before it, for
    the residual reads the norm as well.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(exported.proto)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    fed: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        if node.name in nodes:
            fed.setdefault(node.input[0], []).append(node)
    peaks = _peaks(exported.proto, list(fed), texts)
    before: dict[str, NodeProto] = {}
    for value, products in fed.items():
        rows = np.max([np.abs(numpy_helper.to_array(weights[node.input[1]])).max(1) for node in products], 0)
        factors = smoothing(torch.from_numpy(peaks[value]), torch.from_numpy(rows)).numpy()
        name = f"{value}/smooth"
        weights[f"{name}/factors"] = numpy_helper.from_array(1 / factors, f"{name}/factors")
        before[products[0].name] = helper.make_node("Mul", [value, f"{name}/factors"], [name], name)
        for node in products:  # under names of their own: products may share a weight and not the input
            scaled = numpy_helper.to_array(weights[node.input[1]]) * factors[:, None]
            own = f"{node.name}/smoothed"
            weights[own] = numpy_helper.from_array(scaled, own)
            node.input[:] = [name, own]
    ordered = [
        placed for node in proto.graph.node for placed in (before.get(node.name), node) if placed is not None
    ]
    proto.graph.CopyFrom(_graph(ordered, proto.graph, weights))
    return replace(exported, proto=proto)


def _graph(
    nodes: Sequence[NodeProto], old: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]
) -> onnx.GraphProto:
    """A graph of these nodes with the inputs and outputs of an old one, and those weights that they read."""
    read = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in weights.items() if name in read]
    return helper.make_graph(nodes, "classifier", old.input, old.output, kept)


def _peaks(
    proto: onnx.ModelProto, values: list[str], texts: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The largest magnitude in each channel of these values over `texts`."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    for value in values:
        tapped.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    peaks: dict[str, np.ndarray] = {}
    for text in texts:
        for value, seen in zip(values, session.run(values, dict(text)), strict=True):
            peak = np.abs(seen).reshape(-1, seen.shape[-1]).max(0)
            peaks[value] = np.maximum(peaks.get(value, 0), peak)
    return peaks


def _products(proto: onnx.ModelProto, digests: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """The MatMul nodes by linear layer, of whose weights there are `digests`: names change on the way,
    weights do not."""
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes: dict[str, list[str]] = {}
    for node in proto.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            digest = _digest(numpy_helper.to_array(weights[node.input[1]]).T)
            nodes.setdefault(digest, []).append(node.name)
    return {name: tuple(nodes[digest]) for name, digest in digests.items() if digest in nodes}


def _digest(weight: np.ndarray) -> str:
    """Identity of a weight [outputs, inputs]."""
    return f"{weight.shape}:{hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()}"


def _require_equal(proto: onnx.ModelProto, inputs: dict[str, np.ndarray], expected: np.ndarray) -> None:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    try:
        (logits,) = session.run(["logits"], inputs)
    except (
        Fail,
        InvalidArgument,
        RuntimeException,
    ) as error:  # Longformer: shapes were constants to the tracer
        raise UnsupportedError(
            "the ONNX graph of this architecture runs only on the shapes that it was traced with",
            seen=str(error).split("Status Message: ")[-1][:200],
            remedy="Serve fp32, or a variant of another runtime",
        ) from error
    difference = float(np.abs(logits - expected).max())
    if difference > EXACT * (1 + float(np.abs(expected).max())):
        raise UserError(
            "the ONNX graph does not compute what the model does",
            seen=f"logits differ by {difference:.1e}",
            remedy=OTHER,
        )
