"""Eager PyTorch: the reference that every other variant is compared with, and torch's own dynamic int8."""

from collections.abc import Collection
from pathlib import Path

from export import proof
from export.registry import ANY, TRACED, Built, variant
from export.source import Source


@variant(
    "fp32",
    runtime="torch",
    parents=(None,),
    default=True,
    summary="eager PyTorch in fp32, the reference",
    kinds=ANY,
)
def fp32(source: Source, folder: Path) -> Built:
    model = source.model()
    model.save_pretrained(folder, safe_serialization=True)
    facts = proof.torch_weights(model)
    proof.require(
        set(facts["linear_dtypes"]) == {"float32"}, "every linear weight in float32", facts["linear_dtypes"]
    )
    facts["summary"] = f"{facts['parameters'] / 1e6:.1f} M parameters in float32"
    return Built(facts, {"dtype": "float32"})


@variant(
    "torch-int8-dynamic",
    runtime="torch",
    summary="eager PyTorch, int8 weights per channel, activations quantised at run time",
    kinds=TRACED,
)
def torch_int8_dynamic(source: Source, folder: Path, leave: Collection[str] = ()) -> Built:
    import torch
    from safetensors.torch import save_file

    from export.rewriting.quantise import linears, quantised_weight
    from handler.runtimes import load_torch_int8

    model = source.model()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    chosen = sorted(set(linears(model)) - set(leave))
    for name in chosen:
        weight = weights[f"{name}.weight"]
        weights[f"{name}.weight"], weights[f"{name}.weight_scales"] = quantised_weight(weight)
    # Tensors, not torch's pickled packed parameters: what is loaded must not be able to run code.
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    loaded = load_torch_int8(folder, chosen)
    dynamic = proof.torch_profile(loaded, source.pad_id).calls.get("quantized::linear_dynamic", 0)
    proof.require(dynamic == len(chosen), f"{len(chosen)} int8 products in one forward pass", dynamic)
    total = len(chosen) + len(leave)
    facts = {
        "int8_linears": dynamic,
        "left_in_float": sorted(leave),
        "engine": torch.backends.quantized.engine,
    }
    facts["summary"] = f"{dynamic} of {total} linear layers in int8 ({facts['engine']})"
    return Built(facts, {"dtype": "float32", "int8_linears": chosen})
