"""LitServe with batches, as its documentation shows: one worker, PORT on loopback."""

import os
from typing import Any

import litserve

from benchmarks.baselines.handlers.served_model import BATCH_DELAY_MS, BATCH_SIZE, Answers, load


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """Without `batch` and `unbatch`, lists are batches."""

    def setup(self, device: str) -> None:
        self.classify = load()

    def decode_request(self, request: dict[str, Any]) -> str:
        return str(request["text"])

    def predict(self, texts: list[str]) -> Answers:
        return self.classify(texts)

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        return answer


if __name__ == "__main__":
    api = Classifier(max_batch_size=BATCH_SIZE, batch_timeout=BATCH_DELAY_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", timeout=300)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", generate_client_file=False
    )
