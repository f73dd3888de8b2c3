"""A tokenizer's settings are kept, or refused in a sentence: what is served reads as transformers reads."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from export.adoption.adopt import adopt
from export.build import build
from export.registry import VARIANTS
from export.source import Source
from handler.errors import UserError
from handler.predictor import Predictor
from tests.conftest import refused
from tests.tiny import edit_json, make_classifier, word_tokenizer
from training.backbones import minilm_folder
from training.checkpoint import Checkpoint, load_data


def with_added_tokens(folder: Path, *, resized: bool) -> Path:
    tokenizer = word_tokenizer()
    before = len(tokenizer)
    tokenizer.add_tokens(["@user", "http"])
    return make_classifier(folder, tokenizer=tokenizer, vocab_size=len(tokenizer) if resized else before)


def test_tokens_that_the_model_has_no_embedding_for_are_named(tmp_path: Path) -> None:
    place = with_added_tokens(tmp_path / "theirs", resized=False)
    said = refused("export", "build", "fp32", "--checkpoint", place, "--artifacts", tmp_path / "b" / "a")
    assert "has tokens that its model has no embedding for: '@user' (" in said
    assert "'http' (" in said
    assert not (tmp_path / "b").exists()


def test_a_padding_token_that_was_added_later_is_one_of_these(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(pad_first=False)
    place = make_classifier(
        tmp_path / "theirs", tokenizer=tokenizer, vocab_size=len(tokenizer) - 1, pad_token_id=0
    )
    with pytest.raises(UserError, match=r"no embedding for: '\[PAD\]'"):
        adopt(str(place), tmp_path / "ours")


def test_a_padding_token_of_the_configuration_has_an_embedding(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs")
    edit_json(place / "config.json", pad_token_id=5000)
    with pytest.raises(UserError, match=r"classifier that can be read at .*: Padding_idx must be within"):
        adopt(str(place), tmp_path / "ours")


def served(place: Path, folder: Path) -> tuple[Predictor, Checkpoint]:
    checkpoint = adopt(str(place), folder / "ours")
    source = Source(checkpoint, load_data(checkpoint), folder / "artifacts")
    return Predictor(build(VARIANTS["fp32"], source, lambda _: None), 1), checkpoint


def expected(place: Path, text: str, max_length: int = 128) -> tuple[list[int], torch.Tensor]:
    """transformers' own ids and logits."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()
    inputs = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        return inputs["input_ids"][0].tolist(), model(**inputs).logits


def assert_same(predictor: Predictor, place: Path, *texts: str) -> None:
    encodings = predictor.encode(texts)
    together = predictor.logits(encodings)
    for row, text in enumerate(texts):
        ids, logits = expected(place, text)
        assert encodings[row].ids == ids, text
        torch.testing.assert_close(torch.tensor(together[row : row + 1]), logits, atol=1e-4, rtol=0)


def test_added_tokens_with_embeddings_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    place = with_added_tokens(tmp_path / "theirs", resized=True)
    predictor, checkpoint = served(place, tmp_path)
    assert_same(predictor, place, "@user good day", "good@user day http", "good [SEP] day [PAD]")
    assert checkpoint.meta.adoption.max_logit_diff < 1e-4


def test_a_text_that_is_too_long_is_cut_on_the_tokenizers_own_side(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", tokenizer=word_tokenizer(truncation_side="left"))
    predictor, checkpoint = served(place, tmp_path)
    text = " ".join(["hate"] * 200 + ["lovely"] * 100)
    assert_same(predictor, place, text, "good day")
    assert checkpoint.truncation_side == "left"
    assert predictor.artifact.meta.inputs.truncation_side == "left"
    assert any("the end is read" in note for note in predictor.artifact.meta.adoption.notes)


def test_texts_are_padded_on_the_right_and_answered_as_each_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_classifier(tmp_path / "theirs", "Bert", tokenizer=word_tokenizer(padding_side="left"))
    predictor, _ = served(place, tmp_path)
    assert_same(predictor, place, "good day", "hate these people and all of the others", "rain")
    assert "its own batches, padded on the left, differ by up to" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"tokenize_chinese_chars": False},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_that_differ_from_tokenizer_json_are_read_as_transformers_does(
    settings: dict, tmp_path: Path
) -> None:
    place = make_classifier(tmp_path / "theirs", "Bert", vocab_size=30522)
    (place / "tokenizer.json").write_bytes((minilm_folder("tokenizer.json") / "tokenizer.json").read_bytes())
    (place / "special_tokens_map.json").unlink()
    (place / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 512} | settings)
    )
    checkpoint = adopt(str(place), tmp_path / "ours")
    own = Source(checkpoint, load_data(checkpoint), tmp_path).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(place)
    for text in ("Hello WORLD", "Caf\u00e9 na\u00efve", "\u4eca\u5929\u597d"):
        assert own.encode(text).ids == theirs(text)["input_ids"]


def test_a_space_before_the_first_word_is_added_where_transformers_adds_it(tmp_path: Path) -> None:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, "\u0120g", "\u0120go"]
    bpe = tokenizers.models.BPE(
        {name: place for place, name in enumerate(names)}, [("\u0120", "g"), ("\u0120g", "o")]
    )
    backend = tokenizers.Tokenizer(bpe)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    place = make_classifier(tmp_path / "theirs", "Roberta", vocab_size=len(names), pad_token_id=1)
    backend.save(str(place / "tokenizer.json"))
    (place / "special_tokens_map.json").unlink()
    (place / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True})
    )
    checkpoint = adopt(str(place), tmp_path / "ours")
    own = Source(checkpoint, load_data(checkpoint), tmp_path).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(place)
    for text in ("good", " good", "go\u00f6d <mask>go"):
        assert own.encode(text).ids == theirs(text)["input_ids"]
    assert own.encode("good").tokens[1] == "\u0120go"


