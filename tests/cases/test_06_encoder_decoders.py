"""What no server could warm up, or answer padded, is refused before anything is written."""

import json
from pathlib import Path

import pytest

from export.adoption.adopt import adopt
from handler.errors import UserError
from tests.conftest import refused
from tests.tiny import make_classifier, word_tokenizer


def test_an_encoder_decoder_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    ends = {"eos_token_id": 3, "bos_token_id": 2, "decoder_start_token_id": 3}
    place = make_classifier(tmp_path / "bart", "Bart", **ends)
    said = refused("export", "build", "fp32", "--checkpoint", place, "--artifacts", tmp_path / "b" / "a")
    assert "is an encoder-decoder, which this toolkit does not serve: bart" in said
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("t5", "T5ForSequenceClassification"),
        ("mbart", "MBartForSequenceClassification"),
        ("led", "LEDForSequenceClassification"),
        ("umt5", "UMT5ForSequenceClassification"),
    ],
)
def test_its_kin_are_refused_by_their_configuration_alone(
    kind: str, architecture: str, tmp_path: Path
) -> None:
    place = tmp_path / kind
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": kind, "architectures": [architecture]}))
    with pytest.raises(UserError, match=f"is an encoder-decoder.*: {kind}"):
        adopt(str(place), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("family", "settings"),
    [("XLNet", {"cls_last": True, "padding_side": "left"}), ("ConvBert", {}), ("Nystromformer", {})],
)
def test_a_model_whose_answers_padding_changes_is_refused(
    family: str, settings: dict, tmp_path: Path
) -> None:
    place = make_classifier(tmp_path / "theirs", family, tokenizer=word_tokenizer(**settings))
    with pytest.raises(UserError, match="padding on the right changes the answers of this model"):
        adopt(str(place), tmp_path / "ours")
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("spec", [None, "demo"])
def test_a_model_that_fails_in_transformers_itself_is_a_sentence(spec: str | None, tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", "Funnel")
    with pytest.raises(UserError, match=r"transformers' own model cannot read \d+ tokens"):
        adopt(str(place), tmp_path / "ours", spec)
    assert list(tmp_path.iterdir()) == [place]


def test_a_model_that_takes_no_mask_is_refused(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", "FNet")
    with pytest.raises(UserError, match=r"takes no attention_mask, so padding would .*: fnet"):
        adopt(str(place), tmp_path / "ours")
