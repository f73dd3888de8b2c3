"""The positive label, wherever it stands: long texts, decisions, figures, drift and what is said of it."""

from pathlib import Path

import numpy as np
import pytest

from deploy.drift.judge import references
from export.check import distributions
from handler import predictor as predicting
from handler.artifact import Artifact, described
from handler.errors import UserError
from handler.explanations import default_target
from handler.metrics import Tally, counted_scores
from handler.predictor import Prediction, Predictor, decide
from handler.requests import Limits, read
from handler.service import Service
from handler.stages import Model
from tests.descriptions import EXAMPLE, changed, description
from tests.tiny import word_tokenizer
from training import data
from training import options as settings
from training import summary as shown
from training.__main__ import PROGRAM
from training.data import Columns
from training.data.positive import positive, sign
from training.measures.calibration import calibrate, uncalibrated
from training.measures.metrics import evaluate, reliability

LENGTH = 16
HATEFUL, KIND = "hate " * (3 * LENGTH), "lovely " * LENGTH
PAIRS = {
    ("hate", "none"): "hate",
    ("hate", "neutral"): "hate",
    ("HOF", "NOT"): "HOF",
    ("Hate speech", "Not hate speech"): "Hate speech",
    ("clean", "toxic"): "toxic",
    ("toxic", "clean"): "toxic",
    ("ham", "spam"): "spam",
    ("not-hate", "hate"): "hate",
    ("0", "1"): "1",
    ("1.0", "0.0"): "1.0",
    ("-1", "1"): "1",
    ("abusive", "non-abusive"): "abusive",
    ("inoffensive", "offensive"): "offensive",
    ("NotHate", "Hate"): "Hate",
    ("sexism", "none"): "sexism",
    ("safe", "unsafe"): "unsafe",
    ("true", "false"): "true",
    ("Yes", "No"): "Yes",
    ("ironic", "nonironic"): "ironic",
    ("OTHER", "OFFENSE"): "OFFENSE",
}


