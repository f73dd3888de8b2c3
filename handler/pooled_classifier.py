"""A classifier over any backbone of transformers: its hidden states, pooled, under a head of our own.

For models without a suitable head in transformers: decoder language models (pooled by the last token, which
has read all of the text), sentence-embedding models (by the mean), and models with their own code.
Config and weights are plain transformers files; importing this module makes
`AutoModelForSequenceClassification` read them.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module
from transformers.modeling_outputs import SequenceClassifierOutput

from handler.errors import UnsupportedError

# Only the torch loader imports it, so that an archive of another runtime needs neither torch nor this. Texts
# are padded on the right, as the Predictor does: a causal model never looks there, and needs no padding on
# the left. A backbone with code of its own carries that code next to its weights. Nothing here runs it unless
# the operator says so by TRUST_REMOTE_CODE=1; artifacts of traced graphs (ONNX, OpenVINO, compiled) hold no
# code at all.

TRUST = "TRUST_REMOTE_CODE"
POOLINGS = ("first", "mean", "last", "mean-max")
HEADS = ("linear", "mlp", "fourier")
FEATURES = 4096  # of a fourier head
PADDED = 1e4  # taken from what padding holds, so that it is no maximum; within fp16
# What the stages read of a config, whatever the backbone calls it.
SHARED = ("vocab_size", "pad_token_id", "max_position_embeddings", "num_hidden_layers", "num_attention_heads")


class Direction(nn.Module):
    """An embedding without its length, float32 [batch, hidden]."""

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        lengths = embeddings.square().sum(dim=1, keepdim=True).sqrt()
        return embeddings / lengths.clamp(min=1e-12)


class Cosine(nn.Module):
    def forward(self, angles: torch.Tensor) -> torch.Tensor:
        return angles.cos()


class Neighbours(nn.Module):
    """A convolution over each token and the one on either side (Kim 2014, arXiv:1408.5882), as one product:
    [batch, length, hidden] -> [batch, length, channels]."""

    def __init__(self, hidden_size: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * hidden_size, channels)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        # A text's last token sees zeros behind it, whether there is padding or not.
        own = hidden * attention_mask.unsqueeze(-1).to(hidden.dtype)
        framed = functional.pad(own, (0, 0, 1, 1))
        found: torch.Tensor = self.linear(torch.cat([framed[:, :-2], own, framed[:, 2:]], dim=2))
        return functional.gelu(found)


class PooledClassifierConfig(PretrainedConfig):
    """`backbone` is the backbone's config as a dict; `causal` says that no token reads those behind it. The
    head also reads so many `channels` of `Neighbours`, pooled like the hidden states."""

    model_type = "pooled-classifier"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        pooling: str = "mean",
        head: str = "linear",
        hidden_size: int = 0,
        causal: bool = False,
        channels: int = 0,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.backbone = backbone or {}
        self.pooling = pooling
        self.head = head
        self.hidden_size = hidden_size
        self.causal = causal
        self.channels = channels


class PooledClassifier(PreTrainedModel):
    """`backbone`, pooling, `head`. Given a `backbone`, its weights are kept; else they are to be loaded."""

    config: PooledClassifierConfig
    config_class = PooledClassifierConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True

    def __init__(self, config: PooledClassifierConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if backbone is None:
            backbone = _untrained(config)
        else:
            for module in backbone.modules():
                module._is_hf_initialized = True  # type: ignore[assignment] # read by transformers
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # type: ignore[assignment]  # for another head
        self.backbone = backbone
        self.neighbours = Neighbours(config.hidden_size, config.channels) if config.channels else None
        width = (config.hidden_size + config.channels) * (2 if config.pooling == "mean-max" else 1)
        self.head = _head(config.head, width, config.hidden_size, config.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers' own

    def _init_weights(self, module: nn.Module) -> None:
        """The head keeps torch's own initialisation; the backbone has its own."""

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [batch, length], twice -> what the head reads, [batch, hidden]."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask)[0]
        embedding = pool(hidden, attention_mask, self.config.pooling)
        if self.neighbours is None:
            return embedding
        around = pool(self.neighbours(hidden, attention_mask), attention_mask, self.config.pooling)
        return torch.cat([embedding, around], dim=1)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits [batch, labels]. Token types, which some tokenizers give, say nothing of a lone text."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return SequenceClassifierOutput(logits=self.head(self.embed(input_ids, mask)))

    def save_pretrained(self, save_directory: Any, *arguments: Any, **named: Any) -> None:
        super().save_pretrained(save_directory, *arguments, **named)
        if "auto_map" in self.config.backbone:
            for own in (self.backbone, self.backbone.config):
                custom_object_save(own, save_directory)


