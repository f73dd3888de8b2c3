import random
import re
import unicodedata

import pytest

from training.data import demo
from training.evaluation.perturbations import LOOKALIKES, PERTURBATIONS, perturb

TEXTS = [example.text for example in demo.corpus(sizes={"train": 60})["train"]]
SENTENCE = (
    "Tell @someone that I'm reading the long-winded report: https://a.example/Long-Path?x=1 &amp; more :)"
)
LETTERS = ("letters swapped", "letter missing", "letter doubled", "neighbouring key")
UNDONE = {
    "letters spaced": lambda text: text.replace(" ", ""),
    "letters dotted": lambda text: text.replace(".", ""),
    "zero-width spaces": lambda text: text.replace("\u200b", ""),
    "upper case": str.lower,
    "lower case": str.lower,
    "leetspeak": lambda text: text.lower().translate(str.maketrans("43105", "aeios")),
    "homoglyphs": lambda text: text.translate({there: here for here, there in LOOKALIKES.items()}),
    "punctuation dropped": lambda text: re.sub(r"[^\w]", "", text),
    "white space": lambda text: "".join(text.split()),
    "emoji added": lambda text: "".join(
        character for character in text if unicodedata.category(character) != "So"
    ).rstrip(),
}


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_same_seed_gives_the_same_texts_whatever_else_there_is(name):
    assert perturb(name, TEXTS, 3) == perturb(name, TEXTS[:20], 3) + perturb(name, TEXTS[20:], 3)


def test_another_seed_picks_other_words():
    assert perturb("leetspeak", TEXTS, 0) != perturb("leetspeak", TEXTS, 1)


@pytest.mark.parametrize("name", UNDONE)
def test_nothing_is_lost_that_could_not_be_read_back(name):
    undo = UNDONE[name]
    for before, after in zip(TEXTS, perturb(name, TEXTS), strict=True):
        assert undo(after) == undo(before)


@pytest.mark.parametrize("name", LETTERS)
def test_a_slip_touches_one_inner_letter_of_a_quarter_of_the_words(name):
    for before, after in zip(TEXTS, perturb(name, TEXTS), strict=True):
        old, new = before.split(), after.split()
        pairs = [(before, other) for before, other in zip(old, new, strict=True) if before != other]
        assert len(pairs) <= max(1, round(len(re.findall(r"[^\W\d_]{4,}", before)) / 4))
        for one, other in pairs:
            assert (one[0], one[-1]) == (other[0], other[-1]) or not one[-1].isalpha()
            assert abs(len(one) - len(other)) <= 1


@pytest.mark.parametrize("name", sorted(PERTURBATIONS.keys() - {"handles replaced", "links replaced"}))
def test_handles_links_entities_and_emoticons_are_left_alone(name):
    for seed in range(20):
        changed = perturb(name, [SENTENCE], seed)[0]
        for part in ("@someone", "https://a.example/Long-Path?x=1", "&amp;", ":)"):
            assert part in changed


def test_handles_and_links_are_replaced_by_others():
    assert re.search(r"Tell @reader_\d+ that", perturb("handles replaced", [SENTENCE])[0])
    assert re.search(r"report: https://example\.org/\d+ &amp;", perturb("links replaced", [SENTENCE])[0])
    assert perturb("handles replaced", ["mail me@home.example"]) == ["mail me@home.example"]


def test_marks_within_a_word_stay():
    assert perturb("punctuation dropped", ["Well, don't (ever) say f**k at 3.5!"]) == [
        "Well don't ever say f**k at 3.5"
    ]


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("text", ["", "a", "ok", "!!!", "日本語", "é" * 9, "\ufffd", "ǅabc ßtraße"])
def test_any_text_can_be_written_differently(name, text):
    assert isinstance(PERTURBATIONS[name].change(text, random.Random(0)), str)


def test_every_one_says_what_it_does_and_why_the_label_stays():
    assert all(perturbation.does and perturbation.keeps for perturbation in PERTURBATIONS.values())
    assert len({perturbation.does for perturbation in PERTURBATIONS.values()}) == len(PERTURBATIONS)
