"""Records that do not ship: their types define what a file may contain."""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
Some = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Task = Literal["single-label", "multi-label"]
T = TypeVar("T")


class Record(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file, or a part of one. A field that may be absent has a default, and is left out while it has it."""

    def __bool__(self) -> Literal[True]:
        return True


def plain(value: Any) -> Any:
    """Plain JSON; numpy's numbers are numbers."""
    return msgspec.to_builtins(value, enc_hook=lambda scalar: scalar.item())


def read(document: Any, kind: type[T]) -> T:
    """Plain JSON as a record. Raises `msgspec.ValidationError` for what is none."""
    return msgspec.convert(document, kind)
