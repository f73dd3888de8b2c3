"""An encoder classifier of our own, on plain tensors: DistilBERT, BERT and RoBERTa in one form, for the GPU.

Transformers' own encoders will not do: a call must not wait for the device (else no CUDA graph can record
it), and texts must run without padding. A worker also starts sooner: on 2 busy cores, importing torch took
2.6 to 3.5 s, and with transformers' classifiers 9.4 to 12.2 s.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

# What it computes is exactly the model's: embeddings, post-norm layers (Vaswani et al. 2017) with query, key
# and value as one product, the last layer for the first token alone, which is all that the head reads, and
# the head. Texts come padded, [batch, length], or packed: the tokens of all texts in one row. Everything but
# attention works on tokens one by one, and is the same code for both. Weights come from safetensors; a linear
# layer whose weights are int8 or fp8 there is computed in that.

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda inputs: functional.gelu(inputs, approximate="tanh"),
    "relu": functional.relu,
    "tanh": torch.tanh,
}
# The largest values of the two, which a row's largest is scaled to.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
# cuBLAS multiplies int8 for more than 16 rows alone (torch._int_mm checks it); of fp8 with scales per row,
# torch's own tests leave single rows out.
LEAST_ROWS = 17

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(query, key, value), each [..., tokens, heads, size] -> as the query."""


@dataclass(frozen=True)
class Anatomy:
    """What the weights do not say: the heads of each layer, activations by name, the norms' epsilon, and
    whether positions are RoBERTa's, counted from behind `pad_id` without padding, or begin at 0."""

    heads: tuple[int, ...]
    activation: str
    head_activation: str
    epsilon: float
    pad_id: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Anatomy":
        """From `dataclasses.asdict`, as JSON kept it."""
        return cls(**{**options, "heads": tuple(options["heads"])})


class ScaledLinear(nn.Module):
    """A linear layer whose product is one of int8 or of fp8 (e4m3).

    Weights are scaled per output, activations per token as they come, so that no text depends on its batch
    mates. `weight` is int8 or fp8 [outputs, inputs], `scale` fp32 [1, outputs].
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.bias: torch.Tensor
        for name, tensor in (("weight", weight), ("scale", scale), ("bias", bias)):
            self.register_buffer(name, tensor)

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype) -> "ScaledLinear":
        """`linear` with its weights rounded to `dtype`."""
        scaled, scales = _scaled(linear.weight.detach(), dtype)
        return cls(scaled, scales.T.contiguous(), linear.bias.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.flatten(0, -2)
        count = len(rows)
        if count < LEAST_ROWS:  # to pad by nothing would copy all
            rows = functional.pad(rows, (0, 0, 0, LEAST_ROWS - count))
        scaled, scales = _scaled(rows, self.weight.dtype)
        if self.weight.dtype == torch.int8:
            product = torch._int_mm(scaled, self.weight.T) * scales * self.scale
        else:
            # With scales per row, CUDA's kernel gives bfloat16 alone.
            product = torch._scaled_mm(
                scaled, self.weight.T, scale_a=scales, scale_b=self.scale, out_dtype=torch.bfloat16
            )
        outputs: torch.Tensor = (product[:count] + self.bias).to(inputs.dtype).unflatten(0, inputs.shape[:-1])
        return outputs


def _scaled(rows: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """[rows, size] in `dtype`, and the scales, fp32 [rows, 1], that each row was divided by."""
    rows = rows.float()
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / LARGEST[dtype]
    scaled = rows / scales
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), scales


class Layer(nn.Module):
    """One encoder layer, post-norm: [..., tokens, dim] -> the same, or, of the last one, the first tokens'.

    `export.rewriting.graph.Layer` is one made of a model's own modules.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], heads: int, anatomy: Anatomy) -> None:
        super().__init__()
        self.heads = heads
        self.activation = ACTIVATIONS[anatomy.activation]
        if "query.weight" in weights:  # the last: keys and values of all tokens, queries of the first
            self.query, self.key_value = _linear(weights, "query"), _linear(weights, "key_value")
        else:
            self.query_key_value = _linear(weights, "query_key_value")
        self.output = _linear(weights, "output")
        self.up, self.down = _linear(weights, "up"), _linear(weights, "down")
        self.attention_norm = _norm(weights, "attention_norm", anatomy.epsilon)
        self.output_norm = _norm(weights, "output_norm", anatomy.epsilon)

    def forward(
        self,
        hidden: torch.Tensor,
        attend: Attend,
        first: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """`first` picks the first tokens from the hidden states of all, where only they are wanted."""
        if first is None:
            query, key, value = self.query_key_value(hidden).chunk(3, dim=-1)
        else:
            key, value = self.key_value(hidden).chunk(2, dim=-1)
            hidden = first(hidden)
            query = self.query(hidden)
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in (query, key, value))
        hidden = self.attention_norm(hidden + self.output(attend(query, key, value).flatten(-2)))
        outputs: torch.Tensor = self.output_norm(hidden + self.down(self.activation(self.up(hidden))))
        return outputs


