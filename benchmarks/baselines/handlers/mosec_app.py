"""mosec with dynamic batches, as its documentation shows: one worker; its own options name the port."""

from typing import Any

from mosec import Server, Worker

from benchmarks.baselines.handlers.served_model import BATCH_DELAY_MS, BATCH_SIZE, Answers, load


class Classifier(Worker):  # type: ignore[misc]
    """JSON in and out is mosec's default."""

    def __init__(self) -> None:
        self.classify = load()

    def forward(self, data: list[dict[str, Any]]) -> Answers:
        return self.classify([request["text"] for request in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=1, max_batch_size=BATCH_SIZE, max_wait_time=BATCH_DELAY_MS)
    server.run()
