"""BentoML with adaptive batching, as its documentation shows; `bentoml serve` runs it, one worker."""

from typing import Any

import bentoml

from benchmarks.baselines.handlers.served_model import BATCH_SIZE, load


@bentoml.service(workers=1, traffic={"timeout": 300}, logging={"access": {"enabled": False}})
class Classifier:
    """Adaptive batching decides by itself how long to wait; the limit is the one of its documentation."""

    def __init__(self) -> None:
        self.answers = load()

    @bentoml.api(batchable=True, max_batch_size=BATCH_SIZE, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        return self.answers(texts)
