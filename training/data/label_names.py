"""How label values are written: which spellings are one label, which mean none, and the order of labels."""

import re
import unicodedata
from collections.abc import Hashable
from decimal import Decimal
from typing import Any

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
CODE = re.compile(r"[+-]?0\d", re.ASCII)  # 01 and 007 are codes, and 1 is another
INVISIBLE = "\ufeff\u200b\u2060"  # that `str.strip` leaves: a byte order mark, spaces of no width
# What pandas, R, SQL and spreadsheets write where there is nothing.
MISSING = {"", "nan", "-nan", "null", "na", "n/a", "<na>", "#na", "#n/a", "#n/a n/a", "nat", "nil", "(null)"}
# Values that say whether a text is hateful, which is what joined sets share (`sources.HATE_LABELS`).
NOT_HATE = {"false", "no", "not-hate", "nothate", "no-hate", "nohate", "non-hate", "normal"}
HATE = {"true", "yes", "hate", "hateful"}
NONE = "none"  # Python's word for nothing, and a class of many data sets: it depends on the others


def stripped(name: str) -> str:
    """Without white space, and what cannot be seen, at both ends."""
    return name.strip().strip(INVISIBLE).strip()


def is_missing(name: str) -> bool:
    """Whether a value is a word for nothing, in any case of letters; `NONE` is none of them."""
    return name.lower() in MISSING


def number(name: str) -> Decimal | None:
    """The number that a label is, or None for a word or a code such as 007."""
    if len(name) > 40 or not NUMBER.fullmatch(name) or CODE.match(name):
        return None
    return Decimal(name)


def key(name: str) -> Hashable:
    """What all spellings of one label share: 2, 2.0 and +2; Hate, HATE and "hate" with other white space; and
    letters that Unicode can write in several ways."""
    found = number(name)
    return found if found is not None else " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def loose_key(name: str) -> str:
    """What labels share that look alike: letters and digits, without marks between them and leading zeros."""
    return re.sub(r"[\W_]+|(?<!\d)0+(?=\d)", "", str(key(name)))


def natural(name: str) -> tuple[Any, ...]:
    """Sorts numbers within names as numbers: LABEL_2 before LABEL_10."""
    parts = re.split(r"(\d+)", name)
    return (*(int(part) if place % 2 else part for place, part in enumerate(parts)), name)


def hateful(name: str) -> bool | None:
    """What a value says that tells whether a text is hateful and no more (1, no, normal, …), else None."""
    if (found := number(name)) is not None:
        return bool(found) if found in (0, 1) else None
    plain = name.lower().replace("_", "-").replace(" ", "-")
    if plain in HATE:
        return True
    return False if plain in NOT_HATE else None
