"""Ways to rewrite a text that keep its meaning, and therefore its label.

Each is one function under `@perturbation`, which says what it does and why the meaning stays the same. Most
change a quarter of the words of four or more letters (at least one), picked at random and not by offence, so
they model typos and habits rather than a worst case.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.measures.functional import LEET

# Handles, links, character entities and emoticons are left alone by all that do not replace them.

SHARE = 0.25
LINK = re.compile(r"(?:https?://|www\.)\S+")
HANDLE = re.compile(r"(?<!\w)@\w+")
LEFT_ALONE = re.compile(rf"{LINK.pattern}|{HANDLE.pattern}|&#?\w+;|(?<!\w)[:;=]-?[()DPp/]+(?!\w)")
WORD = re.compile(r"[^\W\d_]{4,}")
MARKS = r".,;:!?\"'()\[\]…“”‘’–—-"
LOOSE_MARKS = re.compile(rf"(?<![\w{MARKS}])[{MARKS}]+|[{MARKS}]+(?![\w{MARKS}])")
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
LOOKALIKES = str.maketrans("aceiopxyABCEHKMOPTX", "асеіорхуАВСЕНКМОРТХ")  # Latin to Cyrillic
EMOJI = ("📌", "📎", "🕒", "📍", "🗂")  # of things: none takes a side
GAPS = ("  ", "\t", "\n", " \n ", "   ")


@dataclass(frozen=True)
class Perturbation:
    """`change(text, rng)` is the changed text, or the text itself if there is nothing to change; `keeps` says
    why its label stays."""

    name: str
    does: str
    keeps: str
    change: Callable[[str, random.Random], str]


PERTURBATIONS: dict[str, Perturbation] = {}

Change = Callable[[str, random.Random], str]


def perturbation(name: str, does: str, keeps: str) -> Callable[[Change], Change]:
    """Register a perturbation."""

    def register(change: Change) -> Change:
        PERTURBATIONS[name] = Perturbation(name, does, keeps, change)
        return change

    return register


def perturb(name: str, texts: Sequence[str], seed: int = 0) -> list[str]:
    """The changed texts. Each has its own generator: its change depends only on the text and `seed`."""
    change = PERTURBATIONS[name].change
    return [change(text, random.Random(f"{seed} {name} {text}")) for text in texts]


@perturbation(
    "letters swapped", "two neighbouring inner letters are swapped", "a typo that readers skip over"
)
def swap_letters(text: str, rng: random.Random) -> str:
    def change(word: str) -> str:
        place = rng.randrange(1, len(word) - 2)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return _some_words(text, rng, change)


@perturbation("letter missing", "an inner letter is left out", "a typo that readers skip over")
def drop_letter(text: str, rng: random.Random) -> str:
    def change(word: str) -> str:
        place = rng.randrange(1, len(word) - 1)
        return word[:place] + word[place + 1 :]

    return _some_words(text, rng, change)


@perturbation("letter doubled", "an inner letter is doubled", "a typo or a drawl: the word is the same")
def double_letter(text: str, rng: random.Random) -> str:
    def change(word: str) -> str:
        place = rng.randrange(1, len(word) - 1)
        return word[: place + 1] + word[place:]

    return _some_words(text, rng, change)


@perturbation("neighbouring key", "an inner letter is replaced by one next to it on the keyboard", "a typo")
def neighbouring_key(text: str, rng: random.Random) -> str:
    def change(word: str) -> str:
        place = rng.randrange(1, len(word) - 1)
        return word[:place] + _neighbour(word[place], rng) + word[place + 1 :]

    return _some_words(text, rng, change)


@perturbation("leetspeak", "4, 3, 1, 0 and 5 replace a, e, i, o and s", "the digits look like the letters")
def write_leet(text: str, rng: random.Random) -> str:
    return _some_words(text, rng, lambda word: word.translate(LEET))


@perturbation("upper case", "the whole text in capitals", "the same words, only louder")
def upper_case(text: str, rng: random.Random) -> str:
    return _outside(text, str.upper)


@perturbation("lower case", "the whole text in small letters", "the same words")
def lower_case(text: str, rng: random.Random) -> str:
    return _outside(text, str.lower)


@perturbation("letters spaced", "a space between all letters of the words", "the words can still be read")
def part_by_spaces(text: str, rng: random.Random) -> str:
    return _some_words(text, rng, " ".join)


@perturbation("letters dotted", "a dot between all letters of the words", "the words can still be read")
def part_by_dots(text: str, rng: random.Random) -> str:
    return _some_words(text, rng, ".".join)


@perturbation(
    "zero-width spaces", "an invisible U+200B between all letters of the words", "readers see no difference"
)
def part_invisibly(text: str, rng: random.Random) -> str:
    return _some_words(text, rng, "\u200b".join)


@perturbation("homoglyphs", "Cyrillic letters that look like the Latin ones", "the word looks the same")
def use_lookalikes(text: str, rng: random.Random) -> str:
    return _some_words(text, rng, lambda word: word.translate(LOOKALIKES))


@perturbation("emoji added", "an emoji of an object at the end", "a pin or a clock is neutral")
def add_emoji(text: str, rng: random.Random) -> str:
    return f"{text} {rng.choice(EMOJI)}"


@perturbation("punctuation dropped", "punctuation at the edges of words is removed", "the words stay")
def drop_marks(text: str, rng: random.Random) -> str:
    return _outside(text, lambda passage: LOOSE_MARKS.sub("", passage))


@perturbation("handles replaced", "every @name is replaced by another", "the person is unknown either way")
def replace_handles(text: str, rng: random.Random) -> str:
    return HANDLE.sub(lambda _: f"@reader_{rng.randrange(10, 1000)}", text)


@perturbation("links replaced", "every address is replaced by another", "the model never reads the page")
def replace_links(text: str, rng: random.Random) -> str:
    return LINK.sub(lambda _: f"https://example.org/{rng.randrange(10**6, 10**7)}", text)


@perturbation("white space", "wider gaps, tabs and line breaks, also at both ends", "the same words")
def stretch_gaps(text: str, rng: random.Random) -> str:
    return "  " + re.sub(r"\s+", lambda _: rng.choice(GAPS), text) + " \n"


def _some_words(text: str, rng: random.Random, change: Callable[[str], str]) -> str:
    """Change a quarter of the text's words, at least one."""
    guarded = [found.span() for found in LEFT_ALONE.finditer(text)]
    words = [
        found.span()
        for found in WORD.finditer(text)
        if not any(start < found.end() and found.start() < end for start, end in guarded)
    ]
    if not words:
        return text
    picked = rng.sample(words, max(1, round(SHARE * len(words))))
    for start, end in sorted(picked, reverse=True):
        text = text[:start] + change(text[start:end]) + text[end:]
    return text


def _outside(text: str, change: Callable[[str], str]) -> str:
    """Change all but handles, links, entities and emoticons."""
    pieces = []
    last = 0
    for found in LEFT_ALONE.finditer(text):
        pieces += [change(text[last : found.start()]), found[0]]
        last = found.end()
    return "".join([*pieces, change(text[last:])])


def _neighbour(letter: str, rng: random.Random) -> str:
    """A letter beside it in its row of a QWERTY keyboard; itself where it is on none."""
    for row in KEYS:
        place = row.find(letter.lower())
        if place >= 0:
            other = rng.choice(row[max(0, place - 1) : place] + row[place + 1 : place + 2])
            return other.upper() if letter.isupper() else other
    return letter
