"""Which of the labels is the positive one: the label to detect, in scikit-learn's sense.

Its score decides between two labels by a threshold; ranking, drift and long texts are about it. The user
names it, or it is guessed from the labels (hate, not hateful, spam, 1, no …), and the choice is always shown.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from handler.errors import UserError
from training.data.label_names import hateful, key, number

# Beginnings of words: of what people look for, and of what remains.
SOUGHT = re.compile(
    "hate|hatr|odio|toxi|offens|offend|abus|harass|insult|threat|obscen|profan|vulgar|slur|spam|scam|phish|fraud|"
    "fake|malicious|harm|danger|violen|nsfw|porn|sexis|racis|misogyn|homophob|bully|bulli|cyberbull|troll|"
    "aggress|hostil|extrem|sarcas|ironi|irony|clickbait|suicid|attack|positive"
)
ORDINARY = re.compile(
    "neutral|normal|clean|benign|safe|ham|legit|accept|appropriate|polite|civil|none|nothing|other|ordinary|"
    "negative|real|genuine"
)
WORDS = {"hof": 1, "off": 1, "pos": 1, "yes": 1, "y": 1, "true": 1, "t": 1, "unsafe": 1}
WORDS |= {"harmless": -1, "nag": -1, "neg": -1, "n": -1, "false": -1, "f": -1, "ok": -1, "okay": -1}
NEGATIONS = {"not", "non", "no", "neither", "never", "without", "isnt", "nicht", "kein", "keine", "sin"}
GLUED = re.compile(r"(?:not|non|no|un|in|im)(.+)")  # nothate, nontoxic, inoffensive
ASK = "--positive-label NAME"


@dataclass(frozen=True)
class Positive:
    """`label` is None where labels are independent, and where three or more exclude each other and none of
    them was named. `how` it was found: named, guessed from words, arbitrary, independent, or none."""

    label: str | None
    how: str

    def __str__(self) -> str:
        """For people."""
        if self.how == "independent":
            return "labels are independent: each is detected by itself"
        if self.label is None:
            return f"no positive label ({ASK} sets one)"
        told = {
            "named": "",
            "guessed": f" (guessed; {ASK} overrides it)",
            "arbitrary": f" (AN ARBITRARY GUESS: the names do not tell; set it with {ASK})",
        }
        return f"positive label: {self.label!r}{told[self.how]}"


def positive(labels: Sequence[str], named: str = "", multi_label: bool = False) -> Positive:
    """The positive label: the one that is `named`, or of two the one that words tell, or else the second.

    Raises UserError where none of the labels has that name, or labels are independent.
    """
    if multi_label:
        if named:
            raise UserError(
                "Independent labels are detected one by one, so there is no positive label",
                seen=named,
                remedy="Leave --positive-label out.",
            )
        return Positive(None, "independent")
    if named:
        return Positive(find(labels, named), "named")
    if len(labels) != 2:
        return Positive(None, "none")
    place, told = _guess(*labels)
    return Positive(labels[place], "guessed" if told else "arbitrary")


def find(labels: Sequence[str], named: str) -> str:
    """The label that is meant by a name in other case, as another number, or as yes and no of the canonical
    labels. Raises UserError where there is none."""
    if named in labels:
        return named
    alike = [label for label in labels if key(label) == key(named)]
    if not alike and (meant := hateful(named)) is not None:
        alike = [label for label in labels if hateful(label) is meant]
    if len(alike) != 1:
        remedy = f"Name one of them: {', '.join(labels)}."
        raise UserError("The positive label is none of the labels", seen=named, remedy=remedy)
    return alike[0]


def _guess(first: str, second: str) -> tuple[int, bool]:
    """The place of the positive one of two labels, and whether anything tells it."""
    numbers = [number(first), number(second)]
    if numbers[0] is not None and numbers[1] is not None:
        place = int(numbers[1] > numbers[0])
        return place, numbers[place] == 1 and numbers[1 - place] in (0, -1)
    ours, theirs = sign(first), sign(second)
    if ours != theirs:
        return int(theirs > ours), True
    plain = [re.sub(r"[\W_]+", "", str(key(name))) for name in (first, second)]
    for place in (0, 1):
        if plain[1 - place] in [word + plain[place] for word in ("not", "non", "no", "un")]:
            return place, True
    return 1, False


def sign(name: str) -> int:
    """1 for the name of something to look for, -1 for what remains ("none", "not hate", "0"), else 0."""
    if (found := number(name)) is not None:
        return -1 if found in (0, -1) else int(found == 1)
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name).replace("'", ""))
    words = re.findall(r"[^\W\d_]+", parted.casefold())
    negated = any(word in NEGATIONS for word in words)
    signs = [_sign(word) for word in words if word not in NEGATIONS]
    if negated:
        return 1 if -1 in signs and 1 not in signs else -1
    if 1 in signs:
        return 1
    return -1 if -1 in signs else 0


def _sign(word: str) -> int:
    if word in WORDS:
        return WORDS[word]
    if SOUGHT.match(word):
        return 1
    if ORDINARY.match(word):
        return -1
    glued = GLUED.fullmatch(word)
    return -_sign(glued[1]) if glued else 0
