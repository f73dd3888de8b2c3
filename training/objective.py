"""What training minimises: the loss of logits against the labels of texts."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from training.recipe import Recipe

MOST_IMBALANCE = (
    20.0  # a label rarer than this is not made up for any further: its few texts would decide all
)


@dataclass(frozen=True)
class Objective:
    """The loss of a run; `label_weights` `[labels]` are those of `balanced_weights`, or None."""

    recipe: Recipe
    multi_label: bool
    label_weights: torch.Tensor | None = None

    def __call__(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None = None,
        teacher: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The mean loss of logits `[n, labels]` against probabilities `[n, labels]`.

        `weights` `[n]` scale each text's share of the loss, and with it the steps; `teacher` are logits
        `[n, labels]` of a model to learn from as well (Hinton et al., 2015,
        https://arxiv.org/abs/1503.02531).
        """
        logits = logits.float()
        each = self._hard(logits, self._smooth(targets.float()))
        if teacher is not None:
            share = self.recipe.teacher_weight
            heat = self.recipe.teacher_temperature
            each = (1 - share) * each + share * heat**2 * self._divergence(
                logits / heat, teacher.float() / heat
            )
        return (each if weights is None else each * weights).mean()

    def _smooth(self, targets: torch.Tensor) -> torch.Tensor:
        smoothing = self.recipe.label_smoothing
        even = 0.5 if self.multi_label else 1 / targets.shape[1]
        return targets * (1 - smoothing) + smoothing * even

    def _hard(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each text `[n]`. Focal: Lin et al., 2017, https://arxiv.org/abs/1708.02002."""
        gamma = self.recipe.focal_gamma
        weights = None if self.label_weights is None else self.label_weights.to(logits.device)
        if self.multi_label:
            each = functional.binary_cross_entropy_with_logits(
                logits, targets, reduction="none", pos_weight=weights
            )
            if gamma:
                scores = torch.sigmoid(logits)
                each = each * _powered(targets * (1 - scores) + (1 - targets) * scores, gamma)
            return each.mean(dim=1)
        logs = functional.log_softmax(logits, dim=1)
        each = -(targets * logs)
        if gamma:
            each = each * _powered(1 - logs.exp(), gamma)
        if weights is not None:
            each = each * weights
        return each.sum(dim=1)

    def _divergence(self, logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if self.multi_label:
            theirs = torch.sigmoid(teacher)
            gap = functional.binary_cross_entropy_with_logits(
                logits, theirs, reduction="none"
            ) - functional.binary_cross_entropy_with_logits(teacher, theirs, reduction="none")
            return gap.mean(dim=1)
        theirs = functional.log_softmax(teacher, dim=1)
        return functional.kl_div(
            functional.log_softmax(logits, dim=1), theirs, reduction="none", log_target=True
        ).sum(dim=1)


def _powered(wrong: torch.Tensor, gamma: float) -> torch.Tensor:
    """Away from zero, where a power below one has no finite slope."""
    return wrong.clamp(min=1e-6) ** gamma


def objective(
    recipe: Recipe, targets: np.ndarray, multi_label: bool, weights: np.ndarray | None = None
) -> Objective:
    """The loss for training targets float `[n, labels]`, whose texts have `weights` `[n]`."""
    if recipe.class_weights == "none":
        return Objective(recipe, multi_label)
    if weights is not None:
        targets = targets * weights[:, None]
    total = float(len(targets) if weights is None else weights.sum())
    return Objective(recipe, multi_label, torch.from_numpy(balanced_weights(targets, multi_label, total)))


def balanced_weights(targets: np.ndarray, multi_label: bool, total: float) -> np.ndarray:
    """Weights float32 `[labels]` under which every label counts the same: total / (labels x its count), as
    scikit-learn's "balanced"; for independent labels, how many texts lack it for each that has it. `total`
    is the number of texts, or the sum of their weights, by which `targets` `[n, labels]` are scaled then."""
    held = np.maximum(targets.sum(axis=0), 1e-9)
    found = (total - held) / held if multi_label else total / (targets.shape[1] * held)
    return np.asarray(np.clip(found, 1 / MOST_IMBALANCE, MOST_IMBALANCE).astype(np.float32))
