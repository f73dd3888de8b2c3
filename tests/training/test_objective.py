"""The loss against the same thing computed by other means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from training.objective import Objective, balanced_weights, objective
from training.recipe import Recipe

LOGITS = torch.tensor([[2.0, -1.0], [0.3, 0.1], [-2.0, 3.0]])
HARD = torch.tensor([0, 1, 1])
ONEHOT = functional.one_hot(HARD).float()


def test_hard_labels_give_cross_entropy_and_binary_cross_entropy() -> None:
    single = Objective(Recipe(), multi_label=False)(LOGITS, ONEHOT)
    assert single == pytest.approx(functional.cross_entropy(LOGITS, HARD).item())
    several = Objective(Recipe(), multi_label=True)(LOGITS, ONEHOT)
    assert several == pytest.approx(functional.binary_cross_entropy_with_logits(LOGITS, ONEHOT).item())


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_best_answer_to_a_probability_is_that_probability(multi_label: bool) -> None:
    target = torch.tensor([[0.3, 0.7]])
    loss = Objective(Recipe(), multi_label)
    right = torch.log(target) if not multi_label else torch.logit(target)
    best = loss(right, target)
    assert all(best < loss(right + torch.tensor([[0.0, shift]]), target) for shift in (-0.3, 0.3))


def test_smoothing_is_that_of_torch() -> None:
    loss = Objective(replace(Recipe(), label_smoothing=0.2), multi_label=False)
    assert loss(LOGITS, ONEHOT) == pytest.approx(
        functional.cross_entropy(LOGITS, HARD, label_smoothing=0.2).item()
    )


@pytest.mark.parametrize("multi_label", [False, True])
def test_focal_loss_counts_easy_texts_less(multi_label: bool) -> None:
    plain, focal = (
        [Objective(replace(Recipe(), focal_gamma=gamma), multi_label)(row[None], want[None]).item()
         for row, want in zip(LOGITS, ONEHOT, strict=True)]
        for gamma in (0.0, 2.0)
    )  # fmt: skip
    kept = np.array(focal) / np.array(plain)
    assert kept[1] > 5 * kept[0], "the text that is nearly undecided keeps the most of its loss"
    assert (kept < 1).all()


def test_weights_of_texts_scale_their_share() -> None:
    loss = Objective(Recipe(), multi_label=False)
    alone = [loss(LOGITS[row : row + 1], ONEHOT[row : row + 1]).item() for row in range(3)]
    weighted = loss(LOGITS, ONEHOT, torch.tensor([2.0, 0.0, 1.0]))
    assert weighted == pytest.approx((2 * alone[0] + alone[2]) / 3)


def test_balanced_labels_count_the_same_as_in_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    weights = balanced_weights(np.eye(3)[labels], False, 100)
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labels))
    given = objective(replace(Recipe(), class_weights="balanced"), np.eye(3)[labels], multi_label=False)
    even = torch.zeros(100, 3)
    shares = [
        given(even[:1], torch.eye(3)[label][None]).item() * count for label, count in enumerate((70, 20, 10))
    ]
    assert shares == pytest.approx([shares[0]] * 3)


def test_an_independent_label_that_is_rare_counts_as_much_as_its_absence() -> None:
    targets = np.zeros((100, 2))
    targets[:10, 0] = targets[:50, 1] = 1
    assert balanced_weights(targets, True, 100) == pytest.approx([9, 1])


def test_a_label_that_hardly_occurs_does_not_decide_everything() -> None:
    targets = np.zeros((10_000, 1))
    targets[0] = 1
    assert balanced_weights(targets, True, 10_000) == pytest.approx([20])


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_student_that_agrees_with_its_teacher_has_nothing_to_learn_from_it(multi_label: bool) -> None:
    loss = Objective(replace(Recipe(), teacher_weight=1.0), multi_label)
    assert loss(LOGITS, ONEHOT, None, LOGITS) == pytest.approx(0, abs=1e-6)
    assert loss(LOGITS + torch.tensor([1.0, 0.0]), ONEHOT, None, LOGITS) > 0.01


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_text_that_is_surely_right_does_not_break_the_slope_of_a_small_gamma(multi_label: bool) -> None:
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    loss = Objective(replace(Recipe(), focal_gamma=0.5), multi_label)
    loss(logits, torch.tensor([[1.0, 0.0]])).backward()
    assert torch.isfinite(logits.grad).all()


def test_labels_are_balanced_by_the_weights_of_their_texts() -> None:
    targets, weights = np.eye(2)[[0, 0, 1, 1]], np.array([1.0, 1.0, 0.25, 0.25])
    found = objective(replace(Recipe(), class_weights="balanced"), targets, False, weights)
    assert found.label_weights.tolist() == pytest.approx([2.5 / 4, 2.5 / 1])
