"""This project's Predictor with a model that costs nothing: what is left is the server's own cost."""

from collections.abc import Sequence

import numpy as np

from handler.predictor import Encoding, Prediction, Predictor


class FreePredictor(Predictor):
    """No text is tokenised; all labels are as probable."""

    def encode(self, texts: Sequence[str], whole: Sequence[bool] | None = None) -> list[Encoding]:
        return [Encoding([0])] * len(texts)

    def classify(self, encodings: Sequence[Encoding], aggregates: Sequence[str | None]) -> list[Prediction]:
        labels = len(self.artifact.labels)
        return [Prediction(np.full(labels, 1 / labels), 1, False)] * len(encodings)
