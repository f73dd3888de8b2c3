"""What a server answers with: transformers' pipeline, a Predictor of this project, or always the same.

Servers find which one in the environment: MODEL is its name here, and FOLDER the checkpoint or the artifact.
"""

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

Answers = list[dict[str, Any]]
Classify = Callable[[list[str]], Answers]
PIPELINE, PREDICTOR, CONSTANT = "pipeline", "predictor", "constant"
BATCH_SIZE, BATCH_DELAY_MS = 32, 1  # those of this project's archives


def load() -> Classify:
    """What the environment names."""
    return model_of(os.environ["MODEL"], Path(os.environ["FOLDER"]))


def model_of(name: str, folder: Path) -> Classify:
    """A model by its name, loaded and warm."""
    return {PIPELINE: _pipeline, PREDICTOR: _predictor, CONSTANT: _constant}[name](folder)


def _pipeline(folder: Path) -> Classify:
    from transformers import pipeline

    import handler.pooled_classifier  # noqa: F401 - makes transformers know it

    classify = pipeline("text-classification", model=str(folder), device="cpu", trust_remote_code=False)
    classify("warm")

    def answers(texts: list[str]) -> Answers:
        found: Answers = classify(texts, batch_size=BATCH_SIZE, truncation=True)
        return found

    return answers


def _predictor(folder: Path) -> Classify:
    from handler.predictor import Predictor

    predictor = Predictor.load(folder)
    predictor.warm()
    alone = Lock()

    def answers(texts: list[str]) -> Answers:
        with alone:  # some servers call from several threads, and it takes one call at a time
            return [{**predictor.answer(prediction)} for prediction in predictor.predict(texts)]

    return answers


def _constant(folder: Path) -> Classify:
    return lambda texts: [{"label": CONSTANT, "score": 1.0} for _ in texts]
