"""Triton by PyTriton with its dynamic batcher, as its documentation shows: PORT on loopback."""

import json
import os

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.baselines.handlers.served_model import BATCH_DELAY_MS, BATCH_SIZE, load

classify = load()


@batch  # type: ignore[untyped-decorator]
def infer(text: np.ndarray) -> dict[str, np.ndarray]:
    answers = classify([row.decode() for row in text[:, 0].tolist()])
    return {"answer": np.array([[json.dumps(answer).encode()] for answer in answers], object)}


if __name__ == "__main__":
    first = int(os.environ["PORT"])
    config = TritonConfig(
        http_address="127.0.0.1", http_port=first, allow_grpc=False, allow_metrics=False, log_verbose=0
    )
    batches = DynamicBatcher(max_queue_delay_microseconds=1000 * BATCH_DELAY_MS)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="classifier",
            infer_func=infer,
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=ModelConfig(max_batch_size=BATCH_SIZE, batcher=batches),
        )
        triton.serve()
