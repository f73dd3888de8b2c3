"""Writes the JSON Schema of answers from their types: `python -m tests.house.schemas`."""

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from handler import answers

TARGET = Path(answers.__file__).with_name("answer.schema.json")
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def answer_schema() -> dict[str, Any]:
    found: dict[str, Any] = {}
    kinds = [schema(kind, found) for kind in (answers.Single, answers.Multi, answers.Error)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Answer for one text, or the error in its place",
        "oneOf": kinds,
        "$defs": found,
    }


def schema(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    """That of a type; records, which are referred to, are put into `found`."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind) or is_dataclass(kind):
        return _record(kind, found)
    if origin is Annotated:
        extra = inner[1]
        if not isinstance(extra, answers.Bounds):  # the record that a dictionary holds
            return schema(extra, found)
        said = {key: value for key, value in extra._asdict().items() if value is not None}
        return schema(inner[0], found) | said
    if origin is NotRequired:
        return schema(inner[0], found)
    if origin in (Union, UnionType):
        return {"anyOf": [schema(each, found) for each in inner]}
    if origin is list:
        return {"type": "array", "items": schema(inner[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(inner[1], found)}
    return {"type": PLAIN[kind]}


def _record(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__.lower()
    hints = get_type_hints(kind, include_extras=True)
    if is_dataclass(kind):
        required = [field.name for field in fields(kind) if field.default is MISSING]
    else:
        required = [name for name in hints if name in kind.__required_keys__]
    found[name] = {
        "type": "object",
        "required": required,
        "properties": {field: schema(hint, found) for field, hint in hints.items()},
        "additionalProperties": False,
    }
    return {"$ref": f"#/$defs/{name}"}


def text() -> str:
    """The schema, a line for each property."""
    whole = answer_schema()
    records = []
    for name, record in whole.pop("$defs").items():
        properties = record.pop("properties")
        lines = [f"      {json.dumps(field)}: {json.dumps(kind)}" for field, kind in properties.items()]
        head = json.dumps(record).removesuffix("}")
        records.append(f'    "{name}": {head}, "properties": {{\n' + ",\n".join(lines) + "\n    }}")
    rest = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in whole.items())
    return "{\n" + rest + '  "$defs": {\n' + ",\n".join(records) + "\n  }\n}\n"


if __name__ == "__main__":
    TARGET.write_text(text())
