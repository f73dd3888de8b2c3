"""Fit only the head, on a frozen encoder: each text goes through the encoder once.

The embeddings of all train and validation texts are held in memory: 4 bytes x hidden size a text, 1.5 GB for
a million texts of MiniLM.
"""

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from scipy.linalg import solve
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)

from common.commands import say
from handler.errors import UserError
from handler.pooled_classifier import FEATURES, PooledClassifier
from training.data import Dataset, Split
from training.inference import computed, uses_bf16
from training.measures.statistics import macro_f1_of_logits
from training.objective import balanced_weights, objective
from training.recipe import FITTED, Recipe

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, on standardised embeddings
WIDTHS = (0.5, 1.0, 2.0)  # gamma of the Gaussian kernel exp(-gamma |x - y|^2) on directions
RIDGE = (0.1, 1.0, 10.0)  # scikit-learn's alpha
BATCH = 64
KEPT: ContextVar[dict[str, dict[str, np.ndarray]] | None] = ContextVar("KEPT", default=None)


@dataclass(frozen=True)
class Lesson:
    """Logits `[n, labels]` that a teacher gives the training texts, and those that it gives `more` texts,
    which have no labels."""

    logits: np.ndarray
    more: Sequence[str] = ()
    of_more: np.ndarray | None = None


def fits_alone(model: PreTrainedModel, recipe: Recipe, teacher: object) -> TypeGuard[PooledClassifier]:
    """Whether only the head is fitted, and embeddings are all that it needs."""
    if recipe.head == "logistic" and teacher is not None:
        raise UserError(
            "A logistic head cannot learn from a teacher",
            seen=f"--teacher {recipe.teacher}",
            remedy="Leave out --teacher, or choose --head fourier or linear.",
        )
    frozen = recipe.head in FITTED or (recipe.freeze == "encoder" and teacher is None)
    return frozen and isinstance(model, PooledClassifier)


def fit_head(
    model: PooledClassifier,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    recipe: Recipe,
    targets: np.ndarray,
    lesson: Lesson | None = None,
) -> float:
    """Fit the head in place on train and return its macro-F1 on validation, which chose it.

    `targets` float32 [texts of train, labels]. Gradient steps: `epochs` passes at `head_learning_rate`. Of
    the recipe's losses, the other heads know soft targets and balanced weights alone; a fourier head alone
    learns from a teacher.
    """
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    say(f"encoding {len(train) + len(validation):,} texts once, since the encoder is frozen")
    inputs, held_out = (embeddings(model, tokenizer, split.texts, recipe) for split in (train, validation))
    if recipe.head == "logistic":
        return _logistic(model, inputs, targets, train.weights, held_out, validation, recipe)
    if recipe.head == "fourier":
        wanted = _wanted(targets, lesson, validation.multi_label, recipe.teacher_weight)
        counts = _counts(targets, train, recipe)
        if lesson is not None and lesson.of_more is not None:
            more = embeddings(model, tokenizer, lesson.more, recipe)
            inputs = np.concatenate([inputs, more])
            counts = np.concatenate([counts, np.ones(len(more))])
        return _fourier(model, inputs, wanted, counts, held_out, validation, recipe)
    return _gradient_steps(model, inputs, targets, train.weights, held_out, validation, recipe)


def frozen_logits(
    model: PooledClassifier,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    recipe: Recipe,
    targets: np.ndarray,
    more: Sequence[str],
) -> np.ndarray:
    """Logits float32 [texts of train, then `more`; labels] of a logistic head that is fitted here, in place,
    to train. On a frozen encoder it follows those texts loosely enough to be a teacher of them."""
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    inputs, held_out, others = (
        embeddings(model, tokenizer, texts, recipe) for texts in (train.texts, validation.texts, more)
    )
    _logistic(model, inputs, targets, train.weights, held_out, validation, recipe)
    with torch.no_grad():
        found: np.ndarray = model.head(_tensor(np.concatenate([inputs, others]), model.device)).cpu().numpy()
    return found


@contextmanager
def embeddings_kept() -> Iterator[None]:
    """Inside, no text goes twice through the same frozen encoder, whatever the head and the data."""
    token = KEPT.set({})
    try:
        yield
    finally:
        KEPT.reset(token)


def embeddings(
    model: PooledClassifier, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], recipe: Recipe
) -> np.ndarray:
    """What the head reads of each text, float32 [n, hidden], without dropout; products in the recipe's
    precision."""
    kept = KEPT.get()
    if kept is None:
        return _embeddings(model, tokenizer, texts, recipe)
    settings = (_weights_sha256(model), model.config.pooling, recipe.max_length, uses_bf16(recipe))
    known = kept.setdefault(repr(settings), {})
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    known |= zip(missing, _embeddings(model, tokenizer, missing, recipe), strict=True)
    return np.array([known[text] for text in texts], np.float32).reshape(-1, model.config.hidden_size)


