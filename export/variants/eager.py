"""Eager PyTorch: the reference that every other variant is compared with."""

from pathlib import Path

from export import proof
from export.registry import Built, variant
from export.source import Source


@variant(
    "fp32",
    runtime="torch",
    parent=None,
    requires=("torch", "transformers"),
    summary="eager PyTorch in fp32, the reference",
)
def fp32(source: Source, folder: Path) -> Built:
    model = source.model()
    model.save_pretrained(folder, safe_serialization=True)
    facts = proof.torch_weights(model)
    proof.require(
        set(facts["linear_dtypes"]) == {"float32"}, "every linear weight in float32", facts["linear_dtypes"]
    )
    return Built(facts, {"dtype": "float32"})
