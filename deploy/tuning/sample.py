"""Texts to send to a server: the user's own, or meaningless words of the expected lengths.

The latter have as many tokens as the artifact's validation texts, which is all that speed depends on. Their
answers mean nothing.
"""

import zipfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from common.tables.texts import read_texts as texts_of
from handler.artifact import TOKENIZER, archived_artifact

MOST_TEXTS = 10_000
MOST_CHARACTERS = 100_000  # the limit of a text as archives are packaged


def sample(archive: Path, texts: Path | None, count: int = 1000, seed: int = 0) -> list[str]:
    """The lines of `texts`, or `count` texts made for the artifact in `archive`."""
    return like_reference(archive, count, seed) if texts is None else read_texts(texts)


def read_texts(path: Path) -> list[str]:
    """Up to `MOST_TEXTS` lines of a file that are not empty, each cut at `MOST_CHARACTERS`."""
    return [text[:MOST_CHARACTERS] for text in texts_of(path, MOST_TEXTS)]


def like_reference(archive: Path, count: int, seed: int = 0) -> list[str]:
    """`count` texts of whole words, with lengths drawn from the histogram in the artifact's `reference`."""
    artifact = archived_artifact(archive)
    with zipfile.ZipFile(archive) as opened:
        tokenizer = Tokenizer.from_buffer(opened.read(f"artifact/{TOKENIZER}"))
    stripped = {token.lstrip("Ġ▁") for token in tokenizer.get_vocab()}  # as GPT-2's and T5's mark words
    words = np.array(sorted(word for word in stripped if word.isascii() and word.isalpha()))
    histogram = artifact.meta.reference.lengths
    counts = np.array(histogram.counts, np.float64)
    if not counts.sum():  # adopted without texts of its own: every length alike
        counts = np.ones(len(counts))
    random = np.random.default_rng(seed)
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    lower = [0, *histogram.up_to[:-1]]
    bins = random.choice(len(counts), size=count, p=counts / counts.sum())
    lengths = [random.integers(lower[place] + 1, histogram.up_to[place] + 1) - special for place in bins]
    return [" ".join(random.choice(words, size=max(1, length))) for length in lengths]
