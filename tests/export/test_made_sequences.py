"""The sequences that artifacts check themselves with: near every threshold, over the scale, repeatable."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from export.self_check import NEAREST, Frame, points, search, signed
from handler.bands import decisions
from handler.description import Bands
from handler.predictor import Predictor
from handler.records import plain
from handler.self_check import FILE, read_made
from tests.descriptions import description as described
from tests.handler.test_stages import LABELS, labels_of, meta


@pytest.fixture(scope="module")
def fp32(build_once) -> Predictor:
    return Predictor(build_once("fp32"), 1)


def validation(predictor: Predictor, source) -> np.ndarray:
    return predictor.logits(predictor.encode(source.dataset.splits["validation"].texts))


def test_sequences_surround_the_threshold_and_cover_the_scale(fp32: Predictor, source) -> None:
    made = read_made(fp32.artifact, 1, fp32.tokenizer)
    meta_ = fp32.artifact.meta
    found = signed(meta_, np.array(made.models[0].logits))[:, 0]
    of_texts = signed(meta_, validation(fp32, source))[:, 0]
    band = np.quantile(np.abs(of_texts), NEAREST)
    near = found[np.abs(found) <= 2 * band]
    assert len(near) >= len(found) / 2
    assert (near > 0).sum() >= 10 <= (near < 0).sum()
    low, high = np.quantile(of_texts, (0.25, 0.75))
    assert found.min() < 0.9 * low < 0 < 0.9 * high < found.max(), "the quartiles, or nearly"


def test_all_variants_have_the_same_sequences(build_once) -> None:
    contents = [
        json.loads((build_once(name).folder / FILE).read_text())
        for name in ("fp32", "openvino-int8", "openvino-int8-rechecked")
    ]
    assert contents[0]["sequences"] == contents[1]["sequences"] == contents[2]["sequences"]
    assert [len(content["models"]) for content in contents] == [1, 1, 2]
    assert not (build_once("openvino-int8-rechecked").folder / "int8" / FILE).exists()


def bag(rules: int):
    """A classifier that adds what its tokens weigh by each rule, most of them little, and below zero."""
    weights = np.random.default_rng(5).normal(-0.4, 1.0, (1000, rules)) ** 3 / 5

    def sides(sequences) -> np.ndarray:
        return np.array([weights[sequence].mean(axis=0) * 5 - 1 for sequence in sequences])

    return sides


FRAME = Frame([1], [2], np.arange(5, 1000), np.arange(5, 50))


@pytest.mark.parametrize("rules", [1, 3, 6])
def test_every_threshold_of_several_labels_is_surrounded(rules: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    found = search(bag(rules), FRAME, lengths, np.full(rules, 0.2))
    assert len(found) == {1: 64, 3: 72, 6: 144}[rules]
    assert all(ids[0] == 1 and ids[-1] == 2 and len(ids) <= max(lengths) for ids in found)
    sides = bag(rules)(found)
    for rule in range(rules):
        near = sides[np.abs(sides[:, rule]) < 0.3, rule]
        assert (near > 0).sum() >= 3 <= (near < 0).sum(), rule


def test_random_sequences_would_miss_the_threshold() -> None:
    """Which is why they are searched."""
    words = np.random.default_rng(0).choice(FRAME.vocabulary, (64, 20))
    found = search(bag(1), FRAME, [20], np.full(1, 0.2))
    random, made = (np.abs(bag(1)(sequences)) for sequences in (words, found))
    assert np.median(random) > 3 * np.median(made)


def test_words_that_few_texts_say_are_not_told_more_than_others(fp32: Predictor) -> None:
    rare, usual, third = fp32.tokenizer.encode("soup river house", add_special_tokens=False).ids
    frame = Frame.of(fp32, [[rare, usual]] * 2 + [[usual, third, third]] * 3)
    assert frame.often.tolist() == [usual]
    assert {rare, usual, third} <= set(frame.vocabulary.tolist())
    assert not {*frame.before, *frame.after} & set(frame.vocabulary.tolist())
    assert frame.around(np.array([usual])) == fp32.tokens(["river"])[0]


def test_the_search_gives_the_same_again() -> None:
    given = (bag(2), FRAME, [10, 20, 30], np.full(2, 0.2))
    assert search(*given) == search(*given)


@pytest.mark.parametrize("kind", LABELS)
def test_a_text_is_on_a_labels_side_exactly_where_it_is_given(kind: str) -> None:
    description = meta(kind)
    logits = np.random.default_rng(0).normal(size=(200, len(description.labels))) * 2
    given, sides = labels_of(description, logits), signed(description, logits)
    if kind == "independent":
        np.testing.assert_array_equal(sides >= 0, given == 1)
    elif sides.shape[1] == 1:
        np.testing.assert_array_equal(sides[:, 0] >= 0, given == 1)
    else:
        np.testing.assert_array_equal(sides.argmax(axis=1), given)
        np.testing.assert_array_equal((sides > 0).sum(axis=1), 1)


@pytest.mark.parametrize("labels", [["no", "yes"], ["a", "yes", "b"]])
def test_a_text_is_above_the_end_of_a_band_exactly_where_it_is_decided_so(labels: list[str]) -> None:
    thresholds = {"yes": 0.3} if len(labels) == 2 else {}
    bands = Bands(0.8, 0.4, 0.95, "validation", 100, [])
    known = described(
        labels=labels, thresholds=thresholds, positive_label="yes", temperature=1.5, bands=plain(bands)
    )
    logits = np.random.default_rng(0).normal(size=(200, len(labels))) * 2
    scores = softmax(logits / 1.5, axis=1)
    acts, reviews = signed(known, logits)[:, -2:].T >= 0
    expected = decisions(scores, labels.index("yes"), bands)
    np.testing.assert_array_equal(acts.astype(int) + reviews, expected)
    assert {*expected.tolist()} == {0, 1, 2}


def test_points_hold_more_than_the_texts_that_were_counted() -> None:
    apart = np.linspace(0, 10, 1000)
    found = points(apart, 1000)
    assert found[0] == [0.0, 0.0]
    for distance, share in found[1:]:
        assert share >= (apart <= distance).mean()
    assert found[-1] == [10.0, 1.0]
    assert points(np.array([]), 1000) == [[0.0, 0.0]]
