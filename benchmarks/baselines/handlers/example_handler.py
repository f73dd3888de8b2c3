"""A TorchServe handler the way the well-known Hugging Face example is written, on today's transformers.

fp32, every text padded to 150 tokens, one request at a time. Loaded by TorchServe from an archive of its own.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import handler.pooled_classifier  # noqa: F401 - makes transformers know it

MAX_LENGTH = 150


class ExampleHandler:
    """One forward pass for each request of the batch, as `max_length` padding and no batching have it."""

    def initialize(self, context: Any) -> None:
        folder = Path(context.system_properties["model_dir"]) / "checkpoint"
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=False
        ).eval()

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        return [self._classify(row.get("data") or row.get("body")) for row in data]

    def _classify(self, body: Any) -> str:
        text = body["text"] if isinstance(body, dict) else body.decode("utf-8")
        inputs = self.tokenizer(
            text, max_length=MAX_LENGTH, padding="max_length", truncation=True, return_tensors="pt"
        )
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            scores = self.model(**inputs).logits.softmax(dim=1)[0]
        best = int(scores.argmax())
        return json.dumps({"label": self.model.config.id2label[best], "score": float(scores[best])})
