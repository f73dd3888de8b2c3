"""From a checkpoint to its evaluation, the way a person runs it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import classification_report

from common.records import read
from handler.errors import UserError
from tests.conftest import refused
from tests.descriptions import checkpoint_description
from training import data
from training.__main__ import main
from training.backbones import backbone
from training.checkpoint import (
    describe_data,
    load_data,
    open_checkpoint,
    write_checkpoint,
)
from training.data import Split
from training.evaluation.classifier import Classifier
from training.evaluation.document import evaluate_checkpoint
from training.evaluation.page import markdown
from training.evaluation.perturbations import PERTURBATIONS
from training.evaluation.published import write_predictions
from training.evaluation.records import Evaluation
from training.evaluation.robustness import robustness
from training.measures.metrics import evaluate

ROOT = Path(__file__).parents[3]
DATA_DIR = Path(os.environ.get("DATA_DIR") or "data")
PICTURES = ("confusion", "precision-recall", "reliability", "robustness", "functional-templates")


def untrained(spec, labels, **changes):
    """A tiny random classifier over some labels."""
    model, tokenizer = backbone("random:tiny", labels)
    thresholds = {labels[1]: 0.5} if len(labels) == 2 else {}
    return replace(Classifier(model, tokenizer, labels, False, 1.0, thresholds, 64), **changes)


def opened(folder):
    """Raises where the file does not fit its types."""
    return read(json.loads((folder / "evaluation.json").read_text()), Evaluation)


def test_the_document_follows_its_types(evaluated):
    document = opened(evaluated)
    assert document.split == "validation"
    assert {way.name for way in document.robustness.perturbations} == set(PERTURBATIONS)
    assert len(document.functional["templates"].functionalities) == 24


def test_the_figures_are_those_that_the_training_recorded(evaluated, checkpoint):
    found = json.loads((evaluated / "evaluation.json").read_text())["figures"]
    recorded = checkpoint.meta.metrics["validation"]
    for name in ("macro_f1", "accuracy", "n"):
        assert found[name] == getattr(recorded, name)
    assert found["macro_f1_low"] <= found["macro_f1"] <= found["macro_f1_high"]


def test_no_text_of_the_data_and_no_path_of_the_machine_is_in_what_is_written(evaluated, checkpoint):
    texts = {text for split in load_data(checkpoint).splits.values() for text in split.texts}
    pages = [*evaluated.glob("*.md"), *evaluated.glob("*.svg"), evaluated.parent / "README.md"]
    for file in pages:
        content = file.read_text()
        assert not [text for text in texts if text in content], file.name
        assert str(checkpoint.folder.parent.parent) not in content, file.name


def test_the_page_shows_every_picture_and_each_is_there_twice(evaluated):
    page = (evaluated / "evaluation.md").read_text()
    for name in PICTURES:
        assert f"({name}.svg)" in page
        assert (evaluated / f"{name}.svg").read_text().startswith("<?xml")
        assert (evaluated / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_writes_the_same_bytes(evaluated, checkpoint, tmp_path):
    main(["evaluate", "--checkpoint", str(checkpoint.folder), "--output", str(tmp_path), "--sample", "40"])
    for name in PICTURES:
        for kind in ("svg", "png"):
            file = f"{name}.{kind}"
            assert (tmp_path / "validation" / file).read_bytes() == (evaluated / file).read_bytes(), file


def test_without_robustness_an_earlier_picture_of_it_goes(checkpoint, tmp_path):
    for sample, there in (("30", True), ("0", False)):
        main(
            [
                "evaluate",
                "--checkpoint",
                str(checkpoint.folder),
                "--output",
                str(tmp_path),
                "--sample",
                sample,
            ]
        )
        assert (tmp_path / "validation" / "robustness.png").exists() == there
    opened(tmp_path / "validation")


def test_test_is_read_only_when_asked_for(evaluated, capsys, checkpoint, tmp_path):
    assert not (evaluated.parent / "test").exists()
    arguments = ["--checkpoint", str(checkpoint.folder), "--output", str(tmp_path), "--sample", "0"]
    main(["evaluate", *arguments])
    assert "\ntest" not in capsys.readouterr().err
    main(["evaluate", *arguments, "--split", "test"])
    document = json.loads(capsys.readouterr().out)
    assert document["split"] == "test"
    assert document["figures"]["n"] == checkpoint.meta.data.splits["test"].n


def test_robustness_is_that_of_a_seeded_sample_and_moves_where_the_model_sees_a_difference(
    classifier, dataset
):
    split = dataset.splits["train"]
    scores = classifier.scores(split.texts, "train")
    found, again = (robustness(classifier, split, scores, 50) for _ in range(2))
    assert found == again
    assert found.n == 50
    by_name = {way.name: way for way in found.perturbations}
    assert by_name["upper case"].changed == 50
    assert (by_name["upper case"].seen, by_name["upper case"].max_move) == (0, 0)  # it is uncased
    assert by_name["letters spaced"].seen == by_name["letters spaced"].changed > 40
    assert 0 < by_name["letters spaced"].mean_move <= by_name["letters spaced"].max_move <= 1
    assert by_name["links replaced"].flip_rate is None  # there are none in these texts


def test_joined_sets_are_measured_on_their_held_out_parts(
    small_jsonl, dataset, tmp_path, checkpoint, classifier
):
    parts = {name: dataset.splits[name].take(range(20)) for name in ("validation", "test")}
    joined = replace(dataset, others={"other": parts, "empty": dict.fromkeys(parts, parts["test"].take([]))})
    done = evaluate_checkpoint(checkpoint, joined, classifier, "validation", tmp_path, sample=0)
    assert set(done.document.others) == {"other"}
    assert done.document.others["other"].n == 20
    assert "validation of other" in markdown(done.document, tmp_path)


def test_texts_that_train_held_too_are_left_out_of_a_second_row(tmp_path, checkpoint, dataset, classifier):
    count = len(dataset.splits["validation"])
    leaked = replace(dataset, leaked={"validation": np.arange(10)})
    done = evaluate_checkpoint(checkpoint, leaked, classifier, "validation", tmp_path, sample=0)
    assert done.document.without_leaks.n == count - 10
    assert done.document.figures.n == count
    assert "validation, without texts of train" in markdown(done.document, tmp_path)
    clean = evaluate_checkpoint(checkpoint, dataset, classifier, "validation", tmp_path, sample=0)
    assert clean.document.without_leaks is None


def test_three_labels_have_no_cases_but_all_else(dataset, tmp_path, checkpoint):
    rng = np.random.default_rng(0)
    labels = ("neither", "offensive|rude", "hate")
    split = dataset.splits["validation"]
    three = replace(
        dataset, labels=labels, splits={"validation": replace(split, labels=rng.integers(0, 3, len(split)))}
    )
    done = evaluate_checkpoint(checkpoint, three, untrained("", labels), "validation", tmp_path, sample=25)
    assert opened(tmp_path) == done.document
    assert done.document.functional == {}
    assert np.array(done.document.confusion).sum() == len(split)
    assert "offensive\\|rude" in markdown(done.document, tmp_path)


def test_independent_labels_are_measured_label_by_label(dataset, tmp_path, checkpoint):
    rng = np.random.default_rng(0)
    labels = ("insult", "threat", "hate")
    texts = dataset.splits["validation"].texts
    split = Split(texts, rng.integers(0, 2, (len(texts), 3)))
    thresholds = dict.fromkeys(labels, 0.5)
    try:
        evaluate(rng.random(split.labels.shape), split.labels, thresholds, labels)
    except (ValueError, KeyError, IndexError):
        pytest.skip("training.measures.metrics does not take independent labels")
    many = replace(dataset, labels=labels, task="multi-label", splits={"validation": split})
    classifier = untrained("", labels, multi_label=True, thresholds=thresholds)
    done = evaluate_checkpoint(checkpoint, many, classifier, "validation", tmp_path, sample=25)
    assert opened(tmp_path) == done.document
    assert np.array(done.document.confusion).shape == (3, 2, 2)
    assert set(done.document.reliability) == set(labels)
    assert "## By length" in markdown(done.document, tmp_path)


def test_hatecheck_is_measured_with_the_projects_own_cases(checkpoint, tmp_path):
    file = tmp_path / "cases.csv"
    file.write_text(
        "test_case,label_gold,functionality,target_ident\n"
        "Some made up words.,hateful,made_up,\nOther made up words.,non-hateful,made_up_too,\n"
    )
    arguments = ["--checkpoint", str(checkpoint.folder), "--output", str(tmp_path), "--sample", "0"]
    main(["evaluate", *arguments, "--hatecheck", str(file)])
    found = json.loads((tmp_path / "validation" / "evaluation.json").read_text())["functional"]
    assert (found["hatecheck"]["n"], found["templates"]["n"]) == (2, 588)
    assert (tmp_path / "validation" / "functional-hatecheck.png").is_file()


def tweets(folder, count=90):
    """TweetEval's layout, with a text in test that our rules drop and one twice."""
    place = folder / "tweeteval" / "hate"
    place.mkdir(parents=True)
    for stem in ("train", "val", "test"):
        texts = [f"{stem} text number {row} of some words" for row in range(count)]
        if stem == "test":
            texts[7], texts[8] = " ", texts[3]
        (place / f"{stem}_text.txt").write_text("\n".join(texts) + "\n")
        (place / f"{stem}_labels.txt").write_text("".join(f"{row % 2}\n" for row in range(count)))
    return place


