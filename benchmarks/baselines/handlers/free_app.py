"""`python -m deploy` with a model that costs nothing: the same options, the app's own cost."""

from typing import Any

from benchmarks.baselines.handlers.free_predictor import FreePredictor
from deploy.__main__ import main
from deploy.app.model import Model
from handler.service import Service


def free(self: Model, *arguments: Any, **options: Any) -> Service:
    """The artifact is loaded as usual and then not asked."""
    service = loaded(self, *arguments, **options)
    service.predictor.__class__ = FreePredictor
    return service


loaded = Model.load

if __name__ == "__main__":
    Model.load = free  # type: ignore[method-assign]
    raise SystemExit(main())
