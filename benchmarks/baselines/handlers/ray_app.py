"""Ray Serve with batches, as its documentation shows: one replica with all CPUs, PORT on loopback."""

import os
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.baselines.handlers.served_model import BATCH_DELAY_MS, BATCH_SIZE, Answers, load

CPUS = len(os.sched_getaffinity(0))


@serve.deployment(ray_actor_options={"num_cpus": CPUS}, max_ongoing_requests=512)
class Classifier:
    """Its documentation asks for at least a batch of ongoing requests; the default is 5."""

    def __init__(self) -> None:
        self.answers = load()

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=BATCH_DELAY_MS / 1000)
    async def classify(self, texts: list[str]) -> Answers:
        return self.answers(texts)

    async def __call__(self, request: Request) -> dict[str, Any]:
        return await self.classify((await request.json())["text"])


if __name__ == "__main__":
    ray.init(num_cpus=CPUS, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(
        Classifier.bind(),  # type: ignore[attr-defined]
        blocking=True,
        logging_config={"enable_access_log": False},
    )
