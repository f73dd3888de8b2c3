"""What artifacts check themselves with: sequences of tokens that are made, nobody's texts, and their logits.

fp32 scores mixtures of tokens until some lie near every threshold and others cover the scale. Random tokens
would not do: nearly all get one label for certain, and there other kernels hardly move a score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.atomic import write_json
from common.shares import share_interval
from export.registry import REFERENCE
from export.source import Source
from handler.artifact import open_artifact
from handler.description import Description
from handler.predictor import Predictor
from handler.records import plain
from handler.self_check import FILE, SCHEMA, Made, Recorded, distances, read_made
from handler.stages import limits

SEQUENCES = 64  # of two labels: a tenth of a second for int8, and half of them near the threshold
FOR_A_LABEL, MOST = 24, 256  # of more labels
NEAR = 0.6  # of the sequences are aimed at the texts nearest a threshold, the others at the whole scale
NEAREST = 0.1  # of the validation texts
# Tokens that sequences are made of: half of them from the whole vocabulary, half from what validation texts
# say often, since a small classifier may go by a few words. What few texts say is not told.
WORDS = 512
OFTEN = 5  # texts
HALVINGS, SWAPS = 6, 6  # rounds of the search
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
        own = [place for place, special in enumerate(example.special_tokens_mask) if not special]
        first, last = (own[0], own[-1] + 1) if own else (len(example.ids), len(example.ids))
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
    left = np.ones(len(logits), bool)
    models = []
    for model, found, said in zip(
        predictor.models, of_validation, predictor.logits_of_each(sequences), strict=True
    ):
        answered = left & (True if model is predictor.models[-1] else ~model.unsure(found))
        left &= ~answered
        apart = distances(meta, found[answered] + (meta.logit_offsets or 0.0))
        width = model.stage.width if model.stage and model is not predictor.models[-1] else 0.0
        within = [points(apart[:, rule], len(logits), width) for rule in range(apart.shape[1])]
        models.append(Recorded([[round(float(each), 7) for each in row] for row in said], within))
    return Made(SCHEMA, sequences, models, list(TEXTS), predictor.tokens(TEXTS))


def write(folder: Path, made: Made) -> None:
    write_json(folder / FILE, plain(made))


def points(apart: np.ndarray, texts: int, least: float = 0.0) -> list[list[float]]:
    """Points [distance, share] below which the share of `texts` lies that are within a distance of another
    label: with 97.5 % confidence each, from the distances `apart` of those that count. None is below `least`.
    """
    ordered, ranks = np.sort(apart), []
    rank = LEAST_COUNTED
    while rank < len(ordered):
        ranks.append(rank)
        rank *= 2
    ranks += [len(ordered)] if len(ordered) else []
    found = [(float(ordered[rank - 1]), share_interval(rank, texts)[1]) for rank in ranks]
    return [[least, 0.0], *([round(max(least, at), 6), round(share, 6)] for at, share in found)]


def _of_validation(predictor: Predictor, source: Source) -> list[np.ndarray]:
    """What each stage alone says of all validation texts, float32 [texts, labels]."""
    encodings = predictor.encode(source.dataset.splits["validation"].texts)
    return [predictor.logits(encodings, [model]) for model in predictor.models]


def _sequences(predictor: Predictor, source: Source, logits: np.ndarray) -> list[list[int]]:
    """fp32's are searched; those of all other variants are the same."""
    if predictor.artifact.meta.parent is not None:
        fp32 = open_artifact(source.artifacts / REFERENCE, verify=False)
        if (made := read_made(fp32, 1, predictor.tokenizer)) is not None:
            return made.sequences
        predictor = Predictor(fp32)
    meta = predictor.artifact.meta

    def sides(sequences: Sequence[list[int]]) -> np.ndarray:
        (found,) = predictor.logits_of_each(sequences)
        return signed(meta, found)

    nearest = np.quantile(np.abs(signed(meta, logits)), NEAREST, axis=0)
    texts = predictor.tokens(source.dataset.splits["validation"].texts)
    return search(sides, Frame.of(predictor, texts), [len(ids) for ids in texts], nearest)


