"""Independent labels from the texts to a served answer: a tiny classifier of its own, made once.

Its texts are made up: each label is a word that stands in the text or not, and a few words stand there
without their label.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers

import export.variants  # noqa: F401 - registers the variants
from export.adoption.adopt import adopt
from export.build import build
from export.registry import VARIANTS, choose
from export.rewriting.distil import Texts, decision, label_loss
from export.source import Source
from handler.artifact import Artifact
from handler.errors import UnsupportedError, UserError
from handler.explanations import OCCLUSION, default_target, explain
from handler.predictor import Prediction, Predictor
from handler.self_check import Tolerance, judge, read_made
from handler.stages import limits
from tests.asking import held_to_schema
from tests.conftest import ran
from training import data, pipeline
from training.checkpoint import load_data, open_checkpoint
from training.data import sources
from training.data.splits import Split
from training.recipe import Recipe
from training.summary import summary

LABELS = ("gold", "iron", "salt")
SHARES = (0.5, 0.35, 0.25)
FILLER = ("the", "a", "of", "in", "some", "with", "they", "found", "near", "river", "and", "carried", "home")


def mined(request: sources.Request) -> sources.Raw:
    """2,400 texts; with an argument, 100 others."""
    rng = np.random.default_rng(len(request.argument))
    count = 100 if request.argument else 2400
    labels = (rng.random((count, len(LABELS))) < SHARES).astype(np.int64)
    mentioned = np.where(rng.random(labels.shape) < 0.06, 1 - labels, labels)
    texts = []
    for number, row in enumerate(mentioned):
        words = [LABELS[place] for place in np.flatnonzero(row) for _ in range(3)]
        words += rng.choice(FILLER, rng.integers(2, 6)).tolist()
        texts.append(" ".join([*rng.permutation(words), request.argument, str(number)]))
    return sources.Raw(LABELS, {"train": Split(texts, labels)}, request.argument)


@pytest.fixture(scope="module", autouse=True)
def source_of_texts() -> Iterator[None]:
    """The made-up texts under a name of their own, which a checkpoint can record and load again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.SOURCES, "mined", sources.Source("mined[:again]", "made-up texts", mined))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("multilabel")


@pytest.fixture(scope="module")
def source(source_of_texts: None, folder: Path) -> Source:
    dataset = data.load("mined+mined:again*0.5", folder)
    recipe = Recipe(epochs=5, learning_rate=2e-3, batch_size=8, dropout=0.0)
    pipeline.train(dataset, "random:tiny", recipe, folder / "checkpoint")
    checkpoint = open_checkpoint(folder / "checkpoint")
    return Source(checkpoint, load_data(checkpoint), folder / "artifacts")


@pytest.fixture(scope="module")
def artifact_of(source: Source):
    """Build a variant and its ancestors; its artifact."""

    def get(name: str) -> Artifact:
        try:
            chosen, _ = choose([name])
        except UnsupportedError as error:
            pytest.skip(str(error))
        built = [build(variant, source, print) for variant in chosen]  # what is fresh is not built again
        return next(artifact for artifact in built if artifact.name == name)

    return get


@pytest.mark.parametrize("name", ["fp32", "openvino-int8"])
def test_the_self_check_has_sequences_near_each_labels_threshold(artifact_of, name: str) -> None:
    predictor = Predictor(artifact_of(name))
    assert predictor.self_check.status == "same"
    made = read_made(predictor.artifact, 1, predictor.tokenizer)
    assert len(made.models[0].within) == len(LABELS)
    given = np.array(made.models[0].logits) + (predictor.artifact.meta.logit_offsets or 0.0)
    for label, column in zip(LABELS, (given - limits(predictor.artifact.meta)).T, strict=True):
        nearest = np.sort(np.abs(column))  # on one side alone where nearly all of them get a label
        assert nearest[7] < np.ptp(column) / 2, label


def test_a_move_of_one_independent_labels_logits_alone_is_refused(artifact_of) -> None:
    predictor = Predictor(artifact_of("fp32"))
    made = read_made(predictor.artifact, 1, predictor.tokenizer)
    logits = np.array(made.models[0].logits)
    for column in range(len(LABELS)):
        moved = logits.copy()
        moved[:, column] += 3
        found = judge(predictor.artifact.meta, made, [moved], made.tokens, Tolerance(), 0)
        assert found.status == "mismatch"


def test_the_checkpoint_records_independent_labels_their_thresholds_and_figures(source: Source) -> None:
    meta = source.checkpoint.meta
    assert meta.task == meta.data.task == "multi-label"
    assert list(meta.thresholds) == list(LABELS)
    assert list(meta.metrics) == [
        "validation",
        "test",
        "validation of mined:again",
        "test of mined:again",
    ]
    assert meta.metrics["test"].macro_f1 > 0.65, "the tiny model has learnt something"
    assert meta.metrics["test"].micro_f1 > meta.metrics["test"].accuracy
    others = meta.data.others["mined:again"]
    assert others["test"].n == meta.metrics["test of mined:again"].n > 0
    shown = summary(meta)
    assert "micro_f1" in shown
    assert "test of mined:again" in shown


