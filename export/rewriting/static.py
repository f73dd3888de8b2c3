"""A student without attention: mean and maximum of a text's word embeddings, and of a convolution over
neighbours, under a small network.

It answers a text in microseconds, and agrees with its teacher on nine texts in ten of many tasks.
"""

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import BertConfig, BertModel, get_linear_schedule_with_warmup

from common.commands import say
from export.rewriting.distil import Texts, divergence, inputs_of, predict
from handler.pooled_classifier import PooledClassifier, pooled
from training.inference import has_bf16

CHANNELS = 256  # of the convolution


@dataclass(frozen=True)
class Lessons:
    """The numbers of the distillation; each training text is seen `repeats` times an epoch, and each other
    text once.

    More texts are made of those at hand, for fp32 to score: `noisy_copies` of each, in which a share of
    `noise` tokens is others', and for each text `splices` of two (after Tang et al. 2019, arXiv:1903.12136).
    """

    epochs: int = 2
    repeats: int = 3
    noisy_copies: int = 1
    noise: float = 0.2
    splices: int = 1
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    seed: int = 0


def student_of(teacher: Any, max_length: int) -> PooledClassifier:
    """A BERT of no layers with the teacher's word embeddings, which are normalised, and a fresh head."""
    embeddings = teacher.get_input_embeddings().weight.detach().float()
    vocabulary, width = embeddings.shape
    own = teacher.config
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=1,
        max_position_embeddings=max(max_length, 8),  # eight are tried when the head is made
        pad_token_id=own.pad_token_id,
    )
    backbone = BertModel(config, add_pooling_layer=False)
    tables = backbone.embeddings
    with torch.no_grad():
        tables.word_embeddings.weight.copy_(embeddings)
        for table in (tables.position_embeddings, tables.token_type_embeddings):
            table.weight.zero_()
            table.requires_grad_(False)
    names = {"id2label": own.id2label, "label2id": own.label2id}
    return pooled(backbone, "mean-max", "mlp", own.pad_token_id, names, CHANNELS)


def teach(
    student: PooledClassifier, teacher: Any, texts: Texts, labelled: int, lessons: Lessons, multi_label: bool
) -> dict[str, Any]:
    """Train `student` in place towards the teacher's scores of the texts, of which the first `labelled` are
    training texts, and of texts made of them; in eval mode afterwards. Returns facts."""
    started = time.perf_counter()
    given = len(texts)
    texts = texts.with_noise(lessons.noisy_copies, lessons.noise, lessons.seed)
    texts = texts.with_splices(lessons.splices * given, lessons.seed)
    made = len(texts) - given
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16()):
        wanted = torch.from_numpy(predict(teacher, texts)).to(device)
    teacher.cpu()
    student.to(device)  # type: ignore[arg-type] # transformers' `to` is mistyped
    with torch.random.fork_rng():
        torch.manual_seed(lessons.seed)
        loss = _train(student, wanted, texts, labelled, lessons, divergence(multi_label))
    student.cpu()
    student.train(False)
    seconds = time.perf_counter() - started
    say(
        f"word embeddings learnt from fp32 on {given:,} texts and {made:,} made of them: loss {loss:.4f}, "
        f"{seconds:.0f} s"
    )
    return {
        "texts": given,
        "texts_made": made,
        "epochs": lessons.epochs,
        "loss": round(loss, 4),
        "seconds": round(seconds, 1),
    }


def _train(
    student: PooledClassifier,
    wanted: torch.Tensor,
    texts: Texts,
    labelled: int,
    lessons: Lessons,
    loss_of: Any,
) -> float:
    """The mean loss of the last epoch."""
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learning, lr=lessons.learning_rate, weight_decay=lessons.weight_decay, fused=True
    )
    rows = np.concatenate([np.arange(len(texts)), *[np.arange(labelled)] * (lessons.repeats - 1)])
    steps = math.ceil(len(rows) / lessons.batch_size)
    total = steps * lessons.epochs
    schedule = get_linear_schedule_with_warmup(optimizer, round(total * lessons.warmup_share), total)
    student.train()
    mean = 0.0
    rng = np.random.default_rng(lessons.seed)
    lengths = np.array(texts.lengths)
    for epoch in range(1, lessons.epochs + 1):
        losses = []
        batches = _batches(rows, lengths, lessons.batch_size, rng)
        for chosen in tqdm(
            batches, f"word embeddings {epoch}/{lessons.epochs}", disable=not sys.stderr.isatty()
        ):
            inputs = inputs_of(texts.batch(chosen.tolist(), student.device))
            loss = loss_of(student(**inputs).logits, wanted[chosen])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
        mean = float(np.mean(losses))
    return mean


def _batches(rows: np.ndarray, lengths: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """All rows, in batches of similar length, in random order."""
    shuffled = rng.permutation(rows)
    by_length = np.concatenate([part[np.argsort(lengths[part])] for part in _cut(shuffled, 20 * size)])
    batches = _cut(by_length, size)
    return [batches[place] for place in rng.permutation(len(batches))]


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
