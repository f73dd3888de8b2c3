"""Emoji for a vocabulary that lacks them: each becomes a token, which starts as the mean of its name's."""

import unicodedata
from itertools import chain

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Unicode's blocks: miscellaneous symbols and dingbats; symbols, pictographs and emoticons; transport;
# supplemental and extended pictographs. Flags are pairs of letters, whose names say nothing.
BLOCKS = (range(0x2600, 0x27C0), range(0x1F300, 0x1F650), range(0x1F680, 0x1F700), range(0x1F900, 0x1FB00))


def name_emoji(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Give every emoji that is unknown to `tokenizer` a token and an embedding, both in place; returns how
    many. A base that reads bytes knows them all.

    BERT's tokenizers split only at spaces and punctuation, so an unknown emoji makes the whole word that it
    touches unknown. An added token is found inside a word too.
    """
    names = {chr(code): unicodedata.name(chr(code), "").lower() for code in chain(*BLOCKS)}
    missing = [emoji for emoji, name in names.items() if name and _is_unknown(tokenizer, emoji)]
    if not missing:
        return 0
    known = tokenizer.get_vocab()
    pieces = {emoji: _ids(tokenizer, names[emoji]) for emoji in missing if emoji not in known}
    tokenizer.add_tokens(missing)
    encoder = model.base_model
    assert isinstance(encoder, PreTrainedModel)
    rows = len(_weights(encoder))
    encoder.resize_token_embeddings(max(rows, len(tokenizer)), mean_resizing=False)
    weights = _weights(encoder)
    with torch.no_grad():
        for emoji, ids in pieces.items():
            weights[tokenizer.convert_tokens_to_ids(emoji)] = weights[ids].mean(dim=0)
    return len(missing)


def _weights(encoder: PreTrainedModel) -> torch.Tensor:
    found = encoder.get_input_embeddings().weight
    assert isinstance(found, torch.Tensor)
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _is_unknown(tokenizer: PreTrainedTokenizerBase, emoji: str) -> bool:
    """Whether it is an unknown token, alone or behind a word."""
    return tokenizer.unk_token_id in _ids(tokenizer, f"a{emoji} {emoji}")
