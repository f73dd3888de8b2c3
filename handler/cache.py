"""Predictions of texts that came before, so that the model is asked once of equal texts.

A text is not kept: its key is a hash with a salt that each process draws, of the text, how its windows are
combined, and the artifact's digest. A score that is remembered is one that the model gave to this very text.
"""

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from handler.predictor import Encoding, Prediction, Predictor, clean

# Of a batch, or of the batches after it: one thread classifies, so that what is in flight is in one of them.

KEY_BYTES = 16  # with a salt that nobody knows, texts of one key are met by chance alone: once in 2^64


class Cache:
    """At most `most` predictions; the one that was asked for the longest ago makes room. One thread's."""

    def __init__(self, most: int, digest: str) -> None:
        self.most = most
        self._kept: OrderedDict[bytes, Prediction] = OrderedDict()
        self._salted = blake2b(digest.encode(), digest_size=KEY_BYTES, key=secrets.token_bytes(32))

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, text: str, aggregate: str | None) -> bytes:
        """The same for texts that are one to the tokenizer, if they are read in the same way."""
        hashed = self._salted.copy()
        hashed.update(f"{aggregate}\n{clean(text)}".encode())
        return hashed.digest()

    def get(self, key: bytes) -> Prediction | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, prediction: Prediction) -> Prediction:
        """As it will be given out: apart from the arrays of its batch."""
        logits = None if prediction.logits is None else prediction.logits.copy()
        kept = replace(prediction, scores=prediction.scores.copy(), logits=logits, remembered=True)
        self._kept[key] = kept
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return kept


@dataclass(frozen=True)
class Known:
    """In the place of a text's `Encoding`."""

    prediction: Prediction

    @property
    def windows(self) -> range:
        """As many as the encoding had."""
        return range(self.prediction.windows)


@dataclass(frozen=True)
class Unknown(Encoding):
    """Of a text that the model is to be asked of, with its key."""

    key: bytes = b""


class Cached:
    """A Predictor behind a `Cache` of `most` texts, or behind none."""

    def __init__(self, predictor: Predictor, most: int) -> None:
        self.cache = Cache(most, predictor.artifact.sha256) if most else None
        self._predictor = predictor

    def __len__(self) -> int:
        return len(self.cache or ())

    def encode(self, texts: Sequence[str], aggregates: Sequence[str | None]) -> list[Encoding | Known]:
        """As `Predictor.encode`; texts whose windows are combined are read whole."""
        if self.cache is None:
            return [*self._encode(texts, aggregates)]
        keys = [self.cache.key(*asked) for asked in zip(texts, aggregates, strict=True)]
        known = [self.cache.get(key) for key in keys]
        left = [place for place, prediction in enumerate(known) if prediction is None]
        encodings = iter(
            self._encode([texts[place] for place in left], [aggregates[place] for place in left])
        )
        return [
            Known(prediction) if prediction else _unknown(next(encodings), key)
            for prediction, key in zip(known, keys, strict=True)
        ]

    def classify(
        self, encodings: Sequence[Encoding | Known], aggregates: Sequence[str | None]
    ) -> list[Prediction]:
        """As `Predictor.classify`."""
        if self.cache is None:
            return self._predictor.classify(
                [each for each in encodings if isinstance(each, Encoding)], aggregates
            )
        asked = {
            each.key: (each, aggregate)
            for each, aggregate in zip(encodings, aggregates, strict=True)
            if isinstance(each, Unknown)
        }
        made = self._predictor.classify(
            [each for each, _ in asked.values()], [aggregate for _, aggregate in asked.values()]
        )
        first = dict(zip(asked, made, strict=True))
        kept = {key: self.cache.put(key, prediction) for key, prediction in first.items()}
        found = []
        for each in encodings:
            if isinstance(each, Known):
                found.append(each.prediction)
            elif isinstance(each, Unknown):
                found.append(first.pop(each.key, kept[each.key]))
        return found

    def _encode(self, texts: Sequence[str], aggregates: Sequence[str | None]) -> list[Encoding]:
        return self._predictor.encode(texts, [aggregate is not None for aggregate in aggregates])


def _unknown(encoding: Encoding, key: bytes) -> Unknown:
    return Unknown(encoding.ids, encoding.truncated, encoding.rest, key=key)
