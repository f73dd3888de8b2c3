"""Parity on scores whose figures can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.records import Parity, plain
from benchmarks.sameness.parity import brier_drop, flipped, flipped_ways, parity
from benchmarks.samples import by_length
from common.flips import one_way
from common.records import read
from handler.artifact import Artifact
from tests.descriptions import changed, description
from training.data.splits import Split
from training.measures.metrics import evaluate
from training.measures.outcomes import drop_of_counts
from training.measures.statistics import indicators

LABELS = ["not-hate", "hate"]
REFERENCE = Artifact(Path(), description(labels=LABELS))
TOKENS = {"gate": np.array([5, 16, 17, 600])}


def scores(*of_hate: float) -> dict[str, np.ndarray]:
    return {"gate": np.array([[1 - score, score] for score in of_hate])}


@pytest.fixture
def labelled() -> dict[str, Split]:
    return {"gate": Split(["a", "b", "c", "d"], np.array([1, 0, 1, 0]))}


def test_parity_counts_agreement_flips_and_the_drop(labelled) -> None:
    theirs, ours = scores(0.9, 0.2, 0.8, 0.1), scores(0.4, 0.2, 0.8, 0.6)
    found = parity(REFERENCE, ours, REFERENCE, theirs, labelled, TOKENS)["gate"]
    assert found.label_agreement == 0.5
    assert found.flips == {"not-hate -> hate": 1, "hate -> not-hate": 1}
    assert found.flip_rates["any"].n == 2
    assert found.flip_rates["any"].rate == 0.5
    assert found.flip_rates["hate -> not-hate"].low < 0.25 < found.flip_rates["hate -> not-hate"].high
    assert found.max_prob_diff == pytest.approx(0.5)
    assert found.macro_f1_drop.drop == pytest.approx(0.5)
    assert found.macro_f1_drop.low <= 0.5 <= found.macro_f1_drop.high
    assert found.auroc_drop.drop == pytest.approx(1 - 0.75)


def test_lengths_are_sliced_with_both_figures(labelled) -> None:
    theirs, ours = scores(0.9, 0.2, 0.8, 0.1), scores(0.4, 0.2, 0.8, 0.6)
    found = parity(REFERENCE, ours, REFERENCE, theirs, labelled, TOKENS)["gate"].slices
    assert [(length_bin.up_to, length_bin.n, length_bin.label_agreement) for length_bin in found] == [
        (16, 2, 0.5),
        (32, 1, 1),
        (600, 1, 0),
    ]
    assert found[0].reference_macro_f1 == 1
    assert found[0].macro_f1 == pytest.approx(1 / 3)


def test_the_reference_is_itself_and_a_copy_is_as_far_as_four_texts_can_tell(labelled) -> None:
    given = scores(0.9, 0.2, 0.8, 0.1)
    found = parity(REFERENCE, given, REFERENCE, given, labelled, TOKENS, is_reference=True)["gate"]
    assert found.label_agreement == 1
    assert found.macro_f1_drop.low == found.macro_f1_drop.high == 0
    copy = parity(REFERENCE, given, REFERENCE, given, labelled, TOKENS)["gate"]
    assert copy.macro_f1_drop.drop == 0
    assert copy.macro_f1_drop.high > 0.2, "of a copy, four texts cannot tell"


def test_texts_without_labels_give_agreement_and_flips_alone() -> None:
    theirs, ours = scores(0.9, 0.2, 0.8, 0.1), scores(0.4, 0.2, 0.8, 0.1)
    found = parity(REFERENCE, ours, REFERENCE, theirs, {}, TOKENS)["gate"]
    assert found.macro_f1_drop is None
    assert found.flips["hate -> not-hate"] == 1
    assert found.unlabelled_flips == 1
    assert found.slices[0].macro_f1 is None
    assert flipped(REFERENCE, ours, REFERENCE, theirs, {}, TOKENS)[0].truth is None


def test_flipped_texts_are_told_by_number_and_the_farthest_first(labelled) -> None:
    theirs, ours = scores(0.6, 0.2, 0.9, 0.1), scores(0.4, 0.2, 0.1, 0.1)
    found = flipped(REFERENCE, ours, REFERENCE, theirs, labelled, TOKENS)
    assert [(flip.row, flip.tokens, flip.before, flip.after) for flip in found] == [
        (2, 17, "hate", "not-hate"),
        (0, 5, "hate", "not-hate"),
    ]
    assert found[0].truth == "hate"
    assert not {"text", "texts"} & plain(found[0]).keys()


def test_flips_of_three_labels_name_every_direction() -> None:
    ways = flipped_ways(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 0]), ["a", "b", "c"])
    found = {way: texts.sum() for way, texts in ways.items()}
    assert found["b -> c"] == 1
    assert found["c -> a"] == 1
    assert sum(found.values()) == 2
    assert len(found) == 6


def test_of_three_labels_rankings_are_those_of_each_against_the_rest() -> None:
    three = Artifact(Path(), description(labels=["a", "b", "c"], thresholds={}, positive_label=None))
    before = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7], [0.7, 0.2, 0.1]])
    after = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.5, 0.3, 0.2], [0.7, 0.2, 0.1]])
    truth = np.array([0, 1, 2, 0])
    split = {"gate": Split(["a", "b", "c", "d"], truth)}
    found = parity(three, {"gate": after}, three, {"gate": before}, split, TOKENS)["gate"]
    means = [evaluate(scores, truth, {}, three.labels) for scores in (before, after)]
    assert found.auroc_drop.drop == pytest.approx(means[0].auroc - means[1].auroc) == pytest.approx(1 / 9)
    drop = found.average_precision_drop.drop
    assert drop == pytest.approx(means[0].average_precision - means[1].average_precision)
    assert found.auroc_drop.low <= found.auroc_drop.drop <= found.auroc_drop.high


INDEPENDENT = Artifact(
    Path(),
    description(task="multi-label", labels=["insult", "threat"], thresholds={"insult": 0.5, "threat": 0.6}),
)
TRUTH = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
BEFORE = {"gate": np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.3], [0.1, 0.9]])}
AFTER = {"gate": np.array([[0.9, 0.1], [0.4, 0.5], [0.2, 0.7], [0.1, 0.9]])}


def test_of_independent_labels_a_text_flips_where_any_of_them_does() -> None:
    labelled = {"gate": Split(["a", "b", "c", "d"], TRUTH)}
    found = parity(INDEPENDENT, AFTER, INDEPENDENT, BEFORE, labelled, TOKENS)["gate"]
    assert found.label_agreement == 0.5
    assert found.flips == {
        "insult -> no insult": 1,
        "no insult -> insult": 0,
        "threat -> no threat": 1,
        "no threat -> threat": 1,
    }
    assert found.flip_rates["any"].n == 2
    assert found.kinds == {"70": 1, "66": 1, "01": 1, "07": 1}
    assert found.macro_f1_drop.drop == pytest.approx(1 - (2 / 3 + 1 / 2) / 2)
    assert found.auroc_drop.drop == pytest.approx((0 + 0.25) / 2)
    assert found.unlabelled_flips is None
    unlabelled = parity(INDEPENDENT, AFTER, INDEPENDENT, BEFORE, {}, TOKENS)["gate"]
    assert unlabelled.unlabelled_flips == 2, "in the label where they are the most"


def test_flips_of_random_weights_prove_nothing() -> None:
    random = changed(REFERENCE, training=vars(REFERENCE.meta.training) | {"trained": False})
    ours = scores(0.4, 0.2, 0.8, 0.1)
    assert parity(random, ours, random, ours, {}, TOKENS)["gate"].unlabelled_flips is None


def test_flipped_texts_of_independent_labels_name_all_that_they_have() -> None:
    labelled = {"gate": Split(["a", "b", "c", "d"], TRUTH)}
    found = flipped(INDEPENDENT, AFTER, INDEPENDENT, BEFORE, labelled, TOKENS)
    assert [(flip.before, flip.after, flip.truth) for flip in found] == [
        ("insult, threat", "(none)", "insult, threat"),
        ("(none)", "threat", "(none)"),
    ]
    assert (found[0].score_before, found[0].score_after) == (0.8, 0.4)


def test_every_text_is_in_one_bin_of_lengths() -> None:
    tokens = np.array([1, 16, 17, 33, 512, 513, 2000])
    rows = by_length(tokens)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(7))
    assert {end: tokens[found].max() for end, found in rows.items()} == {
        16: 16,
        32: 17,
        48: 33,
        512: 512,
        2000: 2000,
    }


def test_flips_that_go_one_way_are_seen_where_macro_f1_sees_nothing() -> None:
    """As of the published openvino-int8, whose macro-F1 was as good as fp32's."""
    found = one_way({"hate -> not-hate": 18, "not-hate -> hate": 1})
    assert (found.way, found.there, found.back) == ("hate -> not-hate", 18, 1)
    assert found.p == pytest.approx(7.6e-5, rel=0.01)


