"""A text that is cut before it is tokenised has the tokens of the whole text, whatever its tokenizer does."""

import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from handler.predictor import FIRST_CUT, Encoding, Predictor, clean, longest_added_token

MAX_LENGTH = 16
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the quick brown foxes jump over lazy dogs, 1234567 times! aaaa été 漢字 don't I'll x_y".split()  # noqa: SIM905


def corpus() -> Iterator[str]:
    for number in range(60):
        yield " ".join(WORDS[number % len(WORDS) :] + WORDS[: number % 7])


def trained(model, trainer, normalizer=None, pre_tokenizer=None, added=()) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(list(added))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH, stride=3)
    return tokenizer


def word_piece(**more) -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
    return trained(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        **more,
    )


def bpe(normalizer=None, pre_tokenizer=None, **more) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    found = trained(models.BPE(), trainer, normalizer, pre_tokenizer or pre_tokenizers.ByteLevel(), **more)
    found.decoder = decoders.ByteLevel()
    return found


def unigram(pre_tokenizer, normalizer=None) -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    return trained(models.Unigram(), trainer, normalizer, pre_tokenizer)


LONG_TOKEN = "!?" * 50
TOKENIZERS = {
    "word-piece": word_piece,
    "word-piece-with-added-tokens": lambda: word_piece(
        added=[
            LONG_TOKEN,
            AddedToken("<x>", lstrip=True, rstrip=True),
            AddedToken("don't I'll", normalized=True),
        ]
    ),
    "byte-bpe": bpe,
    "byte-bpe-with-prefix": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "byte-bpe-nfkc-and-stripped": lambda: bpe(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    ),
    "byte-bpe-in-one-word": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False)),
    "digits-in-threes": lambda: bpe(
        pre_tokenizer=pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}{1,3}|\s+(?!\S)|[^\s\p{N}]+|\s+"), "isolated"),
                pre_tokenizers.ByteLevel(use_regex=False),
            ]
        )
    ),
    "unigram": lambda: unigram(pre_tokenizers.Metaspace()),
    "unigram-in-one-word": lambda: unigram(pre_tokenizers.Metaspace(split=False)),
    "unigram-without-runs-of-spaces": lambda: unigram(
        pre_tokenizers.Metaspace(),
        normalizers.Sequence(
            [normalizers.NFKD(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.StripAccents()]
        ),
    ),
}


@pytest.fixture(scope="module", params=TOKENIZERS.values(), ids=TOKENIZERS)
def predictor(request: pytest.FixtureRequest) -> Predictor:
    """One without a model."""
    found = Predictor.__new__(Predictor)
    found.artifact = SimpleNamespace(max_length=MAX_LENGTH)  # type: ignore[assignment]
    found.tokenizer, found._pad_id = request.param(), 0
    found._settled_before = max(64, longest_added_token(found.tokenizer))
    return found


def whole(tokenizer: Tokenizer, text: str) -> Encoding:
    found = tokenizer.encode(clean(text))
    return Encoding(found.ids, bool(found.overflowing))


PIECES = [
    *WORDS,
    *(
        " ",
        "  ",
        " " * 150,
        "\n",
        "\t\u00a0",
        "!",
        "!?" * 15,
        "'",
        "1" * 50,
        "a" * 130,
        "a" * 300,
        "\u0301" * 90,
    ),
    *(
        "e\u0301",
        "\ufdfa",
        "\u200b",
        "\ud800",
        "각",
        "漢" * 40,
        "😀👩‍👩‍👧",
        "[MASK]",
        "[MAS",
        "<x>",
        " <x> ",
        LONG_TOKEN,
        "ﬁ",
        "ẞΣ",
    ),
]
TEXT = st.one_of(
    st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 12)), min_size=1, max_size=6).map(
        lambda parts: "".join(piece * count for piece, count in parts)
    ),
    st.lists(st.sampled_from(PIECES), min_size=40, max_size=90).map("".join),
    st.lists(st.sampled_from(PIECES), min_size=40, max_size=90).map(" ".join),
    st.text(min_size=FIRST_CUT * MAX_LENGTH, max_size=400),
)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=2))
def test_the_tokens_are_those_of_the_whole_text(predictor: Predictor, texts: list[str]) -> None:
    assert predictor.encode(texts) == [whole(predictor.tokenizer, text) for text in texts]
    found = predictor.tokenise(texts[0])
    expected = predictor.tokenizer.encode(clean(texts[0]))
    assert (found.ids, found.offsets) == (expected.ids, expected.offsets)
    assert found.special_tokens_mask == expected.special_tokens_mask


def test_little_of_a_long_text_is_tokenised(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Watched:
        def __getattr__(self, name: str):
            kept = getattr(tokenizer, name)

            def watch(texts, *more):
                seen.extend(texts)
                return kept(texts, *more)

            return watch if name.startswith("encode_batch") else kept

    tokenizer = predictor.tokenizer
    monkeypatch.setattr(predictor, "tokenizer", Watched())
    texts = ["the quick " * 10_000, "short"]
    encodings = predictor.encode(texts)
    assert encodings == [whole(tokenizer, text) for text in texts]
    assert encodings[0].truncated
    parts_words = len(set(tokenizer.encode("the quick brown").word_ids) - {None}) > 1
    assert sum(map(len, seen)) < (5000 if parts_words else 400_000)


def test_what_is_read_whole_is_not_cut(predictor: Predictor) -> None:
    text = "the quick brown " * 500
    (cut,), (all_of_it,) = predictor.encode([text]), predictor.encode([text], [True])
    assert cut.ids == all_of_it.ids
    assert not cut.rest
    assert len(all_of_it.rest) > 20


def test_a_tokenizer_that_keeps_the_end_sees_the_whole_text(predictor: Predictor) -> None:
    text = "lazy dogs " * 500 + "the quick brown foxes"
    predictor.tokenizer.enable_truncation(MAX_LENGTH, stride=3, direction="left")
    try:
        assert predictor.encode([text]) == [whole(predictor.tokenizer, text)]
        assert re.search("fox", predictor.tokenizer.decode(predictor.encode([text])[0].ids).replace(" ", ""))
    finally:
        predictor.tokenizer.enable_truncation(MAX_LENGTH, stride=3)
