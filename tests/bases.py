"""Tiny base models of random weights in a folder, as their makers would have saved them.

Encoders, decoders, a sentence-embedding model, and a decoder with code of its own that is built as OpenELM
is: sizes under names of its own, a causal language model and no class for anything else.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from training.backbones import backbone

SIZES = {
    "vocab_size": 30522,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "pad_token_id": 0,  # as the tokenizer's
    "initializer_range": 0.1,  # larger than usual, so that what differs is seen
}
GPT2 = {"vocab_size": 30522, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 130}
BASES = {
    "bert": ("BertForMaskedLM", "BertConfig", SIZES),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", SIZES),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2 | {"initializer_range": 0.1}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", SIZES | {"num_key_value_heads": 1}),
}
DECODERS = ("gpt2", "llama", "own-code")

CONFIGURATION = """
from transformers import PretrainedConfig


class TinyLMConfig(PretrainedConfig):
    model_type = "tinylm"

    def __init__(self, vocab_size=30522, model_dim=32, num_transformer_layers=2, **others):
        self.vocab_size = vocab_size
        self.model_dim = model_dim
        self.num_transformer_layers = num_transformer_layers
        self.max_context_length = 130
        others.pop("max_context_length", None)
        others.setdefault("tie_word_embeddings", False)
        super().__init__(**others)
"""
MODELING = """
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_tinylm import TinyLMConfig


class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, hidden):
        return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.norm = RMSNorm(size)
        self.qkv_proj = nn.Linear(size, 3 * size, bias=False)
        self.out_proj = nn.Linear(size, size, bias=False)

    def forward(self, hidden, mask):
        parts = self.qkv_proj(self.norm(hidden)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return hidden + functional.silu(self.out_proj(attended.transpose(1, 2).flatten(2)))


class TinyLMPreTrained(PreTrainedModel):
    config_class = TinyLMConfig
    base_model_prefix = "transformer"

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(std=0.3)


class TinyLMModel(TinyLMPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(Block(config.model_dim) for _ in range(config.num_transformer_layers))
        causal = torch.ones(config.max_context_length, config.max_context_length, dtype=torch.bool).tril()
        self.register_buffer("causal", causal, persistent=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.token_embeddings

    def forward(self, input_ids=None, attention_mask=None, **others):
        hidden = self.token_embeddings(input_ids)
        mask = self.causal[: input_ids.shape[1], : input_ids.shape[1]]
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, :].bool()
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return BaseModelOutputWithPast(last_hidden_state=hidden)


class TinyLMForCausalLM(TinyLMPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.transformer = TinyLMModel(config)
        self.lm_head = nn.Linear(config.model_dim, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **others):
        return CausalLMOutputWithPast(logits=self.lm_head(self.transformer(input_ids, attention_mask)[0]))
"""


def save(kind: str, folder: Path) -> str:
    """Write the base `kind` (a key of BASES, `own-code`, `sentences`) and a tokenizer; the folder's path."""
    torch.manual_seed(0)
    if kind == "own-code":
        _own_code(folder)
    elif kind == "sentences":
        transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(folder)
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False}
        pooling |= {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    else:
        model, config, sizes = BASES[kind]
        getattr(transformers, model)(getattr(transformers, config)(**sizes)).save_pretrained(folder)
    backbone("random:tiny", ("a", "b"))[1].save_pretrained(folder)
    return str(folder)


def _own_code(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "configuration_tinylm.py").write_text(CONFIGURATION)
    (folder / "modeling_tinylm.py").write_text(MODELING)
    model = get_class_from_dynamic_module("modeling_tinylm.TinyLMForCausalLM", str(folder))
    model(model.config_class()).save_pretrained(folder)  # type: ignore[attr-defined]
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_tinylm.TinyLMConfig",
        "AutoModelForCausalLM": "modeling_tinylm.TinyLMForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
