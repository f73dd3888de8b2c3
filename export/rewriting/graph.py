"""The classifier as one graph with the interface of every runtime: two inputs, fp32 logits.

`lean` rewrites the encoder layers of DistilBERT, BERT and RoBERTa (and whoever is built like them) into one
form that converters and kernels like: query, key and value as one matrix product, attention that names its
heads, and a last layer that computes what the classifier reads, the first token, and nothing else, where it
reads no more. The rewrite is exact, which is tried on random inputs before it is taken; other models are
traced as they are.
"""

import copy
import logging
import os
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from handler import encoder
from handler.errors import UnsupportedError, UserError, first_line
from training.anatomies import BERT, DISTILBERT, Anatomy

# Sums in another order: what two exact computations of one fp32 model may differ by.
EXACT = 1e-4
# A layer of transformers 4 returns a tuple, of 5 a tensor.
IN_TUPLE = int(transformers.__version__.split(".")[0]) < 5


class Layer(encoder.Layer):
    """The served encoder's layer, of a model's own modules: fp32 [batch, length, dim] -> the same, or, where
    `first_only`, [batch, 1, dim]: keys and values are those of all tokens, everything else of the first."""

    def __init__(self, block: Any, first_only: bool) -> None:
        nn.Module.__init__(self)
        self.first_only = first_only
        names = anatomy_of(block)
        query, key, value = (block.get_submodule(path) for path in (names.query, names.key, names.value))
        self.output = block.get_submodule(names.attention_output)
        self.attention_norm = block.get_submodule(names.attention_norm)
        self.up, self.down = block.get_submodule(names.up), block.get_submodule(names.down)
        self.activation = attrgetter(names.activation)(block)
        self.output_norm = block.get_submodule(names.output_norm)
        self.heads = attrgetter(names.heads)(block)
        if first_only:
            self.query, self.key_value = query, _joined(key, value)
        else:
            self.query_key_value = _joined(query, key, value)

    def forward(  # type: ignore[override]  # as transformers calls it
        self, hidden: torch.Tensor, attention_mask: Any = None, *_: Any, **named: Any
    ) -> Any:
        mask = named.get("attn_mask", attention_mask)
        if mask is not None:  # [batch, 1, 1, length]: the same for every query, only padding is masked
            mask = mask[:, None, None].bool() if mask.dim() == 2 else mask[:, :, :1]
        first = (lambda hidden: hidden[:, :1]) if self.first_only else None
        hidden = super().forward(hidden, partial(encoder.attend_padded, mask=mask), first)
        return (hidden,) if IN_TUPLE else hidden


def lean(model: Any) -> Any:
    """`model` with its layers as `Layer`s, the last one for the first token only, if that is exact; else with
    whole layers, if that is exact; else `model` unchanged. `model` is a `PreTrainedModel` in eval mode with
    SDPA attention, and is changed in place."""
    blocks = _blocks(with_linears(model))
    if blocks is None:
        return model
    inputs = probe(model)
    kept = list(blocks)
    with torch.no_grad():
        expected = model(**inputs).logits
        for first_only in (True, False):
            try:
                for place, block in enumerate(kept):
                    blocks[place] = Layer(block, first_only=first_only and place == len(kept) - 1)
                if torch.allclose(model(**inputs).logits, expected, atol=EXACT):
                    return model
            # A layer, or what reads it, has another form.
            except (RuntimeError, TypeError, IndexError, AttributeError):
                continue
    for place, block in enumerate(kept):
        blocks[place] = block
    return model


def with_linears(model: Any) -> Any:
    """`model` with GPT-2's way to write a linear layer (Conv1D, its weight transposed) written as all others,
    so that converters and proofs see one kind; changed in place."""
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            inputs, outputs = module.weight.shape
            linear = nn.Linear(inputs, outputs, device="meta")
            linear.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=False)
            linear.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
            model.set_submodule(name, linear)
    return model


def parts(name: str) -> tuple[str, ...]:
    """Names, in a `PreTrainedModel`, of the linear layers that the leaned module `name` computes."""
    prefix, _, own = name.rpartition(".")
    fields = _PARTS.get(own, ())
    return (name, *(f"{prefix}.{getattr(names, field)}" for names in (DISTILBERT, BERT) for field in fields))


_PARTS = {  # a leaned module's linear layers, as fields of `Anatomy`
    "query_key_value": ("query", "key", "value"),
    "key_value": ("key", "value"),
    "query": ("query",),
    "output": ("attention_output",),
    "up": ("up",),
    "down": ("down",),
}


