"""Records as JSON has them: dataclasses whose types say what may stand in a file, read and written."""

import operator
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")


class Bounds(NamedTuple):
    """What a value must be besides its type, in JSON Schema's words."""

    minimum: float | None = None
    exclusiveMinimum: float | None = None  # noqa: N815
    maximum: float | None = None
    minItems: int | None = None  # noqa: N815
    maxItems: int | None = None  # noqa: N815
    minProperties: int | None = None  # noqa: N815
    pattern: str | None = None
    enum: tuple[str | int, ...] | None = None


HOLDS: dict[str, Callable[[Any, Any], object]] = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "minItems": lambda value, bound: len(value) >= bound,
    "maxItems": lambda value, bound: len(value) <= bound,
    "minProperties": lambda value, bound: len(value) >= bound,
    "pattern": lambda value, bound: re.search(bound, value),
    "enum": lambda value, bound: value in bound,
}
Count = Annotated[int, Bounds(minimum=0)]
Some = Annotated[int, Bounds(minimum=1)]
Share = Annotated[float, Bounds(minimum=0, maximum=1)]


def read(kind: type[T], document: Any) -> T:
    """Plain JSON as a record; fields that it does not know are passed over. ValueError says what is wrong."""
    return cast(T, _read(kind, document, "it"))


def plain(value: Any) -> Any:
    """A record as plain JSON. What may be absent and is empty is left out."""
    if is_dataclass(value):
        held = {field.name: getattr(value, field.name) for field in fields(value)}
        absent = {field.name for field in fields(value) if field.default == held[field.name] in (None, "")}
        return {name: plain(own) for name, own in held.items() if name not in absent}
    if isinstance(value, dict):
        return {key: plain(own) for key, own in value.items()}
    return [plain(own) for own in value] if isinstance(value, (list, tuple)) else value


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(_read(inner[0], value, place), inner[1], place)
    if origin in (Union, UnionType):  # with None, the last
        return None if value is None else _read(inner[0], value, place)
    if origin is Literal:
        return _bounded(value, Bounds(enum=inner), place)
    if isinstance(kind, type) and is_dataclass(kind):
        _expect(dict, value, place)
        _expect_fields(kind, value)
        return kind(**{name: _read(hint, value[name], name) for name, hint in _hints(kind) if name in value})
    if origin in (list, tuple):
        _expect(list, value, place)
        return origin(_read(inner[0], own, place) for own in value)
    if origin is dict:
        _expect(dict, value, place)
        return {key: _read(inner[1], own, f"{place}: {key[:100]!r}") for key, own in value.items()}
    _expect(kind, value, place)
    return value


@cache
def _hints(kind: type) -> list[tuple[str, Any]]:
    return list(get_type_hints(kind, include_extras=True).items())


def _expect_fields(kind: Any, document: dict[str, Any]) -> None:
    for field in fields(kind):
        may_be_absent = field.default is not MISSING or field.default_factory is not MISSING
        if field.name not in document and not may_be_absent:
            raise ValueError(f"it has no {field.name}")


def _expect(kind: Any, value: Any, place: str) -> None:
    allowed: Any = {Any: object, float: (int, float)}.get(kind, kind)
    if not isinstance(value, allowed) or (kind in (int, float) and isinstance(value, bool)):
        raise ValueError(f"{place} is not a {kind.__name__}")


def _bounded(value: Any, bounds: Bounds, place: str) -> Any:
    for name, bound in bounds._asdict().items():
        if bound is not None and not HOLDS[name](value, bound):
            raise ValueError(f"{place} is {str(value)[:100]}, but its {name} is {bound}")
    return value
