"""Tiny random classifiers of many architectures, with a word-level tokenizer: nothing is downloaded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SENTENCES = (
    "i you we they he she it made soup for my new neighbours today hate love these people are all good bad "
    "the a an of to and or not very really lovely day rain again who took bread said number text one few "
    "words more some padding that is longer than others have . , ! ? 0 1 2 3 4 5 6 7 8 9"
)
WORDS = SENTENCES.split()

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "Albert": SIZES | {"embedding_size": 16},
    "Bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 200,
    },
    "Bert": SIZES,
    "BigBird": SIZES | {"attention_type": "original_full"},
    "ConvBert": SIZES | {"embedding_size": 32, "head_ratio": 1},
    "DebertaV2": SIZES,
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "Electra": SIZES | {"embedding_size": 32},
    "FNet": SIZES,
    "Funnel": {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1]},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "Longformer": SIZES | {"attention_window": [16, 16], "max_position_embeddings": 600},
    "MPNet": SIZES,
    "ModernBert": SIZES | {"global_attn_every_n_layers": 1},
    "Nystromformer": SIZES,
    "RoFormer": SIZES | {"embedding_size": 32},
    "Roberta": SIZES | {"max_position_embeddings": 130},
    "SqueezeBert": SIZES
    | {"embedding_size": 32}
    | {f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")},
    "XLM": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
}


def word_tokenizer(
    *, special: bool = True, pad_first: bool = True, cls_last: bool = False, **settings: Any
) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer of `WORDS`; `settings` are those of `PreTrainedTokenizerFast`."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*specials, *WORDS] if pad_first else [*specials[1:], *WORDS, "[PAD]"]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A [SEP] [CLS]" if cls_last else "[CLS] $A [SEP]",
            special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=settings.pop("model_max_length", 512),
        model_input_names=["input_ids", "attention_mask"],
        **settings,
    )


def make_classifier(
    folder: Path,
    family: str = "DistilBert",
    labels: Sequence[str] | Mapping[int, str] = ("not-hate", "hate"),
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    scale: float = 3,
    **config: Any,
) -> Path:
    """Save a random classifier of one of `FAMILIES` in `folder`; `scale` spreads its scores, `config` adds to
    its configuration."""
    torch.manual_seed(0)
    tokenizer = tokenizer or word_tokenizer()
    names = dict(labels) if isinstance(labels, Mapping) else dict(enumerate(labels))
    settings = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": names,
        "label2id": {name: place for place, name in names.items()},
    }
    made = getattr(transformers, f"{family}Config")(**(settings | FAMILIES[family] | config))
    model = getattr(transformers, f"{family}ForSequenceClassification")(made)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
