"""A load test with locust, from any machine to any server: each user sends a request once it has an answer.

    pip install locust
    locust -f benchmarks/locustfile.py --host http://localhost:8080 --headless -u 32 -r 32 -t 60s

TEXTS_FILE names a file with one text per line; without it, a few sentences are sent over and over. An answer
counts as a failure unless its status is 200 and it names a label.
"""

import os
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from locust import HttpUser, task

SENTENCES = (
    "What a lovely morning, the whole street smells of bread.",
    "The train was late again and nobody told us why.",
    "I do not agree with you, but thank you for explaining it so patiently.",
    "Could somebody please send me the notes of yesterday's lecture?",
    "Our team lost three to one, and the second goal was my fault.",
)


def read_texts() -> list[str]:
    """The texts to send; from a file, without its empty lines."""
    if not (path := os.environ.get("TEXTS_FILE")):
        return list(SENTENCES)
    with Path(path).open(encoding="utf-8-sig") as file:  # str.splitlines would break texts at U+2028
        texts = [line.strip() for line in file if line.strip()]
    if not texts:
        raise SystemExit(f"TEXTS_FILE={path} has no texts")
    return texts


TEXTS = read_texts()
TURNS = count()  # shared: users go through the texts together, not each from the first


class Client(HttpUser):  # type: ignore[misc] # locust need not be installed
    """Asks for one text after the other, without a pause."""

    def on_start(self) -> None:
        # A proxy of the environment is not for a server on this machine.
        self.client.trust_env = urlsplit(self.host).hostname not in ("localhost", "127.0.0.1", "::1")

    @task  # type: ignore[untyped-decorator] # the same
    def classify(self) -> None:
        text = TEXTS[next(TURNS) % len(TEXTS)]
        with self.client.post("/predictions/hate", json={"text": text}, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
            elif not _has_label(response):
                response.failure("no label in the answer")


def _has_label(response: Any) -> bool:
    """Whether the answer is one: `label` of a single-label classifier, `labels` of a multi-label one."""
    try:
        answer = response.json()
    except ValueError:
        return False
    return isinstance(answer, dict) and ("label" in answer or "labels" in answer)