def test_transformers_own_pipeline_takes_sigmoids_of_the_checkpoint(source: Source, artifact_of) -> None:
    temperature = source.checkpoint.meta.temperature
    pipe = transformers.pipeline("text-classification", model=str(source.checkpoint.folder), top_k=None)
    text = source.dataset.splits["test"].texts[0]
    theirs = {row["label"]: row["score"] for row in pipe([text])[0]}
    (prediction,) = Predictor(artifact_of("fp32")).predict([text])
    odds = np.log([theirs[label] / (1 - theirs[label]) for label in LABELS])
    np.testing.assert_allclose(prediction.scores, 1 / (1 + np.exp(-odds / temperature)), atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "fp32",
        "onnx-fp32",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino-int8", "pruned")),
    ],
)
def test_a_variant_is_checked_by_every_label(name: str, artifact_of, source: Source) -> None:
    meta = artifact_of(name).meta
    check, scores = meta.check, meta.reference.scores
    assert check.macro_f1 > 0.6
    assert check.macro_f1_drop[0] <= check.macro_f1_drop[1]
    assert list(scores.labels) == list(LABELS)
    assert scores.labels["salt"] == scores.counts
    assert {sum(counts) for counts in scores.labels.values()} == {check.n}
    if name in ("fp32", "onnx-fp32"):
        assert check.equal, check
        assert check.max_prob_diff < 1e-4
        assert check.label_agreement == 1


def test_every_answer_fits_its_schema_and_names_the_labels_over_their_thresholds(artifact_of) -> None:
    predictor = Predictor(artifact_of("fp32"))
    cuts = predictor.artifact.meta.thresholds
    for scores in ([0.0, 0.0, 0.0], [cuts["gold"], 1.0, cuts["salt"] - 1e-6]):
        answer = predictor.answer(Prediction(np.array(scores), 3, False))
        held_to_schema(answer)
        assert answer["labels"] == [
            label for label in LABELS if answer["scores"][label] >= answer["thresholds"][label]
        ]
    assert len(answer["labels"]) == 2


def test_the_most_probable_label_is_explained_unless_another_is_asked_for(artifact_of) -> None:
    predictor = Predictor(artifact_of("fp32"))
    assert default_target(predictor, np.array([0.1, 0.9, 0.8])) == "iron"
    text = "they found gold near the river and some salt"
    of_gold, of_salt = (explain(predictor, text, label, OCCLUSION).tokens for label in ("gold", "salt"))
    assert [token.token for token in of_gold] == text.split()
    assert [token.attribution for token in of_gold] != [token.attribution for token in of_salt]


def test_a_file_is_predicted_with_labels_and_scores_in_its_columns(artifact_of, tmp_path: Path) -> None:
    file, output = tmp_path / "in.csv", tmp_path / "out.csv"
    file.write_text("id,text\n1,gold and salt\n2,the river\n3,\n")
    place = artifact_of("fp32").folder
    ran("handler", "predict", "--artifact", place, "--file", file, "--output", output)
    rows = list(csv.DictReader(output.open()))
    cuts = artifact_of("fp32").meta.thresholds
    for row in rows[:2]:
        scores = json.loads(row["score"])
        assert row["label"] == "|".join(label for label in LABELS if scores[label] >= cuts[label])
    assert "empty" in rows[2]["error"]


def test_a_student_learns_from_the_labels_that_are_known_alone(source: Source) -> None:
    import torch

    texts = Texts.of(source, "train").sample(8)
    both = replace(source, unlabelled=("no label is known of this",))
    more = texts.with_unlabelled(both).with_noise(1, 0.2)
    assert more.labels.shape == (18, len(LABELS))
    logits = torch.zeros(9, len(LABELS))
    known = label_loss(logits[:8], torch.from_numpy(texts.labels))
    assert label_loss(logits, torch.from_numpy(more.labels[:9])) == pytest.approx(known)
    assert decision(source)(np.full((1, 3), 9.0)).tolist() == [[1, 1, 1]]


def test_a_model_of_independent_labels_that_was_trained_elsewhere_is_adopted(
    source: Source, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    model = source.model()
    model.save_pretrained(theirs)
    transformers.AutoTokenizer.from_pretrained(source.checkpoint.folder).save_pretrained(theirs)
    judged = adopt(str(theirs), tmp_path / "judged", "mined", tmp_path)
    assert judged.multi_label
    assert judged.meta.thresholds == dict.fromkeys(LABELS, 0.5)
    unlabelled = adopt(str(theirs), tmp_path / "unlabelled")
    own = Source(unlabelled, load_data(unlabelled), tmp_path / "artifacts")
    for name in ("fp32", "onnx-fp32"):
        check = build(VARIANTS[name], own, print).meta.check
        assert check.equal, check
        assert check.macro_f1 is None
    assert (Texts.of(own, "validation").labels == -100).all()
    with pytest.raises(UserError, match="disagree on whether labels exclude each other"):
        adopt(str(theirs), tmp_path / "mixed", _exclusive(tmp_path))


def _exclusive(folder: Path) -> str:
    """A table in which the same labels exclude each other."""
    path = folder / "exclusive.csv"
    rows = "".join(f"{LABELS[row % 3]} number {row},{LABELS[row % 3]}\n" for row in range(200))
    path.write_text("text,label\n" + rows)
    return f"csv:{path}"
