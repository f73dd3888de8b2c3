"""What artifacts check themselves with: sequences of tokens that are made, nobody's texts, and their logits.

fp32 scores mixtures of tokens until some lie near every threshold and others cover the scale. Random tokens
would not do: nearly all get one label for certain, and there other kernels hardly move a score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from common.atomic import write_json
from common.shares import share_interval
from export.registry import REFERENCE
from export.source import Source
from handler.artifact import open_artifact
from handler.description import Description
from handler.predictor import Predictor
from handler.records import plain
from handler.self_check import FILE, SCHEMA, Made, Recorded, distances, read_made
from handler.stages import above_bands, limits

SEQUENCES = 64  # of two labels: a tenth of a second for int8, and half of them near the threshold
FOR_A_LABEL = 24  # of more labels
MOST = 256
LONGEST = 128  # tokens: more would take more than a second at each start
NEAR = 0.6  # of the sequences are aimed at the texts nearest a threshold, the others at the whole scale
NEAREST = 0.1  # of the validation texts
# Tokens that sequences are made of: half of them from the whole vocabulary, half from what validation texts
# say often, since a small classifier may go by a few words. What few texts say is not told.
WORDS = 512
OFTEN = 5  # texts
HALVINGS = 6  # rounds of the search
SWAPS = 24
LEAST_COUNTED = 20  # texts: of fewer, their number near a threshold is chance
# For the tokenizer: what tokenizers trip over.
TEXTS = (
    "UPPER lower MiXeD 12345 3.14 http://example.org/a?b=c @user #tag",
    "Ünïcödé, 漢字 and العربية, é and e\u0301, ﬁ ½ Ⅷ",
    "👩‍👩‍👧 🏳️‍🌈 \u200b\u202eright to left\u202c \u00a0\ufeff",
    "don't can't... well-known _under_ ''quoted'' “so” <tag> &amp; $5 100% a\tb\nc",
    "unbelievably antidisestablishmentarianism zzzzqqqqxxxx word " * 9,
)


@dataclass(frozen=True)
class Frame:
    """The tokens that the tokenizer puts before and after a text, all others that it knows, and those of them
    that texts say often."""

    before: list[int]
    after: list[int]
    vocabulary: np.ndarray
    often: np.ndarray

    @classmethod
    def of(cls, predictor: Predictor, texts: Sequence[Sequence[int]]) -> "Frame":
        """From the tokens of many texts."""
        tokenizer = predictor.tokenizer
        example = tokenizer.encode("a")
        own = np.flatnonzero(np.array(example.special_tokens_mask) == 0).tolist()
        first = own[0] if own else len(example.ids)
        last = own[-1] + 1 if own else len(example.ids)
        added = set(tokenizer.get_added_tokens_decoder())
        words = np.array(sorted(set(tokenizer.get_vocab().values()) - added), np.int64)
        said, counts = np.unique([token for ids in texts for token in set(ids)], return_counts=True)
        often = np.intersect1d(said[counts >= OFTEN], words)
        return cls(example.ids[:first], example.ids[last:], words, often)

    def around(self, tokens: np.ndarray) -> list[int]:
        return [*self.before, *tokens.tolist(), *self.after]


def record(predictor: Predictor, source: Source, logits: np.ndarray) -> Made:
    """What the built artifact says of the made sequences; `logits`, float32 [texts, labels], are what its
    models together say of the validation texts."""
    meta = predictor.artifact.meta
    sequences = _sequences(predictor, source, logits)
    of_validation = [logits] if len(predictor.models) == 1 else _of_validation(predictor, source)
    of_sequences = predictor.logits_of_each(sequences)
    left = np.ones(len(logits), bool)
    models = []
    for model, found, said in zip(predictor.models, of_validation, of_sequences, strict=True):
        is_last = model is predictor.models[-1]
        answered = left if is_last else left & ~model.unsure(found)
        left = left & ~answered
        apart = distances(meta, found[answered] + (meta.logit_offsets or 0.0))
        width = model.stage.width if model.stage and not is_last else 0.0
        within = [points(rule, len(logits), width) for rule in apart.T]
        models.append(Recorded(said.astype(float).round(7).tolist(), within))
    return Made(SCHEMA, sequences, models, list(TEXTS), predictor.tokens(TEXTS))


def write(folder: Path, made: Made) -> None:
    write_json(folder / FILE, plain(made))


def points(apart: np.ndarray, texts: int, least: float = 0.0) -> list[list[float]]:
    """Points [distance, share] below which the share of `texts` lies that are within a distance of another
    label: with 97.5 % confidence each, from the distances `apart` of those that count. None is below `least`.
    """
    found = [[least, 0.0]]
    ordered = np.sort(apart)
    rank = min(LEAST_COUNTED, len(ordered))
    while rank:
        share = share_interval(rank, texts)[1]
        found.append([round(max(least, float(ordered[rank - 1])), 6), round(share, 6)])
        rank = min(2 * rank, len(ordered)) if rank < len(ordered) else 0
    return found


def _of_validation(predictor: Predictor, source: Source) -> list[np.ndarray]:
    """What each stage alone says of all validation texts, float32 [texts, labels]."""
    encodings = predictor.encode(source.dataset.splits["validation"].texts)
    return [predictor.logits(encodings, [model]) for model in predictor.models]


def _sequences(predictor: Predictor, source: Source, logits: np.ndarray) -> list[list[int]]:
    """fp32's are searched; those of all other variants are the same."""
    meta = predictor.artifact.meta
    if meta.parent is not None:
        made = read_made(open_artifact(source.artifacts / REFERENCE, verify=False), 1, predictor.tokenizer)
        assert made is not None  # what makes it is part of the fingerprint
        return made.sequences

    def sides(sequences: Sequence[list[int]]) -> np.ndarray:
        (found,) = predictor.logits_of_each(sequences)
        return signed(meta, found)

    nearest = np.quantile(np.abs(signed(meta, logits)), NEAREST, axis=0)
    texts = predictor.tokens(source.dataset.splits["validation"].texts)
    return search(sides, Frame.of(predictor, texts), [len(ids) for ids in texts], nearest)