def test_predictions_stand_in_the_order_of_the_published_file(tmp_path, monkeypatch):
    from training.data import public

    place = tweets(tmp_path)
    monkeypatch.setattr(public, "fetch", lambda pinned, folder: place)  # its files are pinned to other sums
    dataset = data.load("tweeteval", tmp_path)
    split = dataset.splits["test"]
    assert len(split) == 89
    scores = np.random.default_rng(0).dirichlet([1, 1], len(split))
    scores[7] = scores[3]  # the text that comes twice
    classifier = untrained("", dataset.labels)
    file = tmp_path / "predictions" / "hate.txt"
    assert write_predictions(file, classifier, dataset, "test", scores) == 90
    lines = file.read_text().split("\n")
    assert lines.pop() == ""
    given = classifier.given(scores).tolist()
    assert lines == [str(label) for label in [*given[:7], 0, *given[7:]]]


@pytest.mark.skipif(not (DATA_DIR / "tweeteval" / "hate").is_dir(), reason="DATA_DIR holds no tweeteval/hate")
def test_a_prediction_file_of_tweeteval_scores_what_we_report(tmp_path):
    """With random weights, so that no one learns what a model does on the test split."""
    dataset = data.load("tweeteval", DATA_DIR)
    classifier = untrained("", dataset.labels, max_length=16)
    split = dataset.splits["test"]
    scores = classifier.scores(split.texts, "test")
    scores = (
        classifier.scores(split.texts, "test") - np.median(scores[:, 1]) * np.array([-1, 1]) + [-0.5, 0.5]
    )
    file = tmp_path / "hate.txt"
    assert write_predictions(file, classifier, dataset, "test", scores) == 2970
    gold = (DATA_DIR / "tweeteval" / "hate" / "test_labels.txt").read_text().split("\n")[:-1]
    given = file.read_text().split("\n")[:-1]
    assert set(given) == {"0", "1"}
    theirs = classification_report(gold, given, output_dict=True)["macro avg"]["f1-score"]
    ours = evaluate(scores, split.labels, classifier.thresholds, dataset.labels).macro_f1
    assert theirs == pytest.approx(ours, abs=1e-12)


