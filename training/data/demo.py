"""The embedded corpus: synthetic labelled statements, for machines that have no data at hand.

It exists so that every stage can be tried anywhere, at once. It is balanced, seeded and deterministic, and
each split holds every functional class and every group.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np

from training.data.demo_templates import CLOSERS, DEGREES, FILLERS, GROUPS, HATEFUL, NOT_HATEFUL, OPENERS

# A text is a frame whose slots are filled. A frame is drawn from a grammar: an opening, a sentence of the
# text's functional class, how strongly its adjective is meant, and a closing. No two texts of the corpus have
# the same frame, so that each is evidence of its own. The parts of frames recur, but for the sentences, of
# which training has some and the splits that judge have the others.

SIZES = {"train": 4000, "validation": 600, "gate": 1500, "test": 600}
TO_LEARN, TO_JUDGE = slice(0, 8), slice(8, 14)
TRIES = 10_000
ADJECTIVE = re.compile(r"\b(are|is|was|were|be) (?=\{(?:trait|virtue)\})")


@dataclass(frozen=True)
class Example:
    """One text with its label (0 not-hate, 1 hate), functional class (`case`) and frame."""

    text: str
    label: int
    case: str
    frame: str


def corpus(seed: int = 0, sizes: Mapping[str, int] = SIZES) -> dict[str, list[Example]]:
    """All splits; half of each is hateful, and classes within a half are as equal as counts allow."""
    frames: set[str] = set()
    return {
        name: _split(
            TO_LEARN if name == "train" else TO_JUDGE, size, np.random.default_rng([seed, position]), frames
        )
        for position, (name, size) in enumerate(sizes.items())
    }


def _split(sentences: slice, size: int, rng: np.random.Generator, frames: set[str]) -> list[Example]:
    examples: list[Example] = []
    seen: set[str] = set()
    for label, cases in enumerate((NOT_HATEFUL, HATEFUL)):
        shares = np.array_split(np.arange(size // 2), len(cases))
        for (case, templates), share in zip(cases.items(), shares, strict=True):
            groups = _rotation(list(GROUPS), rng)
            for _ in share:
                frame = _frame(templates[sentences], rng, frames)
                examples.append(Example(_fill(frame, next(groups), rng, seen), label, case, frame))
    return [examples[row] for row in rng.permutation(len(examples))]


def _frame(sentences: Sequence[str], rng: np.random.Generator, frames: set[str]) -> str:
    """A frame that no text has yet."""
    for _ in range(TRIES):
        opener, sentence, closer = (str(rng.choice(parts)) for parts in (OPENERS, sentences, CLOSERS))
        sentence = ADJECTIVE.sub(lambda verb: f"{verb[0]}{rng.choice(DEGREES)}", sentence)
        if opener and not re.match("(I|God)\\b", sentence):
            sentence = sentence[0].lower() + sentence[1:]
        frame = opener + sentence + closer
        if frame not in frames:
            frames.add(frame)
            return frame
    raise ValueError(f"the grammar has too few frames: {sentences[0]}")


def _rotation(values: list[str], rng: np.random.Generator) -> Iterator[str]:
    """All values in turn, each time in another order: no group is short of texts, in any class."""
    while True:
        yield from map(str, rng.permutation(values))


def _fill(frame: str, group: str, rng: np.random.Generator, seen: set[str]) -> str:
    """A text of the frame that this split does not have yet."""
    slots = [slot for _, slot, _, _ in Formatter().parse(frame) if slot]
    for _ in range(TRIES):
        values = {slot: str(rng.choice(FILLERS[slot])) for slot in slots if slot in FILLERS}
        text = frame.format(group=group, member=GROUPS[group], **values)
        text = text[0].upper() + text[1:]
        if text not in seen:
            seen.add(text)
            return text
    raise ValueError(f"frame has too few fillings: {frame}")