def signed(meta: Description, logits: np.ndarray) -> np.ndarray:
    """How far texts are on a label's side, in logits, negative without it: [texts, labels], of two labels
    that exclude each other [texts, 1]."""
    above = logits + (meta.logit_offsets or 0.0) - limits(meta)
    if meta.task == "multi-label":
        return np.asarray(above)
    if above.shape[1] == 2:
        return np.asarray(above[:, 1:] - above[:, :1])
    others = np.where(np.eye(above.shape[1], dtype=bool), -np.inf, above[:, None]).max(axis=2)
    return np.asarray(above - others)


def search(
    sides: Callable[[Sequence[list[int]]], np.ndarray],
    frame: Frame,
    lengths: Sequence[int],
    nearest: np.ndarray,
) -> list[list[int]]:
    """Sequences of token ids as long as texts of these `lengths`; the same for the same classifier.

    `sides` scores sequences, [sequences, rules]: what is aimed at are zeros, within `nearest` [rules], and
    the whole scale. Sequences of tokens that raise a score are mixed with others that lower it, by halving
    what stands between; single tokens are then exchanged.
    """
    rng, rules = np.random.default_rng(0), len(nearest)
    halves = [rng.permutation(tokens)[: WORDS // 2] for tokens in (frame.often, frame.vocabulary)]
    words = np.unique(np.concatenate(halves))
    alone = sides([frame.around(word[None]) for word in words])
    lifts = (alone - alone.mean(axis=0)) / np.maximum(alone.std(axis=0), 1e-9)
    count = SEQUENCES if rules == 1 else min(MOST, max(SEQUENCES, FOR_A_LABEL * rules))
    rule = np.arange(count) % rules
    room = len(frame.before) + len(frame.after)
    sizes = rng.permutation(np.quantile(lengths, (np.arange(count) + 0.5) / count)).astype(int)
    sizes = np.maximum(sizes - room, 1)

    def mixed(least: float, most: float) -> list[np.ndarray]:
        """One for each sequence, of tokens whose lifts are preferred more or less."""
        found = []
        for size, of, slope in zip(sizes, rule, rng.uniform(least, most, count), strict=True):
            weights = np.exp(slope * lifts[:, of] - (slope * lifts[:, of]).max())
            found.append(rng.choice(words, size, p=weights / weights.sum()))
        return found

    def scored(tokens: Sequence[np.ndarray]) -> np.ndarray:
        return sides([frame.around(each) for each in tokens])[np.arange(count), rule]

    high, low = mixed(2, 5), mixed(-3, 0)
    at_high, at_low = scored(high), scored(low)
    aims = _aims(rule, nearest, at_low, at_high)
    is_nearer = np.abs(at_high - aims) < np.abs(at_low - aims)
    best = [one if nearer else other for one, other, nearer in zip(high, low, is_nearer, strict=True)]
    reached = np.where(is_nearer, at_high, at_low)
    least, most = np.zeros(count, int), sizes.copy()
    for step in range(HALVINGS + SWAPS):
        if step < HALVINGS:
            cut = (least + most) // 2
            tried = [
                np.concatenate([one[:at], other[at:]]) for one, other, at in zip(high, low, cut, strict=True)
            ]
        else:
            tried = [each.copy() for each in best]
            for each in tried:
                each[rng.integers(len(each))] = rng.choice(words)
        found = scored(tried)
        for place in np.flatnonzero(np.abs(found - aims) < np.abs(reached - aims)):
            best[place], reached[place] = tried[place], found[place]
        if step < HALVINGS:
            least, most = np.where(found < aims, cut, least), np.where(found < aims, most, cut)
    return [frame.around(each) for each in best]


def _aims(rule: np.ndarray, nearest: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """What each sequence is to score by its rule."""
    aims = np.zeros(len(rule))
    for number, band in enumerate(nearest):
        own = np.flatnonzero(rule == number)
        near = round(NEAR * len(own))
        aims[own[:near]] = np.linspace(-band, band, near)
        aims[own[near:]] = np.linspace(low[own].min(), high[own].max(), len(own) - near)
    return aims
