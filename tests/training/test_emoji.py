import numpy as np
import pytest
import tokenizers
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from handler.pooled_classifier import PooledClassifier
from training.backbones import backbone
from training.emoji import name_emoji

LABELS = ("not-hate", "hate")
PAIR = ("they are 🐒", "they are 🌷")


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module", params=["auto", "fourier"])
def both(request):
    """The same base without and with emoji, once with its own head and once with ours."""
    return [backbone("random:tiny", LABELS, head=request.param, emoji=emoji) for emoji in (False, True)]


def test_texts_that_differ_in_an_emoji_are_told_apart(both) -> None:
    (_, without), (_, tokenizer) = both
    assert len({tuple(ids(without, text)) for text in PAIR}) == 1
    assert len({tuple(ids(tokenizer, text)) for text in PAIR}) == 2


def test_an_emoji_does_not_hide_the_word_beside_it(both) -> None:
    _, (_, tokenizer) = both
    assert ids(tokenizer, "love❤🐒🐒")[:1] == ids(tokenizer, "love")
    assert tokenizer.unk_token_id not in ids(tokenizer, "love❤️🐒🐒")


def test_texts_without_emoji_have_the_ids_that_they_had(both) -> None:
    (_, without), (_, tokenizer) = both
    for text in ("a plain text, with words", "Ünïcödé & <html> 漢字 #tag @user 1:30"):
        assert ids(tokenizer, text) == ids(without, text)


def test_an_emoji_begins_as_the_mean_of_its_name_and_nothing_else_changes(both) -> None:
    (plain, without), (model, tokenizer) = both
    weights = model.get_input_embeddings().weight
    before = plain.get_input_embeddings().weight
    torch.testing.assert_close(weights[: len(before)], before, rtol=0, atol=0)
    assert len(weights) == len(tokenizer) == model.config.vocab_size > len(before) + 1000
    [poo] = ids(tokenizer, "💩")
    torch.testing.assert_close(weights[poo], before[ids(without, "pile of poo")].mean(dim=0))
    if isinstance(model, PooledClassifier):
        assert model.config.backbone["vocab_size"] == len(weights)


def test_both_are_saved_and_read_back(both, tmp_path) -> None:
    _, (model, tokenizer) = both
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert ids(AutoTokenizer.from_pretrained(tmp_path), PAIR[0]) == ids(tokenizer, PAIR[0])
    read = type(model).from_pretrained(tmp_path).eval()
    inputs = tokenizer(PAIR, padding=True, return_tensors="pt")
    with torch.inference_mode():
        seen, expected = (each(**inputs).logits.numpy() for each in (read, model.eval()))
    np.testing.assert_array_equal(seen, expected)


def test_a_base_that_reads_bytes_needs_no_more_tokens() -> None:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {name: index for index, name in enumerate(["<unk>", *alphabet])}, [], unk_token="<unk>"
        )
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    model, _ = backbone("random:tiny", LABELS)
    before = len(tokenizer)
    assert name_emoji(model, tokenizer) == 0
    assert len(tokenizer) == before