def _weights_sha256(model: PooledClassifier) -> str:
    digest = hashlib.sha256()
    for parameter in model.backbone.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _embeddings(
    model: PooledClassifier, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], recipe: Recipe
) -> np.ndarray:
    def embed(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=uses_bf16(recipe)):
            return model.embed(inputs["input_ids"], inputs["attention_mask"])

    return computed(model, tokenizer, texts, recipe.max_length, embed, model.config.hidden_size, BATCH)


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
    head = model.head
    device = model.device
    loss = objective(recipe, targets, validation.multi_label, weights)
    given = [torch.from_numpy(np.asarray(value, dtype=np.float32)).to(device) for value in (inputs, targets)]
    given.append(torch.ones(len(inputs), device=device) if weights is None else _tensor(weights, device))
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=recipe.head_learning_rate, weight_decay=recipe.weight_decay
    )
    epochs = math.ceil(recipe.epochs)
    per_epoch = math.ceil(len(inputs) / recipe.batch_size)
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


def _wanted(targets: np.ndarray, lesson: Lesson | None, multi_label: bool, share: float) -> np.ndarray:
    """What a least-squares fit is to predict, [texts, labels]: the labels, or, with a teacher, this `share`
    of its logits and the rest of the labels, both scaled to vary as much; of texts without labels, its
    logits."""

    def scaled(values: np.ndarray) -> np.ndarray:
        centred = values if multi_label else values - values.mean(axis=1, keepdims=True)
        return np.asarray(centred / max(float(centred.std()), 1e-9))

    labels = scaled(targets - 0.5)
    if lesson is None:
        return labels
    taught = scaled(
        lesson.logits if lesson.of_more is None else np.concatenate([lesson.logits, lesson.of_more])
    )
    taught[: len(labels)] = share * taught[: len(labels)] + (1 - share) * labels
    return taught


def _counts(targets: np.ndarray, train: Split, recipe: Recipe) -> np.ndarray:
    """How much each text counts, [texts]."""
    counts = np.ones(len(train)) if train.weights is None else np.asarray(train.weights, np.float64)
    if recipe.class_weights == "none":
        return counts
    by_label = balanced_weights(targets * counts[:, None], train.multi_label, float(counts.sum()))
    return np.asarray(counts * (targets * by_label).sum(axis=1))


def _fourier(
    model: PooledClassifier,
    inputs: np.ndarray,
    wanted: np.ndarray,
    counts: np.ndarray,
    held_out: np.ndarray,
    validation: Split,
    recipe: Recipe,
) -> float:
    """Ridge regression on random Fourier features (Rahimi and Recht, 2007); width of the kernel and penalty
    are chosen by macro-F1 on validation."""
    directions, held_out = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (inputs, held_out))
    best, chosen = -1.0, (0.0, 0.0)
    assert isinstance(model.head, nn.Sequential)
    projection, out = (layer for layer in model.head if isinstance(layer, nn.Linear))
    for gamma in WIDTHS:
        features = RBFSampler(gamma=gamma, n_components=FEATURES, random_state=recipe.seed).fit(directions)
        train, judged = (features.transform(rows) for rows in (directions, held_out))
        for penalty, (weight, bias) in zip(RIDGE, _ridges(train, wanted, counts), strict=True):
            score = macro_f1_of_logits(judged @ weight.T + bias, validation.labels)
            if score <= best:
                continue
            best, chosen = score, (gamma, penalty)
            size = (2 / FEATURES) ** 0.5  # which scikit-learn gives each feature
            with torch.no_grad():
                projection.weight.copy_(_tensor(features.random_weights_.T, model.device))
                projection.bias.copy_(_tensor(features.random_offset_, model.device))
                out.weight.copy_(_tensor(size * weight, model.device))
                out.bias.copy_(_tensor(bias, model.device))
    found = f"gamma {chosen[0]:g}, ridge {chosen[1]:g}"
    say(f"{FEATURES:,} Fourier features, {found}: validation macro-F1 {best:.3f}")
    return best


def _ridges(
    features: np.ndarray, wanted: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights [labels, features] and biases [labels] for each penalty, as scikit-learn's Ridge finds them;
    but the matrix product, which takes nearly all of the time, is computed once."""
    centre, mean = (np.average(values, axis=0, weights=counts) for values in (features, wanted))
    root = np.sqrt(counts, dtype=np.float32)[:, None]
    rows, targets = (features - centre.astype(np.float32)) * root, (wanted - mean) * root
    few = len(rows) < rows.shape[1]
    products = (rows @ rows.T if few else rows.T @ rows).astype(np.float64)
    for penalty in RIDGE:
        ridge = products + penalty * np.eye(len(products))
        found = solve(ridge, targets if few else rows.T @ targets, assume_a="pos")
        weight = (rows.T @ found if few else found).T
        yield weight, mean - weight @ centre


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)
