"""Requests that are well-formed HTTP and anything else: for the property that content breaks nothing."""

import json
from dataclasses import dataclass
from urllib.parse import urlencode

from hypothesis import strategies as st

from tests.asking import FORM, JSON

# Everything a JSON string may hold: lone surrogates, NUL, zero-width and combining characters, right-to-left.
CURIOUS = st.text(
    st.sampled_from("\ud800\udfff\x00\u200b\u200d\u0301\u202e\ufffe\ufeff\U0001f469\U0001f3ffا a1#'\"\\\n"),
    max_size=40,
)
TEXT = st.one_of(
    st.text(max_size=60),
    CURIOUS,
    st.text(st.characters(exclude_categories=()), max_size=60),
    st.sampled_from(["", " ", "\u200b", "a" * 2000, "word " * 400, "[CLS] [SEP] [MASK]", "%00%zz", "null"]),
)
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "long": st.one_of(st.sampled_from(["chunks", "truncate"]), VALUE),
        "aggregate": st.one_of(st.sampled_from(["max", "mean"]), VALUE),
        "method": VALUE,
        "target": VALUE,
    },
)
ROW = st.one_of(TEXT, VALUE, st.builds(lambda text, options: {"text": text} | options, TEXT, OPTIONS))
TENSOR = st.one_of(
    VALUE,
    st.builds(
        lambda data, kind, shape: {"name": "text", "datatype": kind, "shape": shape, "data": data},
        st.lists(ROW, max_size=5),
        st.sampled_from(["BYTES", "FP32", 7]),
        st.one_of(st.lists(st.integers(), max_size=3), st.integers(0, 5).map(lambda count: [count])),
    ),
)
BODY = st.one_of(
    ROW,
    st.lists(ROW, max_size=6),
    st.builds(lambda rows, options: {"texts": rows} | options, st.lists(ROW, max_size=6), OPTIONS),
    st.builds(lambda rows: {"instances": rows}, st.one_of(VALUE, st.lists(ROW, max_size=6))),
    st.builds(lambda tensors: {"inputs": tensors}, st.one_of(VALUE, st.lists(TENSOR, max_size=2))),
)


@dataclass(frozen=True)
class Sent:
    """A request, and where it holds nothing but texts in a known form, these."""

    body: bytes
    content_type: str
    path: str
    texts: tuple[str, ...] | None = None


def _json(value: object) -> bytes:
    # Lone surrogates travel as \udXXX escapes, which JSON allows.
    return json.dumps(value).encode()


def _has_a_name(field: str) -> bool:
    """A form field without one is a 500 of TorchServe's own, before any handler (see the README's limits)."""
    return bool(field.strip("".join(map(chr, range(33)))))


VALID_TEXT = TEXT.filter(lambda text: bool(text.strip()))
PATH = st.sampled_from(["/predictions/hate"] * 9 + ["/explanations/hate"])
VALID = st.one_of(
    VALID_TEXT.map(lambda text: Sent(_json({"text": text}), JSON, "/predictions/hate", (text,))),
    st.lists(VALID_TEXT, min_size=1, max_size=6).map(
        lambda texts: Sent(_json({"texts": texts}), JSON, "/predictions/hate", tuple(texts))
    ),
    st.lists(VALID_TEXT, min_size=1, max_size=2).map(
        lambda texts: Sent(_json(texts), JSON, "/explanations/hate", tuple(texts))
    ),
)
HOSTILE = st.one_of(
    st.builds(Sent, BODY.map(_json), st.just(JSON), PATH),
    st.builds(Sent, st.binary(max_size=80), st.sampled_from([JSON, "text/plain", "image/png", ""]), PATH),
    st.builds(
        lambda fields, path: Sent(urlencode(fields, errors="surrogatepass").encode(), FORM, path),
        st.dictionaries(st.one_of(st.just("text"), CURIOUS.filter(_has_a_name)), TEXT, max_size=3),
        PATH,
    ),
    st.builds(
        Sent, TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")), st.just("text/plain"), PATH
    ),
)
REQUEST = st.one_of(VALID, HOSTILE)
