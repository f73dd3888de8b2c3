"""A classifier of transformers as the `Encoder` that GPUs run: the same weights under other names.

DistilBERT, BERT and RoBERTa, and those that are RoBERTa but for their words. The rewrite of the layers is
`graph.lean`'s, which is exact; what is taken over here, embeddings and head, is tried on random
inputs, padded and packed.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch

from export.rewriting.graph import EXACT, Layer, lean, parts, probe
from handler.cuda import packed
from handler.encoder import ACTIVATIONS, Anatomy, Encoder, ScaledLinear
from handler.errors import UnsupportedError
from training.anatomies import ANATOMIES

AS_ROBERTA = ("roberta", "xlm-roberta", "camembert")
PRODUCTS = ("query_key_value", "query", "key_value", "output", "up", "down")


def encoder_of(model: Any) -> Encoder:
    """The fp32 `Encoder` that computes what `model` does, a `PreTrainedModel` in eval mode, which is leaned
    on the way. Raises `UnsupportedError` for a model that has another form."""
    config = model.config
    kind = "roberta" if config.model_type in AS_ROBERTA else config.model_type
    activation = getattr(config, "activation", None) or getattr(config, "hidden_act", None)
    if kind not in ANATOMIES or activation not in ACTIVATIONS:
        raise _other_form(f"{config.model_type} with {activation}")
    inputs = probe(model)
    with torch.no_grad():
        expected = model(**inputs).logits
    layers = [module for module in lean(model).modules() if isinstance(module, Layer)]
    if not layers or not layers[-1].first_only:
        raise _other_form(f"layers of {config.model_type} that are not its own")
    embeddings = getattr(model, model.base_model_prefix).embeddings
    names = ANATOMIES[kind]
    modules = {"norm": embeddings.LayerNorm, "dense": model.get_submodule(names.dense)}
    modules |= {"out": model.get_submodule(names.out)}
    modules |= {f"layers.{place}": layer for place, layer in enumerate(layers)}
    weights = _embedding_weights(embeddings)
    for prefix, module in modules.items():
        weights |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
    pad_id = embeddings.padding_idx if kind == "roberta" else None
    heads = tuple(layer.heads for layer in layers)
    anatomy = Anatomy(heads, activation, names.head_activation, embeddings.LayerNorm.eps, pad_id)
    encoder = Encoder(anatomy, {name: tensor.detach().contiguous() for name, tensor in weights.items()})
    if not _computes(encoder, inputs, expected):
        raise _other_form(f"{config.model_type} whose logits come out different")
    return encoder


def _embedding_weights(embeddings: Any) -> dict[str, torch.Tensor]:
    places = embeddings.position_embeddings.weight
    if getattr(embeddings, "token_type_embeddings", None) is not None:
        places = places + embeddings.token_type_embeddings.weight[0]  # a lone text has but the first type
    return {"words.weight": embeddings.word_embeddings.weight, "places.weight": places}


def quantise(encoder: Encoder, model: Any, dtype: torch.dtype, leave: Collection[str] = ()) -> list[str]:
    """Replace the products of the encoder's layers, in place, by products of `dtype` (int8, fp8), except
    those that compute a linear layer in `leave` (named as in `model`, the leaned model that the encoder was
    made from). Returns the names of those that were left."""
    left = []
    for own, theirs in _products(encoder, model):
        if set(parts(theirs)) & set(leave):
            left.append(own)
        else:
            linear: Any = encoder.get_submodule(own)
            encoder.set_submodule(own, ScaledLinear.of(linear, dtype))
    return left


def _products(encoder: Encoder, model: Any) -> Iterator[tuple[str, str]]:
    """The products of the encoder's layers, by their names there and in the leaned model."""
    blocks = [name for name, module in model.named_modules() if isinstance(module, Layer)]
    for place, (layer, block) in enumerate(zip(encoder.layers, blocks, strict=True)):
        own = (part for part in PRODUCTS if hasattr(layer, part))
        yield from ((f"layers.{place}.{part}", f"{block}.{part}") for part in own)


@torch.no_grad()
def _computes(encoder: Encoder, inputs: dict[str, torch.Tensor], expected: torch.Tensor) -> bool:
    ids = inputs["input_ids"]
    mask = inputs["attention_mask"]
    without_padding = torch.from_numpy(packed(encoder, "cpu")(ids.numpy(), mask.numpy()))
    return all(torch.allclose(found, expected, atol=EXACT) for found in (encoder(ids, mask), without_padding))


def _other_form(seen: str) -> UnsupportedError:
    return UnsupportedError(
        "this classifier cannot be converted to the project's own encoder",
        seen=seen,
        remedy="DistilBERT, BERT and RoBERTa can be; for others choose cuda-fp16 or cuda-compiled-fp16",
    )
