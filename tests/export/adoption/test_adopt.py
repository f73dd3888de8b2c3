"""Classifiers that were trained elsewhere: small ones of random weights, saved as Hugging Face saves them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import transformers

from export.adoption.adopt import adopt
from handler.predictor import Predictor
from tests.conftest import ran, refused
from tests.tiny import make_classifier
from training.backbones import minilm_folder
from training.checkpoint import load_data, open_checkpoint


def save(folder: Path, family: str, names: Sequence[str] = ("LABEL_0", "LABEL_1")) -> Path:
    """A classifier of the family with MiniLM's tokenizer, as `save_pretrained` leaves them."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(minilm_folder() / "tokenizer.json"), pad_token="[PAD]", model_max_length=512
    )
    pads = 1 if family == "Roberta" else 0  # whose positions begin behind it
    return make_classifier(folder, family, names, tokenizer=tokenizer, pad_token_id=pads)


@pytest.fixture
def three_labels(tmp_path: Path) -> Path:
    path = tmp_path / "mood.csv"
    moods = {"glad": "what a lovely day", "sad": "rain again today", "angry": "who took my bread"}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(600):
            mood = list(moods)[row % 3]
            writer.writerow([f"{moods[mood]}, said number {row}", mood])
    return path


def test_without_labelled_texts_the_check_says_what_it_could_not_prove(tmp_path: Path) -> None:
    place = save(tmp_path / "theirs", "Bert", names=["calm", "heated", "mixed"])
    done = ran("export", "build", "openvino-int8", "--checkpoint", place, "--artifacts", tmp_path / "b" / "a")
    assert "not proven" in done.stderr
    assert f"CHECKPOINT={tmp_path / 'b' / 'adopted' / 'theirs'}" in done.stderr
    for name, found in json.loads(done.stdout).items():
        assert found["check"]["macro_f1_drop"] is None
        assert "screened without labels" in found["check"]["note"] or name == "fp32"
    artifact = Predictor.load(tmp_path / "b" / "a" / "fp32")
    assert artifact.artifact.labels == ["calm", "heated", "mixed"]


def test_labelled_texts_of_three_labels_judge_it(tmp_path: Path, three_labels: Path) -> None:
    place = save(tmp_path / "theirs", "DistilBert", names=["glad", "sad", "angry"])
    spec = f"csv:{three_labels}"
    arguments = ("--data", spec, "--labels", "glad,sad,angry", "--artifacts", tmp_path / "artifacts")
    done = ran("export", "build", "onnx-fp32", "--checkpoint", place, *arguments)
    check = json.loads(done.stdout)["onnx-fp32"]["check"]
    assert check["equal"]
    assert check["label_agreement"] == 1
    assert "texts can tell" in check["note"]
    assert check["macro_f1_drop"][0] < 0 < check["macro_f1_drop"][1]


def test_decisions_stay_those_of_the_model(tmp_path: Path) -> None:
    meta = adopt(str(save(tmp_path / "theirs", "Bert")), tmp_path / "ours").meta
    assert (meta.temperature, meta.thresholds) == (1.0, {"LABEL_1": 0.5})


def test_roberta_reads_no_more_than_its_positions_behind_the_padding_id(tmp_path: Path) -> None:
    meta = adopt(str(save(tmp_path / "theirs", "Roberta")), tmp_path / "ours", max_length=512).meta
    assert meta.max_length == 128  # 130 positions, of which two are padding's


def test_a_classifier_without_a_tokenizer_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    place = save(tmp_path / "theirs", "DistilBert")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (place / name).unlink(missing_ok=True)
    said = refused("export", "build", "--checkpoint", place, "--artifacts", tmp_path / "artifacts")
    assert "has no tokenizer that can be read: no tokenizer files. Put its tokenizer.json" in said
    assert not (tmp_path / "adopted").exists()


def test_a_users_own_texts_take_the_place_of_the_embedded_ones_copies_once(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text number {number % 400}" for number in range(800)))
    checkpoint = adopt(str(save(tmp_path / "theirs", "Bert")), tmp_path / "ours", f"texts:{texts}")
    assert sum(len(split) for split in load_data(checkpoint).splits.values()) == 400
    assert not checkpoint.judged
    assert checkpoint.trained


def test_what_it_may_have_seen_is_a_state_of_the_checkpoint(
    tmp_path: Path, three_labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(save(tmp_path / "theirs", "DistilBert", names=["glad", "sad", "angry"]))
    found = {}
    for unseen in (False, True):
        checkpoint = adopt(place, tmp_path / "ours", f"csv:{three_labels}", unseen=unseen)
        found[unseen] = checkpoint.may_have_seen, capsys.readouterr().err
        assert load_data(open_checkpoint(tmp_path / "ours")).unseen == checkpoint.meta.data.unseen
    (seen, warned), (not_seen, said) = found[False], found[True]
    assert seen
    assert not not_seen
    assert "WARNING: the model may have seen these texts: every verdict will be 'not proven'" in warned
    assert "as --unseen states" in said
    assert not adopt(place, tmp_path / "other").may_have_seen, "of the texts that the project made up"


def test_labels_that_differ_in_writing_alone_are_the_same(tmp_path: Path) -> None:
    place = save(tmp_path / "theirs", "DistilBert", names=["NOT_HATE", "Hate"])
    assert adopt(str(place), tmp_path / "ours", "demo").labels == ("not-hate", "hate")


def test_zeros_and_ones_say_nothing_of_hate_where_the_outputs_are_only_numbered(tmp_path: Path) -> None:
    place, table = save(tmp_path / "theirs", "Bert"), tmp_path / "texts.csv"
    table.write_text("text,label\n" + "".join(f"text number {row},{row % 2}\n" for row in range(600)))
    checkpoint = adopt(str(place), tmp_path / "ours", f"csv:{table}", unseen=True)
    assert checkpoint.labels == ("0", "1")
    assert checkpoint.positive_label == "1"
    assert load_data(checkpoint).labels == ("0", "1")


def test_the_default_checkpoint_is_never_looked_for_on_the_hub(tmp_path: Path) -> None:
    said = refused("export", "build", "--artifacts", tmp_path, "--checkpoint", "build-of-nobody/checkpoint")
    assert "There is no checkpoint in build-of-nobody/checkpoint" in said
