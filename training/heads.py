"""Fit only the head, on a frozen encoder: each text goes through the encoder once.

The embeddings of all train and validation texts are held in memory: 4 bytes x hidden size a text, 1.5 GB for
a million texts of MiniLM.
"""

import copy
import math
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)

from common.commands import say
from handler.errors import UserError
from handler.pooled_classifier import PooledClassifier
from training.data import Dataset, Split
from training.inference import computed
from training.measures.statistics import macro_f1_of_logits
from training.objective import objective
from training.recipe import Recipe

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, on standardised embeddings
BATCH = 64


def fits_alone(model: PreTrainedModel, recipe: Recipe, teacher: object) -> TypeGuard[PooledClassifier]:
    """Whether only the head is fitted, and embeddings are all that it needs."""
    if recipe.head == "logistic" and teacher is not None:
        raise UserError(
            "A logistic head cannot learn from a teacher",
            seen=f"--teacher {recipe.teacher}",
            remedy="Leave out --teacher, or choose --head linear.",
        )
    frozen = recipe.head == "logistic" or (recipe.freeze == "encoder" and teacher is None)
    return frozen and isinstance(model, PooledClassifier)


def fit_head(
    model: PooledClassifier,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    recipe: Recipe,
    targets: np.ndarray,
) -> float:
    """Fit the head in place on train and return its macro-F1 on validation, which chose it.

    `targets` float32 [texts of train, labels]. Gradient steps: `epochs` passes at `head_learning_rate`.
    Of the recipe's losses, logistic regression knows soft targets and balanced weights alone.
    """
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    say(f"encoding {len(train) + len(validation):,} texts once, since the encoder is frozen")
    inputs, held_out = (
        embeddings(model, tokenizer, split.texts, recipe.max_length) for split in (train, validation)
    )
    if recipe.head == "logistic":
        return _logistic(model, inputs, targets, train.weights, held_out, validation, recipe)
    return _gradient_steps(model, inputs, targets, train.weights, held_out, validation, recipe)


def embeddings(
    model: PooledClassifier, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> np.ndarray:
    """What the head reads of each text, float32 [n, hidden], without dropout."""
    return computed(
        model,
        tokenizer,
        texts,
        max_length,
        lambda inputs: model.embed(inputs["input_ids"], inputs["attention_mask"]),
        model.config.hidden_size,
        BATCH,
    )


def _gradient_steps(
    model: PooledClassifier,
    inputs: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    held_out: np.ndarray,
    validation: Split,
    recipe: Recipe,
) -> float:
    """AdamW under a linear schedule, as in `fit`; the epoch that is best on validation is kept."""
    head, device = model.head, model.device
    loss = objective(recipe, targets, validation.multi_label, weights)
    given = [torch.from_numpy(np.asarray(value, dtype=np.float32)).to(device) for value in (inputs, targets)]
    given.append(torch.ones(len(inputs), device=device) if weights is None else _tensor(weights, device))
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=recipe.head_learning_rate, weight_decay=recipe.weight_decay
    )
    epochs, per_epoch = math.ceil(recipe.epochs), math.ceil(len(inputs) / recipe.batch_size)
    steps = per_epoch * epochs
    schedule = get_linear_schedule_with_warmup(optimizer, round(steps * recipe.warmup_share), steps)
    for module in head.modules():
        if isinstance(module, nn.Dropout) and recipe.dropout >= 0:
            module.p = recipe.dropout
    best, kept, since = -1.0, copy.deepcopy(head.state_dict()), 0
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        for epoch in range(epochs):
            head.train()
            for rows in torch.randperm(len(inputs)).to(device).split(recipe.batch_size):
                features, wanted, counts = (value[rows] for value in given)
                loss(head(features), wanted, counts).backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            head.eval()
            with torch.no_grad():
                score = macro_f1_of_logits(head(_tensor(held_out, device)).cpu().numpy(), validation.labels)
            say(f"epoch {epoch + 1}: validation macro-F1 {score:.3f}")
            if score > best:
                best, kept, since = score, copy.deepcopy(head.state_dict()), 0
            elif (since := since + 1) >= recipe.patience:
                break
    head.load_state_dict(kept)
    return best


def _logistic(
    model: PooledClassifier,
    inputs: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    held_out: np.ndarray,
    validation: Split,
    recipe: Recipe,
) -> float:
    """scikit-learn's logistic regression, one against the rest where labels are independent; its penalty is
    chosen by macro-F1 on validation, and its weights become those of the linear head."""
    mean, scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-6)
    inputs = (inputs - mean) / scale
    counts = np.ones(len(inputs), dtype=np.float32) if weights is None else weights
    best, chosen, found = -1.0, 0.0, (np.zeros(0), np.zeros(0))
    for penalty in PENALTIES:
        if validation.multi_label:
            pairs = [
                _one(inputs, np.stack([1 - column, column], axis=1), counts, penalty, recipe)
                for column in targets.T
            ]
            weight, bias = (np.stack([pair[part][1] - pair[part][0] for pair in pairs]) for part in (0, 1))
        else:
            weight, bias = _one(inputs, targets, counts, penalty, recipe)
        weight = weight / scale
        bias = bias - weight @ mean
        score = macro_f1_of_logits(held_out @ weight.T + bias, validation.labels)
        if score > best:
            best, chosen, found = score, penalty, (weight, bias)
    say(f"logistic regression, C {chosen:g}: validation macro-F1 {best:.3f}")
    assert isinstance(model.head, nn.Linear)
    with torch.no_grad():
        model.head.weight.copy_(_tensor(found[0], model.device))
        model.head.bias.copy_(_tensor(found[1], model.device))
    return best


def _one(
    inputs: np.ndarray, targets: np.ndarray, counts: np.ndarray, penalty: float, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [labels, features] and biases [labels] for exclusive labels; a text of several probabilities
    counts for each of its labels in that share. A label that no text has gets a bias that never wins."""
    texts, labels = np.nonzero(targets)
    shares = targets[texts, labels] * counts[texts]
    rows = inputs if len(texts) == len(inputs) else inputs[texts]
    weight = np.zeros((targets.shape[1], inputs.shape[1]))
    bias = np.full(targets.shape[1], -np.log(2.0 * len(inputs) + 1))
    held = np.unique(labels)
    if len(held) == 1:
        bias[held] = 0
        return weight, bias
    balanced = "balanced" if recipe.class_weights == "balanced" else None
    fitted = LogisticRegression(C=penalty, max_iter=1000, class_weight=balanced)
    fitted.fit(rows, labels, sample_weight=shares)
    if len(held) == 2:  # one row of weights stands for the difference of two
        weight[held] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
        bias[held] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    else:
        weight[held], bias[held] = fitted.coef_, fitted.intercept_
    return weight, bias


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)
