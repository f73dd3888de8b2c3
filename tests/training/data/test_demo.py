from collections import Counter

import pytest

from training.data import demo
from training.data.demo_templates import GROUPS, HATEFUL, NOT_HATEFUL

CORPUS = demo.corpus(0)


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    assert demo.corpus(0) == CORPUS
    assert demo.corpus(1) != CORPUS


@pytest.mark.parametrize("split", CORPUS)
def test_half_of_each_split_is_hateful(split):
    assert Counter(example.label for example in CORPUS[split]) == {
        0: demo.SIZES[split] // 2,
        1: demo.SIZES[split] // 2,
    }


@pytest.mark.parametrize("split", CORPUS)
def test_every_functional_class_is_in_every_split_in_its_share(split):
    for label, cases in enumerate((NOT_HATEFUL, HATEFUL)):
        counts = Counter(example.case for example in CORPUS[split] if example.label == label)
        assert set(counts) == set(cases)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_two_texts_share_a_frame_within_a_split_or_across():
    frames = [example.frame for split in CORPUS.values() for example in split]
    assert len(set(frames)) == len(frames)
    assert len(CORPUS["gate"]) >= 1500


def test_sentences_of_training_are_in_no_frame_that_judges():
    learnt = [
        sentence
        for cases in (HATEFUL, NOT_HATEFUL)
        for own in cases.values()
        for sentence in own[demo.TO_LEARN]
    ]
    ends = {sentence[1:] for sentence in learnt if "trait" not in sentence and "virtue" not in sentence}
    for split in ("validation", "gate", "test"):
        assert not [example.frame for example in CORPUS[split] if any(end in example.frame for end in ends)]


def test_no_text_comes_twice():
    texts = [example.text for split in CORPUS.values() for example in split]
    assert len(set(texts)) == len(texts)


def test_no_slot_is_left_open_and_every_text_starts_upright():
    texts = [example.text for split in CORPUS.values() for example in split]
    assert not [text for text in texts if "{" in text or "}" in text or text[0].islower()]


@pytest.mark.parametrize("label", [0, 1])
def test_within_a_label_all_groups_come_about_equally_often(label):
    counts = Counter(
        group
        for example in CORPUS["train"]
        if example.label == label
        for group, member in GROUPS.items()
        if group.lower() in example.text.lower() or member.lower() in example.text.lower()
    )
    assert set(counts) == set(GROUPS)
    assert min(counts.values()) > 0.7 * max(counts.values())


def test_each_class_has_its_full_number_of_templates():
    assert {len(templates) for templates in (HATEFUL | NOT_HATEFUL).values()} == {14}
    every = [template for templates in (HATEFUL | NOT_HATEFUL).values() for template in templates]
    assert len(set(every)) == len(every)