class Encoder(nn.Module):
    """The classifier. `weights` are its own `state_dict`; they keep their dtypes and devices."""

    def __init__(self, anatomy: Anatomy, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.anatomy = anatomy
        self.words, self.places = (
            nn.Embedding.from_pretrained(weights[f"{name}.weight"]) for name in ("words", "places")
        )
        self.norm = _norm(weights, "norm", anatomy.epsilon)
        self.layers = nn.ModuleList(
            Layer(_below(weights, f"layers.{place}."), heads, anatomy)
            for place, heads in enumerate(anatomy.heads)
        )
        self.dense, self.out = _linear(weights, "dense"), _linear(weights, "out")
        self.head_activation = ACTIVATIONS[anatomy.head_activation]
        self.eval()

    def positions(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Rows of the position embeddings, int64 [batch, length], for ids int64 [batch, length]."""
        pad_id = self.anatomy.pad_id
        if pad_id is None:
            return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        real = input_ids.ne(pad_id).long()
        return real.cumsum(dim=1) * real + pad_id

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """int64 [batch, length], twice -> logits [batch, labels]."""
        # Added to the scores: of a mask of bools each layer would make this again, by three kernels.
        dtype = self.words.weight.dtype
        mask = (attention_mask[:, None, None] - 1).to(dtype) * torch.finfo(dtype).max

        attend = partial(attend_padded, mask=mask)
        hidden = self._embed(input_ids, self.positions(input_ids))
        return self._classify(hidden, attend, attend, lambda hidden: hidden[:, :1]).squeeze(1)

    def packed(
        self, input_ids: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor, longest: int
    ) -> torch.Tensor:
        """As `forward`, without padding. `input_ids` and `positions` are those of all texts in one row,
        integers [tokens]; text i has those from `starts[i]` to `starts[i + 1]`, int32 [texts + 1]; `longest`
        is the most tokens that a text has."""
        texts = torch.arange(len(starts), dtype=torch.int32, device=starts.device)

        within = partial(attend_within, key_starts=starts, longest_key=longest)
        attend = partial(within, query_starts=starts, longest_query=longest)
        attend_once = partial(within, query_starts=texts, longest_query=1)
        hidden = self._embed(input_ids, positions)
        return self._classify(hidden, attend, attend_once, lambda hidden: hidden[starts[:-1]])

    def _embed(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.norm(self.words(input_ids) + self.places(positions))
        return outputs

    def _classify(
        self,
        hidden: torch.Tensor,
        attend: Attend,
        attend_once: Attend,
        first: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        for layer in self.layers[:-1]:
            hidden = layer(hidden, attend)
        hidden = self.layers[-1](hidden, attend_once, first)
        outputs: torch.Tensor = self.out(self.head_activation(self.dense(hidden)))
        return outputs


def attend_padded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention of padded texts: [batch, tokens, heads, size] -> as the query. `mask` is as torch's own."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def attend_within(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    longest_query: int,
    longest_key: int,
) -> torch.Tensor:
    """Attention of packed texts, each within itself: [tokens, heads, size] -> as the query.

    On a GPU it is one flash-attention kernel (Dao 2023, arXiv:2307.08691), which takes fp16 and bf16 alone;
    on a CPU, where none is for packed texts, one call for each text.
    """
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        # Only what is positional: torch 2.11 and 2.13 name the arguments behind these differently.
        attended = varlen_attn(query, key, value, query_starts, key_starts, longest_query, longest_key)
        return cast(torch.Tensor, attended)  # a tuple where more is asked for
    queries, keys = (starts.diff().tolist() for starts in (query_starts, key_starts))
    texts = zip(query.split(queries), key.split(keys), value.split(keys), strict=True)
    return torch.cat([attend_padded(*(part[None] for part in text))[0] for text in texts])


def _linear(weights: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if f"{name}.scale" in weights:
        return ScaledLinear(weight, weights[f"{name}.scale"], bias)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    return _with(linear, weight=weight, bias=bias)


def _norm(weights: Mapping[str, torch.Tensor], name: str, epsilon: float) -> nn.Module:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return _with(nn.LayerNorm(len(weight), epsilon, device="meta"), weight=weight, bias=bias)


def _with(module: nn.Module, **tensors: torch.Tensor) -> nn.Module:
    for name, tensor in tensors.items():
        module.register_parameter(name, nn.Parameter(tensor.detach(), requires_grad=False))
    return module


def _below(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    found: Sequence[str] = [name for name in weights if name.startswith(prefix)]
    return {name.removeprefix(prefix): weights[name] for name in found}