def test_flips_both_ways_are_chance_and_none_are_nothing() -> None:
    assert one_way({"hate -> not-hate": 5, "not-hate -> hate": 4}).p > 0.9
    assert one_way({"hate -> not-hate": 0, "not-hate -> hate": 0}) is None


def test_with_more_labels_more_pairs_can_be_uneven_by_chance() -> None:
    labels = ("a", "b", "c")
    counts = {f"{before} -> {after}": 0 for before in labels for after in labels if before != after}
    two, three = one_way({"a -> b": 6, "b -> a": 0}), one_way(counts | {"a -> b": 6})
    assert three.p == pytest.approx(3 * two.p)


def test_scores_that_are_worse_show_a_brier_score_that_is_worse_beyond_chance() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 2000)
    good = np.where(truth == 1, 0.8, 0.2) + rng.normal(0, 0.05, 2000)
    theirs = np.stack([1 - good, good], axis=1)
    worse = brier_drop(truth, theirs, theirs * 0.8 + 0.1)
    assert worse.high < 0
    same = brier_drop(truth, theirs, theirs + rng.normal(0, 0.001, (2000, 2)))
    assert same.low < 0 < same.high
    assert brier_drop(truth, theirs, theirs).drop == 0


@pytest.mark.parametrize("independent", [False, True])
def test_what_a_report_holds_of_groups_gives_the_drop_again_and_no_text(independent: bool) -> None:
    rng, size, labels = np.random.default_rng(0), 6, 2
    groups = np.repeat(np.arange(50), size).astype(np.uint64)
    truth = rng.integers(0, 2, (len(groups), 2)) if independent else rng.integers(0, 2, len(groups))
    theirs = np.where(indicators(truth, 2), 0.7, 0.3) + rng.uniform(-0.25, 0.25, (len(groups), 2))
    ours = np.where((groups < 4)[:, None], 1 - theirs, theirs)
    kind = {"task": "multi-label", "thresholds": dict.fromkeys(LABELS, 0.5)} if independent else {}
    artifact = Artifact(Path(), description(labels=LABELS, **kind))
    texts = [f"text {row}" for row in range(len(groups))]
    found = {
        name: parity(
            artifact,
            {"gate": ours},
            artifact,
            {"gate": theirs},
            {"gate": Split(texts, truth, groups=given)},
            {"gate": np.full(len(groups), 5)},
        )["gate"]
        for name, given in (("by text", None), ("by group", groups))
    }
    by_text, by_group = found["by text"], read(plain(found["by group"]), Parity)
    assert by_text.flips == by_group.flips
    assert by_group.texts == "300 gate texts in 50 groups"
    assert sum(alike.groups for alike in by_group.groups) == 50
    again = drop_of_counts(by_group, labels)
    assert [again.low, again.high] == pytest.approx(
        [by_group.macro_f1_drop.low, by_group.macro_f1_drop.high], rel=1e-4
    )
    for name in ("macro_f1_drop", "auroc_drop", "brier_drop"):
        one, other = (getattr(each, name) for each in (by_text, by_group))
        assert one.drop == pytest.approx(other.drop, rel=1e-4)
        assert other.high - other.low > 1.2 * (one.high - one.low), name
    assert by_group.flip_rates["any"].high > 1.3 * by_text.flip_rates["any"].high
    assert by_group.macro_f1_drop.mcnemar_p >= 2 / 2**4, "four groups differ, not fifty texts"


def test_of_flips_in_groups_groups_are_counted() -> None:
    counts = {"hate -> not-hate": 12, "not-hate -> hate": 0}
    assert one_way(counts).p < 0.001
    assert one_way(counts, {"hate -> not-hate": 2, "not-hate -> hate": 0}).p == 0.5
