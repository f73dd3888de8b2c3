"""infinity's own command line; its engine is its own for the pipeline, and one around any other model."""

import os
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from infinity_emb.cli import cli
from infinity_emb.transformer.abstract import BaseClassifer
from infinity_emb.transformer.classifier.torch import SentenceClassifier

import handler.pooled_classifier  # noqa: F401 - makes transformers know it
from benchmarks.baselines.handlers.served_model import PIPELINE, Answers, load


class Classifier(BaseClassifer):  # type: ignore[misc] # infinity is not installed here
    """An engine of infinity that answers with the model that the environment names."""

    def __init__(self, *, engine_args: object) -> None:
        self.engine_args = engine_args
        self._classify = load()

    def encode_pre(self, sentences: list[str]) -> list[str]:
        return sentences

    def encode_core(self, features: list[str]) -> Answers:
        return self._classify(features)

    def encode_post(self, answers: Answers) -> list[list[dict[str, Any]]]:
        return [[{"label": answer["label"], "score": answer["score"]}] for answer in answers]

    def tokenize_lengths(self, sentences: list[str]) -> list[int]:
        return [len(sentence) for sentence in sentences]


if __name__ == "__main__":
    # infinity chooses an engine by the model's config.json. Artifacts have none, and it does not know this
    # project's heads. The function is replaced in its module, whose name the package gives to a function.
    engine = SentenceClassifier if os.environ["MODEL"] == PIPELINE else Classifier
    chooser: Any = import_module("infinity_emb.inference.select_model")
    chooser.get_engine_type_from_config = lambda _: SimpleNamespace(value=engine)
    cli()
