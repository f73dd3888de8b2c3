"""How to fine-tune: the settings of a run, apart from data and base model."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

FREEZE = ("none", "embeddings", "encoder")
CLASS_WEIGHTS = ("none", "balanced")
PRECISIONS = ("auto", "fp32", "bf16")
POOLINGS = ("auto", "first", "mean", "last")
HEADS = ("auto", "linear", "mlp", "logistic", "fourier")
FITTED = ("logistic", "fourier")  # in closed form or by scikit-learn, on a frozen encoder


def _option(default: Any, words: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"words": words, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """Fine-tuning with AdamW under a linear schedule.

    The defaults were chosen on the validation split of TweetEval with `minilm`.
    """

    epochs: float = _option(3, "passes over the training texts; 0 leaves the head random")
    batch_size: int = _option(32, "texts in a batch")
    accumulation: int = _option(1, "batches to accumulate per step, if a larger batch does not fit")
    gradient_checkpointing: bool = _option(False, "recompute activations instead of storing them")
    learning_rate: float = _option(5e-5, "peak learning rate of the encoder's last layer and the head")
    precision: str = _option("auto", "of products (auto: bf16 if the machine has it)", PRECISIONS)
    max_length: int = _option(128, "maximum length in tokens; longer texts are cut")
    weight_decay: float = _option(0.01, "weight decay of the matrices")
    warmup_share: float = _option(0.1, "share of the steps over which the learning rate warms up")
    patience: int = _option(2, "epochs without a better validation macro-F1 before stopping")
    seed: int = _option(0, "random seed of weights and order")
    head_epochs: float = _option(0.0, "passes with the encoder frozen, before all weights are trained")
    head_learning_rate: float = _option(1e-3, "learning rate of the head while the encoder is frozen")
    freeze: str = _option("none", "part of the model that is not trained", FREEZE)
    layer_decay: float = _option(1.0, "a layer's learning rate, as a share of that of the layer above it")
    dropout: float = _option(-1.0, "share of activations dropped in training (-1: the base model's own)")
    class_weights: str = _option("none", "balanced: rare labels count as much as common ones", CLASS_WEIGHTS)
    focal_gamma: float = _option(0.0, "gamma of the focal loss, which gives easy texts less weight (0: off)")
    label_smoothing: float = _option(0.0, "share of each target that is spread over all labels")
    soft_targets: bool = _option(True, "learn from the votes' probabilities if the data has them")
    teacher: str = _option("", "teachers to distil from, separated by commas: checkpoint folders, or mpnet")
    unlabelled: str = _option(
        "", "texts for the teacher to label, for a fourier head: a file, one a line, or named data sets"
    )
    teacher_weight: float = _option(0.5, "weight of the teacher in the loss, from 0 to 1")
    teacher_temperature: float = _option(2.0, "temperature for the scores of teacher and student")
    pooling: str = _option("auto", "token states for the head (auto: as the base was trained)", POOLINGS)
    head: str = _option(
        "auto",
        "classifier head (auto: the base model's own; logistic, fourier: fitted, encoder frozen)",
        HEADS,
    )
    emoji: bool = _option(
        False, "give emoji that the base cannot read a token each, which starts as the mean of its name's"
    )
    pairs: bool = _option(
        False, "keep the texts of a group together in a batch, such as a text and its perturbation"
    )
    pretrained_share: float = _option(
        0.0, "how far the encoder's weights move back to the pretrained ones after training (WiSE-FT; 0: off)"
    )
    lora_rank: int = _option(0, "rank of LoRA updates, trained instead of the base's weights (0: off)")
    lora_alpha: float = _option(16.0, "scale of the LoRA updates, divided by their rank")
    lora_targets: str = _option("", "layers for LoRA, separated by commas (empty: all linear layers)")


def is_random(base: str) -> bool:
    """Whether a base has random weights: these are for latency work, and their accuracy means nothing."""
    return base.startswith("random:")


def default_recipe(base: str) -> Recipe:
    """The defaults, but no epochs for random weights, which a short training would not make useful."""
    return replace(Recipe(), epochs=0) if is_random(base) else Recipe()


def options() -> Iterator[dataclasses.Field[Any]]:
    """The recipe's fields; `metadata` has the description and choices of each."""
    yield from dataclasses.fields(Recipe)
