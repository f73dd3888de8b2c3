import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.build import build
from export.registry import VARIANTS, RefusedError
from export.variants.stages import _has_bf16
from handler.artifact import Artifact
from handler.batching import Grid
from handler.errors import UserError
from handler.explanations import explain
from handler.machine import cpu_features
from handler.predictor import Encoding, Predictor, decide
from handler.runtimes import RUNTIMES, load_models
from handler.stages import OPTION, margins
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


def stage(name: str, **others) -> dict:
    return {"name": name, "offsets": [0.0, 0.0], "options": {}} | others


def staged(monkeypatch, answers: dict[str, np.ndarray], *stages: dict) -> tuple[Predictor, list]:
    """A predictor whose stages look their logits up by a text's first token, and the tokens that each was
    asked in its calls."""
    asked = []

    def load(artifact: Artifact, threads: int, device: str):
        def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            asked.append((artifact.folder.name, ids.shape[0], set(ids[:, 0].tolist())))
            return answers[artifact.folder.name][ids[:, 0]].astype(np.float32)

        return forward

    monkeypatch.setitem(RUNTIMES, "openvino", replace(RUNTIMES["openvino"], load=load))
    description = replace(
        meta("two"),
        thresholds={"yes": 0.5},
        temperature=1.0,
        runtime="openvino",
        inputs=replace(meta("two").inputs, buckets=GRID),
        runtime_options={OPTION: list(stages)},
    )
    predictor = Predictor.__new__(Predictor)  # no files, no tokenizer
    predictor.artifact = Artifact(Path("artifact"), description)
    predictor.grid, predictor.device, predictor._pad_id, predictor.computed_tokens = GRID, "cpu", 0, 0
    predictor.models = load_models(predictor.artifact, 1, "cpu")
    predictor.asked_again = {model.name: 0 for model in predictor.models[1:]}
    return predictor, asked


def encodings(count: int) -> list[Encoding]:
    return [Encoding([place, 1, 1]) for place in range(count)]


@pytest.mark.parametrize("near", [0, 1, 3, 5])
def test_texts_near_another_label_alone_are_asked_again_in_shapes_of_the_grid(monkeypatch, near: int) -> None:
    first = np.array([[0.0, 0.1]] * near + [[0.0, 3.0]] * (6 - near))
    second = np.array([[1.0, -1.0]] * 6)
    answers = {"int8": first, "exact": second}
    predictor, asked = staged(monkeypatch, answers, stage("int8", width=0.5), stage("exact"))
    expected = np.concatenate([second[:near], first[near:]]).astype(np.float32)
    np.testing.assert_array_equal(predictor.logits(encodings(6)), expected)
    again = [(size, tokens) for name, size, tokens in asked if name == "exact"]
    assert {token for _, tokens in again for token in tokens} - {0} == set(range(near)) - {0}
    assert all(size in GRID.batches for size, _ in again)
    assert predictor.asked_again == {"exact": near}


def test_offsets_and_scale_decide_who_is_near_and_stay_in_the_answers(monkeypatch) -> None:
    first, second = np.array([[0.0, 1.0], [0.0, -1.0]]), np.full((2, 2), 7.0)
    rule = stage("int8", width=0.5, scale=2.0, offsets=[0.0, -2.0])
    predictor, _ = staged(monkeypatch, {"int8": first, "exact": second}, rule, stage("exact"))
    np.testing.assert_array_equal(predictor.logits(encodings(2)), [[7, 7], [0, -4]])


def test_a_window_of_a_longer_text_is_never_answered_by_a_stage_that_reads_none(monkeypatch) -> None:
    sure = np.array([[0.0, 9.0]] * 4)
    answers = {"static": sure, "int8": -sure}
    predictor, asked = staged(monkeypatch, answers, stage("static", windows=False), stage("int8"))
    given = [replace(each, is_window=place > 1) for place, each in enumerate(encodings(4))]
    assert np.sign(predictor.logits(given)[:, 1]).tolist() == [1, 1, -1, -1]
    assert predictor.asked_again == {"int8": 0}, "windows are not counted"
    assert predictor.main.name == "int8", "which explanations are of"
    windows = [given[2], given[3]]
    predictor.logits(windows)
    assert asked[-1][0] == "int8"
    assert predictor.logits([]).shape == (0, 2)


def test_three_stages_each_ask_the_next_of_what_they_leave_open(monkeypatch) -> None:
    answers = {
        "static": np.array([[0, 5.0], [0, 1.0], [0, 1.0]]),
        "int8": np.array([[0, 0], [0, -5.0], [0, 0.1]]),
        "exact": np.array([[0, 0], [0, 0], [0, 8.0]]),
    }
    stages = [stage("static", width=2.0), stage("int8", width=0.5), stage("exact")]
    predictor, _ = staged(monkeypatch, answers, *stages)
    assert predictor.logits(encodings(3))[:, 1].tolist() == [5, -5, 8]
    assert predictor.asked_again == {"int8": 2, "exact": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "../x"},
        {"name": "another"},
        {"width": -1},
        {"width": "1"},
        {"scale": 0},
        {"offsets": ["x"]},
        {"offsets": [0.0]},
        {"options": []},
        {"options": {OPTION: []}},
    ],
    ids=str,
)
def test_an_artifact_with_another_rule_is_a_sentence(wrong: dict, build_once) -> None:
    artifact = build_once("openvino-int8-rechecked")
    first, second = artifact.meta.runtime_options[OPTION]
    for stages in ([first | wrong, second], [], [first, first]):
        hostile = replace(artifact.meta, runtime_options={OPTION: stages})
        with pytest.raises(UserError, match="cannot load"):
            load_models(Artifact(artifact.folder, hostile), 1, "cpu")


