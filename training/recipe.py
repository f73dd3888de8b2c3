"""How to fine-tune: the numbers of a run, apart from data and base model."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

FREEZE = ("none", "embeddings", "encoder")
CLASS_WEIGHTS = ("none", "balanced")
PRECISIONS = ("auto", "fp32", "bf16")
POOLINGS = ("auto", "first", "mean", "last")
HEADS = ("auto", "linear", "mlp", "logistic")


def _option(default: Any, words: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"words": words, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """Fine-tuning with AdamW under a linear schedule.

    The defaults were chosen on the validation split of TweetEval with `minilm`.
    """

    epochs: float = _option(3, "passes over the training texts; 0 leaves the head random")
    batch_size: int = _option(32, "texts")
    accumulation: int = _option(1, "batches whose gradients make one step, for larger ones than fit")
    gradient_checkpointing: bool = _option(False, "compute activations twice instead of keeping them")
    learning_rate: float = _option(5e-5, "of the encoder's last layer and the head, at its peak")
    precision: str = _option("auto", "of products (auto: bf16 where the machine has it)", PRECISIONS)
    max_length: int = _option(128, "in tokens; longer texts are cut")
    weight_decay: float = _option(0.01, "of the matrices")
    warmup_share: float = _option(0.1, "share of all steps in which the learning rate rises")
    patience: int = _option(2, "epochs without a better validation macro-F1 before stopping")
    seed: int = _option(0, "of weights and order")
    head_epochs: float = _option(0.0, "passes with the encoder frozen, before all weights are trained")
    head_learning_rate: float = _option(1e-3, "of the head while the encoder is frozen")
    freeze: str = _option("none", "what keeps its weights throughout", FREEZE)
    layer_decay: float = _option(1.0, "a layer's learning rate, as a share of the next one's")
    dropout: float = _option(-1.0, "share of activations dropped in training (-1: the base model's own)")
    class_weights: str = _option("none", "balanced: rare labels count as much as common ones", CLASS_WEIGHTS)
    focal_gamma: float = _option(0.0, "focal loss: how much less easy texts count (0: not at all)")
    label_smoothing: float = _option(0.0, "share of each target that is spread over all labels")
    soft_targets: bool = _option(True, "learn from the votes' probabilities where the data has them")
    teacher: str = _option("", "folder of a checkpoint with the same labels, to learn from as well")
    teacher_weight: float = _option(0.5, "share of the loss that is the teacher's")
    teacher_temperature: float = _option(2.0, "that softens the teacher's scores and ours")
    pooling: str = _option("auto", "what the head reads of the tokens (auto: as the base was made)", POOLINGS)
    head: str = _option(
        "auto", "of the classifier (auto: the base model's own; logistic: fitted, encoder frozen)", HEADS
    )
    lora_rank: int = _option(0, "of low-rank updates, in place of all weights of the base (0: off)")
    lora_alpha: float = _option(16.0, "scale of these updates, which is divided by their rank")
    lora_targets: str = _option("", "names of layers to update, parted by commas (all linear layers)")


def is_random(base: str) -> bool:
    """Whether a base has random weights: they are for latency work, and accuracy means nothing there."""
    return base.startswith("random:")


def default_recipe(base: str) -> Recipe:
    """No epoch for random weights, which no short training would make good; else the defaults."""
    return replace(Recipe(), epochs=0) if is_random(base) else Recipe()


def options() -> Iterator[dataclasses.Field[Any]]:
    """The recipe's fields, each with what it is for and its choices in `metadata`."""
    yield from dataclasses.fields(Recipe)
