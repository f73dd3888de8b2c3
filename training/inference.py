"""Run many texts through a tokenizer and a model: window by window, in batches of similar length.

`fit.predict_logits` and `heads.embeddings` say what is computed.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from training.recipe import Recipe

WINDOW = 4096  # texts tokenised at once


def has_bf16() -> bool:
    """Whether torch's device computes bf16 itself: where it is emulated, fp32 is faster."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def uses_bf16(recipe: Recipe) -> bool:
    return has_bf16() if recipe.precision == "auto" else recipe.precision == "bf16"


def token_lengths(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[int]:
    """How many tokens the model reads of each text. Ordering by characters is worse: on TweetEval, such
    batches are a third larger, with their padding, than batches by tokens."""
    found: list[int] = []
    for begin in range(0, len(texts), WINDOW):
        window = list(texts[begin : begin + WINDOW])
        found += map(len, tokenizer(window, truncation=True, max_length=max_length)["input_ids"])
    return found


def computed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    compute: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    width: int,
    batch_size: int,
) -> np.ndarray:
    """The results of `compute` for all batches of inputs, [batch, width], as float32 `[n, width]`; the model
    is in eval mode, without gradients."""
    model.eval()
    found = np.zeros((len(texts), width), dtype=np.float32)
    pad = DataCollatorWithPadding(tokenizer)
    with torch.inference_mode():
        for begin in range(0, len(texts), WINDOW):
            window = list(texts[begin : begin + WINDOW])
            encoded = tokenizer(window, truncation=True, max_length=max_length)
            order = np.argsort([-len(ids) for ids in encoded["input_ids"]], kind="stable")
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = pad([{name: values[row] for name, values in encoded.items()} for row in rows])
                inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
                found[begin + rows] = compute(inputs).float().cpu().numpy()
    return found