def test_a_set_that_publishes_no_such_split_has_no_prediction_file(checkpoint, tmp_path):
    with pytest.raises(UserError, match="publishes no validation split"):
        main(
            ["evaluate", "--checkpoint", str(checkpoint.folder), "--predictions", str(tmp_path / "hate.txt")]
        )
    assert not list(tmp_path.iterdir())


def test_random_weights_are_said_to_mean_nothing(small_jsonl, tmp_path, capsys):
    dataset = data.load(f"jsonl:{small_jsonl}")
    model, tokenizer = backbone("random:tiny", dataset.labels)
    meta = checkpoint_description(data=describe_data(dataset))
    write_checkpoint(tmp_path / "checkpoint", model, tokenizer, meta)
    main(["evaluate", "--checkpoint", str(tmp_path / "checkpoint"), "--sample", "0"])
    assert "the figures mean nothing" in capsys.readouterr().err
    folder = tmp_path / "checkpoint" / "evaluation" / "validation"
    assert "The weights are random" in (folder / "evaluation.md").read_text()
    card = (tmp_path / "checkpoint" / "README.md").read_text()
    assert "Its weights are random" in card
    assert "model-index" not in card
    assert open_checkpoint(tmp_path / "checkpoint").meta.base == "random:tiny"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--checkpoint", "/no/such"], "Run `python -m training train` first"),
        (["--split", "train"], "invalid choice"),
        (["--sample", "-1"], "--sample"),
    ],
)
def test_a_users_mistake_ends_with_a_sentence_and_status_2(arguments, part):
    assert part in refused("training", "evaluate", *arguments)
