"""draft"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"
INPUTS = ("input_ids", "attention_mask")


def export(model) -> onnx.ModelProto:
    from optimum.exporters.onnx import onnx_export_from_model

    with tempfile.TemporaryDirectory() as scratch:
        onnx_export_from_model(
            model,
            output=scratch,
            task="text-classification",
            do_validation=False,
            no_post_process=True,
            custom_onnx_configs={"model": _two_inputs(model)},
        )
        return onnx.load(f"{scratch}/model.onnx")


def _two_inputs(model):
    from optimum.exporters.tasks import TasksManager

    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model=model, task="text-classification", library_name="transformers"
    )
    config = constructor(model.config)
    inputs = {name: config.inputs[name] for name in INPUTS}
    kind = type(config)
    config.__class__ = type(kind.__name__, (kind,), {"inputs": property(lambda _: inputs)})
    return config


class Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.proto = model.graph
        self.weights = {tensor.name: tensor for tensor in self.proto.initializer}
        self.index()

    def index(self):
        self.producer = {name: node for node in self.proto.node for name in node.output}
        self.consumers: dict[str, list] = {}
        for node in self.proto.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def constant(self, name: str):
        if name in self.weights:
            return numpy_helper.to_array(self.weights[name])
        node = self.producer.get(name)
        if node is not None and node.op_type == "Identity":
            return self.constant(node.input[0])
        if node is not None and node.op_type == "Constant":
            return numpy_helper.to_array(node.attribute[0].t)
        return None

    def parent(self, name, *kinds):
        node = self.producer.get(name)
        return node if node is not None and node.op_type in kinds else None


def fuse_attention(model: onnx.ModelProto, mask_kind="key_padding") -> int:
    graph = Graph(model)
    found = [match for node in graph.proto.node if node.op_type == "Softmax" and (match := _match(graph, node))]
    cast = helper.make_node("Cast", ["attention_mask"], ["key_padding_mask"], "key_padding_mask", to=onnx.TensorProto.INT32)
    new = []
    for place, (query, key, value, heads, end, mask) in enumerate(found):
        ins = [query, key, value, "", "key_padding_mask"] if mask_kind == "key_padding" else [query, key, value, "", "", mask]
        node = helper.make_node("MultiHeadAttention", ins, [end.output[0]],
            f"attention_{place}", domain=MICROSOFT, num_heads=heads, mask_filter_value=float(np.finfo(np.float32).min))
        at = list(graph.proto.node).index(end)
        graph.proto.node.remove(end)
        graph.proto.node.insert(at, node)
    graph.proto.node.insert(0, cast)
    if not any(o.domain == MICROSOFT for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    sweep(model)
    return len(found)


def _match(graph, softmax):
    (product,) = graph.consumers[softmax.output[0]]
    add = graph.parent(softmax.input[0], "Add")
    if add is None or product.op_type != "MatMul":
        return None
    scores = graph.parent(add.input[0], "MatMul") or graph.parent(add.input[1], "MatMul")
    if scores is None: return None
    mask = add.input[1] if graph.parent(add.input[0], "MatMul") is scores else add.input[0]
    query, heads = _origin(graph, scores.input[0])
    key, _ = _origin(graph, scores.input[1])
    value, _ = _origin(graph, product.input[1])
    transpose = graph.consumers[product.output[0]][0]
    reshape = graph.consumers[transpose.output[0]][0]
    while reshape.op_type in ("Shape",):
        reshape = graph.consumers[transpose.output[0]][1]
    assert transpose.op_type == "Transpose" and reshape.op_type == "Reshape", (transpose.op_type, reshape.op_type)
    return query, key, value, heads, reshape, mask


def _origin(graph, name):
    while (node := graph.parent(name, "Mul", "Div", "Transpose")) is not None:
        name = node.input[0]
    reshape = graph.parent(name, "Reshape")
    concat = graph.parent(reshape.input[1], "Concat")
    pieces = concat.input if concat is not None else [reshape.input[1]]
    sizes = [size for piece in pieces if (c := graph.constant(piece)) is not None for size in c.ravel().tolist()]
    heads = int(sizes[-2])
    return reshape.input[0], heads


def sweep(model):
    """Remove what no output needs"""
    graph = model.graph
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    used = [t for t in graph.initializer if t.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(used)
    made = {name for node in graph.node for name in node.output}
    infos = [info for info in graph.value_info if info.name in made]
    del graph.value_info[:]
    graph.value_info.extend(infos)


def to_split(model):
    """Slices of one packed product -> Split"""
    graph = Graph(model)
    for node in [n for n in graph.proto.node if n.op_type == "MultiHeadAttention"]:
        slices = [(i, graph.parent(node.input[i], "Slice")) for i in range(3)]
        slices = [(i, s) for i, s in slices if s is not None]
        by = {}
        for i, s in slices: by.setdefault(s.input[0], []).append(i)
        for packed, ins in by.items():
            if len(ins) < 2: continue
            outs = [f"{node.name}_part{i}" for i in ins]
            at = list(graph.proto.node).index(node)
            graph.proto.node.insert(at, helper.make_node("Split", [packed], outs, f"{node.name}_split", axis=-1, num_outputs=len(ins)))
            for i, o in zip(ins, outs): node.input[i] = o
    sweep(model)


def unpack(model):
    graph = Graph(model)
    for split in [n for n in graph.proto.node if n.op_type == "Split"]:
        add = graph.parent(split.input[0], "Add")
        if add is None: continue
        matmul = graph.parent(add.input[0], "MatMul") or graph.parent(add.input[1], "MatMul")
        bias = add.input[0] if graph.parent(add.input[1], "MatMul") else add.input[1]
        w, b = graph.constant(matmul.input[1]), graph.constant(bias)
        n = len(split.output)
        at = list(graph.proto.node).index(split)
        graph.proto.node.remove(split)
        for i, (wi, bi) in enumerate(zip(np.split(w, n, 1), np.split(b, n))):
            wn, bn = f"{matmul.input[1]}_{i}", f"{bias}_{i}"
            graph.proto.initializer.append(numpy_helper.from_array(np.ascontiguousarray(wi), wn))
            graph.proto.initializer.append(numpy_helper.from_array(bi, bn))
            graph.proto.node.insert(at, helper.make_node("Add", [f"{matmul.name}_{i}_o", bn], [split.output[i]], f"{add.name}_{i}"))
            graph.proto.node.insert(at, helper.make_node("MatMul", [matmul.input[0], wn], [f"{matmul.name}_{i}_o"], f"{matmul.name}_{i}"))
    sweep(model)