def _head(kind: str, width: int, size: int, labels: int) -> nn.Module:
    """Of inputs `width`; a hidden layer of an `mlp` has `size`. `fourier` approximates a Gaussian kernel on
    directions by random features (Rahimi and Recht, 2007): the cosines of random projections, under a
    linear layer that `training.heads` fits."""
    if kind == "fourier":
        return nn.Sequential(Direction(), nn.Linear(width, FEATURES), Cosine(), nn.Linear(FEATURES, labels))
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, size), nn.GELU(), nn.Dropout(0.1), nn.Linear(size, labels))
    return nn.Linear(width, labels)


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """[batch, length, hidden] -> [batch, hidden]: the first token, the mean of the attended, or the last; or
    [batch, 2 hidden], their mean and their maximum."""
    if pooling == "first":
        return hidden[:, 0]
    if pooling in ("mean", "mean-max"):
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        if pooling == "mean":
            return mean
        return torch.cat([mean, (hidden - PADDED * (1 - mask)).amax(dim=1)], dim=1)
    last = (attention_mask.sum(dim=1) - 1).clamp(min=0)  # texts are padded on the right
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


def pooled(
    backbone: PreTrainedModel,
    pooling: str,
    head: str,
    pad_id: int,
    names: dict[str, Any],
    channels: int = 0,
) -> PooledClassifier:
    """A classifier with a fresh head over a loaded backbone; `names` are `id2label` and `label2id`.

    `pooling` "auto" is the last token of a causal model, the mean of any other.
    """
    own = backbone.config
    given = {name: value for name, value in own.to_dict().items() if name not in ("dtype", "torch_dtype")}
    given["use_cache"] = own.use_cache = False
    given.pop("auto_map", None)
    if own.model_type not in CONFIG_MAPPING:
        classes = {"AutoConfig": type(own), "AutoModel": type(backbone)}
        given["auto_map"] = {
            kind: f"{found.__module__.rpartition('.')[2]}.{found.__name__}" for kind, found in classes.items()
        }
    hidden_size, causal = _tried(backbone)
    shared = {name: getattr(own, name, None) for name in SHARED} | {"pad_token_id": pad_id}
    if pooling == "auto":
        pooling = "last" if causal else "mean"
    config = PooledClassifierConfig(
        given,
        pooling,
        head,
        hidden_size,
        causal,
        channels,
        **shared,
        **names,
    )
    return PooledClassifier(config, backbone)


@torch.no_grad()
def _tried(backbone: PreTrainedModel) -> tuple[int, bool]:
    """The size of the hidden states, and whether a token's stay what they are when others follow it."""
    training = backbone.training
    backbone.eval()
    ids = torch.arange(8, device=backbone.device)[None] + 5
    long, short = (
        backbone(input_ids=part, attention_mask=torch.ones_like(part))[0] for part in (ids, ids[:, :5])
    )
    backbone.train(training)
    return long.shape[-1], torch.allclose(long[:, :5], short, atol=1e-4)


def _untrained(config: PooledClassifierConfig) -> PreTrainedModel:
    given = dict(config.backbone)
    own_code = given.pop("auto_map", None)
    if own_code is None:
        model: PreTrainedModel = AutoModel.from_config(CONFIG_MAPPING[given["model_type"]].from_dict(given))
        return model
    if os.environ.get(TRUST) != "1":
        raise UnsupportedError(
            "this model brings its own code, which is not run",
            seen=own_code["AutoModel"],
            remedy="Serve a traced variant without it, such as onnx-fp32; or read the code, and set "
            f"{TRUST}=1 if you trust it",
        )
    folder = str(config.name_or_path)
    kind, architecture = (
        get_class_from_dynamic_module(own_code[name], folder, local_files_only=True)
        for name in ("AutoConfig", "AutoModel")
    )  # type: Any, Any
    model = architecture._from_config(kind.from_dict(given))
    return model


def read_classifier(folder: str | Path, **options: Any) -> Any:
    """The `PreTrainedModel` in a folder, in eval mode; nothing is fetched, unpickled or run."""
    return AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **options
    ).eval()


AutoConfig.register(PooledClassifierConfig.model_type, PooledClassifierConfig, exist_ok=True)
AutoModelForSequenceClassification.register(PooledClassifierConfig, PooledClassifier, exist_ok=True)