def test_a_tokenizer_without_tokenizer_json_is_converted_and_held_the_same_way(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", "Bert")
    vocabulary = json.loads((place / "tokenizer.json").read_text())["model"]["vocab"]
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (place / name).unlink()
    (place / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    checkpoint = adopt(str(place), tmp_path / "ours")
    assert (checkpoint.folder / "tokenizer.json").is_file()
    assert checkpoint.meta.adoption.max_logit_diff < 1e-4


def test_token_types_that_change_nothing_are_left_out(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", "Bert")
    edit_json(place / "tokenizer_config.json", model_input_names=None)
    adopt(str(place), tmp_path / "ours")


def test_token_types_that_the_answers_depend_on_are_refused(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    place = make_classifier(tmp_path / "theirs", "Bert", tokenizer=tokenizer)
    edit_json(
        place / "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    template = json.loads((place / "tokenizer.json").read_text())
    for piece in template["post_processor"]["single"]:
        next(iter(piece.values()))["type_id"] = 1
    (place / "tokenizer.json").write_text(json.dumps(template))
    with pytest.raises(UserError, match=r"needs inputs that are not served.*token_type_ids"):
        adopt(str(place), tmp_path / "ours")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pad_token": None}, "it has no padding token"),
        ({"split_special_tokens": True}, "it reads its special tokens as words"),
        ({"auto_map": {"AutoTokenizer": ["own.Own", None]}}, "it ships its own code"),
    ],
    ids=["no padding token", "special tokens split", "own code"],
)
def test_what_a_tokenizer_json_cannot_say_is_refused(changes: dict, expected: str, tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs")
    (place / "special_tokens_map.json").unlink(missing_ok=True)
    edit_json(place / "tokenizer_config.json", **changes)
    with pytest.raises(UserError, match=expected):
        adopt(str(place), tmp_path / "ours")
    assert list(tmp_path.iterdir()) == [place]


def test_a_tokenizer_that_reads_otherwise_as_served_is_refused_by_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_classifier(tmp_path / "theirs")
    call = transformers.PreTrainedTokenizerFast.__call__

    def prefixed(self, text, **options):
        return call(self, f"the {text}" if isinstance(text, str) else text, **options)

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "__call__", prefixed)
    with pytest.raises(UserError, match=r"would not be tokenised as transformers does: \d+ of \d+ texts"):
        adopt(str(place), tmp_path / "ours")
    assert list(tmp_path.iterdir()) == [place]


def test_a_text_in_which_the_tokenizer_finds_nothing_has_finite_scores(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", tokenizer=word_tokenizer(special=False))
    predictor, _ = served(place, tmp_path)
    (nothing, something) = predictor.predict(["\u2028", "good day"])
    assert abs(nothing.scores.sum() - 1) < 1e-5
    assert_same(predictor, place, "good day", "rain")
    assert something.tokens == 2


@pytest.mark.parametrize(("asked", "positions", "taken"), [(None, 64, 64), (512, 64, 64), (16, 512, 16)])
def test_the_length_is_what_is_asked_for_and_no_more_than_can_be_read(
    asked: int | None, positions: int, taken: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_classifier(tmp_path / "theirs", max_position_embeddings=positions)
    checkpoint = adopt(str(place), tmp_path / "ours", max_length=asked)
    assert checkpoint.meta.max_length == taken
    assert ("cut at 64 tokens, not 512" in capsys.readouterr().err) == (asked == 512)


def test_all_of_a_long_text_is_read_in_windows_from_the_side_that_is_kept(tmp_path: Path) -> None:
    place = make_classifier(tmp_path / "theirs", tokenizer=word_tokenizer(truncation_side="left"))
    checkpoint = adopt(str(place), tmp_path / "ours", max_length=12)
    tokenizer = Source(checkpoint, load_data(checkpoint), tmp_path).tokenizer
    text = " ".join(str(number % 10) for number in range(40))
    kept = tokenizer.encode(text)
    whole = transformers.AutoTokenizer.from_pretrained(place)(text)["input_ids"]
    assert kept.ids == [whole[0], *whole[-11:]]
    assert {*kept.ids, *(token for window in kept.overflowing for token in window.ids)} == set(whole)


def test_a_base_model_is_not_trained_with_tokens_that_it_has_no_embedding_for(tmp_path: Path) -> None:
    place = with_added_tokens(tmp_path / "theirs", resized=False)
    output = tmp_path / "checkpoint"
    said = refused("training", "--data", "demo", "--base", place, "--output", output, "--epochs", 1)
    assert "has tokens that its model has no embedding for: '@user'" in said
    assert not output.exists()


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, "leaves no room for a text: 1 tokens"),
        (129, "cannot read texts that long: --max-length 129. Give 128 tokens or fewer"),
    ],
)
def test_training_asks_for_a_length_that_the_base_model_reads(
    length: int, expected: str, tmp_path: Path
) -> None:
    place = make_classifier(tmp_path / "theirs", "Roberta", pad_token_id=1)  # 130 positions, two of them lost
    arguments = ("--base", place, "--output", tmp_path / "checkpoint", "--epochs", 1, "--max-length", length)
    assert expected in refused("training", "--data", "demo", *arguments)
