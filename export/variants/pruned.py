"""Smaller classifiers: parts that contribute little are removed, and distillation recovers the accuracy.

What stays is chosen by measurement on training and validation texts and recovered on training texts; gate and
test are never used. `pruned` and `shallow` are dense models, from which other variants can be made; the
sparse ones keep their shape and hold zeros.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export import proof
from export.registry import TRACED, Built, variant
from export.source import Source
from handler.errors import UserError

if TYPE_CHECKING:  # torch and transformers take seconds, and every command lists the variants
    from transformers import PreTrainedModel

IMPORTANCE_TEXTS = 512
LAYER_TEXTS = 128
SPARSITY = 0.5
distilled = partial(variant, runtime="torch", options=("unlabelled",))


@distilled(
    "pruned",
    options=("keep", "unlabelled"),
    summary="layers, attention heads and feed-forward neurons removed, then distilled from fp32",
)
def pruned(source: Source, folder: Path) -> Built:
    from export.rewriting.distil import Texts
    from export.rewriting.prune import fit_depth, fit_shape, importance, layers_of, prune

    teacher, student = source.model(), source.model()
    layers = _layers(source, fit_depth(len(layers_of(teacher)), source.keep))
    shape = fit_shape(student, source.keep, layers)
    sample = Texts.of(source, "train").sample(IMPORTANCE_TEXTS).batches()
    prune(student, importance(student, sample, labelled=source.checkpoint.judged), shape)
    return _smaller(source, student, teacher, folder, source.keep, layers)


@distilled("shallow", summary="half of the layers removed, then distilled from fp32")
def shallow(source: Source, folder: Path) -> Built:
    from export.rewriting.prune import keep_layers, layers_of

    teacher, student = source.model(), source.model()
    depth = len(layers_of(teacher))
    if depth < 2:
        raise UserError(
            "there are too few layers to remove half", seen=f"{depth} layer", remedy="Leave shallow out"
        )
    layers = _layers(source, depth // 2)
    keep_layers(student, layers)
    return _smaller(source, student, teacher, folder, 0.5, layers)


@distilled(
    "static",
    kinds=TRACED,
    summary="no encoder: word embeddings and a convolution over neighbours, distilled from fp32",
)
def static(source: Source, folder: Path) -> Built:
    from export.rewriting.distil import Texts
    from export.rewriting.static import Lessons, student_of, teach

    teacher = source.model()
    student = student_of(teacher, source.checkpoint.meta.max_length)
    facts: dict[str, Any] = {"encoder_layers": 0}
    if source.checkpoint.trained:
        train = Texts.of(source, "train")
        texts = train.with_unlabelled(source)
        facts["lessons"] = teach(
            student, teacher, texts, len(train), Lessons(), source.checkpoint.multi_label
        )
    reloaded = _save(student, folder)
    facts |= proof.torch_weights(reloaded)
    proof.require(facts["linear_layers"] == 3, "three linear layers and no others", facts["linear_layers"])
    sizes = reloaded.config
    facts["summary"] = f"{sizes.vocab_size:,} embeddings of {sizes.hidden_size}, three linear layers"
    return Built(facts, {"dtype": "float32"})


@distilled(
    "sparse",
    summary="half of the encoder's weights set to zero: smaller when compressed, not faster",
)
def sparse(source: Source, folder: Path) -> Built:
    from export.rewriting.prune import compressed_bytes, mask_smallest, zeros

    teacher, student = source.model(), source.model()
    mask_smallest(student, SPARSITY)
    recovery = _recover_masked(source, student, teacher)
    reloaded = _save(student, folder)
    share = zeros(reloaded)
    before = compressed_bytes(teacher)
    after = compressed_bytes(reloaded)
    proof.require(share >= SPARSITY - 1e-4, f"{SPARSITY:.0%} of the encoder's weights zero", f"{share:.2%}")
    proof.require(after < before, "weights that compress better than fp32's", f"{before} to {after} bytes")
    facts = {
        "summary": f"{share:.0%} of the encoder's weights zero, {after / before:.0%} of the bytes after zlib",
        "zeros": round(share, 4),
        "zlib_bytes": after,
        "fp32_zlib_bytes": before,
        "recovery": recovery,
    }
    return Built(facts | proof.torch_weights(reloaded), {"dtype": "float32"})


@distilled(
    "sparse-2-4",
    devices=("cuda",),
    requires=("cuda:8.0",),  # the first with sparse tensor cores
    summary="fp16 with two of every four weights zero, for sparse tensor cores",
)
def sparse_2_4(source: Source, folder: Path) -> Built:
    from torch.nn.utils import prune as masks

    from export.rewriting.prune import encoder_linears, fits_two_of_four, two_of_four
    from export.rewriting.quantise import linears
    from handler.runtimes import with_sparse_linears

    teacher, student = source.model(), source.model()
    for linear in encoder_linears(student):
        masks.custom_from_mask(linear, "weight", two_of_four(linear.weight))
    recovery = _recover_masked(source, student, teacher)
    reloaded = _save(student.half(), folder)
    fitting = min(fits_two_of_four(linear.weight) for linear in encoder_linears(reloaded))
    proof.require(fitting == 1, "two zeros in every four weights of the encoder", f"{fitting:.1%} of groups")
    inside = {id(linear) for linear in encoder_linears(reloaded)}
    names = [name for name, linear in linears(reloaded).items() if id(linear) in inside]
    facts = {"summary": f"{len(names)} linear layers of two zeros in four", "recovery": recovery}
    facts |= proof.torch_weights(reloaded)
    sparse = with_sparse_linears(reloaded.to("cuda:0"), names)  # type: ignore[arg-type] # transformers' `to` is mistyped
    calls = proof.torch_profile(sparse, source.pad_id).calls
    of_sparse = ("_cslt_sparse_mm", "_sparse_semi_structured")
    products = sum(count for name, count in calls.items() if any(part in name for part in of_sparse))
    proof.require(products >= len(names), f"{len(names)} sparse products", calls)
    return Built(facts, {"dtype": "float16", "sparse_linears": names}, grid=source.gpu_grid)


def _layers(source: Source, count: int) -> list[int]:
    from export.rewriting.distil import Texts
    from export.rewriting.prune import choose_layers

    texts = Texts.of(source, "validation").sample(LAYER_TEXTS)
    return list(choose_layers(source.model(), count, texts.batches()))


def _recover(
    source: Source, student: Any, teacher: Any, layers: Sequence[int], recipe: Any = None
) -> dict[str, Any]:
    from export.rewriting.distil import Recovery, Texts, decision, distil, takes_over
    from export.rewriting.prune import layers_of

    if not source.checkpoint.trained:
        return {"epochs": 0, "note": "none: the weights are random, so there is no accuracy to recover"}
    train, validation = (Texts.of(source, split) for split in ("train", "validation"))
    layer_map = takes_over(layers, len(layers_of(teacher)))
    decides = decision(source)
    labelled = source.checkpoint.judged
    if source.unlabelled:
        train = train.with_unlabelled(source)
        recipe = replace(recipe or Recovery(), noisy_copies=0)  # real texts do better than spoilt ones
    facts = distil(student, teacher, train, validation, layer_map, recipe, decides, labelled=labelled)
    return facts | {"unlabelled_texts": len(source.unlabelled)}


def _recover_masked(source: Source, student: Any, teacher: Any) -> dict[str, Any]:
    """Train around the zeros, which cost little and need few steps, and make them permanent."""
    from export.rewriting.distil import Recovery
    from export.rewriting.prune import layers_of, make_permanent

    recipe = Recovery(epochs=1, learning_rate=1e-4, noisy_copies=0)
    facts = _recover(source, student, teacher, range(len(layers_of(teacher))), recipe)
    make_permanent(student)
    return facts


def _smaller(
    source: Source, student: Any, teacher: Any, folder: Path, keep: float, layers: list[int]
) -> Built:
    """Recover, save and reload the model, and check that it has the promised size."""
    from export.rewriting.prune import describe

    recovery = _recover(source, student, teacher, layers)
    reloaded = _save(student, folder)
    before, expected, after = describe(teacher), describe(student), describe(reloaded)
    share = after["linear_flops_per_token"] / before["linear_flops_per_token"]
    proof.require(share <= keep + 1e-9, f"at most {keep:.0%} of the encoder's linear FLOPs", f"{share:.1%}")
    proof.require(after == expected, f"the pruned sizes {expected} in the reloaded model", after)
    sizes = f"{after['layers']} layers, {after['heads'][0]} heads, {after['ffn_width'][0]} neurons"
    facts = {
        "kept_layers": layers,
        "recovery": recovery,
        "summary": f"{share:.0%} of the encoder's FLOPs ({sizes} each)",
        "flop_share": round(share, 4),
        "before": before,
        "after": after,
    }
    return Built(facts | proof.torch_weights(reloaded), {"dtype": "float32"})


def _save(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """Write the model and read it back, so that the proof is about what is in the folder."""
    from handler.pooled_classifier import read_classifier

    model.save_pretrained(folder, safe_serialization=True)
    reloaded: PreTrainedModel = read_classifier(folder, dtype=model.dtype)
    return reloaded
