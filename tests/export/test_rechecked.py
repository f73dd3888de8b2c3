import numpy as np

from export.variants.recheck import rule


def test_the_width_holds_every_label_that_the_second_model_rights_and_no_more() -> None:
    margin = np.array([0.1, 0.5, 0.3, 0.9, 0.05])
    turned = np.array([True, False, True, True, False])
    found = rule(margin, turned, np.array([True, True, True, False, True]))
    assert found["width"] == 0.3
    assert found["asked_again"] == 3
    assert found["labels_turned_by_int8"] == 3


def test_where_nothing_turns_nothing_is_asked_again() -> None:
    found = rule(np.array([0.1, 0.2]), np.zeros(2, bool), np.ones(2, bool))
    assert (found["width"], found["asked_again"]) == (0.0, 0)


def test_the_promised_share_beyond_the_width_is_kept() -> None:
    """Of 2,000 rules from 600 texts each, as many as promised leave a larger share of all texts turned."""
    rng, broken = np.random.default_rng(0), 0
    for _ in range(2000):
        margin = rng.exponential(size=600)
        turned = rng.random(600) < 0.05 * np.exp(-margin)
        found = rule(margin, turned, np.ones(600, bool))
        beyond = 0.05 / 2 * np.exp(-2 * found["width"])  # of the population: turned, and beyond the width
        broken += beyond > found["turned_beyond_at_most"]
    assert broken / 2000 <= 0.035
