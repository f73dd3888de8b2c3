"""Check that a classifier, as served, reads and answers texts as transformers itself does.

The user's own folder, read by transformers, is compared with the Predictor on test texts and on some of the
data's: token ids exactly, and logits of each text alone and in a batch. A model that differs is refused.
"""

import inspect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import transformers

from handler.description import Adoption
from handler.errors import UserError, first_line
from handler.predictor import Encoding, Predictor, clean

# A logit that is off by this moves a probability by at most half of it, which is half of what fp32 may differ
# from transformers by (`check.FP32_MARGIN`). Sums in another order make 1e-6 to 1e-5 of it.
LOGIT_MARGIN = 1e-3
ADDED_TO_COMPUTE = 24  # added tokens whose logits are compared; ids are compared of all
LONG_WORD = 300  # characters; a WordPiece reads up to 100 of a word
MANY = 20  # times what is read of a text: such a one is not tokenised whole
SHOWN = 3

ODD = {
    "an empty text": [""],
    "white space alone": [" ", " \t\n\r\x0b\x0c ", "\u00a0\u3000\u2003"],
    "unknown characters": [
        "\u16a0\u16c7\u16bb",
        "good \u2603 day",
        "\U0001f9ff\U0001fae8",
        "\ue000 \U000f0000",
    ],
    "combining marks": [
        "cafe\u0301 A\u030angstro\u0308m a\u0323\u0302",
        "caf\u00e9 \u00c5ngstr\u00f6m \u1ead",
    ],
    "accents": [
        "na\u00efve fa\u00e7ade \u00dcber",
        "naive facade Uber",
        "\u0130stanbul \u0131\u015f\u0131k Stra\u00dfe",
    ],
    "emoji": [
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
        "\U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2764\ufe0f",
        "good\U0001f600day",
    ],
    "right-to-left writing": [
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
        "\u0645\u0631\u062d\u0628\u0640\u0640\u0627 \u202egood\u202c day \u200f",
    ],
    "writing without spaces": [
        "\u4eca\u5929\u5929\u6c14\u5f88\u597d",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    ],
    "control characters": [
        "good\x00 day",
        "\x00",
        "good\x01\x02\x1b[0m\x7f\x85day",
        "\ufeffgood \u200bday\u00ad\u2060",
    ],
    "lone surrogates": ["good \ud83d day", "\udc00"],
    "full-width characters": [
        "\uff28\uff25\uff2c\uff2c\uff2f\u3000\uff11\uff12\uff13\uff01",
        "\ufb01ne \U0001d421\U0001d41a\u2460\u00bd\u2122",
    ],
    "line ends": ["good\r\nday\rgood\nday", "good\u2028day\u2029good\x0bday", "  good   day  "],
    "capitals": ["Hello WORLD, I Hate rain", "hello world, i hate rain", "\u00c9COLE \u00e9cole"],
    "addresses and names": [
        "@user see https://t.co/a_B?x=1&y=%20#z now",
        "#HateIsHate @a_b.c me@example.org",
    ],
    "digits and marks": [
        "0 12 3,456.78 9e10 -1 50% $5",
        "don't --- \u201cquoted\u201d \u2026 a/b (c) [d] <e> {f}",
    ],
    "a very long word": ["a" * LONG_WORD, "good " + "x1" * LONG_WORD + " day", "x" * 40 * LONG_WORD],
}


@dataclass(frozen=True)
class Probe:
    """A text, and what kind of text it is, for people."""

    kind: str
    text: str


def probes(tokenizer: Any, max_length: int) -> list[Probe]:
    """Test texts that show differences in tokenising, with most words from the tokenizer's vocabulary."""
    words = _words(tokenizer, 2 * max_length)
    made = [Probe(kind, text) for kind, texts in ODD.items() for text in texts]
    made.append(Probe("one token", words[0]))
    made += [Probe("a sentence", " ".join(words[:count])) for count in (2, 5, 9) if count < max_length]
    room = max_length - tokenizer.num_special_tokens_to_add(pair=False)
    made += [
        Probe("a text about as long as the maximum", " ".join(words[:count]))
        for count in (room - 1, room, room + 1)
        if count > 0
    ]
    made.append(Probe("a text longer than the maximum", " ".join(words)))
    made.append(Probe("a text longer than the maximum", " ".join(reversed(words))))
    made.append(Probe("a text of very many characters", " ".join(words * MANY)))
    made.append(Probe("a text of very many characters", words[0] + " " * MANY * max_length + words[1]))
    first, second = words[:2]
    for token in sorted(tokenizer.get_added_vocab()):
        for text in (
            token,
            f"{first} {token} {second}",
            f"{first}{token}{second}",
            f"{first} {token}{token} ",
            f"{first} {token.upper()} {token.lower()} {second}",
        ):
            made.append(Probe("an added token", text))
    return made


