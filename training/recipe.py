"""How to fine-tune: the numbers of a run, apart from data and base model.

Covers: the defaults and what they depend on. Leaves out: losses, phases and layer-wise learning rates.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Fine-tuning with AdamW under a linear schedule.

    The defaults were chosen on the validation split of TweetEval with `minilm`; `max_length` is in tokens,
    `warmup_share` a share of all steps, and `patience` counts epochs without a better macro-F1.
    """

    epochs: float = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    max_length: int = 128
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    patience: int = 2
    seed: int = 0


def is_random(base: str) -> bool:
    """Whether a base has random weights: they are for latency work, and accuracy means nothing there."""
    return base.startswith("random:")


def default_recipe(base: str) -> Recipe:
    """No epoch for random weights, which no short training would make good; else the defaults."""
    return replace(Recipe(), epochs=0) if is_random(base) else Recipe()
