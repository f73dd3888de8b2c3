"""The Open Inference Protocol (KServe v2) over REST: health, metadata, and `infer` as Triton's clients ask,
with tensors in binary behind the JSON."""

import json
import struct
from collections.abc import Mapping
from functools import partial
from typing import Any

from deploy.app.protocols.dialect import HeadedReply, Question, Translated, parsed, sentence
from handler.errors import Rejection
from handler.replies import UNENCODED, Arrival, Reply, as_json
from handler.service import Service

SERVER = "hate-speech-archive"
EXTENSIONS = ["binary_tensor_data"]
HEADER = "Inference-Header-Content-Length"
OUTPUTS = ("label", "scores", "answer")
MOST_OUTPUTS = 16
MARKS = (b'"outputs"', b'"binary_data')  # without these, and the header, it is plain JSON with a plain answer
EXAMPLE = "Send what tritonclient does"
BAD_HEAD = Rejection(400, HEADER, "the header is not the length of the JSON before the tensors", EXAMPLE)
BAD_TENSOR = Rejection(422, "inputs", "a tensor's binary data does not match its binary_data_size", EXAMPLE)
BAD_OUTPUTS = Rejection(
    422, "outputs", "outputs is not a list of this model's", f"Choose {', '.join(OUTPUTS)}"
)
CLASSES = Rejection(
    422, "outputs", "the extension classification is not supported", "Leave class_count out: scores has all"
)


Wanted = dict[str, bool]
"""Outputs by name, and whether each is to be binary."""


class KServe(Translated):
    def read(self, arrival: Arrival, headers: Mapping[str, str], service: Service) -> Question | Rejection:
        body = arrival.parameters.get("body")
        length = headers.get(HEADER)
        plain = Question(arrival, lambda reply: reply)
        if not isinstance(body, bytes) or arrival.content_encoding.strip().lower() not in UNENCODED:
            return plain
        if length is None and not any(mark in body for mark in MARKS):
            return plain
        head = body if length is None else _head(body, length)
        if isinstance(head, Rejection):
            return head
        document = parsed(head)
        if isinstance(document, Rejection):
            return plain if length is None else document
        wanted = wanted_outputs(document)
        if isinstance(wanted, Rejection):
            return wanted
        if refused := _fill(document, body[len(head) :]):
            return refused
        own = Arrival({"body": document}, "application/json", parsed_bytes=len(body))
        return Question(own, partial(_answer, wanted))

    def refuse(self, rejection: Rejection) -> Reply:
        return Reply(rejection.code, as_json({"error": sentence(rejection)}))


def server_metadata(version: str) -> dict[str, Any]:
    return {"name": SERVER, "version": version, "extensions": EXTENSIONS}


def model_metadata(service: Service) -> dict[str, Any]:
    """Names, types and shapes: -1 is the number of texts."""
    artifact = service.predictor.artifact
    outputs = [
        ("label", "BYTES", [-1]),
        ("scores", "FP64", [-1, len(artifact.labels)]),
        ("answer", "BYTES", [-1]),
    ]
    return {
        "name": service.model["name"],
        "versions": [service.model["version"]],
        "platform": artifact.meta.runtime,
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in outputs
        ],
        "properties": {"labels": json.dumps(artifact.labels, ensure_ascii=False), "variant": artifact.name},
    }


def _head(body: bytes, length: str) -> bytes | Rejection:
    """The JSON before the tensors."""
    is_count = length.isascii() and length.isdigit() and len(length) < 10
    return body[: int(length)] if is_count and 0 < int(length) <= len(body) else BAD_HEAD


def _fill(document: dict[str, Any], data: bytes) -> Rejection | None:
    """Give the inputs that are binary their data; all others have theirs in the JSON."""
    inputs = document.get("inputs")
    place = 0
    for tensor in inputs if isinstance(inputs, list) else []:
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(data) - place:
            return BAD_TENSOR
        is_bytes = tensor.get("datatype") == "BYTES"  # the app says what it thinks of others
        elements = elements_of(data[place : place + size]) if is_bytes else []
        if elements is None:
            return BAD_TENSOR
        tensor["data"] = elements
        place += size
    return None if place == len(data) else BAD_TENSOR


def elements_of(data: bytes) -> list[bytes] | None:
    """The elements of a BYTES tensor, each after its length; None where lengths do not match."""
    elements, place = [], 0
    while place < len(data):
        if place + 4 > len(data):
            return None
        (size,) = struct.unpack_from("<I", data, place)
        place += 4 + size
        if place > len(data):
            return None
        elements.append(data[place - size : place])
    return elements


def raw_bytes(tensor: Mapping[str, Any]) -> bytes:
    """An output's data in binary."""
    data = tensor["data"]
    if tensor["datatype"] == "FP64":
        return struct.pack(f"<{len(data)}d", *data)
    encoded = [element.encode("utf-8", "backslashreplace") for element in data]
    return b"".join(struct.pack("<I", len(element)) + element for element in encoded)


def wanted_outputs(document: Mapping[str, Any]) -> Wanted | Rejection:
    """All outputs, unless some are named."""
    parameters = document.get("parameters")
    all_binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    named = document.get("outputs")
    if named in (None, []):
        return dict.fromkeys(OUTPUTS, all_binary)
    if not isinstance(named, list) or len(named) > MOST_OUTPUTS:
        return BAD_OUTPUTS
    binary: Wanted = {}
    for output in named:
        if not isinstance(output, dict) or output.get("name") not in OUTPUTS:
            return BAD_OUTPUTS
        own = output.get("parameters")
        own = own if isinstance(own, dict) else {}
        if own.get("classification"):
            return CLASSES
        binary[output["name"]] = own.get("binary_data", all_binary) is True
    return binary


def _answer(wanted: Wanted, reply: Reply) -> Reply:
    body = json.loads(reply.body)
    by_name = {output["name"]: output for output in body["outputs"]}
    body["outputs"] = [by_name[name] for name in wanted]
    parts = []
    for output in body["outputs"]:
        if wanted[output["name"]]:
            parts.append(raw_bytes(output))
            del output["data"]
            output.setdefault("parameters", {})["binary_data_size"] = len(parts[-1])
    head = as_json(body)
    if not parts:
        return Reply(200, head)
    return HeadedReply(200, head + b"".join(parts), {HEADER: str(len(head))}, "application/octet-stream")
