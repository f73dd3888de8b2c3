"""Recovery: a pruned student learns its fp32 teacher's logits and hidden states."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel, get_linear_schedule_with_warmup
from transformers.trainer_pt_utils import get_length_grouped_indices

from common.commands import say
from export.source import Source
from handler.predictor import decide
from training.inference import has_bf16
from training.measures.calibration import Calibration
from training.measures.statistics import indicators, macro_f1, same_labels

# Logits [n, labels] -> label indices [n], or independent labels, 0 and 1, [n, labels].
Decision = Callable[[np.ndarray], np.ndarray]
UNKNOWN = -100  # in the place of a label that is not known; cross-entropy's own default

PATIENCE = 10  # seconds before a bar is shown
CACHE_BYTES = 4 << 30  # of the teacher's hidden states; beyond it they are computed again in every epoch


@dataclass(frozen=True)
class Recovery:
    """The numbers of a recovery; `*_weight` are those of the loss's terms; that of the teacher's logits is 1.

    The student sees `noisy_copies` of each text as well, in which a share of `noise` tokens is strange, so
    that it learns the teacher's answers off the training texts too; they gained no more than as many epochs.
    """

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 5e-4
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    temperature: float = 2.0
    hidden_weight: float = 1.0
    label_weight: float = 0.0
    noisy_copies: int = 1
    noise: float = 0.2
    dropout: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Texts:
    """Token ids of a split, unpadded, and its label indices [n], or independent labels, 0 and 1,
    [n, labels]."""

    ids: list[list[int]]
    labels: np.ndarray
    pad_id: int

    @classmethod
    def of(cls, source: Source, split: str) -> "Texts":
        """The texts of one split, as the Predictor would encode them."""
        found = source.dataset.splits[split]
        encodings = source.tokenizer.encode_batch_fast(list(found.texts))
        labels = found.labels
        if source.checkpoint.multi_label and not found.multi_label:  # texts without labels were given some
            labels = np.full((len(found), len(source.checkpoint.labels)), UNKNOWN)
        return cls([encoding.ids for encoding in encodings], labels, source.pad_id)

    def with_unlabelled(self, source: Source) -> "Texts":
        """These and the source's unlabelled texts, whose labels, -100, the loss leaves out."""
        encodings = source.tokenizer.encode_batch_fast(list(source.unlabelled))
        return self._with_unknown([encoding.ids for encoding in encodings])

    def _with_unknown(self, ids: list[list[int]]) -> "Texts":
        """These and more texts, whose labels are not known."""
        unknown = np.full((len(ids), *self.labels.shape[1:]), UNKNOWN, dtype=self.labels.dtype)
        return replace(self, ids=[*self.ids, *ids], labels=np.concatenate([self.labels, unknown]))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    def sample(self, count: int, seed: int = 0) -> "Texts":
        """At most `count` of the texts, drawn without replacement."""
        rows = np.random.default_rng(seed).permutation(len(self))[:count]
        return replace(self, ids=[self.ids[row] for row in rows], labels=self.labels[rows])

    def first(self, count: int) -> "Texts":
        """The first `count` of the texts."""
        return replace(self, ids=self.ids[:count], labels=self.labels[:count])

    def with_noise(self, copies: int, share: float, seed: int = 0) -> "Texts":
        """The texts, and `copies` of each in which a `share` of tokens is others' (never first and last)."""
        rng = np.random.default_rng(seed)
        pool = np.concatenate([np.array(ids[1:-1], dtype=np.int64) for ids in self.ids])
        if not len(pool):  # nothing but what opens and closes a text
            return self
        ids = list(self.ids)
        for text in self.ids * copies:
            strange = rng.random(len(text)) < share
            strange[[0, -1]] = False
            ids.append(np.where(strange, rng.choice(pool, len(text)), text).tolist())
        return replace(self, ids=ids, labels=np.concatenate([self.labels] * (copies + 1)))

    def with_splices(self, count: int, seed: int = 0) -> "Texts":
        """The texts, and `count` more, each the beginning of one and the end of another; none is longer than
        the longest text."""
        rng = np.random.default_rng(seed)
        most = max(self.lengths)
        spliced = []
        for one, other in rng.integers(len(self), size=(count, 2)):
            head, tail = self.ids[one], self.ids[other]
            end = tail[rng.integers(1, max(len(tail), 2)) :]
            start = head[: rng.integers(1, max(len(head), 2))]
            spliced.append(start[: most - len(end)] + end)
        return self._with_unknown(spliced)

    def batch(self, rows: Sequence[int], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """input_ids and attention_mask [rows, longest of them], labels [rows] or
        [rows, labels]; all int64."""
        ids = [torch.tensor(self.ids[row]) for row in rows]
        real = [torch.ones_like(text) for text in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_id).to(device),
            "attention_mask": pad_sequence(real, batch_first=True).to(device),
            "labels": torch.as_tensor(self.labels[list(rows)], device=device),
        }

    def by_length(self, size: int) -> list[list[int]]:
        """All rows, in chunks of similar length."""
        return _chunks(np.argsort(self.lengths, kind="stable").tolist(), size)

    def batches(self, size: int = 32) -> list[dict[str, torch.Tensor]]:
        """All texts in batches of similar length."""
        return [self.batch(rows) for rows in self.by_length(size)]


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part of a batch that the model reads."""
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def highest(logits: np.ndarray) -> np.ndarray:
    """The label with the highest logit, for a classifier that has no threshold."""
    return np.asarray(logits.argmax(axis=1))


def decision(source: Source) -> Decision:
    """How the checkpoint turns logits into labels: by its own temperature and thresholds."""
    meta = source.checkpoint.meta
    independent = source.checkpoint.multi_label
    calibration = Calibration(meta.temperature, meta.thresholds, independent)
    return lambda logits: decide(calibration.scores(logits), meta.labels, meta.thresholds, independent)


def takes_over(kept: Sequence[int], depth: int) -> tuple[int, ...]:
    """For each kept layer, the teacher's layer whose output it should have: the last before the next kept.

    So a kept layer learns what the dropped layers after it did; the last learns the teacher's last output.
    """
    return tuple(following - 1 for following in (*kept[1:], depth))


def distil(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    train: Texts,
    validation: Texts,
    layer_map: Sequence[int],
    recipe: Recovery | None = None,
    decides: Decision = highest,
    *,
    labelled: bool = True,
) -> dict[str, Any]:
    """Train `student` in place towards `teacher`, and return it to its best epoch, in eval mode.

    Its output after layer i is held to the teacher's after layer `layer_map[i]` (squared error relative to
    the teacher's square; TinyBERT, Jiao et al. 2020, arXiv:1909.10351), its logits to the teacher's (KL at
    a temperature; Hinton et al. 2015, arXiv:1503.02531; of independent labels, summed over them). The
    embeddings stay the teacher's. Epochs are ranked by macro-F1 on validation, where nothing is `labelled` by
    agreement with the teacher. Masks of `prune.mask_smallest` hold. A GPU is used where there is one.
    Returns facts: the epoch kept, its macro-F1 and agreement, the teacher's macro-F1.
    """
    recipe = recipe or Recovery()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        train = train.with_noise(recipe.noisy_copies, recipe.noise, recipe.seed)
        teacher.to(device)  # type: ignore[arg-type] # transformers' `to` is mistyped
        student.to(device)  # type: ignore[arg-type] # transformers' `to` is mistyped
        teaching = _Teacher(teacher, train, layer_map)
        facts = _distil(student, teaching, validation, recipe, decides, labelled)
    student.cpu()
    teacher.cpu()
    return facts


def _distil(
    student: PreTrainedModel,
    teacher: "_Teacher",
    validation: Texts,
    recipe: Recovery,
    decides: Decision,
    labelled: bool,
) -> dict[str, Any]:
    started = time.perf_counter()
    reference = decides(predict(teacher.model, validation))
    optimizer, schedule = _optimizer(student, len(teacher.texts), recipe)
    rank = "macro_f1" if labelled else "agreement"
    best: dict[str, Any] = {rank: -math.inf}
    weights: dict[str, torch.Tensor] = {}
    for epoch in range(1, recipe.epochs + 1):
        loss = _train_epoch(student, teacher, optimizer, schedule, recipe, epoch)
        given = decides(predict(student, validation))
        figures = {
            "epoch": epoch,
            "macro_f1": _macro_f1(validation.labels, given),
            "agreement": float(same_labels(given, reference).mean()),
        }
        seconds = time.perf_counter() - started
        say(
            f"recovery epoch {epoch}: validation macro-F1 {figures['macro_f1']:.3f}, "
            f"agrees with fp32 on {figures['agreement']:.1%}, loss {loss:.4f}, {seconds:.0f} s"
        )
        if figures[rank] > best[rank]:
            best = figures
            weights = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    student.load_state_dict(weights)
    student.requires_grad_(True)
    return {
        "epochs": recipe.epochs,
        "best_epoch": best["epoch"],
        "validation_macro_f1": round(best["macro_f1"], 4),
        "validation_agreement": round(best["agreement"], 4),
        "teacher_macro_f1": round(_macro_f1(validation.labels, reference), 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


@torch.inference_mode()
def predict(model: PreTrainedModel, texts: Texts, batch_size: int = 64) -> np.ndarray:
    """Logits [n, labels] in fp32, in the order of the texts."""
    model.eval()
    logits = np.zeros((len(texts), model.config.num_labels), dtype=np.float32)
    batches = texts.by_length(batch_size)
    for rows in tqdm(batches, "scores", delay=PATIENCE, disable=not sys.stderr.isatty()):
        logits[rows] = model(**inputs_of(texts.batch(rows, model.device))).logits.float().cpu().numpy()
    return logits


class _Teacher:
    """The teacher's targets for the training texts: computed once where they fit CACHE_BYTES, in bf16."""

    def __init__(self, model: PreTrainedModel, texts: Texts, layer_map: Sequence[int]) -> None:
        self.model = model.eval()
        self.texts = texts
        self.layer_map = layer_map
        self.cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        size = 2 * len(layer_map) * model.config.hidden_size * sum(texts.lengths)
        if size <= CACHE_BYTES:
            for rows in texts.by_length(32):
                logits, hidden = self._compute(texts.batch(rows, model.device))
                for position, row in enumerate(rows):
                    own = hidden[:, position, : texts.lengths[row]].to(torch.bfloat16, copy=True)
                    self.cache[row] = logits[position], own

    def targets(self, rows: Sequence[int], batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [texts, labels] and hidden states [student's layers, texts, tokens, hidden size]."""
        if not self.cache:
            return self._compute(batch)
        logits = torch.stack([self.cache[row][0] for row in rows])
        layers, _, size = self.cache[rows[0]][1].shape
        hidden = torch.zeros(layers, *batch["input_ids"].shape, size, device=self.model.device)
        for position, row in enumerate(rows):
            hidden[:, position, : self.texts.lengths[row]] = self.cache[row][1]
        return logits, hidden

    @torch.no_grad()
    def _compute(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        logits, hidden = _run(self.model, batch)
        return logits, torch.stack([hidden[layer] for layer in self.layer_map])


def _train_epoch(
    student: Any, teacher: _Teacher, optimizer: Any, schedule: Any, recipe: Recovery, epoch: int
) -> float:
    """One pass over the training texts in batches of like length; the mean loss."""
    student.train(recipe.dropout)
    generator = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
    order = get_length_grouped_indices(teacher.texts.lengths, recipe.batch_size, generator=generator)
    chunks = _chunks(order, recipe.batch_size)
    total = 0.0
    for rows in tqdm(chunks, desc=f"recovery {epoch}/{recipe.epochs}", disable=not sys.stderr.isatty()):
        batch = teacher.texts.batch(rows, student.device)
        loss = _loss(_run(student, batch), teacher.targets(rows, batch), batch, recipe)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.item() * len(rows)
    return total / len(order)


def _loss(
    output: tuple[torch.Tensor, Sequence[torch.Tensor]],
    targets: tuple[torch.Tensor, torch.Tensor],
    batch: dict[str, torch.Tensor],
    recipe: Recovery,
) -> torch.Tensor:
    (logits, hidden), (wanted, states) = output, targets
    warmth = recipe.temperature
    distance = divergence(multi_label=batch["labels"].dim() == 2)
    loss = warmth**2 * distance(logits / warmth, wanted / warmth)
    if recipe.hidden_weight:
        real = batch["attention_mask"][..., None]
        errors = [
            ((seen.float() - state) * real).square().sum() / (state * real).square().sum()
            for seen, state in zip(hidden, states.float(), strict=True)
        ]
        loss = loss + recipe.hidden_weight * torch.stack(errors).mean()
    if recipe.label_weight:
        labels = label_loss(logits, batch["labels"])  # of no labelled text it has no mean
        loss = loss + recipe.label_weight * labels / len(logits)
    return loss


def divergence(multi_label: bool) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """How far logits are from those that are wanted, both [n, labels]: the mean over texts."""
    return _divergence_of_labels if multi_label else _divergence


def _divergence(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """KL of the softmax of `wanted` from that of `logits`, both [n, labels]: the mean over texts."""
    return F.kl_div(
        F.log_softmax(logits, -1), F.log_softmax(wanted, -1), log_target=True, reduction="batchmean"
    )


def _divergence_of_labels(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The same of independent labels: KL of each one's sigmoid, summed over labels."""
    targets = wanted.sigmoid()
    crossed, least = (
        F.binary_cross_entropy_with_logits(given, targets, reduction="sum") for given in (logits, wanted)
    )
    return (crossed - least) / len(logits)


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of label indices [n], or binary cross-entropy of independent labels [n, labels], summed
    over the texts whose labels are known."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, reduction="sum", ignore_index=UNKNOWN)
    each = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
    return (each * (labels != UNKNOWN)).sum()


def _run(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """fp32 logits, and the hidden states after each layer; bf16 inside where the machine computes it."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=has_bf16()):
        output = model(**inputs_of(batch), output_hidden_states=True)
    return output.logits.float(), output.hidden_states[1:]


def _optimizer(student: PreTrainedModel, texts: int, recipe: Recovery) -> Any:
    """AdamW under a linear schedule, over all but the embeddings."""
    student.requires_grad_(True)
    student.base_model.get_submodule("embeddings").requires_grad_(False)
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    steps = math.ceil(texts / recipe.batch_size) * recipe.epochs
    warmup = round(steps * recipe.warmup_share)
    return optimizer, get_linear_schedule_with_warmup(optimizer, warmup, steps)


def _chunks(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _macro_f1(truth: np.ndarray, given: np.ndarray) -> float:
    labels = int(max(truth.max(), given.max())) + 1
    return macro_f1(indicators(np.maximum(truth, 0), labels), indicators(given, labels))
