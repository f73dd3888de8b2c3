"""This project's handler in TorchServe, with a model that costs nothing."""

from typing import Any

import classifier_handler
from free_predictor import FreePredictor


class FreeHandler(classifier_handler.ClassifierHandler):  # type: ignore[misc]
    """The artifact is loaded as usual and then not asked."""

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self.service.predictor.__class__ = FreePredictor