@pytest.fixture
def predictor_of(tmp_path: Path, monkeypatch):
    """A Predictor whose label at `speaks` is the more probable, the more often a window says "hate"."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    hate = tokenizer.convert_tokens_to_ids("hate")

    def make(labels: tuple[str, ...], speaks: str, **changes: object) -> Predictor:
        def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            logits = np.zeros((len(ids), len(labels)), np.float32)
            logits[:, labels.index(speaks)] = (ids == hate).sum(axis=1) - LENGTH / 2
            return logits

        said = description(**{"labels": list(labels), "thresholds": {}, **changes})
        monkeypatch.setattr(predicting, "load_models", lambda *_: [Model(said, forward)])
        return Predictor(Artifact(tmp_path, said), 1)

    return make


def of_pair(labels: tuple[str, ...], threshold: float = 0.5) -> dict:
    found = positive(labels).label
    return {"positive_label": found, "thresholds": {found: threshold}}


@pytest.mark.parametrize("labels", PAIRS, ids=", ".join)
def test_a_long_text_is_answered_by_the_window_that_speaks_most_for_the_positive_label(
    labels, predictor_of
) -> None:
    sought = PAIRS[labels]
    predictor = predictor_of(labels, sought, **of_pair(labels))
    service = Service(predictor, Limits(), {}, Tally(None, "hate"))
    for text in (HATEFUL + KIND + KIND, KIND + HATEFUL + KIND):
        request = read({"body": {"text": text, "long": "chunks"}}, "application/json", service.limits)
        ((answer,),) = service.answer([request])
        assert answer["label"] == sought
        assert answer["score"] == answer["scores"][sought] > 0.99
        assert answer["threshold"] == 0.5


@pytest.mark.parametrize("labels", PAIRS, ids=", ".join)
def test_words_tell_the_positive_label_in_either_order_and_it_is_said(labels) -> None:
    for pair in (labels, labels[::-1]):
        found = positive(pair)
        assert (found.label, found.how) == (PAIRS[labels], "guessed")
        assert str(found) == (
            f"positive label: {PAIRS[labels]!r} (guessed; --positive-label NAME overrides it)"
        )


@pytest.mark.parametrize(
    "labels", [("cat", "dog"), ("LABEL_0", "LABEL_1"), ("1", "2"), ("hate", "offensive")]
)
def test_a_guess_that_nothing_tells_is_called_arbitrary(labels) -> None:
    assert positive(labels).label == labels[1]
    assert "AN ARBITRARY GUESS" in str(positive(labels))


def test_the_user_has_the_last_word_in_any_spelling() -> None:
    assert positive(("hate", "none"), "none").label == "none"
    assert positive(("Hate", "None"), "hate ").label == "Hate"
    assert positive(("1.0", "2.0"), "1").label == "1.0"
    assert positive(("not-hate", "hate"), "0").label == "not-hate"
    assert positive(("a", "b", "c"), "b").label == "b"
    with pytest.raises(UserError, match="none of the labels: d"):
        positive(("a", "b"), "d")
    with pytest.raises(UserError, match="one by one"):
        positive(("a", "b"), "a", multi_label=True)


def test_what_words_say() -> None:
    sought = ("Hate", "TOXIC", "is_spam", "hateSpeech", "unsafe", "not normal", "1", "cyberbullying")
    remaining = (
        "none",
        "NOT",
        "non-toxic",
        "no hate",
        "nothate",
        "neither",
        "neutral",
        "0",
        "ham",
        "notOffensive",
    )
    assert [sign(name) for name in sought] == [1] * len(sought)
    assert [sign(name) for name in remaining] == [-1] * len(remaining)
    assert sign("cat") == sign("LABEL_1") == 0


def test_of_three_labels_the_named_one_decides_which_window_answers(predictor_of) -> None:
    labels = ("hate", "neither", "offensive")
    long = HATEFUL + KIND + KIND
    named = predictor_of(labels, "hate", positive_label="hate")
    (prediction,) = named.classify(named.encode([long], [True]), ["max"])
    assert named.answer(prediction)["label"] == "hate"
    assert Service(named, Limits(), {}, Tally(None, "hate"))._default_aggregate() == "max"
    unnamed = predictor_of(labels, "hate", positive_label=None)
    service = Service(unnamed, Limits(), {}, Tally(None, "hate"))
    assert service._default_aggregate() == "mean"
    body = {"text": long, "long": "chunks", "aggregate": "max"}
    ((refused,),) = service.answer([read({"body": body}, "application/json", service.limits)])
    assert refused["error"]["field"] == "aggregate"


def test_decisions_go_by_the_threshold_of_the_positive_label() -> None:
    scores = np.array([[0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
    assert decide(scores, ["hate", "none"], {"hate": 0.75}).tolist() == [0, 1, 1]
    assert decide(scores, ["none", "hate"], {"hate": 0.25}).tolist() == [0, 1, 1]


def test_figures_are_those_of_the_positive_label_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(400) < 0.2).astype(np.int64)
    hate = np.clip(0.3 * truth + rng.random(400) * 0.6, 0, 1)
    second = evaluate(np.stack([1 - hate, hate], 1), truth, {"hate": 0.4}, ("none", "hate"))
    first = evaluate(np.stack([hate, 1 - hate], 1), 1 - truth, {"hate": 0.4}, ("hate", "none"))
    for figure in ("macro_f1", "accuracy", "auroc", "average_precision", "brier", "ece"):
        assert getattr(first, figure) == pytest.approx(getattr(second, figure))
    assert first.labels["hate"] == second.labels["hate"]
    points = reliability(np.stack([hate, 1 - hate], 1), 1 - truth, 0)
    assert points == reliability(np.stack([1 - hate, hate], 1), truth, 1)
    logits = np.log(np.clip(np.stack([1 - hate, hate], 1), 1e-3, 1))
    ours = calibrate(logits, truth, ("none", "hate"))
    theirs = calibrate(logits[:, ::-1], 1 - truth, ("hate", "none"))
    assert ours.thresholds == pytest.approx(theirs.thresholds)
    assert set(theirs.thresholds) == {"hate"}
    assert uncalibrated(("HOF", "NOT")).thresholds == {"HOF": 0.5}


def test_drift_and_explanations_look_at_the_positive_label(predictor_of) -> None:
    predictor = predictor_of(("hate", "none"), "hate", **of_pair(("hate", "none")))
    predictions = predictor.predict([HATEFUL, KIND, KIND])
    reference = distributions(predictor.artifact, *scores_and_tokens(predictions))
    assert reference.scores.counts == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    judged = changed(predictor.artifact, reference=reference)
    assert [reference.name for reference in references(judged)] == ["score:hate", "length", "label:hate"]
    assert [name for name, _ in counted_scores(["hate", "none"], "hate", predictions[0].scores)] == ["hate"]
    assert default_target(predictor, predictions[1].scores) == "hate"
    three = predictor_of(("a", "b", "c"), "a", positive_label=None)
    found = distributions(three.artifact, *scores_and_tokens(three.predict([HATEFUL])))
    assert set(found.scores.labels) == {"a", "b", "c"}


def scores_and_tokens(predictions: list[Prediction]) -> tuple[np.ndarray, list[int]]:
    scores = np.array([prediction.scores for prediction in predictions])
    return scores, [prediction.tokens for prediction in predictions]


def test_an_older_artifact_looks_for_the_second_label_and_keeps_its_identity() -> None:
    older = Artifact(Path(), description(labels=["HOF", "NOT"], thresholds={"NOT": 0.5}))
    assert (older.positive_label, older.positive) == ("NOT", 1)
    assert older.sha256 != changed(older, positive_label="HOF").sha256
    assert Artifact(Path(), description(labels=["a", "b", "c"])).positive_label is None


def table(path: Path, labels: tuple[str, ...]) -> str:
    rows = [f"{path.stem} {row},{labels[row % len(labels)]}" for row in range(120)]
    path.write_text("\n".join(["text,label", *rows]))
    return f"csv:{path}"


def test_the_positive_label_is_set_by_flag_or_by_the_data_and_training_says_it(tmp_path: Path) -> None:
    spec = table(tmp_path / "some.csv", ("HOF", "NOT"))
    assert data.load(spec).positive.label == "HOF"
    assert data.load(spec, columns=Columns(positive_label="not")).positive.label == "NOT"
    asked = data.load(f"{spec}?positive_label=NOT")
    assert asked.positive.label == "NOT"
    assert "positive label: 'NOT'" in shown.table(asked)
    other = table(tmp_path / "other.csv", ("HOF", "NOT"))
    assert data.load(f"{spec}+{other}?positive_label=NOT").positive.label == "NOT"
    with pytest.raises(UserError, match="the same positive label"):
        data.load(f"{spec}?positive_label=HOF+{other}?positive_label=NOT")
    options = PROGRAM.parser("train").parse_args(["--data", spec, "--positive-label", "NOT"])
    assert settings.load(options).positive.label == "NOT"
    assert data.load(spec).sha256 == asked.sha256


def test_a_column_of_probabilities_is_of_the_positive_label(tmp_path: Path, capsys) -> None:
    spec = table(tmp_path / "some.csv", ("0.9", "0.2", "1.0", "0.0"))
    dataset = data.load(spec, columns=Columns(labels=("hate", "none")))
    assert "probabilities of 'hate'" in capsys.readouterr().err
    split = dataset.splits["train"]
    assert ((split.soft[:, 0] >= 0.5) == (split.labels == 0)).all()
    number = int(split.texts[0].split()[1])
    assert split.soft[0, 0] == pytest.approx((0.9, 0.2, 1.0, 0.0)[number % 4])


def test_a_label_without_training_texts_is_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    table(folder / "train.csv", ("a", "b"))
    table(folder / "test.csv", ("a", "b", "c"))
    said = shown.table(data.load(f"csv:{folder}"))
    assert "WARNING: the label 'c' has no training text, so it is not learnt" in said
    rare = table(tmp_path / "rare.csv", ("a",) * 30 + ("b",) * 29 + ("c",))
    assert "the label 'c' has" in shown.table(data.load(rare))


def test_answers_that_are_all_right_are_one_where_a_label_is_absent() -> None:
    scores = np.eye(3)[[0, 1, 0, 1]]
    assert evaluate(scores, np.array([0, 1, 0, 1]), {}, ("a", "b", "c")).macro_f1 == 1
    truth = np.array([[1, 0], [0, 0]])
    independent = evaluate(truth.astype(float), truth, {"a": 0.5, "b": 0.5}, ("a", "b"))
    assert independent.macro_f1 == 1


def test_a_positive_label_that_is_no_label_is_a_damaged_description() -> None:
    whole = EXAMPLE | {"labels": ["a", "b"], "thresholds": {"a": 0.5}, "positive_label": "a"}
    described(whole)
    for broken in ({"positive_label": "c"}, {"positive_label": "b"}, {"thresholds": {}}):
        with pytest.raises(ValueError, match=r"label|threshold"):
            described(whole | broken)
