"""KServe v2 (the Open Inference Protocol): texts out of a request's tensors, answers into tensors."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from handler.answers import Model
from handler.errors import Rejection

NAMES = ("text", "texts")
EXAMPLE = '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["..."]}]}'


def texts(inputs: object, base64_data: bool = False) -> list[Any] | Rejection:
    """The elements of the tensor named `text`, or of the only one; they may be no texts yet.

    `base64_data`: they are base64, which TorchServe makes of bytes on their way from gRPC.
    """
    if not (isinstance(inputs, list) and inputs and all(isinstance(tensor, Mapping) for tensor in inputs)):
        return _error("inputs is not a list of tensors")
    named = [tensor for tensor in inputs if tensor.get("name") in NAMES] or inputs
    if len(named) > 1:
        return _error("it is not clear which tensor holds the texts")
    tensor = named[0]
    if tensor.get("datatype") != "BYTES":
        return _error("the tensor's datatype is not BYTES")
    data = _flat(tensor.get("data"))
    if data is None or not _fits(tensor.get("shape"), len(data)):
        return _error("the tensor's data does not match its shape")
    if not base64_data:
        return data
    try:
        return [base64.b64decode(row, validate=True) for row in data]
    except (ValueError, TypeError):
        return _error("the tensor's data is not base64")


def answer(
    answers: list[dict[str, Any]], model: Model, id: str | None, labels: Sequence[str]
) -> dict[str, Any]:
    """The labels, their scores [texts, labels], and every answer whole, as JSON.

    A rejected row has an empty label and scores of 0; its error stands in `answer`.
    """
    rows = [[answer.get("scores", {}).get(label, 0.0) for label in labels] for answer in answers]
    count = len(answers)
    outputs = [
        {
            "name": "label",
            "datatype": "BYTES",
            "shape": [count],
            "data": [_label(answer) for answer in answers],
        },
        {
            "name": "scores",
            "datatype": "FP64",
            "shape": [count, len(labels)],
            "data": [score for row in rows for score in row],
            "parameters": {"labels": json.dumps(labels, ensure_ascii=False)},
        },
        {
            "name": "answer",
            "datatype": "BYTES",
            "shape": [count],
            "data": [json.dumps(answer, ensure_ascii=False) for answer in answers],
        },
    ]
    named = {"model_name": model["name"], "model_version": model["version"]}
    return named | ({} if id is None else {"id": id}) | {"outputs": outputs}


def _label(answered: dict[str, Any]) -> str:
    """The label; of several, a JSON list of those that reached their thresholds; empty for an error."""
    several = answered.get("labels")
    return answered.get("label", "") if several is None else json.dumps(several, ensure_ascii=False)


def _flat(data: object) -> list[Any] | None:
    """The elements of a list, or of a list of lists."""
    if not isinstance(data, list):
        return None
    if data and all(isinstance(row, list) for row in data):
        return [element for row in data for element in row]
    return data


def _fits(shape: object, count: int) -> bool:
    """Whether this many elements fit the shape."""
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        return False
    # A product of sizes that a client chose may be a number of a million digits: stop beyond the count.
    product = 1
    for size in shape:
        product *= size
        if product > count:
            return False
    return product == count


def _error(message: str) -> Rejection:
    return Rejection(422, "inputs", message, f"Send {EXAMPLE}")