def signed(meta: Description, logits: np.ndarray) -> np.ndarray:
    """How far texts are on a label's side, in logits, negative without it: [texts, labels], of two labels
    that exclude each other [texts, 1]; then how far above the ends of the bands, where there are any."""
    moved = logits + (meta.logit_offsets or 0.0)
    above = moved - limits(meta)
    if meta.task == "multi-label":
        return np.asarray(above)
    if above.shape[1] == 2:
        sides = above[:, 1:] - above[:, :1]
    else:
        sides = above - np.where(np.eye(above.shape[1], dtype=bool), -np.inf, above[:, None]).max(axis=2)
    return np.asarray(sides if meta.bands is None else np.hstack([sides, above_bands(meta, moved)]))


class Best:
    """Of all sequences of words that were tried for each aim, the one that scores nearest to it."""

    def __init__(self, aims: np.ndarray, tried: Sequence[np.ndarray], scores: np.ndarray) -> None:
        self.aims = aims
        self.words = list(tried)
        self.scores = scores.copy()

    def offer(self, tried: Sequence[np.ndarray], scores: np.ndarray) -> None:
        nearer = np.abs(scores - self.aims) < np.abs(self.scores - self.aims)
        for place in np.flatnonzero(nearer).tolist():
            self.words[place] = tried[place]
            self.scores[place] = scores[place]


