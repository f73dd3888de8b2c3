"""The baseline without a transformer: fitted to training texts, judged as every row is."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.baselines import bag_of_words, preparation
from benchmarks.baselines.bag_of_words import BagOfWords, Terms
from benchmarks.baselines.in_process import BASELINES
from benchmarks.baselines.preparation import prepare_baselines
from benchmarks.in_process.worker import open_worker
from benchmarks.names import TFIDF
from benchmarks.sameness.scores import calibrated
from handler.predictor import decide
from training.data.splits import Split
from training.measures.statistics import indicators, macro_f1

RNG = np.random.default_rng(0)
FILLER = [f"word{number}" for number in range(40)]


def texts_of(told: np.ndarray, words: list[str]) -> list[str]:
    """A text a row: for each label that it has, the label's word in nine of ten, among others."""
    found = []
    for row in told:
        said = [word for word, has in zip(words, row, strict=True) if has and RNG.random() < 0.9]
        found.append(" ".join([*RNG.choice(FILLER, 6), *said]))
    return found


def data(kind: str) -> tuple[SimpleNamespace, SimpleNamespace]:
    """A checkpoint with a temperature and thresholds of its own, and data of that kind of labels."""
    labels = {"two": ["no", "yes"], "three": ["a", "b", "c"], "independent": ["x", "y"]}[kind]
    thresholds = {"two": {"yes": 0.3}, "three": {}, "independent": {"x": 0.2, "y": 0.7}}[kind]
    splits = {}
    for name, n in (("train", 600), ("validation", 300), ("gate", 300)):
        if kind == "independent":
            truth = RNG.integers(2, size=(n, 2))
            told = truth
        else:
            truth = RNG.integers(len(labels), size=n)
            told = indicators(truth, len(labels))
        splits[name] = Split(texts_of(told, [f"{label}word" for label in labels]), truth)
    independent = kind == "independent"
    meta = SimpleNamespace(temperature=2.5, thresholds=thresholds, max_length=64)
    checkpoint = SimpleNamespace(judged=True, positive_label="yes" if kind == "two" else None, meta=meta)
    told = SimpleNamespace(labels=labels, splits=splits, multi_label=independent, unseen=None, sha256="0")
    return checkpoint, told


@pytest.mark.parametrize("kind", ["two", "three", "independent"])
def test_it_finds_the_labels_at_the_checkpoints_temperature_and_thresholds(kind: str, tmp_path) -> None:
    checkpoint, dataset = data(kind)
    bag_of_words.fit(checkpoint, dataset, tmp_path)
    bag = BagOfWords(tmp_path)
    gate = dataset.splits["gate"]
    raw = np.array([found.scores for found in bag.predict(gate.texts)])
    assert bag.answer(bag.predict(gate.texts[:1])[0])["label"] in dataset.labels
    meta = checkpoint.meta
    scores = calibrated({"gate": raw}, meta.temperature, dataset.multi_label)["gate"]
    given = decide(scores, dataset.labels, meta.thresholds, dataset.multi_label)
    found = macro_f1(*(indicators(each, len(dataset.labels)) for each in (gate.labels, given)))
    assert found > 0.85
    # From terms to logits is the part that a worker times as the model.
    logits = bag.logits(bag.encode(gate.texts))
    likely = 1 / (1 + np.exp(-logits)) if dataset.multi_label else np.exp(logits)
    sums = 1 if dataset.multi_label else likely.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(likely / sums, raw, atol=1e-9)


def test_a_label_of_no_training_text_is_never_given(tmp_path) -> None:
    checkpoint, dataset = data("three")
    train = dataset.splits["train"]
    dataset.splits["train"] = train.take(np.flatnonzero(train.labels != 1))
    bag_of_words.fit(checkpoint, dataset, tmp_path)
    scores = np.array([found.scores for found in BagOfWords(tmp_path).predict(train.texts)])
    assert set(scores.argmax(axis=1).tolist()) == {0, 2}


def test_a_text_of_unknown_words_is_answered(tmp_path) -> None:
    checkpoint, dataset = data("two")
    bag_of_words.fit(checkpoint, dataset, tmp_path)
    bag = BagOfWords(tmp_path)
    assert bag.encode(["zzz", ""]) == [Terms([]), Terms([])]
    assert np.isfinite(bag.logits(bag.encode(["zzz", ""]))).all()


def test_a_worker_of_a_run_loads_and_times_it(checkpoint, dataset, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(preparation, "BASELINES", {TFIDF: BASELINES[TFIDF]})
    found = prepare_baselines(checkpoint, [], tmp_path, dataset=dataset)
    assert not found.failures
    assert "fitting" in capsys.readouterr().err
    texts = dataset.splits["gate"].texts[:40]
    with open_worker(TFIDF, ours=False) as worker:
        worker.ask("hold", texts=texts)
        place = {"folder": str(found.folders[TFIDF]), "max_length": 64}
        worker.ask("load_baseline", baseline=TFIDF, threads=1, first_text=texts[0], **place)
        assert np.allclose(np.sum(worker.ask("score", start=0, stop=40), axis=1), 1)
        assert worker.ask("asked") == {}
        for command in ("together", "single", "tokenise", "model"):
            assert min(worker.ask(command, start=0, stop=4)["times_ms"]) > 0
        assert min(worker.ask("shape", batch=2, tokens=8)["times_ms"]) > 0
    again = prepare_baselines(checkpoint, [], tmp_path, dataset=dataset)
    assert again == found
    assert "fitting" not in capsys.readouterr().err, "it is kept for the next run"


@pytest.mark.parametrize(
    ("judged", "unseen", "said"),
    [
        (True, None, None),
        (True, "kept apart", None),
        (True, "stated", "the texts that the checkpoint was trained on are not at hand"),
        (True, "unknown", "the texts that the checkpoint was trained on are not at hand"),
        (False, None, "no labels that mean something"),
    ],
)
def test_without_training_texts_it_is_left_out_with_a_sentence(
    judged: bool, unseen: str | None, said: str | None
) -> None:
    checkpoint, dataset = data("two")
    checkpoint.judged, dataset.unseen = judged, unseen
    found = bag_of_words.lacks(checkpoint, dataset)
    assert found is None if said is None else said in found


def test_what_is_left_out_is_told(checkpoint, dataset, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(preparation, "BASELINES", {TFIDF: BASELINES[TFIDF]})
    found = prepare_baselines(checkpoint, [], tmp_path, dataset=replace(dataset, unseen="stated"))
    assert list(found.left_out) == [TFIDF]
    assert f"{TFIDF} is left out: the texts that the checkpoint was trained on" in capsys.readouterr().err
