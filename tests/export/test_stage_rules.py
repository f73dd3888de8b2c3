import numpy as np
import pytest
from scipy.special import expit, softmax

from export.variants.stages import cascade_rule, fit_scale, recheck_rule
from handler.artifact import Artifact
from tests.handler.test_stages import meta


def test_the_width_holds_every_label_that_the_second_model_rights_and_no_more() -> None:
    margin = np.array([0.1, 0.5, 0.3, 0.9, 0.05])
    turned = np.array([True, False, True, True, False])
    found = recheck_rule(margin, turned, np.array([True, True, True, False, True]))
    assert found["width"] == 0.3
    assert found["asked_again"] == 3
    assert found["labels_turned_by_int8"] == 3


def test_where_nothing_turns_nothing_is_asked_again() -> None:
    found = recheck_rule(np.array([0.1, 0.2]), np.zeros(2, bool), np.ones(2, bool))
    assert (found["width"], found["asked_again"]) == (0.0, 0)


def test_the_promised_share_beyond_the_width_is_kept() -> None:
    """Of 2,000 rules from 600 texts each, as many as promised leave a larger share of all texts turned."""
    rng, broken = np.random.default_rng(0), 0
    for _ in range(2000):
        margin = rng.exponential(size=600)
        turned = rng.random(600) < 0.05 * np.exp(-margin)
        found = recheck_rule(margin, turned, np.ones(600, bool))
        beyond = 0.05 / 2 * np.exp(-2 * found["width"])  # of the population: turned, and beyond the width
        broken += beyond > found["turned_beyond_at_most"]
    assert broken / 2000 <= 0.035


def texts_of_a_task(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins of a student, and whether it is wrong: the rarer, the surer it is."""
    margin = rng.exponential(2, size=count)
    return margin, rng.random(count) < 0.4 * np.exp(-1.5 * margin)


def turned_by(width: float) -> float:
    """Of all such texts, the share that is answered beyond the width, and wrongly."""
    return 0.4 * 0.5 / 2.0 * np.exp(-2.0 * width)


def test_a_first_stage_turns_more_labels_than_allowed_as_seldom_as_promised() -> None:
    """Of 1,000 rules from 999 texts each, at most 5 % and a little for chance."""
    rng, broken, answered = np.random.default_rng(0), 0, 0.0
    for _ in range(1000):
        found = cascade_rule(*texts_of_a_task(rng, 999), 0.01)
        broken += turned_by(found["first_width"]) > 0.01
        answered += found["answered_first"] / 999 / 1000
    assert 0.005 < broken / 1000 <= 0.065, "as often as promised, and not never: it answers what it may"
    assert answered > 0.3


def test_a_first_stage_that_is_never_wrong_answers_everything() -> None:
    found = cascade_rule(np.linspace(0.1, 5, 999), np.zeros(999, bool), 0.01)
    assert (found["answered_first"], found["turned_first"]) == (999, 0)
    assert 0 < found["turned_first_at_most"] <= 0.01


def test_few_texts_promise_nothing() -> None:
    found = cascade_rule(np.linspace(0.1, 5, 200), np.zeros(200, bool), 0.01)
    assert (found["first_width"], found["answered_first"]) == (np.inf, 0)


@pytest.mark.parametrize("kind", ["two", "three", "independent"])
def test_the_scale_of_a_student_is_found_again(kind: str) -> None:
    artifact = Artifact(None, meta(kind))
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2000, len(artifact.labels)))
    scaled = (3.0 * logits + rng.normal(size=logits.shape[1])) / artifact.meta.temperature
    reference = expit(scaled) if artifact.multi_label else softmax(scaled, axis=1)
    assert fit_scale(logits, reference, artifact) == pytest.approx(3.0, rel=0.01)
