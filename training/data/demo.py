"""The embedded corpus: synthetic labelled statements, for machines that have no data at hand.

It exists so that every stage can be tried anywhere, at once. It is balanced, seeded and deterministic; train,
validation, gate and test share no template, and each holds every functional class and every group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Formatter

import numpy as np

from training.data.demo_templates import FILLERS, GROUPS, HATEFUL, NOT_HATEFUL

SIZES = {"train": 4000, "validation": 600, "gate": 600, "test": 600}
TEMPLATES = {"train": slice(0, 8), "validation": slice(8, 10), "gate": slice(10, 12), "test": slice(12, 14)}
TRIES = 10_000


@dataclass(frozen=True)
class Example:
    """One text with its label (0 not-hate, 1 hate), functional class (`case`) and template."""

    text: str
    label: int
    case: str
    template: str


def corpus(seed: int = 0, sizes: Mapping[str, int] = SIZES) -> dict[str, list[Example]]:
    """All splits; half of each is hateful, and classes within a half are as equal as counts allow."""
    return {
        name: _split(name, size, np.random.default_rng([seed, position]))
        for position, (name, size) in enumerate(sizes.items())
    }


def _split(name: str, size: int, rng: np.random.Generator) -> list[Example]:
    examples: list[Example] = []
    seen: set[str] = set()
    for label, cases in enumerate((NOT_HATEFUL, HATEFUL)):
        shares = np.array_split(np.arange(size // 2), len(cases))
        for (case, templates), share in zip(cases.items(), shares, strict=True):
            chosen = templates[TEMPLATES[name]]
            for template, part in zip(chosen, np.array_split(share, len(chosen)), strict=True):
                groups = _rotation(list(GROUPS), rng)
                for _ in part:
                    text = _fill(template, next(groups), rng, seen)
                    examples.append(Example(text, label, case, template))
    return [examples[row] for row in rng.permutation(len(examples))]


def _rotation(values: list[str], rng: np.random.Generator) -> Iterator[str]:
    """All values in turn, each time in another order: no group is short of texts, in any template."""
    while True:
        yield from map(str, rng.permutation(values))


def _fill(template: str, group: str, rng: np.random.Generator, seen: set[str]) -> str:
    """A text of the template that this split does not have yet."""
    slots = [slot for _, slot, _, _ in Formatter().parse(template) if slot]
    for _ in range(TRIES):
        values = {slot: str(rng.choice(FILLERS[slot])) for slot in slots if slot in FILLERS}
        text = template.format(group=group, member=GROUPS[group], **values)
        text = text[0].upper() + text[1:]
        if text not in seen:
            seen.add(text)
            return text
    raise ValueError(f"template has too few fillings: {template}")
