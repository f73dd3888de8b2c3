"""Writes the public JSON Schemas from their types: `python -m tests.house.schemas`."""

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from handler import answers
from handler.artifact import DESCRIPTION
from handler.description import Description
from handler.records import Bounds
from handler.self_check import FILE, Made

HANDLER = Path(answers.__file__).parent
ANSWER, ARTIFACT = HANDLER / "answer.schema.json", HANDLER / "artifact.schema.json"
SELF_CHECK = HANDLER / "self-check.schema.json"
HEAD = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def answer_schema() -> dict[str, Any]:
    found: dict[str, Any] = {}
    kinds = [schema(kind, found) for kind in (answers.Single, answers.Multi, answers.Error)]
    return HEAD | {"title": "Answer for one text, or the error in its place", "oneOf": kinds, "$defs": found}


def artifact_schema() -> dict[str, Any]:
    found: dict[str, Any] = {}
    return HEAD | {"title": DESCRIPTION, **schema(Description, found), "$defs": found}


def self_check_schema() -> dict[str, Any]:
    found: dict[str, Any] = {}
    return HEAD | {"title": FILE, **schema(Made, found), "$defs": found}


def schema(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    """That of a type; records, which are referred to, are put into `found`."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind) or is_dataclass(kind):
        return _record(kind, found)
    if origin is Annotated:
        extra = inner[1]
        if not isinstance(extra, Bounds):  # the record that a dictionary holds
            return schema(extra, found)
        said = {key: value for key, value in extra._asdict().items() if value is not None}
        return schema(inner[0], found) | said
    if origin is NotRequired:
        return schema(inner[0], found)
    if origin in (Union, UnionType):
        return {"anyOf": [schema(each, found) for each in inner]}
    if kind is Any:
        return {}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (list, tuple):
        return {"type": "array", "items": schema(inner[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(inner[1], found)}
    return {"type": PLAIN[kind]}


def _record(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__.lower()
    hints = get_type_hints(kind, include_extras=True)
    if is_dataclass(kind):
        required = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
    else:
        required = [name for name in hints if name in kind.__required_keys__]
    found[name] = {
        "type": "object",
        "required": required,
        "properties": {field: schema(hint, found) for field, hint in hints.items()},
        "additionalProperties": False,
    }
    return {"$ref": f"#/$defs/{name}"}


def text(whole: dict[str, Any]) -> str:
    """The schema, a line for each property."""
    records = []
    for name, record in whole.pop("$defs").items():
        properties = record.pop("properties")
        lines = [f"      {json.dumps(field)}: {json.dumps(kind)}" for field, kind in properties.items()]
        head = json.dumps(record).removesuffix("}")
        records.append(f'    "{name}": {head}, "properties": {{\n' + ",\n".join(lines) + "\n    }}")
    rest = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in whole.items())
    return "{\n" + rest + '  "$defs": {\n' + ",\n".join(records) + "\n  }\n}\n"


if __name__ == "__main__":
    ANSWER.write_text(text(answer_schema()))
    ARTIFACT.write_text(text(artifact_schema()))
    SELF_CHECK.write_text(text(self_check_schema()))