def anatomy_of(block: nn.Module) -> Anatomy:
    """Where a layer of DistilBERT, or of BERT, RoBERTa and similar models, keeps its parts."""
    return DISTILBERT if hasattr(block, DISTILBERT.attention_norm) else BERT


def _blocks(model: Any) -> nn.ModuleList | None:
    """The encoder's layers, if `Layer` can read them; else None."""
    encoder = getattr(model, model.base_model_prefix, None)
    stack = getattr(encoder, "transformer", None) or getattr(encoder, "encoder", None)
    blocks = getattr(stack, "layer", None)
    if not blocks:
        return None
    own = getattr(getattr(blocks[0], "attention", None), "self", None)
    bert = hasattr(own, "query") and getattr(own, "position_embedding_type", "absolute") == "absolute"
    return blocks if bert or hasattr(blocks[0], DISTILBERT.attention_norm) else None


def _joined(*linears: nn.Linear) -> nn.Linear:
    """One linear layer whose outputs are those of `linears`, side by side."""
    joined = copy.deepcopy(linears[0])
    joined.out_features = sum(linear.out_features for linear in linears)
    joined.weight = nn.Parameter(torch.cat([linear.weight for linear in linears]), requires_grad=False)
    joined.bias = nn.Parameter(torch.cat([linear.bias for linear in linears]), requires_grad=False)
    return joined


def probe(model: Any) -> dict[str, torch.Tensor]:
    """Random inputs with padding, the same each time."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, model.config.vocab_size, (4, 12), generator=generator)
    mask = torch.arange(12) < torch.tensor([[12], [7], [3], [2]])
    return {
        "input_ids": ids.where(mask, torch.tensor(model.config.pad_token_id)),
        "attention_mask": mask.long(),
    }


class Logits(nn.Module):
    """`model` as `(input_ids, attention_mask) -> logits`: int64 [batch, length] -> fp32 [batch, labels]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits.float()
        return logits


def trace(model: nn.Module, max_length: int) -> torch.export.ExportedProgram:
    """Export for any batch and any length from 2 to `max_length`."""
    shape = {
        0: torch.export.Dim("batch", min=1, max=4096),
        1: torch.export.Dim("length", min=2, max=max_length),
    }
    device = next(model.parameters()).device
    # Two tensors: torch.export takes one that is passed twice for one input, and drops the other.
    ids, mask = (torch.ones(8, min(64, max_length), dtype=torch.int64, device=device) for _ in range(2))
    try:
        with torch.no_grad():
            return torch.export.export(
                Logits(model), (ids, mask), dynamic_shapes={"input_ids": shape, "attention_mask": shape}
            )
    except Exception as error:  # of many kinds, none of them documented
        raise UnsupportedError(
            "torch.export cannot trace this architecture for any batch and length",
            seen=f"{type(error).__name__}: {first_line(error)}",
            remedy="Serve fp32, or a variant that is not traced",
        ) from error


def compile_ahead(model: nn.Module, max_length: int, package: Path, options: dict[str, Any]) -> None:
    """Trace `model` and compile it into the AOTInductor `package`, with the `options` of Inductor.

    Raises `UserError` where the compiler fails.
    """
    from torch._inductor.exc import InductorError

    if next(model.parameters()).is_cuda:
        from torch.utils.cpp_extension import CUDA_HOME

        if CUDA_HOME:  # where the variable is set, and only there, Inductor links with the stub of libcuda
            os.environ.setdefault("CUDA_HOME", CUDA_HOME)
    logger = logging.getLogger("torch._inductor.select_algorithm")  # prints a page for each kernel that fails
    disabled = logger.disabled
    with torch.no_grad():
        try:
            logger.disabled = True
            torch._inductor.aoti_compile_and_package(
                trace(model, max_length), package_path=str(package), inductor_configs=options
            )
        except InductorError as error:
            compiler = os.environ.get("CXX", "g++")
            raise UserError(
                "the model did not compile",
                seen=_why_it_failed(str(error)),
                remedy=f"Check the compiler ({compiler} --version; for GPUs also CUDA_HOME), and the free "
                "memory and disk space",
            ) from error
        finally:
            logger.disabled = disabled


def _why_it_failed(message: str) -> str:
    """The line of Inductor's message that gives the cause: the compiler's first error, or Inductor's own."""
    own, _, printed = message.partition("Output:\n")
    lines = [line.strip() for line in (printed.strip() or own).splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]
    chosen = errors[:1] or (lines[-1:] if printed.strip() else lines[:1])
    return chosen[0][:300] if chosen else "no message"