def hold_against_transformers(
    model: Any, tokenizer: Any, predictor: Predictor, texts: Sequence[str]
) -> Adoption:
    """The record of what was compared: `model` and `tokenizer` as transformers reads the user's folder,
    `predictor` as it would be served, on probes and on `texts`.

    Raises `UserError` where ids differ, or logits by more than `LOGIT_MARGIN`.
    """
    tried = probes(tokenizer, predictor.artifact.max_length)
    tried += [Probe("a text of the data", text) for text in texts]
    theirs = _Reference(model, tokenizer, predictor.artifact.max_length)
    encoded = [theirs.encode(probe.text) for probe in tried]
    ours = predictor.encode([probe.text for probe in tried])
    _require_same_ids(tried, encoded, ours)
    rows = [row for row in _to_compute(tried) if encoded[row]["input_ids"]]
    expected = np.concatenate([theirs.logits(encoded[row]) for row in rows])
    alone, among = _answers(predictor, [ours[row] for row in rows])
    differences = np.maximum(np.abs(alone - expected), np.abs(among - expected)).max(axis=1)
    largest = int(differences.argmax())
    if not differences[largest] <= LOGIT_MARGIN:  # NaN as well
        raise _explain(
            theirs, predictor, encoded[rows[largest]], tried[rows[largest]], float(differences[largest])
        )
    return Adoption(
        texts=len(tried),
        texts_computed=len(rows),
        max_logit_diff=float(differences.max()),
        logit_margin=LOGIT_MARGIN,
        transformers=transformers.__version__,
    )


def own_batches_differ(model: Any, tokenizer: Any, max_length: int) -> float:
    """The largest change of transformers' own logits when it pads texts, on the tokenizer's side."""
    theirs = _Reference(model, tokenizer, max_length)
    words = _words(tokenizer, max_length)
    texts = [" ".join(words[:count]) for count in (1, 3, 8)]
    encoded = [theirs.encode(text) for text in texts]
    alone = np.concatenate([theirs.logits(encoding) for encoding in encoded])
    together = theirs.logits(tokenizer.pad(encoded))
    return float(np.abs(together - alone).max())


def _answers(predictor: Predictor, encodings: Sequence[Encoding]) -> tuple[np.ndarray, np.ndarray]:
    """Logits as served, float32 [texts, labels]: of each text alone, and of all together, after the batches
    that every server starts with."""
    try:
        predictor.warm()
        alone = np.concatenate([predictor.logits([encoding]) for encoding in encodings])
        return alone, predictor.logits(encodings)
    except Exception as error:  # of the model's own, whatever it is
        raise UserError(
            "the classifier cannot run batches of padded texts, as serving does",
            seen=f"{type(error).__name__}: {first_line(error)}",
            remedy="Serve it with transformers, one text at a time",
        ) from error


def unreadable(length: int, error: Exception) -> UserError:
    """The error for anything that transformers' own model raises at `length` tokens."""
    return UserError(
        f"transformers' own model cannot read {length} tokens of its tokenizer",
        seen=f"{type(error).__name__}: {first_line(error)}",
        remedy="Give the length that it was trained with (--max-length), or fix its config.json",
    )


