"""Run many texts through a tokenizer and a model: window by window, in batches of similar length.

`fit.predict_logits` and `heads.embeddings` say what is computed.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 4096  # texts tokenised at once


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
