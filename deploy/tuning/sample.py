"""Texts to ask a server with: the user's own, or words without meaning of the lengths that are expected.

The latter have as many tokens as the artifact's validation texts had, which is all that speed depends on.
What they are answered says nothing.
"""

import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from handler.artifact import TOKENIZER, archived_artifact
from handler.errors import UserError

MOST_TEXTS = 10_000
MOST_CHARACTERS = 100_000  # the limit of a text as archives are packaged


def sample(archive: Path, texts: Path | None, count: int = 1000, seed: int = 0) -> list[str]:
    """The lines of `texts`, or `count` texts made for the artifact in `archive`."""
    return like_reference(archive, count, seed) if texts is None else read_texts(texts)


def read_texts(path: Path) -> list[str]:
    """Up to `MOST_TEXTS` lines of a UTF-8 file that are not empty, each cut at `MOST_CHARACTERS`."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = (line.strip()[:MOST_CHARACTERS] for line in file)
            found = list(islice(filter(None, lines), MOST_TEXTS))
    except OSError as error:
        raise UserError("the texts cannot be read", seen=path, remedy="Check the path") from error
    if not found:
        raise UserError("there are no texts", seen=path, remedy="Give a file of one text a line")
    return found


def like_reference(archive: Path, count: int, seed: int = 0) -> list[str]:
    """`count` texts of whole words, with lengths drawn from the histogram in the artifact's `reference`."""
    artifact = archived_artifact(archive)
    with zipfile.ZipFile(archive) as opened:
        tokenizer = Tokenizer.from_buffer(opened.read(f"artifact/{TOKENIZER}"))
    stripped = {token.lstrip("Ġ▁") for token in tokenizer.get_vocab()}  # as GPT-2's and T5's mark words
    words = np.array(sorted(word for word in stripped if word.isascii() and word.isalpha()))
    histogram = artifact.meta["reference"]["lengths"]
    counts = np.array(histogram["counts"], np.float64)
    if not counts.sum():  # adopted without texts of its own: every length alike
        counts = np.ones(len(counts))
    random = np.random.default_rng(seed)
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    lower = [0, *histogram["up_to"][:-1]]
    bins = random.choice(len(counts), size=count, p=counts / counts.sum())
    lengths = [random.integers(lower[one] + 1, histogram["up_to"][one] + 1) - special for one in bins]
    return [" ".join(random.choice(words, size=max(1, length))) for length in lengths]