class _Reference:
    """transformers' own token ids and logits, text by text, as in its text-classification pipeline."""

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.accepted = set(inspect.signature(model.forward).parameters)

    def encode(self, text: str) -> dict[str, list[int]]:
        return dict(self.tokenizer(clean(text), truncation=True, max_length=self.max_length))

    def logits(self, encoded: dict[str, Any]) -> np.ndarray:
        """float32 [texts, labels] of one text's lists, or of those of several, padded."""
        import torch

        inputs = {name: torch.tensor(values) for name, values in encoded.items() if name in self.accepted}
        if inputs["input_ids"].dim() == 1:
            inputs = {name: values[None] for name, values in inputs.items()}
        with torch.no_grad():
            try:
                return np.asarray(self.model(**inputs).logits.float().numpy())
            except Exception as error:
                raise unreadable(inputs["input_ids"].shape[1], error) from error


def _require_same_ids(
    tried: Sequence[Probe], encoded: Sequence[dict[str, list[int]]], ours: Sequence[Encoding]
) -> None:
    differing: dict[str, str] = {}
    count = 0
    for probe, theirs, own in zip(tried, encoded, ours, strict=True):
        if theirs["input_ids"] == own.ids or not theirs["input_ids"]:  # transformers cannot answer no token
            continue
        count += 1
        pairs = itertools.zip_longest(theirs["input_ids"], own.ids)
        place, (expected, found) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        differing.setdefault(
            probe.kind, f"{probe.kind}: token {place + 1} is {expected} in transformers, {found} as served"
        )
    if differing:
        raise UserError(
            "texts would not be tokenised as transformers does",
            seen=f"{count} of {len(tried)} texts, such as {'; '.join(list(differing.values())[:SHOWN])}",
            remedy="A setting of tokenizer_config.json is not in its tokenizer.json: save it again with "
            "transformers (save_pretrained), or remove the setting",
        )


def _to_compute(tried: Sequence[Probe]) -> list[int]:
    """The rows whose logits are compared: all, except that many added tokens are sampled."""
    added = [row for row, probe in enumerate(tried) if probe.kind == "an added token"]
    step = max(1, len(added) // (5 * ADDED_TO_COMPUTE))
    left_out = set(added) - set(added[::step])
    return [row for row in range(len(tried)) if row not in left_out]


def _explain(
    theirs: _Reference, predictor: Predictor, encoded: dict[str, list[int]], probe: Probe, difference: float
) -> UserError:
    """The error for a text whose logits differ although its ids do not, with the cause if it is found."""
    ids = encoded["input_ids"]
    plain = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    full = theirs.logits(encoded)
    seen = f"logits differ by {difference:.2g} on {probe.kind} ({LOGIT_MARGIN} is allowed)"
    if np.abs(theirs.logits(plain) - full).max() > LOGIT_MARGIN:
        others = sorted(set(encoded) & theirs.accepted - set(plain))
        return UserError(
            "the classifier needs inputs that are not served: token ids and a mask are all it gets",
            seen=f"{', '.join(others) or 'no attention_mask'}; {seen}",
            remedy="Serve it with transformers, or fine-tune a model that does not need them",
        )
    for bucket in predictor.grid.lengths:
        more = bucket - len(ids)
        if more <= 0:
            continue
        padding = predictor.artifact.meta.inputs.pad_id
        padded = {"input_ids": ids + [padding] * more, "attention_mask": [1] * len(ids) + [0] * more}
        moved = float(np.abs(theirs.logits(padded) - full).max())
        if not moved <= LOGIT_MARGIN:
            return UserError(
                "padding on the right changes the answers of this model, and texts are padded when served",
                seen=f"{theirs.model.config.model_type}, logits of {len(ids)} tokens padded to {bucket} move "
                f"by {moved:.2g}",
                remedy="Serve it with transformers, one text at a time, or fine-tune a model that heeds its "
                "mask",
            )
    return UserError(
        "the classifier does not answer as transformers does",
        seen=seen,
        remedy="Check its config.json, starting with the padding token",
    )


def _words(tokenizer: Any, count: int) -> list[str]:
    """Words from all over the tokenizer's vocabulary, the same each time."""
    special = set(tokenizer.all_special_tokens)
    plain = (re.sub(r"^(##|Ġ|▁)", "", token) for token in sorted(set(tokenizer.get_vocab()) - special))
    known = [word for word in dict.fromkeys(plain) if len(word) > 1 and word.isalpha()] or ["good", "day"]
    spread = known[:: max(1, len(known) // count)]
    return list(itertools.islice(itertools.cycle(spread), count))
