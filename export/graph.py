"""The classifier as one graph with the contract of every runtime: two inputs, fp32 logits."""

import torch


class Logits(torch.nn.Module):
    """`model` as `(input_ids, attention_mask) -> logits`: int64 [batch, length] -> fp32 [batch, labels]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits.float()


def trace(model: torch.nn.Module, max_length: int) -> torch.export.ExportedProgram:
    """Export for any batch and any length from 2 to `max_length`."""
    shape = {
        0: torch.export.Dim("batch", min=1, max=4096),
        1: torch.export.Dim("length", min=2, max=max_length),
    }
    # Two tensors: torch.export takes one that is passed twice for one input, and drops the other.
    ids, mask = (torch.ones(8, min(64, max_length), dtype=torch.int64) for _ in range(2))
    with torch.no_grad():
        return torch.export.export(
            Logits(model), (ids, mask), dynamic_shapes={"input_ids": shape, "attention_mask": shape}
        )
