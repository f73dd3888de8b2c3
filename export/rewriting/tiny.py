"""A student of two narrow layers: a BERT of width 128 whose word embeddings are the teacher's, in fewer
dimensions.
"""

from typing import Any

import torch
from transformers import BertConfig, BertModel

from export.rewriting.static import Lessons
from handler.pooled_classifier import PooledClassifier, pooled

LAYERS, WIDTH, HEADS, FEED_FORWARD = 2, 128, 2, 512
LESSONS = Lessons("two layers", epochs=4, learning_rate=1e-3)


def tiny_student_of(teacher: Any, max_length: int) -> PooledClassifier:
    """The student, untrained but for its word embeddings: the teacher's along their principal components."""
    embeddings = teacher.get_input_embeddings().weight.detach().float()
    vocabulary, width = embeddings.shape
    own = teacher.config
    narrow = min(WIDTH, width)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=narrow,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=max(max_length, 8),  # eight are tried when the head is made
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=own.pad_token_id,
    )
    names = {"id2label": own.id2label, "label2id": own.label2id}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(LESSONS.seed)
        backbone = BertModel(config, add_pooling_layer=False)
        _, _, components = torch.pca_lowrank(embeddings, q=narrow, niter=4)
        backbone.embeddings.word_embeddings.weight.copy_((embeddings - embeddings.mean(dim=0)) @ components)
        return pooled(backbone, "mean-max", "mlp", own.pad_token_id, names)