def search(
    sides: Callable[[Sequence[list[int]]], np.ndarray],
    frame: Frame,
    lengths: Sequence[int],
    nearest: np.ndarray,
) -> list[list[int]]:
    """Sequences of token ids as long as texts of these `lengths`, up to `LONGEST`; the same for the same
    classifier.

    `sides` scores sequences, [sequences, rules]: what is aimed at are zeros, within `nearest` [rules], and
    the whole scale. Sequences of words that raise a score are mixed with others that lower it, by halving
    what stands between; single words are then exchanged.
    """
    rng = np.random.default_rng(0)
    halves = [rng.permutation(tokens)[: WORDS // 2] for tokens in (frame.often, frame.vocabulary)]
    words = np.unique(np.concatenate(halves))
    rules = len(nearest)
    count = SEQUENCES if rules == 1 else min(MOST, max(SEQUENCES, FOR_A_LABEL * rules))
    rule = np.arange(count) % rules
    alone = sides([frame.around(word[None]) for word in words])
    lifts = ((alone - alone.mean(axis=0)) / np.maximum(alone.std(axis=0), 1e-9))[:, rule].T
    sizes = _sizes(rng, lengths, count, len(frame.before) + len(frame.after))

    def scored(tried: Sequence[np.ndarray]) -> np.ndarray:
        return sides([frame.around(words[places]) for places in tried])[np.arange(count), rule]

    high = _mixed(rng, rng.uniform(2, 5, (count, 1)) * lifts, sizes)
    low = _mixed(rng, rng.uniform(-3, 0, (count, 1)) * lifts, sizes)
    high_scores = scored(high)
    low_scores = scored(low)
    best = Best(_aims(rule, nearest, low_scores, high_scores), low, low_scores)
    best.offer(high, high_scores)
    low = _beyond(low, low_scores, best.aims, rule, -1)
    high = _beyond(high, high_scores, best.aims, rule, 1)
    least = np.zeros(count, int)
    most = sizes
    for _ in range(HALVINGS):
        cuts = (least + most) // 2
        tried = [np.append(up[:cut], down[cut:]) for up, down, cut in zip(high, low, cuts, strict=True)]
        scores = scored(tried)
        best.offer(tried, scores)
        least = np.where(scores < best.aims, cuts, least)
        most = np.where(scores < best.aims, most, cuts)
    for _ in range(SWAPS):
        ways = np.sign(best.aims - best.scores)[:, None] * lifts
        tried = [_swapped(rng, places, way) for places, way in zip(best.words, ways, strict=True)]
        best.offer(tried, scored(tried))
    return [frame.around(words[places]) for places in best.words]


def _sizes(rng: np.random.Generator, lengths: Sequence[int], count: int, room: int) -> np.ndarray:
    """Numbers of words, of sequences as long as the texts."""
    shares = (np.arange(count) + 0.5) / count
    found = rng.permutation(np.quantile(np.minimum(lengths, LONGEST), shares)).astype(int)
    return np.asarray(np.maximum(found - room, 1))


def _mixed(rng: np.random.Generator, preferred: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """For each sequence so many words, drawn by how much they are `preferred`, [sequences, words]."""
    chances = softmax(preferred, axis=1)
    return [rng.choice(len(own), size, p=own) for size, own in zip(sizes, chances, strict=True)]


def _beyond(
    tried: Sequence[np.ndarray], scores: np.ndarray, aims: np.ndarray, rule: np.ndarray, way: int
) -> list[np.ndarray]:
    """Those that do not reach their aims, above (1) or below (-1), replaced by what goes furthest there."""
    found = list(tried)
    for place in np.flatnonzero(way * (scores - aims) < 0).tolist():
        own = np.flatnonzero(rule == rule[place])
        furthest = tried[own[(way * scores[own]).argmax()]]
        found[place] = np.resize(furthest, len(tried[place]))
    return found


def _swapped(rng: np.random.Generator, places: np.ndarray, way: np.ndarray) -> np.ndarray:
    """With one word exchanged for another that is further on the `way`, [words]."""
    tried = places.copy()
    place = rng.integers(len(tried))
    further = np.flatnonzero(way > way[tried[place]])
    if len(further):
        tried[place] = rng.choice(further)
    return tried


def _aims(rule: np.ndarray, nearest: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What each sequence is to score by its rule."""
    aims = np.zeros(len(rule))
    for number, band in enumerate(nearest):
        own = np.flatnonzero(rule == number)
        near = round(NEAR * len(own))
        aims[own[:near]] = np.linspace(-band, band, near)
        aims[own[near:]] = np.linspace(low[own].min(), high[own].max(), len(own) - near)
    return aims
