from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handler.artifact import Artifact
from handler.batching import Grid
from handler.errors import UserError
from handler.predictor import Predictor, decide
from handler.recheck import OPTION, Rechecked, margins
from handler.runtimes import load_forward
from tests.descriptions import changed
from tests.descriptions import description as described

LABELS = {
    "two": (["no", "yes"], {"yes": 0.3}, "single-label"),
    "two, the first positive": (["yes", "no"], {"yes": 0.7}, "single-label"),
    "three": (["a", "b", "c"], {}, "single-label"),
    "independent": (["a", "b", "c"], {"a": 0.5, "b": 0.1, "c": 0.9}, "multi-label"),
}
GRID = Grid(lengths=(8,), batches=(1, 2, 4, 8), max_tokens=64)


def meta(kind: str, **others):
    labels, thresholds, task = LABELS[kind]
    positive = "yes" if "yes" in labels else None
    return described(
        labels=labels, thresholds=thresholds, task=task, positive_label=positive, temperature=1.5, **others
    )


def labels_of(description, logits: np.ndarray) -> np.ndarray:
    predictor = Predictor.__new__(Predictor)  # its arithmetic alone: no files, no tokenizer
    predictor.artifact = Artifact(None, replace(description, logit_offsets=None))
    scaled = predictor.calibrated(logits)
    independent = description.task == "multi-label"
    odds = np.exp(scaled)
    scores = odds / (1 + odds) if independent else odds / odds.sum(axis=1, keepdims=True)
    return decide(scores, description.labels, description.thresholds, independent)


@pytest.mark.parametrize("kind", LABELS)
def test_no_move_below_the_margin_turns_a_label_and_one_of_the_margin_does(kind: str) -> None:
    description = meta(kind)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, len(description.labels))) * 2
    before = labels_of(description, logits)
    margin = margins(description, logits)[:, None]
    turned = np.zeros(len(logits), bool)
    for direction in rng.normal(size=(200, 1, logits.shape[1])):
        spread = np.abs(direction).max() if kind == "independent" else np.ptp(direction)
        unit = direction / spread
        assert (labels_of(description, logits + 0.999 * margin * unit) == before).all()
        after = labels_of(description, logits + 1.001 * margin * unit)
        turned |= (after != before).reshape(len(logits), -1).any(axis=1)
    assert turned.mean() > 0.9


def even(options):
    """Two labels, the likelier is given."""
    inputs = replace(meta("two").inputs, buckets=GRID)
    return replace(meta("two"), thresholds={"yes": 0.5}, inputs=inputs, runtime_options=options)


def both(description, first: np.ndarray, second: np.ndarray):
    """Two models that look their logits up by the first token, as one; and what the second is called with."""
    calls = []

    def load(stage: Artifact):
        def forward(ids, mask):
            if stage.folder.name == "second":
                calls.append(ids[:, 0].tolist())
            return (first if stage.folder.name == "first" else second)[ids[:, 0]].astype(np.float32)

        return forward

    return Rechecked(Artifact(Path("artifact"), description), load), calls


@pytest.mark.parametrize("near", [0, 1, 3, 5])
def test_texts_near_another_label_alone_are_asked_again_in_shapes_that_were_warmed(near: int) -> None:
    first = np.array([[0.0, 0.1]] * near + [[0.0, 3.0]] * (6 - near))
    second = np.array([[1.0, -1.0]] * 6)
    options = {OPTION: {"width": 0.5, "offsets": [0, 0.0], "first": {}, "second": {}}}
    description = even(options)
    forward, calls = both(description, first, second)
    ids = np.repeat(np.arange(6)[:, None], 8, axis=1)
    expected = np.concatenate([second[:near], first[near:]]).astype(np.float32)
    np.testing.assert_array_equal(forward(ids, np.ones_like(ids)), expected)
    assert [len(call) for call in calls] == [size for size in (1, 2, 4, 8) if size >= near > 0][:1]
    assert {row for call in calls for row in call} == set(range(near))
    assert forward.asked_again.tolist() == list(range(near))


def test_the_first_models_offsets_decide_who_is_near_and_stay_in_its_answers() -> None:
    first, second = np.array([[0.0, 2.0], [0.0, -2.0]]), np.zeros((2, 2))
    options = {OPTION: {"width": 0.5, "offsets": [0.0, -2.0], "first": {}, "second": {}}}
    description = even(options)
    forward, calls = both(description, first, second)
    ids = np.array([[0] * 8, [1] * 8])
    np.testing.assert_array_equal(forward(ids, np.ones_like(ids)), [[0, 0], [0, -4]])
    assert calls == [[0]]


@pytest.mark.parametrize(
    "wrong", [{"width": -1}, {"width": "1"}, {"offsets": ["x"]}, {"first": []}, {"offsets": [0.0]}]
)
def test_an_artifact_with_another_rule_is_a_sentence(wrong: dict, build_once) -> None:
    artifact = build_once("openvino-int8-rechecked")
    options = {OPTION: artifact.meta.runtime_options[OPTION] | wrong}
    hostile = Artifact(artifact.folder, replace(artifact.meta, runtime_options=options))
    with pytest.raises(UserError, match="cannot load"):
        load_forward(hostile, 1, "cpu")


def test_labels_are_those_of_the_second_model_near_another_label_and_int8s_elsewhere(
    build_once, source
) -> None:
    int8 = build_once("openvino-int8")
    built = build_once("openvino-int8-rechecked")
    assert built.meta.logit_offsets is None
    rule = built.meta.runtime_options[OPTION]
    artifact = changed(built, runtime_options={OPTION: rule | {"width": 0.2}})
    texts = source.dataset.splits["validation"].texts
    ours, theirs = (Predictor(each, threads=1) for each in (artifact, int8))
    encodings = ours.encode(texts)
    found = ours.logits(encodings)
    counted = ours.asked_again
    before = theirs.logits(encodings) + np.array(int8.meta.logit_offsets, np.float32)
    margin = margins(int8.meta, before)
    assert (margin <= rule["width"]).sum() == built.meta.proof["asked_again"]
    asked = margin <= 0.2
    assert 0 < asked.sum() == counted < len(texts)
    np.testing.assert_array_equal(found[~asked], before[~asked])
    assert (found[asked] != before[asked]).any()