def test_labels_are_those_of_the_second_model_near_another_label_and_int8s_elsewhere(
    build_once, source
) -> None:
    int8 = build_once("openvino-int8")
    built = build_once("openvino-int8-rechecked")
    assert built.meta.logit_offsets is None
    first, second = built.meta.runtime_options[OPTION]
    artifact = changed(built, runtime_options={OPTION: [first | {"width": 0.2}, second]})
    texts = source.dataset.splits["validation"].texts
    ours, theirs = (Predictor(each, threads=1) for each in (artifact, int8))
    read = ours.encode(texts)
    found = ours.logits(read)
    before = theirs.logits(read) + np.array(int8.meta.logit_offsets, np.float32)
    margin = margins(int8.meta, before)
    assert (margin <= first["width"]).sum() == built.meta.proof["asked_again"]
    asked = margin <= 0.2
    assert 0 < asked.sum() == ours.asked_again["exact"] < len(texts)
    np.testing.assert_array_equal(found[~asked], before[~asked])
    assert (found[asked] != before[asked]).any()


def test_a_cascade_asks_int8_of_the_texts_that_word_embeddings_leave_open(build_once, source) -> None:
    cascade, int8 = build_once("openvino-int8-rechecked-cascade"), build_once("openvino-int8")
    first, second, third = cascade.meta.runtime_options[OPTION]
    assert [each["name"] for each in (first, second, third)] == ["static", "int8", "exact"]
    texts = source.dataset.splits["validation"].texts
    ours, theirs = (Predictor(each, threads=1) for each in (cascade, int8))
    read = ours.encode(texts)
    found, asked = ours.logits(read), dict(ours.asked_again)
    proof = cascade.meta.proof
    assert asked == cascade.meta.reference.asked
    assert len(texts) - asked["int8"] == proof["answered_first"] > 0
    assert proof["turned_first_at_most"] <= source.may_turn
    alone = ours.logits(read, ours.models[:1])
    answered = margins(cascade.meta, alone) > first["width"]
    np.testing.assert_array_equal(found[answered], alone[answered])
    rest = theirs.logits(read) + np.array(int8.meta.logit_offsets, np.float32)
    sure = ~answered & (margins(int8.meta, rest) > second["width"])
    np.testing.assert_array_equal(found[sure], rest[sure])
    windows = [replace(each, is_window=True) for each in read[:20]]
    assert (ours.logits(windows) != alone[:20]).any(axis=1).all(), "which the first stage never answers"


def test_explanations_of_a_cascade_are_of_int8(build_once) -> None:
    cascade, int8 = (
        Predictor(build_once(name), threads=1) for name in ("openvino-int8-cascade", "openvino-int8")
    )
    before = dict(cascade.asked_again)
    ours, theirs = (
        explain(each, "I will never forgive those people", "hate", "occlusion") for each in (cascade, int8)
    )
    assert ours == theirs
    assert cascade.asked_again == before


def test_word_embeddings_are_in_bf16_where_the_cpu_has_it_and_may_differ(build_once, source) -> None:
    first, _ = build_once("openvino-int8-cascade").meta.runtime_options[OPTION]
    hint = "bf16" if "avx512_bf16" in cpu_features() else "f32"
    assert first["options"]["INFERENCE_PRECISION_HINT"] == hint
    assert not _has_bf16(replace(source, portable=True))


def test_a_rule_is_fitted_to_traffic_too(source, build_once, tmp_path) -> None:
    for name in ("fp32", "openvino-int8", "static-openvino-fp32"):
        shutil.copytree(build_once(name).folder, tmp_path / name)
    traffic = source.dataset.splits["train"].texts[:300]
    busy = replace(source, artifacts=tmp_path, traffic=tuple(traffic))
    cascade = build(VARIANTS["openvino-int8-cascade"], busy, print)
    first, _ = cascade.meta.runtime_options[OPTION]
    proof, texts = cascade.meta.proof, [*source.dataset.splits["validation"].texts, *traffic]
    assert proof["rule_texts"] == len(texts) == 900
    ours, fp32 = Predictor(cascade, threads=1), Predictor(build_once("fp32"), threads=1)
    alone = ours.logits(ours.encode(texts), ours.models[:1])
    answered = margins(cascade.meta, alone) > first["width"]
    given, theirs = (
        decide(scores, cascade.labels, cascade.meta.thresholds, False)
        for scores in (ours.scores(alone), np.array([each.scores for each in fp32.predict(texts)]))
    )
    assert proof["answered_first"] == answered.sum() > 0
    assert proof["turned_first"] == (answered & (given != theirs)).sum()
    before = build_once("openvino-int8-cascade").meta
    assert before.proof["rule_texts"] == 600
    assert cascade.meta.build.inputs_sha256 != before.build.inputs_sha256, "what was built without is stale"


def test_a_first_stage_that_may_answer_little_is_refused_with_a_remedy(source, build_once, tmp_path) -> None:
    for name in ("fp32", "openvino-int8", "static-openvino-fp32"):
        shutil.copytree(build_once(name).folder, tmp_path / name)
    strict = replace(source, artifacts=tmp_path, may_turn=1e-6)
    with pytest.raises(RefusedError, match=r"too few texts.*0 of 600.*--unlabelled"):
        build(VARIANTS["openvino-int8-cascade"], strict, print)
